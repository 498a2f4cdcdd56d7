"""Names for the stacks of a query, and what is remembered of them for the next one.

    StackTree: places by address  ->  names of the distinct places  ->  tree of names, and where each stack ends in it

A question a moment later has nearly the same stacks. So names are looked up for places that are new, and the tree of
names grows by what is new. All of it is forgotten when a build's symbols or what is known of a mapping change, which is
looked at with every question: symbols that arrive late name at once what was asked for before.
"""

import threading
from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.growing import Growing, Growth, only_root
from aggregator.locations import UNKNOWN_MAPPING, Locations, Symbolize, joined, locate, nowhere
from aggregator.naming import FrameKind, miss_name
from aggregator.storage.stacktree import StackTree
from fleetflame.model import NAMED_KINDS, FrameMiss, Mapping, NamedFrame

Bools = NDArray[np.bool_]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

KEPT_NODES = 1 << 20
"""Of larger trees nothing is remembered: the store does not keep them either."""
NOT_RECEIVED = miss_name(FrameMiss.NOT_RECEIVED)

Version = Callable[[Mapping], object]
"""What changes when the symbolizer would give other names for a mapping."""


class Source(Protocol):
    """Where what frames refer to is found: the store."""

    def mappings(self, wanted: Iterable[int]) -> MappingOf[int, Mapping]: ...
    def named(self, wanted: Iterable[int]) -> MappingOf[int, NamedFrame]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedStacks:
    """Stacks and their names: stack i ends at node `end[i]` of `tree`, whose items are indices into `texts`.

    `texts` are names as they are written, `rank` is the place of each in their order. Stacks that the store does not
    have end at a placeholder.
    """

    tree: Growing
    end: I64
    texts: tuple[str, ...]
    rank: I64
    truncated: Bools
    """Whether frames of the stack are missing."""
    unnamed: Bools
    """Whether a frame of the stack has no name."""
    places: "_Places"
    stacks: StackTree
    found: I64
    """Where each stack ends in `stacks`, -1 for one that the store does not have."""

    def located(self) -> tuple[Locations, I64, I64]:
        """The stacks as locations with all that is known of them: locations, offsets, location of each frame.

        Locations are sorted by mapping id and address, which depend on content only. The last one stands for a stack
        that was never received.
        """
        offsets, place = self.stacks.tree.paths(np.maximum(self.found, 0))
        used = np.zeros(len(self.stacks.mapping), bool)
        used[place] = True
        wanted = np.flatnonzero(used)
        order = wanted[np.lexsort((self.stacks.address[wanted], self.stacks.mapping[wanted]))]
        number = np.zeros(len(used), np.int64)
        number[order] = np.arange(len(order))
        ids, mapping = np.unique(self.stacks.mapping[order], return_inverse=True)
        known = tuple(self.places.mappings[each] for each in ids.tolist())
        locations = self.places.locations.taken(self.places.row[order], known, mapping.astype(np.uint32))
        lost = np.zeros(len(self.found) + 1, np.int64)
        np.cumsum(self.found < 0, out=lost[1:])
        location = np.full(int(offsets[-1] + lost[-1]), len(order))
        location[np.arange(len(place)) + np.repeat(lost[:-1], np.diff(offsets))] = number[place]
        return joined(locations, nowhere()), offsets + lost, location


class Names:
    """Names stacks, and remembers. Thread-safe; one at a time."""

    def __init__(self, symbolize: Symbolize, version: Version | None = None) -> None:
        """Without `version` nothing is remembered: nobody would say when it is out of date."""
        self._symbolize = symbolize
        self._version = version
        self._lock = threading.Lock()
        self._held: _Book | None = None

    def of(self, stacks: StackTree, found: I64, source: Source, *, kernel: bool = True) -> NamedStacks:
        """The names of stacks that end at the nodes `found`; without `kernel`, of what is left without its frames."""
        with self._lock:
            book = self._held
            if book is None or book.lineage is not stacks.lineage or not book.holds(source):
                book = _Book(stacks, self._symbolize, self._version)
            named = book.named(stacks, found, source, kernel=kernel)
            self._held = book if self._version is not None and len(stacks.tree) <= KEPT_NODES else None
            return named


