"""The aggregator's connection to NATS: streams and the shared consumer, made where there are none.

What is found is used as it is: an operator may have chosen other limits, replicas or placement. What is found and
cannot work (another kind of consumer, other subjects) is refused with the difference.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from fleetflame.errors import FleetflameError
from fleetflame.subjects import BATCH_CONSUMER, BATCH_STREAM, BATCHES, REJECTED, StreamSpec

log = logging.getLogger(__name__)

CONNECT_S = 10
"""How long the first connection may take. Later ones are tried for ever: the bus may be away for a while."""
ACK_WAIT_S = 60
"""After this long without a sign of life a message is given to another aggregator."""
MAX_ACK_PENDING = 2000
"""Messages out to all aggregators together: ten groups, and 1 GB at the very most, spread over them."""


@asynccontextmanager
async def connected(url: str, *, name: str = "fleetflame-aggregator") -> AsyncIterator[Client]:
    """A client of the server(s) `url`, comma-separated, that reconnects for ever. Raises FleetflameError at first."""
    client = Client()
    seen: list[Exception] = []

    async def on_error(error: Exception) -> None:
        seen.append(error)
        del seen[:-1]
        log.warning("trouble with the bus", extra={"error": str(error) or type(error).__name__})

    async def on_reconnect() -> None:
        log.info("connected to the bus again")

    connecting = client.connect(
        servers=[part.strip() for part in url.split(",")],
        name=name,
        error_cb=on_error,
        reconnected_cb=on_reconnect,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        connect_timeout=5,
        allow_reconnect=True,
    )
    try:
        await asyncio.wait_for(connecting, CONNECT_S)
    except (TimeoutError, OSError, nats.errors.Error) as error:
        await client.close()
        cause = seen[-1] if seen else error
        raise FleetflameError(
            f"failed to reach NATS: {str(cause) or 'no answer'}",
            hint="is the server up and --nats right, credentials included?",
        ) from error
    try:
        yield client
    finally:
        await client.close()


async def ensure_streams(jetstream: JetStreamContext) -> None:
    """Makes the streams of batches and of rejected batches unless they are there. Raises FleetflameError."""
    for spec in (BATCHES, REJECTED):
        try:
            await _ensure_stream(jetstream, spec)
        except (APIError, nats.errors.Error) as error:
            raise FleetflameError(
                f"failed to set up the stream `{spec.name}`: {str(error) or 'no answer'}",
                hint="is JetStream on, and may this user manage streams?",
            ) from error


async def _ensure_stream(jetstream: JetStreamContext, spec: StreamSpec) -> None:
    try:
        found = await jetstream.stream_info(spec.name)
    except NotFoundError:
        await jetstream.add_stream(_stream_config(spec))
        return
    if spec.subjects not in (found.config.subjects or []):
        raise FleetflameError(
            f"the stream `{spec.name}` has the subjects {found.config.subjects}, not `{spec.subjects}`",
            hint="rename or remove it",
        )


def _stream_config(spec: StreamSpec) -> StreamConfig:
    return StreamConfig(
        name=spec.name,
        subjects=[spec.subjects],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_bytes=spec.max_bytes,
        max_age=spec.max_age_s,
        max_msg_size=spec.max_message_bytes,
        duplicate_window=spec.duplicate_window_s,
    )


def subscriber(client: Client) -> Callable[[], Awaitable[JetStreamContext.PullSubscription]]:
    """What `Ingest` asks for its subscription: streams and consumer are made where they are missing."""
    jetstream = client.jetstream()

    async def subscribe() -> JetStreamContext.PullSubscription:
        await ensure_streams(jetstream)
        return await batches(jetstream)

    return subscribe


async def batches(jetstream: JetStreamContext, *, ack_wait_s: float = ACK_WAIT_S) -> JetStreamContext.PullSubscription:
    """The durable consumer that all aggregators share, as a subscription to pull from. Raises FleetflameError."""
    try:
        try:
            found = await jetstream.consumer_info(BATCH_STREAM, BATCH_CONSUMER)
        except NotFoundError:
            found = await jetstream.add_consumer(
                BATCH_STREAM,
                ConsumerConfig(
                    durable_name=BATCH_CONSUMER,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=ack_wait_s,
                    max_ack_pending=MAX_ACK_PENDING,
                ),
            )
        if found.config.ack_policy != AckPolicy.EXPLICIT or found.config.deliver_subject:
            raise FleetflameError(
                f"the consumer `{BATCH_CONSUMER}` is not one to pull from with explicit acknowledgement",
                hint="remove it; what is stored already is not stored again",
            )
        return await jetstream.pull_subscribe_bind(consumer=BATCH_CONSUMER, stream=BATCH_STREAM)
    except (APIError, nats.errors.Error) as error:
        raise FleetflameError(
            f"failed to set up the consumer `{BATCH_CONSUMER}`: {str(error) or 'no answer'}",
            hint="may this user manage consumers?",
        ) from error
