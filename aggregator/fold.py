"""Profiles merged by name: the sum of all stacks that read the same, over nodes, builds and processes.

    fold(profile) -> Folded

Algebra: merging is associative and commutative, samples and nanoseconds are conserved, and what is merged does not
depend on how the input was split: any partition of the rows gives an equal `Folded`, hence the same bytes in every
format. That holds because a `Folded` is canonical: names ascending, nodes by (level, parent, name).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregator.growing import Growing
from aggregator.naming import FrameKind, clean, kind_of
from aggregator.profile import Completeness, Origin, Profile
from aggregator.trie import Levels, Trie, inherit, paths, preorder, totals

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

_BITS = np.uint64(32)
_MASK = np.uint64(0xFFFFFFFF)
_NONE = np.zeros(0, np.uint32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Stacks by name as a prefix tree: node i stands for the stack from the root to it.

    `trie.item` are indices into `names`, which are as written (with suffixes), ascending and each used; the first is
    "", the root's. `count` and `value` are the samples and nanoseconds of the stack that ends at the node; where a node
    other than the root has no children, some do. `timed` is False where only samples are known: `value` then equals
    `count`.
    """

    origin: Origin
    names: tuple[str, ...]
    trie: Trie
    count: U64
    value: U64
    timed: bool

    def stacks(self) -> tuple[I64, I64, I64]:
        """The stacks that have samples, sorted by name, root first: their nodes, offsets, and names of their frames."""
        order = preorder(self.trie)
        nodes = order[self.count[order] > 0]
        return (nodes, *paths(self.trie, nodes))

    def kinds(self) -> NDArray[np.uint8]:
        """The `FrameKind` of each node."""
        told = np.array([kind_of(name) for name in self.names], np.uint8)
        kinds = told[self.trie.item]
        depth = self.trie.depth
        kinds[depth < len(self.origin.by)] = FrameKind.LABEL
        kinds[depth == len(self.origin.by)] = FrameKind.PROCESS
        return kinds

    def completeness(self, kinds: NDArray[np.uint8] | None = None) -> Completeness:
        """How much of the stacks is known, in samples. `kinds` are what `kinds()` says, for who has them at hand."""
        kinds = self.kinds() if kinds is None else kinds
        truncated = self._below(kinds == FrameKind.TRUNCATED)
        unnamed = self._below(kinds == FrameKind.UNKNOWN) & ~truncated
        total, cut, bare = (int(self.count[nodes].sum()) for nodes in (slice(None), truncated, unnamed))
        return Completeness(whole=total - cut - bare, truncated=cut, unsymbolized=bare)

    def _below(self, flag: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return inherit(self.trie, flag) if flag.any() else flag

    def with_used_names(self) -> "Folded":
        """The same without names that no node has."""
        used = np.zeros(len(self.names), bool)
        used[self.trie.item] = True
        if used.all():
            return self
        number = np.cumsum(used) - 1
        names = tuple(self.names[index] for index in np.flatnonzero(used).tolist())
        return replace(self, names=names, trie=replace(self.trie, item=number[self.trie.item]))

    def total_counts(self) -> U64:
        """Samples of each node and all below it."""
        return totals(self.trie, self.count)

    def total_values(self) -> U64:
        """Nanoseconds of each node and all below it."""
        return totals(self.trie, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRows:
    """Stacks to fold, in any order, repeated as they like.

    Row i has the names of `prefix[group[i]]`, then those on the way to node `end[i]` of `tree`. All are indices into
    `names`, which may repeat too; none is empty. `rank`, if given, has the place of each name in their order.
    """

    names: Sequence[str]
    prefix: I64
    group: I64
    tree: Growing
    end: I64
    count: U64
    value: U64
    rank: I64 | None = None


def fold_rows(rows: NamedRows, origin: Origin, *, timed: bool) -> Folded:
    """`rows` merged by name. Rows without samples leave no trace."""
    some = rows.count > 0
    group, end, count, value = rows.group[some], rows.end[some], rows.count[some], rows.value[some]
    ways = _Ways(rows.tree, group, end)
    names, rank = _ranked(rows, ways.items(), np.unique(rows.prefix[group]))
    levels = Levels()
    # Groups first: each row of `prefix` is a way of its own, all of the same length.
    node = np.zeros(len(rows.prefix), np.int64)
    used = np.unique(group)
    for depth in range(rows.prefix.shape[1] if len(used) else 0):
        node[used] = levels.add(node[used], rank[rows.prefix[used, depth]])
    node_of = ways.lay_out(node, rank, levels)
    trie = levels.trie()
    return Folded(
        origin=origin,
        names=names,
        trie=trie,
        count=_sum_at(node_of, count, len(trie)),
        value=_sum_at(node_of, value if timed else count, len(trie)),
        timed=timed,
    )


def fold(profile: Profile) -> Folded:
    """`profile` merged by name, inlined frames expanded; group values and comm are the first frames."""
    named, by = profile.named, profile.origin.by
    labels = [label_name(label, value) for group in profile.groups for label, value in zip(by, group, strict=True)]
    rows = NamedRows(
        names=(*named.texts, *labels),
        prefix=np.arange(len(labels)).reshape(len(profile.groups), len(by)) + len(named.texts),
        group=profile.group,
        tree=named.tree,
        end=named.end[profile.stack],
        count=profile.count,
        value=profile.value,
        rank=named.rank,
    )
    return fold_rows(rows, profile.origin, timed=True)


class _Ways:
    """The ways of (group, node) pairs in a tree, level by level: each pair that is on one of them once."""

    def __init__(self, tree: Growing, group: I64, end: I64) -> None:
        self._tree = tree
        self._depth = tree.depth[end]
        self._keys = (group.astype(np.uint64) << _BITS) | end.astype(np.uint64)
        deepest = int(self._depth.max(initial=0))
        order = np.argsort(self._depth, kind="stable")
        bounds = np.searchsorted(self._depth[order], np.arange(deepest + 2))
        self._rows = [order[bounds[depth] : bounds[depth + 1]] for depth in range(deepest + 1)]
        self._levels: list[U64] = []
        above = np.zeros(0, np.uint64)
        for rows in reversed(self._rows):
            level = _ascending(np.concatenate((above, self._keys[rows])))
            above = (level & ~_MASK) | tree.parent[level & _MASK]
            self._levels.append(level)
        self._levels.reverse()

    def items(self) -> I64:
        """The items that occur below the root, ascending."""
        items = np.concatenate([_NONE, *(self._tree.item[level & _MASK] for level in self._levels[1:])])
        used = np.zeros(int(items.max(initial=0)) + 1, bool)
        used[items] = True
        return np.flatnonzero(used)

    def lay_out(self, start: I64, rank: I64, levels: Levels) -> I64:
        """Adds each level below the nodes `start` of the groups, and says which node each row's end has become."""
        result = np.zeros(len(self._keys), np.int64)
        before, node = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        for depth, (level, rows) in enumerate(zip(self._levels, self._rows, strict=True)):
            if depth == 0:
                node = start[(level >> _BITS).astype(np.int64)]
            else:
                at = level & _MASK
                above = np.searchsorted(before, (level & ~_MASK) | self._tree.parent[at])
                node = levels.add(node[above], rank[self._tree.item[at]])
            result[rows] = node[np.searchsorted(level, self._keys[rows])]
            before = level
        return result


def _ascending(keys: U64) -> U64:
    """The distinct values of `keys`."""
    keys = np.sort(keys)
    fresh = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=fresh[1:])
    return keys[fresh]


def label_name(label: str, value: str) -> str:
    """The frame for a label's value; a series without the label is told apart from any value."""
    return clean(value) or f"[no {label}]"


def _ranked(rows: NamedRows, items: I64, labels: I64) -> tuple[tuple[str, ...], I64]:
    """The distinct names that occur, ascending, after the root's; and for each of `rows.names` its place there.

    `items` and `labels` are the ones that occur; of `items`, distinct ones if `rows` says how they rank.
    """
    given = rows.rank
    if given is None:
        order = sorted({rows.names[item] for item in items.tolist()})
    else:
        items = items[np.argsort(given[items])]
        order = [rows.names[item] for item in items.tolist()]
    others = sorted({"", *(rows.names[label] for label in labels.tolist())})
    at = [bisect_left(order, name) for name in others]
    fresh = [(place, name) for place, name in zip(at, others, strict=True) if order[place : place + 1] != [name]]
    # The places before which a name of `others` comes in, in their order.
    moved = np.array([place for place, _ in fresh])
    names = list(order)
    for place, name in reversed(fresh):
        names.insert(place, name)
    rank = np.zeros(len(rows.names), np.int64)
    if given is None:
        rank[items] = [bisect_left(names, rows.names[item]) for item in items.tolist()]
    else:
        own = np.arange(len(items))
        rank[items] = own + np.searchsorted(moved, own, side="right")
    rank[labels] = [bisect_left(names, rows.names[label]) for label in labels.tolist()]
    return tuple(names), rank


def _sum_at(index: I64, amount: U64, size: int) -> U64:
    result = np.zeros(size, np.uint64)
    np.add.at(result, index, amount)
    return result
