"""`fleetflame status`: what became of every sample."""

from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option, with_client

if TYPE_CHECKING:
    from cli.client import Client


@click.command()
@json_option
@with_client
def command(*, client: "Client", as_json: bool) -> int:
    """Show the ledger, per node and in all: taken = stored + lost. Exit code 1 if it does not balance.

    \b
    Examples:
      fleetflame status
      fleetflame status --json | jq .total
    """
    from cli.output import print_json

    answer = client.get_json("/api/v1/status")
    if as_json:
        print_json(answer)
    else:
        _print(answer)
    return 0 if answer["balanced"] else 1


def _print(answer: dict[str, Any]) -> None:
    from cli.output import Column, print_table

    names = ("taken", "stored", "lost", "rejected", "missing")
    columns = [Column("node"), *(Column(name, number=True) for name in names), Column("balance")]
    rows = [_row(name, names, node) for name, node in ((node["node"], node) for node in answer["nodes"])]
    print_table(columns, [*rows, _row("all", names, answer["total"])], empty="no samples yet")


def _row(name: str, names: tuple[str, ...], sums: dict[str, Any]) -> list[object]:
    return [name, *(sums.get(each, 0) for each in names), "ok" if sums["balanced"] else f"off by {sums['difference']}"]
