"""The connection to NATS: one client that comes back by itself for as long as the agent runs.

What ends that comes out of `Bus.failed`: the server refuses the user, or a subject without which nothing works, or it
closed the connection for good. These are the operator's to mend, and trying again quietly would hide them.

`ensure_bus` makes what has to exist there, and checks what does. Who may neither look nor make (a node's user is denied
JetStream's API, and then the server answers nothing) uses what an operator or an aggregator made.
"""

import asyncio
import contextlib
import logging
import os
import random
from dataclasses import dataclass
from typing import Any, NoReturn

from nats.aio.client import Client, Server
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, ObjectStoreConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from agent import metrics
from fleetflame import subjects
from fleetflame.errors import FleetflameError, cause_of
from fleetflame.subjects import StreamSpec

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5
PING_INTERVAL_S = 10
"""Two unanswered pings and a third interval: a half-open connection is noticed within 30 s."""
LONGEST_RETRY_S = 10.0
"""Between attempts to reconnect: a fleet is back within seconds of its server, and not in one moment."""
REPLY_TIMEOUT_S = 5.0
LEAST_MESSAGE_BYTES = 4096
"""Below that no server is of use: what it refuses is counted."""
PERMISSIONS_VIOLATION = "permissions violation"
AUTHORIZATION = "authorization"
"""In the server's words and the library's, lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusConfig:
    """Which servers (URLs, with user and password or token where needed), and for which node."""

    servers: tuple[str, ...]
    node: str

    @property
    def subject(self) -> str:
        """Where this node's batches go."""
        return subjects.batch(self.node)

    @property
    def inbox(self) -> str:
        """Prefix of the subjects that replies come on: the node's own, so that its user may be denied all others."""
        return f"_INBOX_{subjects.token(self.node)}"

    @property
    def shown(self) -> str:
        """The servers without what may be secret in their URLs."""
        return ",".join(server.rpartition("@")[2].removeprefix("nats://") for server in self.servers)


