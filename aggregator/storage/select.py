"""A query into sums: which series, which rows, each batch once, grouped and ordered.

The engine does the summing. Series are resolved first (there are thousands of them, with maps of text), so that the
large table is read by number alone: `series` leads its primary key.

**Whole days and hours** come from the roll-up where it is in step: where it was summed up from as many batches as the
hour or day holds now. A late batch changes that number in the same instant in which its rows become visible, so a stale
sum is never used; what is finer is read instead until it is summed up again (`rollup.py`).

**Each batch once**: after the rows were summed, the markers (`writer.py`) of the part that was read in full are looked
at. If one stands twice, two aggregators stored that batch at the same time; the sum is then taken again over distinct
rows, which costs several times as much and is hardly ever needed. In that order there is no gap: rows and marker appear
together, so without a double marker afterwards there were no double rows before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.selector import Matcher, MatchOp
from aggregator.storage.engine import Engine, hex_ids, hex_set
from aggregator.storage.tables import SUMS
from aggregator.storage.types import DAY_S, HOUR_S, ProfileQuery, Selected
from fleetflame.model import Labels

MAX_SECOND = 2**32 - 1
"""The last second that a DateTime can tell: February 2106."""

_ROLLED = "SELECT series, stack, count, value FROM {table} WHERE type = {{type:String}}{series} AND ({spans})"
_RAW = "SELECT series, stack, count, value FROM samples WHERE type = {{type:String}}{series} AND ({times})"
_RAW_ONCE = (
    "SELECT series, stack, any(samples.count) AS count, any(samples.value) AS value FROM samples"
    " WHERE type = {{type:String}}{series} AND ({times}) GROUP BY type, series, time, stack, batch"
)


@dataclass(frozen=True, slots=True, order=True)
class Sum:
    """The sums of the `span` seconds from `start`."""

    span: int
    start: int
    version: int
    batches: int
    """How many they were made from."""

    @property
    def end(self) -> int:
        """The second after the last one."""
        return self.start + self.span


@dataclass(frozen=True, slots=True)
class Plan:
    """Which seconds are read in full, as [start, end) ranges, and which sums of which version stand for the rest."""

    raw: tuple[tuple[int, int], ...]
    rolled: tuple[Sum, ...] = ()


def select(engine: Engine, query: ProfileQuery) -> Selected:
    """Sums of the samples that `query` asks for. Raises StoreError; UsageError for a bad regular expression."""
    start, end = seconds(query.from_ns, query.until_ns)
    groups, series, group_of = _grouped(engine, query, start, end)
    if not len(series) or start >= end:
        return _empty()
    plan = make_plan(engine, start, end)
    sums = _sums(engine, query, plan, (series, group_of), once=False)
    if doubled(engine, plan.raw):
        sums = _sums(engine, query, plan, (series, group_of), once=True)
    group, stack, count, value = sums
    # Groups without a sample in the range are left out, so that equal data give equal bytes.
    present = np.unique(group)
    return Selected(
        groups=tuple(groups[row] for row in present.tolist()),
        group=np.searchsorted(present, group).astype(np.uint32),
        stack=stack,
        count=count,
        value=value,
    )


def seconds(from_ns: int, until_ns: int) -> tuple[int, int]:
    """The whole seconds s with from_ns <= s * 1e9 < until_ns, as [start, end), within what a DateTime can tell."""
    start, end = -(-from_ns // 10**9), -(-until_ns // 10**9)
    return min(max(start, 0), MAX_SECOND), min(max(end, 0), MAX_SECOND)


def find_series(
    engine: Engine, matchers: Sequence[Matcher], start: int, end: int
) -> tuple[NDArray[np.uint64], list[Labels]]:
    """Ids and labels of the series that match, of the days that [start, end) touches, by id."""
    where, parameters = conditions(matchers)
    first_day = start // DAY_S * DAY_S
    sql = (
        "SELECT series, any(labels) AS found FROM series"
        f" WHERE day >= {first_day} AND day < {end} AND {where} GROUP BY series ORDER BY series"
    )
    answer = engine.query(sql, parameters)
    return answer.numbers("series"), [tuple(sorted(row.items())) for row in answer.maps("found")]


def conditions(matchers: Iterable[Matcher]) -> tuple[str, dict[str, str]]:
    """SQL over the column `labels` that holds for series that all `matchers` accept, and its parameters.

    An absent label is an empty one: that is what a map gives for a key it does not have.
    """
    terms: list[str] = ["1"]
    parameters: dict[str, str] = {}
    for number, matcher in enumerate(matchers):
        value = f"labels[{{n{number}:String}}]"
        regex = matcher.op in (MatchOp.RE, MatchOp.NRE)
        test = f"match({value}, {{v{number}:String}})" if regex else f"{value} = {{v{number}:String}}"
        terms.append(test if matcher.op in (MatchOp.EQ, MatchOp.RE) else f"NOT {test}")
        parameters |= {f"n{number}": matcher.name, f"v{number}": matcher.pattern if regex else matcher.value}
    return " AND ".join(terms), parameters


def make_plan(engine: Engine, start: int, end: int, *, spans: Iterable[int] = tuple(SUMS)) -> Plan:
    """How to read [start, end): whole days and hours whose sums are in step from the roll-up, the rest in full.

    Where the samples themselves are gone, sums are all there is: an hour counts then if it begins in the range.
    """
    first, last = start // HOUR_S * HOUR_S, -(-end // HOUR_S) * HOUR_S
    present = count_batches(engine, first, min(last, MAX_SECOND))
    usable = [
        found
        for found in latest_sums(engine, first, end, spans)
        if _in_step(found, present, inside=start <= found.start and found.end <= end, begins=start <= found.start)
    ]
    rolled: list[Sum] = []
    raw, at = [], start
    # Longest first where several begin together; what a longer one covers is passed over.
    for found in sorted(usable, key=lambda found: (found.start, -found.span)):
        if found.start < at and rolled:
            continue
        rolled.append(found)
        raw.append((at, found.start))
        at = found.end
    raw.append((at, end))
    return Plan(tuple((a, b) for a, b in raw if a < b), tuple(sorted(rolled)))


def count_batches(engine: Engine, start: int, end: int) -> dict[int, int]:
    """How many batches each hour of [start, end) holds; hours without one are left out."""
    answer = engine.query(
        "SELECT toUInt64(toStartOfHour(time)) AS hour, count() AS n FROM samples"
        f" WHERE type = '' AND series = 0 AND time >= {start} AND time < {end} GROUP BY hour"
    )
    return dict(zip(answer.numbers("hour").tolist(), answer.numbers("n").tolist(), strict=True))


def latest_sums(engine: Engine, start: int, end: int, spans: Iterable[int]) -> list[Sum]:
    """The newest complete sums of each hour and day that begins in [start, end)."""
    answer = engine.query(
        "SELECT span, toUInt64(start) AS begin, maxIf(version, done) AS latest, argMaxIf(batches, version, done) AS n"
        f" FROM rolled WHERE start >= {start} AND start < {end} AND span IN ({', '.join(map(str, spans))})"
        " GROUP BY span, begin HAVING latest > 0"
    )
    columns = [answer.numbers(name).tolist() for name in ("span", "begin", "latest", "n")]
    return [Sum(*row) for row in zip(*columns, strict=True)]


def _in_step(found: Sum, present: Mapping[int, int], *, inside: bool, begins: bool) -> bool:
    now = sum(present.get(hour, 0) for hour in range(found.start, found.end, HOUR_S))
    if now == 0:
        return inside or (begins and found.span == HOUR_S)
    return inside and now == found.batches


def every_row(plan: Plan) -> list[str]:
    """SQL for the rows that `plan` reads, of every type and series."""
    columns = "SELECT type, series, stack, count, value FROM"
    parts = [f"{columns} samples WHERE type != '' AND ({_within(plan.raw)})"] if plan.raw else []
    for span, table in SUMS.items():
        sums = [found for found in plan.rolled if found.span == span]
        parts += [f"{columns} {table.name} WHERE {_of_sums(sums)}"] if sums else []
    return parts


def doubled(engine: Engine, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether a batch with its window start in `ranges` is stored twice."""
    if not ranges:
        return False
    answer = engine.query(
        f"SELECT 1 AS found FROM samples WHERE type = '' AND series = 0 AND ({_within(ranges)})"
        " GROUP BY time, batch HAVING count() > 1 LIMIT 1"
    )
    return len(answer) > 0


