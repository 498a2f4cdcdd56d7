"""Room in an array: never given twice, all of it usable again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.unwind.extents import Extents


@given(st.integers(1, 60), st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=80))
def test_what_is_taken_is_nobody_elses(size: int, steps: list[tuple[bool, int]]) -> None:
    """Whatever is taken and given back in whatever order; at the end the whole of it is one gap again."""
    extents = Extents(size)
    taken: dict[int, int] = {}
    for take, number in steps:
        if take or not taken:
            start = extents.take(number)
            if start is None:
                continue
            mine = set(range(start, start + number))
            assert mine <= set(range(size))
            assert not any(mine & set(range(first, first + length)) for first, length in taken.items())
            taken[start] = number
        else:
            first = sorted(taken)[number % len(taken)]
            extents.give_back(first, taken.pop(first))
        assert extents.free == size - sum(taken.values())
    for first, length in taken.items():
        extents.give_back(first, length)
    assert extents.take(size) == 0


def test_no_gap_is_large_enough() -> None:
    """Room in pieces is no room; nothing is taken then."""
    extents = Extents(3)
    assert [extents.take(1) for _ in range(3)] == [0, 1, 2]
    extents.give_back(0, 1)
    extents.give_back(2, 1)
    assert extents.take(2) is None
    assert extents.free == 2


def test_freeing_twice_is_noticed() -> None:
    """It would be given to two."""
    extents = Extents(4)
    extents.take(2)
    extents.give_back(0, 2)
    with pytest.raises(AssertionError, match="freed twice"):
        extents.give_back(1, 1)
