"""The agent's configuration: one frozen value, its defaults written once. `configfile` reads one from a file.

Precedence is the command line's business: option, environment, file, default; whoever merges uses
`dataclasses.replace`, and what comes out is valid because it was built. docs/configuration.md describes every key.
"""

import re
import socket
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from agent.labels.config import LabelConfig
from fleetflame.errors import UsageError
from fleetflame.model import WINDOW_S
from fleetflame.subjects import check_node

MIB = 1 << 20

RANGES = {
    "frequency": (1, 10_000),
    "window": (1, 600),
    "counts_entries": (256, 1 << 22),
    "stack_entries": (256, 1 << 20),
    "id_stack_entries": (64, 1 << 20),
    "process_entries": (1024, 1 << 22),
    "unwind_rows": (1 << 16, 1 << 26),
    "queue_bytes": (MIB, 1 << 40),
    "java_map_interval": (10, 86_400),
    "java_maps_per_minute": (1, 600),
}
"""Smallest and largest value of each number. One message has 512 KiB at most, so that a queue holds two at least; PIDs
go to 2^22 (PID_MAX_LIMIT); a map larger than the upper bounds would take more memory than the whole agent may. A JVM is
asked no more often than once a window of the default width."""

AUTOMATIC = 0
"""Size of a kernel map that nobody gave: `mapsizes` chooses it by CPUs, frequency and window."""

_SCHEMES = frozenset({"nats", "tls", "ws", "wss"})


class Unwind(StrEnum):
    """How user stacks are unwound."""

    TABLES = "tables"
    """By the unwind tables of the files that a process has mapped; by frame pointers where there is none."""
    FRAME_POINTERS = "frame-pointers"


class LogLevel(StrEnum):
    """The least severe message that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """One node's agent. Raises UsageError, which names the key, for a value out of its range.

    `window` is in seconds, `frequency` in samples per second and CPU. `*_entries` size the kernel's maps. `unwind_rows`
    bounds the rows of unwind tables in the kernel, 4 bytes each. `queue_bytes` bounds what waits for the bus.
    `metrics_listen` is HOST:PORT or ""; "" serves no metrics. `java_maps`: whether JVMs are asked for names of their
    compiled methods, each at most every `java_map_interval` seconds, all together `java_maps_per_minute` times a
    minute. `thread_label` keeps threads apart in the kernel already, at the cost of rows.
    """

    nats: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    node: str = field(default_factory=socket.gethostname)
    frequency: int = 19
    window: int = WINDOW_S
    counts_entries: int = AUTOMATIC
    stack_entries: int = AUTOMATIC
    id_stack_entries: int = AUTOMATIC
    process_entries: int = AUTOMATIC
    unwind: Unwind = Unwind.TABLES
    unwind_rows: int = 1 << 22
    thread_label: bool = False
    java_maps: bool = True
    java_map_interval: int = 60
    java_maps_per_minute: int = 6
    queue_bytes: int = 8 * MIB
    log_level: LogLevel = LogLevel.INFO
    metrics_listen: str = ""
    labels: LabelConfig = field(default_factory=LabelConfig)

    def __post_init__(self) -> None:
        for name in RANGES:
            if not (name.endswith("_entries") and getattr(self, name) == AUTOMATIC):
                check_range(name, getattr(self, name))
        check_servers(self.nats)
        check_node(self.node)
        check_listen(self.metrics_listen)


def check_range(name: str, value: int) -> int:
    """`value` itself. Raises UsageError if the number called `name` may not have it."""
    low, high = RANGES[name]
    if not low <= value <= high:
        raise UsageError(f"`{name}` must be {low} to {high}, not `{value}`")
    return value


def check_servers(servers: tuple[str, ...]) -> tuple[str, ...]:
    """`servers` themselves. Raises UsageError if there is none, or one is no URL of a NATS server."""
    if not servers:
        raise UsageError("`nats` must name a server", hint="such as nats://127.0.0.1:4222")
    for server in servers:
        try:
            parts = urlsplit(server)
            valid = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            # A URL may hold a password: only what follows it is shown.
            raise UsageError(
                f"not a NATS URL: `{server.rpartition('@')[2][:80]}`", hint="such as nats://127.0.0.1:4222"
            )
    return servers


def check_listen(address: str) -> str:
    """`address` itself. Raises UsageError if it is neither "" nor HOST:PORT."""
    host, colon, port = address.rpartition(":")
    valid = colon and port.isascii() and port.isdecimal() and int(port) < 65536 and not re.search(r"[\s/]", host)
    if address and not valid:
        raise UsageError(f"not an address to listen on: `{address[:80]}`", hint="such as 127.0.0.1:9464 or [::1]:9464")
    return address
