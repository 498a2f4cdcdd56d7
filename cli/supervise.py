"""Child processes of `fleetflame up`: started, watched, their output forwarded, stopped in order.

One thread, one selector over the children's pipes, their pidfds and the signals that end us; nothing is polled. A child
is in a process group of its own, because Ctrl-C goes to the whole group of the terminal and the order of stopping is
ours; it asks the kernel for SIGTERM at our death, so that nothing stays behind even if we are killed.
"""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from fleetflame.errors import FleetflameError, cause_of

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
MAX_LINE_BYTES = 1 << 16
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):  # noqa: N818  # not an error: what Ctrl-C asks for
    """Somebody asked us to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One program to run. `settings` are added to the environment: secrets go there, where `ps` does not look."""

    name: str
    arguments: Sequence[str]
    settings: Mapping[str, str]
    grace_s: float
    """How long it may take to end after SIGTERM; then it is killed."""


class Child:
    """A running program; `code` is None until its end was seen."""

    def __init__(self, command: Command, process: subprocess.Popen[bytes], pidfd: int) -> None:
        self.command = command
        self.process = process
        self.pidfd = pidfd
        self.rest = b""

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def lines(self, chunk: bytes) -> Iterator[str]:
        """Whole lines that `chunk` completes; overlong ones are cut into pieces."""
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        if len(self.rest) > MAX_LINE_BYTES or (not chunk and self.rest):
            whole, self.rest = [*whole, self.rest], b""
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")


class Supervisor:
    """Starts children and waits for things to happen. Use as a context manager: leaving it ends every child."""

    def __init__(self, forward: Callable[[str, str], None]) -> None:
        """`forward` gets the name of a child and one line of its output."""
        self._forward = forward
        self._selector = selectors.DefaultSelector()
        self._children: list[Child] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._former: dict[int, object] = {}
        self._asked = 0

    def __enter__(self) -> "Supervisor":
        self._former_fd = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in END_SIGNALS:
            self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            for number, handler in self._former.items():
                signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave us
            signal.set_wakeup_fd(self._former_fd)
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def start(self, command: Command) -> Child:
        """Runs `command`. Raises FleetflameError if that is not possible."""
        parent = os.getpid()
        libc = self._libc

        def die_with_parent() -> None:
            # Between fork and exec of a process with one thread: plain system calls, looked up before the fork.
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # the parent died before it could be asked to tell us

        try:
            process = subprocess.Popen(
                list(command.arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(command.settings),
                process_group=0,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # one thread
            )
        except OSError as error:
            raise FleetflameError(f"failed to start {command.name}: {cause_of(error)}") from None
        child = Child(command, process, os.pidfd_open(process.pid))
        assert process.stdout is not None, "stdout=PIPE"
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, child)
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        self._children.append(child)
        return child

    def wait(self, timeout_s: float) -> None:
        """Forwards output until `timeout_s` is over or a child ends. Raises Stopped on a signal, or if one came before.

        Raises FleetflameError if a child ended that nobody had asked to.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if self._asked:
                raise Stopped
            self._check()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._turn(left)

    def stop(self) -> None:
        """Ends the children, the last started first, each within its grace; a second signal kills what is left."""
        while self._children:
            child = self._children[-1]
            asked, deadline = self._asked, time.monotonic() + child.command.grace_s
            if child.code is None:
                child.process.terminate()
            while child.code is None:
                left = deadline - time.monotonic()
                if left <= 0 or self._asked > max(asked, 1):
                    self._forward(child.command.name, "did not end in time: killed")
                    child.process.kill()
                    child.process.wait()
                else:
                    self._turn(left)
            self._release(child)

    def _check(self) -> None:
        for child in self._children:
            if child.code is not None:
                self._drain(child)
                how = f"with code {child.code}" if child.code >= 0 else f"by signal {-child.code}"
                raise FleetflameError(f"{child.command.name} ended {how}", hint="its own messages are above")

    def _turn(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 512)
            elif key.fd == key.data.pidfd:
                self._selector.unregister(key.data.pidfd)
            else:
                self._read(key.data)

    def _read(self, child: Child) -> bool:
        """Forwards what the child wrote; false when there is no more."""
        assert child.process.stdout is not None, "stdout=PIPE"
        try:
            chunk = os.read(child.process.stdout.fileno(), MAX_LINE_BYTES)
        except BlockingIOError:
            return False
        for line in child.lines(chunk):
            self._forward(child.command.name, line)
        if not chunk:
            self._selector.unregister(child.process.stdout)
        return bool(chunk)

    def _drain(self, child: Child) -> None:
        assert child.process.stdout is not None, "stdout=PIPE"
        while child.process.stdout in self._selector.get_map() and self._read(child):
            pass

    def _release(self, child: Child) -> None:
        self._drain(child)
        assert child.process.stdout is not None, "stdout=PIPE"
        for file in (child.process.stdout, child.pidfd):
            with contextlib.suppress(KeyError):
                self._selector.unregister(file)
        child.process.stdout.close()
        os.close(child.pidfd)
        self._children.remove(child)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked += 1
