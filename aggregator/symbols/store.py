"""Symbol tables on disk, by build ID, and the files they came from, by content.

    builds/AA/BUILDID.json            what names the build (records.Record)
    tables/AA/BUILDID.DIGEST.table    its table (tablefile)
    contents/AA/SHA256                the file itself, while the budget allows: it is parsed again by a newer parser
    refused.json                      contents that gave no table, and why
    new/                              work in progress; emptied at start

Every file appears under its name whole, by a rename. A name is made of hex that `BuildId` or SHA-256 printed, never of
text that came from outside. Blocking; safe to call from several threads. One process owns a folder.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.records import Kept, Record, Refusal, Verdict, from_json, judge, to_json, with_conflict
from aggregator.symbols.table import SymbolTable
from aggregator.symbols.tablefile import PARSER_VERSION, read_table
from fleetflame.buildid import BuildId
from fleetflame.errors import FleetflameError, cause_of
from fleetflame.model import Segment

log = logging.getLogger(__name__)

MAX_REFUSALS = 10_000
PASSING_FAULTS = frozenset({Fault.MEMORY, Fault.CPU, Fault.TIME, Fault.DISK})
PASSING_SECONDS = 24 * 3600.0
"""A content that took too much time or memory is tried again after a day: the machine may have been busy."""
TOUCH_SECONDS = 3600.0
"""How exactly the time of last use outlives a restart."""
OPEN_TABLES = 256
OPEN_COST = 128 << 20
"""Heap of open tables: the strings that were decoded. Columns are mapped and belong to the page cache."""
_COST_OF_TABLE, _COST_OF_TEXT = 16 << 10, 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A parsed content: files in `new/` that the store may move, and what is known of them."""

    build_id: BuildId
    path: str
    kept: Kept
    table: Path
    content: Path | None
    segments: tuple[Segment, ...] = ()


