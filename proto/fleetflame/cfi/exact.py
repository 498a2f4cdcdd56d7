"""One program of call frame instructions, opcode by opcode (DWARF 5, section 6.4.2; table 7.29 for their numbers).

For CIEs, for functions whose rules are expressions, and for the few others that `lockstep` leaves to it. Follows the
CFA, rbp and the return address; other registers' rules are read and passed over.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

from fleetflame.cfi.cursor import Cursor
from fleetflame.cfi.faults import CfaError, CfaFault
from fleetflame.cfi.rules import RBP

Locate = Callable[[Cursor], int]

MAX_STATES = 64
"""Of remembered ones, inside each other. Compilers nest 2 deep."""


class Cfa(IntEnum):
    """DW_CFA_*. The first three have an operand in their lower six bits."""

    ADVANCE_LOC = 0x40
    OFFSET = 0x80
    RESTORE = 0xC0
    NOP = 0x00
    SET_LOC = 0x01
    ADVANCE_LOC1 = 0x02
    ADVANCE_LOC2 = 0x03
    ADVANCE_LOC4 = 0x04
    OFFSET_EXTENDED = 0x05
    RESTORE_EXTENDED = 0x06
    UNDEFINED = 0x07
    SAME_VALUE = 0x08
    REGISTER = 0x09
    REMEMBER_STATE = 0x0A
    RESTORE_STATE = 0x0B
    DEF_CFA = 0x0C
    DEF_CFA_REGISTER = 0x0D
    DEF_CFA_OFFSET = 0x0E
    DEF_CFA_EXPRESSION = 0x0F
    EXPRESSION = 0x10
    OFFSET_EXTENDED_SF = 0x11
    DEF_CFA_SF = 0x12
    DEF_CFA_OFFSET_SF = 0x13
    VAL_OFFSET = 0x14
    VAL_OFFSET_SF = 0x15
    VAL_EXPRESSION = 0x16
    GNU_ARGS_SIZE = 0x2E
    GNU_NEGATIVE_OFFSET_EXTENDED = 0x2F


class How(IntEnum):
    """What `Saved.number` is."""

    SAME = 0
    UNDEFINED = 1
    OFFSET = 2
    """Saved at CFA + number."""
    REGISTER = 3
    EXPRESSION = 4
    """Saved where `Saved.expression` says."""
    VALUE = 5
    """Computed, by CFA + number or by an expression: no rule has that."""


class Saved(NamedTuple):
    """Where a caller's register is."""

    how: How = How.SAME
    number: int = 0
    expression: bytes = b""


SAME = Saved()


@dataclass(frozen=True, slots=True)
class State:
    """One row of the table that a program describes. `register` is None until there is one; `expression` goes first."""

    register: int | None = None
    offset: int = 0
    expression: bytes | None = None
    rbp: Saved = SAME
    ra: Saved = SAME


class Alignment(NamedTuple):
    """What a CIE's programs multiply with, and which column is the return address."""

    code: int
    data: int
    ra: int


