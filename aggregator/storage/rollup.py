"""Sums of hours and days, so that a week is read as quickly as an hour. An explicit job, idempotent, run anywhere.

An hour is summed up when it is over, a day from its hours, and both again when late batches came. Each run writes its
sums under a version of its own and, when they are complete, a row in `rolled` that makes that version the one to read,
together with the number of batches it was made from. Nothing is overwritten: a query that planned with the former
version still finds it, for an hour. Readers compare the number of batches with what is there now (`select.py`), so that
nobody has to be told of late batches, and a job that dies half-way leaves nothing but rows that are never read and are
removed later.

Where a batch stands twice nothing is summed up until a merge has made it one: so the number of batches can be what it
was only if nothing has changed.
"""

import logging
import time
from dataclasses import dataclass

import numpy as np

from aggregator import metrics
from aggregator.storage import select
from aggregator.storage.engine import Engine
from aggregator.storage.native import Column
from aggregator.storage.tables import ROLLED, SAMPLES, SUMS
from aggregator.storage.types import DAY_S, HOUR_S

log = logging.getLogger(__name__)

CLOSED_AFTER_S = 120
"""How long after its end an hour is summed up: the last windows need some 12 s to arrive, and a redelivery 60 s."""
CLAIM_S = 600
"""For how long a job that has begun keeps others from the same sum; one takes seconds."""
KEEP_FORMER_S = 3600
"""How long a version that was replaced stays readable: longer than any query runs."""
MICRO = 10**6
_WAIT = "SETTINGS mutations_sync = 1"


@dataclass(frozen=True, slots=True)
class Stale:
    """An hour or a day whose sums are not in step."""

    span: int
    start: int
    batches: int
    """How many it holds now."""

    @property
    def end(self) -> int:
        """The second after its last one."""
        return self.start + self.span


def find_stale(engine: Engine, span: int, now: int, *, start: int = 0) -> list[Stale]:
    """Hours or days from `start` that are over and whose sums are missing or made from other batches, oldest first."""
    end = (now - CLOSED_AFTER_S) // span * span
    present: dict[int, int] = {}
    for hour, batches in select.count_batches(engine, start // span * span, max(end, 0)).items():
        present[hour // span * span] = present.get(hour // span * span, 0) + batches
    summed = {found.start: found.batches for found in select.latest_sums(engine, start // span * span, end, (span,))}
    return [Stale(span, at, batches) for at, batches in sorted(present.items()) if summed.get(at) != batches]


def sum_up(engine: Engine, stale: Stale) -> bool:
    """Makes the sums of an hour or a day; False if that has to be tried again later. Raises StoreError."""
    if _distinct_batches(engine, stale) != stale.batches:
        # Doubled, or changed since it was looked at. Merging makes doubles one.
        day = time.strftime("%Y%m%d", time.gmtime(stale.start))
        engine.command(f"OPTIMIZE TABLE {engine.local(SAMPLES.name)} PARTITION ID '{day}' FINAL")
        return False
    finer = [span for span in SUMS if span < stale.span]
    plan = (
        select.make_plan(engine, stale.start, stale.end, spans=finer)
        if finer
        else select.Plan(((stale.start, stale.end),))
    )
    if finer and plan.raw and any(select.count_batches(engine, *part) for part in plan.raw):
        return False  # an hour of the day is not in step yet; its turn comes first
    version = time.time_ns() // 1000
    _note(engine, stale, version, done=False)
    source = " UNION ALL ".join(select.every_row(plan))
    engine.command(
        f"INSERT INTO {SUMS[stale.span].name} (type, series, start, version, stack, count, value)"
        f" SELECT type, series, toDateTime({stale.start}, 'UTC'), {version}, stack, sum(count), sum(value)"
        f" FROM ({source}) GROUP BY type, series, stack"
    )
    if _distinct_batches(engine, stale) != stale.batches:
        return False
    _note(engine, stale, version, done=True)
    metrics.ROLLED_HOURS.inc(stale.span // HOUR_S)
    return True


def roll_up(engine: Engine, now: int, *, limit: int = 48) -> int:
    """Sums up at most `limit` stale hours and days that nobody else is at; how many were. Raises StoreError."""
    done = 0
    for span in SUMS:
        claimed = _claimed(engine, span, now)
        stale = [one for one in find_stale(engine, span, now) if one.start not in claimed]
        done += sum(sum_up(engine, one) for one in stale[: limit - done])
    if done:
        log.info("summed up hours and days", extra={"sums": done})
    return done


def remove_former(engine: Engine, now: int) -> None:
    """Removes versions that nobody can read any more. Raises StoreError."""
    answer = engine.query(
        "SELECT a.span AS span, toUInt64(a.start) AS begin, version FROM rolled AS a INNER JOIN"
        " (SELECT span, start, maxIf(version, done) AS latest FROM rolled GROUP BY span, start) AS b"
        " ON a.span = b.span AND a.start = b.start"
        f" WHERE version < latest AND version < {(now - KEEP_FORMER_S) * MICRO} GROUP BY span, begin, version LIMIT 500"
    )
    columns = [answer.numbers(name).tolist() for name in ("span", "begin", "version")]
    former = list(zip(*columns, strict=True))
    for span, day in sorted({(span, begin // DAY_S * DAY_S) for span, begin, _ in former}):
        versions = [version for s, begin, version in former if s == span and begin // DAY_S * DAY_S == day]
        partition = time.strftime("%Y%m%d", time.gmtime(day))
        which = f"version IN ({', '.join(map(str, versions))})"
        engine.command(
            f"ALTER TABLE {engine.local(SUMS[span].name)} DELETE IN PARTITION ID '{partition}' WHERE {which} {_WAIT}"
        )
        engine.command(f"ALTER TABLE {engine.local(ROLLED.name)} DELETE WHERE span = {span} AND {which} {_WAIT}")


def _claimed(engine: Engine, span: int, now: int) -> set[int]:
    """Hours or days that another job began with a short while ago."""
    answer = engine.query(
        "SELECT toUInt64(start) AS begin FROM rolled"
        f" WHERE span = {span} GROUP BY begin"
        f" HAVING maxIf(version, NOT done) > greatest({(now - CLAIM_S) * MICRO}, maxIf(version, done))"
    )
    return set(answer.numbers("begin").tolist())


def _distinct_batches(engine: Engine, stale: Stale) -> int:
    """How many batches it holds; -1 if one of them stands twice."""
    answer = engine.query(
        "SELECT count() AS present, uniqExact(time, batch) AS distinct_ones FROM samples"
        f" WHERE type = '' AND series = 0 AND time >= {stale.start} AND time < {stale.end}"
    )
    present, distinct = int(answer["present"][0]), int(answer["distinct_ones"][0])
    return present if present == distinct else -1


def _note(engine: Engine, stale: Stale, version: int, *, done: bool) -> None:
    row = {"span": stale.span, "start": stale.start, "version": version, "batches": stale.batches, "done": int(done)}
    engine.insert(ROLLED.name, [Column(name, kind, np.array([row[name]])) for name, kind in ROLLED.columns.items()])