class SymbolStore:
    """The folder of one aggregator."""

    def __init__(self, folder: Path, *, budget: int, clock: Callable[[], float] = time.time) -> None:
        """Creates the folder if absent. Raises FleetflameError if it cannot be used."""
        self._folder = folder
        self._budget = budget
        self._clock = clock
        self._lock = threading.RLock()
        self._records: dict[BuildId, Record] = {}
        self._used: dict[BuildId, float] = {}
        self._touched: dict[BuildId, float] = {}
        self._open: OrderedDict[BuildId, tuple[str, SymbolTable]] = OrderedDict()
        self._refusals: OrderedDict[str, Refusal] = OrderedDict()
        try:
            shutil.rmtree(folder / "new", ignore_errors=True)
            for name in ("builds", "tables", "contents", "new"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FleetflameError(
                f"failed to use the symbols folder `{folder}`: {cause_of(error)}", hint="choose another with --symbols"
            ) from error
        self._load()

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder of one's own inside the store, for files that may be offered; removed at the end."""
        with tempfile.TemporaryDirectory(dir=self._folder / "new") as name:
            yield Path(name)

    def record(self, build_id: BuildId) -> Record | None:
        """What is kept of a build."""
        return self._records.get(build_id)

    def records(self) -> list[Record]:
        """All builds, by build ID."""
        with self._lock:
            return sorted(self._records.values(), key=lambda record: record.build_id)

    def used_bytes(self) -> int:
        """Bytes of tables and contents."""
        with self._lock:
            return sum(r.kept.table_bytes + r.kept.content_bytes for r in self._records.values())

    def table(self, build_id: BuildId) -> SymbolTable | None:
        """The build's table, from memory or mapped; None if there is none."""
        with self._lock:
            record = self._records.get(build_id)
            if record is None:
                return None
            self._used[build_id] = self._clock()
            known = self._open.get(build_id)
            if known is not None and known[0] == record.kept.digest:
                self._open.move_to_end(build_id)
                return known[1]
            try:
                table = read_table(self._table_path(record))
            except (OSError, SymbolFileError) as error:
                log.error("lost a symbol table", extra={"build_id": str(build_id), "error": str(error)})
                self._forget(record)
                return None
            self._touch(record)
            self._open[build_id] = (record.kept.digest, table)
            self._close_some()
            return table

    def used(self, build_id: BuildId) -> Record | None:
        """What is kept of a build, whose table is used for an answer without being looked at again."""
        with self._lock:
            record = self._records.get(build_id)
            if record is not None:
                self._used[build_id] = self._clock()
                self._touch(record)
            return record

    def add(self, offer: Offer) -> Verdict:
        """Takes an offer in, or not: `records.judge` has the rules. Raises SymbolFileError(DISK) on a full disk."""
        with self._lock:
            record = self._records.get(offer.build_id)
            verdict = judge(record, offer.kept)
            try:
                if verdict in (Verdict.TAKEN, Verdict.BETTER, Verdict.REPLACED):
                    self._take(offer, record)
                elif record is not None and verdict is Verdict.CONFLICT:
                    self._write(with_conflict(record, offer.kept))
                elif record is not None and offer.segments and not record.segments:
                    self._write(replace(record, segments=offer.segments))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise SymbolFileError(Fault.DISK, f"no room in `{self._folder}`: {cause_of(error)}") from error
                raise
            self._keep_budget(offer.build_id)
            return verdict

    def refusal(self, content: str) -> Refusal | None:
        """Why a content was refused before, if that still holds."""
        with self._lock:
            found = self._refusals.get(content)
            if found is None or found.parser != PARSER_VERSION:
                return None
            passed = found.fault in PASSING_FAULTS and self._clock() - found.at > PASSING_SECONDS
            return None if passed else found

    def refuse(self, content: str, fault: Fault, detail: str) -> None:
        """Remembers that a content gave no table."""
        with self._lock:
            self._refusals[content] = Refusal(fault=fault, detail=detail, parser=PARSER_VERSION, at=self._clock())
            self._refusals.move_to_end(content)
            while len(self._refusals) > MAX_REFUSALS:
                self._refusals.popitem(last=False)
            rows = {content: asdict(refusal) for content, refusal in self._refusals.items()}
            with contextlib.suppress(OSError):
                self._replace(self._folder / "refused.json", json.dumps(rows).encode())

    def content_path(self, content: str) -> Path:
        """Where the file of that SHA-256 is, if it is kept."""
        return self._folder / "contents" / content[:2] / content

    def outdated(self) -> list[Record]:
        """Builds whose table an older parser made and whose file is still there."""
        with self._lock:
            old = [record for record in self._records.values() if record.kept.parser != PARSER_VERSION]
        return [record for record in old if self.content_path(record.kept.content).exists()]

    def _take(self, offer: Offer, before: Record | None) -> None:
        kept = replace(offer.kept, content_bytes=0)
        if offer.content is not None:
            target = self.content_path(kept.content)
            target.parent.mkdir(exist_ok=True)
            offer.content.replace(target)
            kept = replace(kept, content_bytes=target.stat().st_size)
        elif self.content_path(kept.content).exists():
            kept = replace(kept, content_bytes=self.content_path(kept.content).stat().st_size)
        segments = offer.segments or (before.segments if before is not None else ())
        path = offer.path or (before.path if before is not None else "")
        record = Record(build_id=offer.build_id, path=path, kept=kept, segments=segments)
        if before is not None and before.kept.rank == kept.rank and not kept.pinned:
            record = replace(record, conflicts=before.conflicts)
        table = self._table_path(record)
        table.parent.mkdir(exist_ok=True)
        offer.table.replace(table)
        self._write(record)
        self._used[offer.build_id] = self._clock()
        if before is not None:
            self._remove_files(before, but=record)

    def _write(self, record: Record) -> None:
        path = self._record_path(record.build_id)
        path.parent.mkdir(exist_ok=True)
        self._replace(path, json.dumps(to_json(record)).encode())
        self._records[record.build_id] = record

    def _replace(self, path: Path, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self._folder / "new", delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)

    def _keep_budget(self, newest: BuildId) -> None:
        """Removes what was used longest ago: first files that were parsed already, then tables. Never the newest."""
        excess = self.used_bytes() - self._budget
        if excess <= 0:
            return
        oldest = sorted(self._records.values(), key=lambda record: self._used.get(record.build_id, 0.0))
        for record in oldest:
            if excess > 0 and record.kept.content_bytes and record.build_id != newest:
                self.content_path(record.kept.content).unlink(missing_ok=True)
                self._write(replace(record, kept=replace(record.kept, content_bytes=0)))
                excess -= record.kept.content_bytes
        for record in oldest:
            if excess > 0 and record.build_id != newest:
                excess -= record.kept.table_bytes
                self._forget(record)

    def _forget(self, record: Record) -> None:
        self._records.pop(record.build_id, None)
        self._open.pop(record.build_id, None)
        self._used.pop(record.build_id, None)
        self._record_path(record.build_id).unlink(missing_ok=True)
        self._remove_files(record, but=None)

    def _remove_files(self, record: Record, *, but: Record | None) -> None:
        if but is None or self._table_path(but) != self._table_path(record):
            self._table_path(record).unlink(missing_ok=True)
        content = record.kept.content
        if not any(other.kept.content == content for other in self._records.values()):
            self.content_path(content).unlink(missing_ok=True)

    def _close_some(self) -> None:
        cost = sum(_COST_OF_TABLE + _COST_OF_TEXT * len(table.texts) for _, table in self._open.values())
        while len(self._open) > 1 and (cost > OPEN_COST or len(self._open) > OPEN_TABLES):
            _, (_, table) = self._open.popitem(last=False)
            cost -= _COST_OF_TABLE + _COST_OF_TEXT * len(table.texts)

    def _touch(self, record: Record) -> None:
        now = self._clock()
        if now - self._touched.get(record.build_id, 0.0) > TOUCH_SECONDS:
            self._touched[record.build_id] = now
            with contextlib.suppress(OSError):
                os.utime(self._table_path(record), (now, now))

    def _record_path(self, build_id: BuildId) -> Path:
        name = str(build_id)
        return self._folder / "builds" / name[:2] / f"{name}.json"

    def _table_path(self, record: Record) -> Path:
        name = str(record.build_id)
        return self._folder / "tables" / name[:2] / f"{name}.{record.kept.digest[:16]}.table"

    def _load(self) -> None:
        for path in (self._folder / "builds").glob("??/*.json"):
            try:
                record = from_json(json.loads(path.read_bytes()))
                self._used[record.build_id] = self._table_path(record).stat().st_mtime
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.error("passed over a record of symbols", extra={"path": str(path), "error": str(error)})
                continue
            self._records[record.build_id] = record
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            rows: dict[str, dict[str, Any]] = json.loads((self._folder / "refused.json").read_bytes())
            for content, row in rows.items():
                self._refusals[content] = Refusal(**(row | {"fault": Fault(row["fault"])}))
        self._sweep()

    def _sweep(self) -> None:
        """Removes tables and files that no record speaks of: what a crash between two renames leaves behind."""
        tables = {self._table_path(record) for record in self._records.values()}
        contents = {self.content_path(record.kept.content) for record in self._records.values()}
        for path in (self._folder / "tables").glob("??/*"):
            if path not in tables:
                path.unlink(missing_ok=True)
        for path in (self._folder / "contents").glob("??/*"):
            if path not in contents:
                path.unlink(missing_ok=True)
