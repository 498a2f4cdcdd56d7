"""The few facts of an ELF file that an agent needs: its build ID, its segments, and where its sections lie.

Pure: the caller gives a function that reads bytes at an offset, of a file or of a process's memory. Every number in a
file may be a lie, so each read is bounded by a constant here and each result is checked against the file's size; what
does not hold is passed over. Little-endian, 32 and 64 bit. Layouts are those of elf(5). Heavy parsing (symbols, DWARF)
is the aggregator's.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fleetflame.buildid import BuildId, from_notes, gnu_from_notes
from fleetflame.model import Segment

ReadAt = Callable[[int, int], bytes]
"""(offset, length) -> the bytes there: fewer at the end of the file, none beyond it or where nothing can be read."""

MAX_PROGRAM_HEADERS = 512
"""Program headers looked at. Real files have about 12; kernels' and Go's debug builds up to 40."""
MAX_SEGMENTS = 64
"""Loadable segments kept."""
MAX_NOTES = 16
MAX_NOTE_BYTES = 64 * 1024
"""Note segments looked at, and how much of each. Build IDs come among the first few hundred bytes."""
MAX_SECTIONS = 65536
MAX_SECTION_NAMES = 4 * 1024 * 1024

PT_LOAD, PT_DYNAMIC, PT_NOTE, PT_GNU_EH_FRAME = 1, 2, 4, 0x6474E550
PF_X = 1
SHT_NOTE, SHT_NOBITS = 7, 8


class Load(NamedTuple):
    """A PT_LOAD: `size` file bytes from `offset` on are at `vaddr`, followed by zeroes up to `memory` bytes."""

    offset: int
    vaddr: int
    size: int
    memory: int
    executable: bool


class Section(NamedTuple):
    """A section that has bytes in the file. `name` is b"" where the table of names could not be read."""

    name: bytes
    type: int
    flags: int
    address: int
    offset: int
    size: int


class ProgramHeader(NamedTuple):
    """One entry of the table of program headers, 32 and 64 bit alike, but for the physical address."""

    type: int
    flags: int
    offset: int
    vaddr: int
    size: int
    memory: int
    align: int


@dataclass(frozen=True, slots=True)
class ElfFacts:
    """`build_id` is that of a note, None without one. `gnu` if a segment has GNU's note, which the kernel reads."""

    build_id: BuildId | None
    gnu: bool
    loads: tuple[Load, ...]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The executable ones of `loads`."""
        return tuple(
            Segment(load.offset, load.vaddr, load.size) for load in self.loads if load.executable and load.size
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Where an ELF file's tables are."""

    wide: bool
    size: int
    program_offset: int
    program_count: int
    section_offset: int
    section_count: int
    names_index: int

    @property
    def program_entry(self) -> int:
        """Bytes of one entry of the table of program headers."""
        return 56 if self.wide else 32

    @property
    def section_entry(self) -> int:
        """Bytes of one entry of the table of sections."""
        return 64 if self.wide else 40


def parse_header(data: bytes) -> Header | None:
    """The header at the start of a file, None if that is no little-endian ELF file of today's version."""
    if len(data) < 52 or data[:4] != b"\x7fELF" or data[5:7] != b"\x01\x01" or data[4] not in (1, 2):
        return None
    wide = data[4] == 2
    if wide and len(data) < 64:
        return None
    fields = struct.unpack_from("<QQIHHHHHH" if wide else "<IIIHHHHHH", data, 32 if wide else 28)
    phoff, shoff, _flags, ehsize, phentsize, phnum, shentsize, shnum, shstrndx = fields
    # A table whose entries have another size than the format says cannot be read; the other one may be fine.
    return Header(
        wide=wide,
        size=ehsize,
        program_offset=phoff,
        program_count=phnum if phentsize == (56 if wide else 32) else 0,
        section_offset=shoff if shentsize == (64 if wide else 40) else 0,
        section_count=shnum,
        names_index=shstrndx,
    )


