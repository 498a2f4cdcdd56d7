"""Unwind tables in the kernel's arrays: rows of 4 bytes by pages of 64 KiB of code, rules shared by all tables.

    tables[slot] -> pages -> rows -> rules

A slot is a build's for as long as it is known, its rows only while they are loaded: regions keep their slot when a
table comes, goes and comes again. Written in the order rules, rows, page, slot, so that a step never finds half a
table.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.kernelmaps import ArrayMap
from agent.unwind.extents import Extents
from bpf import layout
from fleetflame.cfi.rules import RULE_DTYPE, CfaKind
from fleetflame.cfi.table import UnwindTable

GRACE_S = 0.01
_PAGE = 1 << layout.PAGE_BITS
MAX_RULES = 1 << 16
"""A row has 16 bits for its rule. All of a distribution's files have 3,700 distinct ones."""


@dataclass(frozen=True, slots=True)
class _Place:
    first_page: int
    pages: int
    first_pair: int
    pairs: int


class KernelTables:
    """The arrays of one sampler. To be used by one thread."""

    def __init__(self, tables: ArrayMap, pages: ArrayMap, rows: ArrayMap, rules: ArrayMap) -> None:
        self._tables, self._pages, self._rows, self._rules = tables, pages, rows, rules
        self._free_pages, self._free_pairs = Extents(pages.entries), Extents(rows.entries)
        self._places: dict[int, _Place] = {}
        self._resting: list[_Place] = []
        self._numbers: dict[bytes, int] = {}
        self.rules_refused = 0
        """Rules for which there was no number left: their rows are as if the compiler could not express them."""
        # Number 0 is what an address gets that no table knows.
        self._number(np.zeros(1, RULE_DTYPE))
        unsupported = np.zeros(1, RULE_DTYPE)
        unsupported["cfa"] = CfaKind.UNSUPPORTED
        self._unsupported = int(self._number(unsupported)[0])

    @property
    def rows_loaded(self) -> int:
        """Rows that stand in the kernel."""
        return 2 * sum(place.pairs for place in self._places.values())

    def is_loaded(self, slot: int) -> bool:
        """Whether the slot has its table."""
        return slot in self._places

    def load(self, slot: int, table: UnwindTable) -> bool:
        """Puts a table into a slot; False if there is no room for it."""
        # SANITY: its former place would never be given back.
        assert slot not in self._places, "loaded twice"
        self._reuse()
        pages, rows = paginate(table.pc, self._number(table.rules)[table.rule])
        pairs = np.append(rows, np.zeros(len(rows) % 2, np.uint32)).view(np.uint64)
        first_page, first_pair = self._free_pages.take(len(pages)), self._free_pairs.take(len(pairs))
        if first_page is None or first_pair is None:
            if first_page is not None:
                self._free_pages.give_back(first_page, len(pages))
            if first_pair is not None:
                self._free_pairs.give_back(first_pair, len(pairs))
            return False
        self._rows.write(first_pair, pairs)
        pages["first_row"] += 2 * first_pair
        self._pages.write(first_page, pages)
        entry = np.zeros(1, layout.TABLE)
        entry["base"], entry["first_page"], entry["pages"] = table.base, first_page, len(pages)
        self._tables.write(slot, entry)
        self._places[slot] = _Place(first_page, len(pages), first_pair, len(pairs))
        return True

    def unload(self, slot: int) -> None:
        """Takes a slot's table away. Its room is used again GRACE_S later: a step that has just looked up the slot
        takes microseconds."""
        self._tables.write(slot, np.zeros(1, layout.TABLE))
        self._resting.append(self._places.pop(slot))

    def _reuse(self) -> None:
        if self._resting:
            time.sleep(GRACE_S)
        for place in self._resting:
            self._free_pages.give_back(place.first_page, place.pages)
            self._free_pairs.give_back(place.first_pair, place.pairs)
        self._resting.clear()

    def _number(self, rules: NDArray[np.void]) -> NDArray[np.uint32]:
        """The kernel's number of each of these rules, which are distinct."""
        numbers = np.zeros(len(rules), np.uint32)
        fresh: list[int] = []
        for at, rule in enumerate(rules):
            key = rule.tobytes()
            number = self._numbers.get(key)
            if number is None and len(self._numbers) < MAX_RULES:
                number = self._numbers[key] = len(self._numbers)
                fresh.append(at)
            if number is None:
                self.rules_refused += 1
                number = self._unsupported
            numbers[at] = number
        if fresh:
            self._rules.write(len(self._numbers) - len(fresh), rules[fresh])
        return numbers


def paginate(pc: NDArray[np.uint32], rule: NDArray[np.uint32]) -> tuple[NDArray[np.void], NDArray[np.uint32]]:
    """(entries of `pages` with their first rows counted from 0, rows as u32: address within its page | rule << 16).

    A page begins with the row that holds at its beginning: the last one of the page before, if none begins there.
    """
    if not len(pc):
        return np.zeros(0, layout.PAGE), np.zeros(0, np.uint32)
    count = int(pc[-1] >> layout.PAGE_BITS) + 1
    starts = np.arange(count, dtype=np.uint64) << np.uint64(layout.PAGE_BITS)
    at = np.searchsorted(pc, starts)
    there = (at < len(pc)) & (pc[np.minimum(at, len(pc) - 1)] == starts)
    missing = np.flatnonzero(~there)
    # Before the first row there is nothing: rule 0.
    carried = np.where(at[missing] > 0, rule[np.maximum(at[missing], 1) - 1], np.uint32(0)).astype(np.uint32)
    rows = (pc & np.uint32(_PAGE - 1)) | rule << np.uint32(16)
    rows = np.insert(rows, at[missing], carried << np.uint32(16))
    first = at + np.searchsorted(missing, np.arange(count))
    pages = np.zeros(count, layout.PAGE)
    pages["first_row"] = first
    pages["rows"] = np.diff(np.append(first, len(rows)))
    return pages, rows.astype(np.uint32)
