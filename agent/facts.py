"""What is known of a process besides its memory: who it is, what it runs, where it was put.

Read from one `/proc/PID` folder that is held open, so that a PID which is given to another process meanwhile shows as
"no such process" and never as a mixture of two. Nothing here interprets: labels do that.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from agent.openat import status_of
from fleetflame.buildid import BuildId

MAX_TEXT = 16 * 1024
"""Bytes read of a small proc file. A cgroup file of a v1 host with 13 hierarchies and 255-byte names has 4 KiB."""
MAX_CMDLINE = 2048
"""Bytes kept of a command line: programs with a class path of 100 KiB exist, and thousands of processes are known."""

PF_KTHREAD = 0x00200000
"""include/linux/sched.h: the flag of kernel threads in field 9 of `/proc/PID/stat`."""

_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One process image, as labels see it. Whatever could not be read has its empty value.

    `exe` is the path as the process sees it, without " (deleted)", and "" for kernel threads. `cgroup` is the text of
    `/proc/PID/cgroup`. `build_id` is that of the executable. `cmdline` is cut off after MAX_CMDLINE bytes.
    `pid_namespace` is the number of the namespace. `kernel` tells kernel threads from processes of which `exe` could
    not be read.
    """

    tgid: int
    comm: str
    exe: str = ""
    cgroup: str = ""
    build_id: BuildId | None = None
    uid: int = -1
    cmdline: tuple[str, ...] = ()
    pid_namespace: int = 0
    kernel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Tells a process image from a later one under the same PID: when the process began, in clock ticks since boot (0
    if that is not known yet), and the number of its executable (None: it has none, or it may not be seen)."""

    start: int
    executable: tuple[int, int, int] | None

    def is_now(self, now: "Identity") -> bool:
        """Whether a process that was found as `now` is still this one."""
        return self.start in (0, now.start) and self.executable == now.executable


@contextlib.contextmanager
def open_process(proc: str, tgid: int) -> Iterator[int]:
    """A descriptor of `/proc/PID`. Raises OSError: FileNotFoundError if there is no such process."""
    fd = os.open(f"{proc}/{tgid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def read_small(folder: int, name: str, limit: int = MAX_TEXT) -> bytes:
    """The first `limit` bytes of a file in a proc folder, b"" if it cannot be read."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return b""
    try:
        return os.read(fd, limit)
    except OSError:  # ESRCH: the process went away after the folder was opened
        return b""
    finally:
        os.close(fd)


def read_identity(folder: int) -> Identity | None:
    """Identity of the process, None if it is gone (or a zombie, whose memory is gone)."""
    stat = _read_stat(folder)
    return None if stat is None else Identity(start=stat.start, executable=_number(folder))


def read_facts(folder: int, tgid: int) -> tuple[ProcessFacts, Identity] | None:
    """Facts but for the build ID, and the identity they hold for. None if the process is gone."""
    stat = _read_stat(folder)
    if stat is None:
        return None
    facts = ProcessFacts(
        tgid=tgid,
        comm=stat.comm,
        exe=_read_link(folder, "exe").removesuffix(_DELETED),
        cgroup=sys.intern(_text(read_small(folder, "cgroup"))),
        uid=_uid(read_small(folder, "status")),
        cmdline=_arguments(read_small(folder, "cmdline", MAX_CMDLINE)),
        pid_namespace=_namespace(_read_link(folder, "ns/pid")),
        kernel=bool(stat.flags & PF_KTHREAD),
    )
    return facts, Identity(start=stat.start, executable=_number(folder))


@dataclass(frozen=True, slots=True)
class _Stat:
    comm: str
    flags: int
    start: int


def _read_stat(folder: int) -> _Stat | None:
    """proc_pid_stat(5): `pid (comm) state ...`. comm may hold spaces and parentheses, so the last `)` counts."""
    head, found, tail = read_small(folder, "stat").rpartition(b")")
    fields = tail.split()
    if not found or len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return _Stat(_text(head.partition(b"(")[2]), int(fields[6]), int(fields[19]))


def _read_link(folder: int, name: str) -> str:
    try:
        return _text(os.fsencode(os.readlink(name, dir_fd=folder)))
    except OSError:  # a kernel thread has no executable; of another user's process we may not see it
        return ""


def _number(folder: int) -> tuple[int, int, int] | None:
    executable = status_of(folder, "exe")
    return executable.number if executable else None


def _uid(status: bytes) -> int:
    at = status.find(b"\nUid:")
    return int(status[at + 5 :].split(None, 1)[0]) if at >= 0 else -1


def _namespace(link: str) -> int:
    digits = link.removeprefix("pid:[").removesuffix("]")
    return int(digits) if digits.isdecimal() else 0


def _arguments(data: bytes) -> tuple[str, ...]:
    return tuple(_text(part) for part in data.rstrip(b"\0").split(b"\0")) if data else ()


def _text(data: bytes) -> str:
    """Names in the file system are bytes: what is no UTF-8 is shown as such, so that text can travel."""
    return data.decode("utf-8", "backslashreplace")
