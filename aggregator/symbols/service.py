"""The aggregator's symbols: look-up when somebody reads, a search in the background when a build is first seen.

Names are never stored with samples. A table that arrives later names what was sampled before.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from aggregator import metrics
from aggregator.symbols import local
from aggregator.symbols.debuginfod import Debuginfod, FetchLimits
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.fetcher import FILES, KERNELS, Fetcher
from aggregator.symbols.hunt import Sources
from aggregator.symbols.intake import Claim, Intake
from aggregator.symbols.lending import Client, Lending
from aggregator.symbols.records import Record, Source, Verdict
from aggregator.symbols.runner import inspect
from aggregator.symbols.sandbox import WorkerLimits
from aggregator.symbols.store import SymbolStore
from aggregator.symbols.table import Rank, Symbolized, SymbolTable, look_up, nothing
from fleetflame.buildid import BuildId
from fleetflame.errors import FleetflameError, UsageError, cause_of
from fleetflame.model import Mapping, MappingKind, Segment

log = logging.getLogger(__name__)

SEARCHES = 4
"""Builds looked for at once. Parsing is one at a time; the other searches wait for nodes and servers."""
LOST = np.uint64(0xFFFFFFFFFFFFFFFF)
"""An address that no table names: where an offset lies in no segment."""
NAMED_IN_MESSAGE = 5
"""Builds without symbols that a refused upload names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolConfig:
    """What the aggregator's configuration says of symbols."""

    folder: Path
    budget: int = 10 << 30
    debug_dirs: tuple[str, ...] = ("/usr/lib/debug",)
    debuginfod_urls: tuple[str, ...] = ()
    upload_bytes: int = 2 << 30
    local_files: bool = True
    """Whether a file that this machine has at the path where a node saw it is used, if it has the same build ID."""
    worker: WorkerLimits = field(default_factory=WorkerLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A build that was sampled and has no table, or only what it exports (`rank` DYNSYM)."""

    mapping: Mapping
    rank: Rank | None
    fault: Fault | None
    """What the last search ended with; None if there was none yet."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """What became of an upload."""

    record: Record
    verdict: Verdict
    seen: bool
    """Whether the fleet runs this build."""


def _nothing_seen() -> Sequence[Mapping]:
    return ()


class SymbolService:
    """One aggregator's symbols. `lookup` is blocking and may be called from any thread; the rest from one loop."""

    def __init__(
        self,
        config: SymbolConfig,
        *,
        client: Client | None = None,
        seen: Callable[[], Sequence[Mapping]] = _nothing_seen,
    ) -> None:
        """`client` is the bus, None for no lending; `seen` gives the builds of stored samples, blocking.

        Raises FleetflameError if the folder cannot be used.
        """
        self.config = config
        self.store = SymbolStore(config.folder, budget=config.budget)
        self.intake = Intake(self.store, config.worker)
        self._seen = seen
        self._lending = None if client is None else Lending(client, max_bytes=config.worker.file_bytes)
        urls = config.debuginfod_urls
        self.debuginfod = Debuginfod(urls, FetchLimits(size=config.worker.file_bytes)) if urls else None
        self.fetcher = Fetcher(
            self.store,
            self.intake,
            Sources(
                debug_dirs=[Path(folder) for folder in config.debug_dirs],
                lending=self._lending,
                debuginfod=self.debuginfod,
                local_files=config.local_files,
            ),
        )

        metrics.SYMBOLS_WANTED.set_function(self.fetcher.waiting)
        metrics.SYMBOL_BUILDS.set_function(lambda: len(self.store.records()))
        metrics.SYMBOL_BYTES.set_function(self.store.used_bytes)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """`run` for as long as the body takes; if `run` fails, the body is cancelled and the failure raised."""
        host = asyncio.current_task()
        assert host is not None, "a coroutine runs in a task"
        task = asyncio.create_task(self.run(), name="symbols")

        def stop_host(ended: asyncio.Task[None]) -> None:
            if not ended.cancelled():
                host.cancel()

        task.add_done_callback(stop_host)
        try:
            yield
        except asyncio.CancelledError:
            if not task.done() or task.cancelled():
                raise
            host.uncancel()  # it was us: what the search failed of is raised instead
        finally:
            task.remove_done_callback(stop_host)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def run(self) -> None:
        """Searches in the background, and keeps up with what others put into the object store, until cancelled."""
        async with contextlib.aclosing(self), asyncio.TaskGroup() as group:
            for _ in range(SEARCHES):
                group.create_task(self.fetcher.run())
            group.create_task(self._renew())
            if self._lending is not None:
                group.create_task(self._follow(self._lending))

    async def aclose(self) -> None:
        """Ends the worker process, which an upload or a search starts; it is started again when it is needed."""
        await self.intake.worker.close()

    def lookup(self, mapping: Mapping, addresses: NDArray[np.uint64]) -> Symbolized:
        """Names, inlined frames and lines at the addresses of a mapping, as `model.Mapping` counts them.

        Never searches and never fails: what is not known has no rows.
        """
        table = None if mapping.build_id is None else self.store.table(mapping.build_id)
        if table is None or not len(addresses):
            _count("without_table", len(addresses))
            return nothing(len(addresses))
        found = look_up(table, self._symbol_addresses(mapping, table, addresses))
        named = int(np.count_nonzero(found.offsets[1:] > found.offsets[:-1]))
        _count("named", named)
        _count("unnamed", len(addresses) - named)
        return found

    def version(self, mapping: Mapping) -> object:
        """What changes when `lookup` would answer otherwise for this mapping."""
        if mapping.build_id is None:
            return None
        record = self.store.used(mapping.build_id)
        return None if record is None else (record.kept.digest, record.kept.rank, record.segments)

    def want(self, mapping: Mapping, node: str) -> None:
        """Ingest saw this build on this node: if it is time, a table is looked for in the background."""
        self.fetcher.want(mapping, node)

    async def upload(
        self, file: Path, *, name: str, build_id: str = "", replace: bool = False, force: bool = False
    ) -> Uploaded:
        """Takes in a debug file or binary that an operator gives; `file` is copied, `name` is for people.

        It must belong to a build that the fleet runs, unless `force` says that the build is yet to come, and to
        `build_id` if that is given. With `replace` it is used from now on whatever else there is. Raises
        SymbolFileError for a file that is refused, UsageError for a malformed build ID.
        """
        expected = _parse_build_id(build_id)
        try:
            return await self._take_upload(file, name, expected, replace=replace, force=force)
        except SymbolFileError as error:
            self.fetcher.sources.refusals.note(error, about=build_id or name, source="upload")
            raise

    async def _take_upload(
        self, file: Path, name: str, expected: BuildId | None, *, replace: bool, force: bool
    ) -> Uploaded:
        with self.store.workspace() as folder:
            copy = folder / "file"
            await asyncio.to_thread(_copy, file, copy, self.config.upload_bytes)
            found = await asyncio.to_thread(inspect, copy, self.intake.limits)
            claim = Claim(source=Source.UPLOAD, where=name, expected=expected, pinned=replace, vouched=True)
            identity = self.intake.identify(found, claim)
            seen = await asyncio.to_thread(self._seen_mapping, identity)
            if seen is None and expected is None and not force:
                raise SymbolFileError(
                    Fault.WRONG_BUILD_ID,
                    f"`{name}` has build ID {identity}, which is not of a build that was sampled"
                    f"{await asyncio.to_thread(self._wanting, name)}",
                    hint=f"to keep it for a build that is yet to run, say so with --build-id {identity}",
                )
            claim = Claim(
                source=Source.UPLOAD,
                where=name,
                expected=identity,
                path=seen.path if seen is not None else "",
                segments=seen.segments if seen is not None else (),
                pinned=replace,
                vouched=True,
            )
            shared = folder / "copy"
            await asyncio.to_thread(_copy, copy, shared, self.config.upload_bytes)
            verdict = await self.intake.take(copy, folder, claim)
            record = self.store.record(identity)
            assert record is not None, "an intake that does not raise leaves a record"
            if verdict is Verdict.CONFLICT:
                raise SymbolFileError(
                    Fault.CONFLICT,
                    f"another file names build {identity} already, and differently ({record.kept.where})",
                    hint="give --replace to use this one from now on",
                )
            if verdict in (Verdict.TAKEN, Verdict.BETTER, Verdict.REPLACED):
                await self._share(shared, identity, claim.path or name)
        return Uploaded(record=record, verdict=verdict, seen=seen is not None)

    def list(self) -> tuple[Record, ...]:
        """What is kept, by build ID."""
        return tuple(self.store.records())

    def missing(self) -> tuple[Missing, ...]:
        """Builds that were sampled and have no table or a poor one, by path. Blocking."""
        wanted: dict[BuildId | None, Mapping] = {}
        for mapping in self._all_seen():
            # A process that was gone too soon had a build and no path; another one may have both.
            if mapping.kind in FILES | KERNELS and not getattr(wanted.get(mapping.build_id), "path", ""):
                wanted[mapping.build_id] = mapping
        found = []
        for build_id, mapping in wanted.items():
            if build_id is None:
                continue
            record = self.store.record(build_id)
            if record is None or record.kept.rank is Rank.DYNSYM:
                attempt = self.fetcher.attempts.get(build_id)
                fault, detail = (attempt.fault, attempt.detail) if attempt is not None else (None, "")
                rank = None if record is None else record.kept.rank
                found.append(Missing(mapping=mapping, rank=rank, fault=fault, detail=detail))
        return tuple(sorted(found, key=lambda missing: (missing.mapping.path, str(missing.mapping.build_id))))

    def _symbol_addresses(
        self, mapping: Mapping, table: SymbolTable, addresses: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """What the table calls these addresses; LOST for those that it cannot have."""
        if mapping.kind in FILES:
            record = None if mapping.build_id is None else self.store.record(mapping.build_id)
            known = record.segments if record is not None else ()
            return in_segments(mapping.segments or known or table.segments, addresses)
        if table.text_start is not None and mapping.kind is MappingKind.KERNEL:
            return addresses + np.uint64(table.text_start)
        return addresses if table.rank is Rank.KALLSYMS else np.full(len(addresses), LOST)

    def _all_seen(self) -> Sequence[Mapping]:
        recent = [attempt.mapping for attempt in list(self.fetcher.attempts.values())]
        return [*recent, *self._seen()]

    def _seen_mapping(self, build_id: BuildId) -> Mapping | None:
        """A mapping of that build among those sampled, one with segments if there is."""
        found = [mapping for mapping in self._all_seen() if mapping.build_id == build_id]
        return max(found, key=lambda mapping: len(mapping.segments), default=None)

    def _wanting(self, name: str) -> str:
        """Builds without symbols, as the end of a sentence: those that a file called `name` may be meant for first."""
        stem = PurePosixPath(name).name.removesuffix(".debug")
        missing = [m.mapping for m in self.missing() if m.mapping.kind is MappingKind.FILE]
        if not missing:
            return ""
        missing.sort(key=lambda m: (PurePosixPath(m.path).name != stem, not m.path))
        some = ", ".join(f"{m.build_id} (`{m.path or 'path unknown'}`)" for m in missing[:NAMED_IN_MESSAGE])
        more = f" and {len(missing) - NAMED_IN_MESSAGE} more" if len(missing) > NAMED_IN_MESSAGE else ""
        return f"; without symbols are {some}{more}"

    async def _share(self, file: Path, build_id: BuildId, path: str) -> None:
        if self._lending is None:
            return
        try:
            self.fetcher.learn(await self._lending.share(file, build_id, path=path))
        except SymbolFileError as error:
            # Here it is in use already; the other aggregators get it when somebody uploads it again.
            log.warning("an upload was not shared", extra={"build_id": str(build_id), "error": error.message})

    async def _follow(self, lending: Lending) -> None:
        """Learns of objects in the store, for as long as the bus is there."""
        told = ""
        while True:
            try:
                async for key in lending.keys():
                    build_id = self.fetcher.learn(key)
                    attempt = self.fetcher.attempts.get(build_id) if build_id is not None else None
                    if attempt is not None:
                        self.fetcher.want(attempt.mapping, "")
            except SymbolFileError as error:
                level = logging.DEBUG if error.message == told else logging.WARNING
                log.log(level, "not following the symbol store", extra={"error": error.message})
                told = error.message
            await asyncio.sleep(10.0)

    async def _renew(self) -> None:
        """Parses anew what an older version of the parser left."""
        for record in self.store.outdated():
            with self.store.workspace() as folder:
                copy = folder / "file"
                claim = Claim(
                    source=record.kept.source,
                    where=record.kept.where,
                    expected=record.build_id,
                    path=record.path,
                    segments=record.segments,
                    pinned=record.kept.pinned,
                    vouched=True,
                )
                source = self.store.content_path(record.kept.content)
                try:
                    await asyncio.to_thread(_copy, source, copy, self.intake.limits.file_bytes)
                    await self.intake.take(copy, folder, claim)
                except SymbolFileError as error:
                    self.fetcher.sources.refusals.note(error, about=str(record.build_id), source=str(source))
                except (FleetflameError, OSError) as error:
                    log.debug("not parsed anew", extra={"build_id": str(record.build_id), "error": str(error)})


def _count(result: str, addresses: int) -> None:
    metrics.SYMBOL_ADDRESSES.labels(result).inc(addresses)


def in_segments(segments: tuple[Segment, ...], offsets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """ELF virtual addresses of file offsets; LOST where no segment holds the offset."""
    found = np.full(len(offsets), LOST)
    for segment in segments:
        start, size = np.uint64(segment.offset), np.uint64(segment.size)
        held = (offsets >= start) & (offsets - start < size)
        found[held] = offsets[held] - start + np.uint64(segment.vaddr)
    return found


def _parse_build_id(text: str) -> BuildId | None:
    try:
        return BuildId.parse(text) if text else None
    except ValueError as error:
        raise UsageError(str(error), hint="a build ID is hex, as `readelf -n FILE` prints it") from error


def _copy(source: Path, target: Path, limit: int) -> None:
    """A copy of a file that stays. Raises SymbolFileError, FleetflameError."""
    try:
        local.copy_regular(source, target, limit=limit)
    except OSError as error:
        raise FleetflameError(f"failed to copy `{source}`: {cause_of(error)}") from error
