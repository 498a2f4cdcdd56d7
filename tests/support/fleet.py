"""A whole fleetflame on this machine, started as its user would, and the command line to ask it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

START_S = 60
FIRST_WINDOW_S = 10
COMMAND = (sys.executable, "-m", "cli.main")


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Fleet:
    """`fleetflame up` in a folder of its own. A context manager: leaves no process behind."""

    def __init__(self, folder: Path, *options: str, frequency: int = 499) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self._options = ("--frequency", str(frequency), *options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """The last lines that bus, aggregator and agent logged."""
        return "\n".join((self.folder / "up.log").read_text().splitlines()[-12:])

    def start(self) -> None:
        """Returns once the agent samples, as its first window shows; AssertionError with the log if it does not."""
        address = self.url.removeprefix("http://")
        with (self.folder / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "up", "--http", address, "--data", str(self.folder / "data"), *self._options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_until(self._ready, START_S)
        started = time.time()
        self.wait_until(lambda: self.stored_until() >= started - FIRST_WINDOW_S, START_S)

    def stop(self, *, signum: int = signal.SIGINT) -> int:
        """Ctrl-C, as at a terminal; the exit code."""
        assert self._process
        self._process.send_signal(signum)
        try:
            return self._process.wait(40)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def __enter__(self) -> "Fleet":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process and self._process.poll() is None:
            self.stop()

    @property
    def pid(self) -> int:
        """Of the `up` process."""
        assert self._process
        return self._process.pid

    def _ready(self) -> bool:
        assert self._process
        assert self._process.poll() is None, f"`fleetflame up` ended:\n{self.log}"
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_until(self, holds: Any, seconds: float) -> None:
        """Polls until `holds()` is true."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"not within {seconds} s; the log says:\n{self.log}"
            time.sleep(0.25)

    def run(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """One command line of `fleetflame`, against this fleet."""
        environment = {**os.environ, "FLEETFLAME_SERVER": self.url, "NO_COLOR": "1"}
        result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment)
        assert not check or result.returncode == 0, f"{arguments}: {result.stderr}\n{self.log}"
        return result

    def folded(self, selector: str, *options: str) -> Counter[str]:
        """`fleetflame query --format folded`: stack -> samples."""
        text = self.run("query", selector, "--format", "folded", *options).stdout
        return parse_folded(text)

    def status(self) -> dict[str, Any]:
        """`fleetflame status --json`, whatever its exit code."""
        answer: dict[str, Any] = json.loads(self.run("status", "--json", check=False).stdout)
        return answer

    def stored_until(self) -> float:
        """Unix time up to which this machine's samples are stored: the start of the window that was stored last."""
        windows = [node["last_window"] for node in self.status()["nodes"]]
        return max((datetime.fromisoformat(window).timestamp() for window in windows), default=0.0)


def parse_folded(text: str) -> Counter[str]:
    """Stack -> samples of folded lines."""
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        counts[stack] += int(count)
    return counts
