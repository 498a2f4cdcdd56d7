"""The prefix tree, against plain dictionaries and loops."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.trie import Trie, grow, inherit, join, outermost, paths, preorder, prune, starts, totals

stacks_of = st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=15)


def tree(stacks: list[list[int]]) -> tuple[Trie, list[int]]:
    """The tree of these stacks, and where each ends."""
    length = np.array([len(stack) for stack in stacks], np.int64)
    made, end = grow(length, lambda rows, depth: np.array([stacks[row][depth] for row in rows.tolist()], np.int64))
    return made, end.tolist()


def path(made: Trie, node: int) -> tuple[int, ...]:
    """The items from the root to a node, by walking up."""
    found: list[int] = []
    while node:
        found.insert(0, int(made.item[node]))
        node = int(made.parent[node])
    return tuple(found)


def prefixes(stacks: list[list[int]]) -> set[tuple[int, ...]]:
    """All prefixes of all stacks."""
    return {tuple(stack[:size]) for stack in stacks for size in range(len(stack) + 1)} | {()}


@given(stacks_of)
def test_each_prefix_is_one_node(stacks: list[list[int]]) -> None:
    """Nodes are the prefixes, level by level, sorted by parent and item; stacks end where they should."""
    made, end = tree(stacks)
    all_paths = [path(made, node) for node in range(len(made))]
    assert len(all_paths) == len(set(all_paths))
    assert set(all_paths) == prefixes(stacks)
    assert [all_paths[node] for node in end] == [tuple(stack) for stack in stacks]
    assert all_paths == sorted(all_paths, key=lambda each: (len(each), each))
    assert made.depth.tolist() == [len(each) for each in all_paths]


@given(stacks_of, stacks_of)
def test_joining_is_growing_from_all(one: list[list[int]], other: list[list[int]]) -> None:
    """The join of two trees is the tree of both sets of stacks, and says where each node went."""
    (left, _), (right, _), (both, _) = tree(one), tree(other), tree(one + other)
    joined, where = join([left, right])
    assert joined.item.tolist() == both.item.tolist()
    assert joined.parent.tolist() == both.parent.tolist()
    assert joined.levels.tolist() == both.levels.tolist()
    for part, at in zip((left, right), where, strict=True):
        assert [path(joined, node) for node in at.tolist()] == [path(part, node) for node in range(len(part))]


@given(stacks_of)
def test_walks_and_sums_agree_with_loops(stacks: list[list[int]]) -> None:
    """Totals, preorder, paths, inherited flags and outermost nodes are what their definitions say."""
    made, end = tree(stacks)
    own = np.bincount(end, minlength=len(made)).astype(np.uint64)
    all_paths = [path(made, node) for node in range(len(made))]
    expected = [sum(tuple(stack[: len(each)]) == each for stack in stacks) for each in all_paths]
    assert totals(made, own).tolist() == expected
    assert [all_paths[node] for node in preorder(made).tolist()] == sorted(all_paths)
    offsets, items = paths(made, np.arange(len(made)))
    assert [tuple(items[a:b].tolist()) for a, b in pairwise(offsets)] == all_paths
    flag = made.item == 2
    flag[0] = False
    assert inherit(made, flag).tolist() == [2 in each for each in all_paths]
    assert outermost(made)[1:].tolist() == [each[-1] not in each[:-1] for each in all_paths[1:]]


@given(stacks_of)
def test_siblings_lie_side_by_side(stacks: list[list[int]]) -> None:
    """Each node begins where the siblings before it, and what is beside their parent, end."""
    made, end = tree(stacks)
    own = np.bincount(end, minlength=len(made)).astype(np.uint64)
    total = totals(made, own)
    start = starts(made, total)
    for node in range(1, len(made)):
        parent = int(made.parent[node])
        before = [n for n in range(1, node) if made.parent[n] == parent]
        assert start[node] == start[parent] + sum(int(total[n]) for n in before)


@given(stacks_of, st.integers(0, 4))
def test_pruning_keeps_what_is_marked(stacks: list[list[int]], least: int) -> None:
    """The rest of the tree is as it was."""
    made, end = tree(stacks)
    keep = totals(made, np.bincount(end, minlength=len(made)).astype(np.uint64)) >= least
    keep[0] = True
    smaller, kept = prune(made, keep)
    assert kept.tolist() == np.flatnonzero(keep).tolist()
    assert [path(smaller, node) for node in range(len(smaller))] == [path(made, node) for node in kept.tolist()]
    assert smaller.depth.tolist() == made.depth[kept].tolist()
