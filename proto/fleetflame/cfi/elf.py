"""Where in an ELF file the unwind information lies, found without trusting the file.

By section where there are section headers, else by PT_GNU_EH_FRAME. Every offset and count is checked against the size
of the file before it is used, and what inflates is bounded. Layouts: System V gABI, "ELF Header", "Sections", "Program
Header"; .eh_frame_hdr: Linux Standard Base, core, generic, 5.0, section 10.6.2.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from fleetflame.cfi.faults import CfaError, CfaFault

Bytes = NDArray[np.uint8]

MAX_SECTION = 256 << 20
"""Bytes of one section, inflated. libLLVM's has 5 MB."""
MAX_SECTIONS = 65_535
MAX_HEADERS = 4_096
MAX_LOADS = 64
MAX_DYNAMIC = 4_096

ET_EXEC, ET_DYN = 2, 3
EM_X86_64 = 62
PT_LOAD, PT_DYNAMIC, PT_GNU_EH_FRAME = 1, 2, 0x6474E550
PF_X = 1
SHT_NOBITS = 8
SHF_COMPRESSED = 0x800
ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD = 1, 2
DT_PLTGOT = 3

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_PHDR = struct.Struct("<IIQQQQQQ")
_CHDR = struct.Struct("<IIQQ")


class Header(NamedTuple):
    """A program header: `filesz` bytes from `offset` on are at `vaddr`, followed by zeroes up to `memsz`."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int


class Section(NamedTuple):
    """A section that has bytes in the file."""

    name: bytes
    flags: int
    address: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSection:
    """One section of call frame information.

    address     ELF virtual address of its first byte (0 for .debug_frame, which is not loaded)
    eh          .eh_frame, else .debug_frame: they differ in how a CIE is told from an FDE, and in pointers
    terminated  its end is not known: it ends at the first entry of length 0
    data_base   what DW_EH_PE_datarel is relative to; None if the file does not say
    """

    data: Bytes
    address: int
    eh: bool
    terminated: bool = False
    data_base: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """`sections`, those that win first, and the executable segments as [begin, end) of virtual addresses."""

    sections: tuple[FrameSection, ...]
    code: tuple[tuple[int, int], ...]


def find_frames(elf: Bytes) -> Frames:
    """The unwind information of a file. Raises CfaError if there is none, or for a file that is not x86-64's."""
    head, raw = _head(elf), elf.data
    headers = tuple(_headers(raw, head))
    sections = {section.name: section for section in _sections(raw, head)}
    data_base = _plt_got(raw, headers)
    found = []
    if section := sections.get(b".eh_frame"):
        data = _content(elf, section)
        found.append(FrameSection(data=data, address=section.address, eh=True, data_base=data_base))
    else:
        found += _by_header(elf, headers, data_base)
    for name in (b".debug_frame", b".zdebug_frame"):
        if section := sections.get(name):
            found.append(FrameSection(data=_content(elf, section), address=0, eh=False))
    if not found:
        raise CfaError(CfaFault.ABSENT, "neither .eh_frame nor .debug_frame")
    code = [(h.vaddr, h.vaddr + h.memsz) for h in headers if h.type == PT_LOAD and h.flags & PF_X]
    return Frames(sections=tuple(found), code=tuple(code[:MAX_LOADS]))


class _Head(NamedTuple):
    phoff: int
    phentsize: int
    phnum: int
    shoff: int
    shentsize: int
    shnum: int
    shstrndx: int


def _head(elf: Bytes) -> _Head:
    if elf[:4].tobytes() != b"\x7fELF":
        raise CfaError(CfaFault.NOT_ELF, "no ELF magic")
    if len(elf) < _EHDR.size:
        raise CfaError(CfaFault.TRUNCATED, f"the ELF header ends after {len(elf)} bytes")
    fields = _EHDR.unpack_from(elf.data)
    ident, kind, machine, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx = fields
    if ident[4:6] != b"\x02\x01":
        raise CfaError(CfaFault.UNSUPPORTED, f"class {ident[4]}, byte order {ident[5]}: not 64-bit little-endian")
    if machine != EM_X86_64:
        raise CfaError(CfaFault.UNSUPPORTED, f"machine {machine}: not x86-64")
    if kind not in (ET_EXEC, ET_DYN):
        raise CfaError(CfaFault.UNSUPPORTED, f"type {kind}: neither a program nor a shared object")
    return _Head(phoff, phentsize, phnum, shoff, shentsize, shnum, shstrndx)


def _headers(raw: memoryview, head: _Head) -> Iterator[Header]:
    size = head.phnum * _PHDR.size
    if head.phentsize != _PHDR.size or head.phnum > MAX_HEADERS or head.phoff + size > len(raw):
        raise CfaError(CfaFault.STRUCTURE, "program headers beyond the file")
    for kind, flags, offset, vaddr, _, filesz, memsz, _ in _PHDR.iter_unpack(raw[head.phoff : head.phoff + size]):
        # Addresses of the upper half are the kernel's. So sums of two stay below 2^64 from here on.
        if vaddr < 1 << 63 and memsz < 1 << 63:
            yield Header(kind, flags, offset, vaddr, filesz, memsz)