@dataclass(slots=True)
class _Places:
    """What is known of the places of a tree. Replaced as a whole: whoever has one may keep it."""

    row: I64
    """For each place which of `locations` it is, -1 if that was not asked yet."""
    locations: Locations
    mappings: dict[int, Mapping]
    text: I64
    """For each frame of `locations` its name's number."""
    flags: dict[str, Bools]


class _Book:
    """What is remembered of one lineage of trees."""

    def __init__(self, stacks: StackTree, symbolize: Symbolize, version: Version | None) -> None:
        self.lineage = stacks.lineage
        self._symbolize = symbolize
        self._version = version or (lambda _: None)
        self._versions: dict[int, object] = {}
        self._lost = False
        self._numbers: dict[str, int] = {NOT_RECEIVED: 0}
        self._texts: tuple[str, ...] = (NOT_RECEIVED,)
        self._order: list[str] = [NOT_RECEIVED]
        self._rank = np.zeros(1, np.int64)
        nothing = {name: np.zeros(0, bool) for name in ("truncated", "unnamed", "kernel")}
        none = np.zeros(0, np.int64)
        self._places = _Places(none, nowhere().taken(none, (), none.astype(np.uint32)), {}, none, nothing)
        self._views = {True: _View(), False: _View()}

    def holds(self, source: Source) -> bool:
        """Whether everything would be named as it was."""
        if self._lost:
            return False
        known = self._places.mappings
        found = source.mappings(known)
        return all(
            found.get(number, UNKNOWN_MAPPING) == mapping and self._version(mapping) == self._versions[number]
            for number, mapping in known.items()
        )

    def named(self, stacks: StackTree, found: I64, source: Source, *, kernel: bool) -> NamedStacks:
        view = self._views[kernel]
        nodes = view.unnamed(stacks.tree, found[found >= 0])
        if len(nodes):
            self._look_up(stacks, np.unique(stacks.tree.item[nodes]).astype(np.int64), source)
            view.extend(stacks.tree, nodes, self._places, kernel=kernel)
        return NamedStacks(
            tree=view.tree,
            end=np.where(found >= 0, view.node[found], view.not_received),
            texts=self._texts,
            rank=self._rank,
            truncated=view.truncated[found] | (found < 0),
            unnamed=view.unnamed_below[found] & (found >= 0),
            places=self._places,
            stacks=stacks,
            found=found,
        )

    def _look_up(self, stacks: StackTree, wanted: I64, source: Source) -> None:
        """Names for those of the places `wanted` that have none yet."""
        held = self._places
        row = np.full(len(stacks.mapping), -1)
        row[: len(held.row)] = held.row
        fresh = wanted[row[wanted] < 0]
        if not len(fresh):
            return
        fresh = fresh[np.lexsort((stacks.address[fresh], stacks.mapping[fresh]))]
        ids, number = np.unique(stacks.mapping[fresh], return_inverse=True)
        mappings = held.mappings | self._mappings(ids, source)
        address = stacks.address[fresh]
        known = tuple(mappings[each] for each in ids.tolist())
        kinds = np.array([mapping.kind in NAMED_KINDS for mapping in known], bool)
        wanted_names = np.unique(address[kinds[number]]).tolist()
        named = source.named(wanted_names) if wanted_names else {}
        self._lost |= len(named) < len(wanted_names)
        new = locate(known, number.astype(np.uint32), address, named, self._symbolize)
        row[fresh] = np.arange(len(held.locations), len(held.locations) + len(fresh))
        flags = {
            "truncated": new.any_frame(FrameKind.TRUNCATED),
            "unnamed": new.any_frame(FrameKind.UNKNOWN),
            "kernel": new.kernel(),
        }
        self._places = _Places(
            row=row,
            locations=joined(held.locations, new),
            mappings=mappings,
            text=np.concatenate((held.text, self._numbered(new.rendered()))),
            flags={name: np.concatenate((held.flags[name], flag)) for name, flag in flags.items()},
        )

    def _mappings(self, ids: U64, source: Source) -> dict[int, Mapping]:
        fresh = [number for number in ids.tolist() if number not in self._versions]
        found = source.mappings(fresh) if fresh else {}
        mappings = {number: found.get(number, UNKNOWN_MAPPING) for number in fresh}
        # Before any look-up: a table that arrives in between makes this out of date, never the other way round.
        self._versions |= {number: self._version(mapping) for number, mapping in mappings.items()}
        return mappings

    def _numbered(self, names: list[str]) -> I64:
        """The number of each name; new ones get one."""
        known = self._numbers
        numbers = np.array([known.setdefault(name, len(known)) for name in names], np.int64)
        if len(known) > len(self._texts):
            fresh = tuple(islice(known, len(self._texts), None))
            self._texts += fresh
            # Two sorted runs are sorted in one pass.
            self._order = sorted([*self._order, *sorted(fresh)])
            self._rank = np.empty(len(self._order), np.int64)
            self._rank[[known[text] for text in self._order]] = np.arange(len(self._order))
        return numbers


