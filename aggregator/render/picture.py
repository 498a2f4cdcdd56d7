"""What a flame graph shows, before it is SVG or HTML: which frames, where, in which colours, with which words.

Frames narrower than a limit are left out here, once, on the server. Their samples stay in the width of the frame above
them, and the picture says how many were left out.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aggregator.diff import SHARE_UNIT, Difference, total_shares
from aggregator.fold import Folded
from aggregator.naming import FrameKind
from aggregator.render import wording
from aggregator.render.palette import DIFF_STEPS, TITLES, color_class, key_class
from aggregator.trie import Trie, prune, starts, totals

U64 = NDArray[np.uint64]

ROOT_NAME = "all"
ROOT_CLASS = "r0"
_DIFF_LEGEND = ((0, "smaller share"), (DIFF_STEPS, "same"), (2 * DIFF_STEPS, "larger share"))


class Layout(StrEnum):
    """Where the root is: at the bottom, as flames have it, or at the top."""

    FLAME = "flame"
    ICICLE = "icicle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the reader may choose. Raises ValueError for a width without room."""

    title: str = ""
    """Instead of the profile's own."""
    layout: Layout = Layout.FLAME
    width: int = 1200
    """Pixels of an SVG picture where no script adapts it to the window."""
    min_width: float = 0.1
    """Pixels below which an SVG picture leaves a frame out."""
    max_frames: int = 100_000
    """Frames that an HTML picture holds: the widest ones."""

    def __post_init__(self) -> None:
        if self.width < 400 or self.min_width < 0 or self.max_frames < 1:
            raise ValueError("a picture is 400 pixels wide or more and has one frame at least")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One entry of the legend: class of its colour, what it is, and its share of the samples in words."""

    color: str
    title: str
    share: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Frames by node of `trie`, whose items are indices into `names`. Node 0 is all there is.

    `weight` is what widths are in proportion to: nanoseconds where they are known, else samples; `start` is where a
    node begins, in the same unit. `colors` are classes. `counts` are samples; a difference has them twice, before and
    after, and `shares` beside them, and its widths are the sums of both shares.
    """

    title: str
    facts: tuple[str, ...]
    legend: tuple[Key, ...]
    layout: Layout
    trie: Trie
    names: tuple[str, ...]
    start: U64
    weight: U64
    colors: tuple[str, ...]
    color: NDArray[np.uint8]
    counts: tuple[U64, ...]
    shares: tuple[U64, ...] = ()
    labels: tuple[str, ...] = ()
    own: U64
    timed: bool
    culled: int

    @property
    def total(self) -> int:
        """The weight of the whole width."""
        return int(self.weight[0])


def picture_of(folded: Folded, options: Options, *, limit: int) -> Picture:
    """The picture of `folded`, without frames of less weight than `limit`."""
    weight = folded.total_values()
    counts = folded.total_counts() if folded.timed else weight
    keep = weight >= max(limit, 1)
    keep[0] = True
    trie, kept, start = _cull(folded.trie, weight, keep)
    kinds = folded.kinds()
    colors, color = _colors(folded.names, trie, kinds[kept])
    total = int(weight[0])
    completeness = folded.completeness(kinds)
    culled = len(folded.trie) - len(trie)
    return Picture(
        title=options.title or folded.origin.title or "fleetflame",
        facts=(
            *wording.amount(completeness, total, folded.origin, timed=folded.timed),
            *wording.wholeness(completeness),
            *([f"{culled:,} narrow frames left out"] if culled else []),
        ),
        legend=_legend(folded, kinds),
        layout=options.layout,
        trie=trie,
        names=folded.names,
        start=start,
        weight=weight[kept],
        colors=colors,
        color=color,
        counts=(counts[kept],),
        own=folded.count[kept],
        timed=folded.timed,
        culled=culled,
    )


