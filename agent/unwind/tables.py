"""Unwind tables in the kernel's arrays: rows of 4 bytes by pages of 64 KiB of code, rules shared by all tables.

    tables[slot] -> pages -> rows -> rules

A slot is a build's for as long as it is known, its rows only while they are loaded: regions keep their slot when a
table comes, goes and comes again. Written in the order rules, rows, page, slot, so that a step never finds half a
table.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.kernelmaps import ArrayMap
from agent.unwind.extents import Extents
from bpf import layout
from fleetflame.cfi.rules import RULE_DTYPE, CfaKind
from fleetflame.cfi.table import UnwindTable

GRACE_S = 0.01
CHUNK_PAGES = 64
"""Pages that are put together at once: 4 MiB of code, some 100,000 rows. A large table is not held a second time."""
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
        pages, pairs = _room(table)
        place = self._take(pages, pairs)
        if place is None:
            return False
        numbers = self._number(table.rules)
        pair = place.first_pair
        for first in range(0, pages, CHUNK_PAGES):
            entries, rows = paginate(table.pc, table.rule, numbers, range(first, min(first + CHUNK_PAGES, pages)))
            packed = np.append(rows, np.zeros(len(rows) % 2, np.uint32)).view(np.uint64)
            self._rows.write(pair, packed)
            entries["first_row"] += 2 * pair
            self._pages.write(place.first_page + first, entries)
            pair += len(packed)
        entry = np.zeros(1, layout.TABLE)
        entry["base"], entry["first_page"], entry["pages"] = table.base, place.first_page, pages
        self._tables.write(slot, entry)
        self._places[slot] = place
        return True

    def could_hold(self, table: UnwindTable, without: Iterable[int]) -> bool:
        """Whether there were places enough for a table without those in the slots `without`, if not in one piece."""
        pages, pairs = _room(table)
        going = [*(self._places[slot] for slot in without), *self._resting]
        return pages <= self._free_pages.free + sum(
            place.pages for place in going
        ) and pairs <= self._free_pairs.free + sum(place.pairs for place in going)

    def unload(self, slot: int) -> None:
        """Takes a slot's table away. Its room is used again GRACE_S later: a step that has just looked up the slot
        takes microseconds."""
        self._tables.write(slot, np.zeros(1, layout.TABLE))
        self._resting.append(self._places.pop(slot))

    def _take(self, pages: int, pairs: int) -> _Place | None:
        first_page, first_pair = self._free_pages.take(pages), self._free_pairs.take(pairs)
        if first_page is not None and first_pair is not None:
            return _Place(first_page, pages, first_pair, pairs)
        if first_page is not None:
            self._free_pages.give_back(first_page, pages)
        if first_pair is not None:
            self._free_pairs.give_back(first_pair, pairs)
        return None

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


def _room(table: UnwindTable) -> tuple[int, int]:
    """Pages and pairs of rows that a table takes."""
    pages = int(table.pc[-1] >> layout.PAGE_BITS) + 1
    # A page begins with a row, and each chunk with a pair: at most these more than the table has.
    return pages, (len(table) + pages) // 2 + 1 + pages // CHUNK_PAGES


def paginate(
    pc: NDArray[np.uint32], rule: NDArray[np.uint32], numbers: NDArray[np.uint32], wanted: range
) -> tuple[NDArray[np.void], NDArray[np.uint32]]:
    """(entries of `pages` for the `wanted` ones, with first rows counted from 0; their rows as u32: address within the
    page | number of the rule << 16). `numbers[rule[i]]` is the number of row i's rule.

    A page begins with the row that holds at its beginning: the last one of the page before, if none begins there.
    """
    starts = np.arange(wanted.start, wanted.stop + 1, dtype=np.uint64) << np.uint64(layout.PAGE_BITS)
    at = np.searchsorted(pc, starts)
    at, end = at[:-1], int(at[-1])
    begin = int(at[0]) if len(at) else 0
    here = pc[begin:end]
    there = np.zeros(len(at), np.bool)
    inside = at < end
    there[inside] = pc[at[inside]] == starts[:-1][inside]
    missing = np.flatnonzero(~there)
    # Before the first row there is nothing: number 0.
    carried = np.where(at[missing] > 0, numbers[rule[np.maximum(at[missing], 1) - 1]], np.uint32(0)).astype(np.uint32)
    rows = (here & np.uint32(_PAGE - 1)) | numbers[rule[begin:end]] << np.uint32(16)
    rows = np.insert(rows, at[missing] - begin, carried << np.uint32(16)).astype(np.uint32)
    first = at - begin + np.searchsorted(missing, np.arange(len(at)))
    pages = np.zeros(len(at), layout.PAGE)
    pages["first_row"] = first
    pages["rows"] = np.diff(np.append(first, len(rows)))
    return pages, rows