class _View:
    """Where the nodes of a tree of places are in the tree of names, with the kernel's frames or without."""

    def __init__(self) -> None:
        self.tree = only_root()
        self.node = np.zeros(1, np.int64)
        """For each node of the places' tree the node of the names' tree, -1 if that was not asked yet."""
        self.truncated = np.zeros(1, bool)
        self.unnamed_below = np.zeros(1, bool)
        growth = Growth(self.tree)
        self.not_received = int(growth.step(np.zeros(1, np.int64), np.zeros(1, np.int64))[0])
        self.tree = growth.tree()

    def unnamed(self, tree: Growing, found: I64) -> I64:
        """Those of the nodes `found` and above them that were not asked for yet, each after its parent."""
        more = len(tree) - len(self.node)
        if more > 0:
            self.node = np.concatenate((self.node, np.full(more, -1)))
            self.truncated = np.concatenate((self.truncated, np.zeros(more, bool)))
            self.unnamed_below = np.concatenate((self.unnamed_below, np.zeros(more, bool)))
        wanted = np.zeros(len(tree), bool)
        front = np.unique(found[self.node[found] < 0])
        while len(front):
            wanted[front] = True
            above = tree.parent[front].astype(np.int64)
            front = np.unique(above[(self.node[above] < 0) & ~wanted[above]])
        return np.flatnonzero(wanted)

    def extend(self, tree: Growing, nodes: I64, places: _Places, *, kernel: bool) -> None:
        """Names `nodes`, each of which stands after its parent or has a named one."""
        row = places.row[tree.item[nodes]]
        dropped = places.flags["kernel"][row] & (not kernel)
        count = np.where(dropped, 0, np.diff(places.locations.offsets)[row])
        node, parent = self.node.copy(), tree.parent[nodes].astype(np.int64)
        truncated, unnamed = self.truncated.copy(), self.unnamed_below.copy()
        depth = np.zeros(len(node), np.int64)
        known = parent[node[parent] >= 0]
        depth[known] = self.tree.depth[node[known]]
        # A node all of whose frames are left out is where the next one above it is.
        stands_for = np.arange(len(node))
        for level in _levels(tree.depth[nodes]):
            here, above = nodes[level], parent[level]
            depth[here] = depth[above] + count[level]
            stands_for[here] = np.where(count[level] > 0, here, stands_for[above])
            truncated[here] = truncated[above] | (places.flags["truncated"][row[level]] & ~dropped[level])
            unnamed[here] = unnamed[above] | (places.flags["unnamed"][row[level]] & ~dropped[level])
        # One entry for each frame, in the order of its depth in the tree of names.
        owner = np.repeat(np.arange(len(nodes)), count)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        text = places.text[places.locations.offsets[row][owner] + within]
        below = stands_for[parent]
        growth = Growth(self.tree)
        for level in _levels(depth[nodes][owner] - count[owner] + within):
            of = owner[level]
            start = np.where(within[level] > 0, node[nodes[of]], node[below[of]])
            node[nodes[of]] = growth.step(start, text[level])
        node[nodes] = node[stands_for[nodes]]
        self.node, self.truncated, self.unnamed_below, self.tree = node, truncated, unnamed, growth.tree()


def _levels(depth: NDArray[np.integer]) -> list[I64]:
    """The indices of equal depths together, the least depth first."""
    if len(depth) and int(depth.max()) < 1 << 16:
        depth = depth.astype(np.uint16)  # sorted by radix
    order = np.argsort(depth, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(depth[order])) + 1) if len(order) else []
