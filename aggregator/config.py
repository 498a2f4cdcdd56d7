"""What an aggregator can be told. Every option's default, unit and check stands here; help and docs read them."""

import os
import re
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleetflame.errors import UsageError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DAY_S = 86_400
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Raises UsageError for a port out of range or an empty host."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not self.host or not 0 <= self.port <= 65_535:
            raise UsageError(f"not an address: `{self}`", hint="write HOST:PORT, as in 127.0.0.1:4040 or [::]:4040")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as one would open it in a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{Address(host, self.port)}"

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK_NAMES or self.host.startswith("127.")


def parse_address(text: str) -> Address:
    """The address that HOST:PORT, [IPv6]:PORT or :PORT (every interface) spells. Raises UsageError."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    elif colon and not host:
        host = "0.0.0.0"
    if not host or not port.isascii() or not port.isdigit():
        raise UsageError(f"not an address: `{text[:80]}`", hint="write HOST:PORT, as in 127.0.0.1:4040 or [::]:4040")
    return Address(host, int(port))


def default_data_folder() -> str:
    """Where data goes when nobody says: the system's place for root, the user's own for others."""
    if os.geteuid() == 0:
        return "/var/lib/fleetflame"
    base = os.environ.get("XDG_DATA_HOME", "")
    return str((Path(base) if base.startswith("/") else Path.home() / ".local/share") / "fleetflame")


class Kind(StrEnum):
    """How a setting is written on a command line."""

    TEXT = "text"
    TEXTS = "texts"
    NUMBER = "number"
    DURATION = "duration"
    SIZE = "size"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is told about one field of a configuration: the command line and the docs are made from it."""

    help: str
    kind: Kind
    metavar: str
    option: str = ""
    """Name of the option without dashes, where it is not the field's."""
    envvars: tuple[str, ...] = ()
    """Environment variables that hold it besides its own."""
    shown: str = ""
    """What to say of a default that depends on the machine."""


def _setting(default: Any, help: str, kind: Kind = Kind.TEXT, **about: Any) -> Any:  # noqa: A002
    about = {"metavar": kind.value.upper(), **about}
    told = {"setting": Setting(help=help, kind=kind, **about)}
    return field(default_factory=default, metadata=told) if callable(default) else field(default=default, metadata=told)


