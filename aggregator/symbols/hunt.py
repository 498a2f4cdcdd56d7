"""The search for one build: where symbol files may be, in which order.

A source is passed over once the build is named as well as that source could. Files:

    1. debug directories of this machine, by build ID
    2. the fleet's object store, lent or uploaded before
    3. the file itself, if this machine has it at that path
    4. the file itself, lent by a node that runs it
    5. the debug file that the file links to (3 or 4), by its CRC-32
    6. debuginfod servers

A kernel: 1, 2, then the names that a node which runs it lends; a module: only these.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from aggregator.symbols import local
from aggregator.symbols.debuginfod import Debuginfod
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.intake import Claim, Intake
from aggregator.symbols.lending import Lending, Lent
from aggregator.symbols.records import Source
from aggregator.symbols.refusals import Refusals
from aggregator.symbols.runner import inspect
from aggregator.symbols.sandbox import WorkerLimits
from aggregator.symbols.table import COMPLETE, Rank
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind

log = logging.getLogger(__name__)

SILENT_SECONDS = 60.0
KALLSYMS_FRESH = 600.0
"""How long a node's names are good for the modules that it has: it loads few after its start."""


@dataclass(slots=True, kw_only=True)
class Sources:
    """Where symbol files may be; what is None or empty is not asked."""

    debug_dirs: Sequence[Path] = ()
    lending: Lending | None = None
    debuginfod: Debuginfod | None = None
    local_files: bool = True
    clock: Callable[[], float] = time.monotonic
    refusals: Refusals = field(default_factory=Refusals)
    shared: dict[BuildId, set[str]] = field(default_factory=dict)
    """Keys in the object store, by build."""
    _kallsyms: dict[str, tuple[str, float]] = field(default_factory=dict)
    _silent: dict[str, float] = field(default_factory=dict)
    """Nodes that did not answer, and when they are asked again."""

    def is_silent(self, node: str) -> bool:
        """Whether `node` did not answer a short while ago."""
        return self.clock() < self._silent.get(node, 0.0)

    def did_not_answer(self, node: str) -> None:
        """Takes note of that: without a pause each build that it runs would wait for it."""
        self._silent[node] = self.clock() + SILENT_SECONDS

    def fresh_kallsyms(self, node: str) -> str | None:
        """The key of the names that `node` lent a short while ago."""
        key, at = self._kallsyms.get(node, ("", 0.0))
        return key if key and self.clock() - at < KALLSYMS_FRESH else None

    def lent_kallsyms(self, node: str, key: str) -> None:
        """Takes note that `node` lent its names under `key` just now."""
        self._kallsyms[node] = (key, self.clock())


