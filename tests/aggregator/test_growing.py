"""Numberings and trees that grow: against dictionaries, in one piece and in many."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.growing import ABSENT, NO_NUMBERS, Growing, Growth, grown, only_root

Paths = list[list[int]]

some_keys = st.lists(st.one_of(st.integers(0, 40), st.integers(2**63, 2**64 - 1)), max_size=30)
some_paths = st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=12)


def add(tree: Growing, paths: Paths) -> tuple[Growing, list[int]]:
    """The tree with `paths`, and where each ends."""
    length = np.array([len(path) for path in paths], np.int64)

    def item(rows: np.ndarray, depth: int) -> np.ndarray:
        return np.array([paths[row][depth] for row in rows.tolist()], np.int64)

    tree, end = grown(tree, length, item)
    return tree, end.tolist()


def path_of(tree: Growing, node: int) -> list[int]:
    """The items from the root to `node`, walked the slow way."""
    path: list[int] = []
    while node:
        path.insert(0, int(tree.item[node]))
        node = int(tree.parent[node])
    return path


@given(st.lists(some_keys, max_size=4))
def test_a_key_keeps_the_number_it_got(pieces: list[list[int]]) -> None:
    """Equal keys have equal numbers, new ones are counted on, and an older numbering stays as it was."""
    numbering, known = NO_NUMBERS, dict[int, int]()
    for piece in pieces:
        before = numbering
        numbering, found = numbering.numbered(np.array(piece, np.uint64))
        for key, number in zip(piece, found.tolist(), strict=True):
            assert known.setdefault(key, number) == number
        assert sorted(known.values()) == list(range(len(numbering)))
        fresh = np.array([key for key in known if known[key] >= len(before)], np.uint64)
        assert (before.find(fresh) == ABSENT).all()
    assert numbering.find(np.array(list(known), np.uint64)).tolist() == list(known.values())


@given(st.lists(some_paths, min_size=1, max_size=4))
def test_paths_come_back_however_they_came_in(pieces: list[Paths]) -> None:
    """Each path ends where it says, equal ones at one node, and no node stands before its parent."""
    tree, ends = only_root(), dict[tuple[int, ...], int]()
    for piece in pieces:
        before = tree
        tree, end = add(tree, piece)
        for path, node in zip(piece, end, strict=True):
            assert path_of(tree, node) == path
            assert ends.setdefault(tuple(path), node) == node
        for column in ("parent", "item", "depth"):
            assert np.array_equal(getattr(tree, column)[: len(before)], getattr(before, column))
    assert len(tree) == len({path[:size] for path in ends for size in range(len(path) + 1)} | {()})
    assert (tree.parent[1:] < np.arange(1, len(tree))).all()
    assert (tree.depth[1:] == tree.depth[tree.parent[1:]] + 1).all()
    offsets, items = tree.paths(np.array(list(ends.values()), np.int64))
    assert [items[a:b].tolist() for a, b in pairwise(offsets)] == [list(path) for path in ends]


def test_growth_finds_what_is_there() -> None:
    """A step to a node that the tree has adds nothing."""
    tree, _ = add(only_root(), [[1, 2], [1, 3]])
    growth = Growth(tree)
    one = growth.step(np.zeros(2, np.int64), np.array([1, 1]))
    assert one.tolist() == [1, 1]
    assert growth.tree() is tree
