"""What the aggregator sets up on the bus, and what it says when it cannot."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from aggregator import bus
from fleetflame.errors import FleetflameError
from fleetflame.subjects import BATCH_CONSUMER, BATCH_STREAM, BATCHES, DEAD_STREAM
from tests.support.nats import NatsServer

pytestmark = pytest.mark.nats

PATIENCE_S = 20


async def test_streams_and_consumer_are_made_once(nats_server: NatsServer) -> None:
    """The second aggregator finds those of the first."""
    async with bus.connected(nats_server.url) as client:
        jetstream = client.jetstream()
        for _ in range(2):
            await bus.ensure_streams(jetstream)
            await bus.batches(jetstream)
        assert (await jetstream.stream_info(BATCH_STREAM)).config.max_bytes == BATCHES.max_bytes
        assert (await jetstream.stream_info(DEAD_STREAM)).config.subjects == ["ff.v1.rejected.*"]
        consumer = await jetstream.consumer_info(BATCH_STREAM, BATCH_CONSUMER)
        assert (consumer.config.ack_wait, consumer.config.max_ack_pending) == (bus.ACK_WAIT_S, bus.MAX_ACK_PENDING)


async def test_an_operators_own_limits_are_left_alone(nats_server: NatsServer) -> None:
    """A stream of another size is used as it is."""
    async with bus.connected(nats_server.url) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(StreamConfig(name=BATCH_STREAM, subjects=[BATCHES.subjects], max_bytes=1 << 20))
        await bus.ensure_streams(jetstream)
        assert (await jetstream.stream_info(BATCH_STREAM)).config.max_bytes == 1 << 20


async def test_what_cannot_work_is_refused(nats_server: NatsServer) -> None:
    """A stream of other subjects or in memory, a consumer that pushes or does not acknowledge."""
    async with bus.connected(nats_server.url) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(StreamConfig(name=BATCH_STREAM, subjects=["something.else"]))
        with pytest.raises(FleetflameError, match=r"takes `something\.else` instead of"):
            await bus.ensure_streams(jetstream)
        await jetstream.delete_stream(BATCH_STREAM)
        memory = StreamConfig(name=BATCH_STREAM, subjects=[BATCHES.subjects], storage=StorageType.MEMORY)
        await jetstream.add_stream(memory)
        with pytest.raises(FleetflameError, match="keeps its messages in memory"):
            await bus.ensure_streams(jetstream)
        await jetstream.delete_stream(BATCH_STREAM)
        await bus.ensure_streams(jetstream)
        push = ConsumerConfig(durable_name=BATCH_CONSUMER, deliver_subject="x", ack_policy=AckPolicy.EXPLICIT)
        await jetstream.add_consumer(BATCH_STREAM, push)
        with pytest.raises(FleetflameError, match="not one to pull from"):
            await bus.batches(jetstream)


async def test_a_bus_that_is_not_there_is_waited_for(
    nats_servers: Callable[[str], NatsServer], caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, however often it is tried; what was not possible before is possible then."""
    server = nats_servers("")
    async with bus.connected(server.url) as client, asyncio.timeout(PATIENCE_S):
        assert not client.is_connected
        with pytest.raises(FleetflameError, match="no connection"):
            await bus.subscriber(client)()
        await asyncio.sleep(2.5)
        server.start()
        while not client.is_connected:
            await asyncio.sleep(0.05)
        await bus.subscriber(client)()
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(said) == 1
        assert "no connection to NATS" in said[0]


@pytest.mark.parametrize("credentials", ["", "ff:wrong@"])
async def test_a_bus_that_refuses_the_user_ends_what_runs_on_it(
    nats_servers: Callable[[str], NatsServer], credentials: str
) -> None:
    """Waiting would not help; the password is not in the message."""
    server = nats_servers('authorization { user: "ff", password: "right" }')
    server.start()
    with pytest.raises(FleetflameError, match="refuses this user") as raised:
        async with bus.connected(server.url.replace("://", f"://{credentials}")), asyncio.timeout(PATIENCE_S):
            await asyncio.Event().wait()
    assert "password" in raised.value.hint
    assert "wrong" not in raised.value.message


async def test_what_breaks_in_the_body_comes_out_as_it_is(nats_server: NatsServer) -> None:
    """Cancellation from elsewhere, too."""
    with pytest.raises(ValueError, match="mine"):
        async with bus.connected(nats_server.url):
            raise ValueError("mine")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), bus.connected(nats_server.url):
            await asyncio.Event().wait()
