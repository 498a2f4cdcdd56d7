"""The structure of an ELF file, read without trusting it: headers, sections, segments, notes.

Contains no meaning of symbols or debug information. Every count and offset is checked against the file's size before
anything is allocated for it, so that opening costs at most a few MiB whatever the file says; what inflates is bounded
by a limit that the caller gives. Only 64-bit little-endian files are read: all that the agents run on.

Source of the layouts: System V gABI, chapters "ELF Header", "Sections", "Program Header", "Note Section".
"""

import hashlib
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import zstandard

from aggregator.symbols.faults import Fault, SymbolFileError
from fleetflame import buildid
from fleetflame.buildid import BuildId
from fleetflame.model import Segment

Read = Callable[[int, int], bytes]
"""(offset, size) -> bytes, fewer at the end. A function, not a map: a file that shrinks under us is no SIGBUS."""

SHT_SYMTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = 2, 4, 7, 8, 11
SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 0x2, 0x4, 0x800
PT_LOAD, PT_NOTE = 1, 4
PF_X = 1
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
EM_X86_64, EM_AARCH64 = 62, 183
SHN_XINDEX = 0xFFFF
PN_XNUM = 0xFFFF
ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD = 1, 2

MAX_SECTIONS = 65_535
"""Linkers stay below a hundred; only unlinked objects with -ffunction-sections come near. 4 MiB of headers."""
MAX_SEGMENTS = 4_096
MAX_NOTES = 1 << 20
MAX_NAMES = 16 << 20
MAX_DEBUG_LINK = 4_096

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_PHDR = struct.Struct("<IIQQQQQQ")
_CHDR = struct.Struct("<IIQQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section header; `name` is "" where the name table has none."""

    name: str
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    entsize: int
    align: int

    @property
    def in_file(self) -> bool:
        return self.type not in (0, SHT_NOBITS) and self.size > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramHeader:
    """One program header: file bytes [offset, offset + filesz) are at vaddr."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """The headers of one file. Valid once built: every section and segment lies inside the file."""

    read: Read
    size: int
    type: int
    machine: int
    sections: tuple[Section, ...]
    headers: tuple[ProgramHeader, ...]

    def section(self, name: str) -> Section | None:
        """The first section of that name that has bytes in the file, else None."""
        return next((section for section in self.sections if section.name == name and section.in_file), None)

    def raw(self, section: Section) -> bytes:
        """The section's bytes as they are in the file."""
        return self.read(section.offset, section.size)

    def content(self, section: Section, *, limit: int) -> bytes:
        """The section's bytes, inflated if compressed. Raises SymbolFileError for more than `limit` or bad data."""
        if inflated_size(self, section) > limit:
            raise SymbolFileError(Fault.INFLATES, f"section `{section.name}` inflates to more than {limit} bytes")
        raw = self.raw(section)
        if section.flags & SHF_COMPRESSED:
            kind, _, size, _ = _CHDR.unpack_from(raw)
            return _inflate(raw[_CHDR.size :], size, zstd=kind == ELFCOMPRESS_ZSTD, name=section.name)
        if _is_gnu_compressed(section, raw[:4]):
            return _inflate(raw[12:], int.from_bytes(raw[4:12], "big"), zstd=False, name=section.name)
        return raw


def open_elf(file: BinaryIO) -> Elf:
    """`parse_elf` of an open file; the file stays open for as long as the result is used."""
    size = file.seek(0, 2)

    def read(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    return parse_elf(read, size)


def parse_elf_bytes(data: bytes | memoryview) -> Elf:
    """`parse_elf` of a file in memory."""
    return parse_elf(lambda offset, count: bytes(data[offset : offset + count]), len(data))


def parse_elf(read: Read, size: int) -> Elf:
    """The headers of the `size` bytes that `read` gives. Raises SymbolFileError with a typed fault."""
    head = read(0, _EHDR.size)
    if head[:4] != b"\x7fELF":
        raise SymbolFileError(Fault.NOT_ELF, "not an ELF file")
    if len(head) < _EHDR.size:
        raise SymbolFileError(Fault.TRUNCATED, f"the ELF header ends after {len(head)} bytes")
    if head[4:7] != b"\x02\x01\x01":
        raise SymbolFileError(
            Fault.UNSUPPORTED, f"class {head[4]}, byte order {head[5]}, version {head[6]}: not 64-bit little-endian"
        )
    _, kind, machine, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx = _EHDR.unpack(head)
    sections = _read_sections(read, size, (shoff, shentsize, shnum, shstrndx))
    if phnum == PN_XNUM:
        raise SymbolFileError(Fault.HEADERS, "65,535 or more program headers")
    headers = _read_headers(read, size, (phoff, phentsize, phnum))
    return Elf(read=read, size=size, type=kind, machine=machine, sections=sections, headers=headers)


def build_id(elf: Elf) -> BuildId | None:
    """The GNU build ID in the file's own notes, else Go's, else None, whichever comes first in the file."""
    go = None
    places = [(s.offset, s.size, s.align) for s in elf.sections if s.type == SHT_NOTE]
    places += [(h.offset, h.filesz, h.align) for h in elf.headers if h.type == PT_NOTE]
    for offset, size, align in places:
        data, padding = elf.read(offset, min(size, MAX_NOTES)), 8 if align == 8 else 4
        if gnu := buildid.gnu_from_notes(data, align=padding):
            return gnu
        go = go or buildid.from_notes(data, align=padding)
    return go


def file_identity(elf: Elf) -> BuildId:
    """The build ID that a file without a note goes by (`buildid.from_file_ends`)."""
    tail = max(0, elf.size - buildid.HASHED_BYTES)
    return buildid.from_file_ends(elf.read(0, buildid.HASHED_BYTES), elf.read(tail, buildid.HASHED_BYTES), elf.size)


def debug_link(elf: Elf) -> tuple[str, int] | None:
    """Name and CRC-32 of the separate debug file, from `.gnu_debuglink`: the name, NUL, padding to 4, the CRC.

    The name is one path component, else there is none: it came out of a file that nobody vouches for.
    """
    section = elf.section(".gnu_debuglink")
    data = elf.raw(section) if section is not None and section.size <= MAX_DEBUG_LINK else b""
    name, nul, _ = data.partition(b"\0")
    crc_at = (len(name) + 4) & ~3
    if not name or not nul or len(data) < crc_at + 4 or b"/" in name or name in (b".", b".."):
        return None
    return name.decode("utf-8", "surrogateescape"), int.from_bytes(data[crc_at : crc_at + 4], "little")


def executable_segments(elf: Elf) -> tuple[Segment, ...]:
    """Executable PT_LOADs as a mapping has them; empty for a debug file, whose offsets mean nothing.

    `objcopy --only-keep-debug` keeps the program headers, but its text has no bytes: that is how such a file is told.
    """
    if any(s.type == SHT_NOBITS and s.flags & SHF_EXECINSTR and s.size for s in elf.sections):
        return ()
    return tuple(
        Segment(offset=h.offset, vaddr=h.vaddr, size=h.filesz)
        for h in elf.headers
        if h.type == PT_LOAD and h.flags & PF_X and h.filesz
    )


def load_address(elf: Elf) -> int:
    """The virtual address of the first segment that is loaded; 0 for a file without segments.

    The first, not the lowest: that is what symbolic counts from, and a kernel has its per-CPU data at address 0.
    """
    return next((h.vaddr for h in elf.headers if h.type == PT_LOAD), 0)


def inflated_size(elf: Elf, section: Section) -> int:
    """What the section claims to be when inflated; its size if it is not compressed."""
    if not section.in_file:
        return 0
    if section.flags & SHF_COMPRESSED:
        head = elf.read(section.offset, min(section.size, _CHDR.size))
        if len(head) < _CHDR.size:
            raise SymbolFileError(Fault.COMPRESSION, f"compressed section `{section.name}` has no header")
        return int(_CHDR.unpack(head)[2])
    if section.name.startswith(".zdebug_"):
        head = elf.read(section.offset, 12)
        return int.from_bytes(head[4:12], "big") if _is_gnu_compressed(section, head) else section.size
    return section.size


def check_sizes(elf: Elf, *, limit: int) -> None:
    """Refuses a file whose sections would take more than `limit` bytes when inflated, before anything inflates them."""
    total = sum(inflated_size(elf, section) for section in elf.sections)
    if total > limit:
        raise SymbolFileError(
            Fault.INFLATES,
            f"sections of a {elf.size:,}-byte file inflate to {total:,} bytes, more than the limit of {limit:,}",
        )


def unxz(data: bytes, *, limit: int) -> bytes:
    """What the xz stream `data` holds, if it is at most `limit` bytes. Raises SymbolFileError."""
    inflater = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=128 << 20)
    try:
        out = inflater.decompress(data, limit + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise SymbolFileError(Fault.COMPRESSION, f"`.gnu_debugdata` is no xz stream: {error}") from error
    if not inflater.eof and len(out) <= limit:
        raise SymbolFileError(Fault.COMPRESSION, "`.gnu_debugdata` is cut short")
    if len(out) > limit:
        raise SymbolFileError(Fault.INFLATES, f"`.gnu_debugdata` inflates to more than {limit:,} bytes")
    return out


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_headers(read: Read, size: int, table: tuple[int, int, int]) -> tuple[ProgramHeader, ...]:
    offset, entsize, count = table
    if count == 0:
        return ()
    if entsize != _PHDR.size or count > MAX_SEGMENTS:
        raise SymbolFileError(Fault.HEADERS, f"{count} program headers of {entsize} bytes")
    data = _read_exactly(read, size, (offset, count * entsize), "the program headers")
    found = []
    for kind, flags, at, vaddr, _, filesz, memsz, align in _PHDR.iter_unpack(data):
        # A debug file keeps the headers of the file it was made from: offsets beyond its end are normal there, and
        # nothing but notes is ever read through a segment.
        if kind == PT_NOTE and at + filesz > size:
            continue
        found.append(
            ProgramHeader(type=kind, flags=flags, offset=at, vaddr=vaddr, filesz=filesz, memsz=memsz, align=align)
        )
    return tuple(found)


def _read_sections(read: Read, size: int, table: tuple[int, int, int, int]) -> tuple[Section, ...]:
    offset, entsize, count, names_index = table
    if offset == 0:
        return ()
    if entsize != _SHDR.size:
        raise SymbolFileError(Fault.HEADERS, f"section headers of {entsize} bytes")
    first = _SHDR.unpack(_read_exactly(read, size, (offset, _SHDR.size), "the section headers"))
    # gABI: counts that do not fit into the ELF header are in the otherwise unused first section header.
    count = count or first[5]
    names_index = first[6] if names_index == SHN_XINDEX else names_index
    if count > MAX_SECTIONS:
        raise SymbolFileError(Fault.HEADERS, f"{count:,} sections")
    rows = list(_SHDR.iter_unpack(_read_exactly(read, size, (offset, count * entsize), "the section headers")))
    names = b""
    if 0 < names_index < count:
        _, kind, _, _, at, length, *_ = rows[names_index]
        if length > MAX_NAMES:
            raise SymbolFileError(Fault.HEADERS, f"section names of {length:,} bytes")
        names = b"" if kind == SHT_NOBITS else _read_exactly(read, size, (at, length), "the section names")
    sections = tuple(_section(row, names, size) for row in rows)
    _check_overlap(sections)
    return sections


def _section(row: tuple[int, ...], names: bytes, size: int) -> Section:
    name_at, kind, flags, addr, offset, length, link, _, align, entsize = row
    # SANITY: a name beyond the table reads as "", which no caller asks for.
    name = names[name_at : max(names.find(b"\0", name_at), name_at)].decode("ascii", "replace")
    section = Section(
        name=name,
        type=kind,
        flags=flags,
        addr=addr,
        offset=offset,
        size=length,
        link=link,
        entsize=entsize,
        align=align,
    )
    if section.in_file and offset + length > size:
        raise SymbolFileError(
            Fault.TRUNCATED, f"section `{name}` ends at byte {offset + length:,} of a {size:,}-byte file"
        )
    return section


def _check_overlap(sections: tuple[Section, ...]) -> None:
    """Sections that share bytes let a small file claim a large sum of them; no linker writes such a file."""
    placed = sorted((s.offset, s.offset + s.size, s.name) for s in sections if s.in_file)
    for (_, end, name), (start, _, other) in pairwise(placed):
        if start < end:
            raise SymbolFileError(Fault.OVERLAP, f"sections `{name}` and `{other}` overlap")


def _read_exactly(read: Read, size: int, place: tuple[int, int], what: str) -> bytes:
    offset, count = place
    if offset + count > size:
        raise SymbolFileError(Fault.TRUNCATED, f"{what} end at byte {offset + count:,} of a {size:,}-byte file")
    data = read(offset, count)
    if len(data) != count:
        raise SymbolFileError(Fault.TRUNCATED, f"{what}: the file shrank while it was read")
    return data


def _is_gnu_compressed(section: Section, head: bytes) -> bool:
    return section.name.startswith(".zdebug_") and head[:4] == b"ZLIB"


def _inflate(data: bytes, size: int, *, zstd: bool, name: str) -> bytes:
    """At most `size` bytes are ever produced: what a stream holds beyond its claim is an error, not an allocation."""
    try:
        if zstd:
            with zstandard.ZstdDecompressor().stream_reader(data) as reader:
                out = reader.read(size + 1)
        else:
            out = zlib.decompressobj().decompress(data, size + 1)
    except (zlib.error, zstandard.ZstdError) as error:
        raise SymbolFileError(Fault.COMPRESSION, f"section `{name}`: {error}") from error
    if len(out) != size:
        raise SymbolFileError(Fault.COMPRESSION, f"section `{name}` inflates to {len(out)} bytes, not to {size}")
    return out
