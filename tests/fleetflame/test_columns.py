"""Prefix sharing and deltas lose nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fleetflame import columns
from tests.support.batches import stack_table, stacks_of

FRAME = st.tuples(st.integers(0, 2), st.integers(0, 3))
STACKS = st.lists(st.lists(FRAME, max_size=5), max_size=20)


def common_prefix(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


@given(STACKS)
def test_shared_prefixes_are_what_comparing_neighbours_frame_by_frame_gives(
    stacks: list[list[tuple[int, int]]],
) -> None:
    """The vectorised search agrees with the obvious one."""
    shared = columns.shared_prefixes(stack_table(stacks)).tolist()
    assert shared == [common_prefix(([[], *stacks])[i], stack) for i, stack in enumerate(stacks)]


@given(STACKS)
def test_expanding_fresh_frames_gives_the_stacks_back(stacks: list[list[tuple[int, int]]]) -> None:
    """Only fresh frames are kept, and with the shared lengths they are enough."""
    table = stack_table(stacks)
    shared = columns.shared_prefixes(table)
    fresh = columns.fresh_frames(table.offsets, shared)
    source = columns.expand(shared, np.diff(table.offsets).astype(np.int64) - shared)
    assert table.mapping[fresh][source].tolist() == table.mapping.tolist()
    assert table.address[fresh][source].tolist() == table.address.tolist()
    assert len(fresh) == len(table.mapping) - shared.sum()
    assert stacks_of(table) == stacks


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, (1 << 64) - 1))))
def test_deltas_within_groups_are_undone(rows: list[tuple[int, int]]) -> None:
    """Differences wrap at 2^64 and so do their sums."""
    group = np.array([group for group, _ in rows], np.uint32)
    value = np.array([value for _, value in rows], np.uint64)
    assert columns.undeltas(group, columns.deltas(group, value)).tolist() == value.tolist()


def test_a_delta_is_taken_to_the_last_value_of_the_same_group() -> None:
    """Another group in between does not matter, and the first of a group counts from 0."""
    group = np.array([5, 9, 5, 9], np.uint32)
    value = np.array([100, 7, 103, 6], np.uint64)
    assert columns.deltas(group, value).tolist() == [100, 7, 3, -1]
