"""Batches into tables: all of a batch or nothing, and never twice.

The rows of a batch and one **marker** row, (type "", series 0, window start, stack 0, batch id), go in together, in one
block of one partition, which the engine makes visible and durable as one part. So a batch is in the store exactly if
its marker is, and `known` is one look-up by primary key. What samples refer to is inserted before them, the ledger's
row after them: a crash in between leaves rows that nothing refers to, or a marker without a ledger row, which the
message's redelivery adds.

Two aggregators that store the same message at the same time both find no marker and insert equal rows. Those stand
twice until the engine merges them; readers see two equal markers and take each row once (`select.py`).
"""

import threading
from collections.abc import Sequence

import numpy as np

from aggregator.storage import ids, tables
from aggregator.storage.accept import MISS, NOT_RECEIVED
from aggregator.storage.engine import Engine, hex_set
from aggregator.storage.known import KnownIds
from aggregator.storage.native import Column, Ragged, Runs, Values
from aggregator.storage.types import DAY_S, TEN_S, AcceptedBatch, BatchId, StackRows, Stored
from fleetflame.model import Labels, Mapping, NamedFrame

WEEK_S = 7 * DAY_S
_MONDAY_S = 4 * DAY_S
"""1970-01-05, the first Monday: weeks count from there."""

MAX_ROWS = 1 << 19
"""Rows of one insert. Bounds its memory (50 MB of blocks), and keeps it below the engine's own limit for one block."""

MAX_FRAMES = 1 << 20
"""Frames of one insert of stacks: 16 MB of block, and some 100 MB while the engine sorts and compresses it."""

KNOWN_STACKS = 1 << 21
KNOWN_OTHERS = 1 << 17


