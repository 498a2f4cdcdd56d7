"""Stacks as a tree of places: those that begin alike share their beginnings, which most of the frames of stacks do.

A place is a distinct (mapping id, address). 1.2 million frames of 43,000 stacks are 228,000 nodes over 83,000 places,
so that whatever is worked out for each node or place is worked out once instead of for every frame. A tree only grows;
its nodes and places keep their numbers, for those who remember something about them.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aggregator.distinct import distinct_runs
from aggregator.growing import NO_NUMBERS, Growing, Numbering, grown, only_root
from aggregator.storage.types import StackRows

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


class Lineage:
    """What trees have in common that grew out of each other: a node or place of one is the same in the others."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StackTree:
    """Some stacks. Items of `tree` are places: place p is (mapping id `mapping[p]`, `address[p]`)."""

    lineage: Lineage = field(default_factory=Lineage)
    tree: Growing = field(default_factory=only_root)
    mapping: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    address: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    ends: Numbering = NO_NUMBERS
    """Stack id -> the node where it ends."""
    _mappings: Numbering = NO_NUMBERS
    _addresses: Numbering = NO_NUMBERS
    _places: Numbering = NO_NUMBERS
    """(number of the mapping id << 32 | number of the address) -> place."""

    def __len__(self) -> int:
        return len(self.ends)

    def find(self, stacks: U64) -> I64:
        """The node where each of `stacks` ends, -1 for those that are not here."""
        return self.ends.find(stacks)

    def with_stacks(self, stacks: StackRows) -> "StackTree":
        """The tree with `stacks`, none of which is here yet; of equal ones the first counts."""
        ids, first = np.unique(stacks.ids, return_index=True)
        if not len(ids):
            return self
        held, place = self._with_places(stacks.mapping, stacks.address)
        start = stacks.offsets.astype(np.int64)[:-1][first]
        length = stacks.offsets.astype(np.int64)[1:][first] - start
        tree, end = grown(held.tree, length, lambda rows, depth: place[start[rows] + depth])
        return replace(held, tree=tree, ends=held.ends.merged(ids, end.astype(np.uint32)))

    def _with_places(self, mapping: U64, address: U64) -> tuple["StackTree", I64]:
        """The tree with the places of some frames, and the place of each."""
        ids, index = distinct_runs(mapping)
        mappings, number = self._mappings.numbered(ids)
        addresses, low = self._addresses.numbered(address)
        places, place = self._places.numbered((number[index] << 32 | low).astype(np.uint64))
        fresh = len(places) - len(self.mapping)
        if not fresh:
            return self, place
        # Any frame of a place tells what it is.
        frame = np.empty(len(places), np.int64)
        frame[place] = np.arange(len(place))
        frame = frame[len(self.mapping) :]
        held = replace(
            self,
            mapping=np.concatenate((self.mapping, mapping[frame])),
            address=np.concatenate((self.address, address[frame])),
            _mappings=mappings,
            _addresses=addresses,
            _places=places,
        )
        return held, place

    def rows(self, ids: U64, ends: I64) -> StackRows:
        """The stacks `ids`, which end at `ends`, with their frames."""
        offsets, place = self.tree.paths(ends)
        return StackRows(
            ids=ids, offsets=offsets.astype(np.uint64), mapping=self.mapping[place], address=self.address[place]
        )
