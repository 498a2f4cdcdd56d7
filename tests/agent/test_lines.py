"""Blocks of whole lines."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.lines import whole_lines

TEXT = b"one\n\nthree\nlast without an end"


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=8))
def test_any_partition_has_the_same_lines(cuts: list[int]) -> None:
    """Blocks end with a line, whatever chunks they came in; a last line without an end gets one."""
    bounds = [0, *sorted(cuts), len(TEXT)]
    chunks = [TEXT[start:end] for start, end in pairwise(bounds)]
    blocks = list(whole_lines(chunks, longest=100))
    assert all(block.endswith(b"\n") for block in blocks)
    assert b"".join(blocks) == TEXT + b"\n"


def test_a_line_without_end_is_not_kept() -> None:
    """Memory is bounded by the longest line that counts; what follows such a line is read again."""
    chunks = [b"first\n", *[b"x" * 50] * 10, b"x\nlast\n"]
    found = b"".join(whole_lines(chunks, longest=100))
    assert found.startswith(b"first\n")
    assert found.endswith(b"\nlast\n")
    assert len(re.findall(b"x", found)) <= 151
