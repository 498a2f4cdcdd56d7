"""Options that several verbs have in common, each with its environment variable and default in the help."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    pass

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SERVER = "http://127.0.0.1:4040"
DEFAULT_TIMEOUT_S = 120
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "human", "json")


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """`click.option` that shows its environment variable, and its default unless it is empty."""
    shown = settings.get("default") not in (None, "", (), False)
    return click.option(*names, **{"show_envvar": True, "show_default": shown, **settings})


def with_client(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a verb `--server` and `--timeout`; it gets a client of that server as its argument `client`."""

    @option(
        "--server", envvar="FLEETFLAME_SERVER", default=DEFAULT_SERVER, metavar="URL", help="The aggregator to ask."
    )
    @option(
        "--timeout",
        envvar="FLEETFLAME_TIMEOUT",
        default=DEFAULT_TIMEOUT_S,
        type=click.IntRange(1, 86_400),
        metavar="SECONDS",
        help="How long to wait for an answer.",
    )
    @functools.wraps(function)
    def wrapper(*, server: str, timeout: int, **values: Any) -> Any:
        from cli.client import Client

        with Client(server, timeout_s=timeout) as client:
            return function(client=client, **values)

    return wrapper


def time_options(function: F) -> F:
    """`--from` and `--until`; the verb gets them as `start` and `end`."""
    function = option(
        "--until", "end", envvar="FLEETFLAME_UNTIL", default="now", metavar="T", help="End of the time range."
    )(function)
    return option(
        "--from",
        "start",
        envvar="FLEETFLAME_FROM",
        default="-15m",
        metavar="T",
        help="Start of the time range: `-15m`, `now-1h30m`, RFC 3339, Unix seconds or `now`.",
    )(function)


def json_option(function: F) -> F:
    """`--json`; the verb gets it as `as_json`."""
    return option("--json", "as_json", envvar="FLEETFLAME_JSON", is_flag=True, help="Print JSON, for programs.")(
        function
    )


def log_options(function: F) -> F:
    """`--log-level` and `--log-format`."""
    function = option(
        "--log-format",
        envvar="FLEETFLAME_LOG_FORMAT",
        default="auto",
        type=click.Choice(LOG_FORMATS),
        help="auto: lines for people on a terminal, JSON otherwise.",
    )(function)
    return option(
        "--log-level",
        envvar="FLEETFLAME_LOG_LEVEL",
        default="info",
        type=click.Choice(LOG_LEVELS),
        help="Least important messages to show.",
    )(function)
