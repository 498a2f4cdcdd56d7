"""Code of a file in memory that shows no file: text that was copied to huge pages.

Some programs (and libraries loaded into them) copy their text into anonymous or hugetlbfs memory and map that over the
original addresses, so that it takes fewer TLB entries. `/proc/PID/maps` then shows, between the regions of the file, an
executable one without it:

    55d0c0000000-55d0c0200000 r-xp 00001000 fe:00 42     /opt/server      head of the text, not a whole huge page
    55d0c0200000-55d0c2a00000 r-xp 00000000 00:00 0                       the copy
    55d0c2a00000-55d0c2b13000 r--p 02801000 fe:00 42     /opt/server      read-only data

An address in the copy is attributed to the file if the file's program headers prove it: all regions that show the file
agree on one load bias, and with that bias an executable segment holds the whole copy. Pure.
"""

from collections.abc import Iterable, Sequence

from agent.elf import Load
from agent.procmaps import Region

PAGE = 4096


def find_offset(copy: Region, shown: Sequence[Region], loads: Sequence[Load]) -> int | None:
    """The file offset at which `copy` begins, None if it is not proven to be part of the file.

    `shown` are the regions of one process that show one file, `loads` that file's segments.
    """
    bias = find_bias(shown, loads)
    if bias is None:
        return None
    for load in loads:
        begin, end = _down(load.vaddr) + bias, _up(load.vaddr + load.size) + bias
        # The copy of the last page may be a whole huge page, but then it would cover what comes after the segment too.
        if load.executable and begin <= copy.start and copy.end <= end:
            return copy.start - bias - load.vaddr + load.offset
    return None


def find_bias(shown: Iterable[Region], loads: Sequence[Load]) -> int | None:
    """The difference between runtime and ELF addresses on which all regions agree, None if there is no single one.

    A file page that two segments share (the end of one, the start of the next) allows two answers for its region; the
    other regions decide.
    """
    agreed: set[int] | None = None
    for region in shown:
        possible = {
            region.start - (_down(load.vaddr) + region.offset - _down(load.offset))
            for load in loads
            if _down(load.offset) <= region.offset < _up(load.offset + load.size)
        }
        agreed = possible if agreed is None else agreed & possible
    return agreed.pop() if agreed is not None and len(agreed) == 1 else None


def _down(address: int) -> int:
    return address // PAGE * PAGE


def _up(address: int) -> int:
    return -(-address // PAGE) * PAGE