def picture_of_difference(difference: Difference, options: Options, *, limit: int) -> Picture:
    """The picture of `difference`, without frames whose shares together are less than `limit` of 2 * SHARE_UNIT."""
    shares = total_shares(difference)
    weight = shares[0] + shares[1]
    keep = weight >= max(limit, 1)
    keep[0] = True
    trie, kept, start = _cull(difference.trie, weight, keep)
    color = _change(shares[0][kept], shares[1][kept])
    color[0] = 0
    culled = len(difference.trie) - len(trie)
    before, after = difference.sides
    facts = [wording.side(side.label, side.folded.completeness()) for side in difference.sides]
    return Picture(
        title=options.title or f"{before.label} → {after.label}",
        facts=(*facts, *([f"{culled:,} narrow frames left out"] if culled else [])),
        legend=tuple(Key(color=f"d{step}", title=title, share="") for step, title in _DIFF_LEGEND),
        layout=options.layout,
        trie=trie,
        names=difference.names,
        start=start,
        weight=weight[kept],
        colors=(ROOT_CLASS, *(f"d{step}" for step in range(2 * DIFF_STEPS + 1))),
        color=color,
        counts=tuple(totals(difference.trie, side.count)[kept] for side in difference.sides),
        shares=tuple(column[kept] for column in shares),
        labels=(before.label, after.label),
        own=(before.count + after.count)[kept],
        timed=False,
        culled=culled,
    )


def difference_limit(difference: Difference, frames: int) -> int:
    """The least weight at which no more than `frames` nodes of the difference are left."""
    before, after = total_shares(difference)
    return widest(before + after, frames)


def widest(weight: U64, frames: int) -> int:
    """The least weight at which no more than `frames` nodes are left."""
    if len(weight) <= frames:
        return 1
    return int(np.partition(weight, len(weight) - frames - 1)[len(weight) - frames - 1]) + 1


def _change(before: U64, after: U64) -> NDArray[np.uint8]:
    """The colour of each node, 1 + d-number: how much its share changed, relative to itself.

    A share of a thousandth is added below the line, so that what is rare, and changes by chance, stays pale.
    """
    one, other = before.astype(np.float64), after.astype(np.float64)
    relative = (other - one) / (np.maximum(one, other) + SHARE_UNIT / 1000)
    return (np.rint(relative * DIFF_STEPS) + DIFF_STEPS + 1).astype(np.uint8)


def _cull(trie: Trie, weight: U64, keep: NDArray[np.bool_]) -> tuple[Trie, NDArray[np.int64], U64]:
    """The tree of the nodes to keep, which these are, and where they begin: as if those left out were still there."""
    family, members = prune(trie, keep[trie.parent])
    begin = starts(family, weight[members])
    smaller, inside = prune(family, keep[members])
    return smaller, members[inside], begin[inside]


def _colors(names: tuple[str, ...], trie: Trie, kinds: NDArray[np.uint8]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The class of each node, as index into the classes that occur."""
    pairs, index = np.unique(trie.item * 16 + kinds, return_inverse=True)
    of_number = tuple(FrameKind)
    classes = [color_class(names[pair >> 4], of_number[pair & 15]) for pair in pairs.tolist()]
    colors = (ROOT_CLASS, *sorted(set(classes)))
    number = {name: at for at, name in enumerate(colors)}
    color = np.array([number[name] for name in classes], np.uint8)[index]
    color[0] = 0
    return colors, color


def _legend(folded: Folded, kinds: NDArray[np.uint8]) -> tuple[Key, ...]:
    """The kinds that occur, with the share of samples that ended in a frame of the kind."""
    own = folded.value
    total = int(own.sum())
    entries = []
    for kind in (kind for kind in FrameKind if kind not in (FrameKind.LABEL, FrameKind.PROCESS)):
        nodes = kinds == kind
        nodes[0] = False
        if nodes.any():
            part = int(own[nodes].sum())
            # How many stacks are not whole stands among the facts; a share of their ends would be another number.
            part_of = "" if kind in (FrameKind.UNKNOWN, FrameKind.TRUNCATED) else wording.share(part, total)
            entries.append(Key(color=key_class(kind), title=TITLES[kind], share=part_of))
    return tuple(entries)
