"""Runs the worker on one file and says what became of it. Never raises for what a file does: that is an answer.

Before a worker is started the headers are read here, in bounded time and memory, so that a bomb costs no process.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aggregator.symbols import elf as elf_file
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.jobs import MAX_MESSAGE, Job
from aggregator.symbols.sandbox import WorkerLimits
from aggregator.symbols.table import SymbolTable
from aggregator.symbols.tablefile import read_verified
from fleetflame.buildid import BuildId
from fleetflame.model import Segment

log = logging.getLogger(__name__)


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


class Worker:
    """The worker process of one event loop, started when it is first needed. One job at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._channel: socket.socket | None = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        """Ends the process; it is started anew when it is needed again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def ask(self, job: Job, descriptors: tuple[int, int]) -> dict[str, Any]:
        """What the worker says to the job. Raises SymbolFileError if it says nothing for too long, or nothing sound."""
        async with self._turn:
            try:
                async with asyncio.timeout(job.limits.wall_seconds):
                    channel = await self._send(json.dumps(asdict(job)).encode(), descriptors)
                    data = await asyncio.get_running_loop().sock_recv(channel, 2 * MAX_MESSAGE)
            except BaseException as error:
                # Late, cancelled or broken: the process may be in the middle of something. Its fork dies with it.
                await self.close()
                if isinstance(error, TimeoutError):
                    took = f"parsing took longer than {job.limits.wall_seconds:g} s"
                    raise SymbolFileError(Fault.TIME, took) from error
                raise
        return _answer(data)

    async def _send(self, message: bytes, descriptors: tuple[int, int]) -> socket.socket:
        for _ in range(2):
            channel = self._channel or await self._start()
            try:
                socket.send_fds(channel, [message], descriptors)
            except (BrokenPipeError, ConnectionResetError):
                await self.close()  # it had ended for want of work
            else:
                return channel
        raise SymbolFileError(Fault.CRASHED, "the worker process does not stay up")

    async def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._channel = ours
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "aggregator.symbols.worker",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=_environment(),
            )
        return ours


async def parse(
    source: Path, target: Path, *, limits: WorkerLimits, module: str | None = None, worker: Worker | None = None
) -> Parsed:
    """Parses `source` in a worker and leaves its table at `target`. Raises SymbolFileError, OSError.

    An ELF file, or with `module` a kallsyms text: "" takes the kernel's own symbols, a name those of that module.
    Without `worker` a process is started for this file alone.
    """
    if module is None:
        await asyncio.to_thread(inspect, source, limits)
    job = Job(kind="elf" if module is None else "kallsyms", module=module or "", limits=limits)
    used = worker or Worker()
    try:
        with source.open("rb") as read, target.open("x+b") as write:
            answer = await used.ask(job, (read.fileno(), write.fileno()))
    finally:
        if worker is None:
            await used.close()
    if answer["open_ends"]:
        log.warning("the symbol worker is not wholly confined", extra={"missing": answer["open_ends"]})
    if answer["fault"]:
        raise SymbolFileError(Fault(answer["fault"]), str(answer["detail"])[:1000])
    table = await asyncio.to_thread(read_verified, target)
    build_id = BuildId.parse(answer["build_id"]) if answer["build_id"] else None
    return Parsed(build_id=build_id, table=table, note=str(answer["detail"])[:1000])


def _answer(data: bytes) -> dict[str, Any]:
    """The fork's own answer out of the worker's. Raises SymbolFileError for what it died of."""
    try:
        about: dict[str, Any] = json.loads(data)
        if about["status"] != 0:
            raise _death(int(about["status"]), str(about["error"]))
        answer: dict[str, Any] = json.loads(about["answer"])
    except (ValueError, KeyError, TypeError) as error:
        raise SymbolFileError(Fault.BAD_RESULT, f"the worker's answer is unsound: {error}") from error
    return {"fault": "", "detail": "", "build_id": "", "open_ends": ()} | answer


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
    """The worker's environment: nothing that the aggregator keeps secret, one thread for linear algebra.

    A fork lives for one file: giving memory back to the kernel and asking for it again would take a tenth of its time.
    """
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    heap = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 31)}
    return kept | heap | {"OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}
