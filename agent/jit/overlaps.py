"""Which of many ranges holds a place last. Pure; every function takes n log n steps, however ranges overlap.

A range that is 2^k long or more, but less than twice that, is two ranges of 2^k that overlap: what holds for ranges of
a power of two holds for all. So one pass over the powers answers all ranges at once (a "sparse table", of which only
one level is kept at a time).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

NOTHING = -1


def surviving(start: U64, end: U64) -> I64:
    """Numbers of the ranges that no later one overlaps, by ascending start; they are apart from each other.

    Code that is written over is gone as a whole: where a part of its memory has other code, none of it runs any more.
    """
    order = np.argsort(start, kind="stable")
    reach = np.maximum.accumulate(end[order])
    touches = start[order][1:] < reach[:-1]
    if not touches.any():
        return order
    involved = np.append(False, touches) | np.append(touches, False)
    numbers = np.sort(order[involved])
    kept = np.ones(len(start), bool)
    kept[numbers] = _is_last(start[numbers], end[numbers])
    return order[kept[order]]


def last_holding(points: U64, start: U64, end: U64, value: I64) -> I64:
    """For each of the ascending points the greatest value of the ranges that hold it, NOTHING where none does.

    Values are not negative."""
    low, high = np.searchsorted(points, start), np.searchsorted(points, end)
    some = high > low
    return _spread(len(points), low[some], high[some], value[some])


def _is_last(start: U64, end: U64) -> NDArray[np.bool]:
    # Two ranges that overlap both hold the start of one of them: starts are all the places that need to be looked at.
    points = np.unique(start)
    low, high = np.searchsorted(points, start), np.searchsorted(points, end)
    number = np.arange(len(start))
    latest = _spread(len(points), low, high, number)
    result: NDArray[np.bool] = _greatest(latest, low, high) == number
    return result


def _spread(places: int, low: I64, high: I64, value: I64) -> I64:
    """For each place the greatest value of the ranges [low, high) that hold it."""
    table = np.full(places, NOTHING, np.int64)
    for power, here in _by_power(low, high, descending=True):
        width = 1 << power
        if 2 * width <= places:
            table[width:] = np.maximum(table[width:], table[:-width])
        np.maximum.at(table, low[here], value[here])
        np.maximum.at(table, high[here] - width, value[here])
    return table


def _greatest(values: I64, low: I64, high: I64) -> I64:
    """For each range [low, high) the greatest value in it."""
    found = np.full(len(low), NOTHING, np.int64)
    table = values.copy()
    for power, here in _by_power(low, high, descending=False):
        width = 1 << power
        if power:
            half = width >> 1
            table[:-half] = np.maximum(table[:-half], table[half:])
        found[here] = np.maximum(table[low[here]], table[high[here] - width])
    return found


def _by_power(low: I64, high: I64, *, descending: bool) -> Iterator[tuple[int, I64]]:
    """(k, the numbers of the ranges of 2^k to 2^(k+1) - 1 places) for each k from 0 to the longest range's."""
    if not len(low):
        return
    powers = np.frexp((high - low).astype(np.float64))[1] - 1
    order = np.argsort(powers, kind="stable")
    longest = int(powers.max())
    bounds = np.searchsorted(powers[order], np.arange(longest + 2))
    for power in range(longest, -1, -1) if descending else range(longest + 1):
        yield power, order[bounds[power] : bounds[power + 1]]
