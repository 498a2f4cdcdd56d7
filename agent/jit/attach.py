"""Asks a HotSpot JVM to write the map of its compiled methods, as `jcmd PID Compiler.perfmap` does.

    FOLDER/.attach_pidPID  the wish for a socket, followed by SIGQUIT
    FOLDER/.java_pidPID    the socket   -> "1\\0jcmd\\0Compiler.perfmap\\0\\0\\0"
                                        <- "0\\n" and text: done; another number: it cannot

PID is the process's in its own namespace, FOLDER is /tmp in its own root, and nothing there is believed: the wish is
written with the process's own rights, the socket is opened without following links, who answers has to be the process
itself, and a place for the map that would lead the JVM to write into another file is no place for one.
(github.com/openjdk/jdk: src/hotspot/os/posix/attachListener_posix.cpp, share/services/diagnosticCommand.cpp)
"""

import contextlib
import ctypes
import os
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from agent.facts import Identity, read_identity, read_small
from agent.jit.hotspot import Doubt, find_doubt
from agent.jit.mapfile import FOLDER, map_name
from agent.openat import OpenMiss, ProcessFiles

COMMAND = b"1\0jcmd\0Compiler.perfmap\0\0\0"
"""Version of the protocol, the command and its three arguments. Compiler.perfmap is there from JDK 17 on."""
MAX_REPLY = 64 * 1024
SOCKET_WAIT_S = 3.0
"""From the signal to the socket: 50 ms on an idle machine; a JVM that collects garbage answers later."""
REPLY_WAIT_S = 5.0
"""For the whole answer. 50,000 methods take 0.2 s."""

_POLL_S = 0.05
_PATH_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_libc = ctypes.CDLL(None)


class Answer(StrEnum):
    """What became of the wish, unless there was a `Doubt`."""

    WRITTEN = "written"
    GONE = "gone"
    DENIED = "denied"
    UNSAFE = "unsafe_place"
    NO_SOCKET = "no_socket"
    STRANGER = "stranger"
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """`process` is the open proc folder, `tgid` the PID that we know it by, `pid` its own."""

    process: int
    identity: Identity
    tgid: int
    pid: int
    user: int
    group: int
    caught: int


def ask_for_map(process: int, identity: Identity, tgid: int) -> Answer | Doubt:
    """Asks the process behind its open proc folder, unless something speaks against it.

    Takes SOCKET_WAIT_S + REPLY_WAIT_S seconds at most. What it needs root for, it does as the process's user.
    """
    target = _read_target(process, identity, tgid)
    if target is None:
        return Answer.GONE
    if os.geteuid() not in (0, target.user):
        return Answer.DENIED  # HotSpot answers its own user and root
    with ProcessFiles(process) as files:
        if doubt := find_doubt(process, files, target.caught):
            return doubt
        folder = files.open_folder(FOLDER)
    if isinstance(folder, OpenMiss):
        return Answer.UNSAFE
    try:
        return _attach(target, folder)
    except TimeoutError:
        return Answer.TIMEOUT
    except PermissionError:
        return Answer.DENIED
    except OSError:
        return Answer.GONE if read_identity(process) is None else Answer.REFUSED
    finally:
        os.close(folder)


def _read_target(process: int, identity: Identity, tgid: int) -> _Target | None:
    status = dict(line.partition(b":")[::2] for line in read_small(process, "status").splitlines())
    try:
        user, group = (int(status[name].split()[1]) for name in (b"Uid", b"Gid"))
        pid = int(status.get(b"NSpid", status[b"Pid"]).split()[-1])
        caught = int(status[b"SigCgt"], 16)
    except (KeyError, IndexError, ValueError):
        return None
    return _Target(process=process, identity=identity, tgid=tgid, pid=pid, user=user, group=group, caught=caught)


def _attach(target: _Target, folder: int) -> Answer:
    """Raises OSError."""
    if not _is_safe_place(target, folder):
        return Answer.UNSAFE
    found = _open_socket(target, folder)
    if found is None:
        if not _wake(target, folder):
            return Answer.GONE
        found = _open_socket(target, folder)
    if found is None:
        return Answer.NO_SOCKET
    try:
        return _ask(target, found)
    finally:
        os.close(found)


def _is_safe_place(target: _Target, folder: int) -> bool:
    """The JVM writes to whatever has the map's name: only if that is nothing, or a file of its own."""
    try:
        about = os.stat(map_name(target.pid), dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and about.st_uid == target.user


def _open_socket(target: _Target, folder: int) -> int | None:
    """A descriptor that names the socket, None if there is none of the process's own."""
    try:
        fd = os.open(b".java_pid%d" % target.pid, _PATH_ONLY, dir_fd=folder)
    except FileNotFoundError:
        return None
    about = os.fstat(fd)
    if stat.S_ISSOCK(about.st_mode) and about.st_uid == target.user:
        return fd
    os.close(fd)
    return None


def _wake(target: _Target, folder: int) -> bool:
    """Makes the JVM open its socket, waiting until it has; False if the process is gone. Raises OSError."""
    pidfd = os.pidfd_open(target.tgid)
    wish = b".attach_pid%d" % target.pid
    try:
        # The proc folder still leads to the process, so the PID was its own when the descriptor was made.
        now = read_identity(target.process)
        if now is None or not target.identity.is_now(now):
            return False
        with _rights_of(target):
            os.close(os.open(wish, _CREATE, 0o600, dir_fd=folder))
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGQUIT)
            _wait_for_socket(target, folder)
        finally:
            with _rights_of(target), contextlib.suppress(OSError):
                os.unlink(wish, dir_fd=folder)
    finally:
        os.close(pidfd)
    return True


def _wait_for_socket(target: _Target, folder: int) -> None:
    end = time.monotonic() + SOCKET_WAIT_S
    while time.monotonic() < end:
        time.sleep(_POLL_S)
        found = _open_socket(target, folder)
        if found is not None:
            os.close(found)
            return


@contextlib.contextmanager
def _rights_of(target: _Target) -> Iterator[None]:
    """As the process's user for files, in this thread alone (setfsuid(2)): what it may not write, we do not for it."""
    if os.geteuid() != 0 or target.user == 0:
        yield
        return
    group, user = _libc.setfsgid(target.group), _libc.setfsuid(target.user)
    try:
        yield
    finally:
        _libc.setfsuid(user)
        _libc.setfsgid(group)


def _ask(target: _Target, found: int) -> Answer:
    """Raises OSError, TimeoutError among them."""
    end = time.monotonic() + REPLY_WAIT_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(REPLY_WAIT_S)
        connection.connect(f"/proc/self/fd/{found}")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, user, _group = struct.unpack("3i", credentials)
        if (pid, user) != (target.tgid, target.user):
            return Answer.STRANGER
        connection.sendall(COMMAND)
        reply = b""
        while len(reply) < MAX_REPLY:
            connection.settimeout(max(0.001, end - time.monotonic()))
            piece = connection.recv(4096)
            if not piece:
                break
            reply += piece
    return _answer_of(reply)


def _answer_of(reply: bytes) -> Answer:
    code = reply.partition(b"\n")[0]
    if not code:
        return Answer.REFUSED
    return Answer.WRITTEN if code == b"0" else Answer.UNSUPPORTED
