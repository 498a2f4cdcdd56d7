"""`fleetflame query`: a profile of some of the fleet, for some time, in some format."""

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from cli.options import option, time_options, with_client

if TYPE_CHECKING:
    from cli.client import Client, Params

FORMATS = ("table", "folded", "svg", "html", "pprof", "speedscope", "json")
SUFFIXES = {
    ".folded": "folded", ".txt": "folded", ".collapsed": "folded", ".svg": "svg", ".html": "html", ".htm": "html",
    ".pprof": "pprof", ".pb": "pprof", ".gz": "pprof", ".speedscope": "speedscope", ".json": "json",
}  # fmt: skip
BINARY = frozenset({"pprof"})

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_MATCHED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*(?:!=|!~|=)")


def choose_format(wanted: str | None, output: str) -> str:
    """The format asked for; else what the file's name says; else a table for a terminal and folded lines for a pipe."""
    from cli.output import is_terminal

    if wanted:
        return wanted
    name = PurePath(output).name.lower()
    if name.endswith(".speedscope.json"):
        return "speedscope"
    if found := SUFFIXES.get(PurePath(name).suffix):
        return found
    return "table" if is_terminal() and output in ("", "-") else "folded"


@click.command()
@click.argument("selector", default="cpu")
@time_options
@option("--by", multiple=True, metavar="LABEL", help="Keep the values of this label apart, as root frames; repeatable.")
@option(
    "--format",
    "format_name",
    envvar="FLEETFLAME_QUERY_FORMAT",
    type=click.Choice(FORMATS),
    default=None,
    help="Default: by the file's name; else table on a terminal and folded in a pipe.",
)
@option("-o", "--output", default="", metavar="FILE", help="Write to FILE instead of standard output.")
@option("--kernel/--no-kernel", default=True, help="Whether to show kernel frames.")
@with_client
def command(client: "Client", selector: str, output: str, format_name: str | None, **values: Any) -> None:
    """Show a profile, merged over every node and process that SELECTOR matches.

    \b
    Examples:
      fleetflame query
      fleetflame query 'cpu{service="checkout", node=~"web-.*"}' --from -1h
      fleetflame query 'comm="postgres"' --by node -o pg.html
      fleetflame query --no-kernel | sort | head
      fleetflame query --format pprof -o cpu.pb.gz && go tool pprof cpu.pb.gz
    """
    from cli.output import write_chunks
    from cli.progress import awaited

    chosen = choose_format(format_name, output)
    params = [("query", selector), *view_params(values), ("format", chosen)]
    answer = awaited(client.stream("/api/v1/profile", params), doing="asking the aggregator")
    write_chunks(answer, output, binary=chosen in BINARY)
    note_if_empty(client, selector, values)
    note_unknown_labels(client, values)


def view_params(values: dict[str, Any]) -> "Params":
    """Parameters of the API for what `time_options`, `--by` and `--no-kernel` gave."""
    return [
        ("from", values["start"]),
        ("until", values["end"]),
        *(("by", label) for label in values["by"]),
        *((("kernel", "false"),) if not values["kernel"] else ()),
    ]


def samples_of(client: "Client") -> dict[str, int]:
    """The counts in the header of the last answer: `total`, and `before` and `after` of a difference."""
    pairs = (part.strip().partition("=") for part in client.headers.get("fleetflame-samples", "").split(","))
    return {name: int(count) for name, _, count in pairs if count.isdigit()}


def note_if_empty(client: "Client", selector: str, values: dict[str, Any]) -> None:
    """Says on standard error that nothing matched, which an empty file does not."""
    from cli.output import note

    if samples_of(client).get("total") == 0:
        why = why_nothing_matches(client, selector, values)
        note(f"no samples match `{selector}` in this time range ({why})")


def note_unknown_labels(client: "Client", values: dict[str, Any]) -> None:
    """Says on standard error which labels of `--by` no series has: each root frame is `[no LABEL]` then."""
    from cli.output import note

    if values["by"]:
        known = known_labels(client, values)
        for label in dict.fromkeys(values["by"]):
            if known and label not in known:  # without samples there are none at all, which is said already
                note(no_such_label(label, known))


def known_labels(client: "Client", values: dict[str, Any]) -> list[str]:
    """Names of the labels that series of the time range have."""
    times = [("from", values["start"]), ("until", values["end"])]
    labels: list[str] = client.get_json("/api/v1/labels", times)["labels"]
    return labels


def no_such_label(label: str, known: list[str]) -> str:
    """What is said of a label that no series has."""
    return f"no series has a label `{label}` in this time range; there are {', '.join(f'`{name}`' for name in known)}"


def why_nothing_matches(client: "Client", selector: str, values: dict[str, Any]) -> str:
    """The likeliest reason that a well-formed selector finds nothing, or where to look for it."""
    if _BARE.fullmatch(selector) and selector != "cpu":
        return f'a bare word is a profile type; the service of that name is `service="{selector}"`'
    known = known_labels(client, values)
    wanted = _MATCHED.findall(_QUOTED.sub('""', selector))
    if known and (unknown := [name for name in wanted if name not in known]):
        return f"no label `{unknown[0]}`; there are {', '.join(f'`{name}`' for name in known)}"
    return "`fleetflame labels` shows what there is"
