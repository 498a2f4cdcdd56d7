"""One table out of what symbol tables and DWARF say about the same file. Pure: columns in, columns out.

Which of the two names an address:

- DWARF, with its inlined frames and lines, where a range of DWARF holds the address and does not start before the
  symbol that holds it (a range has no end of its own: one that starts before has run over into the next function).
- Otherwise the symbol: assembler, and functions that a compiler left without a description.

The outermost frame takes the symbol's name even where DWARF has it, as llvm-symbolizer does: the same function has then
the same name whether its build came with DWARF or without (`foo.cold`, and one of several aliases by one rule), so
that late debug information adds to a profile rather than tears it apart.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregator.symbols.plain import Named
from aggregator.symbols.ranges import distinct
from aggregator.symbols.symcache import NONE, Symcache
from aggregator.symbols.table import NOWHERE, Rank, SymbolTable, narrow, pack_strings
from fleetflame.model import Segment

Demangle = Callable[[str], str]
U32 = NDArray[np.uint32]


class Strings:
    """Strings with a number each, "" being 0."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {"": 0}

    def numbers(self, texts: Iterable[str]) -> U32:
        """The number of each text, new ones where it is new."""
        known = self._numbers
        return np.array([known.setdefault(text, len(known)) for text in texts], np.uint32)

    def all(self) -> list[str]:
        """The texts by number."""
        return list(self._numbers)


def plain_table(named: Named, *, demangle: Demangle, rank: Rank, segments: tuple[Segment, ...] = ()) -> SymbolTable:
    """The table of symbols alone."""
    strings = Strings()
    function = strings.numbers(map(demangle, named.names))[named.name]
    start, location = _with_ends(named.start, named.end, np.arange(len(function), dtype=np.uint32))
    columns = _Columns(function, np.zeros_like(function), np.zeros_like(function), np.full_like(function, NOWHERE))
    return _table(start, location, columns, strings, _Kind(rank, segments))


def dwarf_table(
    cache: Symcache, named: Named, *, base: int, demangle: Demangle, segments: tuple[Segment, ...] = ()
) -> SymbolTable:
    """The table of DWARF (addresses count from `base`), completed and named by symbols."""
    strings = Strings()
    columns = _dwarf_columns(cache, strings, demangle)
    symbol_names = strings.numbers(map(demangle, named.names))[named.name]
    dwarf_start = cache.start + np.uint64(base)
    start = _union(dwarf_start, named.start, named.end)
    d = np.searchsorted(dwarf_start, start, side="right") - 1
    s = _holder(named, start)
    # What symbolic took from the symbol table is chosen by our own rules instead.
    bare = (columns.file == 0) & (columns.line == 0) & (columns.parent == NOWHERE)
    location = np.where(d >= 0, cache.location[d], NOWHERE).astype(np.uint32) if len(dwarf_start) else _none(start)
    told = location != NOWHERE
    told[told] = ~bare[location[told]] if len(named.start) else True
    begun = dwarf_start[np.maximum(d, 0)] if len(dwarf_start) else start
    held = s >= 0
    told &= np.where(held, begun >= _at(named.start, s), ~_in_any(named, begun))
    location[~told] = NOWHERE
    both = np.flatnonzero(told & held)
    columns, location[both] = _rename_outermost(columns, location[both], symbol_names[s[both]])
    only_symbol = np.flatnonzero(held & ~told)
    columns, location[only_symbol] = _append_bare(columns, symbol_names[s[only_symbol]])
    start, location = _merged(start, location)
    return _table(start, location, columns, strings, _Kind(Rank.DWARF, segments))


class _Kind(NamedTuple):
    rank: Rank
    segments: tuple[Segment, ...]


class _Columns:
    """The columns of locations."""

    def __init__(self, function: U32, file: U32, line: U32, parent: U32) -> None:
        self.function, self.file, self.line, self.parent = function, file, line, parent

    def with_rows(self, function: U32, file: U32, line: U32, parent: U32) -> "_Columns":
        """These and new rows after them."""
        return _Columns(
            np.concatenate([self.function, function]).astype(np.uint32),
            np.concatenate([self.file, file]).astype(np.uint32),
            np.concatenate([self.line, line]).astype(np.uint32),
            np.concatenate([self.parent, parent]).astype(np.uint32),
        )


def _dwarf_columns(cache: Symcache, strings: Strings, demangle: Demangle) -> _Columns:
    # A function without a name is "?" there; here it is nothing to show, unless a symbol has a name for it.
    names = strings.numbers([demangle(name) if name else "?" for name in cache.functions] + ["?"])
    paths = strings.numbers([*cache.paths, ""])
    function = names[np.where(cache.function == NONE, len(names) - 1, cache.function)]
    file = paths[np.where(cache.file == NONE, len(paths) - 1, cache.file)]
    return _Columns(function, file, cache.line, cache.parent)