class Writer:
    """Stores batches. Thread-safe: one `store` at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._stacks = KnownIds(KNOWN_STACKS)
        self._series = KnownIds(KNOWN_OTHERS)
        self._mappings = KnownIds(KNOWN_OTHERS)
        self._named = KnownIds(KNOWN_OTHERS)
        self.mappings_stored = 0
        """How many rows went into `mappings`: what is remembered of them is out of date when it changes."""

    def store(self, batches: Sequence[AcceptedBatch]) -> Stored:
        """Stores those that are not in the store; durable when it returns. Raises StoreError: then call it again."""
        with self._lock:
            known = known_batches(self._engine, batches)
            fresh = list({batch.id: batch for batch in batches if batch.id not in known}.values())
            rows = 0
            for group in _groups(fresh):
                self._store_referred(group)
                rows += self._store_samples(group)
            self._store_ledger(self._without_ledger(batches, known) + fresh)
            return Stored(batches=len(fresh), rows=rows, duplicates=len(batches) - len(fresh))

    def _store_samples(self, batches: Sequence[AcceptedBatch]) -> int:
        sizes = np.array([len(batch.sample_stack) for batch in batches])
        total = int(sizes.sum())
        count = np.concatenate([batch.sample_count for batch in batches]).astype(np.uint64)
        period = np.array([batch.period_ns for batch in batches], np.uint64)
        marker_count = [int(batch.sample_count.sum()) for batch in batches]
        batch_ids = np.array([batch.id for batch in batches], np.uint64)
        times = np.array([batch.time for batch in batches], np.uint32)
        zeros = np.zeros(len(batches), np.uint64)
        values: dict[str, Values] = {
            "type": Runs([*(batch.type for batch in batches), ""], [*sizes.tolist(), len(batches)]),
            "series": np.concatenate([*(batch.series_ids[batch.sample_series] for batch in batches), zeros]),
            "time": np.concatenate([np.repeat(times, sizes), times]),
            "stack": np.concatenate([*(batch.sample_stack for batch in batches), zeros]),
            "batch": np.concatenate([np.repeat(batch_ids, sizes), batch_ids]),
            "count": np.concatenate([count, np.array(marker_count, np.uint64)]),
            "value": np.concatenate([count * np.repeat(period, sizes), zeros]),
        }
        _insert(self._engine, tables.SAMPLES, values)
        return total

    def _store_referred(self, batches: Sequence[AcceptedBatch]) -> None:
        """Series, mappings, names, frames and numbers that samples of `batches` refer to."""
        by_day: dict[int, dict[int, Labels]] = {}
        mappings: dict[int, set[Mapping]] = {}
        named: dict[int, set[NamedFrame]] = {}
        stacks: dict[int, list[StackRows]] = {}
        for batch in batches:
            day, week = batch.time // DAY_S * DAY_S, week_of(batch.time)
            by_day.setdefault(day, {}).update(zip(batch.series_ids.tolist(), batch.series, strict=True))
            mappings.setdefault(week, set()).update(batch.mappings)
            named.setdefault(week, set()).update(batch.named)
            stacks.setdefault(week, []).append(batch.stacks)
            if batch.placeholders:
                stacks[week].append(NOT_RECEIVED)
                mappings[week].add(MISS)
        for day, series in by_day.items():
            self._store_series(day, series)
        for week, seen in mappings.items():
            self._store_mappings(week, sorted(seen))
        for week, frames in named.items():
            self._store_named(week, sorted(frames))
        for week, parts in stacks.items():
            self._store_stacks(week, ids.concatenated(parts))
        self._store_numbers([batch for batch in batches if len(batch.stacks)])

    def _store_series(self, day: int, series: dict[int, Labels]) -> None:
        keys = np.fromiter(series, np.uint64, len(series))
        fresh = self._series.unknown(keys ^ np.uint64(day))
        labels = list(series.values())
        values: dict[str, Values] = {
            "day": np.full(len(fresh), day),
            "series": keys[fresh],
            "labels": [dict(labels[row]) for row in fresh.tolist()],
        }
        _insert(self._engine, tables.SERIES, values)
        self._series.add(keys[fresh] ^ np.uint64(day))

    def _store_mappings(self, week: int, mappings: Sequence[Mapping]) -> None:
        keys = np.array([hash(mapping) & 0xFFFF_FFFF_FFFF_FFFF for mapping in mappings], np.uint64) ^ np.uint64(week)
        fresh = self._mappings.unknown(keys)
        chosen = [mappings[row] for row in fresh.tolist()]
        segments = [mapping.segments for mapping in chosen]
        values: dict[str, Values] = {
            "week": np.full(len(chosen), week),
            "mapping": np.array([ids.mapping_id(mapping) for mapping in chosen], np.uint64),
            "kind": np.array([mapping.kind for mapping in chosen], np.uint8),
            "build_id": [str(mapping.build_id or "") for mapping in chosen],
            "path": [mapping.path for mapping in chosen],
            "seen": np.array([bool(mapping.segments) for mapping in chosen], np.uint8),
            "segment_offset": _ragged([[segment.offset for segment in row] for row in segments]),
            "segment_vaddr": _ragged([[segment.vaddr for segment in row] for row in segments]),
            "segment_size": _ragged([[segment.size for segment in row] for row in segments]),
        }
        _insert(self._engine, tables.MAPPINGS, values)
        self._mappings.add(keys[fresh])
        self.mappings_stored += len(fresh)

    def _store_named(self, week: int, frames: Sequence[NamedFrame]) -> None:
        keys = np.array([ids.named_id(frame) for frame in frames], np.uint64)
        fresh = self._named.unknown(keys ^ np.uint64(week))
        chosen = [frames[row] for row in fresh.tolist()]
        values: dict[str, Values] = {
            "week": np.full(len(chosen), week),
            "named": keys[fresh],
            "name": [frame.name for frame in chosen],
            "file": [frame.file for frame in chosen],
            "line": np.array([frame.line for frame in chosen], np.uint64),
        }
        _insert(self._engine, tables.NAMED, values)
        self._named.add(keys[fresh] ^ np.uint64(week))

    def _store_stacks(self, week: int, stacks: StackRows) -> None:
        fresh = self._stacks.unknown(stacks.ids ^ np.uint64(week))
        ends = np.cumsum((stacks.offsets[1:] - stacks.offsets[:-1])[fresh])
        for rows in np.split(fresh, np.searchsorted(ends, np.arange(MAX_FRAMES, int(ends.max(initial=0)), MAX_FRAMES))):
            chosen = ids.taken(stacks, rows)
            values: dict[str, Values] = {
                "week": np.full(len(chosen), week),
                "stack": chosen.ids,
                "mapping": Ragged(chosen.offsets, chosen.mapping),
                "address": Ragged(chosen.offsets, chosen.address),
            }
            _insert(self._engine, tables.STACKS, values)
            self._stacks.add(chosen.ids ^ np.uint64(week))

    def _store_numbers(self, batches: Sequence[AcceptedBatch]) -> None:
        values: dict[str, Values] = {
            "time": np.array([batch.time for batch in batches]),
            "node": [batch.node for batch in batches],
            "epoch": [batch.epoch.hex() for batch in batches],
            "dictionary": np.array([batch.dictionary for batch in batches]),
            "first": np.array([batch.first_number for batch in batches]),
            "stacks": _ragged([batch.stacks.ids.tolist() for batch in batches]),
        }
        _insert(self._engine, tables.NUMBERS, values)

    def _store_ledger(self, batches: Sequence[AcceptedBatch]) -> None:
        ledgers = [batch.ledger for batch in batches]
        values: dict[str, Values] = {
            "node": [batch.node for batch in batches],
            "epoch": [batch.epoch.hex() for batch in batches],
            "sequence": np.array([batch.sequence for batch in batches], np.uint64),
            "batch": np.array([batch.id for batch in batches], np.uint64),
            "time": np.array([batch.time for batch in batches], np.uint32),
            "taken": np.array([ledger.taken for ledger in ledgers], np.uint64),
            "stored": np.array([int(batch.sample_count.sum()) for batch in batches], np.uint64),
            "lost": [dict(ledger.lost) for ledger in ledgers],
            "degraded": [dict(ledger.degraded) for ledger in ledgers],
            "taken_in_epoch": np.array([ledger.taken_in_epoch for ledger in ledgers], np.uint64),
            "period_ns": np.array([batch.period_ns for batch in batches], np.uint64),
            "received": np.array([batch.received for batch in batches], np.uint32),
        }
        _insert(self._engine, tables.LEDGER, values)

    def _without_ledger(self, batches: Sequence[AcceptedBatch], known: set[BatchId]) -> list[AcceptedBatch]:
        """Batches whose samples were stored, but the writer ended before it noted that."""
        if not known:
            return []
        keys = np.fromiter(known, np.uint64, len(known))
        times = ", ".join(str(time) for time in sorted({batch.time for batch in batches}))
        found = self._engine.query(f"SELECT batch FROM ledger WHERE time IN ({times}) AND batch IN {hex_set(keys)}")
        noted = set(found.numbers("batch").tolist())
        missing = {batch.id: batch for batch in batches if batch.id in known and batch.id not in noted}
        return list(missing.values())


def known_batches(engine: Engine, batches: Sequence[AcceptedBatch]) -> set[BatchId]:
    """Those of `batches` whose samples are in the store."""
    if not batches:
        return set()
    keys = np.array([batch.id for batch in batches], np.uint64)
    times = ", ".join(str(time) for time in sorted({batch.time for batch in batches}))
    tens = ", ".join(str(ten) for ten in sorted({batch.time // TEN_S * TEN_S for batch in batches}))
    where = (
        f"type = '' AND toStartOfTenMinutes(time) IN ({tens}) AND series = 0 AND time IN ({times})"
        f" AND batch IN {hex_set(keys)}"
    )
    found = engine.query(f"SELECT DISTINCT batch FROM samples WHERE {where}")
    return {BatchId(key) for key in found.numbers("batch").tolist()}


def week_of(time: int) -> int:
    """The Monday, 00:00 UTC, of the week that `time` lies in."""
    return (time - _MONDAY_S) // WEEK_S * WEEK_S + _MONDAY_S


def _groups(batches: Sequence[AcceptedBatch]) -> list[list[AcceptedBatch]]:
    groups: list[list[AcceptedBatch]] = []
    rows = 0
    for batch in batches:
        if not groups or rows + len(batch.sample_stack) > MAX_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(batch)
        rows += len(batch.sample_stack)
    return groups


def _ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    ends = np.cumsum([0, *(len(row) for row in rows)], dtype=np.uint64)
    return Ragged(ends, np.array([value for row in rows for value in row], np.uint64))


def _insert(engine: Engine, table: tables.Table, values: dict[str, Values]) -> None:
    engine.insert(table.name, [Column(name, kind, values[name]) for name, kind in table.columns.items()])
