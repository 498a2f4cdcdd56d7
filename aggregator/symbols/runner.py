"""Runs the worker on one file and says what became of it. Never raises for what a file does: that is an answer.

Before a worker is started the headers are read here, in bounded time and memory, so that a bomb costs no process.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aggregator.symbols import elf as elf_file
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.sandbox import WorkerLimits
from aggregator.symbols.table import SymbolTable
from aggregator.symbols.tablefile import read_verified
from fleetflame.buildid import BuildId
from fleetflame.model import Segment

log = logging.getLogger(__name__)

MAX_ANSWER = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """What a file's headers say of it: its build ID, whether that is from a note of its own, its debug link."""

    build_id: BuildId
    own_note: bool
    debug_link: tuple[str, int] | None = None
    """Name of the debug file and its CRC-32, from `.gnu_debuglink`."""
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A file's table, made and verified, at the path that was asked for."""

    build_id: BuildId | None
    table: SymbolTable
    note: str = ""


def inspect(path: Path, limits: WorkerLimits) -> Inspected:
    """Reads the headers of an ELF file and refuses what would be too much. Raises SymbolFileError, OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.file_bytes:
            raise SymbolFileError(
                Fault.TOO_LARGE, f"the file has {size:,} bytes, more than the limit of {limits.file_bytes:,}"
            )
        elf = elf_file.open_elf(file)
        elf_file.check_sizes(elf, limit=limits.inflated_bytes + size)
        note = elf_file.build_id(elf)
        return Inspected(
            build_id=note or elf_file.file_identity(elf),
            own_note=note is not None,
            debug_link=elf_file.debug_link(elf),
            segments=elf_file.executable_segments(elf),
        )


async def parse(source: Path, target: Path, *, limits: WorkerLimits, module: str | None = None) -> Parsed:
    """Parses `source` in a worker and leaves its table at `target`. Raises SymbolFileError, OSError.

    An ELF file, or with `module` a kallsyms text: "" takes the kernel's own symbols, a name those of that module.
    """
    if module is None:
        await asyncio.to_thread(inspect, source, limits)
    with source.open("rb") as read, target.open("x+b") as write:
        job = {
            "input": read.fileno(),
            "output": write.fileno(),
            "kind": "elf" if module is None else "kallsyms",
            "module": module or "",
            "limits": asdict(limits),
        }
        answer = await _ask(job, (read.fileno(), write.fileno()), limits)
    if answer["open_ends"]:
        log.warning("the symbol worker is not wholly confined", extra={"missing": answer["open_ends"]})
    if answer["fault"]:
        raise SymbolFileError(Fault(answer["fault"]), str(answer["detail"])[:1000])
    table = await asyncio.to_thread(read_verified, target)
    build_id = BuildId.parse(answer["build_id"]) if answer["build_id"] else None
    return Parsed(build_id=build_id, table=table, note=str(answer["detail"])[:1000])


async def _ask(job: dict[str, Any], descriptors: tuple[int, ...], limits: WorkerLimits) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "aggregator.symbols.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=descriptors,
        env=_environment(),
    )
    late = False
    try:
        async with asyncio.timeout(limits.wall_seconds):
            out, err = await process.communicate(json.dumps(job).encode())
    except TimeoutError:
        late = True
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if late:
        raise SymbolFileError(Fault.TIME, f"parsing took longer than {limits.wall_seconds:g} s")
    if process.returncode != 0:
        raise _death(process.returncode or 0, err.decode("utf-8", "replace"))
    try:
        answer: dict[str, Any] = json.loads(out[:MAX_ANSWER])
        return {"fault": "", "detail": "", "build_id": "", "open_ends": ()} | answer
    except ValueError as error:
        raise SymbolFileError(Fault.BAD_RESULT, f"the worker's answer is unsound: {error}") from error


def _death(status: int, text: str) -> SymbolFileError:
    """What a worker died of."""
    last = (text.strip().splitlines() or [""])[-1][:300]
    if "memory allocation" in text or "MemoryError" in text:
        return SymbolFileError(Fault.MEMORY, "parsing takes more memory than the limit")
    if status == -signal.SIGXCPU:
        return SymbolFileError(Fault.CPU, "parsing takes more processor time than the limit")
    if status == -signal.SIGKILL:
        # The hard limit of processor time, or the kernel for want of memory.
        return SymbolFileError(Fault.MEMORY, "the worker was killed, most likely for want of memory")
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return SymbolFileError(Fault.CRASHED, f"the worker died: {how}: {last}")


def _environment() -> dict[str, str]:
    """The worker's environment: nothing that the aggregator keeps secret, one thread for linear algebra."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}
