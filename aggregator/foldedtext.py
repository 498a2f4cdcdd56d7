"""Folded text read into a merged profile: ours, `stackcollapse-perf`'s, and any other of `frame;frame;frame count`.

The strategy is a compiler's, not a string library's: nothing is done per line or per frame in Python. A block of text
is taken as a column of bytes; separators, counts, and how many bytes each line shares with the line before it are found
for all lines at once; only what is new in a line is hashed, and one word of memory is read per eight bytes for that.
Text that is sorted, as every collapser writes it, shares most of itself. Text that is not is read the same, slower.

No line is lost silently: what cannot be read is counted, and the first of these are reported with their numbers.
"""

import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.distinct import distinct
from aggregator.fold import Folded
from aggregator.naming import clean
from aggregator.profile import Origin
from aggregator.trie import Trie, join, prune, totals
from fleetflame.model import MAX_FRAMES

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Bytes = NDArray[np.uint8]

MAX_LINE = 1 << 20
"""Bytes of a line. A thousand frames with names of a thousand characters fit."""
MAX_FAULTS = 100
"""Bad lines that are described one by one; the rest is counted."""

_BLOCK = 1 << 18
# Bytes at the start of a line that are compared with the line before it. Sharing more than that goes unnoticed, which
# costs time and changes nothing.
_COMPARED = 1 << 10
_MAX_DIGITS = 18
_LOW_BYTES = np.array([(1 << (8 * size)) - 1 for size in range(8)] + [(1 << 64) - 1], np.uint64)
_MIX = np.uint64(29)
_EMPTY_FRAME = "[unknown]"


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that could not be read: its number, from 1, and what is wrong with it."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What a text holds. `lines` counts all that are not blank; `bad` those that could not be read."""

    folded: Folded
    lines: int
    bad: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """What one block of lines brings. A frame is fresh if its line does not share it with the line before."""

    hash: U64
    """Of each fresh frame, in order; the same for equal names."""
    start: I64
    end: I64
    depth: I64
    fresh: I64
    """Fresh frames of each line: one at least, its last."""
    count: U64
    """Samples of each line; 0 where it is bad."""
    blank: int
    faults: list[Fault]


