"""A long range is read from hourly sums, and gives exactly what the samples give."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.storage import Store, rollup, select
from aggregator.storage.engine import Engine
from aggregator.storage.tables import ALL_SUMS, OF_FLEET, OF_SERIES, Sums
from aggregator.storage.types import DAY_S, HOUR_S, StorageOptions
from fleetflame.model import Batch
from tests.aggregator.storage.conftest import OpenStore
from tests.aggregator.storage.fleet import (
    DAY,
    PERIOD,
    accepted,
    as_bytes,
    as_sum,
    batch,
    brute_force,
    labels,
    random_fleet,
)
from tests.aggregator.storage.test_store import ask

END = DAY + 4 * HOUR_S
LATER = END + HOUR_S


def spread(seed: int):  # type: ignore[no-untyped-def]
    """A fleet over four hours, and a little before and after."""
    return random_fleet(seed, windows=70, start=DAY - 300, step=230)


def test_sums_equal_a_brute_force_count_at_any_edges(store: Store) -> None:
    """Ranges that begin and end inside hours, on their edges, and in no hour at all."""
    fleet = spread(1)
    store.insert([accepted(one) for one in fleet])
    before = as_bytes(ask(store, start=DAY - 3600, end=LATER))
    assert rollup.roll_up(store.engine, LATER, kinds=[OF_SERIES]) == 6  # five hours, and the day before
    assert rollup.roll_up(store.engine, LATER, kinds=[OF_FLEET]) > 6
    assert select.make_plan(store.engine, DAY, END).raw == ()
    assert select.make_plan(store.engine, DAY, END, [OF_FLEET]).raw == ()
    assert as_bytes(ask(store, start=DAY - 3600, end=LATER)) == before
    for start, end in ((DAY, END), (DAY + 1, END - 1), (DAY + 1800, DAY + 9000), (DAY + 10, DAY + 20), (END, DAY)):
        for by in (("comm", "node"), ("comm",), ("service", "comm"), ()):
            expected = brute_force(fleet, by, start, end)
            assert as_sum(ask(store, start=start, end=end, by=by)) == expected
    checkout = brute_force(fleet, ("comm",), DAY, END, service="checkout")
    assert as_sum(ask(store, '{service="checkout"}', start=DAY, end=END)) == checkout


def test_a_late_batch_is_counted_at_once(store: Store) -> None:
    """Its hour is read in full until it is summed up again."""
    fleet = spread(2)
    store.insert([accepted(one) for one in fleet])
    rollup.roll_up(store.engine, LATER)
    late = batch([(labels(comm="late"), 0, 1000)], node="late", time=DAY + 4000)
    store.insert([accepted(late)])
    expected = brute_force([*fleet, late], ("comm",), DAY, END)
    assert len(select.make_plan(store.engine, DAY, END).raw) == 1
    assert as_sum(ask(store, start=DAY, end=END)) == expected
    assert rollup.roll_up(store.engine, LATER, kinds=[OF_SERIES]) == 1
    assert rollup.roll_up(store.engine, LATER, kinds=[OF_FLEET]) == 2  # ten minutes and their hour
    assert select.make_plan(store.engine, DAY, END).raw == ()
    assert as_sum(ask(store, start=DAY, end=END)) == expected
    assert rollup.roll_up(store.engine, LATER) == 0


def test_a_job_that_died_half_way_changes_nothing(store: Store) -> None:
    """Its sums are there without the row that makes them count; the next job begins anew, later."""
    fleet = spread(3)
    store.insert([accepted(one) for one in fleet])
    hour = rollup.find_stale(store.engine, OF_SERIES, HOUR_S, LATER)[0]
    for table in ("samples_hour", "fleet_hour"):
        store.engine.command(
            f"INSERT INTO {table} (type, series, start, version, stack, count, value) SELECT 'cpu', series,"
            f" toDateTime({hour.start}, 'UTC'), 1, stack, 999, 999 FROM samples WHERE type = 'cpu'"
        )
    rollup.roll_up(store.engine, LATER)
    assert as_sum(ask(store, start=DAY, end=END)) == brute_force(fleet, ("comm",), DAY, END)


def test_an_hour_that_holds_a_batch_twice_is_merged_first(store: Store) -> None:
    """Two aggregators stored one message: the sum is taken when the engine has made it one."""
    one = accepted(batch([(labels(comm="x"), 0, 5)]))
    store.insert([one])
    store._writer._store_samples([one])
    for _ in range(2):
        rollup.roll_up(store.engine, LATER)
        assert ask(store, end=DAY + HOUR_S).count.tolist() == [5]
    assert select.make_plan(store.engine, DAY, DAY + HOUR_S).raw == ()


def test_replaced_sums_are_removed_after_a_while(open_store: OpenStore) -> None:
    """Not before, since a query may still be reading them."""
    store = open_store()
    store.insert([accepted(batch([(labels(comm="x"), 0, 5)]))])
    rollup.roll_up(store.engine, LATER)
    store.insert([accepted(batch([(labels(comm="x"), 0, 6)], sequence=2, time=DAY + 10))])
    rollup.roll_up(store.engine, LATER)

    def versions() -> list[int]:
        tables = ("samples_hour", "fleet_10m", "fleet_hour")
        found = [store.engine.query(f"SELECT uniqExact(version) AS n FROM {table}") for table in tables]
        return [int(np.sum(answer["n"])) for answer in found]

    rollup.remove_former(store.engine, LATER)
    assert versions() == [2, 2, 2]
    rollup.remove_former(store.engine, 4_000_000_000)
    assert versions() == [1, 1, 1]
    assert ask(store, end=DAY + HOUR_S).count.tolist() == [11]


def test_whole_days_are_read_as_one_sum(store: Store) -> None:
    """Hours at the edges, days between them; a late batch splits its day into hours again."""
    fleet = random_fleet(9, nodes=2, windows=25, start=DAY - 7200, step=12_000)
    store.insert([accepted(one) for one in fleet])
    end = DAY + 3 * DAY_S + 5 * HOUR_S
    while rollup.roll_up(store.engine, end + HOUR_S):
        pass
    for kind in ALL_SUMS:
        plan = select.make_plan(store.engine, DAY - HOUR_S, end, [kind])
        assert [found.start for found in plan.rolled if found.span == DAY_S] == [DAY + n * DAY_S for n in range(3)]
    assert as_sum(ask(store, start=DAY - HOUR_S, end=end)) == brute_force(fleet, ("comm",), DAY - HOUR_S, end)
    late = batch([(labels(comm="late"), 0, 1000)], node="late", time=DAY + DAY_S + 4000)
    store.insert([accepted(late)])
    plan = select.make_plan(store.engine, DAY - HOUR_S, end)
    assert [found.start for found in plan.rolled if found.span == DAY_S] == [DAY, DAY + 2 * DAY_S]
    assert as_sum(ask(store, start=DAY - HOUR_S, end=end)) == brute_force([*fleet, late], ("comm",), DAY - HOUR_S, end)
    assert rollup.roll_up(store.engine, end + HOUR_S, kinds=[OF_SERIES]) == 2
    assert rollup.roll_up(store.engine, end + HOUR_S, kinds=[OF_FLEET]) == 3
    assert as_sum(ask(store, start=DAY - HOUR_S, end=end)) == brute_force([*fleet, late], ("comm",), DAY - HOUR_S, end)


def test_a_question_that_asks_for_no_place_is_answered_by_the_fleet(store: Store) -> None:
    """The more nodes there are the fewer rows it reads; places are found where they are asked for."""
    rows = [(labels(comm="x", container=f"c{n}", service="s"), n % 3, n + 1) for n in range(4)]
    made = [batch(rows, node=f"web-{n}", time=DAY + 30 * n) for n in range(20)]
    store.insert([accepted(one) for one in made])
    rollup.roll_up(store.engine, LATER)
    assert int(store.engine.query("SELECT count() AS n FROM fleet_10m")["n"][0]) == 3
    assert int(store.engine.query("SELECT count() AS n FROM samples_hour")["n"][0]) == 80
    asked: list[str] = []
    query = store.engine.query
    store.engine.query = lambda sql, *rest: asked.append(sql) or query(sql, *rest)  # type: ignore[method-assign, func-returns-value]
    for selector, by, equal, of_fleet in (
        ("cpu", ("comm",), {}, True),
        ('{service="s"}', ("service", "comm"), {"service": "s"}, True),
        ('{node="web-3"}', ("comm",), {"node": "web-3"}, False),
        ('{service="s"}', ("comm", "node"), {"service": "s"}, False),
        ('{container="c1"}', ("comm",), {"container": "c1"}, False),
        ('{service="none"}', ("comm",), {"service": "none"}, None),
    ):
        asked.clear()
        found = ask(store, selector, start=DAY, end=DAY + HOUR_S, by=by)
        assert as_sum(found) == brute_force(made, by, DAY, DAY + HOUR_S, **equal)
        assert of_fleet is None or any("FROM fleet_hour" in sql for sql in asked) is of_fleet


def test_after_samples_went_an_hour_counts_where_it_begins_in_the_range(store: Store) -> None:
    """Whether places are asked for or not; ten minutes count no more, while they are there and after they went."""
    fleet = spread(4)
    store.insert([accepted(one) for one in fleet])
    rollup.roll_up(store.engine, LATER)
    store.engine.command("TRUNCATE TABLE samples")
    for _ in range(2):
        for by in (("comm", "node"), ("comm",)):
            all_but_first = brute_force(fleet, by, DAY + HOUR_S, END)
            assert as_sum(ask(store, start=DAY + 1234, end=END, by=by)) == all_but_first
            assert as_sum(ask(store, start=DAY + 1234, end=END - 1234, by=by)) == all_but_first
            assert as_sum(ask(store, start=DAY + 1200, end=DAY + 1800, by=by)) == {}
        store.engine.command("TRUNCATE TABLE fleet_10m")


def test_sums_of_series_stand_in_for_missing_ones_of_the_fleet(store: Store) -> None:
    """A store that was begun before there were any has no samples left to make them from."""
    fleet = spread(5)
    store.insert([accepted(one) for one in fleet])
    rollup.roll_up(store.engine, LATER, kinds=[OF_SERIES])
    expected = brute_force(fleet, ("service",), DAY, END, comm="php")
    for _ in range(2):
        assert as_sum(ask(store, '{comm="php"}', start=DAY, end=END, by=("service",))) == expected
        store.engine.command("TRUNCATE TABLE samples")


def test_a_batch_that_stands_twice_is_merged_once(open_store: OpenStore) -> None:
    """All sums of its time wait for that, and none asks for another merge."""
    store = open_store()
    one = accepted(batch([(labels(comm="x"), 0, 5)]))
    store.insert([one])
    store._writer._store_samples([one])
    asked: list[str] = []
    command = store.engine.command
    store.engine.command = lambda sql: asked.append(sql) or command(sql)  # type: ignore[method-assign, func-returns-value]
    rollup.roll_up(store.engine, DAY + 2 * DAY_S)
    while rollup.roll_up(store.engine, DAY + 2 * DAY_S):
        pass
    assert len([sql for sql in asked if sql.startswith("OPTIMIZE")]) == 1
    assert select.make_plan(store.engine, DAY, DAY + DAY_S, ALL_SUMS).raw == ()
    assert ask(store, end=DAY + DAY_S).count.tolist() == [5]


class Summed:
    """A store, and what is in it: not a value, or each failure would print it whole."""

    def __init__(self, store: Store, fleet: Sequence[Batch]) -> None:
        self.store = store
        self.fleet = fleet


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Summed]:
    """A day and a half of a fleet with all its sums, before three batches came late and one was stored again."""
    fleet = random_fleet(6, windows=110, start=DAY - 4 * HOUR_S, step=1170)
    row = (labels(comm="php", service="late"), 2, 7)
    late = [batch([row], node="late", sequence=n, time=at) for n, at in enumerate(LATE, 1)]
    with closing(Store(StorageOptions(location=str(tmp_path_factory.mktemp("summed"))))) as store:
        store.insert([accepted(one) for one in fleet])
        while rollup.roll_up(store.engine, DAY + 2 * DAY_S):
            pass
        store.insert([accepted(one) for one in late])
        store._writer._store_samples([accepted(fleet[150])])
        yield Summed(store, [*fleet, *late])


LATE = (DAY + 9000, DAY + 9590, DAY + 30_000)
EDGES = st.integers(DAY // 10 - 1500, DAY // 10 + 12_000).map(lambda ten: ten * 10)
ASKED: tuple[tuple[str, dict[str, str], tuple[str, ...]], ...] = (
    ("cpu", {}, ("comm",)),
    ("cpu", {}, ()),
    ('{service="search"}', {"service": "search"}, ("service", "comm")),
    ("cpu", {}, ("comm", "node")),
    ('{node="web-1.example"}', {"node": "web-1.example"}, ("comm",)),
)


@settings(max_examples=60, deadline=None)
@given(
    edges=st.lists(EDGES, min_size=3, max_size=3).map(sorted),
    spans=st.sets(st.sampled_from([600, HOUR_S, DAY_S]), min_size=1),
    kept=st.lists(st.booleans(), min_size=7, max_size=7),
    asked=st.sampled_from(ASKED),
)
def test_any_mix_of_samples_and_sums_gives_what_samples_give(
    summed: Summed,
    edges: list[int],
    spans: set[int],
    kept: list[bool],
    asked: tuple[str, dict[str, str], tuple[str, ...]],
) -> None:
    """A range may be cut anywhere, and of the sums that stand for parts of it any may be left to the samples."""
    store, (selector, equal, by) = summed.store, asked
    read: list[select.Sum] = []
    make_plan = select.make_plan

    def mixed(engine: Engine, start: int, end: int, kinds: Sequence[Sums]) -> select.Plan:
        some = [replace(kind, tables={s: t for s, t in kind.tables.items() if s in spans}) for kind in kinds]
        some = [kind for kind in some if kind.tables]
        found = make_plan(engine, start, end, some).rolled if some else ()
        rolled = sorted((one for row, one in enumerate(found) if kept[row % 7]), key=lambda one: one.start)
        read.extend(rolled)
        raw = zip([start, *(one.end for one in rolled)], [*(one.start for one in rolled), end], strict=True)
        return select.Plan(tuple((a, b) for a, b in raw if a < b), tuple(sorted(rolled)))

    total: Counter[tuple[tuple[str, ...], int]] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "make_plan", mixed)
        for start, end in itertools.pairwise(edges):
            for key, (count, value) in as_sum(ask(store, selector, start=start, end=end, by=by)).items():
                assert value == count * PERIOD
                total[key] += count
    expected = brute_force(summed.fleet, by, edges[0], edges[2], **equal)
    assert total == {key: count for key, (count, _) in expected.items()}
    assert not [one for one in read if any(one.start <= at < one.end for at in LATE)]
