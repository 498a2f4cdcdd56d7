"""`fleetflame builds`: which builds of which files samples refer to."""

from typing import TYPE_CHECKING

import click

from cli.options import json_option, with_client

if TYPE_CHECKING:
    from cli.client import Client


@click.command()
@json_option
@with_client
def command(*, client: "Client", as_json: bool) -> None:
    """List builds of executables, libraries, kernels and modules, with the symbols there are for each.

    \b
    Examples:
      fleetflame builds
      fleetflame builds | grep nginx
    """
    from cli.output import SHORT_BUILD_ID, Column, print_json, print_table

    answer = client.get_json("/api/v1/builds")
    if as_json:
        print_json(answer)
        return
    columns = [
        Column("build ID", short=SHORT_BUILD_ID),
        Column("kind"),
        Column("symbols"),
        Column("in the week of"),
        Column("path"),
    ]
    names = ("build_id", "kind", "symbols", "seen_in_week_of", "path")
    rows = [[build.get(name, "") for name in names] for build in answer["builds"]]
    print_table(columns, rows, empty="no builds are known yet")
