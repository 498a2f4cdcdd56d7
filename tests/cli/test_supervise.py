"""Children of `up`: forwarded, stopped in order, never left behind."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.supervise import Command, Stopped, Supervisor
from fleetflame.errors import FleetflameError

PATIENCE_S = 30.0


def python(name: str, code: str, grace_s: float = 10.0) -> Command:
    """A child that runs `code`."""
    return Command(name=name, arguments=[sys.executable, "-c", code], settings={"TOLD": name}, grace_s=grace_s)


SLEEPER = """
import signal, sys, time
def end(*_):
    print('bye', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print('up', flush=True)
time.sleep(600)
"""


def wait_for(supervisor: Supervisor, lines: list[tuple[str, str]], wanted: tuple[str, str]) -> None:
    """Until a child wrote the line."""
    deadline = time.monotonic() + PATIENCE_S
    while wanted not in lines:
        assert time.monotonic() < deadline, lines
        supervisor.wait(0.05)


def test_children_end_in_the_reverse_order_of_their_start() -> None:
    """What others depend on ends last."""
    lines: list[tuple[str, str]] = []
    with Supervisor(lambda *line: lines.append(line)) as supervisor:
        for name in ("bus", "aggregator", "agent"):
            supervisor.start(python(name, SLEEPER))
            wait_for(supervisor, lines, (name, "up"))
    assert [name for name, text in lines if text == "bye"] == ["agent", "aggregator", "bus"]


def test_output_is_forwarded_by_lines_and_settings_reach_the_child() -> None:
    """Both streams, whole lines, also the one without an end; secrets come by the environment."""
    lines: list[tuple[str, str]] = []
    code = "import os,sys; print(os.environ['TOLD'], flush=True); sys.stderr.write('two\\nthree')"
    with Supervisor(lambda *line: lines.append(line)) as supervisor:
        supervisor.start(python("child", code))
        with pytest.raises(FleetflameError, match="child ended with code 0"):
            supervisor.wait(PATIENCE_S)
    assert [text for _, text in lines] == ["child", "two", "three"]


def test_a_child_that_ends_by_itself_is_a_failure() -> None:
    """The rest cannot work without it."""
    with Supervisor(lambda *_: None) as supervisor:
        supervisor.start(python("other", SLEEPER))
        supervisor.start(python("child", "import os; os.kill(os.getpid(), 9)"))
        with pytest.raises(FleetflameError, match="child ended by signal 9"):
            supervisor.wait(PATIENCE_S)


def test_a_child_that_does_not_end_in_its_grace_is_killed() -> None:
    """Stopping always ends."""
    lines: list[tuple[str, str]] = []
    stubborn = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    with Supervisor(lambda *line: lines.append(line)) as supervisor:
        child = supervisor.start(python("child", stubborn, grace_s=0.2))
        wait_for(supervisor, lines, ("child", "up"))
    assert child.code == -signal.SIGKILL
    assert ("child", "did not end in time: killed") in lines


def test_a_signal_stops_waiting_and_handlers_are_put_back() -> None:
    """Ctrl-C and SIGTERM are the same request."""
    before = signal.getsignal(signal.SIGTERM)
    with Supervisor(lambda *_: None) as supervisor:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            supervisor.wait(PATIENCE_S)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_program_that_is_not_there_is_named() -> None:
    """The operator learns which one."""
    with (
        Supervisor(lambda *_: None) as supervisor,
        pytest.raises(FleetflameError, match="failed to start bus: no such file"),
    ):
        supervisor.start(Command(name="bus", arguments=["/nonexistent"], settings={}, grace_s=1))


def test_children_die_with_us_even_when_we_are_killed(tmp_path: Path) -> None:
    """SIGKILL leaves no time to stop anything; the kernel does it."""
    told = tmp_path / "pid"
    code = f"""
import os, sys
from cli.supervise import Command, Supervisor
child = "import os,pathlib,time; pathlib.Path({str(told)!r}).write_text(str(os.getpid())); time.sleep(600)"
with Supervisor(lambda *_: None) as supervisor:
    supervisor.start(Command(name="child", arguments=[sys.executable, "-c", child], settings={{}}, grace_s=1))
    supervisor.wait(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + PATIENCE_S
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = os.pidfd_open(int(told.read_text()))
    parent.kill()
    parent.wait()
    readable, _, _ = select.select([child], [], [], PATIENCE_S)
    os.close(child)
    assert readable, "the child ended"
