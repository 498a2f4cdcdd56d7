"""The vDSO's image."""

import os
import struct
from pathlib import Path

import numpy as np

from agent.addresses import NOWHERE
from agent.openat import read_all
from agent.procmaps import Region, iter_executable
from agent.vdso import NAME, Vdso, describe, open_copy, read_base
from fleetflame.buildid import BuildId, from_file_ends
from fleetflame.model import MappingKind
from tests.support.elf import PT_NOTE, ElfWriter, Sec, Seg, gnu_note


def test_an_image_is_described_by_its_note() -> None:
    """Build ID and segments, as of any ELF file."""
    note = gnu_note(b"\7" * 20)
    segments = [Seg(type=PT_NOTE, offset=64 + 112, filesz=len(note)), Seg(offset=0, vaddr=0, filesz=250)]
    mapping = describe(bytes(ElfWriter(sections=[Sec(name=".note", data=note, align=1)], segments=segments)))
    assert (mapping.kind, mapping.build_id, mapping.path) == (MappingKind.VDSO, BuildId(b"\7" * 20), "[vdso]")
    assert len(mapping.segments) == 1


def test_an_image_without_a_note_is_known_by_its_bytes() -> None:
    """Some distributions build the kernel without."""
    image = bytes(ElfWriter().text())
    assert describe(image).build_id == from_file_ends(image[:4096], image[-4096:], len(image))


def test_the_image_of_a_32_bit_process_that_cannot_be_read_is_no_mapping() -> None:
    """Nothing is guessed for it: it differs from ours."""
    region = Region(0xF7F00000, 0xF7F02000, 0, (0, 0), 0, NAME, False, True)
    assert Vdso().mapping(-1, region) is None


def test_the_base_is_where_maps_show_it() -> None:
    """Of this process, from its auxiliary vector."""
    line = next(line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[vdso]"))
    fd = os.open("/proc/self", os.O_PATH)
    base = read_base(fd)
    table = Vdso().table(base)
    assert base == int(line.partition("-")[0], 16)
    assert table is not None
    target, within = table.resolve(np.array([base + 5, base - 1], np.uint64))
    assert (target.tolist(), int(within[0])) == ([0, NOWHERE], 5)
    own = next(region for region in iter_executable([read_all(fd, "maps")]) if region.path == NAME)
    assert table.targets == (Vdso().mapping(fd, own),)
    os.close(fd)


def test_a_process_without_a_vdso_has_no_base(tmp_path: Path) -> None:
    """An unreadable or empty vector, one that is cut off, and one of a 32-bit process."""
    fd = os.open(tmp_path, os.O_PATH)
    for auxv in (b"", b"\1" * 7, struct.pack("<QQQQ", 6, 4096, 0, 0), struct.pack("<IIII", 33, 0xF7F00000, 0, 0)):
        (tmp_path / "auxv").write_bytes(auxv)
        assert read_base(fd) == 0
    assert Vdso().table(0) is None
    os.close(fd)


def test_our_own_image_can_be_lent() -> None:
    """Under its build ID only; the copy has the same note."""
    mapping = Vdso().table(1).targets[0]  # type: ignore[union-attr]
    assert mapping.build_id
    fd = open_copy(mapping.build_id)
    assert fd is not None
    try:
        assert describe(os.pread(fd, 1 << 20, 0)).build_id == mapping.build_id
    finally:
        os.close(fd)
    assert open_copy(BuildId(b"\1" * 20)) is None
