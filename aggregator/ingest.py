"""Messages from the stream into the store: validated whole, stored, then acknowledged. Never crashes on a message.

Any number of aggregators pull from one durable consumer, and each message goes to one of them. What becomes of it:

    stored      acknowledged, after it is durable; also if it turns out to be stored already
    postponed   given back with a delay, a few times, while a number in it is unknown: the message that announces the
                stack may be in another aggregator's hands. After that the samples are stored under a placeholder
    rejected    counted under its reason, put into the stream of rejected messages as it came, and terminated
    held        kept, with signs of life to the bus, while the store is in trouble; tried again and again

A group of messages is stored in one go, because the store pays by the insert, not by the row. Two groups are in hand:
while one is stored, which is the engine's work, the next is decoded, which is ours. Each of the two steps has a thread
of its own, so that groups pass in order.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeVar

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError

from aggregator import metrics
from aggregator.numbers import NumberTables
from aggregator.storage import Store
from aggregator.storage.accept import accept
from aggregator.storage.announced import Rejection
from aggregator.storage.types import AcceptedBatch, Fault, StoreError
from fleetflame import subjects, wire
from fleetflame.errors import DecodeError, FleetflameError, RejectReason
from fleetflame.model import Batch, Mapping

log = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")
BUS, STORE = "bus", "store"
STARTING = "not asked for batches yet"

Subscribe = Callable[[], Awaitable[JetStreamContext.PullSubscription]]
Seen = Callable[[str, Sequence[Mapping]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """How messages are taken. The defaults suit 1 to 1,000 nodes."""

    group_messages: int = 200
    group_bytes: int = 4 << 20
    """Compressed. Two groups wait decoded in memory: some ten times as much each."""
    linger_s: float = 0.25
    """How long a group that is not full waits for more. Costs that much latency and saves parts on disk."""
    fetch_s: float = 1.0
    """How long one request to the bus waits; stopping takes that long."""
    hold_s: float = 20.0
    """How often a message in hand gives a sign of life: three times in the consumer's 60 s."""
    postponements: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Delays in seconds before a number is given up as unknown: longer than another aggregator needs for a group."""
    backoff_s: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
    """Pauses while the store is in trouble; the last one repeats."""
    future_s: int = 300
    """How far a node's clock may be ahead."""


@dataclass(slots=True)
class _Group:
    """What becomes of the messages of a group."""

    accepted: list[tuple[Msg, AcceptedBatch]] = field(default_factory=list)
    postponed: list[Msg] = field(default_factory=list)
    rejected: list[tuple[Msg, DecodeError]] = field(default_factory=list)


GROUPS_IN_HAND = 2


