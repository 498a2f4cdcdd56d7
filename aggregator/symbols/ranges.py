"""From symbols that overlap and repeat to disjoint ranges: the rules of `plain`, as columns. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.symbols.plain import STB_GLOBAL, STB_LOCAL, Candidates, Named, texts

MAX_UNDERSCORES = 4
GLIBC_INTERNAL = b"__GI_"
"""glibc calls what it calls itself so, beside the name that everybody knows: worse than any underscores."""


def choose(tables: list[Candidates]) -> Named:
    """One name for every address that a symbol of any of the tables covers."""
    if not tables:
        return Named(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint32), [])
    all_symbols = _joined(tables)
    order = _best_first(all_symbols)
    start, size = all_symbols.start[order], all_symbols.size[order]
    local = ~all_symbols.typed[order] & (all_symbols.binding[order] == STB_LOCAL)
    keep = ~(_inside_sized(start, size) & (size == 0) & local)
    order, start, size = order[keep], start[keep], size[keep]
    end = _ends(start, size, all_symbols.bound[order])
    begin, stop, owner = disjoint(start, end)
    chosen = order[owner]
    unique, name = distinct(chosen)
    names = texts(all_symbols.text, all_symbols.at[unique], all_symbols.length[unique])
    return Named(begin, stop, name.astype(np.uint32), names)


def distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Each value once, ascending, and which of them each element is.

    What `numpy.unique` does, but that imports a module when first called, which a confined worker cannot.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    fresh = np.ones(len(values), np.bool_)
    fresh[1:] = ordered[1:] != ordered[:-1]
    number = np.empty(len(values), np.int64)
    number[order] = np.cumsum(fresh) - 1
    return ordered[fresh], number


def disjoint(
    start: NDArray[np.uint64], end: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """Cuts ranges, ascending by start and the preferred one first among equals, so that none overlaps.

    Gives start, end and the index of the range that each piece is of. A piece belongs to the range with the greatest
    start; among equals to the first that reaches so far. Empty ranges own nothing.
    """
    index = np.flatnonzero(end > start)
    start, end = start[index], end[index]
    if not len(start):
        return start, end, index
    reach = np.maximum.accumulate(end)
    # Most symbols touch no other: only the clusters that overlap are cut one by one.
    apart = np.ones(len(start) + 1, np.bool_)
    apart[1:-1] = start[1:] >= reach[:-1]
    alone = apart[:-1] & apart[1:]
    pieces = [np.stack([start[alone], end[alone], index[alone].astype(np.uint64)])]
    tangled = np.flatnonzero(~alone)
    if len(tangled):
        rows = list(zip(start[tangled].tolist(), end[tangled].tolist(), index[tangled].tolist(), strict=True))
        pieces.append(np.array(_cut(rows), np.uint64).T.reshape(3, -1))
    joined = np.concatenate(pieces, axis=1)
    joined = joined[:, np.argsort(joined[0], kind="stable")]
    return joined[0], joined[1], joined[2].astype(np.int64)


def _cut(rows: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """`disjoint` for the overlapping few: a sweep with the open ranges on a stack, innermost on top."""
    out: list[tuple[int, int, int]] = []
    stack: list[tuple[int, int]] = []
    at = 0

    def advance(to: int) -> None:
        nonlocal at
        while stack and at < to:
            end, owner = stack[-1]
            if end <= at:
                stack.pop()
                continue
            out.append((at, min(end, to), owner))
            at = min(end, to)

    previous, floor = -1, 0
    for start, end, owner in rows:
        advance(start)
        at = start
        if start == previous:
            # An alias that is liked less: it owns only what the ones before it at this address do not reach.
            _push_below(stack, (end, owner), floor=floor)
        else:
            floor = len(stack)
            stack.append((end, owner))
        previous = start
    advance(1 << 64)
    return out


def _push_below(stack: list[tuple[int, int]], item: tuple[int, int], *, floor: int) -> None:
    """Puts `item` under the entries of the same start that are preferred, if it reaches farther than all of them."""
    # SANITY: the entry at `floor` reaches farthest, because only one that reaches farther is put under it.
    if item[0] > stack[floor][0]:
        stack.insert(floor, item)


def _joined(tables: list[Candidates]) -> Candidates:
    if len(tables) == 1:
        return tables[0]
    shifts = np.cumsum([0] + [len(table.text) for table in tables[:-1]])
    return Candidates(
        start=np.concatenate([t.start for t in tables]),
        size=np.concatenate([t.size for t in tables]),
        bound=np.concatenate([t.bound for t in tables]),
        typed=np.concatenate([t.typed for t in tables]),
        binding=np.concatenate([t.binding for t in tables]),
        old=np.concatenate([t.old for t in tables]),
        at=np.concatenate([t.at + shift for t, shift in zip(tables, shifts, strict=True)]),
        length=np.concatenate([t.length for t in tables]),
        text=np.concatenate([t.text for t in tables]),
    )


def _best_first(symbols: Candidates) -> NDArray[np.int64]:
    """Ascending by start; at one address the symbol that the rules prefer first."""
    order = np.argsort(symbols.start, kind="stable")
    start = symbols.start[order]
    same = np.zeros(len(start) + 1, np.bool_)
    same[1:-1] = start[1:] == start[:-1]
    shared = np.flatnonzero(same[:-1] | same[1:])
    # Few symbols share their address, and twenty keys for the others would be wasted.
    order[shared] = order[shared][_preference(symbols, order[shared])]
    return order


def _preference(symbols: Candidates, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    text, at, length = symbols.text, symbols.at[rows], symbols.length[rows]
    binding = symbols.binding[rows]
    keys = (
        *_bytes_as_keys(text, at, length),
        length,
        _has_suffix(text, at, length),
        symbols.old[rows],
        np.select([binding == STB_GLOBAL, binding == STB_LOCAL], [0, 1], 2),
        _underscores(text, at, length),
        ~symbols.typed[rows],
        symbols.size[rows] == 0,
        symbols.start[rows],
    )
    return np.lexsort(keys)


def _underscores(text: NDArray[np.uint8], at: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    count = np.zeros(len(at), np.int64)
    running = np.ones(len(at), np.bool_)
    for step in range(MAX_UNDERSCORES):
        running &= (step < length) & (text[np.minimum(at + step, len(text) - 1)] == ord("_"))
        count += running
    # `_Z`, `_R` and Swift's `_$s` are marks of mangling, not of a name that hides.
    second = text[np.minimum(at + 1, len(text) - 1)]
    mangled = (count == 1) & ((second == ord("Z")) | (second == ord("R")) | (second == ord("$")))
    internal = np.ones(len(at), np.bool_)
    for step, letter in enumerate(GLIBC_INTERNAL):
        internal &= (step < length) & (text[np.minimum(at + step, len(text) - 1)] == letter)
    return np.where(mangled, 0, np.where(internal, MAX_UNDERSCORES + 1, count))


def _has_suffix(text: NDArray[np.uint8], at: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.bool_]:
    dots = np.append(np.flatnonzero(text == ord(".")), np.iinfo(np.int64).max)
    return dots[np.searchsorted(dots, at)] < at + length


def _bytes_as_keys(
    text: NDArray[np.uint8], at: NDArray[np.int64], length: NDArray[np.int64]
) -> list[NDArray[np.uint8]]:
    """The first 24 bytes as sort keys, least significant first. Two names equal so far keep the table's order."""
    return [
        np.where(step < length, text[np.minimum(at + step, len(text) - 1)], 0).astype(np.uint8)
        for step in reversed(range(24))
    ]


def _inside_sized(start: NDArray[np.uint64], size: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether a sized symbol that starts before or at the same address holds the start of each one."""
    end = np.where(size > 0, start + np.minimum(size, ~start), 0)
    reach = np.maximum.accumulate(end) if len(end) else end
    before = np.concatenate([np.zeros(1, np.uint64), reach[:-1]]) if len(end) else end
    return before > start


def _ends(start: NDArray[np.uint64], size: NDArray[np.uint64], bound: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """start + size without overflow; for size 0 the next greater start or the section's end."""
    following = np.searchsorted(start, start, side="right")
    after = np.append(start, np.uint64(0xFFFFFFFFFFFFFFFF))[following]
    open_end = np.minimum(after, np.maximum(bound, start))
    return np.where(size > 0, start + np.minimum(size, ~start), open_end)
