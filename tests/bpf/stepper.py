"""bpf/step.h compiled for user space: its arrays are numpy's, and user memory is a copy of a stack."""

import ctypes
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from agent.unwind.tables import KernelTables
from bpf import layout
from fleetflame.cfi import RULE_DTYPE
from tests.support.arrays import MemoryArray

SOURCE = r"""
#include <stdint.h>
#include <string.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
typedef int16_t s16; typedef int32_t s32;
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#define SAME(what, flag) _Static_assert((what) == (flag), #what)
#define OPAQUE(variable) asm volatile("" : "+r"(variable))
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#include "unwind.h"
#define ARRAY(type, name) \
	static type *name##_values; static u32 name##_entries; \
	void set_##name(type *values, u32 entries) { name##_values = values; name##_entries = entries; } \
	static type *name##_at(u32 index) { return index < name##_entries ? name##_values + index : 0; }
ARRAY(struct region, region)
ARRAY(struct table, table)
ARRAY(struct page, page)
ARRAY(u64, rows)
ARRAY(struct rule, rule)
static const char *memory; static u64 memory_start, memory_size;
void set_memory(const char *bytes, u64 start, u64 size) { memory = bytes; memory_start = start; memory_size = size; }
static int read_user(void *to, u64 size, u64 from)
{
	if (from - memory_start > memory_size || size > memory_size - (from - memory_start)) return -14;
	memcpy(to, memory + (from - memory_start), size);
	return 0;
}
#include "step.h"
int walk(u64 *found, int most, u64 ip, u64 sp, u64 bp, u64 layout, struct pt_regs *regs, u32 *stop, u64 *exact)
{
	struct frame frame = { ip, sp, bp, layout, layout >> 32, 1, 1, 0 };
	int depth = 0;
	for (*stop = 0, *exact = 0; depth < most && !*stop; *stop = step(&frame, regs)) {
		*exact |= (u64)frame.exact << depth;
		found[depth++] = frame.ip;
	}
	return depth;
}
"""

REGISTERS = tuple("r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss".split())  # noqa: SIM905


@dataclass
class Stepper:
    """The compiled step with room for a few tables. A context of its own each."""

    library: ctypes.CDLL
    regions: MemoryArray = field(default_factory=lambda: MemoryArray(layout.REGION, 4096))
    tables: MemoryArray = field(default_factory=lambda: MemoryArray(layout.TABLE, 64))
    pages: MemoryArray = field(default_factory=lambda: MemoryArray(layout.PAGE, 1 << 12))
    rows: MemoryArray = field(default_factory=lambda: MemoryArray(layout.ROWS, 1 << 19))
    rules: MemoryArray = field(default_factory=lambda: MemoryArray(RULE_DTYPE, 1 << 12))

    def __post_init__(self) -> None:
        arrays = {
            "region": self.regions,
            "table": self.tables,
            "page": self.pages,
            "rows": self.rows,
            "rule": self.rules,
        }
        for name, array in arrays.items():
            getattr(self.library, f"set_{name}")(ctypes.c_void_p(array.values.ctypes.data), len(array.values))

    def kernel_tables(self) -> KernelTables:
        """The writing side of these arrays."""
        return KernelTables(self.tables, self.pages, self.rows, self.rules)

    def walk(
        self, registers: dict[str, int], memory: bytes, start: int, layout_number: int
    ) -> tuple[list[int], int, int]:
        """(addresses leaf first, why it stopped, mask of exact ones) with `memory` at address `start`."""
        regs = (ctypes.c_uint64 * len(REGISTERS))(*(registers.get(name, 0) for name in REGISTERS))
        found, stop, exact = (ctypes.c_uint64 * 64)(), ctypes.c_uint32(), ctypes.c_uint64()
        self.library.set_memory(memory, ctypes.c_uint64(start), ctypes.c_uint64(len(memory)))
        depth = self.library.walk(
            found,
            64,
            *(ctypes.c_uint64(registers[name]) for name in ("ip", "sp", "bp")),
            ctypes.c_uint64(layout_number),
            regs,
            ctypes.byref(stop),
            ctypes.byref(exact),
        )
        return list(found[:depth]), stop.value, exact.value


def build_stepper(folder: Path) -> ctypes.CDLL:
    """Compiles it; a test's session needs it once."""
    source, library = folder / "step.c", folder / "step.so"
    source.write_text(SOURCE)
    flags = [f"-D{name}={value}" for name, value in layout.flags().items()]
    command = ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{layout.source_folder()}", *flags]
    subprocess.run([*command, "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def registers_of(text: str) -> dict[str, int]:
    """`name=hex` pairs."""
    return {name: int(value, 16) for name, _, value in (pair.partition("=") for pair in text.split())}
