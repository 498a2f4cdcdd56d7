"""Names, files, lines and inlined frames of a Go program from the table that its own runtime uses, `.gopclntab`.

Every Go program has it, stripped or not. It has what DWARF has of the functions that Go compiled, so what it gives is
given as a symcache, and completed by symbols where there is C. An inlined call says from which place of its function it
was made: the frame above it is whatever is at that place. (Sources of the formats: `fleetflame.gopcln`, `pcvalues`;
inlined calls: src/runtime/symtabinl.go.)
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregator.symbols import elf as elf_file
from aggregator.symbols.elf import Elf
from aggregator.symbols.pcvalues import Tables, spread, union, value_at
from aggregator.symbols.plain import Named
from aggregator.symbols.ranges import distinct
from aggregator.symbols.symcache import NONE, Symcache
from fleetflame import gopcln
from fleetflame.gopcln import Functions, Header, Layout

MAX_TABLE = 512 << 20
"""The largest table read. That of a program of 200 MB has 70 MB."""
MAX_DEPTH = 64
"""Inlined calls in one another. The compiler's budget ends them at some 20; the rest of a hostile chain is cut off."""
MAX_STRING = 16_384
_RELATIVE = {elf_file.EM_X86_64: 8, elf_file.EM_AARCH64: 1027}

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
RELA = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    """A Go program's table and where the rest lies. `trees` is what the functions' trees count from, b"" if that is not
    to be found. In Go 1.16 trees are addresses: it is then all of the read-only data, which begins at `trees_base`."""

    header: Header
    data: bytes
    text: int
    trees: bytes
    trees_base: int


def read_go(elf: Elf) -> Symcache | None:
    """What the file's own Go table says, with addresses; None if it has none that can be read."""
    found = _find_table(elf)
    functions = gopcln.read_functions(found[0], found[1]) if found else None
    if found is None or functions is None:
        return None
    program = _read_program(elf, found, functions)
    entry = functions.entry + np.uint64(program.text)
    pctab = np.frombuffer(program.data, np.uint8)[program.header.tables : program.header.records]
    tables = Tables(pctab, functions, program.header.quantum)
    file, line, inline = (spread(tables, getattr(functions, name), entry) for name in ("file", "line", "inline"))
    start = union(file.start, line.start, inline.start, entry)
    owner = np.searchsorted(entry, start, side="right") - 1
    inside = owner < len(functions)
    row = np.minimum(owner, len(functions) - 1)
    ranges = _Ranges(
        start=start,
        function=np.where(inside, row, -1),
        file=_file_offsets(program, functions.unit[row], value_at(file, start)),
        line=np.maximum(value_at(line, start), 0),
        call=np.where(inside, value_at(inline, start), -1),
    )
    return _as_symcache(program, functions, entry, ranges)


def outside_of(cache: Symcache, named: Named) -> Named:
    """The symbols that do not begin in what `cache` describes: C that was linked in. Of the rest Go knows best."""
    if not len(cache.start):
        return named
    outside = (named.start < cache.start[0]) | (named.start >= cache.start[-1])
    return Named(named.start[outside], named.end[outside], named.name[outside], named.names)


# Where things are.


def _read_program(elf: Elf, found: tuple[Header, bytes, int], functions: Functions) -> _Program:
    header, data, address = found
    if header.layout is Layout.GO_1_16:
        rodata = elf.section(".rodata")
        base, trees = (rodata.addr, elf.raw(rodata)) if rodata and rodata.size <= MAX_TABLE else (0, b"")
        return _Program(header=header, data=data, text=0, trees=trees, trees_base=base)
    pointers = _Pointers(elf)
    module = pointers.find(address)
    text = header.text or (pointers.at(module + 8 * gopcln.TEXT_WORD) if module else 0)
    code = elf.section(".text")
    trees = b""
    for word in gopcln.GOFUNC_WORDS[header.layout] if module else ():
        base = pointers.at(module + 8 * word)
        trees = _bytes_from(elf, base) if base else b""
        if gopcln.fits(header, functions, trees):
            break
        trees = b""
    return _Program(header=header, data=data, text=text or (code.addr if code else 0), trees=trees, trees_base=0)


