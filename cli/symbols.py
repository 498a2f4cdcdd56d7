"""`fleetflame symbols`: debug files that the aggregator has, lacks and is given."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option, option, with_client
from fleetflame.errors import FleetflameError, cause_of

if TYPE_CHECKING:
    from cli.client import Client


@click.group()
def command() -> None:
    """List, upload and look for symbols of builds."""


@command.command("list")
@json_option
@with_client
def list_(*, client: "Client", as_json: bool) -> None:
    """List the builds that have symbols, and where these came from.

    \b
    Examples:
      fleetflame symbols list
      fleetflame symbols list --json
    """
    _show(client, as_json=as_json, missing=False)


@command.command()
@json_option
@with_client
def missing(*, client: "Client", as_json: bool) -> None:
    """List the builds that were sampled and have no symbols, and why.

    \b
    Examples:
      fleetflame symbols missing
    """
    _show(client, as_json=as_json, missing=True)


@command.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@option("--build-id", default="", metavar="ID", help="Refuse a file of another build; this one may be yet to run.")
@option("--replace", is_flag=True, help="Use the file whatever else there is for its build.")
@option("--force", is_flag=True, help="Take files of builds that were never sampled.")
@with_client
def upload(*, client: "Client", paths: tuple[Path, ...], **values: Any) -> int:
    """Give the aggregator ELF files with symbols: executables, libraries, or separate debug files.

    A file's build ID is read from the file. Profiles that were taken before get the names as well.

    \b
    Examples:
      fleetflame symbols upload ./build/checkout
      fleetflame symbols upload /usr/lib/debug/.build-id/3f/*.debug
    """
    code = 0
    for path in paths:
        try:
            answer = _upload(client, path, values)
        except FleetflameError as error:
            code = max(code, error.exit_code)
            click.echo(f"fleetflame: {_about(path, error)}", err=True)
            continue
        click.echo(f"{answer['build_id']}\t{answer['verdict']}\t{answer['quality']}\t{path}")
    return code


def _about(path: Path, error: FleetflameError) -> str:
    """The message, with the file's name before it unless it is there, and the hint after it."""
    named = error.message if f"`{path}`" in error.message else f"`{path}`: {error.message}"
    return f"{named} ({error.hint})" if error.hint else named


def _upload(client: "Client", path: Path, values: dict[str, Any]) -> dict[str, Any]:
    from cli.progress import tracked

    given = [(name, values[name]) for name in ("build_id", "replace", "force") if values[name]]
    params = [("name", path.name), *((name, "true" if value is True else value) for name, value in given)]
    try:
        with path.open("rb") as source:
            size = path.stat().st_size
            if not size:
                raise FleetflameError(f"`{path}` is empty", hint="was it copied whole?")
            with tracked(source, size, doing=f"uploading {path.name}") as chunks:
                answer: dict[str, Any] = client.send("/api/v1/symbols", params, chunks, size=size)
    except OSError as error:
        raise FleetflameError(f"failed to read `{path}`: {cause_of(error)}") from None
    return answer


def _show(client: "Client", *, as_json: bool, missing: bool) -> None:
    from cli.output import SHORT_BUILD_ID, Column, print_json, print_table
    from cli.params import human_size

    answer = client.get_json("/api/v1/symbols", [("missing", "true")] if missing else ())
    if as_json:
        print_json(answer)
        return
    if missing:
        columns = [Column("build ID", short=SHORT_BUILD_ID), Column("symbols"), Column("reason"), Column("path")]
        rows = [[row["build_id"], row["quality"], row["reason"], row["path"]] for row in answer["missing"]]
        print_table(columns, rows, empty="every sampled build has symbols")
        return
    columns = [
        Column("build ID", short=SHORT_BUILD_ID),
        Column("symbols"),
        Column("functions", number=True),
        Column("size", number=True),
        Column("source"),
        Column("path"),
    ]
    rows = [
        [
            row["build_id"],
            row["quality"],
            row["functions"],
            human_size(row["bytes"]),
            row["source"],
            row["path"] or row["where"],
        ]
        for row in answer["symbols"]
    ]
    print_table(columns, rows, empty="no symbols yet")
