"""Progress of long work: big queries, uploads, imports. On a terminal; nothing anywhere else."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

CHUNK_BYTES = 1 << 18


@contextmanager
def tracked(source: IO[bytes], size: int | None, *, doing: str) -> Iterator[Iterator[bytes]]:
    """Pieces of `source`, with a bar on standard error while they are taken if that is a terminal."""
    pieces = iter(lambda: source.read(CHUNK_BYTES), b"")
    if not sys.stderr.isatty():
        yield pieces
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from cli.output import colour_wanted

    console = Console(stderr=True, no_color=not colour_wanted())
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(doing, total=size)

        def counted() -> Iterator[bytes]:
            for piece in pieces:
                yield piece
                progress.advance(task, len(piece))

        yield counted()


def awaited(chunks: Iterable[bytes], *, doing: str) -> Iterator[bytes]:
    """`chunks`, with a spinner on standard error until the first one comes, if that is a terminal."""
    pieces = iter(chunks)
    if not sys.stderr.isatty():
        yield from pieces
        return
    from rich.console import Console

    from cli.output import colour_wanted

    with Console(stderr=True, no_color=not colour_wanted()).status(doing):
        first = next(pieces, b"")
    yield first
    yield from pieces