def _find_table(elf: Elf) -> tuple[Header, bytes, int] | None:
    """(header, bytes, address), by the section's name, else by its magic number at the start of any section of data,
    else anywhere in what is loaded but not run."""
    sections = [section for section in elf.sections if section.in_file and section.size <= MAX_TABLE]
    named = [section for section in sections if section.name in gopcln.SECTIONS]
    for section in named or sections:
        header = gopcln.parse_header(elf.read(section.offset, gopcln.HEADER_BYTES), section.size)
        if header is not None:
            return header, elf.raw(section), section.addr
    return None if named else _search(elf)


def _search(elf: Elf) -> tuple[Header, bytes, int] | None:
    for segment in elf.headers:
        if segment.type != elf_file.PT_LOAD or segment.flags & elf_file.PF_X or segment.filesz > MAX_TABLE:
            continue
        data = elf.read(segment.offset, segment.filesz)
        for magic in _MAGICS:
            at = data.find(magic + b"\0\0")
            while at >= 0:
                header = gopcln.parse_header(memoryview(data)[at:], len(data) - at) if at % 8 == 0 else None
                if header is not None:
                    return header, data[at:], segment.vaddr + at
                at = data.find(magic + b"\0\0", at + 1)
    return None


_MAGICS = tuple(int(layout).to_bytes(4, "little") for layout in Layout)


