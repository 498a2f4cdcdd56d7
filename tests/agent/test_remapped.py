"""Proof that anonymous memory is a copy of a file's text."""

from agent.elf import Load
from agent.procmaps import Region
from agent.remapped import find_bias, find_offset

# As lld lays out a program: each segment a page further in memory than in the file.
LOADS = (
    Load(0x0, 0x0, 0x900, 0x900, executable=False),
    Load(0x900, 0x1900, 0x3F00, 0x3F00, executable=True),
    Load(0x4800, 0x6800, 0x200, 0x500, executable=False),
)
BIAS = 0x55D000000000


def region(start: int, end: int, offset: int = 0, *, path: bytes = b"/opt/a") -> Region:
    return Region(BIAS + start, BIAS + end, offset, (8, 1), 42, path, False, True)


HEAD, TEXT, DATA = region(0x0, 0x1000, 0x0), region(0x1000, 0x6000, 0x0), region(0x6000, 0x7000, 0x4000)


def test_a_copy_of_a_part_of_the_text_is_proven() -> None:
    """Its offset is that of the bytes that were there before."""
    shown = [HEAD, region(0x1000, 0x2000, 0x0), region(0x5000, 0x6000, 0x4000), DATA]
    assert find_offset(region(0x2000, 0x5000, path=b""), shown, LOADS) == 0x1000


def test_a_copy_of_the_whole_text_is_proven_by_the_other_segments() -> None:
    """Even if no executable page of the file is left."""
    assert find_offset(region(0x1000, 0x6000, path=b""), [HEAD, DATA], LOADS) == 0x0


def test_memory_beyond_the_text_is_no_copy() -> None:
    """Generated code next to a file's text is not taken for it."""
    shown = [HEAD, TEXT, DATA]
    assert find_offset(region(0x5000, 0x8000, path=b""), shown, LOADS) is None
    assert find_offset(region(0x100000, 0x101000, path=b""), shown, LOADS) is None
    assert find_offset(region(0x0, 0x1000, path=b""), [DATA], LOADS) is None


def test_regions_that_disagree_prove_nothing() -> None:
    """A file that is mapped twice has two biases."""
    assert find_bias([DATA, region(0x106000, 0x107000, 0x4000)], LOADS) is None
    assert find_bias([], LOADS) is None
    assert find_bias([HEAD], ()) is None


def test_a_shared_page_is_decided_by_the_other_regions() -> None:
    """The file's first page is in two segments, and so is its last: each region alone allows two answers."""
    assert find_bias([HEAD], LOADS) is None
    assert find_bias([DATA], LOADS) is None
    assert find_bias([HEAD, DATA], LOADS) == BIAS
