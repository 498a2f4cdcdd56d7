"""Two profiles side by side: what takes a larger share of its profile than before, and what a smaller one.

Profiles of different length, rate or size are comparable because shares are compared, not samples. Everything that is
in either profile is in the difference, so that what vanished stays visible.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregator.fold import Folded
from aggregator.profile import Origin
from aggregator.trie import Trie, join, totals

U64 = NDArray[np.uint64]

SHARE_UNIT = 1 << 40
"""Widths are whole numbers of which all there is has this many; one sample in a trillion still has a width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two: what it is called and of what it is, and for each node samples and share of its own."""

    label: str
    origin: Origin
    folded: Folded
    count: U64
    share: U64
    """In SHARE_UNITs of all of this side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Nodes of both profiles in one tree: see `fold.Folded`."""

    names: tuple[str, ...]
    trie: Trie
    before: Side
    after: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.before, self.after

    @property
    def by(self) -> tuple[str, ...]:
        """The labels whose values are the first frames."""
        return self.before.origin.by


def compare(before: Folded, after: Folded, *, labels: tuple[str, str] = ("before", "after")) -> Difference:
    """The difference of two profiles. Raises ValueError if their first frames are different labels."""
    if before.origin.by != after.origin.by:
        raise ValueError("profiles to compare must have the same labels as their first frames")
    names = sorted({*before.names, *after.names})
    number = {name: index for index, name in enumerate(names)}
    parts = (before, after)
    trie, where = join(
        [
            replace(part.trie, item=np.array([number[name] for name in part.names], np.int64)[part.trie.item])
            for part in parts
        ]
    )
    # Nanoseconds weigh samples of different rates rightly, if both sides have them.
    timed = before.timed and after.timed
    one, other = (
        Side(
            label=label,
            origin=part.origin,
            folded=part,
            count=_placed(part.count, at, len(trie)),
            share=_placed(_shares(part.value if timed else part.count), at, len(trie)),
        )
        for label, part, at in zip(labels, parts, where, strict=True)
    )
    return Difference(names=tuple(names), trie=trie, before=one, after=other)


def total_shares(difference: Difference) -> tuple[U64, U64]:
    """The share of each node and all below it, in SHARE_UNITs, before and after."""
    return totals(difference.trie, difference.before.share), totals(difference.trie, difference.after.share)


def _placed(column: U64, at: NDArray[np.int64], size: int) -> U64:
    result = np.zeros(size, np.uint64)
    result[at] = column
    return result


def _shares(own: U64) -> U64:
    """`own` as shares of its sum: whole numbers, which add up the same however they are grouped, and to SHARE_UNIT.

    Each is rounded down, and the greatest has what is left.
    """
    total = int(own.sum())
    if not total:
        return np.zeros(len(own), np.uint64)
    shares = np.floor(own.astype(np.float64) * (SHARE_UNIT / total)).astype(np.uint64)
    shares[np.argmax(own)] += np.uint64(SHARE_UNIT) - shares.sum()
    return shares
