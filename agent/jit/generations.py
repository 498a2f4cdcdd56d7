"""Which entry of a perf map holds an address in a certain window, where memory goes from function to function. Pure.

Neither samples nor entries have a time of their own. What is known: an entry that was in the map when it was read is
older than that moment, and of two that overlap the later one is the younger. So

- what was read before a window began is *settled*: the last entry holds, and those that it overlaps are gone;
- what came later is *fresh*: it may hold for a part of the window only. An address that has been given from one name to
  another since the window began is ambiguous, and nobody guesses.

A map that is written anew (HotSpot's, at each request) is fresh as a whole; entries that it shares with the one before
agree with it, so only what changed is ambiguous, and what it lacks ends with the window.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.jit.overlaps import NOTHING, last_holding, surviving
from agent.jit.perfmap import Entries, join_entries, no_entries

NOBODY = -1
"""No entry holds the address."""
AMBIGUOUS = -2
"""Several do, with different names, and nobody knows which of them when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """`which[i]` is the row in `entries` that holds address i, or NOBODY, or AMBIGUOUS."""

    entries: Entries
    which: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    read_ns: int
    anew: bool
    entries: Entries


class Generations:
    """The entries of one process. `len` is how many are kept."""

    __slots__ = ("_fresh", "_settled")

    def __init__(self) -> None:
        self._settled = no_entries()
        self._fresh: list[_Reading] = []

    def __len__(self) -> int:
        return len(self._settled) + sum(len(reading.entries) for reading in self._fresh)

    def add(self, entries: Entries, *, read_ns: int, anew: bool) -> None:
        """Entries in the order of the file, which were read to their end at `read_ns`; they follow those of before, or
        take their place if the file was written `anew`."""
        if len(entries) or anew:
            self._fresh.append(_Reading(read_ns=read_ns, anew=anew, entries=entries))

    def settle(self, before_ns: int) -> None:
        """What was read before a window began, at `before_ns`, is not fresh any more. Windows come in order."""
        while self._fresh and self._fresh[0].read_ns <= before_ns:
            reading = self._fresh.pop(0)
            both = reading.entries if reading.anew else join_entries([self._settled, reading.entries])
            self._settled = both.take(surviving(both.start, both.end))

    def count_replaced(self, entries: Entries) -> int:
        """How many of these entries, of a map written anew, begin in memory that had another name until now: names that
        were given since the former map may have been theirs."""
        at = self._find_settled(entries.start)
        held = at != NOBODY
        return int((self._settled.digest[at[held]] != entries.digest[held]).sum())

    def find(self, addresses: NDArray[np.uint64]) -> Holders:
        """Who holds these addresses, which ascend."""
        settled = self._find_settled(addresses)
        fresh = join_entries([reading.entries for reading in self._fresh])
        if not len(fresh):
            return Holders(entries=self._settled, which=settled)
        latest = last_holding(addresses, fresh.start, fresh.end, np.arange(len(fresh)))
        digest = fresh.digest.astype(np.int64)
        largest = last_holding(addresses, fresh.start, fresh.end, digest)
        smallest = _ALL - last_holding(addresses, fresh.start, fresh.end, _ALL - digest)
        held = latest != NOTHING
        differs = held & (largest != smallest)
        both = held & (settled != NOBODY)
        differs[both] |= self._settled.digest[settled[both]] != largest[both]
        which = np.where(held, latest + len(self._settled), settled)
        which[differs] = AMBIGUOUS
        return Holders(entries=join_entries([self._settled, fresh]), which=which)

    def _find_settled(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        if not len(self._settled):
            return np.full(len(addresses), NOBODY, np.int64)
        at = np.searchsorted(self._settled.start, addresses, side="right") - 1
        inside = (at >= 0) & (addresses < self._settled.end[at])
        return np.where(inside, at, NOBODY)


_ALL = (1 << 32) - 1
