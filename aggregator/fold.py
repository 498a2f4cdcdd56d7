"""Profiles merged by name: the sum of all stacks that read the same, over nodes, builds and processes.

    fold(profile) -> Folded          merge(a, b, ...) -> Folded

Algebra: merging is associative and commutative, samples and nanoseconds are conserved, and what is merged does not
depend on how the input was split: any partition of the rows gives an equal `Folded`, hence the same bytes in every
format. That holds because a `Folded` is canonical: names ascending, nodes by (level, parent, name).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregator.naming import FrameKind, clean, kind_of
from aggregator.profile import Completeness, Origin, Profile
from aggregator.trie import Trie, grow, inherit, join, paths, preorder, totals

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Stacks by name as a prefix tree: node i stands for the stack from the root to it.

    `trie.item` are indices into `names`, which are as written (with suffixes), ascending and each used; the first is
    "", the root's. `count` and `value` are the samples and nanoseconds of the stack that ends at the node. `timed` is
    False where only samples are known: `value` then equals `count`.
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

    Row i has the names of `prefix[group[i]]`, then those of its stack s = stack[i], item[offsets[s]:offsets[s + 1]].
    All are indices into `names`, which may repeat too; none is empty.
    """

    names: Sequence[str]
    prefix: I64
    group: I64
    offsets: I64
    item: I64
    stack: I64
    count: U64
    value: U64


def fold_rows(rows: NamedRows, origin: Origin, *, timed: bool) -> Folded:
    """`rows` merged by name. Rows without samples leave no trace."""
    names, rank = _ranked(rows)
    some = rows.count > 0
    group, stack, count, value = rows.group[some], rows.stack[some], rows.count[some], rows.value[some]
    width = rows.prefix.shape[1]
    prefix, start = rank[rows.prefix], rows.offsets[stack]
    item = rank[rows.item]

    def item_at(which: I64, depth: int) -> I64:
        found: I64 = prefix[group[which], depth] if depth < width else item[start[which] + (depth - width)]
        return found

    trie, end = grow(rows.offsets[stack + 1] - start + width, item_at)
    folded = Folded(
        origin=origin,
        names=names,
        trie=trie,
        count=_sum_at(end, count, len(trie)),
        value=_sum_at(end, value if timed else count, len(trie)),
        timed=timed,
    )
    return folded.with_used_names()


def fold(profile: Profile) -> Folded:
    """`profile` merged by name, inlined frames expanded; group values and comm are the first frames."""
    rendered = profile.locations.rendered()
    offsets, frame = profile.expanded()
    by = profile.origin.by
    labels = [label_name(label, value) for group in profile.groups for label, value in zip(by, group, strict=True)]
    rows = NamedRows(
        names=[*rendered, *labels],
        prefix=np.arange(len(labels)).reshape(-1, len(by)) + len(rendered),
        group=profile.group,
        offsets=offsets,
        item=frame,
        stack=profile.stack,
        count=profile.count,
        value=profile.value,
    )
    return fold_rows(rows, profile.origin, timed=True)


def label_name(label: str, value: str) -> str:
    """The frame for a label's value; a series without the label is told apart from any value."""
    return clean(value) or f"[no {label}]"


def merge(*parts: Folded) -> Folded:
    """The sum of all parts. Raises ValueError if there is none, or if their first frames are different labels.

    Nanoseconds are kept where every part has them; else all that is known is samples.
    """
    if len({part.origin.by for part in parts}) != 1:
        raise ValueError("profiles to merge must have the same labels as their first frames")
    timed = all(part.timed for part in parts)
    names = sorted({name for part in parts for name in part.names})
    number = {name: index for index, name in enumerate(names)}
    renamed = [
        replace(part.trie, item=np.array([number[name] for name in part.names], np.int64)[part.trie.item])
        for part in parts
    ]
    trie, where = join(renamed)
    count, value = np.zeros(len(trie), np.uint64), np.zeros(len(trie), np.uint64)
    for part, at in zip(parts, where, strict=True):
        # Nodes of one part stay apart, so that plain indexing adds each exactly once.
        count[at] += part.count
        value[at] += part.value if timed else part.count
    origin = merge_origins([part.origin for part in parts])
    return Folded(origin=origin, names=tuple(names), trie=trie, count=count, value=value, timed=timed)


def merge_origins(origins: Sequence[Origin]) -> Origin:
    """What the sum is of: the span of all times, and what all agree on."""
    first = origins[0]
    return Origin(
        type=first.type if len({origin.type for origin in origins}) == 1 else "mixed",
        by=first.by,
        period_ns=first.period_ns if len({origin.period_ns for origin in origins}) == 1 else 0,
        from_ns=min(origin.from_ns for origin in origins),
        until_ns=max(origin.until_ns for origin in origins),
        title=first.title if len({origin.title for origin in origins}) == 1 else "",
    )


def _ranked(rows: NamedRows) -> tuple[tuple[str, ...], I64]:
    """The distinct names that occur, ascending, after the root's; and for each of `rows.names` its place there."""
    names = sorted({"", *rows.names})
    number = {name: index for index, name in enumerate(names)}
    return tuple(names), np.array([number[name] for name in rows.names], np.int64)


def _sum_at(index: I64, amount: U64, size: int) -> U64:
    result = np.zeros(size, np.uint64)
    np.add.at(result, index, amount)
    return result
