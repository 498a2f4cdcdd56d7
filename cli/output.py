"""What the verbs print: tables for people on a terminal, tab-separated lines in a pipe, files, JSON.

Everything that comes from a profiled machine passes through `clean` first, so that a label value or a symbol cannot
send control sequences to the terminal.
"""

import codecs
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fleetflame.errors import FleetflameError, UsageError, cause_of

SHORT_BUILD_ID = 16
"""Digits of a build ID that tables on a terminal show: enough to tell builds apart and for `diff --build`."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: `number` aligns to the right; a terminal shows the first `short` characters, if not 0."""

    title: str
    number: bool = False
    short: int = 0


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def colour_wanted() -> bool:
    """Whether colours may be used at all (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(text: object) -> str:
    """`text` in one line, with what is not printable replaced."""
    return "".join(char if char.isprintable() else "�" for char in str(text))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table on a terminal, or `empty` if there are no rows; in a pipe a header and rows, separated by tabs."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if not is_terminal():
        click.echo("\t".join(column.title.replace(" ", "_") for column in columns))
        for row in cells:
            click.echo("\t".join(row))
    elif not cells:
        click.echo(empty)
    else:
        _print_rich(columns, cells)


def _print_rich(columns: Sequence[Column], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.number else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(cell[: column.short] if column.short else cell) for column, cell in zip(columns, row, strict=True))
        )
    Console(no_color=not colour_wanted(), highlight=False).print(table)


def moment(text: str) -> str:
    """A time of the API: how long ago it is on a terminal, unchanged in a pipe."""
    if not text or not is_terminal():
        return text
    from datetime import UTC, datetime

    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def print_json(value: Any) -> None:
    """`value` as JSON, indented."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """A line for the person at the terminal, on standard error so that it never mixes with data."""
    click.echo(f"fleetflame: {clean(message)}", err=True)


def write_chunks(chunks: Iterable[bytes], target: str, *, binary: bool = False) -> int:
    """Writes to the file `target`, or to standard output if it is "" or `-`; returns the bytes written.

    A file appears whole or not at all. Raises UsageError rather than write `binary` to a terminal.
    """
    if target and target != "-":
        return _write_file(chunks, Path(target))
    if binary and is_terminal():
        raise UsageError("this format is binary and the output is a terminal", hint="add `-o FILE`")
    stream = sys.stdout.buffer
    written = 0
    for chunk in _harmless(chunks) if is_terminal() else chunks:
        written += stream.write(chunk)
    stream.flush()
    return written


def _harmless(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The text with every control character but line breaks and tabs replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for chunk in chunks:
        yield "".join(char if char.isprintable() or char in "\n\t" else "�" for char in decoder.decode(chunk)).encode()


def _write_file(chunks: Iterable[bytes], path: Path) -> int:
    # /dev/stdout, a FIFO: nothing to rename over.
    in_place = path.exists() and not path.is_file()
    part = path if in_place else path.with_name(f".{path.name}.part{os.getpid()}")
    try:
        with part.open("wb") as stream:
            written = sum(stream.write(chunk) for chunk in chunks)
        if not in_place:
            part.replace(path)
    except OSError as error:
        raise FleetflameError(f"failed to write `{path}`: {cause_of(error)}") from None
    finally:
        if not in_place:
            part.unlink(missing_ok=True)
    return written
