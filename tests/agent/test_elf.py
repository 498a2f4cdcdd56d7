"""ELF headers, segments and notes, compared with readelf."""

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.elf import MAX_SEGMENTS, ElfFacts, Load, count_sections, iter_sections, parse_header, read_elf
from fleetflame.buildid import BuildId, from_notes
from fleetflame.model import Segment
from tests.support.elf import PT_LOAD, PT_NOTE, ElfWriter, Sec, Seg, gnu_note, simple_elf

FILES = [Path(sys.executable).resolve(), Path("/bin/sh").resolve(), *sorted(Path("/usr/lib").glob("*/libc.so.6"))]


def read(data: bytes) -> ElfFacts | None:
    return read_elf(lambda offset, length: data[offset : offset + length], len(data))


def with_notes(*notes: bytes) -> bytes:
    """A file with one note segment for each."""
    at, segments, sections = 64 + 56 * len(notes), [], []
    for number, note in enumerate(notes):
        sections.append(Sec(name=f".note.{number}", data=note, type=7, align=1))
        segments.append(Seg(type=PT_NOTE, flags=4, offset=at, filesz=len(note)))
        at += len(note)
    return bytes(ElfWriter(sections=sections, segments=segments))


def go_note(text: bytes) -> bytes:
    return struct.pack("<III", 4, len(text), 4) + b"Go\0\0" + text + bytes(-len(text) % 4)


@pytest.mark.skipif(not shutil.which("readelf"), reason="binutils is not installed")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_facts_agree_with_readelf(path: Path) -> None:
    """Build ID and loadable segments of real files are what an independent reader finds."""
    data = path.read_bytes()
    facts = read(data)
    assert facts is not None
    shown = subprocess.run(["readelf", "-lnW", path], capture_output=True, text=True, check=True).stdout
    build_id = re.search(r"Build ID: (\w+)", shown)
    assert (str(facts.build_id) if facts.build_id else None) == (build_id[1] if build_id else None)
    rows = re.findall(r"^ +LOAD +(\w+) (\w+) \w+ (\w+) (\w+) (...)", shown, re.MULTILINE)
    loads = [(*(int(value, 16) for value in row[:4]), "E" in row[4]) for row in rows]
    assert [tuple(load) for load in facts.loads] == loads


@pytest.mark.skipif(not shutil.which("readelf"), reason="binutils is not installed")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_sections_agree_with_readelf(path: Path) -> None:
    """Names, offsets and sizes of sections with bytes are what an independent reader finds."""
    data = path.read_bytes()
    header = parse_header(data[:64])
    assert header is not None

    def read_at(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    shown = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^ +\[ *\d+\] (\S+) +(\S+) +\w+ (\w+) (\w+)", shown, re.MULTILINE)
    expected = [(name.encode(), int(at, 16), int(size, 16)) for name, kind, at, size in rows if kind != "NOBITS"]
    assert [(s.name, s.offset, s.size) for s in iter_sections(read_at, header, len(data))] == expected
    assert count_sections(read_at, header) >= len(expected)


def test_executable_segments_are_those_of_the_contract() -> None:
    """A file with two executable segments and a data segment has two segments."""
    segments = [
        Seg(type=PT_LOAD, flags=5, offset=0x1000, vaddr=0x401000, filesz=0x800),
        Seg(type=PT_LOAD, flags=6, offset=0x2000, vaddr=0x602000, filesz=0x100),
        Seg(type=PT_LOAD, flags=1, offset=0x1800, vaddr=0x20000800, filesz=0x800),
    ]
    facts = read(bytes(ElfWriter(segments=segments).text(0x4000)))
    assert facts is not None
    assert facts.segments == (Segment(0x1000, 0x401000, 0x800), Segment(0x1800, 0x20000800, 0x800))
    assert facts.loads[1] == Load(0x2000, 0x602000, 0x100, 0x100, executable=False)


def test_the_gnu_note_comes_before_gos() -> None:
    """Whichever segment comes first, GNU's build ID is taken; Go's where there is no other."""
    go, gnu = go_note(b"a/b/c/d"), gnu_note(bytes(range(20)))
    both = read(with_notes(go, gnu))
    assert both is not None
    assert (both.build_id, both.gnu) == (BuildId(bytes(range(20))), True)
    only = read(with_notes(go))
    assert only is not None
    assert (only.build_id, only.gnu) == (from_notes(go), False)


@pytest.mark.parametrize("notes", [(go_note(b"a/b/c/d"),), ()], ids=["go", "none"])
def test_a_gnu_note_that_no_segment_covers_is_found(notes: tuple[bytes, ...]) -> None:
    """As Go's linker writes them: every other tool goes by that ID, and only the kernel cannot see it."""
    segments = [Seg(type=PT_NOTE, flags=4, offset=64 + 56, filesz=len(note)) for note in notes]
    writer = ElfWriter(segments=segments)
    for note in notes:
        writer.add(Sec(name=".note.go.buildid", data=note, type=7, align=1))
    facts = read(bytes(writer.note(bytes(range(20))).text()))
    assert facts is not None
    assert (facts.build_id, facts.gnu) == (BuildId(bytes(range(20))), False)


def test_a_file_without_a_note_has_no_build_id() -> None:
    """Its identity is somebody else's business."""
    facts = read(bytes(ElfWriter().text()))
    assert facts is not None
    assert facts.build_id is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"#!/bin/sh\n" + bytes(100),
        b"\x7fELF\x02\x02\x01" + bytes(100),
        b"\x7fELF\x02\x01\x01" + bytes(50),
    ],
    ids=["empty", "short", "script", "big-endian", "truncated"],
)
def test_what_is_no_elf_file_of_ours_is_none(data: bytes) -> None:
    """Other formats, and files that end within the header."""
    assert read(data) is None


