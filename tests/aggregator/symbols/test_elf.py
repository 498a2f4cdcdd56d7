"""Reading the structure of ELF files, whatever they claim."""

import io
import lzma
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.symbols.elf import (
    build_id,
    check_sizes,
    executable_segments,
    file_identity,
    load_address,
    open_elf,
    parse_elf_bytes,
    unxz,
)
from aggregator.symbols.faults import Fault, SymbolFileError
from fleetflame.buildid import BuildId
from fleetflame.model import Segment
from tests.support.elf import (
    BUILD_ID,
    PT_NOTE,
    SHF_COMPRESSED,
    SHT_NOTE,
    SHT_SYMTAB,
    ElfWriter,
    Sec,
    Seg,
    Sym,
    compressed,
    gnu_note,
    simple_elf,
)

GIB = 1 << 30


def fault_of(data: bytes) -> Fault:
    """The fault that parsing `data` ends with."""
    with pytest.raises(SymbolFileError) as caught:
        parse_elf_bytes(data)
    return caught.value.fault


def test_sections_segments_and_build_id_are_read() -> None:
    """A well-formed file gives its build ID, its executable segment and its sections by name."""
    elf = parse_elf_bytes(simple_elf([Sym(name="main", value=0x1000, size=16)]))
    assert build_id(elf) == BuildId(BUILD_ID)
    assert executable_segments(elf) == (Segment(0x1000, 0x1000, 0x1000),)
    assert elf.section(".symtab") is not None
    assert elf.section(".bss") is None


def test_the_note_is_found_in_a_segment_when_there_are_no_sections() -> None:
    """`sstrip` removes the section table; the build ID is still in a PT_NOTE."""
    note = gnu_note(BUILD_ID)
    writer = ElfWriter(sections=[Sec(name="n", data=note, align=4)], header={"shoff": 0, "shnum": 0, "shstrndx": 0})
    writer.segments = [Seg(type=PT_NOTE, flags=4, offset=120, filesz=len(note))]
    assert build_id(parse_elf_bytes(bytes(writer))) == BuildId(BUILD_ID)


def test_gnus_build_id_goes_before_gos() -> None:
    """Linkers that write both put Go's first; an agent that sees the segments decides alike."""
    go = struct.pack("<III", 4, 83, 4) + b"Go\0\0" + b"x" * 83 + b"\0"
    writer = ElfWriter().text().add(Sec(name=".note.go.buildid", data=go, type=SHT_NOTE, align=4))
    only_go = build_id(parse_elf_bytes(bytes(writer)))
    assert only_go is not None
    assert only_go != BuildId(BUILD_ID)
    assert build_id(parse_elf_bytes(bytes(writer.note()))) == BuildId(BUILD_ID)


def test_a_file_without_a_note_is_identified_by_its_ends() -> None:
    """The identity depends on both ends and on the size."""
    writer = ElfWriter().text()
    one = parse_elf_bytes(bytes(writer))
    other = parse_elf_bytes(bytes(writer) + b"\0")
    assert build_id(one) is None
    assert file_identity(one) != file_identity(other)


def test_a_debug_file_has_no_segments_to_convert_offsets_with() -> None:
    """Program headers of a file made by --only-keep-debug are those of another file."""
    writer = ElfWriter(segments=[Seg(offset=0x1000, vaddr=0x1000, filesz=0x1000)]).text(bits=False).note()
    assert executable_segments(parse_elf_bytes(bytes(writer))) == ()


def test_load_address_is_the_first_segment() -> None:
    """It is what addresses of a symcache count from."""
    segments = [Seg(vaddr=0x400000, filesz=1), Seg(vaddr=0, filesz=1)]
    assert load_address(parse_elf_bytes(bytes(ElfWriter(segments=segments).text()))) == 0x400000


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", Fault.NOT_ELF),
        (b"MZ" + bytes(100), Fault.NOT_ELF),
        (b"\x7fELF\x02\x01\x01", Fault.TRUNCATED),
        (b"\x7fELF\x01\x01\x01" + bytes(100), Fault.UNSUPPORTED),
        (b"\x7fELF\x02\x02\x01" + bytes(100), Fault.UNSUPPORTED),
        (bytes(ElfWriter(header={"shentsize": 0}).text()), Fault.HEADERS),
        (bytes(ElfWriter(header={"shoff": 1 << 60}).text()), Fault.TRUNCATED),
        (bytes(ElfWriter(header={"shnum": 0xFFFF}).text()), Fault.TRUNCATED),
        (bytes(ElfWriter(segments=[Seg()], header={"phnum": 60_000}).text()), Fault.HEADERS),
        (bytes(ElfWriter(segments=[Seg()], header={"phoff": 1 << 50}).text()), Fault.TRUNCATED),
        (bytes(ElfWriter(segments=[Seg()], header={"phnum": 0xFFFF}).text()), Fault.HEADERS),
        (bytes(ElfWriter().add(Sec(name=".x", size=1 << 40))), Fault.TRUNCATED),
        (bytes(ElfWriter().add(Sec(name=".x", data=bytes(64), offset=(1 << 64) - 32))), Fault.TRUNCATED),
        (bytes(ElfWriter().text().add(Sec(name=".x", offset=64, size=4096))), Fault.OVERLAP),
    ],
)
def test_absurd_headers_have_a_typed_fault(data: bytes, fault: Fault) -> None:
    """What no linker writes is refused for a reason that can be counted."""
    assert fault_of(data) is fault


