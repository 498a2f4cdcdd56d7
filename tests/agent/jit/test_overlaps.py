"""Which of many ranges holds a place last, against doing it one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.jit.overlaps import NOTHING, last_holding, surviving

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=40)


def columns(ranges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    start = np.array([start for start, _ in ranges], np.uint64)
    return start, start + np.array([size for _, size in ranges], np.uint64)


@given(RANGES)
def test_what_no_later_range_overlaps_survives(ranges: list[tuple[int, int]]) -> None:
    """Ranges that were written over in part are gone as a whole."""
    alive = [
        number
        for number, (start, size) in enumerate(ranges)
        if not any(other < start + size and start < other + length for other, length in ranges[number + 1 :])
    ]
    kept = surviving(*columns(ranges)).tolist()
    assert sorted(kept) == alive
    assert [ranges[number][0] for number in kept] == sorted(ranges[number][0] for number in kept)


@given(RANGES, st.sets(st.integers(0, 100)))
def test_each_point_has_the_greatest_value_that_holds_it(ranges: list[tuple[int, int]], points: set[int]) -> None:
    """NOTHING where no range is."""
    value = [7 * number % 11 for number in range(len(ranges))]
    found = last_holding(np.array(sorted(points), np.uint64), *columns(ranges), np.array(value, np.int64))
    assert found.tolist() == [
        max((v for v, (start, size) in zip(value, ranges, strict=True) if start <= p < start + size), default=NOTHING)
        for p in sorted(points)
    ]


def test_a_hundred_thousand_ranges_over_each_other_take_no_longer() -> None:
    """The worst that a map can be: all of its code at one place."""
    count = 100_000
    start = np.full(count, 0x1000, np.uint64) + np.arange(count, dtype=np.uint64) % np.uint64(64)
    assert surviving(start, start + np.uint64(1 << 20)).tolist() == [count - 1]
