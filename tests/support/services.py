"""Bus, aggregator and agents as processes of their own, to be broken one by one: `fleetflame up` ends when one ends."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.fleet import COMMAND, free_port

PATIENCE_S = 90
"""How long one thing may take on a busy machine with two cores, where it takes a second on an idle one."""
STOP_S = 30


def until(holds: Callable[[], bool], *, told: Callable[[], str] = str) -> None:
    """Polls until `holds()` is true; `told` is what a failure shows."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"it did not happen:\n{told()}"
        time.sleep(0.1)


def run(
    *arguments: str, server: str = "", wrapper: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """One command line of `fleetflame` to its end, inside `wrapper` (a program that runs another one)."""
    settings = {**os.environ, "NO_COLOR": "1", **(environment or {})}
    if server:
        settings["FLEETFLAME_SERVER"] = server
    command = [*wrapper, *COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=settings, timeout=PATIENCE_S)


class Service:
    """One command of `fleetflame` that runs until it is stopped. A context manager: leaves no process behind."""

    def __init__(self, folder: Path, *arguments: str, name: str = "", wrapper: Sequence[str] = ()) -> None:
        self.log = folder / f"{name or arguments[0]}.log"
        self._command = [*wrapper, *COMMAND, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        assert self._process
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process
        return self._process.pid

    @property
    def text(self) -> str:
        """Everything that it has written, over all its starts."""
        return self.log.read_text()

    def messages(self, level: str = "") -> list[dict[str, Any]]:
        """What it logged, only of one level if that is given."""
        entries = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]
        return [entry for entry in entries if level in ("", entry["level"])]

    def start(self) -> Self:
        """Returns at once."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        return self

    def kill(self) -> None:
        """As the kernel would, for want of memory."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """As a service manager would; the exit code."""
        assert self._process
        self._process.terminate()
        return self._process.wait(STOP_S)

    def until(self, holds: Callable[[], bool]) -> None:
        """Polls until `holds()` is true."""
        until(holds, told=lambda: "\n".join(self.text.splitlines()[-20:]))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Aggregator(Service):
    """`fleetflame aggregator` with its data in `folder`, or in `storage`."""

    def __init__(self, folder: Path, nats: str, *arguments: str, storage: Path | None = None) -> None:
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        where = str(storage or folder / "store")
        super().__init__(folder, "aggregator", "--http", address, "--nats", nats, "--storage", where, *arguments)

    def ready(self) -> tuple[bool, str]:
        """What /readyz answers: whether it is ready, and why not; "nobody answers" is a reason."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=10) as answer:
                return bool(answer.status == 200), ""
        except urllib.error.HTTPError as error:
            return False, error.read().decode()
        except OSError as error:
            return False, f"nobody answers: {error}"

    def until_ready(self) -> None:
        """Returns when it is, raises AssertionError if it ends."""

        def holds() -> bool:
            assert self.code is None, self.text
            return self.ready()[0]

        self.until(holds)

    def run(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """One command line against this aggregator; AssertionError if its exit code is another than `code`."""
        done = run(*arguments, server=self.url)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stderr}"
        return done

    def get_json(self, path: str) -> dict[str, Any]:
        """One answer of the HTTP interface; quicker than a command line."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=PATIENCE_S) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def status(self) -> dict[str, Any]:
        """`fleetflame status --json`, whatever its exit code."""
        answer: dict[str, Any] = json.loads(run("status", "--json", server=self.url).stdout)
        return answer

    def node(self, name: str) -> dict[str, Any]:
        """The books of one node; empty if it is not known."""
        found: dict[str, Any] = next((node for node in self.status()["nodes"] if node["node"] == name), {})
        return found

    def __enter__(self) -> Self:
        self.start()
        self.until_ready()
        return self


def agent(folder: Path, nats: str, node: str, *arguments: str, wrapper: Sequence[str] = ()) -> Service:
    """`fleetflame agent`, with windows of one second, which tests need not wait long for."""
    options = ("--nats", nats, "--node", node, "--window", "1", *arguments)
    return Service(folder, "agent", *options, name=f"agent-{node}", wrapper=wrapper)
