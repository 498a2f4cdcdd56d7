"""What is too old or too much goes, whole days at a time, and nothing else does."""

import pytest

from aggregator.storage import Store, retention, rollup
from aggregator.storage.types import DAY_S, HOUR_S, StorageOptions
from fleetflame.errors import UsageError
from tests.aggregator.storage.conftest import OpenStore
from tests.aggregator.storage.fleet import DAY, accepted, as_sum, batch, brute_force, labels
from tests.aggregator.storage.test_store import ask

DAYS = 8


def daily(days: int = DAYS):  # type: ignore[no-untyped-def]
    """A batch of a node at 00:10 of each day."""
    return [
        batch([(labels(comm="x"), day % 5, day + 1)], sequence=day + 1, time=DAY + day * DAY_S + 600)
        for day in range(days)
    ]


def test_samples_go_by_age_and_their_sums_later(open_store: OpenStore) -> None:
    """After the raw age a day is left as hourly sums, after the other age not at all."""
    store = open_store(raw_days=3, rolled_days=5)
    fleet = daily()
    store.insert([accepted(one) for one in fleet])
    now = DAY + (DAYS - 1) * DAY_S + 12 * HOUR_S
    store.upkeep(now)
    assert retention.usage(store.engine).oldest == store.floor(now) == DAY + 4 * DAY_S
    end = now + DAY_S
    assert as_sum(ask(store, start=DAY, end=end)) == brute_force(fleet, ("comm",), DAY + 2 * DAY_S, end)
    # Of a day without samples an hour is all there is: it counts where it begins in the range.
    day = DAY + 3 * DAY_S
    assert ask(store, start=day, end=day + 60).count.tolist() == [4]
    assert ask(store, start=day + 60, end=day + 900).count.tolist() == []


def test_the_oldest_days_go_when_the_budget_is_exceeded(open_store: OpenStore) -> None:
    """Today's samples stay even then, and what was dropped is refused from then on."""
    store = open_store(disk_bytes=1)
    fleet = daily()
    store.insert([accepted(one) for one in fleet])
    now = DAY + (DAYS - 1) * DAY_S + 12 * HOUR_S
    store.upkeep(now)
    assert retention.usage(store.engine).days == ("20260929",)
    assert store.floor(now) == DAY + 7 * DAY_S
    assert ask(store, start=DAY, end=now).count.tolist() == [8]
    store.close()
    assert open_store().floor(now) == DAY + 7 * DAY_S


def days_of(store: Store, table: str) -> list[str]:
    """The days that a table has rows of."""
    return [part.id for part in retention.partitions(store.engine) if part.table.name == table and part.rows]


def test_ten_minutes_outlast_their_samples_and_not_for_long(open_store: OpenStore) -> None:
    """Where they went first, a reader would take what is gone for empty; what is left answers alike by any label."""
    store = open_store(raw_days=3, rolled_days=30)
    fleet = daily()
    store.insert([accepted(one) for one in fleet])
    now = DAY + (DAYS - 1) * DAY_S + 12 * HOUR_S
    rollup.roll_up(store.engine, now)
    dropped: list[str] = []
    command = store.engine.command
    store.engine.command = lambda sql: dropped.append(sql) or command(sql)  # type: ignore[method-assign, func-returns-value]
    store.upkeep(now)
    assert days_of(store, "samples") == days_of(store, "fleet_10m")[2:]
    tables = [sql.split()[2].removesuffix("_local") for sql in dropped if "DROP PARTITION" in sql]
    assert tables.index("fleet_10m") > len(tables) - 1 - tables[::-1].index("samples")
    for start, end in ((DAY, now), (DAY + 300, now - 300), (DAY + 660, now), (DAY, DAY + 900)):
        by_node = as_sum(ask(store, start=start, end=end, by=("node", "comm")))
        assert {key[1]: sums for key, sums in by_node.items()} == {
            key[1]: sums for key, sums in as_sum(ask(store, start=start, end=end)).items()
        }


def test_a_day_goes_with_its_ten_minutes_when_the_budget_is_exceeded(open_store: OpenStore) -> None:
    """They are of no use without its samples; hours and days stay as long as there is anything else."""
    store = open_store()
    store.insert([accepted(one) for one in daily()])
    now = DAY + (DAYS - 1) * DAY_S + 12 * HOUR_S
    store.upkeep(now)
    found = retention.partitions(store.engine)
    of_days = [part for part in found if part.table.name in ("samples", "fleet_10m") and part.rows]
    spare = sum(part.bytes for part in found) - sum(part.bytes for part in sorted(of_days, key=lambda p: p.id)[:4])
    options = StorageOptions(location=store.options.location, disk_bytes=spare)
    retention.drop_beyond_budget(store.engine, options, now, lambda until: None)
    assert days_of(store, "samples") == days_of(store, "fleet_10m") == sorted({part.id for part in of_days})[2:]
    assert len(days_of(store, "fleet_hour")) == DAYS


def test_a_budget_that_suffices_drops_nothing(open_store: OpenStore) -> None:
    """Nor does none at all."""
    for budget in (1 << 40, 0):
        store = open_store(disk_bytes=budget)
        store.insert([accepted(one) for one in daily()])
        assert len(store.upkeep(DAY + DAYS * DAY_S).days) == DAYS
        store.close()


def test_frames_outlive_the_samples_that_refer_to_them(open_store: OpenStore) -> None:
    """A stack of the oldest sums left can still be named."""
    store = open_store(raw_days=1, rolled_days=2)
    store.insert([accepted(one) for one in daily()])
    now = DAY + (DAYS - 1) * DAY_S + 12 * HOUR_S
    store.upkeep(now)
    found = ask(store, start=DAY, end=now)
    assert len(found.stack) == 3
    assert set(store.frames(found.stack).stacks.tolist()) == set(found.stack.tolist())
    store.upkeep(now + 60 * DAY_S)
    assert (
        not len(store.frames(found.stack).stacks) or store.engine.query("SELECT count() AS n FROM stacks")["n"][0] == 0
    )


def test_the_books_balance_over_dropped_days(open_store: OpenStore) -> None:
    """An epoch that began before them starts its count after them."""
    store = open_store(raw_days=3)
    before, fleet = 0, []
    for one in daily():
        fleet.append(
            batch([(labels(comm="x"), 0, 7)], sequence=one.sequence, time=one.window_start_ns // 10**9, before=before)
        )
        before += 7
    store.insert([accepted(one) for one in fleet])
    now = DAY + (DAYS - 1) * DAY_S + 12 * HOUR_S
    store.upkeep(now)
    ledger = store.status(now)
    assert (ledger.total.batches, ledger.total.taken, ledger.balances) == (4, 28, True)


@pytest.mark.parametrize(
    "options",
    [{"raw_days": 0}, {"raw_days": 9, "rolled_days": 8}, {"memory_bytes": 1}, {"readers": 0}, {"location": ""}],
)
def test_options_without_sense_are_refused(options: dict[str, object]) -> None:
    """With a hint, before anything is opened."""
    with pytest.raises(UsageError):
        StorageOptions(**({"location": "x"} | options))  # type: ignore[arg-type]


def test_usage_of_an_empty_store_is_zero(store: Store) -> None:
    """Upkeep of nothing works, and counts nothing."""
    found = store.upkeep(DAY)
    assert (found.rows, found.oldest, found.days) == (0, 0, ())
