"""Names of a kernel out of the text that a node lends. Pure.

    OFFSET TYPE NAME            from `_stext`, in hex: the kernel's own
    OFFSET TYPE NAME [MODULE]   from the module's base address

Such a text has no build ID inside and nothing to check it by: it is what the node that runs that kernel says. Only code
(types t, T, w, W and i) is taken, and each symbol reaches to the next one, as perf has it.
"""

import re

import numpy as np

from aggregator.symbols.combine import plain_table
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.plain import STB_GLOBAL, STB_LOCAL, STB_WEAK, Candidates
from aggregator.symbols.ranges import choose
from aggregator.symbols.table import Rank, SymbolTable
from fleetflame.model import MappingKind

MAX_LINES = 2_000_000
"""A distribution's kernel with many modules has 200,000 symbols."""
MAX_TEXT = 1 << 30
LAST_REACHES = 1 << 16
"""How far the last symbol reaches, which nothing follows."""

_LINE = re.compile(rb"^([0-9a-fA-F]{1,16}) ([tTwWi]) (\S{1,1024})(?:[ \t]\[(\S{1,256})\])?$", re.MULTILINE)
_BINDING = {b"t": STB_LOCAL, b"T": STB_GLOBAL, b"i": STB_GLOBAL, b"w": STB_WEAK, b"W": STB_WEAK}


def kallsyms_table(text: bytes, kind: MappingKind, module: str = "") -> SymbolTable:
    """The table of the kernel itself, or of one module of it by name. Raises SymbolFileError."""
    wanted = module.encode() if kind is MappingKind.MODULE else b""
    if text.count(b"\n") > MAX_LINES:
        raise SymbolFileError(Fault.KALLSYMS, f"more than {MAX_LINES:,} lines")
    rows = [(int(m[1], 16), _BINDING[m[2]], m[3]) for m in _LINE.finditer(text) if (m[4] or b"") == wanted]
    rows = [row for row in rows if row[0] < MAX_TEXT]
    if not rows:
        what = f"module `{module[:100]}`" if wanted else "the kernel"
        raise SymbolFileError(Fault.KALLSYMS if not wanted else Fault.NO_SYMBOLS, f"no symbols of {what}")
    named = choose([_candidates(rows)])
    return plain_table(named, demangle=str, rank=Rank.KALLSYMS)


def _candidates(rows: list[tuple[int, int, bytes]]) -> Candidates:
    start = np.array([row[0] for row in rows], np.uint64)
    length = np.array([len(row[2]) for row in rows], np.int64)
    count = len(rows)
    return Candidates(
        start=start,
        size=np.zeros(count, np.uint64),
        bound=np.full(count, start.max() + np.uint64(LAST_REACHES), np.uint64),
        typed=np.ones(count, np.bool_),
        binding=np.array([row[1] for row in rows], np.uint8),
        old=np.zeros(count, np.bool_),
        at=np.cumsum(length) - length,
        length=length,
        text=np.frombuffer(b"".join(row[2] for row in rows), np.uint8),
    )
