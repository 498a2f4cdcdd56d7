"""Go's table of functions and lines, `.gopclntab`: its header and its functions as columns. Pure, and never trusting.

Both sides read it: the aggregator for names, the agent to know which bytes beside it have to be lent. Every count and
offset is checked against the table's size; what does not hold gives no table, or a function without that part.

    magic u32, 0, 0, smallest instruction, size of a pointer; then words of that size:
    Go 1.16     functions, files,             offsets of: names, units, files, pc-value tables, functions
    Go 1.18+    functions, files, text start, offsets of: the same

    functions   (entry, offset of its record)..., end of the last;  from 1.18 on u32, and entries count from text start
    record      entry, name, args, deferreturn, pcsp, pcfile, pcln, npcdata, unit[, start line], id, flag, 0, nfuncdata;
                then npcdata u32 offsets of pc-value tables, then nfuncdata offsets from `go.func.*` (1.16: addresses)

Source: src/runtime/symtab.go (pcHeader, moduledata, funcdata) and src/runtime/runtime2.go (_func) of Go 1.16 to 1.25.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

SECTIONS = (".gopclntab", ".data.rel.ro.gopclntab")
MAX_FUNCTIONS = 4_000_000
"""Kubernetes' largest binaries have 150,000."""
NO_DATA = 0xFFFFFFFF
"""Offset of function data that a function does not have."""
HEADER_BYTES = 8 + 8 * 8

_LOOKED_AT = 512
_CHUNK = 4096
_LARGEST_RECORD = 512
_PCDATA_INLINE = 2
_FUNCDATA_INLINE = 3
MODULE_WORDS = 48
"""Words of `runtime.firstmoduledata` that hold all that is read of it."""

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]


class Layout(IntEnum):
    """The magic number of each layout, named after the version that brought it."""

    GO_1_16 = 0xFFFFFFFA
    GO_1_18 = 0xFFFFFFF0
    GO_1_20 = 0xFFFFFFF1


RECORD = {Layout.GO_1_16: 44, Layout.GO_1_18: 40, Layout.GO_1_20: 44}
"""Size of a record before its variable parts."""
GOFUNC_WORDS = {Layout.GO_1_16: (), Layout.GO_1_18: (38,), Layout.GO_1_20: (40, 43, 41, 42, 44)}
"""Which word of the module data may be the address that trees count from: in 1.20 it was the first of these, in 1.27
the second. `fits` tells."""
TEXT_WORD = 22
"""Which one is the start of text."""
INLINED = {Layout.GO_1_16: (20, 12, 16), Layout.GO_1_18: (20, 12, 16), Layout.GO_1_20: (16, 4, 8)}
"""An entry of a tree of inlined calls: its size, where its name's offset and its call's place in the function are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """`text` is 0 where the file leaves it to a relocation, and in Go 1.16, whose entries are addresses."""

    layout: Layout
    quantum: int
    functions: int
    text: int
    names: int
    units: int
    files: int
    tables: int
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """Function i begins at entry[i] (ascending, before text start is added) and ends at entry[i + 1].

    `name` is an offset in the names; `unit` the first of its unit's files; `file`, `line` and `inline` are offsets of
    pc-value tables, 0 for none; `tree` is where its tree of inlined calls is, NO_DATA for none.
    """

    entry: U64
    name: U32
    unit: U32
    file: U32
    line: U32
    inline: U32
    tree: U64
    other_tables: U32
    """Offsets of more pc-value tables: they tell where tables begin."""

    def __len__(self) -> int:
        return len(self.name)


def parse_header(data: bytes | memoryview, size: int) -> Header | None:
    """The header at the start of `data`, None if there is none of a known layout. `size` is the whole table's, or of
    what it lies in; HEADER_BYTES of it are enough."""
    if len(data) < HEADER_BYTES:
        return None
    magic, zero, quantum, pointer = struct.unpack_from("<IHBB", data)
    if magic not in set(Layout) or zero or quantum not in (1, 2, 4) or pointer != 8:
        return None
    layout = Layout(magic)
    words = list(struct.unpack_from("<8Q", data, 8))
    text = 0 if layout is Layout.GO_1_16 else words.pop(2)
    functions, _files, names, units, files, tables, records = words[:7]
    if not 0 < functions <= MAX_FUNCTIONS or not 0 < names <= units <= files <= tables <= records < size:
        return None
    return Header(
        layout=layout,
        quantum=quantum,
        functions=functions,
        text=text,
        names=names,
        units=units,
        files=files,
        tables=tables,
        records=records,
    )


def read_functions(header: Header, data: bytes | memoryview) -> Functions | None:
    """All functions, None if the list of them is not whole or does not ascend."""
    old = header.layout is Layout.GO_1_16
    pair = np.dtype([("entry", "<u8"), ("at", "<u8")] if old else [("entry", "<u4"), ("at", "<u4")])
    if header.records + header.functions * pair.itemsize + pair.itemsize // 2 > len(data):
        return None
    pairs = np.frombuffer(data, pair, header.functions, header.records)
    last = np.frombuffer(data, pair["entry"], 1, header.records + header.functions * pair.itemsize)
    entry = np.concatenate([pairs["entry"], last]).astype(np.uint64)
    if (entry[1:] < entry[:-1]).any():
        return None
    body = np.frombuffer(data, np.uint8)
    size, first = RECORD[header.layout], 8 if old else 4
    at = pairs["at"].astype(np.int64) + header.records
    whole = (at > 0) & (at + size <= len(body))
    at[~whole] = header.records if header.records + size <= len(body) else 0

    def field(offset: int) -> U32:
        return np.where(whole, _u32(body, at + offset), 0).astype(np.uint32)

    pcdata = np.where(whole, field(first + 24), 0).astype(np.int64)
    funcdata = np.where(whole, body[np.minimum(at + size - 1, len(body) - 1)], 0).astype(np.int64)
    tail = at + size
    inline = np.where(pcdata > _PCDATA_INLINE, _u32(body, tail + 4 * _PCDATA_INLINE), 0)
    others = [_u32(body, tail + 4 * number)[pcdata > number] for number in range(8)]
    after = tail + 4 * np.minimum(pcdata, len(body))
    if old:
        after = (after - header.records + 7 & ~7) + header.records
        tree = _u32(body, after + 24).astype(np.uint64) | _u32(body, after + 28).astype(np.uint64) << np.uint64(32)
    else:
        tree = _u32(body, after + 4 * _FUNCDATA_INLINE).astype(np.uint64)
    has_tree = (funcdata > _FUNCDATA_INLINE) & (tree != NO_DATA) & (tree != 0 if old else np.True_)
    return Functions(
        entry=entry,
        name=field(first),
        unit=field(first + 28),
        file=field(first + 16),
        line=field(first + 20),
        inline=np.where(whole, inline, 0).astype(np.uint32),
        tree=np.where(whole & has_tree, tree, NO_DATA),
        other_tables=np.concatenate([field(first + 12), *others]).astype(np.uint32),
    )


def fits(header: Header, functions: Functions, trees: bytes | memoryview) -> bool:
    """Whether `trees` can be what the functions' trees count from: nearly all of the first calls hold."""
    some = np.flatnonzero(functions.tree != NO_DATA)[:_LOOKED_AT]
    size, name_at, call_at = INLINED[header.layout]
    body, at = np.frombuffer(trees, np.uint8), functions.tree[some].astype(np.int64)
    name, call = _u32(body, at + name_at), _u32(body, at + call_at)
    length = functions.entry[some + 1] - functions.entry[some]
    good = (name > 0) & (name < header.units - header.names) & (call < length) & (at + size <= len(body))
    return len(some) > 0 and int(good.sum()) >= 0.9 * len(some)


