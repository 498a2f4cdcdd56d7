"""DWARF expressions of unwind information, as far as a rule can hold them (DWARF 5, section 2.5).

An expression is worked out once, with registers as unknowns. What comes out is a constant, a register plus a constant,
what such an address points to plus a constant, or nothing that we could use. So that the same place in another spelling
is the same rule. The one expression with a comparison, for entries of a PLT, is known by its form.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from fleetflame.cfi.cursor import Cursor
from fleetflame.cfi.faults import CfaError
from fleetflame.cfi.rules import RIP, RSP

MAX_OPERATIONS = 64
"""Those that a rule can hold have 11 at most (the PLT's)."""

CFA = -1
NOTHING = -2
"""Bases that are no register."""


@dataclass(frozen=True, slots=True)
class Place:
    """`base` + `offset`; if `deref`, what lies there + `added`."""

    base: int
    offset: int
    deref: bool = False
    added: int = 0

    def plus(self, number: int) -> "Place":
        if self.deref:
            return Place(self.base, self.offset, True, self.added + number)
        return Place(self.base, self.offset + number)


class Op(IntEnum):
    """DW_OP_* (DWARF 5, table 7.9), those that are understood."""

    DEREF = 0x06
    CONST1U = 0x08
    CONST8S = 0x0F
    CONSTU = 0x10
    CONSTS = 0x11
    AND = 0x1A
    MINUS = 0x1C
    PLUS = 0x22
    PLUS_UCONST = 0x23
    SHL = 0x24
    GE = 0x2A
    LIT0 = 0x30
    LIT31 = 0x4F
    BREG0 = 0x70
    BREG31 = 0x8F
    BREGX = 0x92
    NOP = 0x96
    CALL_FRAME_CFA = 0x9C


_LIT = Op.LIT0
# What ld writes for .plt and .plt.sec (bfd/elfxx-x86.c): rsp + 8 + ((((rip + 0) & 15) >= threshold) << 3). The entry
# has pushed 8 bytes once rip is beyond the push instruction.
_PLT = re.compile(
    re.escape(bytes([Op.BREG0 + RSP, 8, Op.BREG0 + RIP, 0, _LIT + 15, Op.AND]))
    + b"([\x30-\x3f])"
    + re.escape(bytes([Op.GE, _LIT + 3, Op.SHL, Op.PLUS]))
)


def plt_threshold(expression: bytes) -> int | None:
    """The number that rip & 15 is compared with, if this is the CFA of PLT entries."""
    match = _PLT.fullmatch(expression)
    return match[1][0] - _LIT if match else None


def resolve(expression: bytes, pushed: Sequence[Place] = ()) -> Place | None:
    """What is on top of the stack in the end, having begun with `pushed`. None if it is nothing of the forms above."""
    cursor, stack = Cursor(expression), list(pushed)
    try:
        for _ in range(MAX_OPERATIONS):
            if not cursor.more():
                return stack[-1] if stack else None
            if not _step(cursor, stack):
                return None
    except CfaError:
        # An operand beyond the end: the expression is no form of ours either.
        return None
    return None


def _step(cursor: Cursor, stack: list[Place]) -> bool:
    """One operation; False if it is not understood, or the stack lacks its operands."""
    op = cursor.byte()
    place = _pushed(op, cursor)
    if place is not None:
        stack.append(place)
        return True
    if op == Op.NOP:
        return True
    if not stack:
        return False
    if op == Op.PLUS_UCONST:
        stack[-1] = stack[-1].plus(cursor.uleb())
        return True
    if op == Op.DEREF and not stack[-1].deref and stack[-1].base != NOTHING:
        stack[-1] = Place(stack[-1].base, stack[-1].offset, True)
        return True
    if op in (Op.PLUS, Op.MINUS) and len(stack) >= 2:
        right, left = stack.pop(), stack.pop()
        if op == Op.PLUS and left.base == NOTHING:
            left, right = right, left
        stack.append(left.plus(right.offset if op == Op.PLUS else -right.offset))
        return right.base == NOTHING
    return False


def _pushed(op: int, cursor: Cursor) -> Place | None:
    """What an operation without operands on the stack puts there; None for any other."""
    if Op.BREG0 <= op <= Op.BREG31:
        return Place(op - Op.BREG0, cursor.sleb())
    if op == Op.BREGX:
        return Place(cursor.uleb(), cursor.sleb())
    if Op.LIT0 <= op <= Op.LIT31:
        return Place(NOTHING, op - Op.LIT0)
    if Op.CONST1U <= op <= Op.CONST8S:
        width = 1 << (op - Op.CONST1U) // 2
        return Place(NOTHING, cursor.signed(width) if op & 1 else cursor.unsigned(width))
    if op == Op.CONSTU:
        return Place(NOTHING, cursor.uleb())
    if op == Op.CONSTS:
        return Place(NOTHING, cursor.sleb())
    if op == Op.CALL_FRAME_CFA:
        return Place(CFA, 0)
    return None
