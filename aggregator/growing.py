"""Numbers for keys, and prefix trees, that only grow: what has a number keeps it, so that others may refer to it.

Both are values: growing gives a new one, and the old one stays as it was for whoever holds it. So a cache can hand
them out to any number of threads. Pure numpy; a step costs a search of what is new, and a copy.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.distinct import distinct, distinct_runs

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

_BITS = np.uint64(32)
_MASK = np.uint64(0xFFFFFFFF)
ABSENT = -1


@dataclass(frozen=True, slots=True)
class Numbering:
    """Numbers of some keys: `number[i]` is that of `keys[i]`, which ascend."""

    keys: U64
    number: U32

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: U64) -> I64:
        """The number of each of `keys`, ABSENT if it has none."""
        if not len(self.keys):
            return np.full(len(keys), ABSENT)
        at = np.searchsorted(self.keys, keys)
        at[at == len(self.keys)] = 0
        return np.where(self.keys[at] == keys, self.number[at].astype(np.int64), ABSENT)

    def numbered(self, keys: U64) -> tuple["Numbering", I64]:
        """These and new ones for those of `keys` that have none, counted on from the last; the number of each."""
        values, index = distinct(keys)
        found = self.find(values)
        absent = found == ABSENT
        fresh = values[absent]
        if not len(fresh):
            return self, found[index]
        found[absent] = np.arange(len(self), len(self) + len(fresh))
        return self.merged(fresh, found[absent].astype(np.uint32)), found[index]

    def merged(self, keys: U64, number: U32) -> "Numbering":
        """These and others: `keys` ascend, and none is here yet."""
        at = np.searchsorted(self.keys, keys)
        return Numbering(np.insert(self.keys, at, keys), np.insert(self.number, at, number))


NO_NUMBERS = Numbering(np.zeros(0, np.uint64), np.zeros(0, np.uint32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Growing:
    """A prefix tree: node 0 is the root, its own parent; every other node comes after its parent.

    `item` says what a node adds to its parent's path; `depth` counts the nodes above it.
    """

    parent: U32
    item: U32
    depth: U32
    edges: Numbering
    """(parent << 32 | item) -> node."""

    def __len__(self) -> int:
        return len(self.parent)

    def paths(self, nodes: I64) -> tuple[I64, I64]:
        """The items from the root to each of `nodes` as columns: offsets, items."""
        length = self.depth[nodes].astype(np.int64)
        offsets = np.zeros(len(nodes) + 1, np.int64)
        np.cumsum(length, out=offsets[1:])
        items = np.empty(int(offsets[-1]), np.int64)
        place, node = offsets[1:] - 1, nodes
        while len(node):
            inside = node != 0
            place, node = place[inside], node[inside]
            items[place] = self.item[node]
            place, node = place - 1, self.parent[node].astype(np.int64)
        return offsets, items


def only_root() -> Growing:
    """The tree that every other grows from."""
    zero = np.zeros(1, np.uint32)
    return Growing(parent=zero, item=zero, depth=np.zeros(1, np.uint32), edges=NO_NUMBERS)


class Growth:
    """One step of a tree's growth. Steps must be taken level by level: all nodes below one parent at a time."""

    def __init__(self, tree: Growing) -> None:
        self._tree = tree
        self._size = len(tree)
        self._fresh: list[U64] = []

    def step(self, parent: I64, item: I64) -> I64:
        """The node below each `parent` that adds `item`: the one that is there, or a new one."""
        keys = (parent.astype(np.uint64) << _BITS) | item.astype(np.uint64)
        values, index = distinct_runs(keys)
        # What grew a moment ago has no child in the old tree.
        old = int(np.searchsorted(values, np.uint64(len(self._tree)) << _BITS))
        node = np.full(len(values), ABSENT)
        node[:old] = self._tree.edges.find(values[:old])
        absent = node == ABSENT
        fresh = values[absent]
        node[absent] = np.arange(self._size, self._size + len(fresh))
        self._size += len(fresh)
        self._fresh.append(fresh)
        return node[index]

    def tree(self) -> Growing:
        """The tree with all that was added."""
        old, keys = self._tree, np.concatenate([np.zeros(0, np.uint64), *self._fresh])
        if not len(keys):
            return old
        parent, item = (keys >> _BITS).astype(np.uint32), (keys & _MASK).astype(np.uint32)
        depth = np.concatenate((old.depth, np.zeros(len(keys), np.uint32)))
        at = len(old)
        for level in self._fresh:
            depth[at : at + len(level)] = depth[parent[at - len(old) : at - len(old) + len(level)]] + np.uint32(1)
            at += len(level)
        order = np.argsort(keys)
        number = (order + len(old)).astype(np.uint32)
        return Growing(
            parent=np.concatenate((old.parent, parent)),
            item=np.concatenate((old.item, item)),
            depth=depth,
            edges=old.edges.merged(keys[order], number),
        )


def grown(tree: Growing, length: I64, item: Callable[[I64, int], I64]) -> tuple[Growing, I64]:
    """The tree with `len(length)` more paths, and the node where each ends.

    `item(rows, depth)` gives the items (0 .. 2^32 - 1) of these paths at that depth, which is below their length.
    """
    end = np.zeros(len(length), np.int64)
    rows, growth, depth = np.arange(len(length)), Growth(tree), 0
    while True:
        rows = rows[length[rows] > depth]
        if not len(rows):
            return growth.tree(), end
        end[rows] = growth.step(end[rows], item(rows, depth))
        depth += 1
