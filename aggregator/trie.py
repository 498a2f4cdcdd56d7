"""Stacks as a prefix tree, built and walked level by level with numpy: no loop over stacks, frames or nodes.

    stacks  a;b 1      nodes   0 (root)       levels [0, 1, 2, 4]
            a;c 2              1 a            parent [0, 0, 1, 1]
                               2 b   3 c      item   [0, a, b, c]

Nodes stand level by level; within a level by (parent, item). So the same set of stacks gives the same tree whatever
order and however many pieces it came in, a parent stands before its children, and siblings stand side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.distinct import distinct_runs

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

_ITEM_BITS = np.uint64(32)
_ITEM_MASK = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trie:
    """Node 0 is the root, which stands for no frame; it is its own parent. Level d is [levels[d], levels[d + 1])."""

    parent: I64
    item: I64
    levels: I64

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def depth(self) -> I64:
        """Frames from the root to each node: 0 for the root."""
        return np.repeat(np.arange(len(self.levels) - 1), np.diff(self.levels))


def grow(length: I64, item: Callable[[I64, int], I64]) -> tuple[Trie, I64]:
    """The tree of `len(length)` stacks and the node where each ends.

    `item(rows, depth)` gives the items (0 .. 2^32 - 1) of these stacks at that depth, which is below their length.
    """
    end = np.zeros(len(length), np.int64)
    rows = np.arange(len(length))
    levels = Levels()
    depth = 0
    while True:
        rows = rows[length[rows] > depth]
        if not len(rows):
            return levels.trie(), end
        end[rows] = levels.add(end[rows], item(rows, depth))
        depth += 1


def join(tries: Sequence[Trie]) -> tuple[Trie, list[I64]]:
    """One tree with the nodes of all, whose items must count the same things; and where each one's nodes are in it."""
    where = [np.zeros(len(trie), np.int64) for trie in tries]
    levels = Levels()
    for depth in range(1, max((len(trie.levels) for trie in tries), default=1) - 1):
        spans = [_level(trie, depth) for trie in tries]
        parents = [at[trie.parent[span]] for at, trie, span in zip(where, tries, spans, strict=True)]
        items = [trie.item[span] for trie, span in zip(tries, spans, strict=True)]
        nodes = levels.add(np.concatenate(parents), np.concatenate(items))
        for at, span, part in zip(
            where, spans, np.split(nodes, np.cumsum([len(p) for p in parents])[:-1]), strict=True
        ):
            at[span] = part
    return levels.trie(), where


def prune(trie: Trie, keep: NDArray[np.bool_]) -> tuple[Trie, I64]:
    """The tree of the nodes marked in `keep`, and which nodes these were. A kept node's parent must be kept."""
    kept = np.flatnonzero(keep)
    number = np.cumsum(keep) - 1
    counts = np.add.reduceat(keep, trie.levels[:-1], dtype=np.int64)
    levels = np.concatenate(([0], np.cumsum(counts[counts > 0])))
    return Trie(parent=number[trie.parent[kept]], item=trie.item[kept], levels=levels), kept


def totals(trie: Trie, own: U64) -> U64:
    """What each node and all below it have together, from what each has on its own."""
    total = own.copy()
    for depth in range(len(trie.levels) - 2, 0, -1):
        span = _level(trie, depth)
        eldest = np.flatnonzero(_eldest(trie.parent[span]))
        total[trie.parent[span][eldest]] += np.add.reduceat(total[span], eldest)
    return total


