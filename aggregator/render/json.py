"""Flamebearer JSON: the tree in the shape that Pyroscope's `/render` answers and its viewers draw.

    {"version": 1,
     "flamebearer": {"names": ["total", ...], "levels": [[...], ...], "numTicks": N, "maxSelf": M},
     "metadata": {"format": "single", "sampleRate": Hz, "spyName": "fleetflame", "units": "samples", "name": title},
     "fleetflame": {...}}

`levels[d]` has four integers for each node of depth d, left to right: how far it begins after the end of the node
before it on that level (or after 0), its total, its own part, and its name as index into `names`. Level 0 is the total.
Ours alone is `fleetflame`: how complete stacks are, in samples, nanoseconds of all samples, and the time range.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.diff import Difference
from aggregator.fold import Folded
from aggregator.profile import Completeness
from aggregator.trie import Trie, starts, totals

U64 = NDArray[np.uint64]


def render(folded: Folded, *, title: str = "") -> bytes:
    """`folded` as UTF-8 JSON, complete: nothing is left out, however narrow."""
    total = folded.total_counts()
    columns = [offsets(folded.trie, total), total, folded.count, folded.trie.item]
    rate = round(1_000_000_000 / folded.origin.period_ns) if folded.origin.period_ns else 0
    completeness = folded.completeness()
    document = {
        "version": 1,
        "flamebearer": {
            "names": ["total", *folded.names[1:]],
            "levels": interleaved(folded.trie, columns),
            "numTicks": int(total[0]),
            "maxSelf": int(folded.count.max()),
        },
        "metadata": {
            "format": "single",
            "sampleRate": rate,
            "spyName": "fleetflame",
            "units": "samples",
            "name": title or folded.origin.title,
        },
        "fleetflame": {
            "type": folded.origin.type,
            "by": list(folded.origin.by),
            "from_ns": folded.origin.from_ns,
            "until_ns": folded.origin.until_ns,
            "period_ns": folded.origin.period_ns,
            "value_ns": int(folded.value.sum()) if folded.timed else None,
            "completeness": completeness_fields(completeness),
        },
    }
    return encoded(document)


def render_diff(difference: Difference, *, title: str = "") -> bytes:
    """Both as one flamebearer of format `double`: seven integers for each node: three left, three right, the name."""
    columns: list[NDArray[Any]] = []
    for side in difference.sides:
        total = totals(difference.trie, side.count)
        columns += [offsets(difference.trie, total), total, side.count]
    left, right = (int(side.count.sum()) for side in difference.sides)
    document = {
        "version": 1,
        "flamebearer": {
            "names": ["total", *difference.names[1:]],
            "levels": interleaved(difference.trie, [*columns, difference.trie.item]),
            "numTicks": left + right,
            "maxSelf": int(max(side.count.max() for side in difference.sides)),
        },
        "metadata": {"format": "double", "spyName": "fleetflame", "units": "samples", "name": title},
        "leftTicks": left,
        "rightTicks": right,
        "fleetflame": {side.label: completeness_fields(side.folded.completeness()) for side in difference.sides},
    }
    return encoded(document)


def encoded(document: dict[str, object]) -> bytes:
    """JSON without spaces, names readable."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def completeness_fields(completeness: Completeness) -> dict[str, int]:
    """Samples by class, and their sum."""
    return {
        "samples": completeness.total,
        "whole": completeness.whole,
        "truncated": completeness.truncated,
        "unsymbolized": completeness.unsymbolized,
    }


def offsets(trie: Trie, total: U64) -> U64:
    """How far each node begins after the end of the one before it on its level."""
    start = starts(trie, total)
    gap = start.copy()
    gap[1:] -= start[:-1] + total[:-1]
    first = trie.levels[:-1]
    gap[first] = start[first]
    return gap


def interleaved(trie: Trie, columns: Sequence[NDArray[np.integer[Any]]]) -> list[list[int]]:
    """The columns, one after the other for each node, level by level."""
    flat = np.column_stack([column.astype(np.int64) for column in columns]).reshape(-1).tolist()
    width = len(columns)
    bounds = trie.levels.tolist()
    return [flat[width * low : width * high] for low, high in pairwise(bounds)]
