"""The functions of a section -> rows of rules, piece by piece, so that memory follows the piece and not the file.

Most programs are run as columns (`tokens`, `lockstep`); what those leave is run one by one (`exact`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fleetflame.cfi.cursor import Cursor
from fleetflame.cfi.exact import Machine, State
from fleetflame.cfi.faults import CfaError, CfaFault, Dropped
from fleetflame.cfi.leb import I64, Mask
from fleetflame.cfi.lockstep import Programs, run
from fleetflame.cfi.parse import Functions
from fleetflame.cfi.pointers import read_pointer
from fleetflame.cfi.rulebook import RuleBook, rule_of
from fleetflame.cfi.table import MAX_ROWS, U32
from fleetflame.cfi.tokens import PAD, tokenize

PIECE = 256 << 10
"""Bytes of instructions that are run at a time: some 50,000 rows, and 20 MB of columns."""
MAX_PROGRAM = 256 << 10
"""Bytes of one function's instructions. The longest of a distribution has 20,000 (a compiler's generated matcher)."""
MAX_INSTRUCTIONS = 1 << 25
"""Those that are run as columns: 5 s of work at worst. libLLVM has 2.5 million."""
MAX_EXACT = 1 << 20
"""Those that are run one by one: 4 s of work. Of a distribution's files none has more than 7,500."""
MAX_KNOWN = 1 << 14
"""States whose rules are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows in the order of functions; offsets ascend within a function, from 0 on, none twice."""

    function: NDArray[np.int32]
    offset: U32
    rule: U32


@dataclass(slots=True, kw_only=True)
class Work:
    """What all pieces add to: rules, losses, and the work done so far."""

    book: RuleBook = field(default_factory=RuleBook)
    dropped: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    instructions: int = 0
    exact: int = 0

    def count(self, *, rows: int = 0, instructions: int = 0, exact: int = 0) -> None:
        """Raises CfaError once it is too much."""
        self.rows += rows
        self.instructions += instructions
        self.exact += exact
        if self.instructions > MAX_INSTRUCTIONS:
            raise CfaError(CfaFault.TOO_LARGE, f"more than {MAX_INSTRUCTIONS} instructions")
        if self.rows > MAX_ROWS:
            raise CfaError(CfaFault.TOO_LARGE, f"more than {MAX_ROWS} rows")
        if self.exact > MAX_EXACT:
            raise CfaError(CfaFault.TOO_LARGE, f"more than {MAX_EXACT} instructions out of the ordinary")


def run_functions(functions: Functions, work: Work) -> Rows:
    """The rows of all functions, which are not empty. Raises CfaError if they are too much work."""
    special = _Special(functions, work)
    plain = np.array([cie.plain for cie in functions.cies], bool)[functions.cie]
    plain &= functions.end - functions.start <= MAX_PROGRAM
    parts = [_piece(functions, np.arange(low, high), plain[low:high], special) for low, high in _pieces(functions)]
    return Rows(
        function=np.concatenate([part.function for part in parts]),
        offset=np.concatenate([part.offset for part in parts]),
        rule=np.concatenate([part.rule for part in parts]),
    )


def _pieces(functions: Functions) -> Iterator[tuple[int, int]]:
    """Ranges of functions whose programs lie within PIECE bytes; of one function if that has more."""
    low = 0
    while low < len(functions.start):
        high = int(np.searchsorted(functions.end, functions.start[low] + PIECE, side="right"))
        high = max(high, low + 1)
        yield low, high
        low = high


