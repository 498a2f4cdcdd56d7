"""Sections and their entries: where they are found, and in which forms."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fleetflame.cfi import CfaError, CfaFault, CfaKind, Dropped, UnwindTable, compile_table, parse
from fleetflame.cfi.leb import lebs
from tests.support.frames import CODE, CODE_SIZE, FRAMES, Frames, cie, eh_frame, elf, entry, header, sleb, uleb

LIBC = Path("/usr/lib/x86_64-linux-gnu/libc.so.6")
SHF_ALLOC, SHF_COMPRESSED = 2, 0x800
GNU_EH_FRAME = 0x6474E550


def spans(table: UnwindTable) -> list[tuple[int, int, int]]:
    """(begin, end, a) of each row that is no gap, addresses relative to CODE."""
    ends = [*table.pc[1:].tolist(), 0]
    rules = table.rules[table.rule]
    return [
        (table.base + pc - CODE, table.base + end - CODE, int(rule["a"]))
        for pc, end, rule in zip(table.pc.tolist(), ends, rules, strict=True)
        if rule["cfa"] != CfaKind.GAP
    ]


def refusal(data: bytes) -> CfaFault:
    with pytest.raises(CfaError) as caught:
        compile_table(data)
    return caught.value.reason


def offset(number: int) -> bytes:
    return b"\x0e" + uleb(number)


def debug_frame(functions: list[tuple[int, int, bytes]], *, version: int = 4, wide: bool = False) -> bytes:
    data = cie(version=version, augmentation=b"", data=b"", eh=False, wide=wide)
    for begin, size, program in functions:
        data += entry(struct.pack("<QQQ" if wide else "<IQQ", 0, begin, size) + program, wide=wide)
    return data


def with_debug_frame(data: bytes, flags: int = 0, name: bytes = b".debug_frame") -> bytes:
    return elf([(name, data, flags)])


@pytest.mark.parametrize("version", [1, 3, 4])
@pytest.mark.parametrize("wide", [False, True])
def test_a_debug_frame_is_read_in_all_its_versions(version: int, wide: bool) -> None:
    """32 and 64 bit; absolute addresses."""
    data = debug_frame([(CODE + 16, 16, offset(24)), (CODE, 16, b"")], version=version, wide=wide)
    assert spans(compile_table(with_debug_frame(data))) == [(0, 16, 8), (16, 32, 24)]


def test_a_compressed_debug_frame_is_inflated() -> None:
    """By zlib, by zstd, and as GNU did before there was a flag; the promised size is a limit."""
    data = debug_frame([(CODE, 16, b"")])
    plain = spans(compile_table(with_debug_frame(data)))
    for kind, packed in ((1, zlib.compress(data)), (2, zstandard.compress(data))):
        head = struct.pack("<IIQQ", kind, 0, len(data), 1)
        assert spans(compile_table(with_debug_frame(head + packed, SHF_COMPRESSED))) == plain
        for size in (len(data) - 1, len(data) + 1):
            lie = struct.pack("<IIQQ", kind, 0, size, 1)
            assert refusal(with_debug_frame(lie + packed, SHF_COMPRESSED)) == CfaFault.COMPRESSION
        bomb = struct.pack("<IIQQ", kind, 0, 1 << 40, 1)
        assert refusal(with_debug_frame(bomb + packed, SHF_COMPRESSED)) == CfaFault.TOO_LARGE
        assert refusal(with_debug_frame(head + packed[:-9], SHF_COMPRESSED)) == CfaFault.COMPRESSION
    old = b"ZLIB" + struct.pack(">Q", len(data)) + zlib.compress(data)
    assert spans(compile_table(with_debug_frame(old, name=b".zdebug_frame"))) == plain
    assert refusal(with_debug_frame(b"ZLIB", name=b".zdebug_frame")) == CfaFault.COMPRESSION
    assert refusal(with_debug_frame(struct.pack("<IIQQ", 9, 0, 1, 1), SHF_COMPRESSED)) == CfaFault.COMPRESSION


def test_eh_frame_wins_over_debug_frame() -> None:
    """Address by address; what only the one knows is in the table too."""
    debug = debug_frame([(CODE, 16, offset(32)), (CODE + 16, 64, offset(40))])
    frames = Frames().cie().fde(CODE + 32, 16)
    data = elf([(b".eh_frame", frames.data, SHF_ALLOC), (b".debug_frame", debug, 0)])
    assert spans(compile_table(data)) == [(0, 16, 32), (16, 32, 40), (32, 48, 8), (48, 80, 40)]


def test_of_overlapping_functions_the_one_that_begins_last_wins() -> None:
    """It ends the one before it for good; of two that begin together the first; empty ones never count."""
    frames = Frames().cie().fde(CODE, 64, offset(16) + b"\x50" + offset(24) + b"\x58" + offset(32))
    frames.fde(CODE + 20, 8, offset(40)).fde(CODE + 20, 30, offset(48)).fde(CODE + 4, 0, offset(56))
    assert spans(compile_table(eh_frame(frames))) == [(0, 16, 16), (16, 20, 24), (20, 28, 40)]


def test_functions_need_no_order() -> None:
    """Neighbours join without a gap, whatever the order of their entries."""
    frames = Frames().cie().fde(CODE + 32, 16, offset(24)).fde(CODE, 16).fde(CODE + 16, 16, offset(16))
    assert spans(compile_table(eh_frame(frames))) == [(0, 16, 8), (16, 32, 16), (32, 48, 24)]


def test_a_terminator_in_between_ends_nothing() -> None:
    """Linkers put crtend's before the end at times; a length of 64 bits is the same entry."""
    frames = Frames().cie().fde(CODE, 16).raw(bytes(4)).cie(wide=True).fde(CODE + 16, 16, offset(16), wide=True)
    assert spans(compile_table(eh_frame(frames.raw(bytes(4))))) == [(0, 16, 8), (16, 32, 16)]


