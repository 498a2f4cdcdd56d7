"""Columns of one batch: what makes them small, and the way back. Pure numpy; no bytes, no protobuf.

Two redundancies are removed. Neighbouring stacks share their first frames, so that a stack says how many it takes
from the one before it. Addresses of one mapping lie near each other, so that an address is the difference to the one
before it **in the same mapping**, modulo 2^64.
"""

import numpy as np
from numpy.typing import NDArray

from fleetflame.model import StackTable

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


def shared_prefixes(stacks: StackTable) -> I64:
    """For each stack the number of first frames that it has in common with the stack before it; 0 for the first."""
    offsets = stacks.offsets.astype(np.int64)
    start, end = offsets[:-1], offsets[1:]
    depth = end - start
    owner = np.repeat(np.arange(len(depth)), depth)
    # The frame at the same level of the stack before, where that stack is deep enough to have one.
    frame = np.arange(len(owner))
    twin = frame - start[owner] + start[owner - 1]
    comparable = (owner > 0) & (twin < start[owner])
    frame, twin = frame[comparable], twin[comparable]
    differs = np.ones(len(owner) + 1, bool)
    differs[frame] = (stacks.mapping[frame] != stacks.mapping[twin]) | (stacks.address[frame] != stacks.address[twin])
    position = np.flatnonzero(differs)
    return np.minimum(position[np.searchsorted(position, start)], end) - start


def fresh_frames(offsets: NDArray[np.uint32], shared: I64) -> I64:
    """Positions of the frames that are not taken from the stack before, in order."""
    start, end = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    first_fresh = np.repeat(start + shared, end - start)
    return np.flatnonzero(np.arange(len(first_fresh)) >= first_fresh)


def expand(shared: I64, fresh: I64) -> I64:
    """For each frame of each stack, in order, its position among the fresh frames of all stacks.

    The caller has checked that no stack shares more than the one before it has. One pass per level, over the stacks
    that are that deep: time and memory are proportional to the frames that come out.
    """
    depth = shared + fresh
    fresh_start = np.cumsum(fresh) - fresh - shared
    start = np.cumsum(depth) - depth
    source = np.empty(int(depth.sum()), np.int64)
    active = np.arange(len(depth))
    for level in range(int(depth.max(initial=0))):
        active = active[depth[active] > level]
        own = np.where(shared[active] <= level, fresh_start[active] + level, -1)
        # A frame taken from before is the last fresh one at its level: fresh positions ascend, and whoever shares this
        # level follows directly upon a stack that has it.
        source[start[active] + level] = np.maximum.accumulate(own)
    return source


def deltas(group: NDArray[np.generic], value: U64) -> I64:
    """Differences, modulo 2^64, of each value to the one before it in the same group; the group's first to 0."""
    order = np.argsort(group, kind="stable")
    ordered = value[order]
    difference = ordered.copy()
    difference[1:] -= ordered[:-1]
    first = _group_starts(group[order])
    difference[first] = ordered[first]
    result = np.empty(len(value), np.int64)
    result[order] = difference.view(np.int64)
    return result


def undeltas(group: NDArray[np.generic], delta: I64) -> U64:
    """The values whose `deltas` these are."""
    order = np.argsort(group, kind="stable")
    ordered = delta[order].view(np.uint64)
    total = np.cumsum(ordered, dtype=np.uint64)
    first = _group_starts(group[order])
    size = np.append(first[1:], len(delta))[: len(first)] - first
    total -= np.repeat(total[first] - ordered[first], size)
    result = np.empty(len(delta), np.uint64)
    result[order] = total
    return result


def _group_starts(group: NDArray[np.generic]) -> I64:
    return np.flatnonzero(np.append(True, group[1:] != group[:-1])[: len(group)])
