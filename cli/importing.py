"""`fleetflame import`: profiles that other tools took, stored beside our own."""

import sys
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import option, with_client
from fleetflame.errors import FleetflameError, UsageError

if TYPE_CHECKING:
    from cli.client import Client


@click.command()
@click.argument("file")
@option(
    "--label",
    "labels",
    envvar="FLEETFLAME_IMPORT_LABEL",
    multiple=True,
    metavar="K=V",
    help="Label to store the samples with; repeatable. `node` is `import` if not given.",
)
@option(
    "--format",
    "format_name",
    envvar="FLEETFLAME_IMPORT_FORMAT",
    default="auto",
    type=click.Choice(["auto", "folded", "pprof"]),
    help="auto: by the file's content.",
)
@option(
    "--type", "kind", envvar="FLEETFLAME_IMPORT_TYPE", default="cpu", metavar="TYPE", help="Profile type to store as."
)
@option(
    "--time",
    "moment",
    envvar="FLEETFLAME_IMPORT_TIME",
    default="",
    metavar="T",
    show_default="the file's, else now",
    help="When the samples were taken.",
)
@option(
    "--frequency",
    default=99,
    type=click.IntRange(1, 1_000_000),
    metavar="HZ",
    help="Samples per second that folded text was taken with; pprof says it itself.",
)
@with_client
def command(*, client: "Client", file: str, labels: tuple[str, ...], **values: Any) -> None:
    """Store the profile in FILE, folded text or pprof; `-` is standard input.

    \b
    Examples:
      perf script | stackcollapse-perf.pl | fleetflame import - --label service=checkout
      fleetflame import cpu.pb.gz --label service=checkout --label build=v1.2
    """
    from cli.output import note
    from cli.progress import tracked

    for label in labels:
        if "=" not in label:
            raise UsageError(f"not a label: `{label}`", hint="write --label NAME=VALUE")
    params = [
        ("format", values["format_name"]),
        ("type", values["kind"]),
        ("frequency", str(values["frequency"])),
        *(("label", label) for label in labels),
    ]
    if values["moment"]:
        params.append(("time", values["moment"]))
    with ExitStack() as stack:
        if file == "-":
            source, size = sys.stdin.buffer, None
        else:
            try:
                source = stack.enter_context(Path(file).open("rb"))
            except OSError as error:
                raise FleetflameError(f"failed to read `{file}`: {(error.strerror or '').lower()}") from None
            size = Path(file).stat().st_size
        chunks = stack.enter_context(tracked(source, size, doing="importing"))
        first = next(chunks, b"")
        if not first:
            raise UsageError(f"`{file}` is empty" if size == 0 else "standard input is empty")
        chunks = chain([first], chunks)
        answer = client.send("/api/v1/import", params, chunks, size=size)
    already = " (it was stored before)" if answer["stored_before"] else ""
    note(f"imported {answer['samples']} samples of {answer['stacks']} stacks at {answer['from']}{already}")
    if answer["bad_lines"]:
        first = answer["faults"][0]
        told = f"line {first['line']}: {first['reason']}"
        note(f"{answer['bad_lines']} of {answer['lines']} lines could not be read; the first: {told}")
