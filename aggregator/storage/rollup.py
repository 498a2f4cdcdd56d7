"""Sums of ten minutes, hours and days, so that a week of a fleet is read as quickly as an hour of a few nodes.

An explicit job, idempotent, run anywhere. There are sums of series, and sums of the series of the fleet (`series.py`).
The finest ones are made when their time is over, the longer ones from them, and all again when late batches came. Each
run writes its sums under a version of its own and, when they are complete, a row in `rolled` that makes that version
the one to read, together with the number of batches it was made from. Nothing is overwritten: a query that planned with
the former version still finds it, for an hour. Readers compare the number of batches with what is there now
(`select.py`), so that nobody has to be told of late batches, and a job that dies half-way leaves nothing but rows that
are never read and are removed later.

Where a batch stands twice nothing is summed up until a merge has made it one: so the number of batches can be what it
was only if nothing has changed.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aggregator import metrics
from aggregator.storage import select, series
from aggregator.storage.engine import Engine, hex_ids
from aggregator.storage.native import Column
from aggregator.storage.tables import ALL_SUMS, SAMPLES, Sums
from aggregator.storage.types import DAY_S, HOUR_S, TEN_S

log = logging.getLogger(__name__)

CLOSED_AFTER_S = 120
"""How long after its end a span is summed up: the last windows need some 12 s to arrive, and a redelivery 60 s."""
CLAIM_S = 600
"""For how long a job that has begun keeps others from the same sum; one takes seconds."""
KEEP_FORMER_S = 3600
"""How long a version that was replaced stays readable: longer than any query runs."""
MICRO = 10**6
DOUBLED = -1
_WAIT = "SETTINGS mutations_sync = 1"


@dataclass(frozen=True, slots=True)
class Stale:
    """A span of time whose sums of a kind are not in step."""

    kind: Sums
    span: int
    start: int
    batches: int
    """How many it holds now."""

    @property
    def end(self) -> int:
        """The second after its last one."""
        return self.start + self.span


def find_stale(engine: Engine, kind: Sums, span: int, now: int, *, start: int = 0) -> list[Stale]:
    """Spans from `start` that are over and whose sums are missing or made from other batches, oldest first."""
    start = start // span * span
    counted = select.count_batches(engine, start, max(now, 0), TEN_S)
    return _stale(engine, (kind, span), _over(start, now, span), counted)


def _over(start: int, now: int, span: int) -> range:
    return range(start, (now - CLOSED_AFTER_S) // span * span, span)


def _stale(engine: Engine, of: tuple[Sums, int], spans: range, counted: Mapping[int, int]) -> list[Stale]:
    """Those of `spans` that are not in step, where ten minutes from each key of `counted` hold so many batches."""
    kind, span = of
    present: dict[int, int] = {}
    for at, batches in counted.items():
        begin = at // span * span
        if begin in spans:
            present[begin] = present.get(begin, 0) + batches
    found = select.latest_sums(engine, spans.start, spans.stop, kind) if present else []
    summed = {each.start: each.batches for each in found if each.span == span}
    return [Stale(kind, span, at, batches) for at, batches in sorted(present.items()) if summed.get(at) != batches]


def sum_up(engine: Engine, stale: Stale) -> bool:
    """Makes the sums of a span; False if that has to be tried again later. Raises StoreError."""
    found = _distinct_batches(engine, stale)
    if found == DOUBLED:
        day = time.strftime("%Y%m%d", time.gmtime(stale.start))
        engine.command(f"OPTIMIZE TABLE {engine.local(SAMPLES.name)} PARTITION ID '{day}' FINAL")
    source = _source(engine, stale) if found == stale.batches else None
    if source is None:
        return False
    version = time.time_ns() // 1000
    _note(engine, stale, version, done=False)
    engine.command(
        f"INSERT INTO {stale.kind.tables[stale.span].name} (type, series, start, version, stack, count, value)"
        f" SELECT type, part, toDateTime({stale.start}, 'UTC'), {version}, stack, sum(count), sum(value)"
        f" FROM ({source}) GROUP BY type, part, stack"
    )
    if _distinct_batches(engine, stale) != stale.batches:
        return False
    _note(engine, stale, version, done=True)
    metrics.ROLLED_HOURS.inc(0 if stale.kind.fleet else stale.span // HOUR_S)
    return True


def _source(engine: Engine, stale: Stale) -> str | None:
    """SQL for what the sums are made of, with the series to sum by as `part`; None while that is not in step."""
    finer = {span: table for span, table in stale.kind.tables.items() if span < stale.span}
    if finer:
        plan = select.make_plan(engine, stale.start, stale.end, [replace(stale.kind, tables=finer)])
        if plan.raw and any(select.count_batches(engine, *part) for part in plan.raw):
            return None  # a part of it has to be summed up first
        return f"SELECT *, series AS part FROM ({' UNION ALL '.join(select.every_row(plan))})"
    part = "series"
    if stale.kind.fleet:
        found, labels = series.find_series(engine, (), stale.start, stale.end)
        part = f"transform(series, {hex_ids(found)}, {hex_ids(series.of_fleet(labels))}, series)"
    rows = select.every_row(select.Plan(((stale.start, stale.end),)))[0]
    return f"SELECT *, {part} AS part FROM ({rows})"


def roll_up(engine: Engine, now: int, *, limit: int = 100, kinds: Sequence[Sums] = ALL_SUMS) -> int:
    """Makes at most `limit` stale sums that nobody else is at; how many were made. Raises StoreError."""
    done = 0
    counted = select.count_batches(engine, 0, max(now, 0), TEN_S)
    for kind, span in [(each, span) for each in kinds for span in each.tables]:
        claimed = _claimed(engine, kind, span, now)
        stale = [one for one in _stale(engine, (kind, span), _over(0, now, span), counted) if one.start not in claimed]
        done += sum(sum_up(engine, one) for one in stale[: limit - done])
    if done:
        log.info("made sums of samples", extra={"sums": done})
    return done


def remove_former(engine: Engine, now: int) -> None:
    """Removes versions that nobody can read any more. Raises StoreError."""
    for kind in ALL_SUMS:
        rolled = kind.rolled.name
        answer = engine.query(
            f"SELECT a.span AS span, toUInt64(a.start) AS begin, version FROM {rolled} AS a INNER JOIN"
            f" (SELECT span, start, maxIf(version, done) AS latest FROM {rolled} GROUP BY span, start) AS b"
            " ON a.span = b.span AND a.start = b.start"
            f" WHERE version < latest AND version < {(now - KEEP_FORMER_S) * MICRO}"
            " GROUP BY span, begin, version LIMIT 500"
        )
        columns = [answer.numbers(name).tolist() for name in ("span", "begin", "version")]
        former: dict[tuple[int, int], list[int]] = {}
        for span, begin, version in zip(*columns, strict=True):
            former.setdefault((span, begin // DAY_S * DAY_S), []).append(version)
        for (span, day), versions in sorted(former.items()):
            _remove(engine, kind, (span, day), versions)


def _remove(engine: Engine, kind: Sums, of: tuple[int, int], versions: Sequence[int]) -> None:
    span, day = of
    partition = time.strftime("%Y%m%d", time.gmtime(day))
    which = f"version IN ({', '.join(map(str, versions))})"
    engine.command(
        f"ALTER TABLE {engine.local(kind.tables[span].name)} DELETE IN PARTITION ID '{partition}' WHERE {which} {_WAIT}"
    )
    engine.command(f"ALTER TABLE {engine.local(kind.rolled.name)} DELETE WHERE span = {span} AND {which} {_WAIT}")


def _claimed(engine: Engine, kind: Sums, span: int, now: int) -> set[int]:
    """Spans that another job began with a short while ago."""
    answer = engine.query(
        f"SELECT toUInt64(start) AS begin FROM {kind.rolled.name}"
        f" WHERE span = {span} GROUP BY begin"
        f" HAVING maxIf(version, NOT done) > greatest({(now - CLAIM_S) * MICRO}, maxIf(version, done))"
    )
    return set(answer.numbers("begin").tolist())


def _distinct_batches(engine: Engine, stale: Stale) -> int:
    """How many batches it holds; DOUBLED if one of them stands twice."""
    answer = engine.query(
        "SELECT count() AS present, uniqExact(time, batch) AS distinct_ones FROM samples"
        f" WHERE type = '' AND series = 0 AND {select.within((stale.start, stale.end))}"
    )
    present, distinct = int(answer["present"][0]), int(answer["distinct_ones"][0])
    return present if present == distinct else DOUBLED


def _note(engine: Engine, stale: Stale, version: int, *, done: bool) -> None:
    table = stale.kind.rolled
    row = {"span": stale.span, "start": stale.start, "version": version, "batches": stale.batches, "done": int(done)}
    engine.insert(table.name, [Column(name, kind, np.array([row[name]])) for name, kind in table.columns.items()])
