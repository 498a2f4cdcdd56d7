"""`fleetflame query`: a profile of some of the fleet, for some time, in some format."""

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
    note_if_empty(client, selector)


def view_params(values: dict[str, Any]) -> "Params":
    """Parameters of the API for what `time_options`, `--by` and `--no-kernel` gave."""
    return [
        ("from", values["start"]),
        ("until", values["end"]),
        *(("by", label) for label in values["by"]),
        *((("kernel", "false"),) if not values["kernel"] else ()),
    ]


def note_if_empty(client: "Client", selector: str) -> None:
    """Says on standard error that nothing matched, which an empty file does not."""
    from cli.output import note

    if client.headers.get("fleetflame-samples", "").startswith("total=0,"):
        note(f"no samples match `{selector}` in this time range (`fleetflame labels` shows what there is)")
