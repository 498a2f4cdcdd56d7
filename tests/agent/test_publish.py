"""Batches reach a real JetStream: in order, once, and whatever does not is counted."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from agent.batch import Batcher, Message
from agent.bus import Bus, BusConfig, ensure_bus
from agent.publish import QUEUE_FULL, REFUSED, Publisher
from fleetflame import wire
from fleetflame.errors import FleetflameError
from fleetflame.model import Batch
from fleetflame.subjects import (
    BATCH_STREAM,
    BATCH_SUBJECTS,
    BATCHES,
    HEADER_BYTES,
    NODE_BUCKET,
    NODE_TTL_S,
    SYMBOL_STORE,
    batch,
)
from tests.support.nats import NatsServer
from tests.support.windows import window_of

pytestmark = pytest.mark.nats
EPOCH = bytes(range(16))
Servers = Callable[[str], NatsServer]
NODE = "web-1.example.org"


def make_batcher(node: str = NODE) -> Batcher:
    return Batcher(node=node, epoch=EPOCH)


def one_message(batcher: Batcher, index: int, samples: int = 1) -> Message:
    [message] = batcher.messages(window_of({("x", (f"a+{index}",)): samples}, index=index))
    return message


@contextlib.asynccontextmanager
async def connected(url: str, *, node: str = NODE, wait: bool = False) -> AsyncIterator[Bus]:
    bus = Bus(BusConfig(servers=(url,), node=node))
    try:
        await bus.start(wait=wait)
        yield bus
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def publishing(
    bus: Bus, *, queue_bytes: int = 1 << 20, batcher: Batcher | None = None
) -> AsyncIterator[Publisher]:
    """A publisher that runs; its failure, if any, is raised at the end."""
    publisher = Publisher(bus, queue_bytes=queue_bytes, on_drop=(batcher or make_batcher()).note_dropped)
    running = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@contextlib.asynccontextmanager
async def admin(url: str) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(url)
    yield client.jetstream()
    await client.close()


async def stored(url: str) -> list[Batch]:
    """Everything in the stream, in its order; checks each message's ID and subject."""
    batches = []
    async with admin(url) as jetstream:
        state = (await jetstream.stream_info(BATCH_STREAM)).state
        for sequence in range(state.first_seq, state.last_seq + 1):
            message = await jetstream.get_msg(BATCH_STREAM, sequence)
            assert message.data is not None
            decoded = wire.decode(message.data)
            assert message.subject == batch(decoded.node)
            assert message.headers == {"Nats-Msg-Id": f"{decoded.epoch.hex()}-{decoded.sequence}"}
            batches.append(decoded)
    return batches