class Bus:
    """One connection and its JetStream context. `start` before anything else, `close` at the end."""

    def __init__(self, config: BusConfig) -> None:
        self.config = config
        self.client = Client()
        self.jetstream: JetStreamContext = self.client.jetstream(timeout=REPLY_TIMEOUT_S)
        self._connected = asyncio.Event()
        self._failed = asyncio.Event()
        self._failure: FleetflameError | None = None
        self._refusals = 0
        self._told = ""
        self._refused: set[str] = set()
        self._last_error: Exception | None = None
        self._all_refused = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connected.is_set()

    @property
    def max_payload(self) -> int:
        """Bytes that one message may have, headers included, as the server said last."""
        return int(self.client.max_payload)

    @property
    def message_bytes(self) -> int:
        """Bytes that a batch may have so that this server takes it. Changes when another server is reached."""
        return max(LEAST_MESSAGE_BYTES, min(subjects.MAX_MESSAGE_BYTES, self.max_payload - subjects.HEADER_BYTES))

    async def wait_connected(self) -> None:
        """Returns once there is a connection."""
        await self._connected.wait()

    async def failed(self) -> NoReturn:
        """Never returns; raises FleetflameError once the connection is of no use any more."""
        await self._failed.wait()
        assert self._failure is not None, "set before the event"
        raise self._failure

    async def start(self, *, wait: bool = False) -> None:
        """Connects. Raises FleetflameError if no server can be reached; with `wait` returns at once, keeps trying."""
        self._connecting = asyncio.create_task(self._connect(), name="connect to NATS")
        if wait:
            return
        refused = asyncio.create_task(self._all_refused.wait())
        try:
            await asyncio.wait({self._connecting, refused}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            refused.cancel()
        if not self._connecting.done():
            await self.close()
            raise self._failure or self._unreachable()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Ends the connection, with what was written to it sent before; never raises for the state that it is in."""
        self._closing = True
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        if self.connected:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                await self.client.flush(timeout=1)
        await self.client.close()
        self._set_connected(False)

    async def _connect(self) -> None:
        try:
            await self.client.connect(
                servers=list(self.config.servers),
                name=f"fleetflame agent {self.config.node}",
                inbox_prefix=self.config.inbox,
                connect_timeout=CONNECT_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                # Endless; the library gives up only above 0.
                max_reconnect_attempts=-1,
                reconnect_time_wait=2,
                reconnect_to_server_handler=_next_server,
                # Nothing is kept while there is no connection: the publisher does that, within its bound.
                pending_size=0,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
            )
        except (OSError, ValueError, RuntimeError) as error:
            self._last_error = error
            self._fail(self._unreachable())
            return
        self._set_connected(True)

    async def _on_error(self, error: Exception) -> None:
        text = str(error).lower()
        self._last_error = error
        if PERMISSIONS_VIOLATION in text:
            self._on_refused(text.removeprefix("nats: "))
            return
        if AUTHORIZATION in text:
            self._on_unauthorized(error)
        self._refusals += 1
        if self._refusals >= len(self.config.servers):
            self._all_refused.set()
        level = logging.WARNING if self._refusals == 1 else logging.DEBUG
        log.log(level, "no connection to NATS", extra={"servers": self.config.shown, "cause": _cause(error)})

    def _on_refused(self, violation: str) -> None:
        # The library hands us the server's words in lower case.
        needed = (f'"{self.config.subject.lower()}"', f'"{self.config.inbox.lower()}.')
        if not any(subject in violation for subject in needed):
            if violation not in self._refused:
                self._refused.add(violation)
                log.warning("NATS refuses a subject", extra={"violation": violation})
            return
        self._fail(
            FleetflameError(
                f"NATS at `{self.config.shown}` refuses what an agent needs: {violation}",
                hint=f"let its user publish to `{self.config.subject}` and subscribe to `{self.config.inbox}.>`",
            )
        )

    def _on_unauthorized(self, error: Exception | None) -> None:
        self._fail(
            FleetflameError(
                f"NATS at `{self.config.shown}` refuses this user: {_cause(error)}",
                hint="check user, password or token in `--nats`",
            )
        )

    async def _on_disconnected(self) -> None:
        self._set_connected(False)
        if not self._closing:
            log.warning("lost the connection to NATS", extra={"servers": self.config.shown})

    async def _on_reconnected(self) -> None:
        self._told = ""
        metrics.RECONNECTS.inc()
        self._set_connected(True)
        log.info("connected to NATS again", extra={"servers": self.config.shown})

    async def _on_closed(self) -> None:
        if self._closing:
            return
        error = self.client.last_error or self._last_error
        if AUTHORIZATION in str(error).lower():
            self._on_unauthorized(error)
        self._fail(
            FleetflameError(f"NATS at `{self.config.shown}` closed the connection: {_cause(error)}", hint="see its log")
        )

    def _unreachable(self) -> FleetflameError:
        return FleetflameError(
            f"failed to reach NATS at `{self.config.shown}`: {_cause(self._last_error)}",
            hint="start nats-server with JetStream (`-js`), or name another with `--nats URL`",
        )

    def _fail(self, failure: FleetflameError) -> None:
        self._failure = self._failure or failure
        self._failed.set()

    def _set_connected(self, connected: bool) -> None:
        metrics.CONNECTED.set(int(connected))
        if connected:
            self._connected.set()
        else:
            self._connected.clear()


def _cause(error: Exception | None) -> str:
    if isinstance(error, OSError):
        # asyncio has words of its own instead of the system's; a resolver's errors are negative numbers.
        return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else cause_of(error)
    return str(error).removeprefix("nats: ").strip("'").lower() or repr(error)


def _next_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """Any of the servers that failed least often, after a time that grows with its failures and is never the same."""
    fewest = min(server.reconnects for server in servers)
    server = random.choice([server for server in servers if server.reconnects == fewest])
    return server, random.uniform(0, min(LONGEST_RETRY_S, 0.5 * 2**fewest))


async def ensure_bus(jetstream: JetStreamContext) -> None:
    """Stream, object store and bucket are there afterwards, if that is in our power.

    Raises FleetflameError if the server has no JetStream or refuses to make them, or if what is there would lose or
    misdirect batches.
    """
    try:
        await _ensure_stream(jetstream, subjects.BATCHES)
        await _ensure_buckets(jetstream)
    except TimeoutError:
        log.info("may not look at JetStream: using the streams that are there")
    except (NoRespondersError, ServiceUnavailableError) as error:
        raise FleetflameError(
            f"NATS has no JetStream: {error}", hint="start nats-server with `-js` and a store directory"
        ) from error
    except APIError as error:
        raise FleetflameError(
            f"failed to set up JetStream: {error.description}",
            hint="make room in its store, or make the streams by hand: docs/wire.md has their settings",
        ) from error


async def _ensure_stream(jetstream: JetStreamContext, spec: StreamSpec) -> None:
    try:
        found = (await jetstream.stream_info(spec.name)).config
    except NotFoundError:
        # Made by someone else meanwhile: the server answers as if this call had, if the settings are equal.
        await jetstream.add_stream(stream_config(spec))
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


async def _ensure_buckets(jetstream: JetStreamContext) -> None:
    try:
        await jetstream.object_store(subjects.SYMBOL_STORE)
    except NotFoundError:
        await jetstream.create_object_store(
            subjects.SYMBOL_STORE,
            ObjectStoreConfig(max_bytes=subjects.SYMBOL_STORE_BYTES, storage=StorageType.FILE),
        )
    try:
        await jetstream.key_value(subjects.NODE_BUCKET)
    except NotFoundError:
        await jetstream.create_key_value(
            KeyValueConfig(bucket=subjects.NODE_BUCKET, ttl=subjects.NODE_TTL_S, storage=StorageType.FILE)
        )


def stream_config(spec: StreamSpec) -> StreamConfig:
    """`spec` in the library's terms."""
    return StreamConfig(
        name=spec.name,
        subjects=[spec.subjects],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_bytes=spec.max_bytes,
        max_age=spec.max_age_s,
        max_msg_size=spec.max_message_bytes,
        duplicate_window=spec.duplicate_window_s,
    )