def _sections(raw: memoryview, head: _Head) -> Iterator[Section]:
    """Those that have bytes. A table that does not lie in the file is none: that is how files are stripped of it."""
    end = head.shoff + head.shnum * _SHDR.size
    if not head.shoff or head.shentsize != _SHDR.size or head.shnum > MAX_SECTIONS or end > len(raw):
        return
    table = list(_SHDR.iter_unpack(raw[head.shoff : end]))
    if head.shstrndx >= len(table):
        return
    names_at, names_size = table[head.shstrndx][4:6]
    names = raw[names_at : names_at + names_size] if names_at + names_size <= len(raw) else raw[:0]
    for name, kind, flags, address, offset, size, _, _, _, _ in table:
        if kind not in (0, SHT_NOBITS) and size and offset + size <= len(raw) and address < 1 << 63:
            # Ours have names of 13 bytes at most; a longer one is not read to its end.
            yield Section(bytes(names[name : name + 16]).partition(b"\0")[0], flags, address, offset, size)


def _content(elf: Bytes, section: Section) -> Bytes:
    data = elf[section.offset : section.offset + section.size]
    if section.flags & SHF_COMPRESSED:
        if len(data) < _CHDR.size:
            raise CfaError(CfaFault.COMPRESSION, "compression header beyond the section")
        kind, _, size, _ = _CHDR.unpack_from(data.data)
        data = _inflate(data[_CHDR.size :].tobytes(), size, kind)
    elif section.name.startswith(b".z"):
        # GNU's older way: "ZLIB", then the size as a big-endian u64.
        if data[:4].tobytes() != b"ZLIB" or len(data) < 12:
            raise CfaError(CfaFault.COMPRESSION, "no ZLIB header")
        data = _inflate(data[12:].tobytes(), int.from_bytes(data[4:12].tobytes(), "big"), ELFCOMPRESS_ZLIB)
    if len(data) > MAX_SECTION:
        raise CfaError(CfaFault.TOO_LARGE, f"a section of {len(data)} bytes")
    return data


def _inflate(packed: bytes, size: int, kind: int) -> Bytes:
    if size > MAX_SECTION:
        raise CfaError(CfaFault.TOO_LARGE, f"a section that inflates to {size} bytes")
    if kind not in (ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD):
        raise CfaError(CfaFault.COMPRESSION, f"unknown compression {kind}")
    try:
        if kind == ELFCOMPRESS_ZLIB:
            raw = zlib.decompressobj().decompress(packed, size + 1)
        else:
            # The frame's own size is a claim too: read no more than the section's header allows.
            with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(packed) as reader:
                raw = reader.read(size + 1)
    except (zlib.error, zstandard.ZstdError) as error:
        raise CfaError(CfaFault.COMPRESSION, str(error)) from error
    if len(raw) != size:
        raise CfaError(CfaFault.COMPRESSION, f"inflates to other than the {size} bytes that were promised")
    return np.frombuffer(raw, np.uint8)


def _plt_got(raw: memoryview, headers: tuple[Header, ...]) -> int | None:
    """DT_PLTGOT: libgcc's base of data-relative pointers (unwind-dw2-fde-dip.c)."""
    for header in headers:
        if header.type == PT_DYNAMIC and header.offset + header.filesz <= len(raw):
            size = min(header.filesz // 16, MAX_DYNAMIC) * 16
            for tag, value in struct.iter_unpack("<QQ", raw[header.offset : header.offset + size]):
                if tag == DT_PLTGOT:
                    return int(value)
    return None


def _by_header(elf: Bytes, headers: tuple[Header, ...], data_base: int | None) -> Iterator[FrameSection]:
    """.eh_frame as .eh_frame_hdr tells: its address, and by the table of all FDEs its end."""
    header = next((header for header in headers if header.type == PT_GNU_EH_FRAME), None)
    if header is None or header.filesz < 8 or header.offset + header.filesz > len(elf):
        return
    index = elf.data[header.offset : header.offset + header.filesz]
    version, pointer, count_encoding, table_encoding = bytes(index[:4])
    # What every linker writes: eh_frame_ptr pcrel|sdata4, fde_count udata4, table of datarel|sdata4 pairs.
    if version != 1 or pointer != 0x1B:
        return
    address = header.vaddr + 4 + struct.unpack_from("<i", index, 4)[0]
    segment = next(
        (h for h in headers if h.type == PT_LOAD and h.vaddr <= address < h.vaddr + min(h.filesz, h.memsz)), None
    )
    if segment is None or segment.offset + segment.filesz > len(elf):
        return
    data = elf[segment.offset + address - segment.vaddr : segment.offset + segment.filesz][:MAX_SECTION]
    size = _indexed(index, header.vaddr - address, data) if (count_encoding, table_encoding) == (3, 0x3B) else None
    # Without a usable table the section's end is its terminator.
    yield FrameSection(data=data[:size], address=address, eh=True, terminated=size is None, data_base=data_base)


def _indexed(index: memoryview, relative: int, data: Bytes) -> int | None:
    """How many bytes of `data` there are up to the end of the last FDE in the table; None if the table is broken."""
    count = struct.unpack_from("<I", index, 8)[0] if len(index) >= 12 else 0
    if not count or 12 + count * 8 > len(index):
        return None
    table = np.frombuffer(index[12 : 12 + count * 8], "<i4").reshape(-1, 2)
    last = int(table[:, 1].max()) + relative
    if not 0 <= last <= len(data) - 4:
        return None
    end = last + 4 + struct.unpack_from("<I", data.data, last)[0]
    return end if end <= len(data) else None
