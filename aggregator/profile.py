"""A profile: what a query selected, with names, as columns. Pure: columns in, columns out.

Stacks are the ends of ways in a tree of names (`names.py`), which is all that merging by name needs. Their locations,
with addresses, files and lines, are worked out for those who ask: pprof and speedscope.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.locations import Locations
from aggregator.names import NamedStacks
from aggregator.storage.types import ProfileQuery, Selected
from aggregator.trie import grow

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


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

    `groups` holds one value per label of `origin.by`. Each (group, stack) stands once; without `kernel`, stacks that
    differ in kernel frames only are stacks of their own still.
    """

    origin: Origin
    groups: tuple[tuple[str, ...], ...]
    named: NamedStacks
    group: I64
    stack: I64
    count: U64
    value: U64
    completeness: Completeness
    kernel: bool = True

    def detail(self) -> "Detail":
        """The same with locations instead of names."""
        locations, offsets, location = self.named.located()
        stack = self.stack
        if not self.kernel:
            offsets, location = _without(locations.kernel(), offsets, location)
            stack = _first_equal(offsets, location)[stack]
        group, stack, count, value = _merged(self.group, stack, self.count, self.value)
        return Detail(
            locations=locations,
            offsets=offsets,
            location=location,
            group=group,
            stack=stack,
            count=count,
            value=value,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """Rows as in `Profile`; stack s has the locations location[offsets[s]:offsets[s + 1]], root first."""

    locations: Locations
    offsets: I64
    location: I64
    group: I64
    stack: I64
    count: U64
    value: U64


def make_profile(
    selected: Selected, named: NamedStacks, stack: I64, *, query: ProfileQuery, kernel: bool = True
) -> Profile:
    """The profile of the rows that `query` selected; row i is of the stack `stack[i]` of `named`.

    The process's comm becomes the last of the first frames. Without `kernel` its frames are left out; their samples are
    kept, and count for the code that entered the kernel.
    """
    group, stack, count, value = _merged(selected.group.astype(np.int64), stack, selected.count, selected.value)
    order = sorted(range(len(query.by)), key=lambda index: query.by[index] == "comm")
    origin = Origin(
        type=query.selector.type,
        by=tuple(query.by[index] for index in order),
        period_ns=selected.period_ns,
        from_ns=query.from_ns,
        until_ns=query.until_ns,
        title=str(query.selector),
    )
    truncated = named.truncated[stack]
    unnamed = named.unnamed[stack] & ~truncated
    total, cut, bare = (int(count[rows].sum()) for rows in (slice(None), truncated, unnamed))
    return Profile(
        origin=origin,
        groups=tuple(tuple(values[index] for index in order) for values in selected.groups),
        named=named,
        group=group,
        stack=stack,
        count=count,
        value=value,
        completeness=Completeness(whole=total - cut - bare, truncated=cut, unsymbolized=bare),
        kernel=kernel,
    )


def index_stacks(wanted: U64, found: I64) -> tuple[I64, I64]:
    """The distinct stacks among `wanted` by id, as the nodes where they end; and which of them each one is.

    `found` is where each of `wanted` ends, -1 if the store does not have it: all of those are the last stack.
    """
    have = found >= 0
    _, first, index = np.unique(wanted[have], return_index=True, return_inverse=True)
    stack = np.full(len(wanted), len(first))
    stack[have] = index
    ends = found[have][first]
    return (ends if have.all() else np.append(ends, -1)), stack


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


def _merged(group: I64, stack: I64, count: U64, value: U64) -> tuple[I64, I64, U64, U64]:
    """The rows with each (group, stack) once, by group and stack."""
    keys = (group.astype(np.uint64) << np.uint64(32)) | stack.astype(np.uint64)
    if (keys[1:] > keys[:-1]).all():
        return group, stack, count, value
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    count, value = np.add.reduceat(count[order], first), np.add.reduceat(value[order], first)
    return group[order][first], stack[order][first], count, value
