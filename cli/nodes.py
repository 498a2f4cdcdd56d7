"""`fleetflame nodes`: which hosts there are, and which have gone quiet."""

from typing import TYPE_CHECKING

import click

from cli.options import json_option, with_client

if TYPE_CHECKING:
    from cli.client import Client


@click.command()
@json_option
@with_client
def command(*, client: "Client", as_json: bool) -> None:
    """List the nodes that samples came from, and when each was last heard of.

    \b
    Examples:
      fleetflame nodes
      fleetflame nodes --json | jq -r '.nodes[].node'
    """
    from cli.output import Column, moment, print_json, print_table

    answer = client.get_json("/api/v1/nodes")
    if as_json:
        print_json(answer)
        return
    columns = [
        Column("node"),
        Column("samples", number=True),
        Column("lost", number=True),
        Column("Hz", number=True),
        Column("last seen"),
        Column("version"),
        Column("kernel"),
    ]
    rows = [
        [
            *(node["node"], node["stored"], node["lost"], node["frequency"] or "", moment(node["last_seen"])),
            *(node["version"], node["kernel"]),
        ]
        for node in answer["nodes"]
    ]
    print_table(columns, rows, empty="no node has sent samples yet")
