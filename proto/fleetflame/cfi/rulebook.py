"""States of a frame -> rules with numbers: each distinct rule once."""

import numpy as np
from numpy.typing import NDArray

from fleetflame.cfi.exact import How, Saved, State
from fleetflame.cfi.expression import CFA, Place, plt_threshold, resolve
from fleetflame.cfi.faults import CfaError, CfaFault, Dropped
from fleetflame.cfi.rules import (
    RBP,
    REGISTERS,
    RSP,
    RULE_DTYPE,
    UCONTEXT_RBP,
    UCONTEXT_RIP,
    UCONTEXT_RSP,
    BpKind,
    CfaKind,
    RuleFlag,
)
from fleetflame.cfi.table import MAX_RULES, Rules

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Rule = tuple[int, int, int, int, int, int, int]
"""The fields of RULE_DTYPE in their order."""

RA_OFFSET = -8
"""The call instruction pushes the return address as the last thing of the caller's frame."""
S16, S32 = 1 << 15, 1 << 31

# A rule without `c` as 64 bits. `lockstep` makes such keys of whole columns.
KEY_B, KEY_BP, KEY_REG, KEY_CFA, KEY_FLAGS = 32, 48, 52, 56, 60
_NO_KEY = (1 << 64) - 1
SLOT_BITS = 14
"""Files have some 1,000 distinct rules. A key that lost its slot is looked up in a dictionary: slower, no more."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, 6.4)."""


class RuleBook:
    """Gives rules their numbers, in the order in which they come. 0 is GAP, 1 is UNSUPPORTED."""

    GAP, UNSUPPORTED = 0, 1

    def __init__(self) -> None:
        self._number: dict[Rule, int] = {}
        # Keys met before, each in the slot that it hashes to. An empty one has a key that no rule has.
        self._slot_key: U64 = np.full(1 << SLOT_BITS, _NO_KEY, np.uint64)
        self._slot_number: U32 = np.zeros(1 << SLOT_BITS, np.uint32)
        for kind in (CfaKind.GAP, CfaKind.UNSUPPORTED):
            self.number((kind, 0, 0, 0, 0, 0, 0))

    def number(self, rule: Rule) -> int:
        """The rule's number. Raises CfaError if there are too many."""
        if len(self._number) >= MAX_RULES:
            raise CfaError(CfaFault.TOO_LARGE, f"more than {MAX_RULES} distinct rules")
        return self._number.setdefault(rule, len(self._number))

    def numbers(self, keys: U64) -> U32:
        """The numbers of rules given as 64-bit keys."""
        slot = keys * _SPREAD >> np.uint64(64 - SLOT_BITS)
        result: U32 = self._slot_number[slot]
        other = np.flatnonzero(self._slot_key[slot] != keys)
        if len(other):
            distinct, where = np.unique(keys[other], return_inverse=True)
            numbers = np.array([self.number(_unpack(key)) for key in distinct.tolist()], np.uint32)
            result[other] = numbers[where]
            slot = distinct * _SPREAD >> np.uint64(64 - SLOT_BITS)
            # Of two keys with one slot the one that comes later has it: key and number by the same rule.
            self._slot_key[slot], self._slot_number[slot] = distinct, numbers
        return result

    def rules(self) -> Rules:
        """All rules by number, RULE_DTYPE[m]."""
        return np.array(list(self._number), RULE_DTYPE)


def _unpack(key: int) -> Rule:
    a, b = key & 0xFFFFFFFF, key >> KEY_B & 0xFFFF
    return (
        key >> KEY_CFA & 0xF,
        key >> KEY_BP & 0xF,
        key >> KEY_REG & 0xF,
        key >> KEY_FLAGS,
        a - (a >> 31 << 32),
        b - (b >> 15 << 16),
        0,
    )


