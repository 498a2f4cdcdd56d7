"""A query into sums: which series, which rows, each batch once, grouped and ordered.

The engine does the summing. Series are resolved first (there are thousands of them, with maps of text), so that the
large table is read by number and time alone.

**Whole days, hours and ten minutes** come from the roll-up where it is in step: where it was summed up from as many
batches as that time holds now. A late batch changes that number in the same instant in which its rows become visible,
so a stale sum is never used; what is finer is read instead until it is summed up again (`rollup.py`). Where a query
asks for no places (`series.py`), sums of the fleet come before those of series.

**Each batch once**: after the rows were summed, the markers (`writer.py`) of the part that was read in full are looked
at. If one stands twice, two aggregators stored that batch at the same time; the sum is then taken again over distinct
rows, which costs several times as much and is hardly ever needed. In that order there is no gap: rows and marker appear
together, so without a double marker afterwards there were no double rows before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from aggregator.storage.engine import Engine, hex_ids, hex_set
from aggregator.storage.native import Columns
from aggregator.storage.series import PLACES, find_series, of_fleet
from aggregator.storage.tables import OF_FLEET, OF_SERIES, Sums
from aggregator.storage.types import HOUR_S, TEN_S, ProfileQuery, Selected
from fleetflame.model import Labels

MAX_SECOND = 2**32 - 1
"""The last second that a DateTime can tell: February 2106."""

_ROLLED = "SELECT series, stack, count, value FROM {table} WHERE type = {{type:String}}{series} AND ({spans})"
_RAW = "SELECT series, stack, count, value FROM samples WHERE type = {{type:String}}{series} AND ({times})"
_RAW_ONCE = (
    "SELECT series, stack, any(samples.count) AS count, any(samples.value) AS value FROM samples"
    " WHERE type = {{type:String}}{series} AND ({times}) GROUP BY type, series, time, stack, batch"
)

Numbers = NDArray[np.uint64]
_FLEET_TABLES = frozenset(table.name for table in OF_FLEET.tables.values())


@dataclass(frozen=True, slots=True, order=True)
class Sum:
    """The sums of the `span` seconds from `start`."""

    table: str
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
    series, labels = find_series(engine, query.matchers, start, end)
    if not len(series) or start >= end:
        return _empty()
    asked = {*query.by, *(matcher.name for matcher in query.matchers)}
    kinds = (OF_SERIES,) if asked & PLACES else (OF_FLEET, OF_SERIES)
    plan = make_plan(engine, start, end, kinds)
    groups, grouping = _grouped(query, series, labels, fleet=OF_FLEET in kinds)
    sums = _sums(engine, query, plan, grouping, once=False)
    if doubled(engine, plan.raw):
        sums = _sums(engine, query, plan, grouping, once=True)
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


def make_plan(engine: Engine, start: int, end: int, kinds: Sequence[Sums] = (OF_SERIES,)) -> Plan:
    """How to read [start, end): from sums of these kinds where they are in step, of the first kind if of several; the
    rest in full.

    Where the samples themselves are gone, sums are all there is: an hour counts then if it begins in the range. Ten
    minutes do not count any more, even if they are still there: the answer would depend on when they go.
    """
    step = min(span for kind in kinds for span in kind.tables)
    present, latest = _state(engine, start, end, step, kinds)
    usable: list[tuple[int, bool, int, int, Sum]] = []
    for order, sums in enumerate(latest):
        for found in sums:
            inside = start <= found.start and found.end <= end
            now = sum(present.get(at, 0) for at in range(found.start, found.end, step))
            begins = start <= found.start and found.span == HOUR_S
            gone = now == 0 and found.span >= HOUR_S
            if (inside and now == found.batches) or (gone and (inside or begins)):
                usable.append((found.start, not inside, -found.span, order, found))
    rolled: list[Sum] = []
    raw, at = [], start
    # Longest first where several begin together; what a longer one covers is passed over.
    for begin, *_, found in sorted(usable):
        if begin >= at:
            rolled.append(found)
            raw.append((at, begin))
            at = found.end
    raw.append((at, end))
    return Plan(tuple((a, b) for a, b in raw if a < b), tuple(sorted(rolled)))


def count_batches(engine: Engine, start: int, end: int, step: int = HOUR_S) -> dict[int, int]:
    """How many batches every `step` seconds of [start, end) hold; those without one are left out."""
    answer = engine.query(_batches(start, end, step))
    return dict(zip(answer.numbers("begin").tolist(), answer.numbers("n").tolist(), strict=True))


def latest_sums(engine: Engine, start: int, end: int, kind: Sums) -> list[Sum]:
    """The newest complete sums of a kind that begin in [start, end)."""
    return _as_sums(engine.query(_latest(start, end, kind)), [kind])[0]


def _state(
    engine: Engine, start: int, end: int, step: int, kinds: Sequence[Sums]
) -> tuple[dict[int, int], list[list[Sum]]]:
    """Both of the above at once, sums of each kind: a statement costs more than what these read."""
    parts = [_batches(start // HOUR_S * HOUR_S, min(-(-end // HOUR_S) * HOUR_S, MAX_SECOND), step)]
    parts += [_latest(start // HOUR_S * HOUR_S, end, kind, number) for number, kind in enumerate(kinds, 1)]
    answer = engine.query(" UNION ALL ".join(parts))
    counted = np.flatnonzero(answer.numbers("kind") == 0)
    begin, batches = answer.numbers("begin")[counted].tolist(), answer.numbers("n")[counted].tolist()
    return dict(zip(begin, batches, strict=True)), _as_sums(answer, kinds)


def _batches(start: int, end: int, step: int) -> str:
    return (
        f"SELECT toUInt8(0) AS kind, toUInt32(0) AS span, toUInt64(intDiv(toUInt32(time), {step})) * {step} AS begin,"
        " toUInt64(0) AS latest, count() AS n FROM samples"
        f" WHERE type = '' AND series = 0 AND {within((start, end))} GROUP BY begin"
    )


def _latest(start: int, end: int, kind: Sums, number: int = 1) -> str:
    return (
        f"SELECT toUInt8({number}) AS kind, span, toUInt64(start) AS begin, maxIf(version, done) AS latest,"
        f" argMaxIf(batches, version, done) AS n FROM {kind.rolled.name} WHERE start >= {start} AND start < {end}"
        f" AND span IN ({', '.join(map(str, kind.tables))}) GROUP BY span, begin HAVING latest > 0"
    )


def _as_sums(answer: Columns, kinds: Sequence[Sums]) -> list[list[Sum]]:
    found: list[list[Sum]] = [[] for _ in kinds]
    columns = [answer.numbers(name).tolist() for name in ("kind", "span", "begin", "latest", "n")]
    for kind, *row in zip(*columns, strict=True):
        if kind:
            found[kind - 1].append(Sum(kinds[kind - 1].tables[row[0]].name, *row))
    return found


def every_row(plan: Plan) -> list[str]:
    """SQL for the rows that `plan` reads, of every type and series."""
    columns = "SELECT type, series, stack, count, value FROM"
    parts = [f"{columns} samples WHERE type != '' AND ({within(*plan.raw)})"] if plan.raw else []
    return parts + [f"{columns} {table} WHERE {_of_sums(sums)}" for table, sums in _by_table(plan)]


def doubled(engine: Engine, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether a batch with its window start in `ranges` is stored twice."""
    if not ranges:
        return False
    answer = engine.query(
        f"SELECT 1 AS found FROM samples WHERE type = '' AND series = 0 AND ({within(*ranges)})"
        " GROUP BY time, batch HAVING count() > 1 LIMIT 1"
    )
    return len(answer) > 0


