"""bpf/python.h compiled for user space: it reads the memory of a live process, or what a test says that there is."""

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpf import layout

SOURCE = r"""
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
typedef int16_t s16; typedef int32_t s32;
#define SAME(what, flag) _Static_assert((what) == (flag), #what)
#define OPAQUE(variable) asm volatile("" : "+r"(variable))
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define MAX_DEPTH 128
static int (*source)(void *to, u64 size, u64 from);
static int process, reads;
static int read_user(void *to, u64 size, u64 from)
{
	struct iovec ours = { to, size }, theirs = { (void *)from, size };
	reads++;
	if (source)
		return source(to, size, from);
	return process_vm_readv(process, &ours, 1, &theirs, 1, 0) == (long)size ? 0 : -14;
}
static void python_met(u64 image, u64 code, u32 checksum) { }
#include "python.h"
void set_process(int pid) { process = pid; source = 0; }
void set_source(int (*function)(void *, u64, u64)) { source = function; }
int reads_done(void) { int done = reads; reads = 0; return done; }
int find_thread(struct python_layout *layout, u64 fsbase, struct python_thread *thread)
{
	return python_find_thread(layout, fsbase, thread);
}
int walk(struct python_layout *layout, u64 state, struct python_stack *stack, u64 *address, u64 *cfa, u32 natives)
{
	struct python_walk walk;
	int calls = 0;
	memset(&walk, 0x5a, sizeof(walk));
	stack->depth = 0;
	stack->miss = python_begin(layout, state, &walk);
	if (!stack->miss)
		while (python_walk(layout, &walk, stack, address, cfa, natives))
			calls++;
	return calls;
}
"""

ReadMemory = Callable[[int, int], bytes | None]
"""(address, length) -> that many bytes, None where there are none."""
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
WHOLE, NO_THREAD, NOT_FOUND, UNREADABLE, DEPTH = range(5)


@dataclass(frozen=True, slots=True)
class PythonFrame:
    """`offset` is that of the instruction, -2 before the first one."""

    code: int
    offset: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Walked:
    """Runs, leaf first: (native frames nearer to the leaf, frames). `calls`: how often there was more to do."""

    runs: list[tuple[int, list[PythonFrame]]]
    miss: int
    calls: int

    @property
    def frames(self) -> list[PythonFrame]:
        return [frame for _, frames in self.runs for frame in frames]


class PythonWalker:
    """The compiled header. One process or source of bytes at a time."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._callback: object = None
        self._thread = (ctypes.c_uint64 * 3)()

    def look_at(self, pid: int) -> None:
        self._thread = (ctypes.c_uint64 * 3)()
        self._library.set_process(pid)

    def look_into(self, read: ReadMemory) -> None:
        def answer(to: int, size: int, address: int) -> int:
            data = read(address, size)
            if data is None:
                return -14
            ctypes.memmove(to, data, size)
            return 0

        self._thread = (ctypes.c_uint64 * 3)()
        self._callback = _CALLBACK(answer)
        self._library.set_source(self._callback)

    def find_thread(self, record: bytes, fsbase: int) -> tuple[int, int]:
        """(miss, address of the state). What is remembered of a thread is kept from call to call."""
        miss = self._library.find_thread(record, ctypes.c_uint64(fsbase), self._thread)
        return miss, int(self._thread[0])

    def forget(self) -> None:
        """The next thread is another one."""
        self._thread = (ctypes.c_uint64 * 3)()

    def walk(self, record: bytes, state: int, *, address: Sequence[int] = (), cfa: Sequence[int] = ()) -> Walked:
        stack = np.zeros(1, layout.PYTHON_STACK)
        natives = len(cfa)
        calls = self._library.walk(
            record,
            ctypes.c_uint64(state),
            stack.ctypes.data_as(ctypes.c_void_p),
            (ctypes.c_uint64 * 128)(*address),
            (ctypes.c_uint64 * 128)(*cfa),
            natives,
        )
        return Walked(_runs(stack["word"][0][: stack["depth"][0]].tolist()), int(stack["miss"][0]), calls)

    def reads(self) -> int:
        """How often memory was read since the last call."""
        return int(self._library.reads_done())


def _runs(words: list[int]) -> list[tuple[int, list[PythonFrame]]]:
    runs, frames, at = [], [], 0
    while at < len(words):
        if words[at] >> 63:
            runs.append((words[at] & 0xFFFF, frames))
            frames, at = [], at + 1
            continue
        offset = words[at + 1] >> 32
        frames.append(PythonFrame(words[at], offset - (offset >> 30 << 31), words[at + 1] & 0xFFFFFFFF))
        at += 2
    assert not frames, "frames without the end of their run"
    return runs


def compile_walker(folder: Path) -> PythonWalker:
    """Compiles bpf/python.h with the sanitizers that need no support at run time."""
    source, library = folder / "walker.c", folder / "walker.so"
    source.write_text(SOURCE)
    defines = [f"-D{name}={value}" for name, value in layout.flags().items()]
    options = [
        "-O1",
        "-g",
        "-fPIC",
        "-shared",
        "-Wall",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-fsanitize=undefined",
        "-fsanitize-undefined-trap-on-error",
    ]
    subprocess.run(["gcc", *options, *defines, f"-I{layout.source_folder()}", source, "-o", library], check=True)
    return PythonWalker(ctypes.CDLL(str(library)))
