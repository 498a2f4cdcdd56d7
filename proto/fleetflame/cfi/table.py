"""A file's unwind rules by address."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleetflame.cfi.faults import CfaError, CfaFault
from fleetflame.cfi.rules import REGISTERS, RULE_DTYPE, BpKind, CfaKind, RuleFlag

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Rules = NDArray[np.void]

PAGE = 4096
MAX_ROWS = 1 << 23
"""The largest files have 3 million (databases with everything linked in). 8 million take 64 MB here, 450 to compile."""
MAX_RULES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class UnwindTable:
    """Which rule holds at which address. Row i holds for ELF virtual addresses [base + pc[i], base + pc[i + 1]).

    pc      u32[n]         ascending, none twice
    base    page aligned   addresses below it are a GAP
    rule    u32[n]         index into `rules`; neighbours differ; the last row is a GAP
    rules   RULE_DTYPE[m]  distinct; functions that do not follow directly upon each other have a GAP between them
    dropped                rows that could not be expressed, by reason (`faults.Dropped`)

    Valid once built: raises CfaError otherwise.
    """

    pc: U32
    base: int
    rule: U32
    rules: Rules
    dropped: Mapping[str, int]

    def __post_init__(self) -> None:
        rows, rules = len(self.pc), len(self.rules)
        _demand(0 < rows <= MAX_ROWS and len(self.rule) == rows, "number of rows")
        _demand(0 < rules <= MAX_RULES and self.rules.dtype == RULE_DTYPE, "number of rules")
        _demand(self.base % PAGE == 0 and 0 <= self.base < 1 << 64, "base")
        _demand(self.base + int(self.pc[-1]) < 1 << 64, "address beyond 2^64")
        _demand(bool((self.pc[1:] > self.pc[:-1]).all()), "addresses do not ascend")
        _demand(bool((self.rule[1:] != self.rule[:-1]).all()), "neighbours with the same rule")
        _demand(int(self.rule.max()) < rules, "no such rule")
        _demand(bool((self.rules["cfa"] <= max(CfaKind)).all()), "kind of CFA")
        _demand(bool((self.rules["bp"] <= max(BpKind)).all()), "kind of rbp rule")
        _demand(bool((self.rules["reg"] < REGISTERS).all()), "register")
        _demand(bool((self.rules["flags"] <= max(RuleFlag)).all()), "flags")
        _demand(int(self.rules["cfa"][self.rule[-1]]) == CfaKind.GAP, "the last row is no gap")

    def __len__(self) -> int:
        return len(self.pc)

    def find(self, address: U64) -> Rules:
        """The rule of each ELF virtual address, RULE_DTYPE[len(address)]: what the kernel's look-up must give."""
        rows = np.searchsorted(self.pc.astype(np.uint64) + np.uint64(self.base), address, side="right").astype(np.int64)
        found = self.rules[self.rule[rows - 1]]
        found[rows == 0] = np.zeros((), RULE_DTYPE)
        return found


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise CfaError(CfaFault.STRUCTURE, f"unwind table: {what}")
