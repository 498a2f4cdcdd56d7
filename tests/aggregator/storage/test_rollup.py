"""A long range is read from hourly sums, and gives exactly what the samples give."""

import numpy as np

from aggregator.storage import Store, rollup, select
from aggregator.storage.types import DAY_S, HOUR_S
from tests.aggregator.storage.conftest import OpenStore
from tests.aggregator.storage.fleet import DAY, accepted, as_bytes, as_sum, batch, brute_force, labels, random_fleet
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
    assert rollup.roll_up(store.engine, LATER) == 6  # five hours, and the day before
    assert select.make_plan(store.engine, DAY, END).raw == ()
    assert as_bytes(ask(store, start=DAY - 3600, end=LATER)) == before
    for start, end in ((DAY, END), (DAY + 1, END - 1), (DAY + 1800, DAY + 9000), (DAY + 10, DAY + 20), (END, DAY)):
        expected = brute_force(fleet, ("comm", "node"), start, end)
        assert as_sum(ask(store, start=start, end=end, by=("comm", "node"))) == expected
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
    assert rollup.roll_up(store.engine, LATER) == 1
    assert select.make_plan(store.engine, DAY, END).raw == ()
    assert as_sum(ask(store, start=DAY, end=END)) == expected
    assert rollup.roll_up(store.engine, LATER) == 0


def test_a_job_that_died_half_way_changes_nothing(store: Store) -> None:
    """Its sums are there without the row that makes them count; the next job begins anew, later."""
    fleet = spread(3)
    store.insert([accepted(one) for one in fleet])
    hour = rollup.find_stale(store.engine, HOUR_S, LATER)[0]
    store.engine.command(
        "INSERT INTO samples_hour (type, series, start, version, stack, count, value)"
        f" SELECT 'cpu', series, toDateTime({hour.start}, 'UTC'), 1, stack, 999, 999 FROM samples WHERE type = 'cpu'"
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

    def versions() -> int:
        found = store.engine.query("SELECT uniqExact(version) AS n FROM samples_hour")
        return int(np.sum(found["n"]))

    rollup.remove_former(store.engine, LATER)
    assert versions() == 2
    rollup.remove_former(store.engine, 4_000_000_000)
    assert versions() == 1
    assert ask(store, end=DAY + HOUR_S).count.tolist() == [11]


def test_whole_days_are_read_as_one_sum(store: Store) -> None:
    """Hours at the edges, days between them; a late batch splits its day into hours again."""
    fleet = random_fleet(9, nodes=2, windows=60, start=DAY - 7200, step=5000)
    store.insert([accepted(one) for one in fleet])
    end = DAY + 3 * DAY_S + 5 * HOUR_S
    while rollup.roll_up(store.engine, end + HOUR_S):
        pass
    plan = select.make_plan(store.engine, DAY - HOUR_S, end)
    assert [found.start for found in plan.rolled if found.span == DAY_S] == [DAY + n * DAY_S for n in range(3)]
    assert as_sum(ask(store, start=DAY - HOUR_S, end=end)) == brute_force(fleet, ("comm",), DAY - HOUR_S, end)
    late = batch([(labels(comm="late"), 0, 1000)], node="late", time=DAY + DAY_S + 4000)
    store.insert([accepted(late)])
    plan = select.make_plan(store.engine, DAY - HOUR_S, end)
    assert [found.start for found in plan.rolled if found.span == DAY_S] == [DAY, DAY + 2 * DAY_S]
    assert as_sum(ask(store, start=DAY - HOUR_S, end=end)) == brute_force([*fleet, late], ("comm",), DAY - HOUR_S, end)
    assert rollup.roll_up(store.engine, end + HOUR_S) == 2
    assert as_sum(ask(store, start=DAY - HOUR_S, end=end)) == brute_force([*fleet, late], ("comm",), DAY - HOUR_S, end)