def pointers(
    encoding: int, begin: bytes, size: bytes, *, headers: list[tuple[int, int, bytes, int]] | None = None
) -> bytes:
    """A file with one function, whose address is encoded so."""
    first = cie(data=bytes([encoding]))
    body = struct.pack("<I", len(first) + 4) + begin + size + b"\0"
    return elf([(b".eh_frame", first + entry(body), SHF_ALLOC)], headers=headers or [])


FIELD = FRAMES + len(cie()) + 8
"""Address of the function's address."""


@pytest.mark.parametrize(
    ("encoding", "begin", "size"),
    [
        (0x00, struct.pack("<Q", CODE), struct.pack("<Q", 16)),
        (0x01, uleb(CODE), uleb(16)),
        (0x02, struct.pack("<H", CODE), struct.pack("<H", 16)),
        (0x03, struct.pack("<I", CODE), struct.pack("<I", 16)),
        (0x04, struct.pack("<Q", CODE), struct.pack("<Q", 16)),
        (0x09, sleb(CODE), sleb(16)),
        (0x0A, struct.pack("<h", CODE), struct.pack("<h", 16)),
        (0x0B, struct.pack("<i", CODE), struct.pack("<i", 16)),
        (0x0C, struct.pack("<q", CODE), struct.pack("<q", 16)),
        (0x10, struct.pack("<q", CODE - FIELD), struct.pack("<q", 16)),
        (0x19, sleb(CODE - FIELD), sleb(16)),
        (0x1B, struct.pack("<i", CODE - FIELD), struct.pack("<i", 16)),
        (0x1C, struct.pack("<q", CODE - FIELD), struct.pack("<q", 16)),
        (0x3B, struct.pack("<i", CODE - 0x30000), struct.pack("<i", 16)),
    ],
)
def test_addresses_are_read_in_every_encoding(encoding: int, begin: bytes, size: bytes) -> None:
    """Absolute, relative to their place, relative to DT_PLTGOT; of every width."""
    dynamic = (2, 6, struct.pack("<QQQQ", 3, 0x30000, 0, 0), 0x28000)
    assert spans(compile_table(pointers(encoding, begin, size, headers=[dynamic]))) == [(0, 16, 8)]


@pytest.mark.parametrize("encoding", [0x9B, 0x2B, 0x3B, 0x4B, 0x50, 0x05, 0x0D, 0xFF])
def test_an_address_that_cannot_be_resolved_is_counted(encoding: int) -> None:
    """Indirect ones, and those relative to something that the file does not say."""
    first = cie(data=bytes([encoding]))
    data = first + entry(struct.pack("<I", len(first) + 4) + struct.pack("<iI", CODE, 16) + b"\0")
    frames = Frames().raw(data).cie().fde(CODE + 64, 16)
    table = compile_table(eh_frame(frames))
    assert spans(table) == [(64, 80, 8)]
    assert table.dropped == {Dropped.POINTER: 1}


@pytest.mark.parametrize(
    "odd",
    [
        {"version": 2},
        {"version": 5},
        {"augmentation": b"zRx"},
        {"augmentation": b"R"},
        {"augmentation": b"armcc+"},
        {"augmentation": b"zP", "data": b"\x0f"},
        {"augmentation": b"zR", "data": b""},
        {"factors": (0, -8)},
        {"factors": (1, 1 << 20)},
        {"program": b"\x0b"},
        {"program": b"\x17"},
    ],
)
def test_functions_of_an_odd_cie_are_counted(odd: dict[str, object]) -> None:
    """They are not in the table: even where they are is not certain."""
    frames = Frames().cie(**odd).fde(CODE, 16).cie().fde(CODE + 16, 16)  # type: ignore[arg-type]
    table = compile_table(eh_frame(frames))
    assert spans(table) == [(16, 32, 8)]
    assert table.dropped == {Dropped.CIE: 1}


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": b"zPLR", "data": b"\x9b\x01\x02\x03\x04\x1b\x1b"},
        {"augmentation": b"zPLR", "data": b"\x01\x81\x01\x1b\x1b"},
        {"augmentation": b"zPR", "data": b"\xff\x1b"},
        {"augmentation": b"zRS"},
        {"augmentation": b"zRB"},
        {"version": 3},
        {"version": 4},
    ],
)
def test_augmentations_are_passed_over(options: dict[str, object]) -> None:
    """A personality routine in any encoding, exception tables, signal frames."""
    assert spans(compile_table(eh_frame(Frames().cie(**options).fde(CODE, 16)))) == [(0, 16, 8)]  # type: ignore[arg-type]


