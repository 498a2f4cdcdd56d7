"""Programs of call frame instructions -> rows of keys of rules, all programs of a piece at once.

What an instruction does is kept until another of its kind: so the state at a row is that of the last instruction before
it that set the CFA's register, its offset, or rbp's rule. Finding those is a running maximum over positions. A pair of
remember and restore hides what lies between: instructions carry the number of states that are remembered, their level;
at a level counts what was set at it since it was entered, else what counted below (DWARF 5, section 6.4.2).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleetflame.cfi.exact import Cfa
from fleetflame.cfi.leb import Bytes, Mask, fixed
from fleetflame.cfi.rulebook import KEY_B, KEY_BP, KEY_CFA, KEY_FLAGS, KEY_REG, S16
from fleetflame.cfi.rules import RBP, REGISTERS, RIP, RSP, BpKind, CfaKind
from fleetflame.cfi.tokens import MAX_LEB, Tokens

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

LEVELS = 3
"""States remembered inside each other: compilers use one, two where cleanups are inlined. Deeper ones are `exact`'s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What the functions of a piece begin with, in columns: CFA at register + offset, the factors, the signal flag."""

    register: I64
    offset: I64
    code_factor: I64
    data_factor: I64
    signal: I64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """program   i64[r]  ascending
    offset    i64[r]  from the function's start; ascending within a program, the first is 0
    key       u64[r]  the rule, as RuleBook.numbers takes it
    left      bool[n] programs that are not among them: `exact` has to run them
    """

    program: I64
    offset: I64
    key: U64
    left: Mask


class _Nest(NamedTuple):
    """What lies so many remembered states deep, or deeper: instructions `inside`; those at that very depth `counts`.

    Rows `row` are there, at place `at` of `inside`; the depth was last entered at place `entered`.
    """

    inside: I64
    counts: Mask
    row: I64
    at: I64
    entered: I32


def _flags(*opcodes: int) -> Mask:
    table = np.zeros(256, bool)
    table[list(opcodes)] = True
    return table


_ADVANCE = _flags(*range(Cfa.ADVANCE_LOC, Cfa.OFFSET), Cfa.ADVANCE_LOC1, Cfa.ADVANCE_LOC2, Cfa.ADVANCE_LOC4)
_SETS_REGISTER = _flags(Cfa.DEF_CFA, Cfa.DEF_CFA_REGISTER)
_SETS_OFFSET = _flags(Cfa.DEF_CFA, Cfa.DEF_CFA_OFFSET)
_SETS_RBP = _flags(Cfa.OFFSET + RBP, Cfa.RESTORE + RBP)
_OF_RA = _flags(Cfa.OFFSET + RIP, Cfa.RESTORE + RIP)
_NAMES_REGISTER = _flags(
    *(Cfa.OFFSET_EXTENDED, Cfa.OFFSET_EXTENDED_SF, Cfa.RESTORE_EXTENDED, Cfa.UNDEFINED, Cfa.SAME_VALUE),
    *(Cfa.REGISTER, Cfa.VAL_OFFSET, Cfa.VAL_OFFSET_SF),
)


def run(code: Bytes, tokens: Tokens, programs: Programs) -> Rows:
    """The rows of all programs that can be run so: one for each advance, and the last."""
    run_of = _Run(code, tokens, programs)
    return run_of.rows()


