"""What a node lends to the fleet: an ELF file with nothing in it but what names addresses, and the kernel's symbols.

The copy has the file's layout, byte for byte, so that file offsets and section tables hold; what names nothing (code,
data, strings) is zeroes, which compress to nearly nothing and give away nothing. Kept are the ELF header, the program
and section header tables, symbols, string tables, notes, unwind tables, debug sections, Go's line table and what it
refers to, relocations of the procedure linkage table, and what leads to a separate debug file. A file without a build
ID's note also keeps its ends, from which its identity is computed.

Streaming: memory does not grow with the file.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import zstandard

from agent import golang
from agent.elf import (
    PT_DYNAMIC,
    PT_GNU_EH_FRAME,
    PT_NOTE,
    Header,
    ReadAt,
    count_sections,
    iter_program_headers,
    iter_sections,
    parse_header,
    read_elf,
)
from agent.kernel import MAX_LINE, KernelSnapshot
from agent.lines import whole_lines
from agent.openat import file_reader
from fleetflame.buildid import HASHED_BYTES

MAX_FILE_BYTES = 4 * 1024**3
"""The largest file lent. A browser with all debug information has 2 GiB."""
MAX_KEPT_BYTES = 2 * 1024**3
"""The most bytes kept of one file, before compression."""
LEVEL = 3
"""zstd's default. Level 9 makes a debug file 8 % smaller and takes four times as long."""
WINDOW_LOG = 19
"""How far back zstd looks: 512 KiB, where the level's own 2 MiB takes an agent 2 MB more for every copy. Of five files
from 3 to 166 MB none became larger by more than 0.4 %, and the kernel's symbols became smaller."""

_CHUNK = 256 * 1024
_ZEROES = bytes(_CHUNK)

# Section types, elf(5): symbol tables, their strings and indices, notes, dynamic section, symbol versions.
_KEPT_TYPES = frozenset({2, 3, 6, 7, 11, 18, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF})
_KEPT_NAMES = frozenset(
    {
        b".eh_frame",
        b".eh_frame_hdr",
        b".rela.plt",
        b".rel.plt",
        b".gopclntab",
        b".data.rel.ro.gopclntab",
        b".gnu_debugdata",
        b".gnu_debuglink",
        b".gnu_debugaltlink",
    }
)
_KEPT_PREFIXES = (b".debug_", b".zdebug_")
_KEPT_SEGMENTS = frozenset({PT_NOTE, PT_DYNAMIC, PT_GNU_EH_FRAME})
_CODE_SYMBOL = re.compile(rb"^([0-9a-f]+) ([tTwWi]) ([^\t\n]+)(?:\t\[([^\]\n]+)\])?$", re.MULTILINE)


class LendRefusal(StrEnum):
    """Why a file is not lent. Travels as the reason of a refusal."""

    NOT_ELF = "not_elf"
    TOO_LARGE = "too_large"
    CHANGED = "changed"
    HIDDEN = "kernel_symbols_hidden"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Lent:
    """What was written: bytes of the copy before compression, those of them that are the file's own, and after it."""

    raw_size: int
    kept: int
    size: int


def lend_elf(fd: int, sink: BinaryIO, *, max_file: int = MAX_FILE_BYTES) -> Lent | LendRefusal:
    """Writes the copy of the open ELF file to the file `sink`, compressed. Raises OSError if `sink` does.

    After a refusal `sink` may hold a part of it, which is to be thrown away.
    """
    before = os.fstat(fd)
    if before.st_size > max_file:
        return LendRefusal.TOO_LARGE
    kept = kept_ranges(fd, before.st_size)
    if kept is None:
        return LendRefusal.NOT_ELF
    own = sum(end - start for start, end in kept)
    if own > MAX_KEPT_BYTES:
        return LendRefusal.TOO_LARGE
    start = sink.tell()
    with _compressor().stream_writer(sink, size=before.st_size, closefd=False) as out:
        for piece in iter_copy(fd, kept, before.st_size):
            out.write(piece)
    if _version(os.fstat(fd)) != _version(before):
        return LendRefusal.CHANGED
    return Lent(before.st_size, own, sink.tell() - start)