def default_of(config: type, name: str) -> Any:
    """The default of one field."""
    found = next(each for each in fields(config) if each.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()


def settings_of(config: type) -> dict[str, Setting]:
    """Field name -> what is told about it, in their order."""
    return {each.name: each.metadata["setting"] for each in fields(config) if "setting" in each.metadata}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """What queries may cost. Beyond a limit the answer is an error that names it, never part of an answer."""

    range_s: int = _setting(92 * DAY_S, "Longest time range of a query.", Kind.DURATION, option="query-range")
    memory: int = _setting(
        384 * MIB,
        "Memory that queries at work may use, all together: 3.3 kB a stack.",
        Kind.SIZE,
        option="query-memory",
    )
    result_bytes: int = _setting(256 * MIB, "Largest answer.", Kind.SIZE, option="query-bytes")
    timeout_s: int = _setting(
        60, "Longest time to an answer, waiting for a turn included.", Kind.DURATION, option="query-timeout"
    )
    concurrent: int = _setting(
        4, "Queries at work at the same time.", Kind.NUMBER, metavar="N", option="query-concurrency"
    )
    waiting: int = _setting(32, "Queries that may wait for their turn.", Kind.NUMBER, metavar="N", option="query-queue")
    import_bytes: int = _setting(64 * MIB, "Largest profile that may be imported.", Kind.SIZE, option="import-limit")

    def __post_init__(self) -> None:
        for name in ("range_s", "memory", "result_bytes", "timeout_s", "concurrent", "import_bytes"):
            _at_least(name, getattr(self, name), 1)
        _at_least("waiting", self.waiting, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorConfig:
    """One aggregator. Raises UsageError if an option is out of range; nothing is opened or reached for yet."""

    nats: str = _setting(
        "nats://127.0.0.1:4222",
        "The bus; several URLs of one cluster separated by commas. Credentials may stand in it.",
        metavar="URL",
        envvars=("FLEETFLAME_NATS",),
    )
    storage: str = _setting(
        lambda: f"{default_data_folder()}/aggregator",
        "Folder of the embedded ClickHouse, or http(s)://USER:PASSWORD@HOST:PORT/DATABASE of a server.",
        metavar="URL-or-DIR",
        shown="/var/lib/fleetflame/aggregator for root, else ~/.local/share/fleetflame/aggregator",
    )
    cluster: str = _setting(
        "", "Cluster of the ClickHouse server over which tables are replicated and distributed.", metavar="NAME"
    )
    http: Address = _setting(  # noqa: RUF009  # it makes a field
        lambda: Address("127.0.0.1", 4040),
        "Where the page, the API and the metrics listen.",
        Kind.ADDRESS,
        metavar="HOST:PORT",
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        "Host name under which browsers may open the page; repeatable. Default: any, on loopback only loopback's.",
        Kind.TEXTS,
        metavar="NAME",
        option="allow-host",
    )
    retention_s: int = _setting(
        14 * DAY_S, "Keep samples this long at full resolution; whole days.", Kind.DURATION, option="retention"
    )
    rolled_retention_s: int = _setting(
        90 * DAY_S, "Keep their hourly sums this long; whole days.", Kind.DURATION, option="rolled-retention"
    )
    disk_budget: int = _setting(10 * GIB, "Remove the oldest days beyond this many bytes; 0: no bound.", Kind.SIZE)
    memory: int = _setting(512 * MIB, "Memory that the embedded ClickHouse may use.", Kind.SIZE)
    symbols: str = _setting(
        "",
        "Where debug files and symbol tables are kept.",
        metavar="DIR",
        shown="`symbols` in the storage folder",
    )
    symbols_budget: int = _setting(10 * GIB, "Remove the least recently used debug files beyond this.", Kind.SIZE)
    debug_dirs: tuple[str, ...] = _setting(
        ("/usr/lib/debug",),
        "Folder of debug files in the layout of distributions, .build-id/xx/yyyy.debug; repeatable.",
        Kind.TEXTS,
        metavar="DIR",
        option="debug-dir",
    )
    debuginfod_urls: tuple[str, ...] = _setting(
        (),
        "debuginfod server to ask for debug files; repeatable.",
        Kind.TEXTS,
        metavar="URL",
        option="debuginfod",
        envvars=("DEBUGINFOD_URLS",),
    )
    upload_bytes: int = _setting(2 * GIB, "Largest debug file that may be uploaded.", Kind.SIZE, option="upload-limit")
    limits: QueryLimits = field(default_factory=QueryLimits)

    def __post_init__(self) -> None:
        check_nats_url(self.nats)
        if not self.storage:
            raise UsageError("the storage is empty", hint="give --storage a folder or a ClickHouse URL")
        if "://" in self.storage:
            _check_storage_url(self.storage)
        elif self.cluster:
            raise UsageError(f"the cluster `{self.cluster}` needs a ClickHouse server", hint="give --storage its URL")
        _check_days("retention", self.retention_s, DAY_S)
        _check_days("rolled retention", self.rolled_retention_s, self.retention_s)
        _at_least("memory", self.memory, 128 * MIB)
        _at_least("symbols budget", self.symbols_budget, MIB)
        _at_least("upload size", self.upload_bytes, MIB)
        if self.disk_budget and self.disk_budget < 64 * MIB:
            raise UsageError(
                f"the disk budget {self.disk_budget} is too small", hint="give 64 MiB or more, 0 for no bound"
            )
        for url in self.debuginfod_urls:
            if not _is_url(url, "http", "https"):
                raise UsageError(f"not a debuginfod URL: `{url[:200]}`", hint="it starts with http:// or https://")

    @property
    def is_embedded(self) -> bool:
        """Whether the storage is a folder of this process's own."""
        return "://" not in self.storage

    @property
    def symbols_folder(self) -> Path:
        """Where symbol tables and debug files are kept."""
        if self.symbols:
            return Path(self.symbols)
        return Path(self.storage if self.is_embedded else default_data_folder()) / "symbols"


def check_nats_url(text: str) -> tuple[str, ...]:
    """The servers that `text` names. Raises UsageError if one of them is no NATS URL."""
    servers = tuple(part.strip() for part in text.split(",") if part.strip())
    for server in servers or ("",):
        if not _is_url(server, "nats", "tls", "ws", "wss"):
            raise UsageError(f"not a NATS URL: `{redacted(server)}`", hint="write nats://HOST:4222 or tls://HOST:4222")
    return servers


def redacted(urls: str) -> str:
    """One URL or several, with passwords, and user names that are tokens, as `***`: what logs and errors may show."""
    return ",".join(_without_secret(url) for url in re.split(r",(?=\s*\w+://)", urls))


def _without_secret(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    if not slashes or not at:
        return url
    name, colon, _ = user.partition(":")
    return f"{scheme}://{f'{name}:' if colon else ''}***@{host}"


def _is_url(text: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an address without its end, a port beyond 65535
        return False


def _check_storage_url(text: str) -> None:
    if not _is_url(text, "http", "https"):
        raise UsageError(
            f"not a ClickHouse URL: `{redacted(text)}`",
            hint="write http://HOST:8123/DATABASE or https://..., or a folder for the embedded engine",
        )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"the {name.replace('_', ' ')} {value} is too small", hint=f"give at least {least}")


def _check_days(name: str, seconds: int, least: int) -> None:
    if seconds < least or seconds % DAY_S:
        raise UsageError(
            f"the {name} of {seconds / DAY_S:g} days is not possible",
            hint=f"give whole days, {least // DAY_S} at least",
        )
