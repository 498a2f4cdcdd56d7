"""Folded text read into a merged profile: ours, `stackcollapse-perf`'s, and any other of `frame;frame;frame count`.

The strategy is a compiler's, not a string library's: nothing is done per line or per frame in Python. A block of text
is taken as a column of bytes; separators, counts, and how many bytes each line shares with the line before it are found
for all lines at once; only what is new in a line is hashed, and one word of memory is read per eight bytes for that.
Text that is sorted, as every collapser writes it, shares most of itself. Text that is not is read the same, slower.

No line is lost silently: what cannot be read is counted, and the first of these are reported with their numbers.
"""

import secrets
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from aggregator.distinct import distinct
from aggregator.fold import Folded
from aggregator.naming import clean
from aggregator.profile import Origin
from aggregator.trie import Levels, Trie, prune, totals
from fleetflame.model import MAX_FRAMES

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

MAX_LINE = 1 << 20
"""Bytes of a line. A thousand frames with names of a thousand characters fit."""
MAX_FAULTS = 100
"""Bad lines that are described one by one; the rest is counted."""

_BLOCK = 1 << 19
# Bytes at the start of a line that are compared with the line before it. Sharing more than that goes unnoticed, which
# costs time and changes nothing.
_COMPARED = 1 << 10
# Eight words, so that eight comparisons are the bytes of one word.
_STRIDE = 64
# Bytes of a name that are hashed at a time: most names are shorter.
_CHUNK = 32
_MAX_DIGITS = 18
# Text that is larger and not sorted is sorted first: lines then share most of themselves, which pays for it.
_SORT_ABOVE = 1 << 22
_PROBES = 200
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
    if len(data) > _SORT_ABOVE and not _looks_sorted(data):
        parsed = _parse(b"\n".join(sorted(data.split(b"\n"))).lstrip(b"\n") + b"\n", origin)
        # Faults are told by the numbers that lines had.
        return _parse(data, origin) if parsed.bad else parsed
    return _parse(data, origin)