def test_a_million_sections_are_refused_without_reading_them() -> None:
    """The count of an extended section table is in the first section header, and believed only up to a limit."""
    writer = ElfWriter(header={"shnum": 0}).text()
    data = bytearray(bytes(writer))
    shoff = int.from_bytes(data[40:48], "little")
    data[shoff + 32 : shoff + 40] = (1_000_000).to_bytes(8, "little")
    assert fault_of(bytes(data)) is Fault.HEADERS


def test_every_truncation_of_a_file_is_refused_or_read() -> None:
    """No prefix of a file raises anything but the typed error."""
    data = simple_elf([Sym(name="main", value=0x1000, size=16)])
    for size in range(0, len(data), 37):
        with pytest.raises(SymbolFileError):
            parse_elf_bytes(data[:size])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4800), st.integers(0, 255)), max_size=8))
def test_no_damage_raises_anything_but_the_typed_error(damage: list[tuple[int, int]]) -> None:
    """Any few bytes of a file may be anything."""
    data = bytearray(simple_elf([Sym(name="main", value=0x1000, size=16)]))
    for at, value in damage:
        data[at % len(data)] = value
    try:
        elf = parse_elf_bytes(bytes(data))
        check_sizes(elf, limit=GIB)
        build_id(elf)
        for section in elf.sections:
            elf.content(section, limit=1 << 20)
    except SymbolFileError:
        pass


def test_a_bomb_is_refused_by_what_it_claims() -> None:
    """Compressed sections that claim more than the limit in sum are refused before anything is inflated."""
    writer = ElfWriter().text()
    for name in (".debug_info", ".debug_line", ".debug_str"):
        writer.add(Sec(name=name, data=compressed(b"", GIB), flags=SHF_COMPRESSED))
    elf = parse_elf_bytes(bytes(writer))
    with pytest.raises(SymbolFileError, match="inflate to") as caught:
        check_sizes(elf, limit=2 * GIB)
    assert caught.value.fault is Fault.INFLATES
    check_sizes(elf, limit=4 * GIB)


def test_gnu_style_compression_counts_too() -> None:
    """`.zdebug_*` sections of old tools carry their size big-endian after a magic word."""
    data = b"ZLIB" + (3 * GIB).to_bytes(8, "big") + b"x" * 8
    elf = parse_elf_bytes(bytes(ElfWriter().text().add(Sec(name=".zdebug_info", data=data))))
    with pytest.raises(SymbolFileError):
        check_sizes(elf, limit=2 * GIB)


@pytest.mark.parametrize("kind", ["zlib", "zstd", "gnu"])
def test_compressed_sections_are_inflated(kind: str) -> None:
    """All three ways to compress a section give its bytes back."""
    plain = bytes(range(256)) * 40
    if kind == "gnu":
        section = Sec(name=".zdebug_x", data=b"ZLIB" + len(plain).to_bytes(8, "big") + zlib.compress(plain))
    else:
        packed = zlib.compress(plain) if kind == "zlib" else zstandard.compress(plain)
        data = compressed(packed, len(plain), kind=1 if kind == "zlib" else 2)
        section = Sec(name=".debug_x", data=data, flags=SHF_COMPRESSED)
    elf = parse_elf_bytes(bytes(ElfWriter().text().add(section)))
    found = elf.section(section.name)
    assert found is not None
    assert elf.content(found, limit=1 << 20) == plain


@pytest.mark.parametrize("claimed", [10, 1000])
def test_a_stream_that_does_not_keep_its_claim_is_refused(claimed: int) -> None:
    """Neither more nor less than the header says comes out of a section."""
    data = compressed(zlib.compress(bytes(100)), claimed)
    elf = parse_elf_bytes(bytes(ElfWriter().text().add(Sec(name=".d", data=data, flags=SHF_COMPRESSED))))
    section = elf.section(".d")
    assert section is not None
    with pytest.raises(SymbolFileError) as caught:
        elf.content(section, limit=1 << 20)
    assert caught.value.fault is Fault.COMPRESSION


def test_xz_is_bounded() -> None:
    """What inflates beyond the limit, and what is no xz, is refused."""
    packed = lzma.compress(bytes(1 << 20))
    assert unxz(packed, limit=1 << 20) == bytes(1 << 20)
    with pytest.raises(SymbolFileError) as caught:
        unxz(packed, limit=(1 << 20) - 1)
    assert caught.value.fault is Fault.INFLATES
    with pytest.raises(SymbolFileError) as caught:
        unxz(b"no xz at all", limit=100)
    assert caught.value.fault is Fault.COMPRESSION


def test_what_the_system_runs_on_is_read_as_readelf_reads_it() -> None:
    """Build ID and number of sections of the C library equal those that an independent tool prints."""
    path = next(path for path in Path("/lib/x86_64-linux-gnu").glob("libc.so.6"))
    with path.open("rb") as file:
        elf = open_elf(file)
        notes = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True).stdout
        header = subprocess.run(["readelf", "-h", path], capture_output=True, text=True, check=True).stdout
        assert str(build_id(elf)) in notes
        assert f"Number of section headers:         {len(elf.sections)}" in header


def test_reading_through_an_open_file_is_the_same() -> None:
    """`open_elf` and `parse_elf_bytes` agree."""
    data = simple_elf([])
    assert open_elf(io.BytesIO(data)).sections == parse_elf_bytes(data).sections


def test_a_symbol_table_section_keeps_its_link() -> None:
    """The link of a symbol table is the number of its strings."""
    elf = parse_elf_bytes(simple_elf([]))
    table = next(section for section in elf.sections if section.type == SHT_SYMTAB)
    assert elf.sections[table.link].name == ".strtab"
