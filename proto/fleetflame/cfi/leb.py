"""Numbers at many positions at once: fixed width and LEB128 (DWARF 5, section 7.6)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MAX_LEB = 10
"""Bytes of a 64-bit number. Padding with more zero groups is legal and never seen."""


class Lebs(NamedTuple):
    """Values modulo 2^64, the positions behind them, and which were whole before their limit."""

    value: U64
    next: I64
    ok: Mask


def fixed(data: Bytes, position: I64, width: int) -> U64:
    """The little-endian unsigned numbers of `width` bytes at `position`; bytes beyond the data count as its last."""
    value = np.zeros(len(position), np.uint64)
    if not len(data):
        return value
    for byte in range(width):
        at = np.clip(position + byte, 0, len(data) - 1)
        value |= data[at].astype(np.uint64) << np.uint64(8 * byte)
    return value


def extend(value: U64, width: int) -> U64:
    """`value`, of `width` bytes, as a two's complement number, modulo 2^64."""
    shift = np.uint64(64 - 8 * width)
    return ((value << shift).view(np.int64) >> shift.astype(np.int64)).view(np.uint64)


def lebs(data: Bytes, position: I64, limit: I64, *, signed: bool = False) -> Lebs:
    """The LEB128 number at each position; not ok is one that does not end before `limit` and within MAX_LEB bytes."""
    value = np.zeros(len(position), np.uint64)
    at = position.copy()
    ok = np.zeros(len(position), bool)
    open_ = np.flatnonzero((position >= 0) & (position < limit))
    for group in range(MAX_LEB):
        byte = data[at[open_]]
        at[open_] += 1
        value[open_] |= (byte & 0x7F).astype(np.uint64) << np.uint64(7 * group)
        ended = byte < 0x80
        ok[open_[ended]] = True
        if signed and 7 * group + 7 < 64:
            negative = open_[ended & (byte & 0x40 != 0)]
            value[negative] |= np.uint64(-(1 << (7 * group + 7)) % (1 << 64))
        open_ = open_[~ended]
        open_ = open_[at[open_] < limit[open_]]
        if not len(open_):
            break
    return Lebs(value, at, ok)
