"""Messages -> the stream, in order, each until it is acknowledged, from a queue of bounded size.

One message is under way at a time. A later one may refer to stacks that an earlier one announces, so that order is
worth more than speed here: an agent makes a message or two in ten seconds, and one after the other still sends twenty a
second over a link of 50 ms.

An attempt has three outcomes. Acknowledged: done. Refused: tried again later, or dropped if it can never be accepted.
Unknown (no answer; a server whose disk is full gives none either): tried again under the same message ID, by which the
stream, or the aggregator after two minutes, tells that it has it already. A message of unknown outcome is never dropped
for want of room, since it might be stored *and* reported as lost.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from nats.errors import Error as NatsError
from nats.js.api import Header
from nats.js.errors import APIError, NoStreamResponseError

from agent import metrics
from agent.batch import Message
from agent.bus import REPLY_TIMEOUT_S, Bus, ensure_bus
from fleetflame.errors import FleetflameError
from fleetflame.subjects import HEADER_BYTES

log = logging.getLogger(__name__)

QUEUE_FULL = "queue_full"
"""Ledger reason: the bus was away for longer than the queue could hold."""
REFUSED = "message_refused"
"""Ledger reason: the server will never take this message, whatever the reason is."""

TOO_LARGE_FOR_STREAM = 10054
STREAM_FULL = 10077
"""Error codes of the server (nats-server, server/errors.json): a message above the stream's `max_msg_size`; no room in
a stream that turns new messages away. Every refusal but the first can pass, and then the message is still wanted."""
LONGEST_BACKOFF_S = 15.0
"""Between two attempts. Short against the stream's duplicate window of two minutes."""


@dataclass(slots=True)
class _Entry:
    message: Message
    uncertain: bool = False
    """An attempt is under way, or one ended without an answer: it may be stored."""
    gone: bool = False