class Ingest:
    """One aggregator's share of the stream."""

    def __init__(
        self,
        subscribe: Subscribe,
        jetstream: JetStreamContext,
        store: Store,
        *,
        options: IngestOptions | None = None,
        seen: Seen | None = None,
    ) -> None:
        """`subscribe` makes stream and consumer where missing. `seen` hears of the mappings of each stored batch."""
        self._subscribe = subscribe
        self._jetstream = jetstream
        self._store = store
        self._options = options or IngestOptions()
        self._seen = seen
        self._numbers = NumberTables(store.numbers)
        self._stopping = asyncio.Event()
        self._in_hand: set[asyncio.Task[None]] = set()
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._storing = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._turn = asyncio.Lock()
        self._troubles = {BUS: STARTING, STORE: ""}

    @property
    def trouble(self) -> str:
        """What keeps it from storing, or ""."""
        return next((f"{part}: {trouble}" for part, trouble in self._troubles.items() if trouble), "")

    def stop(self) -> None:
        """Makes `run` return once the groups in hand are stored, or given back if the store is in trouble."""
        self._stopping.set()

    async def run(self) -> None:
        """Takes messages until `stop`."""
        try:
            while not self._stopping.is_set():
                try:
                    await self._take(await self._subscribe())
                except (TimeoutError, nats.errors.Error, APIError, FleetflameError, OSError) as error:
                    self._note_trouble(BUS, str(error) or "no answer")
                    await self._pause(self._options.backoff_s[1])
        finally:
            await asyncio.gather(*self._in_hand)
            self._decoding.shutdown()
            self._storing.shutdown()

    async def _take(self, subscription: JetStreamContext.PullSubscription) -> None:
        """Group after group, until `stop` or until the consumer is gone."""
        idle = 0
        self._note_trouble(BUS, "")
        while not self._stopping.is_set():
            messages = await self._fetch(subscription)
            idle = 0 if messages else idle + 1
            for group in self._groups(messages):
                await self._has_room()
                self._in_hand.add(asyncio.create_task(self._process(group), name="ingest-group"))
            if idle % 30 == 29:
                # An empty stream and a consumer that somebody removed look the same: nothing comes.
                await subscription.consumer_info()

    async def _has_room(self) -> None:
        """Waits until another group may be taken in hand. A group that met a bug of ours raises it here."""
        while len(self._in_hand) >= GROUPS_IN_HAND:
            done, _ = await asyncio.wait(self._in_hand, return_when=asyncio.FIRST_COMPLETED)
            self._in_hand -= done
            for task in done:
                task.result()

    async def _fetch(self, subscription: JetStreamContext.PullSubscription) -> list[Msg]:
        options = self._options
        messages: list[Msg] = []
        with contextlib.suppress(asyncio.TimeoutError):
            messages += await subscription.fetch(options.group_messages, timeout=options.fetch_s)
        if 0 < len(messages) < options.group_messages and await self._pause(options.linger_s):
            with contextlib.suppress(asyncio.TimeoutError):
                more = options.group_messages - len(messages)
                messages += await subscription.fetch(more, timeout=0.05)
        return messages

    def _groups(self, messages: Sequence[Msg]) -> list[list[Msg]]:
        groups: list[list[Msg]] = []
        size = 0
        for message in messages:
            if not groups or size + len(message.data) > self._options.group_bytes:
                groups.append([])
                size = 0
            groups[-1].append(message)
            size += len(message.data)
        return groups

    async def _process(self, messages: list[Msg]) -> None:
        started = time.monotonic()
        async with self._held(messages):
            group = await self._insistently(self._decoding, self._decode, messages)
            async with self._turn:
                stored = group is not None and await self._insistently(self._storing, self._store_group, group)
        try:
            if group is not None and stored:
                await self._settle(group)
            else:
                await asyncio.gather(*(message.nak() for message in messages))
        except (nats.errors.Error, OSError) as error:
            # What is stored comes again and is found to be stored.
            log.warning("failed to acknowledge a group", extra={"error": str(error)})
        metrics.GROUP_SECONDS.observe(time.monotonic() - started)

    async def _insistently(self, thread: ThreadPoolExecutor, work: Callable[[A], R], argument: A) -> R | None:
        """What `work` returns, however often the store fails before; None if `stop` is called meanwhile."""
        loop = asyncio.get_running_loop()
        for pause in itertools.chain(self._options.backoff_s, itertools.repeat(self._options.backoff_s[-1])):
            try:
                result = await loop.run_in_executor(thread, work, argument)
            except StoreError as error:
                self._note_trouble(STORE, error.message)
                if not await self._pause(pause):
                    return None
            else:
                # A group that was only decoded says nothing about the one that waits to be stored.
                if thread is self._storing:
                    self._note_trouble(STORE, "")
                return result
        raise AssertionError("the pauses do not end")

    def _decode(self, messages: Sequence[Msg]) -> _Group:
        """Decodes, checks and resolves; in its thread. After a StoreError it can simply be called again."""
        group = _Group()
        now = int(time.time())
        floor = self._store.floor(now)
        for message in messages:
            try:
                batch = self._checked(message, floor, now)
            except DecodeError as error:
                group.rejected.append((message, error))
                continue
            stacks, numbers, whole = self._numbers.resolve(batch)
            if not whole and message.metadata.num_delivered <= len(self._options.postponements):
                group.postponed.append(message)
                continue
            group.accepted.append((message, accept(batch, stacks, numbers, now)))
        return group

    def _store_group(self, group: _Group) -> bool:
        """Stores what was accepted and counts what was not; in its thread. True, or StoreError: then again."""
        try:
            done = self._store.insert([batch for _, batch in group.accepted])
            metrics.MESSAGES.labels("duplicate").inc(done.duplicates)
        except StoreError as error:
            if error.fault is not Fault.REFUSED:
                raise
            # Either the engine refuses everything, and then this raises too, or one of the batches is to blame.
            self._store.check()
            self._insert_singly(group)
        self._store.reject([_rejection(*row) for row in group.rejected])
        return True

    def _checked(self, message: Msg, floor: int, now: int) -> Batch:
        batch = wire.decode(message.data)
        node = subjects.node_of(message.subject)
        if batch.node != node:
            raise DecodeError(RejectReason.NODE, f"`{batch.node}` on the subject of `{node}`")
        ahead = batch.window_start_ns / 1e9 - now
        if ahead > self._options.future_s:
            raise _RefusedError(RejectReason.FUTURE, f"{ahead:.0f} s ahead", batch)
        if batch.window_start_ns < floor * 10**9:
            raise _RefusedError(RejectReason.TOO_OLD, f"{-ahead:.0f} s old", batch)
        return batch

    def _insert_singly(self, group: _Group) -> None:
        accepted: list[tuple[Msg, AcceptedBatch]] = []
        refused: list[tuple[Msg, DecodeError]] = []
        for message, batch in group.accepted:
            try:
                self._store.insert([batch])
                accepted.append((message, batch))
            except StoreError as error:
                if error.fault is not Fault.REFUSED:
                    raise
                refused.append((message, _RefusedError(RejectReason.STRUCTURE, error.message, batch)))
        group.accepted = accepted
        group.rejected += refused

    async def _settle(self, group: _Group) -> None:
        """Tells the bus what became of the messages, and the metrics."""
        for message, error in group.rejected:
            await self._set_aside(message, error)
        for message in group.postponed:
            await message.nak(self._options.postponements[message.metadata.num_delivered - 1])
        for message, batch in group.accepted:
            await message.ack()
            _count(batch)
            if self._seen is not None and batch.mappings:
                self._seen(batch.node, batch.mappings)
        last = [*group.postponed, *(message for message, _ in group.accepted)][-1:]
        for message in last:
            metrics.PENDING.set(message.metadata.num_pending)
        metrics.MESSAGES.labels("stored").inc(len(group.accepted))
        metrics.POSTPONED.inc(len(group.postponed))

    async def _set_aside(self, message: Msg, why: DecodeError) -> None:
        node_token = message.subject.rsplit(".", 1)[-1]
        about = {"node": subjects.node_of(message.subject), "reason": why.reason.value, "detail": why.detail[:500]}
        log.warning("rejected a batch", extra=about)
        headers = {
            "Nats-Msg-Id": f"{_message_hash(message):016x}",
            "Fleetflame-Reason": why.reason.value,
            "Fleetflame-Detail": ascii(why.detail)[1:-1][:500],
        }
        try:
            await self._jetstream.publish(subjects.rejected(node_token), message.data, headers=headers)
        except (TimeoutError, nats.errors.Error, APIError) as error:
            # It is counted; whether it can be looked at is second to that no message comes back for ever.
            log.warning("failed to set a rejected batch aside", extra={"error": str(error)})
            if message.metadata.num_delivered <= len(self._options.postponements):
                await message.nak(self._options.postponements[-1])
                return
        metrics.REJECTED.labels(why.reason.value).inc()
        metrics.MESSAGES.labels("rejected").inc()
        await message.term()

    @contextlib.asynccontextmanager
    async def _held(self, messages: Sequence[Msg]) -> AsyncIterator[None]:
        """Tells the bus now and then that `messages` are being worked on."""

        async def hold() -> None:
            while True:
                await asyncio.sleep(self._options.hold_s)
                with contextlib.suppress(nats.errors.Error):
                    for message in messages:
                        await message.in_progress()

        holding = asyncio.create_task(hold(), name="ingest-hold")
        try:
            yield
        finally:
            holding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await holding

    async def _pause(self, seconds: float) -> bool:
        """Waits; returns early, and False, when `stop` is called."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return not self._stopping.is_set()

    def _note_trouble(self, part: str, trouble: str) -> None:
        before = self.trouble
        self._troubles[part] = trouble
        if self.trouble and self.trouble != before:
            log.error("cannot store", extra={"error": self.trouble})
        elif before and not self.trouble and STARTING not in before:
            log.info("storing again")
        metrics.HEALTHY.set(0 if self.trouble else 1)


class _RefusedError(DecodeError):
    """A batch that is well formed and all the same cannot be kept."""

    def __init__(self, reason: RejectReason, detail: str, batch: Batch | AcceptedBatch) -> None:
        super().__init__(reason, detail)
        self.samples = batch.ledger.taken


def _rejection(message: Msg, why: DecodeError) -> Rejection:
    return Rejection(
        node=subjects.node_of(message.subject),
        reason=why.reason,
        # The message's own time: counted again after a redelivery, it is the same row.
        time=int(message.metadata.timestamp.timestamp()),
        message=_message_hash(message),
        samples=why.samples if isinstance(why, _RefusedError) else 0,
    )


def _message_hash(message: Msg) -> int:
    about = f"{message.metadata.sequence.stream} {message.subject}\n".encode()
    return int.from_bytes(blake2b(about + message.data, digest_size=8).digest(), "little")


def _count(batch: AcceptedBatch) -> None:
    metrics.SAMPLES.inc(int(batch.sample_count.sum()))
    metrics.ROWS.inc(len(batch.sample_count))
    metrics.STACKS.inc(len(batch.stacks))
    for reason, count in batch.ledger.lost.items():
        metrics.LOST.labels(reason).inc(count)
    for reason, count in batch.ledger.degraded.items():
        metrics.DEGRADED.labels(reason).inc(count)
    metrics.INGEST_LAG.observe(max(0.0, time.time() - batch.time))
