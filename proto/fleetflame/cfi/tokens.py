"""Where the instructions of many programs begin: all programs at once, one instruction of each per step.

For every byte of a piece of the section it is worked out first where the next instruction would begin if one began
here. Then all programs walk along that, side by side, and mark what they step on; those that are much longer than the
others are walked one by one in the end, since a step of numpy's costs as much as 60 of Python's.

Instructions whose length is not seen at a glance stop a walk: expressions, DW_CFA_set_loc, unknown ones. Such programs
are for `exact`, which knows all, and judges what is broken.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleetflame.cfi.exact import Cfa

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

NARROW = 64
"""Programs below which they are walked one by one. Measured: between 32 and 128 it makes no difference."""
MAX_LEB = 4
"""Bytes of an operand that columns are made of: 28 bits. Longer ones stop a walk."""
_STOP = 1 << 29

PAD = 16
"""Bytes that `code` must have behind the last program."""


def _operands() -> tuple[I32, Mask, Mask]:
    """By opcode: bytes of the instruction with LEB128 operands of one byte; whether it has one such operand, or two."""
    size = np.full(256, _STOP, np.int32)
    size[Cfa.NOP] = size[Cfa.REMEMBER_STATE] = size[Cfa.RESTORE_STATE] = 1
    size[Cfa.ADVANCE_LOC : Cfa.OFFSET] = size[Cfa.RESTORE :] = 1
    size[Cfa.ADVANCE_LOC1], size[Cfa.ADVANCE_LOC2], size[Cfa.ADVANCE_LOC4] = 2, 3, 5
    one, two = np.zeros(256, bool), np.zeros(256, bool)
    one[Cfa.OFFSET : Cfa.RESTORE] = True
    for op in (Cfa.RESTORE_EXTENDED, Cfa.UNDEFINED, Cfa.SAME_VALUE, Cfa.DEF_CFA_REGISTER, Cfa.DEF_CFA_OFFSET):
        one[op] = True
    one[Cfa.GNU_ARGS_SIZE] = True
    two[[Cfa.OFFSET_EXTENDED, Cfa.OFFSET_EXTENDED_SF, Cfa.REGISTER, Cfa.DEF_CFA]] = True
    two[[Cfa.VAL_OFFSET, Cfa.VAL_OFFSET_SF]] = True
    size[one], size[two] = 2, 3
    return size, one, two


_SIZE, _ONE, _TWO = _operands()


class Tokens(NamedTuple):
    """position  i64[m]  of each instruction in `code`, ascending; of program i those in [first[i], first[i + 1])
    first     i64[n + 1]

    Each program has one more at its end, which is no instruction. Programs that were stopped are without theirs.
    """

    position: I64
    first: I64
    stopped: Mask


def tokenize(code: Bytes, start: I64, end: I64) -> Tokens:
    """The instructions of the programs code[start:end], which ascend, with a byte at least between any two."""
    following = _following(code)
    mark = np.zeros(len(code), bool)
    stopped = _walk(following, mark, start, end)
    mark[end] = True
    position = np.flatnonzero(mark)
    if stopped.any():
        owner = np.searchsorted(start, position, side="right") - 1
        position = position[~stopped[owner] | (position == end[owner])]
    first = np.searchsorted(position, np.append(start, len(code)))
    return Tokens(position, first, stopped)


def _following(code: Bytes) -> I32:
    """Of each byte the position of the next instruction, if one began here; far away if that is not known."""
    following = np.arange(len(code), dtype=np.int32)
    following += _SIZE[code]
    long = code >= 0x80
    one, two = _ONE[code], _TWO[code]
    # Two operands: the first is a register of one byte, or the walk stops.
    following[:-1][two[:-1] & long[1:]] = _STOP
    for operand, of in ((1, one), (2, two)):
        which = np.flatnonzero(of[:-PAD] & long[operand : operand - PAD])
        for byte in range(1, MAX_LEB):
            following[which] += 1
            which = which[long[which + operand + byte]]
        following[which] = _STOP
    return following


def _walk(following: I32, mark: Mask, start: I64, end: I64) -> Mask:
    """Marks the instructions of all programs; says which did not end exactly at their end."""
    stopped = np.zeros(len(start), bool)
    who = np.flatnonzero(start < end)
    at, until = start[who].astype(np.int32), end[who].astype(np.int32)
    while len(at) > NARROW:
        mark[at] = True
        at = following[at]
        live = at < until
        if not live.all():
            over = at > until
            if over.any():
                stopped[who[over]] = True
            at, until, who = at[live], until[live], who[live]
    for program, position, limit in zip(who.tolist(), at.tolist(), until.tolist(), strict=True):
        # As a list: indexing one is four times as fast as indexing an array.
        relative = (following[position:limit] - np.int32(position)).tolist()
        step, length, seen = 0, limit - position, []
        while step < length:
            seen.append(step)
            step = relative[step]
        mark[np.array(seen, np.int64) + position] = True
        stopped[program] = step != length
    return stopped
