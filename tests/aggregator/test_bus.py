"""What the aggregator sets up on the bus, and what it says when it cannot."""

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from aggregator import bus
from fleetflame.errors import FleetflameError
from fleetflame.subjects import BATCH_CONSUMER, BATCH_STREAM, BATCHES, DEAD_STREAM
from tests.support.nats import NatsServer

pytestmark = pytest.mark.nats


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
    """A stream of other subjects, a consumer that pushes or does not acknowledge."""
    async with bus.connected(nats_server.url) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(StreamConfig(name=BATCH_STREAM, subjects=["something.else"]))
        with pytest.raises(FleetflameError, match=r"subjects \['something.else'\]"):
            await bus.ensure_streams(jetstream)
        await jetstream.delete_stream(BATCH_STREAM)
        await bus.ensure_streams(jetstream)
        push = ConsumerConfig(durable_name=BATCH_CONSUMER, deliver_subject="x", ack_policy=AckPolicy.EXPLICIT)
        await jetstream.add_consumer(BATCH_STREAM, push)
        with pytest.raises(FleetflameError, match="not one to pull from"):
            await bus.batches(jetstream)


async def test_a_bus_that_is_not_there_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first connection; later ones are tried for ever."""
    monkeypatch.setattr(bus, "CONNECT_S", 0.5)
    with pytest.raises(FleetflameError, match="failed to reach NATS") as raised:
        async with bus.connected("nats://127.0.0.1:9"):
            pass
    assert "--nats" in raised.value.hint
