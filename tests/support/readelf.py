"""An unwind table against what `readelf -wF` (binutils) says of the same file, row by row."""

import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fleetflame.cfi import BpKind, CfaKind, UnwindTable
from fleetflame.cfi.rulebook import Rule

REGISTERS = ["rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16))]
EXPRESSIONS = {CfaKind.PLT, CfaKind.DEREF_SP, CfaKind.DEREF_BP, CfaKind.SIGNAL}

_BRACKET = re.compile(r" \(\w+\)")
"""After the number of a register its name."""
_ADDRESS = re.compile(r"[0-9a-f]{16}")

Triple = tuple[str, str, str]
"""readelf's columns CFA, rbp and ra; "u" for a register without a column."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows of a file's .eh_frame, in readelf's order: row i holds for [pc[i], end[i]), of function owner[i].

    Those that are empty are counted in `rows`, but not listed.
    """

    rows: int
    pc: NDArray[np.uint64]
    end: NDArray[np.uint64]
    owner: NDArray[np.int64]
    triple: NDArray[np.int64]
    triples: tuple[Triple, ...]
    begin: NDArray[np.uint64]
    limit: NDArray[np.uint64]


@dataclass(slots=True)
class Comparison:
    """rows       readelf's
    compared   those that hold for any address, and that no function which begins later hides
    differing  those for which the table says something else, by what both say
    forms      expressions and other rare rules among `compared`, by the kind that the table has
    stray      rows of the table at addresses where readelf has none
    """

    rows: int = 0
    compared: int = 0
    differing: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    stray: int = 0


def listing(path: Path) -> Listing:
    """What readelf prints, parsed."""
    command = ["readelf", "--debug-dump=frames-interp,no-follow-links", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        return _parse(process.stdout)


def _parse(lines: IO[str]) -> Listing:
    index: dict[Triple, int] = {}
    pc, triple, owner, functions = [], [], [], []
    cies: dict[str, Triple] = {}
    fallback: list[Triple] = []
    in_eh, cie, current, rbp, ra = False, "", -1, None, None
    for line in lines:
        if line.startswith("Contents of the "):
            in_eh = ".eh_frame" in line
        elif not in_eh:
            continue
        elif " FDE " in line:
            begin, _, end = line.rpartition("pc=")[2].strip().partition("..")
            functions.append((int(begin, 16), int(end, 16)))
            cie, current = line.partition("cie=")[2][:8], len(functions) - 1
            fallback.append(cies.get(cie, ("", "", "")))
        elif " CIE " in line:
            cie, current = line[:8], -1
        elif line.startswith("   LOC"):
            names = line.split()
            rbp = names.index("rbp") if "rbp" in names else None
            ra = names.index("ra") if "ra" in names else None
        elif len(cells := _BRACKET.sub("", line).split()) > 1 and _ADDRESS.fullmatch(cells[0]):
            key = (cells[1], cells[rbp] if rbp else "u", cells[ra] if ra else "u")
            if current < 0:
                cies[cie] = key
                continue
            pc.append(int(cells[0], 16))
            triple.append(index.setdefault(key, len(index)))
            owner.append(current)
    rows = len(pc)
    # Of a function whose instructions are all no-ops nothing is printed: its one row is its CIE's.
    for function in sorted(set(range(len(functions))) - set(owner)):
        pc.append(functions[function][0])
        triple.append(index.setdefault(fallback[function], len(index)))
        owner.append(function)
    return _listing(rows, np.array(pc, np.uint64), np.array([owner, triple], np.int64), functions, tuple(index))


def _listing(
    rows: int,
    starts: NDArray[np.uint64],
    columns: NDArray[np.int64],
    functions: list[tuple[int, int]],
    triples: tuple[Triple, ...],
) -> Listing:
    order = np.argsort(columns[0], kind="stable")
    starts, (owner, triple) = starts[order], columns[:, order]
    limits = np.array(functions, np.uint64).reshape(-1, 2)
    ends = limits[owner, 1]
    same = owner[1:] == owner[:-1]
    ends[:-1][same] = np.minimum(starts[1:][same], ends[:-1][same])
    kept = starts < ends
    return Listing(
        rows=rows,
        pc=starts[kept],
        end=ends[kept],
        owner=owner[kept],
        triple=triple[kept],
        triples=triples,
        begin=limits[:, 0],
        limit=limits[:, 1],
    )


def compare(table: UnwindTable, said: Listing) -> Comparison:
    """Each of readelf's rows at its first and its last address, and each of the table's at its first."""
    result = Comparison(rows=said.rows)
    pc, end, which = _visible(said)
    result.compared = len(pc)
    codes = table.rules.view(f"V{table.rules.dtype.itemsize}")
    known = {code.tobytes(): number for number, code in enumerate(codes)}
    pairs: Counter[tuple[int, int]] = Counter()
    for at in (pc, end - np.uint64(1)):
        rows = np.searchsorted(table.pc.astype(np.uint64) + np.uint64(table.base), at, side="right").astype(np.int64)
        rule = np.where(rows == 0, -1, table.rule[rows - 1].astype(np.int64))
        pair, count = np.unique(said.triple[which] * len(known) + rule, return_counts=True)
        pairs.update({divmod(int(p), len(known)): int(c) for p, c in zip(pair, count, strict=True)})
    for (triple, number), count in pairs.items():
        rule = table.rules[number].tolist()
        kind = CfaKind(rule[0])
        if not agrees(rule, said.triples[triple]):
            result.differing[f"{said.triples[triple]} is {kind.name} {rule}"] += count
        if kind not in (CfaKind.SP, CfaKind.BP) or rule[1] > BpKind.AT_CFA:
            result.forms[f"{kind.name} {BpKind(rule[1]).name}"] += count // 2
    ours = table.pc.astype(np.uint64) + np.uint64(table.base)
    result.stray = int(np.count_nonzero(~np.isin(ours, np.concatenate((said.pc, said.end, said.limit)))))
    return result


def _visible(said: Listing) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """(pc, end, row) of rows that are not hidden by a function which begins later, clipped to where they are not."""
    begins = np.unique(said.begin[said.limit > said.begin])
    # Where the next function begins, after the one that the row is of.
    at = np.searchsorted(begins, said.begin[said.owner], side="right")
    following = np.append(begins, np.uint64((1 << 64) - 1))[at]
    # Of functions that begin at one address the first counts.
    filled = np.flatnonzero(said.limit > said.begin)
    _, first = np.unique(said.begin[filled], return_index=True)
    end = np.minimum(said.end, following)
    row = np.flatnonzero((said.pc < end) & np.isin(said.owner, filled[first]))
    return said.pc[row], end[row], row


def agrees(rule: Rule, triple: Triple) -> bool:
    """Whether a rule is what readelf's columns mean. Those without a rule have to be of a form that none has."""
    kind, bp, reg, _, a, b, _ = rule
    cfa, rbp, ra = triple
    if kind == CfaKind.STOP:
        return ra == "u"
    if kind == CfaKind.UNSUPPORTED:
        return cfa == "exp" or ra != "c-8"
    if kind in EXPRESSIONS:
        same = cfa == "exp"
    else:
        register = {CfaKind.SP: "rsp", CfaKind.BP: "rbp", CfaKind.REGISTER: REGISTERS[reg]}.get(CfaKind(kind))
        same = cfa == f"{register}{a:+d}"
    if kind == CfaKind.SIGNAL:
        return same and rbp == ra == "exp"
    return same and ra in ("c-8", "exp") and _rbp_agrees(bp, b, rbp)


def _rbp_agrees(bp: int, b: int, rbp: str) -> bool:
    if bp == BpKind.SAME:
        return rbp in ("u", "s")
    if bp == BpKind.AT_CFA:
        return rbp in (f"c{b:+d}", "exp")
    # Lost for good, or of a form that no rule has.
    return rbp == "exp" if bp in (BpKind.AT_BP, BpKind.AT_SP) else not rbp.startswith("c")