async def eventually(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        await asyncio.sleep(0.01)


async def test_messages_arrive_in_order_under_their_ids(nats_server: NatsServer) -> None:
    """Twenty messages given at once are twenty in the stream, which the publisher has made."""
    batcher = make_batcher()
    async with connected(nats_server.url) as bus, publishing(bus) as publisher:
        for index in range(20):
            publisher.put(one_message(batcher, index))
        assert await publisher.flush(20) == 0
        assert (publisher.queued, publisher.queued_bytes) == (0, 0)
    assert [batch.sequence for batch in await stored(nats_server.url)] == list(range(1, 21))


async def test_an_attempt_repeated_is_stored_once(nats_server: NatsServer) -> None:
    """The stream knows a message by its ID, whatever the publisher knows of its first attempt."""
    message = one_message(make_batcher(), 1)
    async with connected(nats_server.url) as bus, publishing(bus) as publisher:
        publisher.put(message)
        publisher.put(message)
        assert await publisher.flush(20) == 0
    assert len(await stored(nats_server.url)) == 1


async def test_nothing_is_lost_when_the_server_is_killed_and_comes_back(nats_server: NatsServer) -> None:
    """Messages given before, while and after the server was away are all there, each once, in order."""
    batcher = make_batcher()
    async with connected(nats_server.url) as bus, publishing(bus) as publisher:
        for index in range(60):
            publisher.put(one_message(batcher, index))
            if index == 20:
                nats_server.kill()
            if index == 40:
                await eventually(lambda: not bus.connected)
                nats_server.start()
            await asyncio.sleep(0.005)
        assert await publisher.flush(60) == 0
    assert [batch.sequence for batch in await stored(nats_server.url)] == list(range(1, 61))


async def test_an_agent_that_may_wait_starts_without_a_server(nats_servers: Servers) -> None:
    """What was sampled before the server came is sent once it does."""
    server = nats_servers("")
    async with connected(server.url, wait=True) as bus, publishing(bus) as publisher:
        publisher.put(one_message(make_batcher(), 1))
        await asyncio.sleep(0.1)
        assert not bus.connected
        server.start()
        try:
            assert await publisher.flush(60) == 0
            assert len(await stored(server.url)) == 1
        finally:
            await bus.close()


async def test_no_server_is_an_error_that_names_it_but_no_password() -> None:
    """Refused at once where it may not wait; what stands before the `@` is nobody's business."""
    bus = Bus(BusConfig(servers=("nats://me:secret@127.0.0.1:1",), node=NODE))
    with pytest.raises(FleetflameError) as caught:
        await bus.start()
    assert caught.value.message.startswith("failed to reach NATS at `127.0.0.1:1`: ")
    assert "refused" in caught.value.message
    assert "secret" not in caught.value.message
    assert caught.value.hint


async def test_a_full_queue_drops_the_oldest_and_the_ledger_says_how_many(nats_server: NatsServer) -> None:
    """While the server is away the newest messages stay; afterwards all samples are either stored or reported lost."""
    batcher = make_batcher()
    size = len(one_message(make_batcher(), 0).payload)
    async with connected(nats_server.url) as bus, publishing(bus, queue_bytes=5 * size, batcher=batcher) as publisher:
        publisher.put(one_message(batcher, 0, samples=1))
        assert await publisher.flush(20) == 0
        nats_server.kill()
        await eventually(lambda: not bus.connected)
        for index in range(1, 20):
            publisher.put(one_message(batcher, index, samples=1 << index))
            assert publisher.queued_bytes <= 5 * size
        assert publisher.queued < 6
        nats_server.start()
        assert await publisher.flush(60) == 0
        publisher.put(one_message(batcher, 20, samples=1 << 20))
        assert await publisher.flush(60) == 0
    batches = await stored(nats_server.url)
    assert batches[-1].sequence == 21
    assert [batch.sequence for batch in batches] == sorted(batch.sequence for batch in batches)
    lost = sum(sum(batch.ledger.lost.values()) for batch in batches)
    assert {reason for batch in batches for reason in batch.ledger.lost} == {QUEUE_FULL}
    assert lost > 0
    assert lost + sum(int(batch.sample_count.sum()) for batch in batches) == (1 << 21) - 1
    assert batches[-1].ledger.taken_in_epoch == sum(batch.ledger.taken for batch in batches)


async def test_a_stream_that_turns_messages_away_holds_the_queue_up(nats_server: NatsServer) -> None:
    """A full stream that an operator made with discard=new loses nothing: the rest follows when there is room."""
    batcher = make_batcher()
    async with admin(nats_server.url) as jetstream:
        config = StreamConfig(name=BATCH_STREAM, subjects=[BATCH_SUBJECTS], max_msgs=2, discard=DiscardPolicy.NEW)
        await jetstream.add_stream(config)
        async with connected(nats_server.url) as bus, publishing(bus) as publisher:
            for index in range(4):
                publisher.put(one_message(batcher, index))
            await eventually(lambda: publisher.queued == 2)
            assert await publisher.flush(0.1) == 2
            await jetstream.purge_stream(BATCH_STREAM)
            assert await publisher.flush(60) == 0
    assert [batch.sequence for batch in await stored(nats_server.url)] == [3, 4]


async def test_a_message_that_the_server_will_never_take_is_dropped_and_counted(nats_servers: Servers) -> None:
    """A server that came back with a smaller `max_payload`: the large message is lost by name, the next one is sent."""
    server = nats_servers("max_payload: 5000")
    server.start()
    batcher = make_batcher()
    offsets = random.Random(1).sample(range(1 << 40), 500)
    [large] = batcher.messages(window_of({("x", tuple(f"a+{offset}" for offset in offsets)): 7}))
    assert len(large.payload) + HEADER_BYTES > 5000
    async with connected(server.url) as bus, publishing(bus, batcher=batcher) as publisher:
        publisher.put(large)
        await eventually(lambda: publisher.queued == 0)
        publisher.put(one_message(batcher, 1))
        assert await publisher.flush(20) == 0
    [only] = await stored(server.url)
    assert only.ledger.lost == {REFUSED: 7}


async def test_a_stream_that_is_removed_is_made_again(nats_server: NatsServer) -> None:
    """Its messages are gone, but the agent goes on."""
    batcher = make_batcher()
    async with connected(nats_server.url) as bus, publishing(bus) as publisher:
        publisher.put(one_message(batcher, 0))
        assert await publisher.flush(20) == 0
        async with admin(nats_server.url) as jetstream:
            await jetstream.delete_stream(BATCH_STREAM)
        publisher.put(one_message(batcher, 1))
        assert await publisher.flush(20) == 0
    assert [batch.sequence for batch in await stored(nats_server.url)] == [2]


ACCOUNTS = """
accounts {{
  A {{
    jetstream: enabled
    users: [
      {{ user: admin, password: admin }}
      {{ user: node, password: secret, permissions: {{
        publish: {publish}
        subscribe: {subscribe}
      }} }}
    ]
  }}
}}
"""


def limited(servers: Servers, *, publish: str, subscribe: str) -> NatsServer:
    server = servers(ACCOUNTS.format(publish=publish, subscribe=subscribe))
    server.start()
    return server


def as_user(server: NatsServer, user: str) -> str:
    return server.url.replace("://", f"://{user}@")


async def test_a_node_needs_only_its_subject_and_its_inbox(nats_servers: Servers) -> None:
    """A user who may not touch JetStream's API publishes to the stream that somebody else made."""
    server = limited(
        nats_servers, publish='["ff.v1.batch.web-1=example=org"]', subscribe='["_INBOX_web-1=example=org.>"]'
    )
    async with admin(as_user(server, "admin:admin")) as jetstream:
        await ensure_bus(jetstream)
    async with connected(as_user(server, "node:secret")) as bus, publishing(bus) as publisher:
        publisher.put(one_message(make_batcher(), 1))
        assert await publisher.flush(30) == 0
    assert len(await stored(as_user(server, "admin:admin"))) == 1


@pytest.mark.parametrize(
    ("publish", "subscribe"),
    [('["ff.v1.batch.other", "$JS.API.>"]', '[">"]'), ('[">"]', '["_INBOX.>"]')],
)
async def test_a_subject_that_is_refused_ends_the_publisher(
    nats_servers: Servers, publish: str, subscribe: str
) -> None:
    """Publishing for another node, or hearing no answer, is a mistake in the configuration: said once, not retried."""
    server = limited(nats_servers, publish=publish, subscribe=subscribe)
    async with connected(as_user(server, "node:secret")) as bus:
        publisher = Publisher(bus, queue_bytes=1 << 20, on_drop=make_batcher().note_dropped)
        publisher.put(one_message(make_batcher(), 1))
        with pytest.raises(FleetflameError) as caught:
            await publisher.run()
    assert "permissions violation" in caught.value.message
    assert "web-1=example=org" in caught.value.hint
    assert "secret" not in caught.value.message + caught.value.hint


async def test_wrong_credentials_are_an_error_at_start(nats_servers: Servers) -> None:
    """The server's words are passed on."""
    server = limited(nats_servers, publish='[">"]', subscribe='[">"]')
    bus = Bus(BusConfig(servers=(as_user(server, "node:wrong"),), node=NODE))
    with pytest.raises(FleetflameError) as caught:
        await bus.start()
    assert "authorization violation" in caught.value.message


async def test_a_user_who_is_revoked_while_running_ends_the_publisher(nats_servers: Servers) -> None:
    """Whether the server says so on the old connection or on the next one."""
    server = limited(nats_servers, publish='[">"]', subscribe='[">"]')
    async with connected(as_user(server, "node:secret")) as bus, asyncio.timeout(60):
        publisher = Publisher(bus, queue_bytes=1 << 20, on_drop=make_batcher().note_dropped)
        publisher.put(one_message(make_batcher(), 1))
        running = asyncio.create_task(publisher.run())
        assert await publisher.flush(20) == 0
        server.settings = server.settings.replace("password: secret", "password: other")
        server.reload()
        with pytest.raises(FleetflameError, match="refuses this user: authorization"):
            await running


async def test_the_bus_is_made_as_specified_and_found_the_second_time(nats_server: NatsServer) -> None:
    """Stream on disk with its limits, object store and bucket with its time to live."""
    async with admin(nats_server.url) as jetstream:
        await ensure_bus(jetstream)
        await ensure_bus(jetstream)
        config = (await jetstream.stream_info(BATCH_STREAM)).config
        assert config.subjects == [BATCH_SUBJECTS]
        assert (config.max_bytes, config.max_age, config.duplicate_window) == (BATCHES.max_bytes, 86400, 120)
        assert config.storage == StorageType.FILE
        assert (await (await jetstream.key_value(NODE_BUCKET)).status()).ttl == NODE_TTL_S
        await jetstream.object_store(SYMBOL_STORE)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (StreamConfig(name=BATCH_STREAM, subjects=["ff.v1.>"]), "takes `ff.v1.>` instead of `ff.v1.batch.*`"),
        (
            StreamConfig(name=BATCH_STREAM, subjects=[BATCH_SUBJECTS], storage=StorageType.MEMORY),
            "keeps its messages in memory",
        ),
        (
            StreamConfig(name=BATCH_STREAM, subjects=[BATCH_SUBJECTS], max_msg_size=1000),
            "takes messages of 1000 bytes at most",
        ),
    ],
)
async def test_a_stream_that_cannot_work_is_refused(
    nats_server: NatsServer, config: StreamConfig, problem: str
) -> None:
    """Other subjects, no disk, too small: the publisher says what is wrong with which stream."""
    async with admin(nats_server.url) as jetstream:
        await jetstream.add_stream(config)
    async with connected(nats_server.url) as bus:
        with pytest.raises(FleetflameError) as caught:
            await Publisher(bus, queue_bytes=1 << 20, on_drop=make_batcher().note_dropped).run()
    assert caught.value.message.startswith(f"the stream `{BATCH_STREAM}` {problem}")
    assert BATCH_STREAM in caught.value.hint


async def test_a_server_without_jetstream_is_an_error(nats_servers: Servers) -> None:
    """No stream can be made: the hint says how to start the server."""
    server = nats_servers("accounts { A { users: [ { user: a, password: a } ] } }\nno_auth_user: a")
    server.start()
    async with connected(server.url) as bus:
        with pytest.raises(FleetflameError) as caught:
            await Publisher(bus, queue_bytes=1 << 20, on_drop=make_batcher().note_dropped).run()
    assert "JetStream" in caught.value.message
    assert caught.value.hint
