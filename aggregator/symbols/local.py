"""Debug files on the aggregator's own disks. Blocking.

    DIR/.build-id/AB/CDEF....debug           by build ID, as distributions install them
    beside the binary, in .debug/ there,     by the binary's debug link, checked by its CRC-32
      and in DIR/<the binary's folder>/

Files are copied before they are looked into: nobody promises that they do not change. A path that came from a node is
only ever opened as a regular file, and what it holds is used only if it has the build ID that was asked for.
"""

import os
import shutil
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from aggregator.symbols.faults import Fault, SymbolFileError
from fleetflame.buildid import BuildId

_CHUNK = 1 << 20


def by_build_id(folders: Sequence[Path], build_id: BuildId) -> Iterator[Path]:
    """Where distributions put the debug file of a build; only paths that exist."""
    name = str(build_id)
    for folder in folders:
        path = folder / ".build-id" / name[:2] / f"{name[2:]}.debug"
        if path.is_file():
            yield path


def by_debug_link(folders: Sequence[Path], binary: str, name: str) -> Iterator[Path]:
    """Where a debug link `name` in the file `binary` (an absolute path) may lead; only paths that exist."""
    if not binary.startswith("/") or "\0" in binary + name or "/" in name:
        return
    home = Path(os.path.normpath(binary)).parent
    candidates = [home / name, home / ".debug" / name]
    candidates += [folder / home.relative_to("/") / name for folder in folders]
    for path in candidates:
        if str(path) != binary and path.is_file():
            yield path


def copy_regular(path: str | Path, target: Path, *, limit: int) -> None:
    """Copies a regular file of at most `limit` bytes. Raises SymbolFileError(NOT_FOUND, TOO_LARGE).

    O_NONBLOCK and the check of the type: a path from outside may be a FIFO that nobody writes to, or a device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise SymbolFileError(Fault.NOT_FOUND, f"failed to open `{path}`: {error}") from error
    with os.fdopen(descriptor, "rb") as source:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise SymbolFileError(Fault.NOT_FOUND, f"`{path}` is not a regular file")
        if about.st_size > limit:
            raise SymbolFileError(Fault.TOO_LARGE, f"`{path}` has {about.st_size:,} bytes, the limit is {limit:,}")
        with target.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)


def crc32_of(path: Path) -> int:
    """CRC-32 of a whole file, as a debug link has it."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