def _piece(functions: Functions, which: I64, plain: Mask, special: "_Special") -> Rows:
    """The rows of neighbouring functions, without those that are empty or behind their function's end."""
    function, offset, rule, left = _columns(functions, which[plain], special.work)
    rest = np.sort(np.concatenate((which[~plain], left)))
    if len(rest):
        found = [special.rows(each) for each in rest.tolist()]
        function = np.concatenate((function, np.repeat(rest, [len(rows) for rows in found])))
        offset = np.concatenate((offset, np.array([row[0] for rows in found for row in rows], np.int64)))
        rule = np.concatenate((rule, np.array([row[1] for rows in found for row in rows], np.uint32)))
        order = np.argsort(function, kind="stable")
        function, offset, rule = function[order], offset[order], rule[order]
    kept = offset < functions.size[function].view(np.int64)
    kept[:-1] &= (function[1:] != function[:-1]) | (offset[1:] != offset[:-1])
    special.work.count(rows=int(np.count_nonzero(kept)))
    return Rows(function=function[kept].astype(np.int32), offset=offset[kept].astype(np.uint32), rule=rule[kept])


def _columns(functions: Functions, which: I64, work: Work) -> tuple[I64, I64, U32, I64]:
    """(function, offset, rule) of the functions `which`, and those of them that have to be run one by one."""
    if not len(which):
        return which, which, which.astype(np.uint32), which
    start, end = functions.start[which], functions.end[which]
    code = np.append(functions.section.data[start[0] : end[-1]], np.zeros(PAD, np.uint8))
    tokens = tokenize(code, start - start[0], end - start[0])
    work.count(instructions=len(tokens.position))
    rows = run(code, tokens, _programs(functions, functions.cie[which]))
    return which[rows.program], rows.offset, work.book.numbers(rows.key), which[rows.left]


def _programs(functions: Functions, cie: I64) -> Programs:
    cies = functions.cies
    # Of a CIE that is not plain the register may be None: its functions are not run as columns.
    register = np.array([each.initial.register or 0 if each.plain else 0 for each in cies], np.int64)
    offset = np.array([each.initial.offset if each.plain else 0 for each in cies], np.int64)
    return Programs(
        register=register[cie],
        offset=offset[cie],
        code_factor=np.array([each.alignment.code for each in cies], np.int64)[cie],
        data_factor=np.array([each.alignment.data for each in cies], np.int64)[cie],
        signal=np.array([each.signal for each in cies], np.int64)[cie],
    )


class _Special:
    """Runs functions one by one."""

    def __init__(self, functions: Functions, work: Work) -> None:
        self._functions = functions
        self.work = work
        self._known: dict[tuple[State, bool], tuple[int, Dropped | None]] = {}

    def rows(self, function: int) -> list[tuple[int, int]]:
        """(offset, number of the rule) of a function; one UNSUPPORTED row if its program cannot be followed."""
        functions = self._functions
        start, end = int(functions.start[function]), int(functions.end[function])
        cie = functions.cies[int(functions.cie[function])]
        machine = Machine(cie.alignment, cie.initial)
        if end - start > MAX_PROGRAM:
            return self._unsupported()
        program = functions.section.data[start:end].tobytes()

        def locate(cursor: Cursor) -> int:
            address = read_pointer(cursor, functions.section, cie.encoding, start=start)
            return address - int(functions.begin[function])

        try:
            states = list(machine.rows(program, locate))
        except CfaError:
            return self._unsupported()
        finally:
            self.work.count(exact=machine.opcodes)
        return [(offset, self._number(state, cie.signal)) for offset, state in states]

    def _unsupported(self) -> list[tuple[int, int]]:
        self.work.dropped[Dropped.INSTRUCTIONS] += 1
        return [(0, RuleBook.UNSUPPORTED)]

    def _number(self, state: State, signal: bool) -> int:
        known = self._known.get((state, signal))
        if known is None:
            rule, lost = rule_of(state, signal=signal)
            known = RuleBook.UNSUPPORTED if rule is None else self.work.book.number(rule), lost
            # Rules are bounded in number, states are not.
            if len(self._known) < MAX_KNOWN:
                self._known[state, signal] = known
        if known[1] is not None:
            self.work.dropped[known[1]] += 1
        return known[0]
