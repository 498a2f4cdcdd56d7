"""`fleetflame labels`: what there is to select by."""

from typing import TYPE_CHECKING

import click

from cli.options import json_option, option, time_options, with_client
from cli.query import known_labels, no_such_label

if TYPE_CHECKING:
    from cli.client import Client


@click.command()
@click.argument("name", default="")
@option("--query", default="", metavar="SELECTOR", help="Only of series that this selector matches.")
@time_options
@json_option
@with_client
def command(*, client: "Client", name: str, query: str, as_json: bool, **times: str) -> None:
    """List label names, or the values of the label NAME.

    \b
    Examples:
      fleetflame labels
      fleetflame labels service --from -7d
      fleetflame labels comm --query '{node="web-1"}'
    """
    from urllib.parse import quote

    from cli.output import Column, is_terminal, note, print_json, print_table

    path = f"/api/v1/labels/{quote(name, safe='')}" if name else "/api/v1/labels"
    answer = client.get_json(path, [("query", query), ("from", times["start"]), ("until", times["end"])])
    if as_json:
        print_json(answer)
        return
    rows = answer["values"] if name else answer["labels"]
    why = "" if rows else _why_none(client, name, query, times)
    print_table([Column(name or "label")], ([row] for row in rows), empty=why)
    if why and not is_terminal():
        note(why)


def _why_none(client: "Client", name: str, query: str, times: dict[str, str]) -> str:
    known = known_labels(client, times)
    if name and known and name not in known:
        return no_such_label(name, known)
    return f"no series matches `{query}` in this time range" if known and query else "no samples in this time range"