class _Pointers:
    """Addresses that the program's data holds: as they are in the file, or as relocations say that they will be."""

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._relocated: tuple[U64, U64] | None = None

    def find(self, target: int) -> int:
        """Where the pointer to `target` is that begins the module data; 0 if nowhere."""
        wanted = target.to_bytes(8, "little")
        for section in self._elf.sections:
            writable = section.flags & 1 and section.type == 1 and section.in_file
            if writable and section.size <= MAX_TABLE and section.name not in (".data", ".tdata"):
                data = self._elf.raw(section)
                at = data.find(wanted)
                while at >= 0 and at % 8:
                    at = data.find(wanted, at + 1)
                if at >= 0:
                    return section.addr + at
        offset, addend = self._relocations()
        found = offset[addend == target]
        return int(found.min()) if len(found) else 0

    def at(self, address: int) -> int:
        """The pointer at `address`, 0 if there is none."""
        value = int.from_bytes(_bytes_from(self._elf, address, 8), "little")
        if value:
            return value
        offset, addend = self._relocations()
        found = addend[offset == address]
        return int(found[0]) if len(found) else 0

    def _relocations(self) -> tuple[U64, U64]:
        if self._relocated is None:
            parts = [
                np.frombuffer(self._elf.raw(section)[: section.size // 24 * 24], RELA)
                for section in self._elf.sections
                if section.type == elf_file.SHT_RELA and section.in_file and section.size <= MAX_TABLE
            ]
            rows = np.concatenate([np.zeros(0, RELA), *parts])
            rows = rows[(rows["info"] & 0xFFFFFFFF) == _RELATIVE.get(self._elf.machine, 0)]
            self._relocated = rows["offset"].astype(np.uint64), rows["addend"].astype(np.uint64)
        return self._relocated


def _bytes_from(elf: Elf, address: int, size: int = MAX_TABLE) -> bytes:
    """The bytes at an address, up to the end of the section that it lies in."""
    for section in elf.sections:
        if section.in_file and section.addr and section.addr <= address < section.addr + section.size:
            at = address - section.addr
            return elf.read(section.offset + at, min(size, section.size - at))
    return b""


# From values to frames.


class _Ranges(NamedTuple):
    """What is at each start: the function, -1 for none; offset of the file's name, -1; line; inlined call, -1."""

    start: U64
    function: I64
    file: I64
    line: I64
    call: I64


def _file_offsets(program: _Program, unit: U32, number: I64) -> I64:
    """Offsets in the file names, -1 where a file is not told: a unit's files are a part of one list of offsets."""
    header = program.header
    units = np.frombuffer(program.data, "<u4", (header.files - header.units) // 4, header.units)
    at = unit.astype(np.int64) + number
    there = (number >= 0) & (at >= 0) & (at < len(units))
    offset = units[np.where(there, at, 0)].astype(np.int64) if len(units) else np.zeros(len(at), np.int64)
    return np.where(there & (offset < header.tables - header.files), offset, -1)


def _as_symcache(program: _Program, functions: Functions, entry: U64, ranges: _Ranges) -> Symcache:
    named = ranges.function >= 0
    name, above = _inlined(program, functions, entry, ranges)
    name_at, which_name = distinct(name)
    file_at, which_file = distinct(ranges.file)
    location = np.full(len(ranges.start), NONE, np.uint32)
    columns: list[I64] = []
    known, done = 0, ~named
    for level in range(MAX_DEPTH):
        # A frame comes after the one it was inlined into; one whose chain is too long, or bites its tail, loses it.
        ready = ~done & ((above < 0) | (done[np.maximum(above, 0)] & named[np.maximum(above, 0)]))
        if level == MAX_DEPTH - 1:
            ready, above = ~done, np.where(~done, -1, above)
        at = np.flatnonzero(ready)
        if not len(at):
            if done.all():
                break
            above = np.where(done, above, -1)
            continue
        parent = np.where(above[at] >= 0, location[np.maximum(above[at], 0)], NONE).astype(np.int64)
        rows = np.stack([which_name[at], parent, which_file[at], ranges.line[at]])
        unique, number = _distinct_rows(rows)
        location[at] = (known + number).astype(np.uint32)
        columns.append(unique)
        known += unique.shape[1]
        done[at] = True
    function, above_of, file, line = np.concatenate([np.zeros((4, 0), np.int64), *columns], axis=1).astype(np.uint32)
    return Symcache(
        start=ranges.start,
        location=location,
        function=function,
        file=file,
        line=line,
        parent=above_of,
        functions=_strings(program.data, program.header.names, program.header.units, name_at),
        paths=_strings(program.data, program.header.files, program.header.tables, file_at),
    )


def _inlined(program: _Program, functions: Functions, entry: U64, ranges: _Ranges) -> tuple[I64, I64]:
    """For each range (offset of the innermost frame's name, the range that it was called from or -1)."""
    owner = np.maximum(ranges.function, 0)
    name = functions.name[owner].astype(np.int64)
    above = np.full(len(name), -1, np.int64)
    size, name_at, call_at = gopcln.INLINED[program.header.layout]
    tree = functions.tree[owner].astype(np.int64)
    at = tree - program.trees_base + ranges.call * size
    trees = np.frombuffer(program.trees, np.uint8)
    calls = np.flatnonzero(
        (ranges.call >= 0) & (tree != gopcln.NO_DATA) & (at >= 0) & (at + size <= len(trees)) & (ranges.call < 1 << 20)
    )
    if not len(calls):
        return name, above
    inner, place = (_int32(trees, at[calls] + offset) for offset in (name_at, call_at))
    # Bytes that were not lent are zeroes: no name is at 0, where the names begin with that of the first function.
    begin = entry[owner[calls]].astype(np.int64)
    good = (inner >= 0) & (place >= 0) & (begin + place < entry[owner[calls] + 1].astype(np.int64))
    good &= (inner > 0) | (place > 0)
    calls, inner, place, begin = calls[good], inner[good], place[good], begin[good]
    name[calls] = inner
    above[calls] = np.searchsorted(ranges.start, (begin + place).astype(np.uint64), side="right") - 1
    return name, above


def _int32(data: NDArray[np.uint8], at: I64) -> I64:
    value = sum(data[at + step].astype(np.int64) << (8 * step) for step in range(4))
    return np.asarray(np.where(value >= 1 << 31, value - (1 << 32), value), np.int64)


def _distinct_rows(rows: I64) -> tuple[I64, I64]:
    """(each column of `rows` once, which of them each one is)."""
    first = (rows[0] << 32) | (rows[1] & 0xFFFFFFFF)
    second = ((rows[2] + 1) << 32) | (rows[3] & 0xFFFFFFFF)
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(fresh) - 1
    return rows[:, order[fresh]], number


def _strings(data: bytes, begin: int, end: int, offsets: I64) -> list[str]:
    """The NUL-terminated texts at these offsets of a part of the table; "" for one that is not in it."""
    texts = []
    for offset in offsets.tolist():
        at = begin + offset
        stop = data.find(b"\0", at, min(end, at + MAX_STRING)) if 0 <= offset < end - begin else -1
        texts.append(data[at:stop].decode("utf-8", "replace") if stop > at else "")
    return texts
