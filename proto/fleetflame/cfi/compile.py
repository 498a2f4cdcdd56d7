"""ELF bytes -> UnwindTable.

Work is bounded by the bytes of a section (`elf.MAX_SECTION`), its entries and distinct CIEs (`parse.MAX_ENTRIES`,
`MAX_CIES`), the bytes of one function's instructions, all instructions, and those that are run one by one
(`pieces.MAX_PROGRAM`, `MAX_INSTRUCTIONS`, `MAX_EXACT`), states remembered (`exact.MAX_STATES`), operations of an
expression (`expression.MAX_OPERATIONS`), rows and rules of a table. The worst file that we could think of takes 8 s.
Memory, besides the file: 54 bytes a row, and 20 MB for a piece.

Which function wins where two cover an address:
- .eh_frame before .debug_frame;
- of one section the one that begins last, as in a binary search over .eh_frame_hdr (libgcc, unwind-dw2-fde-dip.c): it
  ends the one before it for good, what follows upon its own end is a GAP;
- of those that begin at the same address the first in the section, as in libgcc's linear search. Empty ones never do.
"""

from dataclasses import dataclass

import numpy as np

from fleetflame.cfi.elf import find_frames
from fleetflame.cfi.faults import CfaError, CfaFault, Dropped
from fleetflame.cfi.parse import Functions, parse_functions
from fleetflame.cfi.pieces import Rows, Work, run_functions
from fleetflame.cfi.rulebook import RuleBook
from fleetflame.cfi.table import MAX_ROWS, PAGE, U32, UnwindTable


def compile_table(elf: bytes | bytearray | memoryview) -> UnwindTable:
    """The unwind rules of an ELF file's bytes, or of the vDSO's image in memory.

    x86-64 only. Raises CfaError with a reason: no such file, no unwind information, broken structure, too much work.
    """
    frames = find_frames(np.frombuffer(elf, np.uint8))
    work = Work()
    sections = []
    for section in frames.sections:
        functions = parse_functions(section)
        work.dropped.update(functions.dropped)
        functions = _inside(functions, frames.code, work)
        if len(functions):
            sections.append(functions)
    if not sections:
        raise CfaError(CfaFault.ABSENT, "no function has unwind information")
    base = min(int(functions.begin.min()) for functions in sections) // PAGE * PAGE
    if max(int((functions.begin + functions.size).max()) for functions in sections) - base >= 1 << 32:
        raise CfaError(CfaFault.TOO_LARGE, "code extends over more than 4 GiB")
    steps = [_steps(functions, run_functions(functions, work), base) for functions in sections]
    pc, rule = _merged(steps[0] if len(steps) == 1 else _overlay(steps))
    if len(pc) > MAX_ROWS:
        raise CfaError(CfaFault.TOO_LARGE, f"more than {MAX_ROWS} rows")
    return _table(_Steps(pc=pc, rule=rule), base, work)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """Addresses above the base, ascending, none twice, and the rule from there on; the last is a GAP."""

    pc: U32
    rule: U32


def _inside(functions: Functions, code: tuple[tuple[int, int], ...], work: Work) -> Functions:
    """Those that are not empty and lie in an executable segment."""
    begin, size = functions.begin, functions.size
    inside = np.zeros(len(begin), bool)
    for low, high in code:
        room = np.uint64(high) - begin
        inside |= (begin >= low) & (begin < high) & (size <= room)
    outside = int(np.count_nonzero(~inside & (size > 0)))
    if outside:
        work.dropped[Dropped.OUTSIDE] += outside
    return functions.only(inside & (size > 0))


def _steps(functions: Functions, rows: Rows, base: int) -> _Steps:
    """The rows by address, clipped where a function begins within another, with a GAP where none follows directly."""
    order = np.argsort(functions.begin, kind="stable")
    begin = (functions.begin[order] - np.uint64(base)).astype(np.int64)
    alone = np.append(True, begin[1:] != begin[:-1])
    order, begin = order[alone], begin[alone]
    limit = begin + functions.size[order].view(np.int64)
    limit[:-1] = np.minimum(limit[:-1], begin[1:])
    first = np.searchsorted(rows.function, np.arange(len(functions) + 1, dtype=np.int32))
    count = (first[1:] - first[:-1])[order]
    offset, rule = rows.offset, rows.rule
    if len(order) < len(functions) or (order[1:] < order[:-1]).any():
        # Position in `rows` of each row, function by function in their new order.
        source = np.arange(int(count.sum())) + np.repeat(first[:-1][order] - (np.cumsum(count) - count), count)
        offset, rule = offset[source], rule[source]
    pc = np.repeat(begin.astype(np.uint32), count) + offset
    # Rows may lie behind their function's end only where another one begins: `Rows` has none that does not hold.
    owner_limit = np.repeat(limit.astype(np.uint32), count)
    kept = pc < owner_limit
    if not kept.all():
        count = np.add.reduceat(kept, np.cumsum(count) - count, dtype=np.int64)
        pc, rule = pc[kept], rule[kept]
    gap = np.flatnonzero(np.append(limit[:-1] != begin[1:], True))
    at = np.cumsum(count)[gap]
    return _Steps(
        pc=np.insert(pc, at, limit[gap].astype(np.uint32)),
        rule=np.insert(rule, at, np.uint32(RuleBook.GAP)),
    )


def _overlay(steps: list[_Steps]) -> _Steps:
    """The first one's rules, and where it has a GAP those of the next."""
    result = steps[0]
    for other in steps[1:]:
        pc = np.union1d(result.pc, other.pc)
        rule = _at(result, pc)
        result = _Steps(pc=pc, rule=np.where(rule == RuleBook.GAP, _at(other, pc), rule))
    return result


def _at(steps: _Steps, pc: U32) -> U32:
    where = np.searchsorted(steps.pc, pc, side="right") - 1
    return np.where(where < 0, np.uint32(RuleBook.GAP), steps.rule[where])


def _merged(steps: _Steps) -> tuple[U32, U32]:
    """Without rows that repeat the rule before."""
    kept = np.append(True, steps.rule[1:] != steps.rule[:-1])
    return steps.pc[kept], steps.rule[kept]


def _table(steps: _Steps, base: int, work: Work) -> UnwindTable:
    """With the rules that are used, the most frequent first: small numbers are what compresses."""
    uses = np.bincount(steps.rule)
    order = np.argsort(-uses, kind="stable")[: np.count_nonzero(uses)]
    number = np.zeros(len(uses), np.uint32)
    number[order] = np.arange(len(order), dtype=np.uint32)
    return UnwindTable(
        pc=steps.pc,
        base=base,
        rule=number[steps.rule],
        rules=work.book.rules()[order],
        dropped={str(reason): count for reason, count in sorted(work.dropped.items())},
    )