def parse(data: bytes, origin: Origin = Origin()) -> Parsed:  # noqa: B008 - frozen
    """The profile that `data` spells, its frames cleaned and merged by name.

    `origin.by` is what the first frames are; times are unknown, so that only samples are counted.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if data and not data.endswith(b"\n"):
        data += b"\n"
    key = np.uint64(secrets.randbits(64) | 1)
    blocks: list[_Block] = []
    line = 1
    for start, end in _bounds(data):
        blocks.append(_read_block(data[start:end], start, key, line))
        line += len(blocks[-1].count)
    return _assemble(data, blocks, origin)


def _bounds(data: bytes) -> list[tuple[int, int]]:
    """Blocks of whole lines."""
    bounds = []
    at = 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + _BLOCK) + 1 or data.find(b"\n", at) + 1
        bounds.append((at, end))
        at = end
    return bounds


def _read_block(text: bytes, offset: int, key: np.uint64, line: int) -> _Block:
    """The frames of `text`, which is at `offset` of the whole and begins with line number `line`."""
    padded = text + bytes(_COMPARED + 16)
    raw = np.frombuffer(padded, np.uint8, len(text))
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    newline = raw == ord("\n")
    end = np.flatnonzero(newline | (raw == ord(";")))
    last = np.flatnonzero(newline[end])
    line_end = end[last]
    line_start = np.concatenate(([0], line_end[:-1] + 1))
    count, stack_end = _counts(raw, line_start, line_end)
    start = np.empty_like(end)
    start[0] = 0
    start[1:] = end[:-1] + 1
    end[last] = stack_end

    first = np.concatenate(([0], last[:-1] + 1))
    shared = np.searchsorted(start, line_start + _shared_bytes(words, line_start, stack_end), side="right") - 1 - first
    deep = last + 1 - first > MAX_FRAMES
    count[deep] = -1
    fresh = np.maximum(np.minimum(last + 1 - first, MAX_FRAMES) - shared, 0)
    frame = np.repeat(first + shared - (np.cumsum(fresh) - fresh), fresh) + np.arange(int(fresh.sum()))
    start, end = start[frame], end[frame]
    faults, blank = _faults(padded, (line_start, line_end), count, line)
    return _Block(
        hash=_hashes(words, start, end - start, key),
        start=start + offset,
        end=end + offset,
        depth=frame - np.repeat(first, fresh),
        fresh=fresh,
        count=np.maximum(count, 0).astype(np.uint64),
        blank=blank,
        faults=faults,
    )


def _counts(raw: Bytes, start: I64, end: I64) -> tuple[I64, I64]:
    """The number that ends each line, -1 if there is none, and where the stack before it ends."""
    count = np.zeros(len(end), np.int64)
    at = end - 1
    active = np.arange(len(end))
    for power in range(_MAX_DIGITS):
        # A line's first byte is a digit of a stack, if anything: at[active] never leaves the line to the left.
        active = active[at[active] > start[active]]
        digit = raw[at[active]].astype(np.int64) - ord("0")
        is_digit = (digit >= 0) & (digit <= 9)
        active = active[is_digit]
        if not len(active):
            break
        count[active] += digit[is_digit] * 10**power
        at[active] -= 1
    separator = raw[np.maximum(at, 0)]
    good = (at > start) & (at < end - 1) & ((separator == ord(" ")) | (separator == ord("\t")))
    good &= end - start <= MAX_LINE
    return np.where(good, count, -1), np.where(good, at, end)


def _shared_bytes(words: U64, start: I64, end: I64) -> I64:
    """How many bytes each stack shares with the one before it, or fewer. 0 for the first."""
    shared = np.zeros(len(start), np.int64)
    if len(start) < 2:
        return shared
    width = min(_COMPARED, int((end - start).max())) // 8 + 1
    table = words[start[:, None] + np.arange(0, 8 * width, 8)]
    differs = table[1:] ^ table[:-1]
    word = np.argmax(differs != 0, axis=1)
    different = differs[np.arange(len(word)), word]
    low_zeros = np.bitwise_count((different & (~different + np.uint64(1))) - np.uint64(1)).astype(np.int64)
    common = np.where(different != 0, 8 * word + low_zeros // 8, 8 * width)
    length = end - start
    shared[1:] = np.minimum(common, np.minimum(length[1:], length[:-1]))
    return shared


def _hashes(words: U64, start: I64, length: I64, key: np.uint64) -> U64:
    """A hash of each name, taken eight bytes at a time.

    `key` is drawn anew for each text, so that nobody can prepare names that collide; by chance two of a million names
    do once in ten million texts. Names of eight bytes or fewer never do: each step can be undone.
    """
    result = (length.astype(np.uint64) ^ (words[start] & _LOW_BYTES[np.minimum(length, 8)])) * key
    result ^= result >> _MIX
    longer = np.flatnonzero(length > 8)
    start, length = start[longer], length[longer]
    while len(longer):
        start, length = start + 8, length - 8
        state = (result[longer] ^ (words[start] & _LOW_BYTES[np.minimum(length, 8)])) * key
        result[longer] = state ^ (state >> _MIX)
        more = length > 8
        longer, start, length = longer[more], start[more], length[more]
    return result


def _faults(text: bytes, lines: tuple[I64, I64], count: I64, number: int) -> tuple[list[Fault], int]:
    """What is wrong with lines whose count is -1, and how many of those are merely blank."""
    start, end = lines
    bad = np.flatnonzero(count < 0)
    written = bad[end[bad] > start[bad]]
    faults = [Fault(number + at, _reason(text[start[at] : end[at]])) for at in written.tolist()]
    return faults, len(bad) - len(written)


def _reason(line: bytes) -> str:
    if len(line) > MAX_LINE:
        return f"longer than {MAX_LINE:,} bytes"
    stack, space, count = line.rpartition(b" ")
    if line.count(b";") >= MAX_FRAMES:
        return f"more than {MAX_FRAMES:,} frames"
    shown = count[:40].decode(errors="replace")
    if not space:
        return "no count after the stack"
    if not stack:
        return "no stack before the count"
    if count.isdigit():
        return f"the count `{shown}` is too large"
    return f"the count `{shown}` is not a whole number"


def _assemble(data: bytes, blocks: list[_Block], origin: Origin) -> Parsed:
    """One tree from all blocks. Frames that blocks or unsorted lines brought more than once become one."""
    faults = [fault for block in blocks for fault in block.faults]
    fresh = _joined([block.fresh for block in blocks])
    count = _joined([block.count for block in blocks]).astype(np.uint64)
    names, item = _names(data, blocks)
    raw, place = _raw_tree(item, _joined([block.depth for block in blocks]), fresh)
    trie, where = join([raw])
    own = np.zeros(len(trie), np.uint64)
    some = count > 0
    np.add.at(own, where[0][place[(np.cumsum(fresh) - 1)[some]]], count[some])
    if not some.all():
        trie, kept = prune(trie, (totals(trie, own) > 0) | (trie.depth == 0))
        own = own[kept]
    folded = Folded(origin=origin, names=names, trie=trie, count=own, value=own, timed=False).with_used_names()
    lines = len(count) - sum(block.blank for block in blocks)
    return Parsed(folded=folded, lines=lines, bad=len(faults), faults=tuple(faults[:MAX_FAULTS]))


def _names(data: bytes, blocks: list[_Block]) -> tuple[tuple[str, ...], I64]:
    """The distinct names, ascending after the root's, and for each fresh frame its name."""
    hashes, index = distinct(_joined([block.hash for block in blocks]).astype(np.uint64))
    one = np.zeros(len(hashes), np.int64)
    one[index] = np.arange(len(index))
    start = _joined([block.start for block in blocks])[one].tolist()
    end = _joined([block.end for block in blocks])[one].tolist()
    cleaned = [clean(data[a:b].decode(errors="replace")) or _EMPTY_FRAME for a, b in zip(start, end, strict=True)]
    names = sorted({"", *cleaned})
    number = {name: at for at, name in enumerate(names)}
    return tuple(names), np.array([number[name] for name in cleaned], np.int64)[index]


