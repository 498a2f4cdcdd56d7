"""Lines of a perf map as columns. Pure: blocks of bytes in, columns out.

    7f323c026f40 d24 JS:*spin /srv/app.js:3:14
    0x00007f4a44ec7640 0x0000000000000130 int Hot.fib(int)
    start        size   name, to the end of the line; both numbers in base 16

The format is that of tools/perf/Documentation/jit-interface.txt in the kernel's sources; HotSpot writes `0x` before its
numbers. A map has 100,000 lines now and then and hardly any of them is ever asked for, so names stay in the file: a
line becomes 20 bytes, which say where its name is and what it hashes to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

BLOCK = 128 * 1024
"""Bytes parsed at once: what is needed in between is 30 times as large."""
MAX_LINE = 16 * 1024
"""Bytes of a line. C++ templates and Scala's generated classes have names of some KiB."""
MAX_SIZE = 1 << 30
"""Bytes of one function. V8 and HotSpot reserve at most 256 MiB for all code."""
END_OF_USER = 1 << 57
"""Where addresses of user space end, with five levels of page tables."""

_MULTIPLIER = 0x9E3779B97F4A7C15
_SPREAD = 0xD6E8FEB86659FD93
_INVERSE = pow(_MULTIPLIER, -1, 1 << 64)
_NO_DIGIT = 255
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)
for _digit, _character in enumerate(b"0123456789abcdef"):
    _DIGITS[_character] = _digit
for _digit, _character in enumerate(b"ABCDEF", 10):
    _DIGITS[_character] = _digit


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Row i: code at [start, start + size) has the name that the line at `offset` of the file says; `digest` is a hash
    of the name. Rows are in the order of the file unless somebody says otherwise."""

    start: NDArray[np.uint64]
    size: NDArray[np.uint32]
    offset: NDArray[np.uint32]
    digest: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def end(self) -> NDArray[np.uint64]:
        return self.start + self.size

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool] | slice) -> "Entries":
        """The rows with these numbers, in this order."""
        return Entries(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


def no_entries() -> Entries:
    """Columns without rows."""
    nothing = np.zeros(0, np.uint32)
    return Entries(start=np.zeros(0, np.uint64), size=nothing, offset=nothing, digest=nothing)


def join_entries(parts: Sequence[Entries]) -> Entries:
    """The rows of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    parts = parts or [no_entries()]
    return Entries(**{each.name: np.concatenate([getattr(p, each.name) for p in parts]) for each in fields(Entries)})


def parse_lines(block: bytes, offset: int) -> tuple[Entries, int]:
    """(the entries of a block of whole lines which is at `offset` of its file, lines that are none).

    At most BLOCK + MAX_LINE bytes are to be given at once. A line is none if a number is missing or out of range.
    """
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    begins = np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))[: len(ends)]
    spaces = np.append(np.flatnonzero(text == ord(" ")), [len(text), len(text)])
    at = np.searchsorted(spaces, begins)
    first, second = spaces[at], spaces[np.minimum(at + 1, len(spaces) - 1)]
    good = (second + 1 < ends) & (ends - begins <= MAX_LINE)
    begins_kept, first, second = begins[good], first[good], second[good]
    start, start_good = _hexadecimal(text, begins_kept, first)
    size, size_good = _hexadecimal(text, first + 1, second)
    valid = start_good & size_good & (size > 0) & (size <= MAX_SIZE) & (start < END_OF_USER)
    begin, name, end = begins_kept[valid], second[valid] + 1, ends[good][valid]
    entries = Entries(
        start=start[valid],
        size=size[valid].astype(np.uint32),
        offset=(begin + offset).astype(np.uint32),
        digest=_digests(text, name, end),
    )
    return entries, len(ends) - len(entries)


def iter_blocks(block: bytes) -> Iterator[tuple[int, bytes]]:
    """(where it begins, a part of some BLOCK bytes that ends with a line) for a block of whole lines."""
    at = 0
    while at < len(block):
        end = block.find(b"\n", min(at + BLOCK, len(block)) - 1) + 1 or len(block)
        yield at, block[at:end]
        at = end


def _hexadecimal(
    text: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.bool]]:
    """(the numbers that text[begin:end] spell, which of them are numbers below 2^64)."""
    last = max(0, len(text) - 1)
    prefixed = (end - begin > 2) & (text[np.minimum(begin, last)] == ord("0"))
    prefixed &= (text[np.minimum(begin + 1, last)] | 0x20) == ord("x")
    begin = np.where(prefixed, begin + 2, begin)
    good = (end > begin) & (end - begin <= 16)
    value = np.zeros(len(begin), np.uint64)
    for place in range(int((end - begin)[good].max(initial=0))):
        position = end - 1 - place
        there = good & (position >= begin)
        digit = _DIGITS[text[np.where(there, position, 0)]]
        good &= ~there | (digit != _NO_DIGIT)
        value |= np.where(there & good, digit, 0).astype(np.uint64) << np.uint64(4 * place)
    return value, good


def _digests(text: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.uint32]:
    """A hash of each text[begin:end] that does not depend on where it is.

    sum(text[i] * M^i) of all that is before, so that those of a part are a difference, times M^-begin; modulo 2^64.
    """
    powers = np.full(len(text) + 1, _MULTIPLIER, np.uint64)
    powers[0] = 1
    np.cumprod(powers, out=powers)
    sums = np.zeros(len(text) + 1, np.uint64)
    # Bytes plus 1: a text that begins with NUL is not that text without it.
    np.cumsum((text.astype(np.uint64) + np.uint64(1)) * powers[:-1], out=sums[1:])
    powers[:] = _INVERSE
    powers[0] = 1
    np.cumprod(powers, out=powers)
    # Short names have small sums, so they are spread before the upper half is taken.
    spread = (sums[end] - sums[begin]) * powers[begin] * np.uint64(_SPREAD)
    return (spread >> np.uint64(32)).astype(np.uint32)