def find_trees(header: Header, read: Callable[[int, int], bytes]) -> tuple[int, int] | None:
    """(least, greatest) of the functions' tree offsets, in a few MiB of memory; None if there is none, and for Go 1.16,
    whose trees have addresses. `read` gives bytes of the table: (offset, size)."""
    if header.layout is Layout.GO_1_16:
        return None
    least, greatest = NO_DATA, -1
    for begin in range(0, header.functions, _CHUNK):
        pairs = np.frombuffer(read(header.records + 8 * begin, 8 * min(_CHUNK, header.functions - begin)), "<u4")
        at = pairs[1 : len(pairs) // 2 * 2 : 2].astype(np.int64)
        low, high = int(at.min(initial=NO_DATA)), int(at.max(initial=0)) + _LARGEST_RECORD
        if not 0 < high - low <= _CHUNK * _LARGEST_RECORD:
            continue
        body = np.frombuffer(read(header.records + low, high - low), np.uint8)
        size = RECORD[header.layout]
        funcdata = _bytes(body, at - low + size - 1)
        tree = _u32(body, at - low + size + 4 * (_u32(body, at - low + 28).astype(np.int64) + _FUNCDATA_INLINE))
        tree = tree[(funcdata > _FUNCDATA_INLINE) & (tree != NO_DATA)]
        least, greatest = min(least, int(tree.min(initial=NO_DATA))), max(greatest, int(tree.max(initial=0)))
    return (least, greatest) if greatest >= least else None


def _bytes(body: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.uint8]:
    inside = (at >= 0) & (at < len(body))
    return np.where(inside, body[np.where(inside, at, 0)], 0).astype(np.uint8) if len(body) else np.zeros(len(at), "u1")


def _u32(body: NDArray[np.uint8], at: NDArray[np.int64]) -> U32:
    """The numbers at these places, 0 for those that are not whole inside."""
    inside = (at >= 0) & (at + 4 <= len(body))
    if len(body) < 4:
        return np.zeros(len(at), np.uint32)
    place = np.where(inside, at, 0)
    value = body[place].astype(np.uint32)
    for step in range(1, 4):
        value |= body[place + step].astype(np.uint32) << np.uint32(8 * step)
    return np.where(inside, value, np.uint32(0))
