"""The vDSO's image."""

from agent.procmaps import Region
from agent.vdso import NAME, Vdso, describe
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
