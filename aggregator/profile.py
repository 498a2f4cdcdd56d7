"""A profile: what a query selected, with names, as columns. Pure: columns in, columns out.

`build_profile` symbolizes each distinct (mapping, address) once, one call per mapping, and leaves stacks as references
to these locations. What a location says (a function and what was inlined into it) is expanded only by those who need
it: pprof keeps locations, `fold` expands them.
"""

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.distinct import distinct, distinct_runs
from aggregator.locations import UNKNOWN_MAPPING, Locations, locate
from aggregator.locations import Symbolize as Symbolize
from aggregator.naming import FrameKind
from aggregator.storage.types import Frames, ProfileQuery, Selected
from aggregator.trie import grow
from fleetflame.model import FrameMiss, Mapping, MappingKind, NamedFrame

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

_MISS_MAPPING = Mapping(MappingKind.MISS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a profile is of. `by` names the labels whose values are the first frames, the process's comm last.

    `period_ns` is the CPU time of one sample, 0 if it is unknown or differs. Times are Unix nanoseconds, 0 if unknown.
    """

    type: str = "cpu"
    by: tuple[str, ...] = ("comm",)
    period_ns: int = 0
    from_ns: int = 0
    until_ns: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completeness:
    """Samples by how much of their stack is known; each is in one class, so they add up to all samples.

    `truncated` stacks lack frames; `unsymbolized` ones have all frames, but one or more without a name.
    """

    whole: int = 0
    truncated: int = 0
    unsymbolized: int = 0

    @property
    def total(self) -> int:
        return self.whole + self.truncated + self.unsymbolized


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Everything at full detail. Row i: `count[i]` samples (`value[i]` ns) of stack `stack[i]` in group `group[i]`.

    Stack s has the locations location[offsets[s]:offsets[s + 1]], root first. `groups` holds one value per label of
    `origin.by`. Each (group, stack) stands once.
    """

    origin: Origin
    groups: tuple[tuple[str, ...], ...]
    locations: Locations
    offsets: I64
    location: I64
    group: I64
    stack: I64
    count: U64
    value: U64
    completeness: Completeness

    def expanded(self) -> tuple[I64, I64]:
        """The stacks with inlined frames: offsets, and frame numbers in `locations`."""
        first = self.locations.offsets[:-1]
        counts = np.diff(self.locations.offsets)
        if len(counts) == int(counts.sum()):
            return self.offsets, self.location
        of_each = counts[self.location]
        ends = np.concatenate(([0], np.cumsum(of_each)))
        frame = np.repeat(first[self.location] - ends[:-1], of_each) + np.arange(ends[-1])
        return ends[self.offsets], frame


def build_profile(  # noqa: PLR0913 - the five are what a store and a symbolizer give
    selected: Selected,
    frames: Frames,
    mappings: MappingOf[int, Mapping],
    named: MappingOf[int, NamedFrame],
    symbolize: Symbolize,
    *,
    query: ProfileQuery,
    no_kernel: bool = False,
) -> Profile:
    """The profile of the rows that `query` selected. The process's comm becomes the last of the first frames.

    A stack that `frames` lacks is one placeholder frame. With `no_kernel` kernel frames are left out; their samples are
    kept, and count for the code that entered the kernel.
    """
    locations, location = _locations(frames, mappings, named, symbolize)
    offsets = frames.offsets.astype(np.int64)
    stack, offsets, location = _rows_to_stacks(selected.stack, frames.stacks, (offsets, location), len(locations) - 1)
    if no_kernel:
        offsets, location = _without(locations.kernel(), offsets, location)
        stack = _first_equal(offsets, location)[stack]
    group, stack, count, value = _merge_rows(selected, stack)
    order = sorted(range(len(query.by)), key=lambda index: query.by[index] == "comm")
    origin = Origin(
        type=query.selector.type,
        by=tuple(query.by[index] for index in order),
        period_ns=selected.period_ns,
        from_ns=query.from_ns,
        until_ns=query.until_ns,
        title=str(query.selector),
    )
    return Profile(
        origin=origin,
        groups=tuple(tuple(values[index] for index in order) for values in selected.groups),
        locations=locations,
        offsets=offsets,
        location=location,
        group=group,
        stack=stack,
        count=count,
        value=value,
        completeness=_completeness(locations, (offsets, location), stack, count),
    )


def _locations(
    frames: Frames, mappings: MappingOf[int, Mapping], named: MappingOf[int, NamedFrame], symbolize: Symbolize
) -> tuple[Locations, I64]:
    """Names for each distinct frame, and which one each frame is. The last location stands for a stack never received.

    Mapping ids depend on content only, so this order does too, and with it everything that is built from it.
    """
    ids, mapping_of = distinct_runs(frames.mapping)
    addresses, address_of = distinct(frames.address)
    keys, location = distinct((mapping_of.astype(np.uint64) << np.uint64(32)) | address_of.astype(np.uint64))
    known = (*(mappings.get(each, UNKNOWN_MAPPING) for each in ids.tolist()), _MISS_MAPPING)
    mapping = np.append((keys >> np.uint64(32)).astype(np.uint32), np.uint32(len(known) - 1))
    low = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    address = np.append(addresses[low], np.uint64(FrameMiss.NOT_RECEIVED))
    return locate(known, mapping, address, named, symbolize), location


def _rows_to_stacks(wanted: U64, have: U64, stacks: tuple[I64, I64], missing: int) -> tuple[I64, I64, I64]:
    """For each row the index of its stack; a stack of the one location `missing` is added for those not found."""
    offsets, location = stacks
    order = np.argsort(have)
    place = np.searchsorted(have, wanted, sorter=order)
    index = np.append(order, -1)[place]
    absent = (index < 0) | (np.append(have, np.uint64(0))[index] != wanted)
    if not absent.any():
        return index, offsets, location
    index[absent] = len(have)
    return index, np.append(offsets, offsets[-1] + 1), np.append(location, missing)


def _without(dropped: NDArray[np.bool_], offsets: I64, location: I64) -> tuple[I64, I64]:
    """The stacks without the `dropped` locations."""
    keep = ~dropped[location]
    kept_before = np.concatenate(([0], np.cumsum(keep)))
    return kept_before[offsets], location[keep]


def _first_equal(offsets: I64, location: I64) -> I64:
    """For each stack the first one with the same locations."""
    _, end = grow(np.diff(offsets), lambda rows, depth: location[offsets[rows] + depth])
    _, first, index = np.unique(end, return_index=True, return_inverse=True)
    return first[index]


def _merge_rows(selected: Selected, stack: I64) -> tuple[I64, I64, U64, U64]:
    """The rows with each (group, stack) once: group, stack, count, value."""
    keys = (selected.group.astype(np.uint64) << np.uint64(32)) | stack.astype(np.uint64)
    pairs, index = distinct(keys)
    count, value = np.zeros(len(pairs), np.uint64), np.zeros(len(pairs), np.uint64)
    np.add.at(count, index, selected.count)
    np.add.at(value, index, selected.value)
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64), count, value


def _completeness(locations: Locations, stacks: tuple[I64, I64], stack: I64, count: U64) -> Completeness:
    truncated = _any_of(locations.any_frame(FrameKind.TRUNCATED), *stacks)[stack]
    unnamed = _any_of(locations.any_frame(FrameKind.UNKNOWN), *stacks)[stack] & ~truncated
    total, cut, bare = (int(count[rows].sum()) for rows in (slice(None), truncated, unnamed))
    return Completeness(whole=total - cut - bare, truncated=cut, unsymbolized=bare)


def _any_of(flag: NDArray[np.bool_], offsets: I64, location: I64) -> NDArray[np.bool_]:
    """For each stack whether one of its locations has the flag."""
    before = np.concatenate(([0], np.cumsum(flag[location])))
    return before[offsets[1:]] > before[offsets[:-1]]