@dataclass(frozen=True, slots=True)
class _Grouping:
    """The ids of the series that are asked for, and the group of each; and of the fleet's ones that they are part of,
    if these are read."""

    series: Numbers
    group: Numbers
    fleet: Numbers
    fleet_group: Numbers


def _grouped(
    query: ProfileQuery, series: Numbers, labels: Sequence[Labels], *, fleet: bool
) -> tuple[list[tuple[str, ...]], _Grouping]:
    values = [tuple(dict(row).get(name, "") for name in query.by) for row in labels]
    groups = sorted(set(values))
    number = {value: row for row, value in enumerate(groups)}
    group = np.array([number[value] for value in values], np.uint64)
    # Series that differ in places alone are in one group, since these are read only where no place is asked for.
    parts, first = np.unique(of_fleet(labels if fleet else ()), return_index=True)
    return groups, _Grouping(series, group, parts, group[first])


Found = tuple[NDArray[np.uint32], Numbers, Numbers, Numbers]


def _sums(engine: Engine, query: ProfileQuery, plan: Plan, grouping: _Grouping, *, once: bool) -> Found:
    def only(series: Numbers) -> str:
        return f" AND series IN {hex_set(series)}" if query.matchers else ""

    parts = []
    if plan.raw:
        raw = _RAW_ONCE if once else _RAW
        parts.append(raw.format(series=only(grouping.series), times=within(*plan.raw)))
    for table, sums in _by_table(plan):
        series = only(grouping.fleet if table in _FLEET_TABLES else grouping.series)
        parts.append(_ROLLED.format(table=table, series=series, spans=_of_sums(sums)))
    # One group for all needs no look-up a row; more of them cost one in a hash table.
    keys = np.concatenate((grouping.series, grouping.fleet))
    groups = np.concatenate((grouping.group, grouping.fleet_group))
    constant = len(np.unique(grouping.group)) == 1
    group = "0" if constant else f"transform(series, {hex_ids(keys)}, {hex_ids(groups)}, 0)"
    answer = engine.query(
        f"SELECT toUInt32({group}) AS g, stack, sum(count) AS c, sum(value) AS v"
        f" FROM ({' UNION ALL '.join(parts)}) GROUP BY g, stack",
        {"type": query.selector.type},
    )
    found_group, stack = answer.numbers("g", "u4"), answer.numbers("stack")
    order = np.lexsort((stack, found_group))
    return found_group[order], stack[order], answer.numbers("c")[order], answer.numbers("v")[order]


def _by_table(plan: Plan) -> list[tuple[str, list[Sum]]]:
    return [(table, list(sums)) for table, sums in groupby(plan.rolled, key=lambda found: found.table)]


def _of_sums(sums: Sequence[Sum]) -> str:
    # A version belongs to one sum, being the microsecond in which its job began; the range is for the primary key.
    versions = np.array([found.version for found in sums], np.uint64)
    return f"start >= {sums[0].start} AND start <= {sums[-1].start} AND version IN {hex_set(versions)}"


def within(*ranges: tuple[int, int]) -> str:
    """SQL over the samples' column `time`, for being in one of `ranges`."""
    # The key begins with ten minutes, which the engine does not derive from the time itself.
    return " OR ".join(
        f"time >= {start} AND time < {end} AND toStartOfTenMinutes(time) >= {start // TEN_S * TEN_S}"
        f" AND toStartOfTenMinutes(time) < {end}"
        for start, end in ranges
    )


def _empty() -> Selected:
    none = np.zeros(0, np.uint64)
    return Selected(groups=(), group=none.astype(np.uint32), stack=none, count=none, value=none)
