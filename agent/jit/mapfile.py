"""The perf map of one process: found and opened as if its owner meant harm, read where it grew. Not for two threads.

    /tmp/perf-PID.map     in the root of the process, with the PID that it has in its own PID namespace

Read is only a regular file, in a folder on no FUSE mount, through no link, that belongs to the process's user or to
root, and that was written to since the process began: containers that start again have the PIDs and files of their last
life. Reading takes what the caller grants, and goes on from there the next time. Lines without end and other bytes cost
the time of reading them, and are counted.
"""

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from agent.facts import read_small
from agent.jit.perfmap import MAX_LINE, Entries, iter_blocks, join_entries, parse_lines
from agent.openat import OpenMiss, ProcessFiles, birth_of, status_of

FOLDER = b"tmp"
"""In the process's root. Runtimes ask no environment variable."""
MAX_FILE_BYTES = (1 << 32) - 1
"""Offsets are kept in 32 bits. A Node process that runs for months writes some hundred MB."""
MAX_DESCRIPTORS = 4096
"""Descriptors of a process that are looked at. What a runtime opens at its start has a low number."""
CHUNK = 1 << 20
TAIL = 256
"""Bytes before the place that was read to, by which a file that was written anew is told from one that grew."""
CLOCK_SLACK_NS = 1_000_000_000
"""A process's start is known to 10 ms, a file's time to 10 ms, and what lies between the clocks to what ntpd does."""


class MapMiss(StrEnum):
    """Why there is no map to read."""

    ABSENT = "absent"
    DENIED = "denied"
    NOT_REGULAR = "not_regular"
    USER_FILE_SYSTEM = "user_file_system"
    FOREIGN = "foreign"
    STALE = "stale"
    MIXED = "mixed"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose map it has to be: the users that the process is, and when it began, in Unix ns."""

    users: frozenset[int]
    begin_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What reading brought: entries in order, lines that are none, bytes read. `anew`: what was read before is not in
    the file any more. `whole`: it was read to its end."""

    entries: Entries
    malformed: int
    size: int
    anew: bool
    whole: bool


def read_owner(process: int) -> tuple[frozenset[int], int]:
    """(user IDs, PID in the innermost PID namespace) of the process behind its open proc folder; PID 0 if unknown."""
    fields = dict(line.partition(b":")[::2] for line in read_small(process, "status").splitlines())
    users = frozenset(int(word) for word in fields.get(b"Uid", b"").split())
    pids = fields.get(b"NSpid", fields.get(b"Pid", b"")).split()
    return users, int(pids[-1]) if pids else 0


def map_name(pid: int) -> bytes:
    """What runtimes write to in FOLDER, by convention of `perf`."""
    return b"perf-%d.map" % pid


def open_map(files: ProcessFiles, pid: int, owner: Owner) -> int | MapMiss:
    """A descriptor of the process's map."""
    folder = files.open_folder(FOLDER)
    if isinstance(folder, OpenMiss):
        return MapMiss(folder.value)
    try:
        fd = files.open_inside(folder, map_name(pid))
    finally:
        os.close(folder)
    if isinstance(fd, OpenMiss):
        return MapMiss(fd.value)
    miss = _refuse(os.fstat(fd), owner)
    if miss is None:
        return fd
    os.close(fd)
    return miss


def is_mixed(fd: int, process: int, owner: Owner) -> bool:
    """Whether the open map has lines of processes before this one, whose open proc folder is `process`: it was there
    already, and is appended to (CPython does). A runtime that truncates what it finds (V8, HotSpot) leaves no such
    lines. Raises OSError.
    """
    if not 0 < birth_of(fd) < owner.begin_ns - CLOCK_SLACK_NS:
        return False
    folder = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
    try:
        about = os.fstat(fd)
        number = os.major(about.st_dev), os.minor(about.st_dev), about.st_ino
        with os.scandir(folder) as entries:
            for entry in islice(entries, MAX_DESCRIPTORS):
                status = status_of(folder, entry.name)
                if status is not None and status.number == number:
                    return _is_appending(read_small(process, f"fdinfo/{entry.name}"))
    finally:
        os.close(folder)
    return False


def _is_appending(text: bytes) -> bool:
    """`flags:` of proc_pid_fdinfo(5) is in octal."""
    at = text.find(b"flags:")
    word = text[at + 6 :].split(None, 1)[0] if at >= 0 else b""
    return word.isdigit() and bool(int(word, 8) & os.O_APPEND)


def _refuse(about: os.stat_result, owner: Owner) -> MapMiss | None:
    # As perf does: root may write for others, such as a service that was root when it began.
    if about.st_uid != 0 and about.st_uid not in owner.users:
        return MapMiss.FOREIGN
    if about.st_mtime_ns < owner.begin_ns - CLOCK_SLACK_NS:
        return MapMiss.STALE
    return MapMiss.TOO_LARGE if about.st_size > MAX_FILE_BYTES else None


class MapFile:
    """An open map. Keeps its descriptor, so that what it says can be read when the process is gone."""

    __slots__ = ("_number", "_tail", "fd", "position")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.position = 0
        self._tail = b""
        self._number = _number(fd)

    def close(self) -> None:
        """Closes the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def is_same(self, fd: int) -> bool:
        """Whether `fd` is this very file."""
        return _number(fd) == self._number

    def read(self, limit: int) -> News:
        """What was appended since, or all if the file was written anew; some `limit` bytes at most. Raises OSError."""
        size = os.fstat(self.fd).st_size
        anew = size < self.position or os.pread(self.fd, len(self._tail), self.position - len(self._tail)) != self._tail
        if anew:
            self.position, self._tail = 0, b""
        begin, parts, malformed = self.position, [], 0
        while self.position < size and self.position - begin < limit:
            text = os.pread(self.fd, min(CHUNK, size - self.position), self.position)
            end = text.rfind(b"\n") + 1
            if not end and len(text) <= MAX_LINE:
                break  # a line that is being written
            for at, block in iter_blocks(text[:end]):
                entries, bad = parse_lines(block, self.position + at)
                parts.append(entries)
                malformed += bad
            # A line without an end in sight is passed over; its rest, when the end comes, is one that is none.
            self._advance(text[: end or len(text)])
            malformed += not end
        return News(
            entries=join_entries(parts),
            malformed=malformed,
            size=self.position - begin,
            anew=anew,
            whole=self.position >= size or (size - self.position <= MAX_LINE and self._is_half_a_line(size)),
        )

    def line(self, offset: int) -> bytes:
        """The line at `offset`, with its end; b"" if there is none. Raises OSError."""
        text = os.pread(self.fd, 256, offset)
        if b"\n" not in text:
            text = os.pread(self.fd, MAX_LINE, offset)
        return text[: text.find(b"\n") + 1]

    def _advance(self, text: bytes) -> None:
        self.position += len(text)
        self._tail = (self._tail + text[-TAIL:])[-TAIL:]

    def _is_half_a_line(self, size: int) -> bool:
        return b"\n" not in os.pread(self.fd, size - self.position, self.position)


def _number(fd: int) -> tuple[int, int]:
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        raise OSError("not a regular file")
    return about.st_dev, about.st_ino
