"""A decoded batch and the stack ids behind its numbers -> rows for the store. Pure.

A number means a stack only within its (node, epoch, dictionary). The frames behind it came in this batch or in an
earlier one; the store and `ingest` remember them as `Numbers`.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregator.storage import ids
from aggregator.storage.types import AcceptedBatch, StackRows
from fleetflame.model import NAMED_KINDS, Batch, FrameMiss, Labels, Mapping, MappingKind

MISS = Mapping(MappingKind.MISS)
NOT_RECEIVED = ids.placeholder(FrameMiss.NOT_RECEIVED)
DEGRADED_REASON = "not_received"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Stack ids by number, for one dictionary: `ids[i]` is the stack with the number `numbers[i]`, ascending."""

    numbers: NDArray[np.uint32]
    ids: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.numbers)

    def with_stacks(self, first: int, stacks: NDArray[np.uint64]) -> "Numbers":
        """These and `stacks`, numbered from `first`; what is there already stays."""
        return self.merged(Numbers(np.arange(first, first + len(stacks), dtype=np.uint32), stacks))

    def merged(self, other: "Numbers") -> "Numbers":
        """These and those of `other`; what is there already stays."""
        if not len(other) or not len(self):
            return self if len(self) else other
        numbers = np.concatenate((self.numbers, other.numbers))
        found = np.concatenate((self.ids, other.ids))
        if other.numbers[0] > self.numbers[-1]:
            return Numbers(numbers, found)
        numbers, rows = np.unique(numbers, return_index=True)
        return Numbers(numbers, found[rows])

    def find(self, numbers: NDArray[np.uint32]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """The ids behind `numbers`, and which of them are known; an unknown one's id is 0."""
        if not len(self.numbers):
            return np.zeros(len(numbers), np.uint64), np.zeros(len(numbers), np.bool_)
        at = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        found = self.numbers[at] == numbers
        return np.where(found, self.ids[at], np.uint64(0)), found


NO_NUMBERS = Numbers(np.zeros(0, np.uint32), np.zeros(0, np.uint64))


def announced(batch: Batch) -> StackRows:
    """The stacks that `batch` announces, with ids computed from their frames."""
    mapping_ids = np.array([ids.mapping_id(mapping) for mapping in batch.mappings], np.uint64)
    named_ids = np.array([ids.named_id(frame) for frame in batch.named], np.uint64)
    mapping = mapping_ids[batch.stacks.mapping]
    address = batch.stacks.address.astype(np.uint64)
    if len(named_ids):
        kinds = np.array([mapping.kind for mapping in batch.mappings], np.uint8)
        is_named = np.isin(kinds, _NAMED)[batch.stacks.mapping]
        address = address.copy()
        address[is_named] = named_ids[address[is_named]]
    offsets = batch.stacks.offsets.astype(np.uint64)
    return StackRows(ids=ids.stack_ids(offsets, mapping, address), offsets=offsets, mapping=mapping, address=address)


def accept(batch: Batch, stacks: StackRows, numbers: Numbers, received: int) -> AcceptedBatch:
    """Rows for `batch`, whose announced `stacks` are in `numbers` already. Counts are conserved.

    Samples whose number is unknown get the placeholder stack of `FrameMiss.NOT_RECEIVED` and count as degraded.
    """
    stack, found = numbers.find(batch.sample_number)
    count, ledger = batch.sample_count, batch.ledger
    if not found.all():
        missing = int(count[~found].sum())
        stack = np.where(found, stack, NOT_RECEIVED.ids[0])
        degraded = dict(ledger.degraded)
        degraded[DEGRADED_REASON] = degraded.get(DEGRADED_REASON, 0) + missing
        ledger = replace(ledger, degraded=degraded)
    named = [_of_node(row, batch.node) for row in batch.series]
    keys = np.array([key for _, key in named], np.uint64)
    # Label sets that differ only in a `node` of their own are one series now.
    series_ids, first, index = np.unique(keys, return_index=True, return_inverse=True)
    series, stack, count = _summed(index.astype(np.uint32)[batch.sample_series], stack, count)
    return AcceptedBatch(
        id=ids.batch_id(batch.node, batch.epoch, batch.sequence),
        node=batch.node,
        epoch=batch.epoch,
        sequence=batch.sequence,
        dictionary=batch.dictionary,
        time=batch.window_start_ns // 10**9,
        period_ns=batch.period_ns,
        type=batch.type,
        mappings=batch.mappings,
        named=batch.named,
        series=tuple(named[row][0] for row in first.tolist()),
        series_ids=series_ids,
        first_number=batch.first_number,
        stacks=stacks,
        placeholders=not found.all(),
        sample_series=series,
        sample_stack=stack,
        sample_count=count,
        ledger=ledger,
        received=received,
    )


def _summed(
    series: NDArray[np.uint32], stack: NDArray[np.uint64], count: NDArray[np.uint64]
) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]:
    """One row for each (series, stack): two numbers may turn out to be one stack, and rows of a batch with an equal key
    are taken for one and the same by the store."""
    order = np.lexsort((stack, series))
    series, stack, count = series[order], stack[order], count[order]
    if not len(series):
        return series, stack, count
    starts = np.flatnonzero(np.r_[True, (series[1:] != series[:-1]) | (stack[1:] != stack[:-1])])
    return series[starts], stack[starts], np.add.reduceat(count, starts)


@functools.lru_cache(1 << 15)
def _of_node(labels: Labels, node: str) -> tuple[Labels, int]:
    """The series of `node` that it calls `labels`, and its id. Remembered: the same ones come in every window."""
    whole = tuple(sorted([pair for pair in labels if pair[0] != "node"] + [("node", node)]))
    return whole, ids.series_id(whole)


_NAMED = np.array(sorted(NAMED_KINDS), np.uint8)
