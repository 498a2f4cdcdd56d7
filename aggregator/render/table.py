"""The functions that cost most: samples in the function itself, and in it and all it calls.

A stack counts once for each function on it, however often the function is on it: recursion does not make a share
exceed 100 %. `--by` labels and processes are no functions and have no row.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aggregator.diff import SHARE_UNIT, Difference, total_shares
from aggregator.fold import Folded
from aggregator.naming import FrameKind, kind_of
from aggregator.render import wording
from aggregator.trie import Trie, outermost

U64 = NDArray[np.uint64]


class Order(StrEnum):
    """What rows are sorted by, greatest first."""

    SELF = "self"
    TOTAL = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One function: its name as written, its kind, samples and nanoseconds (samples too, where time is unknown)."""

    name: str
    kind: FrameKind
    self_count: int
    total_count: int
    self_value: int
    total_value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """The first rows of `functions` in all; `value` is that of the whole profile, in which shares are."""

    rows: tuple[Row, ...]
    functions: int
    count: int
    value: int
    facts: tuple[str, ...]
    """How much the profile holds, and how complete it is."""


def top(folded: Folded, *, limit: int = 50, order: Order = Order.SELF) -> Top:
    """The `limit` functions of `folded` with the most samples; equal ones by name."""
    nodes = np.flatnonzero(folded.trie.depth > len(folded.origin.by))
    widest = nodes[outermost(folded.trie)[nodes]]
    size = len(folded.names)
    own_count, own_value = (_sum(folded.trie, nodes, column, size) for column in (folded.count, folded.value))
    all_count, all_value = (
        _sum(folded.trie, widest, column, size) for column in (folded.total_counts(), folded.total_values())
    )
    found = np.flatnonzero(all_count)
    main, other = (own_value, all_value) if order is Order.SELF else (all_value, own_value)
    # Names ascend with their numbers, and numpy's last key is its first.
    best = found[np.lexsort((found, ~other[found], ~main[found]))][:limit]
    count, value = int(folded.count.sum()), int(folded.value.sum())
    completeness = folded.completeness()
    facts = wording.amount(completeness, value, folded.origin, timed=folded.timed) + wording.wholeness(completeness)
    rows = tuple(
        Row(
            name=folded.names[name],
            kind=kind_of(folded.names[name]),
            self_count=int(own_count[name]),
            total_count=int(all_count[name]),
            self_value=int(own_value[name]),
            total_value=int(all_value[name]),
        )
        for name in best.tolist()
    )
    return Top(rows=rows, functions=len(found), count=count, value=value, facts=tuple(facts))


def render(folded: Folded, *, limit: int = 50, order: Order = Order.SELF) -> bytes:
    """`top` as plain text in columns, for a pipe; terminals get the rows and draw their own."""
    table = top(folded, limit=limit, order=order)
    cells: list[tuple[str, ...]] = [("SELF", "", "TOTAL", "", "FUNCTION")]
    for row in table.rows:
        own, all_ = wording.share(row.self_value, table.value), wording.share(row.total_value, table.value)
        cells.append((f"{row.self_count:,}", own, f"{row.total_count:,}", all_, row.name))
    return "\n".join([*_aligned(cells), "", *footer(table), ""]).encode()


def footer(table: Top) -> list[str]:
    """What stands below the rows: how many there are, how much the profile holds and how complete it is."""
    shown = f"{len(table.rows):,} of {table.functions:,} functions"
    return [" · ".join([shown, *table.facts])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One function before and after, in SHARE_UNITs of all samples of its side."""

    name: str
    kind: FrameKind
    self_before: int
    self_after: int
    total_before: int
    total_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The first rows of `functions` in all, and what the two sides are and hold."""

    rows: tuple[Change, ...]
    functions: int
    labels: tuple[str, str]
    facts: tuple[str, ...]


def changes(difference: Difference, *, limit: int = 50, order: Order = Order.SELF) -> Changes:
    """The `limit` functions whose share changed most, either way; equal ones by name."""
    trie, size = difference.trie, len(difference.names)
    nodes = np.flatnonzero(trie.depth > len(difference.by))
    widest = nodes[outermost(trie)[nodes]]
    own = [_sum(trie, nodes, side.share, size).astype(np.int64) for side in difference.sides]
    all_ = [_sum(trie, widest, column, size).astype(np.int64) for column in total_shares(difference)]
    found = np.flatnonzero(all_[0] + all_[1])
    main, other = (own, all_) if order is Order.SELF else (all_, own)
    moved, also = (np.abs(column[1] - column[0])[found] for column in (main, other))
    best = found[np.lexsort((found, -also, -moved))][:limit]
    rows = tuple(
        Change(
            name=difference.names[name],
            kind=kind_of(difference.names[name]),
            self_before=int(own[0][name]),
            self_after=int(own[1][name]),
            total_before=int(all_[0][name]),
            total_after=int(all_[1][name]),
        )
        for name in best.tolist()
    )
    facts = tuple(wording.side(side.label, side.folded.completeness()) for side in difference.sides)
    labels = difference.before.label, difference.after.label
    return Changes(rows=rows, functions=len(found), labels=labels, facts=facts)


def points(before: int, after: int) -> str:
    """The change of a share, in points of a per cent: `+3.20`."""
    return f"{100 * (after - before) / SHARE_UNIT:+.2f}"


def render_diff(difference: Difference, *, limit: int = 50, order: Order = Order.SELF) -> bytes:
    """`changes` as plain text in columns: own share before and after, its change, and that of the total share."""
    table = changes(difference, limit=limit, order=order)
    cells: list[tuple[str, ...]] = [("SELF BEFORE", "SELF AFTER", "CHANGE", "TOTAL CHANGE", "FUNCTION")]
    for row in table.rows:
        before, after = (wording.share(share, SHARE_UNIT) for share in (row.self_before, row.self_after))
        own, all_ = points(row.self_before, row.self_after), points(row.total_before, row.total_after)
        cells.append((before, after, own, all_, row.name))
    shown = f"{len(table.rows):,} of {table.functions:,} functions"
    return "\n".join([*_aligned(cells), "", " · ".join([shown, *table.facts]), ""]).encode()


def _aligned(cells: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines, all columns but the last as wide as their widest cell."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]])
        for row in cells
    ]


def _sum(trie: Trie, nodes: NDArray[np.int64], column: U64, size: int) -> U64:
    """`column` of these nodes by name."""
    result = np.zeros(size, np.uint64)
    np.add.at(result, trie.item[nodes], column[nodes])
    return result