def kept_ranges(fd: int, size: int) -> list[tuple[int, int]] | None:
    """Ranges [start, end) of the file that are kept, ascending and apart; None if it is no ELF file."""
    read_at = file_reader(fd)
    header = parse_header(read_at(0, 64))
    if header is None:
        return None
    facts = read_elf(read_at, size)
    ranges = [*_wanted(read_at, header, size)]
    if facts is None or facts.build_id is None:
        ranges += [(0, HASHED_BYTES), (size - HASHED_BYTES, size)]
    return _merged(ranges, size)


def iter_copy(fd: int, kept: Iterable[tuple[int, int]], size: int) -> Iterator[bytes]:
    """The copy's bytes in pieces: the file's own in `kept`, zeroes elsewhere. What cannot be read is zeroes too."""
    at = 0
    for start, end in [*kept, (size, size)]:
        while at < start:
            piece = _ZEROES[: start - at]
            at += len(piece)
            yield piece
        while at < end:
            wanted = min(_CHUNK, end - at)
            piece = os.pread(fd, wanted, at).ljust(wanted, b"\0")
            at += wanted
            yield piece


def lend_kallsyms(kernel: KernelSnapshot, sink: BinaryIO, *, proc: Path = Path("/proc")) -> Lent | LendRefusal:
    """Writes the running kernel's symbols to `sink`, compressed: see `iter_kallsyms`. Raises OSError if `sink` does."""
    if kernel.symbols.hidden:
        return LendRefusal.HIDDEN
    raw_size = 0
    start = sink.tell()
    try:
        file = (proc / "kallsyms").open("rb")
    except OSError:
        return LendRefusal.UNREADABLE
    with file, _compressor().stream_writer(sink, closefd=False) as out:
        for piece in iter_kallsyms(kernel, iter(lambda: file.read(_CHUNK), b"")):
            raw_size += len(piece)
            out.write(piece)
    return Lent(raw_size, raw_size, sink.tell() - start)


def iter_kallsyms(kernel: KernelSnapshot, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Code symbols with offsets that are equal on every host that runs this kernel. Generated code is left out.

    1f40 T do_one_initcall              from `_stext`
    2a0 t nft_do_chain\t[nf_tables]     from the module's base address
    """
    modules = {module.name.encode(): module for module in kernel.modules}
    for block in whole_lines(chunks, longest=MAX_LINE):
        lines = []
        for match in _CODE_SYMBOL.finditer(block):
            address, owner = int(match[1], 16), match[4]
            if not owner and kernel.symbols.has(address):
                lines.append(b"%x %b %b\n" % (address - kernel.symbols.start, match[2], match[3]))
            elif owner and (module := modules.get(owner)) and 0 <= address - module.base < module.size:
                lines.append(b"%x %b %b\t[%b]\n" % (address - module.base, match[2], match[3], owner))
        yield b"".join(lines)


def _compressor() -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_LOG, write_content_size=True)
    return zstandard.ZstdCompressor(compression_params=parameters)


def _version(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _wanted(read_at: ReadAt, header: Header, size: int) -> Iterator[tuple[int, int]]:
    yield 0, 64
    yield header.program_offset, header.program_offset + header.program_count * header.program_entry
    yield header.section_offset, header.section_offset + count_sections(read_at, header) * header.section_entry
    for segment in iter_program_headers(read_at, header):
        if segment.type in _KEPT_SEGMENTS:
            yield segment.offset, segment.offset + segment.size
    sections = list(iter_sections(read_at, header, size))
    yield from golang.iter_needed(read_at, sections)
    for section in sections:
        if section.type in _KEPT_TYPES or section.name in _KEPT_NAMES or section.name.startswith(_KEPT_PREFIXES):
            yield section.offset, section.offset + section.size


def _merged(ranges: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The same bytes as ascending ranges that neither touch nor reach beyond the file."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted((max(0, start), min(end, size)) for start, end in ranges):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
