"""`fleetflame agent`: samples this machine and publishes what it took.

Imports nothing of the aggregator's: a node pays for what it uses, 64 MB in all.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from agent.config import RANGES, AgentConfig, LogLevel, Unwind
from cli.options import LOG_FORMATS, F, option
from cli.params import SIZE, format_size

_DEFAULTS = AgentConfig(node="this-machine")


def _number(name: str, help_text: str, **settings: Any) -> Callable[[F], F]:
    """An option for a number of AgentConfig; its default and range are written there.

    Click's default is None for every option of this verb: what was not given must not hide what the file says.
    """
    low, high = RANGES[name]
    default = getattr(_DEFAULTS, name)
    return option(
        f"--{name.replace('_', '-')}",
        **{
            "type": click.IntRange(low, high),
            "show_default": str(default) if default else "by CPUs and frequency",
            "metavar": "N",
            "help": help_text,
            **settings,
        },
    )


def _label_options(function: F) -> F:
    for decorate in (
        option("--kubernetes-logs", metavar="DIR", help="Folder of the kubelet's log links; empty: none."),
        option("--container-socket", "container_sockets", multiple=True, envvar="FLEETFLAME_AGENT_CONTAINER_SOCKET",
               metavar="PATH", help="Socket of a container engine to ask for names; repeatable."),
        option("--pid-label/--no-pid-label", default=None, show_default="off", help="Label samples with process IDs."),
        option("--thread-label/--no-thread-label", default=None, show_default="off",
               help="Label samples with their thread's name; costs rows."),
    ):  # fmt: skip
        function = decorate(function)
    return function


def _java_options(function: F) -> F:
    for decorate in (
        _number("java_maps_per_minute", "Most such requests to all JVMs in a minute."),
        _number("java_map_interval", "Least time between two such requests to one JVM.", metavar="SECONDS"),
        option("--java-maps/--no-java-maps", default=None, show_default="on",
               help="Ask JVMs (17 and later) for the names of their compiled methods."),
    ):  # fmt: skip
        function = decorate(function)
    return function


def _map_options(function: F) -> F:
    for decorate in (
        _number("unwind_rows", "Rows of unwind tables in the kernel, 4 bytes each."),
        option("--unwind", type=click.Choice(Unwind), show_default=str(_DEFAULTS.unwind),
               help="User stacks by unwind tables, or by frame pointers alone."),
        _number("process_entries", "Processes known at the same time."),
        _number("id_stack_entries", "Distinct stacks of processes just started, in one window."),
        _number("stack_entries", "Distinct stacks in one window."),
        _number("counts_entries", "Distinct pairs of process and stack in one window."),
    ):  # fmt: skip
        function = decorate(function)
    return function


@click.command()
@option(
    "--nats",
    envvar=["FLEETFLAME_AGENT_NATS", "FLEETFLAME_NATS"],
    metavar="URL",
    show_default=_DEFAULTS.nats[0],
    help="The bus; several URLs of one cluster separated by commas.",
)
@option(
    "--node",
    envvar=["FLEETFLAME_AGENT_NODE", "FLEETFLAME_NODE"],
    metavar="NAME",
    show_default="the host name",
    help="This machine's name in the fleet.",
)
@_number("frequency", "Samples per second and CPU.", metavar="HZ")
@option(
    "--config",
    "config_file",
    envvar="FLEETFLAME_AGENT_CONFIG",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="YAML file with these settings and relabel_configs.",
)
@_number("window", "Seconds of samples in one message.", metavar="SECONDS")
@_number(
    "queue_bytes",
    "Memory for messages that the bus cannot take now.",
    type=SIZE,
    metavar="SIZE",
    show_default=format_size(_DEFAULTS.queue_bytes),
)
@_map_options
@_label_options
@_java_options
@option("--metrics-listen", metavar="HOST:PORT", show_default="none", help="Where to serve /metrics and /healthz.")
@option(
    "--log-level",
    envvar=["FLEETFLAME_AGENT_LOG_LEVEL", "FLEETFLAME_LOG_LEVEL"],
    type=click.Choice([level.value for level in LogLevel]),
    show_default=_DEFAULTS.log_level.value,
    help="Least important messages to show.",
)
@option(
    "--log-format",
    envvar=["FLEETFLAME_AGENT_LOG_FORMAT", "FLEETFLAME_LOG_FORMAT"],
    default="auto",
    type=click.Choice(LOG_FORMATS),
    help="auto: lines for people on a terminal, JSON otherwise.",
)
def command(config_file: Path | None, log_format: str, **values: Any) -> int:
    """Run one node's agent: sample every process with eBPF and publish to the bus.

    Settings come from options, else from environment variables, else from the file, else they have the default. Needs
    root, or the capabilities that `fleetflame doctor` lists.

    \b
    Examples:
      fleetflame agent --nats nats://bus:4222
      fleetflame agent --nats tls://user:secret@bus:4222 --node web-17 --frequency 99
      fleetflame agent --config /etc/fleetflame/agent.yml
    """
    from cli.logging import set_up
    from cli.output import colour_wanted

    config = config_of(_read(config_file) if config_file else AgentConfig(), values)
    set_up(process="agent", level=config.log_level, format_name=log_format, colour=colour_wanted())

    from agent import app

    return app.run(config)


def _read(file: Path) -> AgentConfig:
    from agent.configfile import read_config  # YAML is 1 MB: not for an agent without such a file

    return read_config(file)


def config_of(base: AgentConfig, values: dict[str, Any]) -> AgentConfig:
    """`base` with the options that were given. Raises UsageError."""
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    if "nats" in given:
        given["nats"] = tuple(part.strip() for part in given["nats"].split(",") if part.strip())
    of_labels = {
        name: given.pop(name) for name in ("pid_label", "container_sockets", "kubernetes_logs") if name in given
    }
    return replace(base, labels=replace(base.labels, **of_labels), **given)
