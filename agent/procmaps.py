r"""Lines of `/proc/PID/maps` as values. Pure: chunks of bytes in, regions out.

    559fd38c2000-559fd38c7000 r-xp 00002000 fe:00 260131                     /usr/bin/cat
    start        end          perm offset   dev   inode                      path, or nothing, or [name]

A process decides how many lines there are and what their paths say, so both are bounded here: only executable lines
become values, `MAX_REGIONS` of them at most, and a line longer than a path can be is passed over.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from agent.lines import whole_lines

MAX_REGIONS = 8192
"""Executable regions kept of one process. A browser's JIT has some hundreds; vm.max_map_count is 65,530 by default."""
MAX_LINE = 4 * 4096 + 128
"""A path of 4,095 bytes, each shown as a three-digit escape, and the columns before it."""

_DELETED = b" (deleted)"
_COLUMNS = rb"^([0-9a-f]+)-([0-9a-f]+) (%s) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([0-9]+)%s *\n"
_EXECUTABLE = re.compile(_COLUMNS % (rb"..x.", rb"(?: +([^\n ][^\n]*))?"), re.MULTILINE)
_WITH_FILE = re.compile(_COLUMNS % (rb"....", rb" +(/[^\n]*)"), re.MULTILINE)


class Region(NamedTuple):
    """One line: addresses [start, end) show a file from `offset` on, or anonymous memory.

    `path` is as the kernel gives it, unescaped, without " (deleted)"; b"" or b"[...]" where there is no file.
    A named tuple because thousands are made for every look at a process.
    """

    start: int
    end: int
    offset: int
    device: tuple[int, int]
    inode: int
    path: bytes
    deleted: bool
    executable: bool

    @property
    def has_file(self) -> bool:
        return self.inode != 0 and self.path.startswith(b"/")


def iter_executable(chunks: Iterable[bytes]) -> Iterator[Region]:
    """The executable regions, in ascending order, MAX_REGIONS at most. What is no line of that form is passed over."""
    return _iter_regions(chunks, _EXECUTABLE)


def iter_with_file(chunks: Iterable[bytes]) -> Iterator[Region]:
    """The regions that show a file, whatever their permissions, in ascending order, MAX_REGIONS at most."""
    return _iter_regions(chunks, _WITH_FILE)


def _iter_regions(chunks: Iterable[bytes], pattern: re.Pattern[bytes]) -> Iterator[Region]:
    left = MAX_REGIONS
    for block in whole_lines(chunks, longest=MAX_LINE):
        for match in pattern.finditer(block):
            if left == 0:
                return
            left -= 1
            yield _region(match)


def _region(match: re.Match[bytes]) -> Region:
    start, end, permissions, offset, major, minor, inode, path = match.groups()
    path = path or b""
    deleted = path.endswith(_DELETED)
    if deleted:
        path = path[: -len(_DELETED)]
    # show_map_vma() escapes the line feed alone, not the backslash: a name that really has `\\012` is read wrongly, and
    # then found by its range in map_files instead.
    path = path.replace(b"\\012", b"\n")
    return Region(
        int(start, 16),
        int(end, 16),
        int(offset, 16),
        (int(major, 16), int(minor, 16)),
        int(inode),
        path,
        deleted,
        permissions[2:3] == b"x",
    )
