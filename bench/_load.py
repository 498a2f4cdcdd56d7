"""A made-up fleet's samples in a store of ours and in DuckDB, the same rows in both, by the hour.

Rows go in as the store's writer would leave them, by its own insert but without a message for each 200 rows; sums of
hours and days are made by the store's own job. A large fleet's time that no question reads in full has sums alone,
drawn as such; what stands for the same time in two tables was drawn twice.
"""

import sys
import time
from collections.abc import Iterable, Sequence
from itertools import count

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.storage import Store, ids, rollup, tables
from aggregator.storage.native import Column, Ragged, Runs, Values
from aggregator.storage.series import of_fleet
from aggregator.storage.types import DAY_S, HOUR_S
from aggregator.storage.writer import MAX_FRAMES, WEEK_S, week_of
from bench._fleet import PERIOD_NS, PROGRAMS, WINDOW_S, Nodes, Population, Rows

MILLION_NODES = 13
"""So many have a million rows an hour."""
SETTLE_S = 120
"""How long at most merges are waited for."""
_PERIOD = np.uint64(PERIOD_NS)
_U64 = NDArray[np.uint64]


def insert(store: Store, table: tables.Table, values: dict[str, Values]) -> None:
    """Rows into a table of the store."""
    store.engine.insert(table.name, [Column(name, kind, values[name]) for name, kind in table.columns.items()])


