"""A build's names as flat columns, and the look-up of many addresses at once. Pure: arrays in, arrays out.

    start     [r]   ascending ELF virtual addresses; range i is [start[i], start[i + 1])
    location  [r]   what is at range i: index of its innermost frame, NOWHERE for nothing
    function  [l]   index in strings
    file      [l]   index in strings, 0 (the empty string) if unknown
    line      [l]   0 if unknown
    parent    [l]   the frame that this one was inlined into, NOWHERE for an outermost one; always less than the index

The last range has no end of its own and holds NOWHERE. Strings are one block of UTF-8 cut by `string_at`. A table may
have come out of a parser that ran on hostile bytes: `check` says whether its indices hold together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleetflame.model import Segment

NOWHERE = 0xFFFFFFFF
MAX_INLINED = 256
"""Frames at one address. Real code stays below 60; the rest of a hostile chain is not followed."""


class Rank(IntEnum):
    """How much a table knows; a better one takes a worse one's place. Stored: numbers stay, `worth` is the order."""

    DYNSYM = 1
    """Only what the file exports."""
    KALLSYMS = 2
    """All functions of a kernel, as a node that runs it says."""
    SYMTAB = 3
    """All functions: `.symtab`, or `.dynsym` with the mini debug information."""
    DWARF = 4
    """Functions, inlined frames and lines."""
    GO = 5
    """The same of what Go compiled, by its runtime's own table: less than DWARF has of C beside it."""

    @property
    def worth(self) -> float:
        """What ranks are compared by."""
        return 3.5 if self is Rank.GO else float(self)


COMPLETE = frozenset({Rank.DWARF, Rank.GO})
"""Ranks with inlined frames and lines: nobody needs to look for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbolized:
    """Names of some addresses: address i has the rows [offsets[i], offsets[i + 1]).

    The outermost function comes first, those inlined into it after it. No rows: no name. `function` and `file` are
    indices in `strings`; strings[0] is "", which is the file where it is unknown; `line` 0 is unknown.
    """

    offsets: NDArray[np.uint32]
    function: NDArray[np.uint32]
    file: NDArray[np.uint32]
    line: NDArray[np.uint32]
    strings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolTable:
    """The columns of the module's docstring; `start` is u32 where all addresses fit, else u64."""

    start: NDArray[np.unsignedinteger[Any]]
    location: NDArray[np.uint32]
    function: NDArray[np.uint32]
    file: NDArray[np.uint32]
    line: NDArray[np.uint32]
    parent: NDArray[np.uint32]
    string_at: NDArray[np.uint64]
    string_bytes: NDArray[np.uint8]
    rank: Rank
    segments: tuple[Segment, ...] = ()
    functions: int = 0
    """How many ranges have a name of their own, for people."""
    text_start: int | None = None
    """Address of `_stext`, which a kernel's addresses count from; None but in a kernel's ELF file."""
    texts: dict[int, str] = field(default_factory=dict, repr=False, compare=False)
    """Strings that were decoded already: bounded by the table's own number of strings."""

    def text(self, index: int) -> str:
        """String `index`."""
        found = self.texts.get(index)
        if found is None:
            data = self.string_bytes[self.string_at[index] : self.string_at[index + 1]].tobytes()
            found = self.texts[index] = data.decode("utf-8", "replace")
        return found


def look_up(table: SymbolTable, addresses: NDArray[np.uint64]) -> Symbolized:
    """The names at each address (ELF virtual addresses, exact: callers' addresses lie inside their call)."""
    innermost = _innermost(table, addresses)
    levels: list[NDArray[np.uint32]] = []
    rows: list[NDArray[np.int64]] = []
    row = np.flatnonzero(innermost != NOWHERE)
    current = innermost[row]
    while len(row) and len(levels) < MAX_INLINED:
        levels.append(current)
        rows.append(row)
        above = table.parent[current]
        going_on = np.flatnonzero(above != NOWHERE)
        row, current = row[going_on], above[going_on]
    depth = np.zeros(len(addresses), np.int64)
    for row in rows:
        depth[row] += 1
    offsets = np.zeros(len(addresses) + 1, np.int64)
    np.cumsum(depth, out=offsets[1:])
    frames = np.empty(int(offsets[-1]), np.uint32)
    for level, (row, current) in enumerate(zip(rows, levels, strict=True)):
        frames[offsets[row + 1] - 1 - level] = current
    return _with_strings(table, offsets.astype(np.uint32), frames)


def nothing(count: int) -> Symbolized:
    """The answer for `count` addresses of which nothing is known."""
    none = np.zeros(0, np.uint32)
    return Symbolized(offsets=np.zeros(count + 1, np.uint32), function=none, file=none, line=none, strings=("",))


def check(table: SymbolTable) -> str | None:
    """What is wrong with the table's indices, or None: a look-up in it can neither fail nor run on for ever."""
    locations, strings = len(table.function), len(table.string_at) - 1
    if len(table.start) != len(table.location) or not len(table.start):
        return "ranges and locations differ in number"
    if not locations == len(table.file) == len(table.line) == len(table.parent):
        return "the columns of locations differ in length"
    if (table.start[1:] <= table.start[:-1]).any():
        return "the ranges do not ascend"
    if ((table.location >= locations) & (table.location != NOWHERE)).any():
        return "a range names a location that is not there"
    if ((table.function >= strings) | (table.file >= strings)).any():
        return "a location names a string that is not there"
    if ((table.parent >= np.arange(locations)) & (table.parent != NOWHERE)).any():
        return "a location is inlined into a later one"
    if (table.string_at[1:] < table.string_at[:-1]).any() or table.string_at[-1] > len(table.string_bytes):
        return "the strings do not ascend"
    return None


def pack_strings(strings: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """`string_at` and `string_bytes` of `strings`."""
    encoded = [text.encode("utf-8", "replace") for text in strings]
    at = np.zeros(len(encoded) + 1, np.uint64)
    np.cumsum([len(data) for data in encoded], out=at[1:])
    return at, np.frombuffer(b"".join(encoded), np.uint8)


def narrow(start: NDArray[np.uint64]) -> NDArray[np.unsignedinteger[Any]]:
    """`start` as u32 if its values fit: half the memory, and the binary search misses the cache half as often."""
    return start.astype(np.uint32) if not len(start) or int(start[-1]) <= 0xFFFFFFFF else start


def _innermost(table: SymbolTable, addresses: NDArray[np.uint64]) -> NDArray[np.uint32]:
    wanted: NDArray[np.unsignedinteger[Any]] = addresses
    if table.start.dtype == np.uint32:
        # The last range is nowhere, and every address beyond 32 bits belongs to it.
        wanted = np.minimum(addresses, np.uint64(0xFFFFFFFF)).astype(np.uint32)
    at = np.searchsorted(table.start, wanted, side="right") - 1
    found: NDArray[np.uint32] = table.location[np.maximum(at, 0)]
    found[at < 0] = NOWHERE
    return found


def _with_strings(table: SymbolTable, offsets: NDArray[np.uint32], frames: NDArray[np.uint32]) -> Symbolized:
    function, file = table.function[frames], table.file[frames]
    used = np.zeros(len(table.string_at), np.bool_)
    used[0] = True
    used[function] = True
    used[file] = True
    kept = np.flatnonzero(used)
    number = np.zeros(len(used), np.uint32)
    number[kept] = np.arange(len(kept), dtype=np.uint32)
    return Symbolized(
        offsets=offsets,
        function=number[function],
        file=number[file],
        line=table.line[frames].astype(np.uint32),
        strings=tuple([table.text(index) for index in kept.tolist()]),
    )