def _grouped(
    engine: Engine, query: ProfileQuery, start: int, end: int
) -> tuple[list[tuple[str, ...]], NDArray[np.uint64], NDArray[np.uint64]]:
    series, labels = find_series(engine, query.matchers, start, end)
    values = [tuple(dict(row).get(name, "") for name in query.by) for row in labels]
    groups = sorted(set(values))
    number = {value: row for row, value in enumerate(groups)}
    return groups, series, np.array([number[value] for value in values], np.uint64)


Grouping = tuple[NDArray[np.uint64], NDArray[np.uint64]]
"""Ids of the series that are asked for, and the number of each one's group."""
Sums = tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]


def _sums(
    engine: Engine,
    query: ProfileQuery,
    plan: Plan,
    grouping: Grouping,
    *,
    once: bool,
) -> Sums:
    series, group_of = grouping
    only = f" AND series IN {hex_set(series)}" if query.matchers else ""
    parts = []
    if plan.raw:
        parts.append((_RAW_ONCE if once else _RAW).format(series=only, times=_within(plan.raw)))
    for span, table in SUMS.items():
        sums = [found for found in plan.rolled if found.span == span]
        if sums:
            parts.append(_ROLLED.format(table=table.name, series=only, spans=_of_sums(sums)))
    # One group for all needs no look-up a row; more of them cost one in a hash table.
    constant = len(np.unique(group_of)) == 1
    group = "0" if constant else f"transform(series, {hex_ids(series)}, {hex_ids(group_of)}, 0)"
    answer = engine.query(
        f"SELECT toUInt32({group}) AS g, stack, sum(count) AS c, sum(value) AS v"
        f" FROM ({' UNION ALL '.join(parts)}) GROUP BY g, stack",
        {"type": query.selector.type},
    )
    found_group, stack = answer.numbers("g", "u4"), answer.numbers("stack")
    order = np.lexsort((stack, found_group))
    return found_group[order], stack[order], answer.numbers("c")[order], answer.numbers("v")[order]


def _of_sums(sums: Sequence[Sum]) -> str:
    # A version belongs to one sum, being the microsecond in which its job began; the range is for the primary key.
    versions = np.array([found.version for found in sums], np.uint64)
    return f"start >= {sums[0].start} AND start <= {sums[-1].start} AND version IN {hex_set(versions)}"


def _within(ranges: Sequence[tuple[int, int]]) -> str:
    return " OR ".join(f"time >= {start} AND time < {end}" for start, end in ranges)


def _empty() -> Selected:
    none = np.zeros(0, np.uint64)
    return Selected(groups=(), group=none.astype(np.uint32), stack=none, count=none, value=none)
