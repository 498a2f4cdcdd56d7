"""What a Go program has beside its table of functions that names need: which bytes of it are lent with the table.

Trees of inlined calls lie among other read-only data (until Go 1.25), and the address that they count from is in the
runtime's module data, among the program's own variables. Of both only what is needed is lent: the module data's words,
which are addresses, and the stretch of function data that trees are in. (Source: `fleetflame.gopcln`.)

In a few MiB of memory, however large the program is.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from agent.elf import ReadAt, Section
from fleetflame import gopcln
from fleetflame.gopcln import Header

MAX_SEARCHED = 256 << 20
"""Bytes of a section that are searched for the module data. Programs with embedded files have that much."""
SLACK = 64 * 1024
"""Bytes lent behind the beginning of the last tree: a tree has 3,000 inlined calls then."""
MAX_RELOCATIONS = 64 << 20

_CHUNK = 1 << 20
_RELA = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<u8")])
_RELA_CHUNK = 24 * 32 * 1024
_SHT_PROGBITS, _SHT_RELA = 1, 4
_SHF_WRITE = 1
_NEW_SECTIONS = frozenset({b".go.module", b".go.func"})
"""What Go has apart from 1.26 on."""


def iter_needed(read_at: ReadAt, sections: Sequence[Section]) -> Iterator[tuple[int, int]]:
    """Ranges [start, end) of the file; none of a program that is not Go's, or of a layout that is not known."""
    names = {name.encode() for name in gopcln.SECTIONS}
    table = next((section for section in sections if section.name in names), None)
    header = gopcln.parse_header(read_at(table.offset, gopcln.HEADER_BYTES), table.size) if table else None
    if table is None or header is None:
        return
    yield from ((s.offset, s.offset + s.size) for s in sections if s.name in _NEW_SECTIONS)
    # Which of the words it is the aggregator tries; the first is it in all versions whose trees are not in the table.
    words = gopcln.GOFUNC_WORDS[header.layout][:1]
    module = _find_module(read_at, sections, table.address)
    base = 0
    if module is not None:
        yield module, module + 8 * gopcln.MODULE_WORDS
        base = next((int.from_bytes(read_at(module + 8 * word, 8), "little") for word in words), 0)
    else:
        # A position-independent program has its pointers in its relocations, which hold nothing but addresses.
        yield from ((s.offset, s.offset + s.size) for s in sections if s.type == _SHT_RELA)
        place = _find_relocation(read_at, sections, "addend", table.address)
        found = (
            _find_relocation(read_at, sections, "offset", place["offset"] + 8 * words[0]) if place and words else None
        )
        base = found["addend"] if found else 0
    yield from _trees(read_at, sections, (table, header), base)


def _trees(
    read_at: ReadAt, sections: Sequence[Section], program: tuple[Section, Header], base: int
) -> Iterator[tuple[int, int]]:
    table, header = program
    holder = next(
        (s for s in sections if s is not table and s.address and s.address <= base < s.address + s.size), None
    )
    found = gopcln.find_trees(header, lambda offset, size: read_at(table.offset + offset, size)) if holder else None
    if holder is None or found is None:
        return
    begin, end = holder.offset + base - holder.address, holder.offset + holder.size
    yield min(begin + found[0], end), min(begin + found[1] + SLACK, end)


def _find_module(read_at: ReadAt, sections: Sequence[Section], address: int) -> int | None:
    """File offset of the first aligned pointer to the table in data that can be written: the module data's first
    word."""
    wanted = address.to_bytes(8, "little")
    for section in sections:
        if section.type != _SHT_PROGBITS or not section.flags & _SHF_WRITE or section.name in (b".data", b".tdata"):
            continue
        for at in range(0, min(section.size, MAX_SEARCHED), _CHUNK):
            data = read_at(section.offset + at, min(_CHUNK, section.size - at))
            found = data.find(wanted)
            while found >= 0 and (section.address + at + found) % 8:
                found = data.find(wanted, found + 1)
            if found >= 0:
                return section.offset + at + found
    return None


def _find_relocation(read_at: ReadAt, sections: Sequence[Section], column: str, value: int) -> dict[str, int] | None:
    """The first relocation with this value in a column, by column."""
    for section in sections:
        if section.type == _SHT_RELA:
            for at in range(0, min(section.size, MAX_RELOCATIONS), _RELA_CHUNK):
                data = read_at(section.offset + at, min(_RELA_CHUNK, section.size - at))
                rows = np.frombuffer(data[: len(data) // _RELA.itemsize * _RELA.itemsize], _RELA)
                found = np.flatnonzero(rows[column] == value)
                if len(found):
                    return {name: int(rows[name][found[0]]) for name in ("offset", "addend")}
    return None