class _Run:
    """The instructions of a piece as columns, m of them, of n programs."""

    def __init__(self, code: Bytes, tokens: Tokens, programs: Programs) -> None:
        self._code, self._programs = code, programs
        self._position = tokens.position
        self._first = tokens.first
        count = np.diff(tokens.first)
        self._program = np.repeat(np.arange(len(count)), count)
        self._op = code[tokens.position]
        # Each program's last one is no instruction: it stands for the row that the program ends with.
        self._op[tokens.first[1:] - 1] = Cfa.ADVANCE_LOC
        self._left = tokens.stopped.copy()
        self._row = np.flatnonzero(_ADVANCE[self._op])
        self._level = self._nesting()
        depth = 0 if self._level is None else min(int(self._level.max()), LEVELS - 1)
        self._nests = [self._nest(each) for each in range(1, depth + 1)]
        self._leave_special()

    def rows(self) -> Rows:
        program, first = self._program[self._row], self._first[self._program[self._row]]
        register, offset, rbp = self._last(_SETS_REGISTER), self._last(_SETS_OFFSET), self._last(_SETS_RBP)
        key = (
            self._cfa(np.where(register >= first, register, -1), program)
            | self._offset(np.where(offset >= first, offset, -1), program)
            | self._rbp(np.where(rbp >= first, rbp, -1), program)
            | self._programs.signal[program] << KEY_FLAGS
        )
        location = self._locations(program)
        if self._left.any():
            kept = ~self._left[program]
            program, location, key = program[kept], location[kept], key[kept]
        return Rows(program=program, offset=location, key=key.view(np.uint64), left=self._left)

    def _nesting(self) -> I64 | None:
        """Of each instruction the number of states remembered after it; None if there never is any."""
        step = (self._op == Cfa.REMEMBER_STATE).astype(np.int64)
        step -= self._op == Cfa.RESTORE_STATE
        if not step.any():
            return None
        total = np.cumsum(step)
        before = (total - step)[self._first[:-1]]
        level: I64 = total - before[self._program]
        odd = (level < 0) | (level >= LEVELS)
        self._left[self._program[odd]] = True
        return level

    def _leave_special(self) -> None:
        """Leaves to `exact` rules of the return address, and what names rbp or the CFA's register in an unusual way."""
        special = _OF_RA[self._op]
        which = np.flatnonzero(_NAMES_REGISTER[self._op])
        operand = self._code[self._position[which] + 1]
        special[which] = (operand == RBP) | (operand == RIP) | (operand >= 0x80)
        which = np.flatnonzero(_SETS_REGISTER[self._op])
        special[which] = self._code[self._position[which] + 1] >= REGISTERS
        self._left[self._program[special]] = True

    def _last(self, sets: Mask) -> I32:
        """For each of the rows the last instruction that counts among those that set something."""
        setter = sets[self._op]
        if self._level is not None:
            setter &= self._level == 0
        result = _latest(setter)[self._row]
        for nest in self._nests:
            own = _latest(nest.counts & sets[self._op[nest.inside]])[nest.at]
            which = np.flatnonzero(own > nest.entered)
            result[nest.row[which]] = nest.inside[own[which]]
        return result

    def _nest(self, depth: int) -> "_Nest":
        assert self._level is not None
        inside = np.flatnonzero(self._level >= depth)
        counts = self._level[inside] == depth
        row = np.flatnonzero(self._level[self._row] >= depth)
        at = np.searchsorted(inside, self._row[row])
        entered = _latest(counts & (self._op[inside] == Cfa.REMEMBER_STATE))[at]
        return _Nest(inside, counts, row, at, entered)

    def _locations(self, program: I64) -> I64:
        """The address of each row: all that was advanced before it."""
        op = self._op[self._row]
        delta = (op & 0x3F).astype(np.int64)
        for width, kind in ((1, Cfa.ADVANCE_LOC1), (2, Cfa.ADVANCE_LOC2), (4, Cfa.ADVANCE_LOC4)):
            which = np.flatnonzero(op == kind)
            delta[which] = fixed(self._code, self._position[self._row[which]] + 1, width).view(np.int64)
        delta *= self._programs.code_factor[program]
        before = np.cumsum(delta) - delta
        first = np.searchsorted(program, np.arange(len(self._left)))
        return before - before[first][program]

    def _cfa(self, setter: I32, program: I64) -> I64:
        register = self._code[self._position[setter] + 1].astype(np.int64)
        register = np.where(setter < 0, self._programs.register[program], register)
        kind = np.full(len(register), int(CfaKind.REGISTER))
        kind[register == RSP] = CfaKind.SP
        kind[register == RBP] = CfaKind.BP
        return kind << KEY_CFA | np.where(kind == CfaKind.REGISTER, register & 0xF, 0) << KEY_REG

    def _offset(self, setter: I32, program: I64) -> I64:
        at = self._position[setter] + 1 + (self._op[setter] == Cfa.DEF_CFA)
        offset = self._number(at)
        return np.where(setter < 0, self._programs.offset[program], offset)

    def _rbp(self, setter: I32, program: I64) -> I64:
        saved = (setter >= 0) & (self._op[setter] == Cfa.OFFSET + RBP)
        which = np.flatnonzero(saved)
        offset = self._number(self._position[setter[which]] + 1) * self._programs.data_factor[program[which]]
        self._left[program[which[(offset < -S16) | (offset >= S16)]]] = True
        key = np.zeros(len(setter), np.int64)
        key[which] = int(BpKind.AT_CFA) << KEY_BP | (offset & 0xFFFF) << KEY_B
        return key

    def _number(self, at: I64) -> I64:
        """The ULEB128 numbers at `at`: `tokenize` has seen that they have MAX_LEB bytes at most."""
        byte = self._code[at]
        value = (byte & 0x7F).astype(np.int64)
        which = np.flatnonzero(byte >= 0x80)
        for group in range(1, MAX_LEB):
            if not len(which):
                break
            byte = self._code[at[which] + group]
            value[which] |= (byte & 0x7F).astype(np.int64) << 7 * group
            which = which[byte >= 0x80]
        return value


def _latest(mask: Mask) -> I32:
    """At each place the last place up to here where `mask` is set, -1 if there is none."""
    places = np.where(mask, np.arange(len(mask), dtype=np.int32), np.int32(-1))
    return np.maximum.accumulate(places, out=places)
