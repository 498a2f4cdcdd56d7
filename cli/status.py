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
    """Show the ledger, per node and in all. Exit code 1 if the books do not balance.

    taken = stored + lost + rejected + missing + in flight. Nothing may be missing.

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
    return 0 if answer["balances"] else 1


def _print(answer: dict[str, Any]) -> None:
    from cli.output import Column, note, print_table

    names = ("taken", "stored", "lost", "rejected", "missing", "in_flight")
    columns = [Column("node"), *(Column(name.replace("_", " "), number=True) for name in names), Column("books")]
    accounts = [*((node["node"], node) for node in answer["nodes"]), ("(all)", answer["total"])]
    rows = [[name, *(account[each] for each in names), _books(account)] for name, account in accounts]
    print_table(columns, rows if answer["nodes"] else [], empty="no node has sent samples yet")
    for title, key in (("lost", "lost_by_reason"), ("stored with a placeholder", "degraded_by_reason")):
        if reasons := answer["total"][key]:
            told = ", ".join(
                f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1])
            )
            note(f"{title}: {told}")


def _books(account: dict[str, Any]) -> str:
    return "balance" if account["balances"] else f"off by {account['difference']}"