@pytest.mark.parametrize(
    "header",
    [
        {"phnum": 0xFFFF},
        {"phoff": (1 << 64) - 8, "phnum": 3},
        {"phentsize": 1},
        {"shoff": (1 << 64) - 1},
        {"shnum": 0, "shoff": 64},
        {"shstrndx": 0xFFFF},
        {"shentsize": 0},
    ],
    ids=str,
)
def test_absurd_headers_are_bounded(header: dict[str, int]) -> None:
    """Numbers that lie cost no more than the constants say, and raise nothing."""
    writer = ElfWriter(segments=[Seg(offset=0x1000, vaddr=0x1000, filesz=1 << 63)], header=header)
    data = bytes(writer.text().note())
    facts = read(data)
    assert facts is not None
    assert all(load.size <= len(data) for load in facts.loads)
    parsed = parse_header(data[:64])
    assert parsed is not None
    list(iter_sections(lambda offset, length: data[offset : offset + length], parsed, len(data)))


def test_segments_are_bounded() -> None:
    """A file with a thousand segments is described by the first ones."""
    writer = ElfWriter(segments=[Seg(offset=n, vaddr=n, filesz=1) for n in range(1000)])
    facts = read(bytes(writer.text()))
    assert facts is not None
    assert len(facts.loads) == MAX_SEGMENTS


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=20), st.integers(0, 6000))
def test_no_bytes_raise(changes: list[tuple[int, int]], length: int) -> None:
    """A file with arbitrary bytes changed and cut off anywhere is read or is not, nothing else."""
    data = bytearray(simple_elf([]))
    for at, value in changes:
        data[at] = value
    cut = bytes(data[:length])
    read(cut)
    header = parse_header(cut[:64])
    if header is not None:
        list(iter_sections(lambda offset, size: cut[offset : offset + size], header, len(cut)))


def test_32_bit_files_are_read() -> None:
    """The other class has narrower fields in another order."""
    note = gnu_note(bytes(20))
    head = b"\x7fELF\x01\x01\x01" + bytes(9)
    head += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 2, 40, 0, 0)
    head += struct.pack("<IIIIIIII", PT_LOAD, 0x0, 0x8048000, 0, 0x100, 0x100, 5, 0x1000)
    head += struct.pack("<IIIIIIII", PT_NOTE, 52 + 64, 0, 0, len(note), 0, 4, 4)
    facts = read(head + note + bytes(300))
    assert facts == ElfFacts(BuildId(bytes(20)), True, (Load(0, 0x8048000, 0x100, 0x100, executable=True),))


def test_files_are_readable_here() -> None:
    """SANITY of the parametrization above: it compares real files."""
    assert all(os.access(path, os.R_OK) for path in FILES)
