"""What is too old, or too much, goes: whole partitions, oldest first, counted and logged.

    age      raw samples after `raw_days`, their sums of ten minutes a little later, other sums after `rolled_days`
    budget   when the data take more than `disk_bytes`: the oldest raw day with its ten minutes, until only today is
             left; then the oldest day of other sums. Today's samples are never dropped for it
    after    stacks, mappings and names go when nothing that is left can refer to them

A raw day is summed up before it goes. The day up to which samples are gone is noted first: batches older than that are
refused from then on, so that what was dropped does not come back in pieces.
"""

import calendar
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aggregator import metrics
from aggregator.storage import rollup, schema
from aggregator.storage.engine import Engine
from aggregator.storage.tables import ALL_SUMS, FLEET_TEN, SAMPLES, TABLES, Keep, Table
from aggregator.storage.types import BRIEF_DAYS, DAY_S, StorageOptions, Usage

log = logging.getLogger(__name__)

WEEK_S = 7 * DAY_S
DROPPED_UNTIL = "dropped_until"
BY_NAME = {table.name: table for table in TABLES}
WITH_SAMPLES = (SAMPLES, *(table for kind in ALL_SUMS for table in kind.tables.values()))
MONTHLY = frozenset(kind.rolled.name for kind in ALL_SUMS)
WEEKLY = frozenset(table.name for table in TABLES if table.time == "week")


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition on disk."""

    table: Table
    id: str
    rows: int
    bytes: int

    @property
    def start(self) -> int:
        """Unix seconds of its first moment; 0 if it has none."""
        return (
            calendar.timegm(time.strptime(self.id.ljust(8, "0").replace("00", "01"), "%Y%m%d"))
            if self.id.isdigit()
            else 0
        )


def partitions(engine: Engine) -> list[Partition]:
    """All partitions of the tables, replaced parts that are not removed yet included."""
    answer = engine.query(
        "SELECT table AS name, partition_id AS id, sumIf(rows, active) AS r, sum(bytes_on_disk) AS b FROM system.parts"
        " WHERE database = currentDatabase() GROUP BY name, id ORDER BY name, id"
    )
    rows = zip(
        (name.removesuffix("_local") for name in answer.strings("name")),
        answer.strings("id"),
        answer.numbers("r").tolist(),
        answer.numbers("b").tolist(),
        strict=True,
    )
    return [Partition(BY_NAME[name], part, count, size) for name, part, count, size in rows if name in BY_NAME]


def usage(engine: Engine) -> Usage:
    """What the data take."""
    found = partitions(engine)
    raw = sorted(part.id for part in found if part.table is SAMPLES and part.rows)
    return Usage(
        bytes_on_disk=sum(part.bytes for part in found),
        rows=sum(part.rows for part in found if part.table is SAMPLES),
        oldest=min((part.start for part in found if part.table is SAMPLES and part.rows), default=0),
        days=tuple(raw),
    )


def drop_old(engine: Engine, options: StorageOptions, now: int, note: Callable[[int], None]) -> None:
    """Drops what is older than the options allow; `note` hears the second before which samples are gone."""
    today = now // DAY_S * DAY_S
    ages = {Keep.RAW: options.raw_days, Keep.ROLLED: options.rolled_days, Keep.BRIEF: BRIEF_DAYS}
    doomed = []
    for part in partitions(engine):
        age = ages.get(part.table.keep)
        # Stacks of a week may be referred to until the end of the next one, and are as old as their youngest then.
        slack = {"week": 2 * WEEK_S}.get(part.table.time, 32 * DAY_S if part.table.name in MONTHLY else DAY_S)
        if age is not None and part.start and part.start + slack <= today - (age + part.table.longer) * DAY_S:
            doomed.append(part)
    # Samples before their sums, so that nobody reads a sum that is gone.
    _drop(engine, sorted(doomed, key=lambda part: part.table is not SAMPLES), "age", note)


def drop_beyond_budget(engine: Engine, options: StorageOptions, now: int, note: Callable[[int], None]) -> None:
    """Drops the oldest days until the data fit into the budget, if there is one."""
    if not options.disk_bytes:
        return
    found = partitions(engine)
    excess = sum(part.bytes for part in found) - options.disk_bytes
    if excess <= 0:
        return
    today = now // DAY_S * DAY_S
    days = [part for part in found if part.table in WITH_SAMPLES and part.rows and part.start < today]
    doomed = []
    for part in sorted(days, key=_order):
        if excess <= 0:
            break
        doomed.append(part)
        excess -= part.bytes
    if excess > 0:
        log.warning("the data exceed their budget and nothing older than today is left", extra={"excess_bytes": excess})
    _drop(engine, doomed, "budget", note)
    _drop(engine, _unreferred(partitions(engine)), "budget", note)


def _order(part: Partition) -> tuple[bool, str, bool]:
    """Days of samples, each with the ten minutes that are of no use without it; then days of sums."""
    return part.table not in (SAMPLES, FLEET_TEN), part.id, part.table is not SAMPLES


def _unreferred(found: Iterable[Partition]) -> list[Partition]:
    found = list(found)
    starts = [part.start for part in found if part.table in WITH_SAMPLES and part.rows]
    oldest = min(starts, default=0)
    return [part for part in found if part.table.name in WEEKLY and part.start + 2 * WEEK_S <= oldest]


def _drop(engine: Engine, doomed: Iterable[Partition], why: str, note: Callable[[int], None]) -> None:
    for part in doomed:
        if part.table is SAMPLES:
            if part.rows:
                _sum_up(engine, part.start)
            schema.write_state(engine, DROPPED_UNTIL, part.start + DAY_S)
            note(part.start + DAY_S)
        engine.command(f"ALTER TABLE {engine.local(part.table.name)} DROP PARTITION ID '{part.id}'")
        if part.rows:
            metrics.DROPPED_DAYS.labels(why).inc(part.table is SAMPLES)
            metrics.DROPPED_ROWS.labels(why).inc(part.rows)
            about = {"table": part.table.name, "partition": part.id, "rows": part.rows, "bytes": part.bytes, "why": why}
            log.info("dropped old data", extra=about)


def _sum_up(engine: Engine, day: int) -> None:
    """Brings the sums of a day that is about to go in step, as far as that is possible."""
    for kind, span in [(each, span) for each in ALL_SUMS for span in each.tables]:
        for _ in range(2):  # the second time after doubles were merged
            for stale in rollup.find_stale(engine, kind, span, day + 2 * DAY_S, start=day):
                if stale.start < day + DAY_S:
                    rollup.sum_up(engine, stale)
