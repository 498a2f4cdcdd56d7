"""Hourly sums, so that a week is read as quickly as an hour. An explicit job, idempotent, which may run anywhere.

An hour is summed up when it is over, and again when late batches came. Each run writes its sums under a version of its
own and, when they are complete, a row in `hours` that makes that version the one to read, together with the number of
batches it was made from. Nothing is overwritten: a query that planned with the former version still finds it, for an
hour. Readers compare the number of batches with what the hour holds now (`select.py`), so that nobody has to be told of
late batches, and a job that dies half-way leaves nothing but rows that are never read and are removed later.

An hour in which a batch stands twice is not summed up until a merge has made it one: so a hour's number of batches can
be what it was only if nothing has changed.
"""

import logging
import time
from dataclasses import dataclass

import numpy as np

from aggregator import metrics
from aggregator.storage.engine import Engine
from aggregator.storage.native import Column
from aggregator.storage.tables import HOURS, SAMPLES, SAMPLES_HOUR
from aggregator.storage.types import DAY_S, HOUR_S

log = logging.getLogger(__name__)

CLOSED_AFTER_S = 120
"""How long after its end an hour is summed up: the last windows need some 12 s to arrive, and a redelivery 60 s."""
CLAIM_S = 600
"""For how long a job that has begun keeps others from the same hour; one hour takes seconds."""
KEEP_FORMER_S = 3600
"""How long a version that was replaced stays readable: longer than any query runs."""
MICRO = 10**6
_WAIT = "SETTINGS mutations_sync = 1"


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour whose sums are not in step."""

    start: int
    batches: int
    claimed: bool
    """Another job is at it."""


def stale_hours(engine: Engine, now: int, *, start: int = 0) -> list[Hour]:
    """Hours from `start` that are over and whose sums are missing or older than their batches, oldest first."""
    end = (now - CLOSED_AFTER_S) // HOUR_S * HOUR_S
    answer = engine.query(
        "SELECT toUInt64(hour) AS begin, present, claimed FROM"
        " (SELECT toStartOfHour(time) AS hour, count() AS present FROM samples"
        f" WHERE type = '' AND series = 0 AND time >= {start} AND time < {end} GROUP BY hour) AS r LEFT JOIN"
        " (SELECT hour, argMaxIf(batches, version, done) AS summed,"
        f" maxIf(version, NOT done) > greatest({(now - CLAIM_S) * MICRO}, maxIf(version, done)) AS claimed FROM hours"
        f" WHERE hour >= {start} AND hour < {end} GROUP BY hour) AS h USING hour"
        " WHERE summed != present ORDER BY begin"
    )
    columns = (answer.numbers("begin"), answer.numbers("present"), answer.numbers("claimed", "u1"))
    return [
        Hour(start, batches, bool(claimed))
        for start, batches, claimed in zip(*(c.tolist() for c in columns), strict=True)
    ]


def roll_hour(engine: Engine, hour: Hour) -> bool:
    """Sums `hour` up; False if that has to be tried again later. Raises StoreError."""
    within = f"time >= {hour.start} AND time < {hour.start + HOUR_S}"
    if _distinct_batches(engine, within) != hour.batches:
        # Doubled, or changed since it was looked at. Merging makes doubles one.
        day = time.strftime("%Y%m%d", time.gmtime(hour.start))
        engine.command(f"OPTIMIZE TABLE {engine.local(SAMPLES.name)} PARTITION ID '{day}' FINAL")
        return False
    version = time.time_ns() // 1000
    _note(engine, hour, version, done=False)
    engine.command(
        f"INSERT INTO {SAMPLES_HOUR.name} (type, series, hour, version, stack, count, value)"
        f" SELECT type, series, toDateTime({hour.start}, 'UTC'), {version}, stack, sum(count), sum(value)"
        f" FROM {SAMPLES.name} WHERE type != '' AND {within} GROUP BY type, series, stack"
    )
    if _distinct_batches(engine, within) != hour.batches:
        return False
    _note(engine, hour, version, done=True)
    metrics.ROLLED_HOURS.inc()
    return True


def roll_up(engine: Engine, now: int, *, limit: int = 48) -> int:
    """Sums up at most `limit` stale hours that nobody else is at; how many were. Raises StoreError."""
    stale = [hour for hour in stale_hours(engine, now) if not hour.claimed]
    rolled = sum(roll_hour(engine, hour) for hour in stale[:limit])
    if rolled:
        log.info("summed up hours", extra={"hours": rolled, "left": len(stale) - rolled})
    return rolled


def remove_former(engine: Engine, now: int) -> None:
    """Removes versions that nobody can read any more. Raises StoreError."""
    answer = engine.query(
        "SELECT toUInt64(hour) AS begin, version FROM hours AS a INNER JOIN"
        " (SELECT hour, maxIf(version, done) AS latest FROM hours GROUP BY hour) AS b USING hour"
        f" WHERE version < latest AND version < {(now - KEEP_FORMER_S) * MICRO} GROUP BY hour, version LIMIT 500"
    )
    pairs = list(zip(answer.numbers("begin").tolist(), answer.numbers("version").tolist(), strict=True))
    if not pairs:
        return
    which = " OR ".join(f"hour = {hour} AND version = {version}" for hour, version in pairs)
    for day in sorted({hour // DAY_S * DAY_S for hour, _ in pairs}):
        partition = time.strftime("%Y%m%d", time.gmtime(day))
        table = engine.local(SAMPLES_HOUR.name)
        engine.command(
            f"ALTER TABLE {table} DELETE IN PARTITION ID '{partition}' WHERE {which} SETTINGS mutations_sync = 1"
        )
    engine.command(f"ALTER TABLE {engine.local(HOURS.name)} DELETE WHERE {which} SETTINGS mutations_sync = 1")


def _distinct_batches(engine: Engine, within: str) -> int:
    """How many batches lie in the range; -1 if one of them stands twice."""
    answer = engine.query(
        "SELECT count() AS present, uniqExact(time, batch) AS distinct_ones FROM samples"
        f" WHERE type = '' AND series = 0 AND {within}"
    )
    present, distinct = int(answer["present"][0]), int(answer["distinct_ones"][0])
    return present if present == distinct else -1


def _note(engine: Engine, hour: Hour, version: int, *, done: bool) -> None:
    row = {"hour": hour.start, "version": version, "batches": hour.batches, "done": int(done)}
    engine.insert(HOURS.name, [Column(name, kind, np.array([row[name]])) for name, kind in HOURS.columns.items()])
