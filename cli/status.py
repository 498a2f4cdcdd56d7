"""`fleetflame status`: what became of every sample."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option, with_client

if TYPE_CHECKING:
    from cli.client import Client

SOME_NODES = 3
"""How many nodes a note names."""


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
    for line in _notes(answer):
        note(line)


def _notes(answer: dict[str, Any]) -> Iterator[str]:
    """What the table has no column for, a line each."""
    total, nodes = answer["total"], answer["nodes"]
    if total["lost_by_reason"]:
        yield f"lost: {_told(total['lost_by_reason'])}"
    if total["degraded_by_reason"]:
        yield f"stored with a placeholder: {_told(total['degraded_by_reason'])}"
    if total["rejected_messages_by_reason"]:
        where = [node["node"] for node in nodes if node["rejected_messages_by_reason"]]
        more = f" and {len(where) - SOME_NODES} more" if len(where) > SOME_NODES else ""
        told = _told(total["rejected_messages_by_reason"])
        yield f"rejected messages: {told} (from {', '.join(where[:SOME_NODES])}{more}; see docs/troubleshooting.md)"
    restarted = [node["agent_starts"] for node in nodes if node["agent_starts"] > 1]
    if restarted:
        times, agents = sum(restarted), "1 agent" if len(restarted) == 1 else f"{len(restarted)} agents"
        yield f"{agents} started {times} times: what one had not sent when it was killed is in no count"
    if total["missing"]:
        yield "missing: in batches that were made and never arrived (see docs/troubleshooting.md)"


def _told(reasons: dict[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason} {count}" for reason, count in ordered)


def _books(account: dict[str, Any]) -> str:
    return "balance" if account["balances"] else f"off by {account['difference']}"