class Machine:
    """Runs programs of one CIE. `initial` is the state after the CIE's own."""

    def __init__(self, alignment: Alignment, initial: State | None = None) -> None:
        self._alignment = alignment
        self._initial = initial or State()
        self._state = self._initial
        self._remembered: list[State] = []
        self.opcodes = 0

    def rows(self, program: bytes, locate: Locate | None = None) -> Iterator[tuple[int, State]]:
        """(offset from the function's start, state from there on), for each advance one and one more at the end.

        `locate` reads the operand of SET_LOC as such an offset; without it that is an unknown instruction. Raises
        CfaError for a program that cannot be followed, after the rows before that place. Offsets ascend, not strictly.
        """
        cursor, location = Cursor(program), 0
        while cursor.more():
            self.opcodes += 1
            if locate is not None and program[cursor.at] == Cfa.SET_LOC:
                cursor.at += 1
                advance: int | None = locate(cursor) - location
            else:
                advance = self._step(cursor)
            if advance is not None:
                if not 0 <= advance < 1 << 40:
                    raise CfaError(CfaFault.STRUCTURE, f"a location {advance} bytes from the one before it")
                yield location, self._state
                location += advance
        yield location, self._state

    def _step(self, cursor: Cursor) -> int | None:
        """One instruction; for those that advance, by how many bytes."""
        op = cursor.byte()
        low, high = op & 0x3F, op & 0xC0
        if high == Cfa.ADVANCE_LOC:
            return low * self._alignment.code
        if high == Cfa.OFFSET:
            self._save(low, Saved(How.OFFSET, cursor.uleb() * self._alignment.data))
        elif high == Cfa.RESTORE:
            self._restore(low)
        elif Cfa.ADVANCE_LOC1 <= op <= Cfa.ADVANCE_LOC4:
            return cursor.unsigned(1 << (op - Cfa.ADVANCE_LOC1)) * self._alignment.code
        elif not (self._cfa(op, cursor) or self._register(op, cursor)):
            self._other(op, cursor)
        return None

    def _other(self, op: int, cursor: Cursor) -> None:
        if op == Cfa.REMEMBER_STATE:
            if len(self._remembered) >= MAX_STATES:
                raise CfaError(CfaFault.STRUCTURE, f"more than {MAX_STATES} remembered states")
            self._remembered.append(self._state)
        elif op == Cfa.RESTORE_STATE:
            if not self._remembered:
                raise CfaError(CfaFault.STRUCTURE, "no state to restore")
            self._state = self._remembered.pop()
        elif op == Cfa.GNU_ARGS_SIZE:
            cursor.uleb()
        elif op != Cfa.NOP:
            raise CfaError(CfaFault.STRUCTURE, f"call frame instruction 0x{op:02x}")

    def _cfa(self, op: int, cursor: Cursor) -> bool:
        """True if `op` defines the CFA."""
        state, data = self._state, self._alignment.data
        if op == Cfa.DEF_CFA:
            self._state = replace(state, register=cursor.uleb(), offset=cursor.uleb(), expression=None)
        elif op == Cfa.DEF_CFA_SF:
            self._state = replace(state, register=cursor.uleb(), offset=cursor.sleb() * data, expression=None)
        elif op == Cfa.DEF_CFA_EXPRESSION:
            self._state = replace(state, expression=cursor.block())
        elif op == Cfa.DEF_CFA_REGISTER:
            # This and the next are valid only after a register and an offset (6.4.2.2). After an expression they do
            # here what they do in libgcc (unwind-dw2.c, execute_cfa_program) and in readelf.
            self._state = replace(state, register=cursor.uleb(), expression=None)
        elif op in (Cfa.DEF_CFA_OFFSET, Cfa.DEF_CFA_OFFSET_SF):
            offset = cursor.uleb() if op == Cfa.DEF_CFA_OFFSET else cursor.sleb() * data
            self._state = replace(state, offset=offset)
        else:
            return False
        return True

    def _register(self, op: int, cursor: Cursor) -> bool:
        """True if `op` gives a register a rule."""
        data = self._alignment.data
        if op not in _OF_REGISTERS:
            return False
        register = cursor.uleb()
        if op == Cfa.OFFSET_EXTENDED:
            self._save(register, Saved(How.OFFSET, cursor.uleb() * data))
        elif op == Cfa.OFFSET_EXTENDED_SF:
            self._save(register, Saved(How.OFFSET, cursor.sleb() * data))
        elif op == Cfa.GNU_NEGATIVE_OFFSET_EXTENDED:
            self._save(register, Saved(How.OFFSET, -cursor.uleb() * data))
        elif op == Cfa.RESTORE_EXTENDED:
            self._restore(register)
        elif op == Cfa.UNDEFINED:
            self._save(register, Saved(How.UNDEFINED))
        elif op == Cfa.SAME_VALUE:
            self._save(register, Saved(How.SAME))
        elif op == Cfa.REGISTER:
            self._save(register, Saved(How.REGISTER, cursor.uleb()))
        elif op == Cfa.EXPRESSION:
            self._save(register, Saved(How.EXPRESSION, 0, cursor.block()))
        elif op == Cfa.VAL_EXPRESSION:
            self._save(register, Saved(How.VALUE, 0, cursor.block()))
        elif op == Cfa.VAL_OFFSET:
            self._save(register, Saved(How.VALUE, cursor.uleb() * data))
        else:
            self._save(register, Saved(How.VALUE, cursor.sleb() * data))
        return True

    def _save(self, register: int, saved: Saved) -> None:
        if register == RBP:
            self._state = replace(self._state, rbp=saved)
        elif register == self._alignment.ra:
            self._state = replace(self._state, ra=saved)

    def _restore(self, register: int) -> None:
        if register == RBP:
            self._state = replace(self._state, rbp=self._initial.rbp)
        elif register == self._alignment.ra:
            self._state = replace(self._state, ra=self._initial.ra)


_OF_REGISTERS = {
    Cfa.OFFSET_EXTENDED,
    Cfa.OFFSET_EXTENDED_SF,
    Cfa.GNU_NEGATIVE_OFFSET_EXTENDED,
    Cfa.RESTORE_EXTENDED,
    Cfa.UNDEFINED,
    Cfa.SAME_VALUE,
    Cfa.REGISTER,
    Cfa.EXPRESSION,
    Cfa.VAL_EXPRESSION,
    Cfa.VAL_OFFSET,
    Cfa.VAL_OFFSET_SF,
}
