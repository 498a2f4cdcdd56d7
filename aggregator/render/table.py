"""The functions that cost most: samples in the function itself, and in it and all it calls.

A stack counts once for each function on it, however often the function is on it: recursion does not make a share
exceed 100 %. `--by` labels and processes are no functions and have no row.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

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
    cells = [("SELF", "", "TOTAL", "", "FUNCTION")]
    for row in table.rows:
        own, all_ = wording.share(row.self_value, table.value), wording.share(row.total_value, table.value)
        cells.append((f"{row.self_count:,}", own, f"{row.total_count:,}", all_, row.name))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]) for row in cells
    ]
    return "\n".join([*lines, "", *footer(table), ""]).encode()


def footer(table: Top) -> list[str]:
    """What stands below the rows: how many there are, how much the profile holds and how complete it is."""
    shown = f"{len(table.rows):,} of {table.functions:,} functions"
    return [" · ".join([shown, *table.facts])]


def _sum(trie: Trie, nodes: NDArray[np.int64], column: U64, size: int) -> U64:
    """`column` of these nodes by name."""
    result = np.zeros(size, np.uint64)
    np.add.at(result, trie.item[nodes], column[nodes])
    return result
