"""`fleetflame top`: the functions that cost most."""

from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option, option, time_options, with_client
from cli.query import note_if_empty, note_unknown_labels, view_params

if TYPE_CHECKING:
    from cli.client import Client


@click.command()
@click.argument("selector", default="cpu")
@time_options
@option("--by", multiple=True, metavar="LABEL", help="Keep the values of this label apart; repeatable.")
@option("--kernel/--no-kernel", default=True, help="Whether to show kernel frames.")
@option("--limit", "-n", default=30, type=click.IntRange(1, 10_000), metavar="N", help="How many functions to show.")
@option("--sort", default="self", type=click.Choice(["self", "total"]), help="What to sort by.")
@json_option
@with_client
def command(*, client: "Client", selector: str, limit: int, sort: str, as_json: bool, **values: Any) -> None:
    """List the functions with the most samples: in themselves, and in all that they call.

    \b
    Examples:
      fleetflame top
      fleetflame top 'service="checkout"' --from -1h --sort total
      fleetflame top --no-kernel -n 100
    """
    from cli.output import Column, print_json, print_table

    params = [("query", selector), *view_params(values), ("limit", str(limit)), ("sort", sort)]
    answer = client.get_json("/api/v1/top", params)
    if as_json:
        print_json(answer)
        return
    samples = max(1, answer["samples"])
    rows = [
        (row["self"], f"{row['self'] / samples:.2%}", row["total"], f"{row['total'] / samples:.2%}", row["name"])
        for row in answer["rows"]
    ]
    columns = [
        Column("self", number=True),
        Column("self %", number=True),
        Column("total", number=True),
        Column("total %", number=True),
        Column("function"),
    ]
    print_table(columns, rows, empty="no samples")
    note_if_empty(client, selector, values)
    note_unknown_labels(client, values)