def inherit(trie: Trie, flag: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each node whether it or a node above it has the flag."""
    result = flag.copy()
    for depth in range(1, len(trie.levels) - 1):
        span = _level(trie, depth)
        result[span] |= result[trie.parent[span]]
    return result


def starts(trie: Trie, extent: U64, *, own_first: U64 | None = None) -> U64:
    """Where each node begins when siblings are laid side by side from their parent's beginning, each `extent` long.

    `own_first` is room that a parent keeps for itself before its first child.
    """
    start = np.zeros(len(trie), np.uint64)
    for depth in range(1, len(trie.levels) - 1):
        span = _level(trie, depth)
        parent = trie.parent[span]
        before = np.cumsum(extent[span], dtype=np.uint64) - extent[span]
        eldest = np.maximum.accumulate(np.where(_eldest(parent), np.arange(len(parent)), 0))
        start[span] = start[parent] + before - before[eldest]
        if own_first is not None:
            start[span] += own_first[parent]
    return start


def preorder(trie: Trie) -> I64:
    """All nodes in the order of a walk that visits a node, then its children: the order of sorted stacks."""
    ones = np.ones(len(trie), np.uint64)
    position = starts(trie, totals(trie, ones), own_first=ones)
    order = np.empty(len(trie), np.int64)
    order[position.astype(np.int64)] = np.arange(len(trie))
    return order


def outermost(trie: Trie) -> NDArray[np.bool_]:
    """For each node whether no node above it has the same item: those whose totals may be added up by item.

    A walk visits all below a node before anything else. So of the nodes of one item, in the order of the walk, those
    lie below another that come before its last descendant.
    """
    ones = np.ones(len(trie), np.uint64)
    size = totals(trie, ones)
    # The root stands for no item, so that none lies below it in this sense.
    group = np.where(np.arange(len(trie)) > 0, trie.item + 1, 0).astype(np.uint64) * np.uint64(len(trie) + 1)
    first = group + starts(trie, size, own_first=ones)
    order = np.argsort(first)
    # Groups lie apart, so that the furthest end so far is never one of another item.
    reach = np.maximum.accumulate((first + size)[order])
    result = np.ones(len(trie), bool)
    result[order[1:]] = first[order[1:]] >= reach[:-1]
    return result


def paths(trie: Trie, nodes: I64) -> tuple[I64, I64]:
    """The items from the root to each of `nodes` as columns: offsets, items."""
    length = trie.depth[nodes]
    offsets = np.concatenate(([0], np.cumsum(length)))
    items = np.empty(offsets[-1], np.int64)
    place, node = offsets[1:] - 1, nodes
    while len(node):
        inside = node != 0
        place, node = place[inside], node[inside]
        items[place] = trie.item[node]
        place, node = place - 1, trie.parent[node]
    return offsets, items


def _eldest(parent: I64) -> NDArray[np.bool_]:
    """For each node of a level whether it is the first of its siblings."""
    first = np.ones(len(parent), bool)
    np.not_equal(parent[1:], parent[:-1], out=first[1:])
    return first


def _level(trie: Trie, depth: int) -> slice:
    if depth >= len(trie.levels) - 1:
        return slice(0, 0)
    return slice(int(trie.levels[depth]), int(trie.levels[depth + 1]))


class Levels:
    """A tree under construction, level by level; it has its root already."""

    def __init__(self) -> None:
        self._parents: list[I64] = [np.zeros(1, np.int64)]
        self._items: list[I64] = [np.zeros(1, np.int64)]
        self._bounds = [0, 1]

    def add(self, parent: I64, item: I64) -> I64:
        """Nodes of the next level for these (parent, item), which may repeat; the node of each."""
        keys = (parent.astype(np.uint64) << _ITEM_BITS) | item.astype(np.uint64)
        nodes, index = distinct_runs(keys)
        self._parents.append((nodes >> _ITEM_BITS).astype(np.int64))
        self._items.append((nodes & _ITEM_MASK).astype(np.int64))
        self._bounds.append(self._bounds[-1] + len(nodes))
        return index + self._bounds[-2]

    def trie(self) -> Trie:
        """The tree of what was added."""
        return Trie(
            parent=np.concatenate(self._parents),
            item=np.concatenate(self._items),
            levels=np.array(self._bounds, np.int64),
        )