def rule_of(state: State, *, signal: bool) -> tuple[Rule | None, Dropped | None]:
    """The rule of a state, None if it has none; and what of it was lost."""
    flags = int(RuleFlag.SIGNAL_FRAME) if signal else 0
    if state.ra.how == How.UNDEFINED:
        return (CfaKind.STOP, 0, 0, 0, 0, 0, 0), None
    cfa = _place_of_cfa(state)
    if interrupted := _signal(state, cfa):
        return (CfaKind.SIGNAL, 0, 0, flags, interrupted[0], 0, 0), None
    kind, reg, a, c = _cfa(state, cfa)
    if kind is None:
        return None, Dropped.CFA_EXPRESSION if state.expression is not None else Dropped.CFA_REGISTER
    if not (-S32 <= a < S32 and -S16 <= c < S16):
        return None, Dropped.OFFSET_RANGE
    if not _ra_follows_cfa(state.ra, cfa):
        return None, Dropped.RETURN_ADDRESS
    bp, b = _rbp(state.rbp)
    if not -S16 <= b < S16 or bp is None:
        return (kind, BpKind.UNDEFINED, reg, flags, a, 0, c), Dropped.RBP_RULE
    return (kind, bp, reg, flags, a, b, c), None


def _place_of_cfa(state: State) -> Place | None:
    if state.expression is not None:
        return resolve(state.expression)
    return None if state.register is None else Place(state.register, state.offset)


def _cfa(state: State, place: Place | None) -> tuple[CfaKind | None, int, int, int]:
    """(kind, reg, a, c); kind None if there is none."""
    threshold = plt_threshold(state.expression or b"")
    if threshold is not None:
        return CfaKind.PLT, 0, threshold, 0
    if place is None or not 0 <= place.base < REGISTERS:
        return None, 0, 0, 0
    if place.deref:
        kind = {RSP: CfaKind.DEREF_SP, RBP: CfaKind.DEREF_BP}.get(place.base)
        return kind, 0, place.offset, place.added
    kind = {RSP: CfaKind.SP, RBP: CfaKind.BP}.get(place.base, CfaKind.REGISTER)
    return kind, place.base if kind == CfaKind.REGISTER else 0, place.offset, 0


def _ra_follows_cfa(ra: Saved, cfa: Place | None) -> bool:
    if ra.how == How.OFFSET:
        return ra.number == RA_OFFSET
    if ra.how != How.EXPRESSION:
        return False
    place = resolve(ra.expression, (Place(CFA, 0),))
    return place == Place(CFA, RA_OFFSET) or (
        place is not None and cfa is not None and not cfa.deref and place == cfa.plus(RA_OFFSET)
    )


def _rbp(saved: Saved) -> tuple[BpKind | None, int]:
    """(kind, b); kind None if there is none."""
    if saved.how == How.SAME or (saved.how == How.REGISTER and saved.number == RBP):
        return BpKind.SAME, 0
    if saved.how == How.UNDEFINED:
        return BpKind.UNDEFINED, 0
    if saved.how == How.OFFSET:
        return BpKind.AT_CFA, saved.number
    if saved.how == How.EXPRESSION:
        place = resolve(saved.expression, (Place(CFA, 0),))
        if place is not None and not place.deref:
            kind = {CFA: BpKind.AT_CFA, RBP: BpKind.AT_BP, RSP: BpKind.AT_SP}.get(place.base)
            return kind, place.offset
    return None, 0


def _signal(state: State, cfa: Place | None) -> tuple[int] | None:
    """(a,) if this is the frame of a signal's delivery: CFA, rbp and rip are where a ucontext_t at rsp + a has them.

    struct rt_sigframe (arch/x86/include/asm/sigframe.h) begins with the address of the restorer, which the handler's
    `ret` has taken off: rsp points to the ucontext_t behind it, and glibc's restorer says a = 0.
    """
    if cfa is None or cfa.base != RSP or not cfa.deref or cfa.added:
        return None
    a = cfa.offset - UCONTEXT_RSP
    wanted = ((state.ra, UCONTEXT_RIP), (state.rbp, UCONTEXT_RBP))
    holds = all(
        saved.how == How.EXPRESSION and resolve(saved.expression, (Place(CFA, 0),)) == Place(RSP, a + offset)
        for saved, offset in wanted
    )
    return (a,) if holds and -S32 <= a < S32 else None