def test_a_signal_frame_says_so() -> None:
    """Whoever was interrupted is looked up at its very address."""
    table = compile_table(eh_frame(Frames().cie(augmentation=b"zRS").fde(CODE, 16)))
    assert table.find(np.array([CODE], np.uint64))["flags"].tolist() == [1]


def test_functions_outside_the_code_are_counted() -> None:
    """Discarded by the linker, or longer than the segment."""
    frames = Frames().cie().fde(0, 16).fde(CODE + CODE_SIZE - 8, 16).fde(CODE + CODE_SIZE - 16, 16)
    table = compile_table(eh_frame(frames))
    assert spans(table) == [(CODE_SIZE - 16, CODE_SIZE, 8)]
    assert table.dropped == {Dropped.OUTSIDE: 2}


def stripped(frames: bytes, table: list[tuple[int, int]] | None) -> bytes:
    """A file without section headers: .eh_frame_hdr and .eh_frame in a segment at FRAMES, and something behind."""
    index = header(frames, table)
    content = index + frames + b"\x07" * 40
    return elf(headers=[(1, 4, content, FRAMES - len(index)), (GNU_EH_FRAME, 4, index, FRAMES - len(index))])


@pytest.mark.parametrize("indexed", [True, False])
def test_without_section_headers_the_search_table_leads_there(indexed: bool) -> None:
    """To the last function's end by the table, else to the terminator."""
    frames = Frames().cie().fde(CODE, 16)
    last = len(frames.data)
    frames.fde(CODE + 16, 16, offset(16))
    length = 8 + 4 + 2 * 8
    table = [(0, length + len(cie())), (0, length + last)] if indexed else None
    data = stripped(frames.data if indexed else frames.data + bytes(4), table)
    assert spans(compile_table(data)) == [(0, 16, 8), (16, 32, 16)]


def test_a_library_without_section_headers_is_the_same() -> None:
    """libc, after its header has forgotten where they are."""
    data = bytearray(LIBC.read_bytes())
    whole = compile_table(data)
    data[0x28:0x30] = bytes(8)
    without = compile_table(data)
    assert without.pc.tobytes() == whole.pc.tobytes()
    assert without.rule.tobytes() == whole.rule.tobytes()


def test_the_vdso_has_a_table() -> None:
    """Its image in memory is an ELF file like any other."""
    line = next(line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[vdso]"))
    begin, end = (int(part, 16) for part in line.split()[0].split("-"))
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        memory.seek(begin)
        image = memory.read(end - begin)
    table = compile_table(image)
    assert len(table) > 4
    assert not table.dropped


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", CfaFault.NOT_ELF),
        (b"\x7fELF", CfaFault.TRUNCATED),
        (elf(machine=183), CfaFault.UNSUPPORTED),
        (elf(kind=1), CfaFault.UNSUPPORTED),
        (elf().replace(b"\x7fELF\x02", b"\x7fELF\x01"), CfaFault.UNSUPPORTED),
        (elf()[:100], CfaFault.STRUCTURE),
        (elf(), CfaFault.ABSENT),
        (eh_frame(Frames()), CfaFault.ABSENT),
        (eh_frame(Frames().cie()), CfaFault.ABSENT),
        (eh_frame(Frames().cie().fde(CODE, 0)), CfaFault.ABSENT),
        (eh_frame(Frames().raw(b"\x40\0\0\0\0\0\0\0")), CfaFault.TRUNCATED),
        (eh_frame(Frames().raw(b"\xff\xff\xff\xff\0\0\0\0")), CfaFault.TRUNCATED),
        (eh_frame(Frames().raw(b"\xff" * 12)), CfaFault.TRUNCATED),
    ],
)
def test_what_has_no_table_is_refused_with_a_reason(data: bytes, reason: CfaFault) -> None:
    """Other machines' files, none at all, and entries that end behind their section."""
    assert refusal(data) == reason


def test_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Terminators count: a section of zeroes is as long a way as any."""
    monkeypatch.setattr(parse, "MAX_ENTRIES", 100)
    assert refusal(eh_frame(Frames().raw(bytes(4000)))) == CfaFault.TOO_LARGE


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=20))
def test_numbers_are_read_side_by_side(values: list[int]) -> None:
    """LEB128 of any length, signed too; a number that is cut off is not ok."""
    for signed, write in ((False, uleb), (True, sleb)):
        wanted = [value - (1 << 63) if signed else value for value in values]
        parts = [write(value) for value in wanted]
        at = np.cumsum([0, *map(len, parts)])
        data = np.frombuffer(b"".join(parts), np.uint8)
        read = lebs(data, at[:-1], at[1:], signed=signed)
        assert read.ok.all()
        assert read.value.tolist() == [value % (1 << 64) for value in wanted]
        assert read.next.tolist() == at[1:].tolist()
        assert not lebs(data, at[:-1], at[1:] - 1, signed=signed).ok.any()