@dataclass(slots=True)
class Hunt:
    """One search for one build. `faults` is what each source failed of."""

    intake: Intake
    sources: Sources
    build_id: BuildId
    mapping: Mapping
    faults: list[SymbolFileError] = field(default_factory=list)

    @property
    def rank(self) -> Rank | None:
        """How well the build is named by now."""
        record = self.intake.store.record(self.build_id)
        return None if record is None else record.kept.rank

    async def file(self, nodes: list[str]) -> None:
        """All sources of a file."""
        sources = self.sources
        await self._debug_dirs()
        if self.rank is not Rank.DWARF:
            await self._shared()
        if self.rank is None and sources.local_files and self.mapping.kind is MappingKind.FILE:
            await self._tried(self._local_file, self.mapping.path)
        for node in nodes:
            if self.rank is None and sources.lending is not None:
                await self._asked(node, self._lent)
        if self.rank not in COMPLETE and sources.debuginfod is not None:
            await self._tried(self._debuginfod, "debuginfod")

    async def kernel(self, nodes: list[str]) -> None:
        """All sources of a kernel or a module."""
        if self.mapping.kind is MappingKind.KERNEL:
            await self._debug_dirs()
            await self._shared()
        for node in nodes:
            if self.rank is None and self.sources.lending is not None:
                await self._asked(node, self._kallsyms)

    async def _asked(self, node: str, source: Callable[[str, Path], Awaitable[None]]) -> None:
        if self.sources.is_silent(node):
            self.faults.append(SymbolFileError(Fault.UNREACHABLE, f"node `{node}` did not answer a moment ago"))
            return
        known = len(self.faults)
        await self._tried(partial(source, node), f"node {node}")
        if any(error.fault is Fault.UNREACHABLE for error in self.faults[known:]):
            self.sources.did_not_answer(node)

    async def _tried(self, source: Callable[[Path], Awaitable[None]], name: str) -> None:
        """Runs one source with a folder to work in; what it fails of is a fault of this search."""
        with self.intake.store.workspace() as folder:
            try:
                await source(folder)
            except (SymbolFileError, OSError) as error:
                self._note(as_fault(error), name)

    def _note(self, error: SymbolFileError, source: str) -> None:
        self.faults.append(error)
        log.debug("no symbols", extra={"build_id": str(self.build_id), "source": source, "error": error.message})
        self.sources.refusals.note(error, about=str(self.build_id), source=source)

    async def _take(self, file: Path, folder: Path, source: Source, where: str, *, vouched: bool = False) -> None:
        claim = Claim(
            source=source,
            where=where,
            expected=self.build_id,
            path=self.mapping.path,
            segments=self.mapping.segments,
            vouched=vouched,
        )
        await self.intake.take(file, folder, claim)

    async def _debug_dirs(self) -> None:
        for path in local.by_build_id(self.sources.debug_dirs, self.build_id):
            if self.rank is not Rank.DWARF:
                await self._tried(partial(self._copied, path), str(path))

    async def _copied(self, path: Path, folder: Path, *, crc: int | None = None) -> None:
        """Takes in a debug file of this machine; one that a debug link leads to only with the right checksum."""
        copy = folder / "file"
        limit = self.intake.limits.file_bytes
        await asyncio.to_thread(local.copy_regular, path, copy, limit=limit)
        if crc is not None and await asyncio.to_thread(local.crc32_of, copy) != crc:
            raise SymbolFileError(Fault.NOT_FOUND, f"`{path}` has another checksum than the debug link")
        await self._take(copy, folder, Source.LOCAL, str(path), vouched=crc is not None)

    async def _local_file(self, folder: Path) -> None:
        copy = folder / "file"
        limits = self.intake.limits
        await asyncio.to_thread(_check_local, self.mapping.path, self.build_id, limits)
        await asyncio.to_thread(local.copy_regular, self.mapping.path, copy, limit=limits.file_bytes)
        await self._with_debug_link(copy, folder, Source.LOCAL, self.mapping.path)

    async def _lent(self, node: str, folder: Path) -> None:
        lending = self.sources.lending
        assert lending is not None
        lent = await lending.lend(node, self.build_id, self.mapping.path, folder)
        await self._with_debug_link(lent.file, folder, Source.NODE, node)

    async def _with_debug_link(self, file: Path, folder: Path, source: Source, where: str) -> None:
        """Takes in a binary, then the debug file that it links to."""
        seen = await asyncio.to_thread(inspect, file, self.intake.limits)
        try:
            await self._take(file, folder, source, where)
        except SymbolFileError as error:
            # A stripped binary may name nothing at all, and still say where its debug file is.
            if error.fault is not Fault.NO_SYMBOLS:
                raise
            self._note(error, where)
        if seen.build_id != self.build_id:
            return
        if seen.segments and not self.mapping.segments:
            # Nobody saw the file but the kernel: a debug file that comes later cannot say where offsets are.
            self.mapping = replace(self.mapping, segments=seen.segments)
        if seen.debug_link is None:
            return
        name, crc = seen.debug_link
        for path in local.by_debug_link(self.sources.debug_dirs, self.mapping.path, name):
            if self.rank is not Rank.DWARF:
                await self._tried(partial(self._copied, path, crc=crc), str(path))

    async def _shared(self) -> None:
        for key in sorted(self.sources.shared.get(self.build_id, ())):
            if self.sources.lending is not None and self.rank is not Rank.DWARF:
                await self._tried(partial(self._fetched, key), f"object {key}")

    async def _fetched(self, key: str, folder: Path) -> None:
        lending = self.sources.lending
        assert lending is not None
        try:
            lent = await lending.fetch(key, folder)
        except SymbolFileError:
            self.sources.shared.get(self.build_id, set()).discard(key)  # removed, or beyond what we take
            raise
        if key.endswith(".kallsyms"):
            await self._take_kallsyms(lent, folder, Source.SHARED)
        else:
            await self._take(lent.file, folder, Source.SHARED, lent.node or "upload")

    async def _kallsyms(self, node: str, folder: Path) -> None:
        lending = self.sources.lending
        assert lending is not None
        key = self.sources.fresh_kallsyms(node)
        kernel = self.build_id if self.mapping.kind is MappingKind.KERNEL else None
        if key is not None and kernel is None:
            lent = await lending.fetch(key, folder)
        else:
            lent = await lending.lend_kallsyms(node, kernel, folder)
            self.sources.lent_kallsyms(node, lent.key)
        await self._take_kallsyms(lent, folder, Source.NODE, node)

    async def _take_kallsyms(self, lent: Lent, folder: Path, source: Source, node: str = "") -> None:
        claim = Claim(source=source, where=node or lent.node, expected=self.build_id, path=self.mapping.path)
        await self.intake.take_kallsyms(lent.file, folder, self.mapping, claim)

    async def _debuginfod(self, folder: Path) -> None:
        debuginfod = self.sources.debuginfod
        assert debuginfod is not None
        file = folder / "file"
        url = await debuginfod.fetch(self.build_id, file)
        await self._take(file, folder, Source.DEBUGINFOD, url)


def as_fault(error: SymbolFileError | OSError) -> SymbolFileError:
    """The error as a typed one: of the operating system's, a full disk is told from the rest."""
    if isinstance(error, SymbolFileError):
        return error
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return SymbolFileError(Fault.DISK if full else Fault.UNREACHABLE, str(error))


def _check_local(path: str, build_id: BuildId, limits: WorkerLimits) -> None:
    """Refuses a local file of another build before it is copied. Raises SymbolFileError."""
    if not path.startswith("/") or not Path(path).is_file():
        raise SymbolFileError(Fault.NOT_FOUND, "not on this machine")
    try:
        seen = inspect(Path(path), limits)
    except (SymbolFileError, OSError) as error:
        # Nobody offered it: that something else lies at a path of another machine is no refusal.
        raise SymbolFileError(Fault.NOT_FOUND, f"failed to read `{path}`: {error}") from error
    if seen.build_id != build_id:
        raise SymbolFileError(Fault.NOT_FOUND, f"this machine has another build at `{path}`, {seen.build_id}")
