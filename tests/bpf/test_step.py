"""The kernel's step, compiled for user space: rules by address, and whole stacks as libgcc's own unwinder finds
them."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.builds import Builds
from agent.facts import open_process
from agent.snapshot import Snapshots
from agent.unwind.layouts import Layouts, virtual_address
from agent.unwind.tables import paginate
from agent.window import Stop
from fleetflame.cfi.compile import compile_table
from fleetflame.model import Mapping
from tests.bpf.stepper import Stepper, build_stepper, registers_of
from tests.support.arrays import MemoryArray

# Says of itself, deep down: registers, its stack as bytes in hex, and what backtrace() finds, which reads .eh_frame
# through libgcc. Then waits to be looked at.
CONFESSING = r"""
#define _GNU_SOURCE
#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>
static volatile int depth = 12;
static void confess(int unused)
{
	static ucontext_t here;
	void *trace[64];
	char line[256];
	unsigned long start, end;
	FILE *maps = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "[stack]")) sscanf(line, "%lx-%lx", &start, &end);
	fclose(maps);
	int found = backtrace(trace, 64);
	getcontext(&here);
	greg_t *g = here.uc_mcontext.gregs;
	printf("ip=%llx sp=%llx bp=%llx bx=%llx r12=%llx r13=%llx r14=%llx r15=%llx\n", g[REG_RIP], g[REG_RSP], g[REG_RBP],
		g[REG_RBX], g[REG_R12], g[REG_R13], g[REG_R14], g[REG_R15]);
	for (int i = 1; i < found; i++) printf("%lx ", (unsigned long)trace[i]);
	unsigned long from = (unsigned long)g[REG_RSP] - 256;
	printf("\n%lx\n", from);
	for (unsigned char *p = (void *)from; p < (unsigned char *)end; p++) printf("%02x", *p);
	printf("\n");
	fflush(stdout);
	pause();
}
__attribute__((noinline)) int by_alloca(int n)
{
	char *room = alloca(n * 16 + 32);
	memset(room, n, n * 16 + 32);
	return room[n] + (depth-- > 0 ? by_alloca(n + 1) : (raise(SIGUSR1), 1));
}
static int compare(const void *a, const void *b)
{
	if (depth == 12) return by_alloca(3) - 1;
	return *(int *)a - *(int *)b;
}
__attribute__((noinline)) double aligned(double x)
{
	double room[8] __attribute__((aligned(64)));
	int numbers[] = { 3, 1, 2 };
	for (int i = 0; i < 8; i++) room[i] = x * i;
	qsort(numbers, 3, sizeof(int), compare);
	return room[(int)x & 7] + numbers[0];
}
int main(void) { signal(SIGUSR1, confess); return (int)aligned(2.0); }
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build_stepper(tmp_path_factory.mktemp("step"))


@pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-fno-omit-frame-pointer"), ("-O0",), ("-O2", "-static")])
def test_a_stack_is_what_libgcc_finds(library: ctypes.CDLL, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Through a signal handler, a signal frame, alloca, a realigned stack and libc's qsort, down to _start."""
    source, binary = tmp_path / "confessing.c", tmp_path / "confessing"
    source.write_text(CONFESSING)
    subprocess.run(["gcc", "-w", "-fomit-frame-pointer", *flags, "-o", binary, source], check=True)
    stepper = Stepper(library)
    with subprocess.Popen([binary], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            registers, trace, start, stack = (child.stdout.readline() for _ in range(4))
            with open_process("/proc", child.pid) as process:
                snapshot = Snapshots(Builds()).read(process, child.pid)
        finally:
            child.kill()
    assert snapshot is not None
    slots: list[Mapping] = []

    def hold(mapping: Mapping) -> int:
        slots.append(mapping)
        return len(slots)

    number = Layouts(stepper.regions, hold, lambda _slot: None).put(1, snapshot)
    tables = stepper.kernel_tables()
    for slot, mapping in enumerate(slots, 1):
        if mapping.path.startswith("/"):
            assert tables.load(slot, compile_table(Path(mapping.path).read_bytes()))
    found, stop, exact = stepper.walk(registers_of(registers), bytes.fromhex(stack), int(start, 16), number)
    wanted = [int(address, 16) for address in trace.split()]
    assert found[1:] == wanted
    assert Stop(stop) is Stop.WHOLE
    # The handler was called by the kernel: what it interrupted is exact.
    assert exact == 1 | 1 << (found.index(wanted[0]) + 1)


@given(
    st.lists(
        st.tuples(st.integers(0, 300_000), st.integers(0, 40)), min_size=1, max_size=60, unique_by=lambda row: row[0]
    )
)
@settings(max_examples=200, deadline=None)
def test_pages_hold_what_the_table_says(rows: list[tuple[int, int]]) -> None:
    """At each row's beginning, before it and at each page's beginning; also where pages are made a few at a time."""
    rows.sort()
    pc = np.array([row[0] for row in rows], np.uint32)
    rule = np.array([row[1] for row in rows], np.uint32)
    numbers = np.arange(100, 141, dtype=np.uint32)
    count = int(pc[-1] >> 16) + 1
    for chunk in (count, 1, 2):
        for first in range(0, count, chunk):
            wanted = range(first, min(first + chunk, count))
            pages, packed = paginate(pc, rule, numbers, wanted)
            addresses = {0, *pc.tolist(), *(pc[pc > 0] - 1).tolist(), *range(0, int(pc[-1]), 1 << 16)}
            for address in (each for each in addresses if each >> 16 in wanted):
                page = pages[(address >> 16) - first]
                here = packed[int(page["first_row"]) : int(page["first_row"]) + int(page["rows"])]
                at = int(np.searchsorted(here & 0xFFFF, address & 0xFFFF, side="right")) - 1
                before = int(np.searchsorted(pc, address, side="right")) - 1
                assert at >= 0
                assert int(here[at]) >> 16 == (int(numbers[rule[before]]) if before >= 0 else 0)


def test_a_registers_of_nowhere_ends_at_once(library: ctypes.CDLL) -> None:
    """No layout has the address, or nothing can be read: the frame itself is there, and why there is no more."""
    stepper = Stepper(library)
    found, stop, exact = stepper.walk({"ip": 0x1234, "sp": 0x7000, "bp": 0}, b"", 0, 1 << 32 | 1)
    assert (found, Stop(stop), exact) == ([0x1234], Stop.UNMAPPED, 1)
    stepper.regions.values[1] = (0x1000, 0, 0x1000, 0)
    found, stop, _ = stepper.walk({"ip": 0x1234, "sp": 0x7000, "bp": 0x7010}, b"", 0, 1 << 32 | 1)
    assert (found, Stop(stop)) == ([0x1234], Stop.NO_FRAME_POINTER)


def test_where_a_table_has_no_rule_frame_pointers_are_tried(library: ctypes.CDLL) -> None:
    """Builtins of V8 lie in the program's file, without call frame information and with frame pointers."""
    stepper = Stepper(library)
    stepper.regions.values[1] = (0x1000, 0, 0x1000, 1)
    stepper.tables.values[1] = (0, 0, 1)
    stepper.pages.values[0] = (0, 1)
    memory = bytes(16) + (0).to_bytes(8, "little") + (0x1500).to_bytes(8, "little")
    found, stop, _ = stepper.walk({"ip": 0x1234, "sp": 0x7000, "bp": 0x7010}, memory, 0x7000, 1 << 32 | 1)
    assert (found, Stop(stop)) == ([0x1234, 0x1500], Stop.NO_FRAME_POINTER)


@given(st.binary(max_size=400), st.integers(0, 1 << 64 - 1), st.data())
@settings(max_examples=300, deadline=None)
def test_arrays_full_of_anything_end(library: ctypes.CDLL, memory: bytes, ip: int, data: st.DataObject) -> None:
    """Half-written tables and any stack: a bounded number of frames, each from memory that is there."""
    stepper = Stepper(library)
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    for array in (stepper.regions, stepper.tables, stepper.pages, stepper.rules):
        raw = array.values.view(np.uint8)
        raw[:] = random.integers(0, 256, len(raw), np.uint8)
    stepper.rows.values[:1000] = random.integers(0, 1 << 63, 1000, np.uint64)
    found, _stop, _ = stepper.walk({"ip": ip, "sp": 0x7000, "bp": 0x7020}, memory, 0x7000, 1 << 32 | 4000)
    assert 1 <= len(found) <= 64


def test_a_virtual_address_is_the_segments(tmp_path: Path) -> None:
    """Where file offsets and addresses differ, each segment has its own distance."""
    from fleetflame.buildid import BuildId
    from fleetflame.model import MappingKind, Segment

    segments = (Segment(0x1100, 0x401100, 0x800), Segment(0x3000, 0x604000, 0x100))
    mapping = Mapping(MappingKind.FILE, BuildId(b"\1" * 20), "/x", segments)
    assert [virtual_address(mapping, offset) for offset in (0x1000, 0x1180, 0x3010, 0x2500)] == [
        0x401000,
        0x401180,
        0x604010,
        None,
    ]


def test_arrays_are_written_in_ranges() -> None:
    """What stands in for the kernel's array refuses what the kernel would."""
    array = MemoryArray(np.dtype("<u8"), 4)
    array.write(2, np.array([5, 6], np.uint64))
    assert array.values.tolist() == [0, 0, 5, 6]
    with pytest.raises(AssertionError):
        array.write(3, np.array([5, 6], np.uint64))