def _raw_tree(item: I64, depth: I64, fresh: I64) -> tuple[Trie, I64]:
    """Fresh frames as a tree, level by level, and where each went. Siblings may be equal.

    A frame's parent is the one before it in its line. The first fresh frame of a line shares its parent with the line
    before: that is the last frame, up to there, one level up.
    """
    order = np.argsort(depth.astype(np.uint16), kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(1, len(order) + 1)
    levels = np.concatenate(([0, 1], 1 + np.cumsum(np.bincount(depth))))
    before = np.arange(-1, len(order) - 1)
    first = (np.cumsum(fresh) - fresh)[fresh > 0]
    before[first] = -1
    first = first[np.argsort(depth[first].astype(np.uint16), kind="stable")]
    bounds = np.searchsorted(depth[first], np.arange(len(levels) - 1))
    for level in range(1, len(levels) - 2):
        asking = first[bounds[level] : bounds[level + 1]]
        above = order[levels[level] - 1 : levels[level + 1] - 1]
        before[asking] = above[np.searchsorted(above, asking) - 1]
    parent = np.append(place, 0)[before[order]]
    return (
        Trie(parent=np.concatenate(([0], parent)), item=np.concatenate(([0], item[order])), levels=levels),
        place,
    )


def _joined(columns: list[NDArray[np.int64]] | list[NDArray[np.uint64]]) -> I64:
    return np.concatenate(columns) if columns else np.zeros(0, np.int64)
