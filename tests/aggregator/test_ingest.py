"""From a real stream into a real store: every message ends stored, or counted and set aside."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import nats
import numpy as np
import pytest
from nats.aio.client import Client
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from aggregator import bus
from aggregator.ingest import Ingest, IngestOptions
from aggregator.selector import parse_selector
from aggregator.storage import Store
from aggregator.storage.types import Fault, ProfileQuery, StorageOptions, StoreError
from fleetflame import subjects, wire
from fleetflame.model import Batch, empty_stacks
from tests.aggregator.storage.fleet import as_sum, batch, brute_force, labels, random_fleet
from tests.support.nats import NatsServer

pytestmark = pytest.mark.nats

QUICK = IngestOptions(linger_s=0.02, fetch_s=0.2, postponements=(0.05, 0.1), backoff_s=(0.05, 0.1))
PATIENCE_S = 20
NOW = int(time.time()) // 10 * 10 - 600


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty embedded store."""
    opened = Store(StorageOptions(location=str(tmp_path / "store")))
    yield opened
    opened.close()


@asynccontextmanager
async def ingesting(server: NatsServer, store: Store, options: IngestOptions = QUICK) -> AsyncIterator[Client]:
    """An aggregator's ingest at work, and a client to publish with."""
    async with bus.connected(server.url) as client:
        jetstream = client.jetstream()

        async def subscribe() -> nats.js.JetStreamContext.PullSubscription:
            await bus.ensure_streams(jetstream)
            return await bus.batches(jetstream)

        await subscribe()
        ingest = Ingest(subscribe, jetstream, store, options=options)
        task = asyncio.create_task(ingest.run())
        try:
            yield client
        finally:
            ingest.stop()
            await asyncio.wait_for(task, PATIENCE_S)


async def publish(client: Client, *batches: Batch) -> None:
    """Sends `batches` as their nodes would."""
    for one in batches:
        await client.jetstream().publish(subjects.batch(one.node), wire.encode(one))


async def until(holds: Callable[[], bool]) -> None:
    """Waits until `holds` does."""
    deadline = time.monotonic() + PATIENCE_S
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.05)


def stored_samples(store: Store) -> int:
    """All samples in the store."""
    return int(ask(store).count.sum())


def ask(store: Store, by: tuple[str, ...] = ("comm",)):  # type: ignore[no-untyped-def]
    """Everything in the store."""
    return store.select(ProfileQuery(selector=parse_selector("cpu"), from_ns=0, until_ns=2**62, by=by))


def rejected(store: Store) -> dict[str, int]:
    """Messages turned away, by reason."""
    found = store.engine.query("SELECT CAST(reason, 'String') AS why, count() AS n FROM rejected FINAL GROUP BY why")
    return dict(zip(found.strings("why"), found.numbers("n").tolist(), strict=True))


async def test_what_nodes_publish_can_be_queried(nats_server: NatsServer, store: Store) -> None:
    """Counts, groups and stacks are those that were published, and every message is acknowledged."""
    fleet = random_fleet(1, start=NOW)
    async with ingesting(nats_server, store) as client:
        await publish(client, *fleet)
        await until(lambda: stored_samples(store) == sum(one.sample_count.sum() for one in fleet))
        assert as_sum(ask(store, ("comm", "node"))) == brute_force(fleet, ("comm", "node"), 0, 2**32)
        async with asyncio.timeout(PATIENCE_S):
            while (
                await client.jetstream().consumer_info(subjects.BATCH_STREAM, subjects.BATCH_CONSUMER)
            ).num_ack_pending:
                await asyncio.sleep(0.05)


async def test_two_aggregators_share_the_stream(nats_server: NatsServer, store: Store) -> None:
    """Each message goes to one of them, and numbers announced to one are known to the other."""
    first = batch([(labels(comm="x"), 0, 1)], time=NOW)
    rest = [
        replace(batch([(labels(comm="x"), 1, 1)], time=NOW + n, sequence=n + 1), first_number=5, stacks=empty_stacks())
        for n in range(1, 40)
    ]
    async with ingesting(nats_server, store) as client, ingesting(nats_server, store):
        await publish(client, first, *rest)
        await until(lambda: stored_samples(store) == 40)
    assert len(set(ask(store).stack.tolist())) == 2
    assert store.engine.query("SELECT sumMap(degraded) AS d FROM ledger").maps("d")[0].get("not_received", 0) == 0


async def test_a_number_that_nobody_announced_becomes_a_placeholder(nats_server: NatsServer, store: Store) -> None:
    """After a few postponements the samples are kept, degraded and counted as that."""
    lonely = replace(
        batch([(labels(comm="x"), 2, 7)], time=NOW), mappings=(), named=(), first_number=5, stacks=empty_stacks()
    )
    async with ingesting(nats_server, store) as client:
        await publish(client, lonely)
        await until(lambda: stored_samples(store) == 7)
    assert store.engine.query("SELECT degraded FROM ledger").maps("degraded")[0]["not_received"] == 7


async def test_numbers_are_known_after_a_restart(nats_server: NatsServer, store: Store) -> None:
    """A second aggregator, with nothing in memory, reads from the store what the first one was told."""
    async with ingesting(nats_server, store) as client:
        await publish(client, batch([(labels(comm="x"), 0, 1)], time=NOW))
        await until(lambda: stored_samples(store) == 1)
    later = replace(batch([(labels(comm="x"), 0, 2)], time=NOW + 10, sequence=2), first_number=5, stacks=empty_stacks())
    async with ingesting(nats_server, store) as client:
        await publish(client, later)
        await until(lambda: stored_samples(store) == 3)
    assert len(ask(store).stack) == 1


