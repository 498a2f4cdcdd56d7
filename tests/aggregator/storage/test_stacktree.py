"""Stacks as a tree: what goes in comes out, whatever is there already."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.storage import ids
from aggregator.storage.stacktree import StackTree
from aggregator.storage.types import StackRows

Stack = list[tuple[int, int]]
"""(mapping id, address), root first."""

BIG = 2**64 - 1
frames = st.tuples(st.sampled_from([7, 8, BIG]), st.sampled_from([0, 16, 17, 2**63, BIG]))
stacks = st.lists(st.lists(frames, max_size=5), max_size=8)


def rows_of(stacks: list[Stack]) -> StackRows:
    """The stacks with their ids."""
    flat = [frame for stack in stacks for frame in stack]
    offsets = np.cumsum([0, *map(len, stacks)]).astype(np.uint64)
    mapping = np.array([frame[0] for frame in flat], np.uint64)
    address = np.array([frame[1] for frame in flat], np.uint64)
    return StackRows(ids=ids.stack_ids(offsets, mapping, address), offsets=offsets, mapping=mapping, address=address)


def stacks_of(rows: StackRows) -> list[Stack]:
    """The stacks as they were made."""
    frames = list(zip(rows.mapping.tolist(), rows.address.tolist(), strict=True))
    ends = rows.offsets.tolist()
    return [frames[a:b] for a, b in pairwise(ends)]


@given(st.lists(stacks, min_size=1, max_size=4))
def test_stacks_come_back(pieces: list[list[Stack]]) -> None:
    """By id, with their frames; nodes and places keep their numbers."""
    tree = StackTree()
    for piece in pieces:
        before, rows = tree, rows_of(piece)
        tree = tree.with_stacks(ids.taken(rows, np.flatnonzero(tree.find(rows.ids) < 0)))
        assert stacks_of(tree.rows(rows.ids, tree.find(rows.ids))) == piece
        assert tree.lineage is before.lineage
        assert np.array_equal(tree.mapping[: len(before.mapping)], before.mapping)
        assert np.array_equal(tree.address[: len(before.address)], before.address)
        assert np.array_equal(tree.find(before.ends.keys), before.ends.number)
    assert len(set(zip(tree.mapping.tolist(), tree.address.tolist(), strict=True))) == len(tree.mapping)


def test_what_is_not_there_has_no_node() -> None:
    """Nor does asking add it."""
    tree = StackTree().with_stacks(rows_of([[(7, 1)]]))
    assert tree.find(np.array([5], np.uint64)).tolist() == [-1]
    assert len(tree) == 1