class Publisher:
    """Sends what `put` gets, while `run` runs. For one event loop."""

    def __init__(self, bus: Bus, *, queue_bytes: int, on_drop: Callable[[Message, str], None]) -> None:
        """`on_drop` gets each message that will never be sent, and a ledger reason: `Batcher.note_dropped`."""
        self._bus = bus
        self._limit = queue_bytes
        self._on_drop = on_drop
        self._queue: deque[_Entry] = deque()
        self._bytes = 0
        self._dropping = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        metrics.QUEUE_LIMIT_BYTES.set(queue_bytes)

    @property
    def queued(self) -> int:
        """Messages that are not acknowledged yet."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """Their size: `queue_bytes` at most, or one message."""
        return self._bytes

    def put(self, message: Message) -> None:
        """Takes a message for sending. Never waits: where there is no room, the oldest messages make it."""
        self._queue.append(_Entry(message))
        self._bytes += len(message.payload)
        while self._bytes > self._limit and self._drop_oldest():
            pass
        self._changed()

    async def run(self) -> None:
        """Sends until it is cancelled. Raises FleetflameError when the bus is of no use any more: see `Bus.failed`."""
        sending = asyncio.create_task(self._send_all(), name="publish")
        failing = asyncio.create_task(self._bus.failed(), name="watch the bus")
        try:
            await asyncio.wait({sending, failing}, return_when=asyncio.FIRST_COMPLETED)
            # Whichever ended did so by an exception.
            await (failing if failing.done() else sending)
        finally:
            sending.cancel()
            failing.cancel()
            await asyncio.gather(sending, failing, return_exceptions=True)

    async def flush(self, timeout_s: float) -> int:
        """Waits until all is acknowledged, `timeout_s` at most, while `run` runs. How many samples are left unsent."""
        try:
            await asyncio.wait_for(self._emptied.wait(), timeout_s)
        except TimeoutError:
            samples = sum(entry.message.taken for entry in self._queue)
            log.warning("stopping with unsent messages", extra={"messages": len(self._queue), "samples": samples})
            return samples
        return 0

    async def _send_all(self) -> None:
        while not await self._find_stream():
            await asyncio.sleep(1)
        while True:
            await self._filled.wait()
            await self._send(self._queue[0])

    async def _send(self, entry: _Entry) -> None:
        """Returns when the entry has left the queue."""
        failures = 0
        while not entry.gone:
            await self._bus.wait_connected()
            if len(entry.message.payload) + HEADER_BYTES > self._bus.max_payload:
                self._drop(entry, REFUSED)
                return
            cause = await self._attempt(entry)
            if cause:
                failures += 1
                metrics.PUBLISH_FAILURES.labels(cause).inc()
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log.log(level, "failed to publish, trying again", extra={"cause": cause, "queued": self.queued})
                await asyncio.sleep(random.uniform(0, min(LONGEST_BACKOFF_S, 0.25 * 2**failures)))
        if failures:
            log.info("publishing again", extra={"attempts": failures + 1, "queued": self.queued})

    async def _attempt(self, entry: _Entry) -> str:
        """Why it is to be tried again; "" if the entry has left the queue."""
        start = monotonic()
        was_uncertain, entry.uncertain = entry.uncertain, True
        try:
            ack = await self._bus.jetstream.publish(
                self._bus.config.subject,
                entry.message.payload,
                timeout=REPLY_TIMEOUT_S,
                headers={Header.MSG_ID: entry.message.message_id},
            )
        except NoStreamResponseError:
            entry.uncertain = was_uncertain
            await self._make_stream()
            return "no_stream"
        except APIError as error:
            entry.uncertain = was_uncertain
            if error.err_code == TOO_LARGE_FOR_STREAM:
                self._drop(entry, REFUSED)
                return ""
            log.debug("refused", extra={"code": error.err_code, "cause": error.description})
            return "stream_full" if error.err_code == STREAM_FULL else "refused"
        except TimeoutError:
            return "timeout"
        except NatsError:
            # The connection was lost before or while writing.
            return "connection"
        metrics.PUBLISH_SECONDS.observe(monotonic() - start)
        self._published(entry.message, duplicate=bool(ack.duplicate))
        self._remove(entry)
        return ""

    async def _find_stream(self) -> bool:
        await self._bus.wait_connected()
        try:
            await ensure_bus(self._bus.jetstream)
        except NatsError as error:
            log.warning("failed to set up JetStream, trying again", extra={"cause": str(error)})
            return False
        return True

    async def _make_stream(self) -> None:
        # It was there when `run` began: removed since, or its cluster has no leader. Neither is a reason to give up.
        try:
            await ensure_bus(self._bus.jetstream)
        except (FleetflameError, NatsError) as error:
            log.warning("no stream for batches", extra={"cause": str(error)})

    def _published(self, message: Message, *, duplicate: bool) -> None:
        self._dropping = False
        metrics.MESSAGES_PUBLISHED.inc()
        metrics.MESSAGES_DUPLICATE.inc(int(duplicate))
        metrics.BYTES_PUBLISHED.inc(len(message.payload))
        metrics.SAMPLES_PUBLISHED.inc(message.samples)

    def _drop_oldest(self) -> bool:
        oldest = next((entry for entry in self._queue if not entry.uncertain), None)
        if oldest is None:
            return False
        self._drop(oldest, QUEUE_FULL)
        return True

    def _drop(self, entry: _Entry, reason: str) -> None:
        level = logging.DEBUG if self._dropping else logging.WARNING
        self._dropping = True
        message = entry.message
        log.log(level, "dropping a message", extra={"reason": reason, "samples": message.taken, "queued": self.queued})
        metrics.MESSAGES_DROPPED.labels(reason).inc()
        metrics.SAMPLES_LOST.labels(reason).inc(message.samples)
        self._remove(entry)
        self._on_drop(message, reason)

    def _remove(self, entry: _Entry) -> None:
        entry.gone = True
        self._queue.remove(entry)
        self._bytes -= len(entry.message.payload)
        self._changed()

    def _changed(self) -> None:
        metrics.QUEUE_MESSAGES.set(len(self._queue))
        metrics.QUEUE_BYTES.set(self._bytes)
        now, then = (self._filled, self._emptied) if self._queue else (self._emptied, self._filled)
        now.set()
        then.clear()
