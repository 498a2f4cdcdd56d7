"""From a file on disk to a table in the store: whose file it is, whether it was seen before, worker and verdict."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aggregator import metrics
from aggregator.symbols.elf import sha256_of
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.records import Kept, Source, Verdict
from aggregator.symbols.runner import Inspected, Parsed, Worker, inspect, parse
from aggregator.symbols.sandbox import WorkerLimits
from aggregator.symbols.slots import with_slots_of, without_slots
from aggregator.symbols.store import Offer, SymbolStore
from aggregator.symbols.table import SymbolTable
from aggregator.symbols.tablefile import PARSER_VERSION, digest_of, write_table
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind, Segment

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is said about a file, as opposed to what the file says.

    `expected` is the build it is offered for, None for the one in its own note. `vouched` means that a file without a
    note is taken for that build all the same: its checksum was in the binary's debug link, or an operator says so.
    """

    source: Source
    where: str
    expected: BuildId | None = None
    path: str = ""
    segments: tuple[Segment, ...] = ()
    pinned: bool = False
    vouched: bool = False


@dataclass(slots=True)
class Intake:
    """Parses one file at a time: a second worker would take the memory of the first once more."""

    store: SymbolStore
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    clock: Callable[[], float] = time.time
    worker: Worker = field(default_factory=Worker)

    async def take(self, file: Path, workspace: Path, claim: Claim) -> Verdict:
        """Takes in the ELF file `file`, which lies in `workspace` and may be moved. Raises SymbolFileError."""
        seen = await asyncio.to_thread(inspect, file, self.limits)
        build_id = self.identify(seen, claim)
        content = await asyncio.to_thread(sha256_of, file)
        refusal = self.store.refusal(content)
        if refusal is not None:
            raise SymbolFileError(refusal.fault, f"{refusal.detail} (refused before)")
        record = self.store.record(build_id)
        known = record is not None and (record.kept.content, record.kept.parser) == (content, PARSER_VERSION)
        if record is not None and known and (record.kept.pinned or not claim.pinned):
            return Verdict.SAME
        parsed = await self._parse(file, workspace / "table", content)
        if parsed.build_id != seen.build_id:
            raise SymbolFileError(Fault.BAD_RESULT, f"the worker read another build ID, {parsed.build_id}")
        segments = parsed.table.segments or claim.segments
        return await self._offer(build_id, file, parsed, claim, (content, workspace / "table", segments))

    async def take_kallsyms(self, file: Path, workspace: Path, mapping: Mapping, claim: Claim) -> Verdict:
        """Takes in the kernel's or a module's names out of a text that a node lent. Raises SymbolFileError."""
        assert mapping.build_id is not None
        module = mapping.path if mapping.kind is MappingKind.MODULE else ""
        content = await asyncio.to_thread(sha256_of, file)
        parsed = await self._parse(file, workspace / "table", f"{content}.{module}", module=module)
        return await self._offer(mapping.build_id, None, parsed, claim, (content, workspace / "table", ()))

    def identify(self, seen: Inspected, claim: Claim) -> BuildId:
        """Which build the file belongs to. Raises SymbolFileError with both IDs if that is not the expected one."""
        if claim.expected is None:
            if not seen.own_note:
                raise SymbolFileError(
                    Fault.NO_BUILD_ID,
                    "the file has no build ID of its own",
                    hint="say with --build-id which build it belongs to",
                )
            return seen.build_id
        if seen.build_id == claim.expected or (claim.vouched and not seen.own_note):
            return claim.expected
        raise SymbolFileError(
            Fault.WRONG_BUILD_ID,
            f"the file has build ID {seen.build_id}, not the expected {claim.expected}",
        )

    async def _parse(self, file: Path, table: Path, content: str, module: str | None = None) -> Parsed:
        try:
            return await parse(file, table, limits=self.limits, module=module, worker=self.worker)
        except SymbolFileError as error:
            await asyncio.to_thread(self.store.refuse, content, error.fault, error.message)
            raise

    async def _offer(
        self,
        build_id: BuildId,
        content: Path | None,
        parsed: Parsed,
        claim: Claim,
        made: tuple[str, Path, tuple[Segment, ...]],
    ) -> Verdict:
        sha256, table, segments = made
        completed = await asyncio.to_thread(self._complete, build_id, parsed.table, table)
        kept = Kept(
            rank=completed.rank,
            content=sha256,
            digest=await asyncio.to_thread(lambda: digest_of(without_slots(completed))),
            source=claim.source,
            where=claim.where,
            functions=completed.functions,
            table_bytes=table.stat().st_size,
            content_bytes=0,
            added=self.clock(),
            pinned=claim.pinned,
            parser=PARSER_VERSION,
            note=parsed.note,
        )
        offer = Offer(build_id=build_id, path=claim.path, kept=kept, table=table, content=content, segments=segments)
        verdict = await asyncio.to_thread(self.store.add, offer)
        metrics.SYMBOL_FILES.labels(verdict).inc()
        about = {"build_id": str(build_id), "path": claim.path, "source": claim.source, "where": claim.where}
        log.log(
            _level(verdict, claim),
            "symbols %s",
            verdict,
            extra=about | {"rank": kept.rank.name.lower(), "note": parsed.note},
        )
        return verdict

    def _complete(self, build_id: BuildId, table: SymbolTable, file: Path) -> SymbolTable:
        """The table, and `file` with it, after it took over names of linkage slots from the one in use. Blocking."""
        known = self.store.table(build_id)
        completed = table if known is None else with_slots_of(table, known)
        if completed is not table:
            new = file.with_name(f"{file.name}.completed")
            try:
                with new.open("w+b") as target:
                    write_table(target, completed)
                new.replace(file)
            except OSError as error:
                raise SymbolFileError(Fault.DISK, f"failed to write a symbol table: {error.strerror}") from error
        return completed


def _level(verdict: Verdict, claim: Claim) -> int:
    """What a person gave is news; what was found by itself is summed up by who looked for it."""
    if verdict is Verdict.CONFLICT:
        return logging.WARNING
    return logging.INFO if claim.source is Source.UPLOAD else logging.DEBUG