def _rename_outermost(columns: _Columns, location: U32, name: U32) -> tuple[_Columns, U32]:
    """Gives the outermost frame of each location the name beside it, on copies where it has another.

    Locations share their parents, so a chain is copied once per (location, name) that differs. Copies of outer frames
    are made before those of the frames inlined into them: a parent's index stays less than its child's.
    """
    differs = np.flatnonzero(columns.function[_outermost(columns.parent)[location]] != name)
    if not len(differs):
        return columns, location
    levels = _chains(columns.parent, _pairs(location[differs], name[differs]))
    copied: NDArray[np.uint64] = np.zeros(0, np.uint64)
    number: U32 = np.zeros(0, np.uint32)
    rows: list[tuple[U32, U32, U32, U32]] = []
    first = len(columns.function)
    for level in reversed(levels):
        fresh = level[~_among(level, copied)]
        node, wanted = (fresh >> np.uint64(32)).astype(np.uint32), fresh.astype(np.uint32)
        above = columns.parent[node]
        outer = above == NOWHERE
        parent = np.full(len(node), NOWHERE, np.uint32)
        parent[~outer] = number[np.searchsorted(copied, _pairs(above[~outer], wanted[~outer]))]
        function = np.where(outer, wanted, columns.function[node]).astype(np.uint32)
        rows.append((function, columns.file[node], columns.line[node], parent))
        copied = np.concatenate([copied, fresh])
        number = np.concatenate([number, np.arange(first, first + len(fresh), dtype=np.uint32)])
        first += len(fresh)
        order = np.argsort(copied)
        copied, number = copied[order], number[order]
    location = location.copy()
    location[differs] = number[np.searchsorted(copied, _pairs(location[differs], name[differs]))]
    return columns.with_rows(*(np.concatenate(column) for column in zip(*rows, strict=True))), location


def _chains(parent: U32, pairs: NDArray[np.uint64]) -> list[NDArray[np.uint64]]:
    """The pairs (location, name), those of their parents, and so on; each level once and ascending."""
    levels = [_union(pairs)]
    while True:
        above = parent[(levels[-1] >> np.uint64(32)).astype(np.uint32)]
        inner = above != NOWHERE
        if not inner.any():
            return levels
        levels.append(_union(_pairs(above[inner], levels[-1][inner].astype(np.uint32))))


def _outermost(parent: U32) -> U32:
    """The end of each location's chain of parents, in as many steps as the depth has binary digits."""
    own = np.arange(len(parent), dtype=np.uint32)
    current = np.where(parent == NOWHERE, own, parent)
    while True:
        further = current[current]
        if np.array_equal(further, current):
            return current
        current = further


def _append_bare(columns: _Columns, names: U32) -> tuple[_Columns, U32]:
    """A location without file and line for each distinct name; which one each name got."""
    unique, index = distinct(names)
    none = np.zeros(len(unique), np.uint32)
    first = len(columns.function)
    grown = columns.with_rows(unique, none, none, np.full(len(unique), NOWHERE, np.uint32))
    return grown, (first + index).astype(np.uint32)


def _with_ends(start: NDArray[np.uint64], end: NDArray[np.uint64], location: U32) -> tuple[NDArray[np.uint64], U32]:
    """Starts of ranges from disjoint [start, end): an end that no range starts at starts a range of nothing."""
    gap = np.append(end[:-1] != start[1:], True) if len(end) else np.zeros(0, np.bool_)
    starts = np.concatenate([start, end[gap]])
    locations = np.concatenate([location, np.full(int(gap.sum()), NOWHERE, np.uint32)])
    order = np.argsort(starts, kind="stable")
    return starts[order], locations[order]


def _merged(start: NDArray[np.uint64], location: U32) -> tuple[NDArray[np.uint64], U32]:
    """Without ranges that say what the one before them says; the last one says nothing."""
    fresh = np.ones(len(start), np.bool_)
    fresh[1:] = location[1:] != location[:-1]
    return start[fresh], location[fresh]


def _table(start: NDArray[np.uint64], location: U32, columns: _Columns, strings: Strings, kind: _Kind) -> SymbolTable:
    if not len(start) or location[-1] != NOWHERE:
        # Only the last symbol of the address space has no end before 2^64.
        last = start[-1] if len(start) else np.uint64(0)
        start = np.append(start, last + np.uint64(1))
        location = np.append(location, np.uint32(NOWHERE))
    string_at, string_bytes = pack_strings(strings.all())
    return SymbolTable(
        start=narrow(start),
        location=location.astype(np.uint32),
        function=columns.function,
        file=columns.file,
        line=columns.line,
        parent=columns.parent,
        string_at=string_at,
        string_bytes=string_bytes,
        rank=kind.rank,
        segments=kind.segments,
        functions=_distinct(columns.function[columns.parent == NOWHERE]),
    )


def _distinct(values: U32) -> int:
    seen = np.zeros(int(values.max(initial=0)) + 1, np.bool_)
    seen[values] = True
    return int(seen.sum()) if len(values) else 0


def _holder(named: Named, at: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The index of the symbol that holds each address, -1 for none."""
    index = np.searchsorted(named.start, at, side="right") - 1
    if not len(named.start):
        return index
    return np.where((index >= 0) & (at < named.end[np.maximum(index, 0)]), index, -1)


def _union(*columns: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """All values once, ascending. Each column is nearly sorted, which the stable sort makes use of."""
    values = np.sort(np.concatenate(columns), kind="stable")
    fresh = np.ones(len(values), np.bool_)
    fresh[1:] = values[1:] != values[:-1]
    return values[fresh]


def _among(values: NDArray[np.uint64], ascending: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: NDArray[np.bool_] = ascending[at] == values
    return found


def _in_any(named: Named, at: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return _holder(named, at) >= 0


def _at(values: NDArray[np.uint64], index: NDArray[np.int64]) -> NDArray[np.uint64]:
    """values[index], whatever value where index is -1."""
    return values[np.maximum(index, 0)] if len(values) else np.zeros(len(index), np.uint64)


def _none(like: NDArray[np.uint64]) -> U32:
    return np.full(len(like), NOWHERE, np.uint32)


def _pairs(high: U32, low: U32) -> NDArray[np.uint64]:
    return (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
