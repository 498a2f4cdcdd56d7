"""`fleetflame up`: everything on this machine, bus, aggregator and agent, each as a process of its own."""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aggregator.config import Address, AggregatorConfig, default_data_folder, default_of
from cli.options import DEFAULT_SERVER, log_options, option
from cli.params import ADDRESS
from fleetflame.errors import FleetflameError, cause_of

if TYPE_CHECKING:
    from cli.supervise import Command, Supervisor

DEFAULT_FREQUENCY = 99
BUS_START_S = 30.0
AGGREGATOR_START_S = 60.0
AGENT_GRACE_S, AGGREGATOR_GRACE_S = 15.0, 20.0
POLL_S = 0.1
PYTHON = (sys.executable, "-P", "-m", "cli.main")
"""-P: whatever lies in the current folder is not ours to import."""
_COLOURS = {"bus": 34, "aggregator": 35, "agent": 36}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What one run of everything was told."""

    http: Address
    data: Path
    frequency: int
    duration: float | None
    node: str
    log_level: str
    log_format: str


@click.command()
@option(
    "--http",
    type=ADDRESS,
    default=str(default_of(AggregatorConfig, "http")),
    metavar="HOST:PORT",
    help="Where the page and the API listen.",
)
@option(
    "--data",
    default=default_data_folder,
    show_default="/var/lib/fleetflame for root, else ~/.local/share/fleetflame",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Everything that is kept goes here.",
)
@option(
    "--frequency",
    default=DEFAULT_FREQUENCY,
    type=click.IntRange(1, 10_000),
    metavar="HZ",
    help="Samples per second and CPU.",
)
@option(
    "--duration",
    default=None,
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Stop by itself after S seconds of sampling.",
)
@option("--node", envvar="FLEETFLAME_NODE", default="", metavar="NAME", help="This machine's name; else its host name.")
@log_options
def command(data: Path, log_format: str, **values: Any) -> int:
    """Profile this machine: start a bus, an aggregator and an agent, and serve the flame graph.

    Ctrl-C stops all of them and leaves the data folder, which the next start goes on with. Needs root, or the
    capabilities that `fleetflame doctor` lists.

    \b
    Examples:
      sudo fleetflame up
      sudo fleetflame up --http 0.0.0.0:4040 --data /srv/fleetflame
      sudo fleetflame up --frequency 499 --duration 60
    """
    human = log_format == "human" or (log_format == "auto" and sys.stderr.isatty())
    return run(UpOptions(data=data.absolute(), log_format="human" if human else "json", **values))


def run(options: UpOptions) -> int:
    """Runs everything until a signal or the end of the duration; returns 0 then. Raises FleetflameError."""
    from cli.supervise import Stopped, Supervisor

    lock = _lock(options.data)
    try:
        _check_port(options.http)
        with Supervisor(_forwarder(options)) as supervisor:
            try:
                _run(options, supervisor)
            except Stopped:
                pass
            finally:
                _say("stopping")
    finally:
        os.close(lock)
    return 0


def _run(options: UpOptions, supervisor: "Supervisor") -> None:
    from cli.localbus import find_bus

    bus = find_bus(options.data / "bus")
    supervisor.start(bus.command())
    try:
        url = _await_bus(supervisor, bus.url)
    except FleetflameError as error:
        raise FleetflameError(f"{error.message}: {bus.log_tail()}", hint=f"its log is `{bus.log}`") from None
    supervisor.start(_aggregator_command(options, url))
    _await_ready(supervisor, options.http)
    supervisor.start(_agent_command(options, url))
    click.echo(f"page at {options.http.url}")
    sys.stdout.flush()
    if options.http.url != DEFAULT_SERVER:
        server = options.http.url
        _say(f"queries need --server {server}, or `export FLEETFLAME_SERVER={server}` once in a shell")
    _say(f"first samples in about 10 s; further agents on this machine: --nats \"$(cat '{bus.url_file}')\"")
    started = time.monotonic()
    while options.duration is None or time.monotonic() - started < options.duration:
        supervisor.wait(60.0 if options.duration is None else started + options.duration - time.monotonic())


def _await_bus(supervisor: "Supervisor", url: Callable[[], str | None]) -> str:
    deadline = time.monotonic() + BUS_START_S
    while time.monotonic() < deadline:
        if found := url():
            return found
        supervisor.wait(POLL_S)
    raise FleetflameError(f"the bus did not start within {BUS_START_S:.0f} s")


def _await_ready(supervisor: "Supervisor", http: Address) -> None:
    deadline = time.monotonic() + AGGREGATOR_START_S
    while time.monotonic() < deadline:
        if _is_ready(http):
            return
        supervisor.wait(POLL_S)
    raise FleetflameError(f"the aggregator did not become ready within {AGGREGATOR_START_S:.0f} s")


def _is_ready(http: Address) -> bool:
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    where = urlsplit(http.url)
    assert where.hostname
    connection = HTTPConnection(where.hostname, where.port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _aggregator_command(options: UpOptions, nats: str) -> "Command":
    from cli.supervise import Command

    return Command(
        name="aggregator",
        arguments=[
            *PYTHON, "aggregator",
            "--http", str(options.http),
            "--storage", str(options.data / "store"),
            "--log-level", options.log_level, "--log-format", options.log_format,
        ],
        settings={"FLEETFLAME_NATS": nats},
        grace_s=AGGREGATOR_GRACE_S,
    )  # fmt: skip


def _agent_command(options: UpOptions, nats: str) -> "Command":
    from cli.supervise import Command

    return Command(
        name="agent",
        arguments=[
            *PYTHON, "agent",
            "--frequency", str(options.frequency),
            *(("--node", options.node) if options.node else ()),
            "--log-level", options.log_level, "--log-format", options.log_format,
        ],
        settings={"FLEETFLAME_NATS": nats},
        grace_s=AGENT_GRACE_S,
    )  # fmt: skip


def _lock(data: Path) -> int:
    """Descriptor of the data folder's lock. Raises FleetflameError if another run holds it or it cannot be made."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o750)
        lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FleetflameError(
            f"failed to use the data folder `{data}`: {cause_of(error)}",
            hint="run as root, or choose another with --data",
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise FleetflameError(
            f"failed to use the data folder `{data}`: process {holder or '?'} runs `fleetflame up` on it",
            hint="stop that one, or choose another folder with --data",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _check_port(http: Address) -> None:
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((http.host, http.port))
        except OSError as error:
            raise FleetflameError(
                f"failed to listen on `{http}`: {cause_of(error)}",
                hint="another fleetflame may run there; choose another address with --http",
            ) from None


def _forwarder(options: UpOptions) -> Callable[[str, str], None]:
    from cli.output import colour_wanted

    colour = colour_wanted() and sys.stderr.isatty()

    def forward(name: str, line: str) -> None:
        if options.log_format == "human":
            mark = f"\x1b[{_COLOURS[name]}m{name:10}\x1b[0m" if colour else f"{name:10}"
            line = f"{mark} {line}"
        click.echo(line, err=True)

    return forward


def _say(message: str) -> None:
    click.echo(f"fleetflame: {message}", err=True)
