"""The aggregator's connection to NATS: streams and the shared consumer, made where there are none.

What is found is used as it is: an operator may have chosen other limits, replicas or placement. What is found and
cannot work (another kind of consumer, or a stream that agents refuse too) is refused with the difference.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from aggregator.config import redacted
from fleetflame.errors import FleetflameError, cause_of
from fleetflame.subjects import BATCH_CONSUMER, BATCH_STREAM, BATCHES, REJECTED, StreamSpec

log = logging.getLogger(__name__)

CONNECT_S = 5
"""How long one attempt to connect may take."""
AUTHORIZATION = "authorization"
"""In the server's words and the library's, lower case."""
ACK_WAIT_S = 60
"""After this long without a sign of life a message is given to another aggregator."""
MAX_ACK_PENDING = 2000
"""Messages out to all aggregators together: ten groups, and 1 GB at the very most, spread over them."""


class _Connection:
    """What the client's callbacks know: said once per outage, and whether it is of any use to go on."""

    def __init__(self, url: str, body: "asyncio.Task[object]") -> None:
        self.client = Client()
        self.tried = asyncio.Event()
        """The first attempt is over, whatever came of it."""
        self.failure: FleetflameError | None = None
        self.closing = False
        self._url = url
        self._body = body
        self._away = False
        self._was_connected = False

    async def connect(self, name: str) -> None:
        """Returns once there is a connection; from then on the client keeps it by itself."""
        await self.client.connect(
            servers=[part.strip() for part in self._url.split(",")],
            name=name,
            error_cb=self._on_error,
            disconnected_cb=self._on_lost,
            reconnected_cb=self._on_back,
            closed_cb=self._on_closed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            connect_timeout=CONNECT_S,
            allow_reconnect=True,
        )
        self._was_connected = True
        if self._away:
            await self._on_back()
        self.tried.set()

    async def _on_error(self, error: Exception) -> None:
        if AUTHORIZATION in str(error).lower():
            self._fail(f"NATS at `{redacted(self._url)}` refuses this user: {_cause(error)}", "check user and password")
            if not self._was_connected and self.failure is not None:
                raise self.failure  # out of `connect`, which would try again and, cancelled then, leave a socket open
        elif self.client.is_connected:
            log.warning("trouble with the bus", extra={"error": _cause(error)})
        else:
            self._note_away(_cause(error))
        self.tried.set()

    async def _on_lost(self) -> None:
        if not self.closing:
            self._note_away("the server closed the connection, or does not answer")

    async def _on_back(self) -> None:
        self._away = False
        log.info("connected to NATS", extra={"nats": redacted(self._url)})

    async def _on_closed(self) -> None:
        if not self.closing:
            cause = _cause(self.client.last_error)
            self._fail(f"NATS at `{redacted(self._url)}` closed the connection: {cause}", "see its log")

    def _note_away(self, cause: str) -> None:
        level, self._away = logging.DEBUG if self._away else logging.WARNING, True
        about = {"nats": redacted(self._url), "cause": cause}
        log.log(level, "no connection to NATS: queries are answered, nothing new is stored", extra=about)

    def _fail(self, message: str, hint: str) -> None:
        if self.failure is None and not self.closing:
            self.failure = FleetflameError(message, hint=hint)
            self._body.cancel()


@asynccontextmanager
async def connected(url: str, *, name: str = "fleetflame-aggregator") -> AsyncIterator[Client]:
    """A client of the server(s) `url`, comma-separated, that connects for as long as the body runs.

    The body begins when the first attempt is over, even if it failed: a bus that is away is waited for. A server that
    refuses the user, or closes the connection for good, ends the body with FleetflameError.
    """
    body = asyncio.current_task()
    assert body is not None, "a coroutine runs in a task"
    connection = _Connection(url, body)
    connecting = asyncio.create_task(connection.connect(name), name="connect to NATS")
    try:
        await connection.tried.wait()
        yield connection.client
    except asyncio.CancelledError:
        if connection.failure is None:
            raise
        body.uncancel()
        raise connection.failure from None
    finally:
        connection.closing = True
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await connection.client.close()


def _cause(error: Exception | None) -> str:
    if isinstance(error, OSError):
        # asyncio has words of its own instead of the system's; a resolver's errors are negative numbers.
        return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else cause_of(error)
    return str(error).removeprefix("nats: ").strip("'").lower() or repr(error)


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
        found = (await jetstream.stream_info(spec.name)).config
    except NotFoundError:
        await jetstream.add_stream(_stream_config(spec))
        return
    problem = spec.problem(
        subjects=found.subjects or (),
        on_disk=found.storage == StorageType.FILE,
        max_message_bytes=found.max_msg_size or -1,
    )
    if problem:
        raise FleetflameError(
            f"the stream `{spec.name}` {problem}", hint=f"edit it, or remove it (`nats stream rm {spec.name}`)"
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
        # What is asked of a client that was never connected is lost, and so are the answers to all later questions.
        if not client.is_connected:
            raise FleetflameError("no connection to NATS")
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
