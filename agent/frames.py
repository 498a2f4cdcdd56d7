"""Stacks as columns of frames: gathering them from the kernel's tables and putting them together root first. Pure.

A `Pool` holds frames as they were gathered, leaf first; a segment is a range in it. A final stack is made of segments,
each turned round, so nothing is copied before it is known which stacks there will be.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fleetflame.model import StackTable

_PACKED = np.dtype([("mapping", "<u4"), ("address", "<u8")])
BATCH = 4096
"""Stacks worked on at once: some 100,000 frames, so that what is needed in between stays small in a large window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Frames of some stacks of a table, stack after stack: `index` in the table's columns, and which stack each belongs
    to. `offsets` has one more entry than there are stacks."""

    index: NDArray[np.int64]
    stack: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def is_caller(self) -> NDArray[np.bool]:
        """All but the first frame of each stack, which is the interrupted one."""
        callers = np.ones(len(self.index), np.bool)
        starts = self.offsets[:-1]
        callers[starts[self.offsets[1:] > starts]] = False
        return callers


def gather(offsets: NDArray[np.uint32], stacks: NDArray[np.int64]) -> Gathered:
    """The frames of the stacks with these numbers, in this order."""
    start = offsets[stacks].astype(np.int64)
    depth = offsets[stacks + 1].astype(np.int64) - start
    out = np.zeros(len(stacks) + 1, np.int64)
    np.cumsum(depth, out=out[1:])
    index = np.arange(out[-1], dtype=np.int64) + np.repeat(start - out[:-1], depth)
    return Gathered(index=index, stack=np.repeat(np.arange(len(stacks)), depth), offsets=out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Ranges of a pool: `length` frames from `start` on, leaf first."""

    start: NDArray[np.int64]
    length: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)

    def pick(self, numbers: NDArray[np.int64]) -> "Segments":
        """The segments with these numbers, in this order."""
        return Segments(start=self.start[numbers], length=self.length[numbers])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Frames: index of the mapping, and the address within it."""

    mapping: NDArray[np.uint32]
    address: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.mapping)


def join(pools: Sequence[Pool]) -> Pool:
    """One pool with the frames of all, in order."""
    return Pool(
        mapping=np.concatenate([pool.mapping for pool in pools]),
        address=np.concatenate([pool.address for pool in pools]),
    )


def assemble(pool: Pool, parts: Sequence[Segments]) -> StackTable:
    """Stack i is the segments i of all parts, the first part at the root, each segment turned round."""
    start = np.stack([part.start for part in parts], axis=1).ravel()
    length = np.stack([part.length for part in parts], axis=1).ravel()
    ends = np.cumsum(length)
    # Frame j of a segment that begins at `ends - length` comes from start + length - 1 - (j - (ends - length)).
    source = np.repeat(start + ends - 1, length) - np.arange(ends[-1] if len(ends) else 0, dtype=np.int64)
    offsets = np.zeros(len(start) // len(parts) + 1, np.uint32)
    offsets[1:] = ends[len(parts) - 1 :: len(parts)]
    return StackTable(offsets=offsets, mapping=pool.mapping[source], address=pool.address[source])


def assemble_unique(pool: Pool, parts: Sequence[Segments]) -> tuple[StackTable, NDArray[np.int64]]:
    """(what `assemble` gives, but each content once, in the order of first occurrence; for each stack i its number).

    Content is compared by 128 bits of BLAKE2b: what a profiled process puts on its stack cannot make two stacks one.
    """
    seen: dict[bytes, int] = {}
    tables = [StackTable(offsets=np.zeros(1, np.uint32), mapping=pool.mapping[:0], address=pool.address[:0])]
    numbers = [np.zeros(0, np.int64)]
    for chosen in in_batches(np.arange(len(parts[0]))):
        table = assemble(pool, [part.pick(chosen) for part in parts])
        first = len(seen)
        number = np.array([seen.setdefault(digest, len(seen)) for digest in _digests(table)], np.int64)
        numbers.append(number)
        met, at = np.unique(number, return_index=True)
        tables.append(_take(table, at[met >= first]))
    return _concatenate(tables), np.concatenate(numbers)


def in_batches(numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The same numbers, BATCH at a time."""
    for begin in range(0, len(numbers), BATCH):
        yield numbers[begin : begin + BATCH]


def _digests(stacks: StackTable) -> list[bytes]:
    packed = np.empty(len(stacks.mapping), _PACKED)
    packed["mapping"] = stacks.mapping
    packed["address"] = stacks.address
    view = memoryview(packed.tobytes())
    ends = (stacks.offsets.astype(np.int64) * _PACKED.itemsize).tolist()
    return [hashlib.blake2b(view[start:end], digest_size=16).digest() for start, end in pairwise(ends)]


def _take(stacks: StackTable, numbers: NDArray[np.int64]) -> StackTable:
    if len(numbers) == len(stacks):
        return stacks
    taken = gather(stacks.offsets, numbers)
    return StackTable(
        offsets=taken.offsets.astype(np.uint32),
        mapping=stacks.mapping[taken.index],
        address=stacks.address[taken.index],
    )


def _concatenate(tables: list[StackTable]) -> StackTable:
    depths = np.concatenate([np.diff(table.offsets) for table in tables])
    offsets = np.zeros(len(depths) + 1, np.uint32)
    np.cumsum(depths, out=offsets[1:])
    mapping = np.concatenate([table.mapping for table in tables])
    return StackTable(offsets=offsets, mapping=mapping, address=np.concatenate([table.address for table in tables]))


def add_up(
    major: NDArray[np.int64], minor: NDArray[np.int64], count: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Rows (major, minor, sum of count), each pair once, ascending."""
    order = np.lexsort((minor, major))
    major, minor, count = major[order], minor[order], count[order]
    if not len(count):
        return major, minor, count
    differs = np.append(True, (major[1:] != major[:-1]) | (minor[1:] != minor[:-1]))
    start = np.flatnonzero(differs)
    return major[start], minor[start], np.add.reduceat(count, start)
