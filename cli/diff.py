"""`fleetflame diff`: what changed between two selections, two times or two builds."""

from typing import TYPE_CHECKING, Any

import click

from cli.options import option, time_options, with_client
from cli.query import BINARY, choose_format, note_unknown_labels, samples_of, view_params, why_nothing_matches
from fleetflame.errors import UsageError

if TYPE_CHECKING:
    from cli.client import Client, Params

FORMATS = ("table", "folded", "svg", "html", "json")


@click.command()
@click.argument("before")
@click.argument("after", default="")
@time_options
@option("--baseline-from", default="", metavar="T", help="Start of the time range of what to compare with.")
@option("--baseline-until", default="", metavar="T", help="End of the time range of what to compare with.")
@option(
    "--build",
    "builds",
    envvar="FLEETFLAME_DIFF_BUILD",
    multiple=True,
    metavar="BUILD_ID",
    help="Compare two builds of what BEFORE selects: give it twice, the older one first.",
)
@option("--by", multiple=True, metavar="LABEL", help="Keep the values of this label apart, as root frames; repeatable.")
@option("--kernel/--no-kernel", default=True, help="Whether to show kernel frames.")
@option(
    "--format",
    "format_name",
    envvar="FLEETFLAME_DIFF_FORMAT",
    type=click.Choice(FORMATS),
    default=None,
    help="Default: by the file's name; else table on a terminal and folded in a pipe.",
)
@option("-o", "--output", default="", metavar="FILE", help="Write to FILE instead of standard output.")
@with_client
def command(*, client: "Client", before: str, after: str, output: str, format_name: str | None, **values: Any) -> None:
    """Show what takes a larger (red) or smaller (blue) share of AFTER than of BEFORE.

    With one selector, --baseline-from and --baseline-until or two --build say what to compare with what.

    \b
    Examples:
      fleetflame diff 'service="checkout",node="web-1"' 'service="checkout",node="web-2"'
      fleetflame diff 'service="checkout"' --from -1h --baseline-from now-25h --baseline-until now-24h -o diff.svg
      fleetflame diff 'service="checkout"' --build 3f9c01ab --build 77ae12cd --from -7d
    """
    from cli.output import write_chunks
    from cli.progress import awaited

    chosen = choose_format(format_name, output)
    params = [*_sides(before, after, values), *view_params(values), ("format", chosen)]
    answer = awaited(client.stream("/api/v1/diff", params), doing="asking the aggregator")
    write_chunks(answer, output, binary=chosen in BINARY)
    _note_empty_sides(client, before, after or before, values)
    note_unknown_labels(client, values)


def _sides(before: str, after: str, values: dict[str, Any]) -> "Params":
    """Parameters for the two sides. Raises UsageError unless they differ in exactly one of the three ways."""
    times = [(name, values[name]) for name in ("baseline_from", "baseline_until") if values[name]]
    builds = values["builds"]
    if builds and len(builds) != 2:
        raise UsageError(f"--build is given {len(builds)} times", hint="give it twice, the older build first")
    if not after and not times and not builds:
        raise UsageError(
            "there is nothing to compare with",
            hint="give a second selector, or --baseline-from and --baseline-until, or --build twice",
        )
    sides = [("baseline", before), ("query", after or before), *times]
    return [*sides, ("baseline_build", builds[0]), ("build", builds[1])] if builds else sides


def _note_empty_sides(client: "Client", before: str, after: str, values: dict[str, Any]) -> None:
    """Says on standard error which side has no samples: all of the other one then looks new, or gone."""
    from cli.output import note

    samples = samples_of(client)
    builds = values["builds"] or ("", "")
    for side, selector, build in (("before", before, builds[0]), ("after", after, builds[1])):
        if samples.get(side) == 0:
            of_build = f" of build `{build}`" if build else ""
            why = why_nothing_matches(client, selector, values)
            note(f"no samples on the side {side}: `{selector}`{of_build} ({why})")
