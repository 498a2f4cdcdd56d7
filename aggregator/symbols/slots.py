"""Procedure linkage slots (`puts@plt`), which a separate debug file cannot name: its `.rela.plt` was left behind in the
binary. They are taken over from the binary's table, and count for nothing when two files of one build are compared.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aggregator.symbols.table import NOWHERE, SymbolTable, narrow

SUFFIX = np.frombuffer(b"@plt", np.uint8)


def without_slots(table: SymbolTable) -> SymbolTable:
    """The table as it would be if no slot had a name: the same for a binary and for its debug file."""
    strings = _slot_strings(table)
    gone = strings[table.function] & (table.parent == NOWHERE)
    gone[table.parent[table.parent != NOWHERE]] = False
    if not gone.any():
        return table
    strings[table.function[~gone]] = False
    strings[table.file[~gone]] = False
    location = table.location.copy()
    placed = location != NOWHERE
    location[placed] = np.where(gone[location[placed]], NOWHERE, _renumbered(gone)[location[placed]])
    parent = table.parent[~gone]
    above = parent != NOWHERE
    parent[above] = _renumbered(gone)[parent[above]]
    lengths = np.diff(table.string_at)
    string_at = np.zeros(int((~strings).sum()) + 1, np.uint64)
    np.cumsum(lengths[~strings], out=string_at[1:])
    first = np.ones(len(location), np.bool_)
    first[1:] = (location[1:] != NOWHERE) | (location[:-1] != NOWHERE)
    return replace(
        table,
        start=narrow(table.start[first].astype(np.uint64)),
        location=location[first],
        function=_renumbered(strings)[table.function[~gone]],
        file=_renumbered(strings)[table.file[~gone]],
        line=table.line[~gone],
        parent=parent,
        string_at=string_at,
        string_bytes=table.string_bytes[: int(table.string_at[-1])][~np.repeat(strings, lengths.astype(np.int64))],
        texts={},
    )


def with_slots_of(table: SymbolTable, other: SymbolTable) -> SymbolTable:
    """`table` with the names that `other`, of the same build, has for slots where `table` has no name at all."""
    if _slot_strings(table).any():
        return table
    slots = _slot_strings(other)[other.function]
    at = np.flatnonzero((other.location != NOWHERE) & slots[np.minimum(other.location, len(slots) - 1)])
    at = at[at + 1 < len(other.start)]
    start, end = other.start[at].astype(np.uint64), other.start[at + 1].astype(np.uint64)
    mine = table.start.astype(np.uint64)
    before = np.searchsorted(mine, start, side="right") - 1
    free = np.where(before >= 0, table.location[np.maximum(before, 0)], NOWHERE) == NOWHERE
    free &= np.searchsorted(mine, end, side="left") == before + 1
    at, start, end = at[free], start[free], end[free]
    if not len(at):
        return table
    names = [other.text(int(other.function[place])).encode() for place in other.location[at]]
    string_at = np.concatenate([table.string_at, table.string_at[-1] + np.cumsum([len(name) for name in names])])
    added = np.arange(len(at), dtype=np.uint32)
    none = np.zeros(len(at), np.uint32)
    cuts = np.unique(np.concatenate([mine, start, end]))
    held = np.searchsorted(mine, cuts, side="right") - 1
    location = np.where(held >= 0, table.location[np.maximum(held, 0)], NOWHERE).astype(np.uint32)
    location[np.searchsorted(cuts, start)] = np.uint32(len(table.function)) + added
    return replace(
        table,
        start=narrow(cuts),
        location=location,
        function=np.concatenate([table.function, np.uint32(len(table.string_at) - 1) + added]),
        file=np.concatenate([table.file, none]),
        line=np.concatenate([table.line, none.astype(table.line.dtype)]),
        parent=np.concatenate([table.parent, np.full(len(at), NOWHERE, np.uint32)]),
        string_at=string_at.astype(np.uint64),
        string_bytes=np.concatenate(
            [table.string_bytes[: int(table.string_at[-1])], np.frombuffer(b"".join(names), np.uint8)]
        ),
        functions=table.functions + len(at),
        texts={},
    )


def _slot_strings(table: SymbolTable) -> NDArray[np.bool_]:
    """Which of the table's strings end in `@plt`."""
    begin, end = table.string_at[:-1].astype(np.int64), table.string_at[1:].astype(np.int64)
    found: NDArray[np.bool_] = end - begin > len(SUFFIX)
    for back, byte in enumerate(SUFFIX[::-1].tolist(), start=1):
        found[found] = table.string_bytes[end[found] - back] == byte
    return found


def _renumbered(gone: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """The new index of each row when those that are `gone` are left out."""
    return (np.cumsum(~gone) - 1).astype(np.uint32)