def read_elf(read_at: ReadAt, size: int) -> ElfFacts | None:
    """Facts of the file of `size` bytes behind `read_at`, None if it is no ELF file."""
    header = parse_header(read_at(0, 64))
    if header is None:
        return None
    headers = tuple(iter_program_headers(read_at, header))
    loads = tuple(
        Load(h.offset, h.vaddr, min(h.size, size - h.offset), h.memory, bool(h.flags & PF_X))
        for h in headers
        if h.type == PT_LOAD and h.offset <= size
    )
    build_id, gnu = _read_build_id(read_at, headers)
    if not gnu:
        build_id = _build_id_of_sections(read_at, header, size) or build_id
    return ElfFacts(build_id, gnu, loads[:MAX_SEGMENTS])


def iter_program_headers(read_at: ReadAt, header: Header) -> Iterator[ProgramHeader]:
    """The program headers, MAX_PROGRAM_HEADERS at most, up to the first that is not there."""
    entry = header.program_entry
    data = read_at(header.program_offset, min(header.program_count, MAX_PROGRAM_HEADERS) * entry)
    for at in range(0, len(data) - entry + 1, entry):
        if header.wide:
            kind, flags, offset, vaddr, _paddr, size, memory, align = struct.unpack_from("<IIQQQQQQ", data, at)
        else:
            kind, offset, vaddr, _paddr, size, memory, flags, align = struct.unpack_from("<IIIIIIII", data, at)
        yield ProgramHeader(kind, flags, offset, vaddr, size, memory, align)


def count_sections(read_at: ReadAt, header: Header) -> int:
    """Entries of the section table, MAX_SECTIONS at most, 0 without a table.

    A count of 0 in the header means that it is in the first entry (gABI: 65,280 sections and more).
    """
    first = read_at(header.section_offset, header.section_entry) if header.section_offset else b""
    if len(first) < header.section_entry:
        return 0
    return min(header.section_count or int(struct.unpack(_section_layout(header), first)[5]), MAX_SECTIONS)


def iter_sections(read_at: ReadAt, header: Header, size: int) -> Iterator[Section]:
    """The sections that have bytes within the file, MAX_SECTIONS at most."""
    entry, layout = header.section_entry, _section_layout(header)
    table = read_at(header.section_offset, count_sections(read_at, header) * entry)
    rows = range(0, len(table) - entry + 1, entry)
    names = b""
    if 0 < header.names_index < len(rows):
        found = struct.unpack_from(layout, table, header.names_index * entry)
        names = read_at(found[4], min(found[5], MAX_SECTION_NAMES)) if found[1] != SHT_NOBITS else b""
    for at in rows:
        name, kind, flags, address, offset, length, *_rest = struct.unpack_from(layout, table, at)
        if kind != SHT_NOBITS and kind != 0 and offset < size and length:
            yield Section(_name(names, name), kind, flags, address, offset, min(length, size - offset))


def _read_build_id(read_at: ReadAt, headers: tuple[ProgramHeader, ...]) -> tuple[BuildId | None, bool]:
    """GNU's before Go's, whichever segment comes first."""
    go = None
    for header in [h for h in headers if h.type == PT_NOTE][:MAX_NOTES]:
        align = 8 if header.align == 8 else 4
        data = read_at(header.offset, min(header.size, MAX_NOTE_BYTES))
        if gnu := gnu_from_notes(data, align=align):
            return gnu, True
        go = go or from_notes(data, align=align)
    return go, False


def _build_id_of_sections(read_at: ReadAt, header: Header, size: int) -> BuildId | None:
    """GNU's build ID in a note that no segment covers.

    Go's linker lays PT_NOTE over its own note only, while `readelf -n`, debuggers and debug files go by GNU's.
    """
    for section in iter_sections(read_at, header, size):
        if section.type == SHT_NOTE and section.name == b".note.gnu.build-id":
            return gnu_from_notes(read_at(section.offset, min(section.size, MAX_NOTE_BYTES)))
    return None


def _section_layout(header: Header) -> str:
    return "<IIQQQQIIQQ" if header.wide else "<IIIIIIIIII"


def _name(names: bytes, at: int) -> bytes:
    end = names.find(b"\0", at, at + 256)
    return names[at:end] if end >= 0 else b""
