"""Go's pc-value tables: what holds of which place, for all functions of a program at once. Pure: columns in, out.

A table is a list of pairs (change of the value, change of the place), as varints. The value begins as -1, the place as
the function's entry, and a change of the value of 0 ends the table. All tables stand one after another, so one pass
cuts all of them into numbers, whatever function they are of; then sums do the rest. (Source: src/runtime/symtab.go,
`step`.)
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregator.symbols.ranges import distinct
from fleetflame.gopcln import Functions

MAX_ROWS = 60_000_000
_MAX_VARINT = 5

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


class Steps(NamedTuple):
    """Values of all functions: value[i] holds from start[i] on, an address; starts ascend."""

    start: U64
    value: I64


class Tables:
    """All pc-value tables at once: table k has the rows [first[k], first[k + 1]), of which `value` holds until `end`,
    which counts from the function's entry."""

    def __init__(self, pctab: NDArray[np.uint8], functions: Functions, quantum: int) -> None:
        token_end = np.flatnonzero(pctab < 0x80)
        token_start = np.concatenate([np.zeros(1, np.int64), token_end[:-1] + 1])[: len(token_end)]
        numbers = _varints(pctab, token_start, token_end)
        wanted = np.concatenate([functions.file, functions.line, functions.inline, functions.other_tables])
        offsets, _ = distinct(wanted[(wanted > 0) & (wanted < len(pctab))].astype(np.int64))
        token = np.searchsorted(token_start, offsets)
        # SANITY: an offset in the middle of a number is none that a linker wrote; such a table is empty.
        whole = token < len(token_start)
        whole[whole] = token_start[token[whole]] == offsets[whole]
        self._offsets, token = offsets[whole], token[whole]
        ends = self._ends(numbers, token)
        pairs = np.maximum(ends - token, 0) // 2
        if int(pairs.sum()) > MAX_ROWS:
            pairs[:] = 0
        self.first = np.concatenate([np.zeros(1, np.int64), np.cumsum(pairs)])
        at = np.repeat(token - 2 * self.first[:-1], pairs) + 2 * np.arange(self.first[-1])
        change = numbers[at].astype(np.int64)
        self.value = _sums(np.where(change & 1, ~(change >> 1), change >> 1), self.first) - 1
        self.end = _sums(numbers[at + 1].astype(np.int64) * quantum, self.first)

    @staticmethod
    def _ends(numbers: U64, token: I64) -> I64:
        """The number that ends each table: the first change of 0 after the first pair."""
        ends = np.zeros(len(token), np.int64)
        zeros = np.flatnonzero(numbers == 0)
        # Changes stand at even distances from a table's start, so zeros of the same parity are candidates.
        for parity in (0, 1):
            same = zeros[zeros % 2 == parity]
            mine = token % 2 == parity
            at = np.searchsorted(same, token[mine] + 2)
            found = at < len(same)
            ends[mine] = np.where(found, same[np.minimum(at, len(same) - 1)] if len(same) else 0, token[mine])
        return ends

    def of(self, offsets: U32) -> tuple[I64, I64]:
        """(first row, number of rows) of the table at each offset; none for 0 and for what is no table."""
        if not len(self._offsets):
            return np.zeros(len(offsets), np.int64), np.zeros(len(offsets), np.int64)
        at = np.minimum(np.searchsorted(self._offsets, offsets), len(self._offsets) - 1)
        there = self._offsets[at] == offsets
        return self.first[at], np.where(there, self.first[at + 1] - self.first[at], 0)


def _varints(data: NDArray[np.uint8], start: I64, end: I64) -> U64:
    """The numbers data[start : end + 1], seven bits a byte, least significant first; longer ones are cut."""
    length = np.minimum(end - start + 1, _MAX_VARINT)
    value = (data[start] & 0x7F).astype(np.uint64)
    for step in range(1, _MAX_VARINT):
        longer = np.flatnonzero(length > step)
        if not len(longer):
            break
        value[longer] |= (data[start[longer] + step] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * step)
    return value & np.uint64(0xFFFFFFFF)


def _sums(values: I64, first: I64) -> I64:
    """Running sums that begin anew with each table."""
    running: I64 = np.cumsum(values)
    before = np.concatenate([np.zeros(1, np.int64), running])[first[:-1]]
    return np.asarray(running - np.repeat(before, np.diff(first)), np.int64)


def spread(tables: Tables, offsets: U32, entry: U64) -> Steps:
    """The values of all functions; -1 where a function has no table, and after its end."""
    first, count = tables.of(offsets)
    if int(count.sum()) > MAX_ROWS:
        count = np.zeros_like(count)
    owner = np.repeat(np.arange(len(offsets)), count)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    row = first[owner] + nth
    begin = np.where(nth > 0, tables.end[row - 1], 0)
    length = (entry[1:] - entry[:-1]).astype(np.int64)
    # A table may go beyond its function only if somebody wants confusion: the next one's begin holds.
    kept = (begin >= 0) & (begin < length[owner]) & (tables.end[row] > begin)
    start = entry[owner[kept]] + begin[kept].astype(np.uint64)
    bare = np.flatnonzero(count == 0)
    starts = np.concatenate([start, entry[:-1][bare], entry[-1:]])
    values = np.concatenate([tables.value[row[kept]], np.full(len(bare) + 1, -1, np.int64)])
    order = np.argsort(starts, kind="stable")
    return Steps(starts[order], values[order])


def value_at(steps: Steps, at: U64) -> I64:
    """The value at each address, -1 before the first."""
    index = np.searchsorted(steps.start, at, side="right") - 1
    return np.where(index >= 0, steps.value[np.maximum(index, 0)], -1)


def union(*columns: U64) -> U64:
    """All values once, ascending."""
    values = np.sort(np.concatenate(columns), kind="stable")
    fresh = np.ones(len(values), np.bool_)
    fresh[1:] = values[1:] != values[:-1]
    return values[fresh]