class Loader:
    """Fills a store, and DuckDB beside it. `totals` are the samples of each stack in each of `ranges`."""

    def __init__(
        self, store: Store, peer: duckdb.DuckDBPyConnection, nodes: Nodes, ranges: Iterable[tuple[int, int]]
    ) -> None:
        self.store = store
        self.peer = peer
        self.nodes = nodes
        self.totals = {span: np.zeros(len(nodes.population), np.uint64) for span in ranges}
        self.rows = 0
        self._versions = count(1)
        self._fleet = np.zeros(PROGRAMS, np.uint64)
        for node in range(nodes.count):
            self._fleet[nodes.programs(node)] = of_fleet(nodes.labels[node])
        peer.execute("CREATE TABLE samples (series UBIGINT, time UINTEGER, stack UBIGINT, n UBIGINT, value UBIGINT)")

    def refer(self, start: int, end: int) -> None:
        """What samples of [start, end) refer to: series, mappings, stacks."""
        labels = self.nodes.all_labels()
        series = np.array([ids.series_id(each) for each in labels], np.uint64)
        for day in range(start // DAY_S * DAY_S, end, DAY_S):
            values: dict[str, Values] = {
                "day": np.full(len(series), day),
                "series": series,
                "labels": [dict(each) for each in labels],
            }
            insert(self.store, tables.SERIES, values)
        for week in range(week_of(start), end, WEEK_S):
            _refer_week(self.store, self.nodes.population, week)

    def samples(self, start: int, end: int, *, read_by: Sequence[tuple[int, int]] = ()) -> None:
        """Every sample of [start, end), a million rows at a time at most; read by all ranges, unless it says which."""
        began, before = time.perf_counter(), self.rows
        step = HOUR_S if self.nodes.count <= MILLION_NODES else HOUR_S // 12
        for since in range(start // step * step, end, step):
            rows = self.nodes.sample(max(since, start), min(since + step, end))
            self._insert(rows)
            self._note(rows, read_by or tuple(self.totals))
            self.rows += len(rows.time)
        done = self.rows - before
        _say(f"{done / 1e6:.0f} M rows, {done / (time.perf_counter() - began) / 1e6:.1f} M/s")

    def markers(self, start: int, end: int) -> None:
        """That all windows of [start, end) are stored, without their samples: for time that is read as sums."""
        for since in range(start, end, DAY_S):
            windows = np.arange(since, min(since + DAY_S, end), WINDOW_S)
            node = np.repeat(np.arange(self.nodes.count), len(windows))
            none = np.zeros(0, np.uint64)
            at = np.tile(windows, self.nodes.count)
            self._insert(
                Rows(
                    none,
                    none.astype(np.uint32),
                    none.astype(np.int64),
                    none,
                    none,
                    at.astype(np.uint32),
                    (at * self.nodes.count + node).astype(np.uint64),
                    np.ones(len(at), np.uint64),
                )
            )

    def hour_sums(self, start: int, end: int) -> None:
        """Only the sums of the hours of [start, end)."""
        for hour in range(start, end, HOUR_S):
            self._sums(HOUR_S, hour)

    def day_sums(self, start: int, end: int) -> None:
        """Only the sums of the days of [start, end)."""
        for day in range(start, end, DAY_S):
            self._sums(DAY_S, day)

    def _sums(self, span: int, start: int) -> None:
        parts = list(self.nodes.sums(start, span))
        self._insert_sums(span, start, parts)
        for (since, until), total in self.totals.items():
            day = start // DAY_S * DAY_S
            # A question reads the longer sums where there are both.
            whole_day = since <= day and day + DAY_S <= until
            if since <= start and start + span <= until and (span == DAY_S or not whole_day):
                for _, stacks, counts in parts:
                    total[stacks] += counts

    def sum_up(self, start: int, end: int) -> None:
        """Makes the sums of what lies in [start, end), whose samples are there, as the store's job does."""
        for kind, span in [(each, span) for each in tables.ALL_SUMS for span in each.tables]:
            for at in range(-(-start // span) * span, end - span + 1, span):
                stale = rollup.Stale(kind, span, at, self.nodes.count * span // WINDOW_S)
                assert rollup.sum_up(self.store.engine, stale), f"no sums of {stale}"

    def roll_up(self, now: int) -> None:
        """The store's own job, until nothing is left to sum up."""
        while rollup.roll_up(self.store.engine, now, limit=1000):
            pass

    def settle(self) -> None:
        """Waits for merges, as in a store that has run for a while."""
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end:
            if not int(self.store.engine.query("SELECT count() AS n FROM system.merges")["n"][0]):
                return
            time.sleep(0.5)

    def _insert(self, rows: Rows) -> None:
        population = self.nodes.population
        stack = population.rows.ids[rows.stack]
        markers = np.zeros(len(rows.marker_time), np.uint64)
        values: dict[str, Values] = {
            "type": Runs(["cpu", ""], [len(rows.time), len(markers)]),
            "series": np.concatenate((rows.series, markers)),
            "time": np.concatenate((rows.time, rows.marker_time)),
            "stack": np.concatenate((stack, markers)),
            "batch": np.concatenate((rows.batch, rows.marker_batch)),
            "count": np.concatenate((rows.count, rows.marker_count)),
            "value": np.concatenate((rows.count * _PERIOD, markers)),
        }
        insert(self.store, tables.SAMPLES, values)
        columns = {"series": rows.series, "time": rows.time, "stack": stack, "n": rows.count}
        incoming = pa.table({**columns, "value": rows.count * _PERIOD})
        self.peer.register("incoming", incoming)
        self.peer.execute("INSERT INTO samples SELECT * FROM incoming")
        self.peer.unregister("incoming")

    def _note(self, rows: Rows, read_by: Sequence[tuple[int, int]]) -> None:
        for start, end in read_by:
            total = self.totals[start, end]
            inside = (rows.time >= start) & (rows.time < end)
            if inside.any():
                counted = np.bincount(rows.stack[inside], rows.count[inside].astype(np.float64), len(total))
                np.add(total, counted.astype(np.uint64), out=total)

    def _insert_sums(
        self, span: int, start: int, parts: list[tuple[int, NDArray[np.int64], NDArray[np.uint64]]]
    ) -> None:
        population = self.nodes.population
        stack = np.concatenate([stacks for _, stacks, _ in parts])
        node = np.repeat([node for node, _, _ in parts], [len(stacks) for _, stacks, _ in parts])
        counts = np.concatenate([counts for _, _, counts in parts])
        series = self.nodes.series[node, population.program[stack]]
        self._insert_version(tables.OF_SERIES, (span, start), (series, stack, counts))
        total = np.bincount(stack, counts.astype(np.float64), len(population)).astype(np.uint64)
        stack = np.flatnonzero(total)
        series = self._fleet[population.program[stack]]
        self._insert_version(tables.OF_FLEET, (span, start), (series, stack, total[stack]))

    def _insert_version(
        self, kind: tables.Sums, of: tuple[int, int], rows: tuple[_U64, NDArray[np.int64], _U64]
    ) -> None:
        (span, start), (series, stack, counts) = of, rows
        version = next(self._versions)
        values: dict[str, Values] = {
            "type": Runs(["cpu"], [len(stack)]),
            "series": series,
            "start": np.full(len(stack), start),
            "version": np.full(len(stack), version),
            "stack": self.nodes.population.rows.ids[stack],
            "count": counts,
            "value": counts * _PERIOD,
        }
        insert(self.store, kind.tables[span], values)
        batches = self.nodes.count * span // WINDOW_S
        of_sum = {"span": span, "start": start, "version": version, "batches": batches, "done": 1}
        insert(self.store, kind.rolled, {name: np.array([of_sum[name]]) for name in kind.rolled.columns})


def _refer_week(store: Store, population: Population, week: int) -> None:
    mappings = [image.mapping for image in population.images]
    segments = [mapping.segments for mapping in mappings]
    ends = np.cumsum([0, *map(len, segments)]).astype(np.uint64)
    flat = [segment for each in segments for segment in each]
    about: dict[str, Values] = {
        "week": np.full(len(mappings), week),
        "mapping": np.array([ids.mapping_id(mapping) for mapping in mappings], np.uint64),
        "kind": np.array([mapping.kind for mapping in mappings], np.uint8),
        "build_id": [str(mapping.build_id) for mapping in mappings],
        "path": [mapping.path for mapping in mappings],
        "seen": np.array([bool(each) for each in segments], np.uint8),
        "segment_offset": Ragged(ends, np.array([segment.offset for segment in flat], np.uint64)),
        "segment_vaddr": Ragged(ends, np.array([segment.vaddr for segment in flat], np.uint64)),
        "segment_size": Ragged(ends, np.array([segment.size for segment in flat], np.uint64)),
    }
    insert(store, tables.MAPPINGS, about)
    stacks = population.rows
    step = MAX_FRAMES // 64
    for at in range(0, len(stacks), step):
        part = ids.taken(stacks, np.arange(at, min(at + step, len(stacks))))
        values: dict[str, Values] = {
            "week": np.full(len(part), week),
            "stack": part.ids,
            "mapping": Ragged(part.offsets, part.mapping),
            "address": Ragged(part.offsets, part.address),
        }
        insert(store, tables.STACKS, values)


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