async def test_a_batch_is_stored_once_however_often_it_comes(nats_server: NatsServer, store: Store) -> None:
    """Published again without a message ID, as after the server's window for duplicates."""
    one = batch([(labels(comm="x"), 0, 5)], time=NOW)
    other = batch([(labels(comm="x"), 0, 6)], time=NOW + 10, sequence=2)
    async with ingesting(nats_server, store) as client:
        await publish(client, one, one)
        await publish(client, one, other)
        await until(lambda: stored_samples(store) == 11)


async def set_aside(client: Client, subject: str) -> RawStreamMsg:
    """The last message of the stream of rejected ones; it is put there after it was counted."""
    for _ in range(200):
        with contextlib.suppress(NotFoundError):
            return await client.jetstream().get_last_msg(subjects.DEAD_STREAM, subject)
        await asyncio.sleep(0.05)
    raise AssertionError(f"nothing on {subject} within 10 s")


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("bad_compression", lambda one: b"garbage"),
        ("foreign_node", lambda one: wire.encode(replace(one, node="somebody-else"))),
        ("from_the_future", lambda one: wire.encode(replace(one, window_start_ns=(NOW + 7200) * 10**9))),
        ("beyond_retention", lambda one: wire.encode(replace(one, window_start_ns=(NOW - 20 * 86_400) * 10**9))),
        ("bad_compression", lambda one: wire.encode(one)[:-9]),
    ],
)
async def test_what_cannot_be_accepted_is_counted_and_set_aside(
    nats_server: NatsServer, store: Store, reason: str, spoil: Callable[[Batch], bytes]
) -> None:
    """The raw message with its reason lies in the stream of rejected ones; the next message is stored as ever."""
    one = batch([(labels(comm="x"), 0, 5)], node="web-1.example", time=NOW)
    raw = spoil(one)
    async with ingesting(nats_server, store) as client:
        await client.jetstream().publish(subjects.batch(one.node), raw)
        await publish(client, one)
        await until(lambda: stored_samples(store) == 5 and rejected(store) == {reason: 1})
        aside = await set_aside(client, subjects.rejected("web-1=example"))
        assert aside.data == raw
        assert (aside.headers or {})["Fleetflame-Reason"] == reason


async def test_a_store_in_trouble_loses_nothing(
    nats_server: NatsServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While inserts fail nothing is acknowledged; when they work again everything is stored once."""
    insert = store.engine.insert
    failures = iter(range(4))

    def failing(table: str, columns: object) -> None:
        # In the middle of a group: what samples refer to is in, the samples are not.
        if table == "samples" and next(failures, None) is not None:
            raise StoreError(Fault.FULL, "no space left")
        insert(table, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(store.engine, "insert", failing)
    fleet = random_fleet(3, start=NOW)
    async with ingesting(nats_server, store) as client:
        await publish(client, *fleet)
        await until(lambda: stored_samples(store) == sum(one.sample_count.sum() for one in fleet))
    assert as_sum(ask(store)) == brute_force(fleet, ("comm",), 0, 2**32)


async def test_a_batch_that_the_engine_refuses_does_not_hold_up_the_others(
    nats_server: NatsServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of its group are stored, it is set aside."""
    insert = store.engine.insert

    def refusing(table: str, columns: list) -> None:  # type: ignore[type-arg]
        if table == "samples" and 13 in np.asarray(columns[5].values):
            raise StoreError(Fault.REFUSED, "not this one")
        insert(table, columns)

    monkeypatch.setattr(store.engine, "insert", refusing)
    good, bad = (batch([(labels(comm="x"), 0, n)], time=NOW, sequence=n) for n in (5, 13))
    async with ingesting(nats_server, store) as client:
        await publish(client, good, bad)
        await until(lambda: stored_samples(store) == 5 and rejected(store) == {"bad_structure": 1})


async def test_ingest_goes_on_when_the_bus_comes_back(nats_server: NatsServer, store: Store) -> None:
    """The server is killed and started again between two batches."""
    async with ingesting(nats_server, store) as client:
        await publish(client, batch([(labels(comm="x"), 0, 1)], time=NOW))
        await until(lambda: stored_samples(store) == 1)
        await asyncio.to_thread(nats_server.kill)
        await asyncio.to_thread(nats_server.start)
        await until(lambda: client.is_connected)
        await publish(client, batch([(labels(comm="x"), 0, 2)], time=NOW + 10, sequence=2))
        await until(lambda: stored_samples(store) == 3)


async def test_a_stream_that_was_removed_is_made_again(nats_server: NatsServer, store: Store) -> None:
    """Somebody deletes stream and consumer under a running aggregator."""
    async with ingesting(nats_server, store) as client:
        await client.jetstream().delete_stream(subjects.BATCH_STREAM)

        async def is_back() -> None:
            async with asyncio.timeout(100):
                while True:
                    try:
                        await client.jetstream().stream_info(subjects.BATCH_STREAM)
                        return
                    except nats.js.errors.NotFoundError:
                        await asyncio.sleep(0.2)

        await is_back()
        await publish(client, batch([(labels(comm="x"), 0, 1)], time=NOW))
        await until(lambda: stored_samples(store) == 1)
