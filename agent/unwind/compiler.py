"""Unwind tables compiled on the node, in a child of bounded memory and without privileges.

What a profiled process mapped is anybody's bytes, and a large program's table takes hundreds of megabytes to make. So
the agent opens the file and passes its descriptor to a child, which gives up what it may, maps the file, compiles and
answers. The child serves file after file, at low priority, and ends when there has been nothing to do for
IDLE_S; one that dies or takes too long costs that one table.

    parent -> child   one byte, with a descriptor
    child -> parent   u32 length, then an encoded table, or u32 0, u32 length and "reason: detail"
"""

import contextlib
import ctypes
import mmap
import os
import resource
import socket
import struct
import subprocess
import sys
import time

from agent.builds import Builds
from fleetflame.cfi import CfaError, CfaFault, UnwindTable, compile_table, decode, encode
from fleetflame.model import Mapping

MEMORY_BYTES = 1 << 30
"""Of the child's own; the mapped file is not counted. libclang's 407,000 rows take 0.2 GB."""
PATIENCE_S = 60
IDLE_S = 20
_NOBODY = 65534
_LENGTH = struct.Struct("<I")
# capset(2): version 3, this process; then effective, permitted and inheritable, 32 bits each, twice.
_CAPABILITY_HEADER = struct.pack("<Ii", 0x20080522, 0)
_PR_SET_NO_NEW_PRIVS = 38


class Compiler:
    """Makes tables of builds whose files are at hand. To be used by one thread."""

    def __init__(self, builds: Builds) -> None:
        self._builds = builds
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._used = 0.0
        self._interrupted = False

    def find(self, mapping: Mapping) -> UnwindTable | None:
        """The table of a build, None if its file is not to be had any more. Raises CfaError."""
        if mapping.build_id is None:
            return None
        fd = self._builds.open_for_lending(mapping.build_id, mapping.path)
        if not isinstance(fd, int) or isinstance(fd, bool):
            return None
        try:
            return self._compile(fd)
        finally:
            os.close(fd)

    def rest(self) -> None:
        """Ends the child if it has had nothing to do for a while. To be called now and then."""
        if self._child is not None and time.monotonic() - self._used > IDLE_S:
            self.close()

    def close(self) -> None:
        """Ends the child."""
        if self._socket is not None:
            self._socket.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._child = self._socket = None

    def interrupt(self) -> None:
        """Ends what is being made, and starts nothing any more. Any thread may call it."""
        self._interrupted = True
        child = self._child
        if child is not None:
            child.kill()

    def _compile(self, fd: int) -> UnwindTable:
        try:
            channel = self._socket or self._start()
            socket.send_fds(channel, [b"\1"], [fd])
            (length,) = _LENGTH.unpack(_receive(channel, _LENGTH.size))
            if length:
                return decode(_receive(channel, length))
            (length,) = _LENGTH.unpack(_receive(channel, _LENGTH.size))
            reason, _, detail = _receive(channel, length).decode(errors="replace").partition(": ")
        except (OSError, EOFError) as error:
            self.close()
            raise CfaError(CfaFault.TOO_LARGE, f"the compiler ended: {error}") from error
        finally:
            self._used = time.monotonic()
        raise CfaError(CfaFault(reason), detail)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "agent.unwind.compiler", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        ours.settimeout(PATIENCE_S)
        self._socket = ours
        if self._interrupted:
            raise EOFError("stopping")
        return ours


def _receive(channel: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = channel.recv(min(length, 1 << 20))
        if not part:
            raise EOFError("no answer")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _give_up_privileges() -> None:
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(PermissionError):  # no root, or root without CAP_SETUID
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # In either case what the agent holds came along: by systemd's AmbientCapabilities=, or a container's --cap-add.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capset(_CAPABILITY_HEADER, bytes(24)):
        raise SystemExit(f"failed to give up capabilities: {os.strerror(ctypes.get_errno())}")
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _serve(channel: socket.socket) -> None:
    while True:
        asked, fds, _, _ = socket.recv_fds(channel, 1, 1)
        if not asked:
            return
        try:
            # Not closed by hand: an error holds on to views of it until it was answered.
            answer = encode(compile_table(memoryview(mmap.mmap(fds[0], 0, prot=mmap.PROT_READ))))
        except CfaError as error:
            _refuse(channel, error.reason.value, error.detail)
        except (MemoryError, ValueError, OSError) as error:
            _refuse(channel, CfaFault.TOO_LARGE.value, str(error))
        else:
            channel.sendall(_LENGTH.pack(len(answer)) + answer)
        finally:
            os.close(fds[0])


def _refuse(channel: socket.socket, reason: str, detail: str) -> None:
    text = f"{reason}: {detail}".encode()[:4096]
    channel.sendall(_LENGTH.pack(0) + _LENGTH.pack(len(text)) + text)


if __name__ == "__main__":
    _give_up_privileges()
    with socket.socket(fileno=int(sys.argv[1])) as _channel:
        _serve(_channel)
