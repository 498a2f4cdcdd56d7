"""Perf maps in the making, for tests of what is read of them."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from agent.jit.perfmap import Entries, join_entries, no_entries, parse_lines

Code = tuple[int, int, str]
"""(start, size, name)."""


def text_of(*code: Code) -> bytes:
    """The lines that a runtime would write."""
    return b"".join(b"%x %x %s\n" % (start, size, name.encode()) for start, size, name in code)


def entries_of(code: Iterable[Code]) -> Entries:
    """The same, parsed."""
    return join_entries([no_entries(), parse_lines(text_of(*code), 0)[0]])


def points(*addresses: int) -> np.ndarray:
    """Addresses as the columns have them."""
    return np.array(addresses, np.uint64)


def own_identity() -> int:
    """When this process began, in clock ticks since boot."""
    return int(Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19])