def _parse(data: bytes, origin: Origin) -> Parsed:
    keys = np.array([secrets.randbits(64) | 1 for _ in range(2 + _CHUNK // 8)], np.uint64)
    blocks: list[_Block] = []
    line = 1
    for start, end in _bounds(data):
        blocks.append(_read_block(data[start:end], start, keys, line))
        line += len(blocks[-1].count)
    return _assemble(data, blocks, origin)


def _looks_sorted(data: bytes) -> bool:
    """Whether nearly all of some pairs of neighbouring lines, spread over the text, are in order."""
    ordered = 0
    for probe in range(_PROBES):
        start = data.find(b"\n", len(data) * probe // _PROBES) + 1
        middle = data.find(b"\n", start) + 1
        ordered += data[start:middle] <= data[middle : data.find(b"\n", middle)] or not middle
    return ordered >= 0.9 * _PROBES


def _bounds(data: bytes) -> list[tuple[int, int]]:
    """Blocks of whole lines."""
    bounds = []
    at = 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + _BLOCK) + 1 or data.find(b"\n", at) + 1
        bounds.append((at, end))
        at = end
    return bounds


def _read_block(text: bytes, offset: int, keys: U64, line: int) -> _Block:
    """The frames of `text`, which is at `offset` of the whole and begins with line number `line`."""
    padded = text + bytes(_COMPARED + _STRIDE + _CHUNK)
    raw = np.frombuffer(padded, np.uint8, len(text))
    newline = raw == ord("\n")
    end = np.flatnonzero(newline | (raw == ord(";")))
    last = np.flatnonzero(newline[end])
    line_end = end[last]
    line_start = np.concatenate(([0], line_end[:-1] + 1))
    count, stack_end = _counts(padded, line_start, line_end)
    # A frame is shared if the separator after it is.
    first = np.concatenate(([0], last[:-1] + 1))
    shared = np.searchsorted(end, line_start + _shared_bytes(padded, line_start, stack_end)) - first
    deep = last + 1 - first > MAX_FRAMES
    count[deep] = -1
    fresh = np.maximum(np.minimum(last + 1 - first, MAX_FRAMES) - shared, 0)
    frame = np.repeat(first + shared - (np.cumsum(fresh) - fresh), fresh) + np.arange(int(fresh.sum()))
    start = np.where(frame > 0, end[frame - 1] + 1, 0)
    end[last] = stack_end
    end = end[frame]
    faults, blank = _faults(padded, (line_start, line_end), count, line)
    return _Block(
        hash=_hashes(padded, start, end - start, keys),
        start=start + offset,
        end=end + offset,
        depth=frame - np.repeat(first, fresh),
        fresh=fresh,
        count=np.maximum(count, 0).astype(np.uint64),
        blank=blank,
        faults=faults,
    )


def _counts(text: bytes, start: I64, end: I64) -> tuple[I64, I64]:
    """The number that ends each line, -1 if there is none, and where the stack before it ends."""
    # The eight bytes before each end at once: nearly every line has fewer than eight digits, and starts before them.
    tail = _rows(text, end - 8, 8).view(np.uint8).reshape(-1, 8) - np.uint8(ord("0"))
    digits = _first_byte((tail > 9).view("<u8").reshape(-1).byteswap())
    at = end - 1 - digits
    rest = np.flatnonzero((digits == 8) | (at <= start) | (end < 8))
    count = np.zeros(len(end), np.int64)
    for place in range(min(int(digits.max(initial=0)), 8)):
        count += np.where(digits > place, tail[:, 7 - place], 0).astype(np.int64) * 10**place
    if len(rest):
        count[rest], at[rest] = _long_counts(text, start[rest], end[rest])
    separator = np.frombuffer(text, np.uint8)[np.maximum(at, 0)]
    good = (at > start) & (at < end - 1) & ((separator == ord(" ")) | (separator == ord("\t")))
    good &= end - start <= MAX_LINE
    return np.where(good, count, -1), np.where(good, at, end)


def _long_counts(text: bytes, start: I64, end: I64) -> tuple[I64, I64]:
    """The digits that end each line as a number, and where the byte before them is, digit by digit."""
    raw = np.frombuffer(text, np.uint8)
    count = np.zeros(len(end), np.int64)
    at = end - 1
    active = np.arange(len(end))
    for power in range(_MAX_DIGITS):
        active = active[at[active] >= start[active]]
        digit = raw[at[active]].astype(np.int64) - ord("0")
        is_digit = (digit >= 0) & (digit <= 9)
        active = active[is_digit]
        count[active] += digit[is_digit] * 10**power
        at[active] -= 1
    return count, at


def _rows(text: bytes, start: I64, size: int) -> NDArray[np.void]:
    """`size` bytes of `text` from each place in `start`. As opaque items they are copied whole, ten times as fast."""
    windows = np.ndarray((len(text) - size + 1,), f"V{size}", text, strides=(1,))
    return windows[np.maximum(start, 0)]


def _first_byte(words: U64) -> I64:
    """The index of the lowest byte of each word that is not zero; 8 if all are."""
    return (np.bitwise_count((words & (~words + np.uint64(1))) - np.uint64(1)) >> 3).astype(np.int64)


def _shared_bytes(text: bytes, start: I64, end: I64) -> I64:
    """How many bytes each stack shares with the one before it, or fewer. 0 for the first."""
    shared = np.zeros(len(start), np.int64)
    length = end - start
    limit = np.minimum(length[1:], length[:-1])
    open_ = np.arange(1, len(start))
    for offset in range(0, _COMPARED, _STRIDE):
        if not len(open_):
            break
        # A line is compared with the one before it, which may be closed; while most are open, none is read twice.
        if 2 * len(open_) > len(start):
            rows = _rows(text, start + offset, _STRIDE)
            one, other = rows[open_], rows[open_ - 1]
        else:
            one, other = (_rows(text, start[lines] + offset, _STRIDE) for lines in (open_, open_ - 1))
        differs = one.view("<u8").reshape(-1, 8) ^ other.view("<u8").reshape(-1, 8)
        word = _first_byte((differs != 0).view("<u8").reshape(-1))
        different = differs[np.arange(len(word)), np.minimum(word, 7)]
        common = np.minimum(8 * word + np.where(word < 8, _first_byte(different), 0), _STRIDE)
        shared[open_] = offset + common
        open_ = open_[(common == _STRIDE) & (offset + _STRIDE < limit[open_ - 1])]
    shared[1:] = np.minimum(shared[1:], limit)
    return shared


def _hashes(text: bytes, start: I64, length: I64, keys: U64) -> U64:
    """A hash of each name: words made unlike by multiplication, then summed with one key for each place.

    `keys` are drawn anew for each text, so that nobody can prepare names that collide; by chance two of a million names
    do once in ten million texts.
    """
    result = length.astype(np.uint64)
    which = np.arange(len(start))
    masks = _low_bytes()
    while len(which):
        words = _rows(text, start, _CHUNK).view("<u8").reshape(-1, _CHUNK // 8)
        words &= masks[np.minimum(length, _CHUNK)].view("<u8").reshape(-1, _CHUNK // 8)
        words ^= words >> np.uint64(32)
        words *= keys[0]
        words ^= words >> np.uint64(29)
        total = result[which] * keys[1]
        for place in range(_CHUNK // 8):
            total += words[:, place] * keys[2 + place]
        result[which] = total ^ (total >> np.uint64(32))
        more = np.flatnonzero(length > _CHUNK)
        which, start, length = which[more], start[more] + _CHUNK, length[more] - _CHUNK
    return result


@cache
def _low_bytes() -> NDArray[np.void]:
    """Masks for the first 0, 1, ... _CHUNK bytes."""
    inside = np.arange(_CHUNK) < np.arange(_CHUNK + 1)[:, None]
    return np.where(inside, np.uint8(255), np.uint8(0)).astype(np.uint8).view(f"V{_CHUNK}").reshape(-1)


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
    trie, node = _tree(item, _joined([block.depth for block in blocks]), fresh)
    own = np.zeros(len(trie), np.uint64)
    some = count > 0
    np.add.at(own, node[(np.cumsum(fresh) - 1)[some]], count[some])
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


def _tree(item: I64, depth: I64, fresh: I64) -> tuple[Trie, I64]:
    """The tree of all fresh frames, and the node of each.

    A frame's parent is the one before it in its line. The first fresh frame of a line shares its parent with the line
    before: that is the last frame, up to there, one level up.
    """
    order = np.argsort(depth.astype(np.uint16), kind="stable")
    bounds = np.concatenate(([0], np.cumsum(np.bincount(depth)))).tolist()
    first = np.zeros(len(order), bool)
    first[(np.cumsum(fresh) - fresh)[fresh > 0]] = True
    levels = Levels()
    node = np.zeros(len(order), np.int64)
    above = order[:0]
    for low, high in pairwise(bounds):
        here = order[low:high]
        parent = here - 1
        if low:
            asking = np.flatnonzero(first[here])
            parent[asking] = above[np.searchsorted(above, here[asking]) - 1]
            parent = node[parent]
        else:
            parent[:] = 0
        node[here] = levels.add(parent, item[here])
        above = here
    return levels.trie(), node


def _joined(columns: list[NDArray[np.int64]] | list[NDArray[np.uint64]]) -> I64:
    return np.concatenate(columns) if columns else np.zeros(0, np.int64)
