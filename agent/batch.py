"""A normalized window -> messages that fit, each of which balances by itself.

A stack's frames travel once in a generation of the dictionary, in the message that first refers to it; after that only
its number does. A generation ends after ten minutes, when it knows too many stacks, and when a message was dropped,
for then the receiver does not know what that message announced.

What a message says of samples:

    taken            its rows' samples + what it reports as lost
    taken_in_epoch   samples taken since the agent's start, each counted once, when it is first reported

A dropped message's samples are reported again, as lost, by the next batch: they are in that one's `taken`, but not
counted into `taken_in_epoch` a second time. So for the receiver, at any time and in any order of arrival,
max(taken_in_epoch) - sum(taken) over an epoch's messages is exactly what never reached it: 0 once drops are reported.
"""

import math
from collections import Counter
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from agent import metrics
from agent.dictionary import StackDictionary
from agent.normalize import NormalizedWindow
from agent.rows import NumberedRows, Part, number_rows
from fleetflame import envelope, wire
from fleetflame.model import Batch, Ledger
from fleetflame.subjects import MAX_MESSAGE_BYTES

TOO_LARGE = "message_too_large"
"""Ledger reason: a single row with its stack does not fit, as may be where the server allows very small messages."""

SPLIT_MARGIN = 1.2
"""How much more than its share a part of a message may take: parts have tables of their own and differ in content."""

HEAD_ENTRIES = 128
"""Fields of a batch that are no tables, and the ledger's strings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How large a message and the dictionary may get."""

    message_bytes: int = MAX_MESSAGE_BYTES
    """Compressed. Less if the server's `max_payload` is less."""
    dictionary_s: int = 600
    """For how long a receiver that lost a message cannot name stacks, at worst."""
    dictionary_stacks: int = 1 << 16
    """12 bytes each."""
    content: envelope.Limits = envelope.DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One encoded batch. `samples` are carried in rows, `lost` is reported; together they are `taken`."""

    payload: bytes
    message_id: str
    sequence: int
    window_start_ns: int
    samples: int
    lost: MappingOf[str, int] = field(default_factory=dict)

    @property
    def taken(self) -> int:
        """Samples that this message accounts for."""
        return self.samples + sum(self.lost.values())


class Batcher:
    """Makes a node's messages. Not for two threads at a time."""

    def __init__(self, *, node: str, epoch: bytes, limits: BatchLimits | None = None) -> None:
        """`epoch` is 16 random bytes, new at each start of the agent. The first sequence number is 1."""
        self._node = node
        self._epoch = epoch
        self._limits = limits or BatchLimits()
        self._known = StackDictionary()
        self._known_since_ns: int | None = None
        self._sequence = 0
        self._taken_in_epoch = 0
        self._lost: Counter[str] = Counter()
        self._lost_again: Counter[str] = Counter()

    @property
    def known_stacks(self) -> int:
        """Stacks in the dictionary."""
        return len(self._known)

    def limit_messages(self, message_bytes: int) -> None:
        """From now on a message has `message_bytes` at most: another server may take less than the one before."""
        if message_bytes != self._limits.message_bytes:
            self._limits = replace(self._limits, message_bytes=message_bytes)

    def note_dropped(self, message: Message, reason: str) -> None:
        """`message` will never be sent: the next window reports its samples as lost and announces its stacks anew."""
        self._lost_again[reason] += message.samples
        self._lost_again.update(message.lost)
        self._known_since_ns = None

    def messages(self, window: NormalizedWindow) -> list[Message]:
        """The window's messages, in the order in which they must be sent; at least one, be the window empty."""
        self._renew_dictionary(window)
        rows = number_rows(window, self._known)
        self._lost.update(window.lost)
        messages: list[Message] = []
        pending = [(0, len(rows.number))]
        while pending:
            low, high = pending.pop()
            batch = self._batch(window, rows, rows.part(low, high), first=not messages)
            payload, pieces = self._encode(batch)
            if pieces == 1:
                messages.append(self._numbered(batch, payload))
            elif high - low > 1:
                pending.extend(_split(low, high, pieces))
            else:
                assert high > low, "a batch without rows is some hundred bytes"
                self._give_up(int(rows.count[low]))
                if not pending and not messages:
                    pending.append((0, 0))
        return messages

    def _give_up(self, samples: int) -> None:
        # What the stack's number stands for is never said in this generation.
        self._known_since_ns = None
        self._lost[TOO_LARGE] += samples
        metrics.SAMPLES_LOST.labels(TOO_LARGE).inc(samples)

    def _renew_dictionary(self, window: NormalizedWindow) -> None:
        since, limits = self._known_since_ns, self._limits
        # Before `since`: the wall clock was set back.
        young = since is not None and since <= window.start_ns < since + limits.dictionary_s * 10**9
        if not young or len(self._known) + len(window.stacks) > limits.dictionary_stacks:
            self._known.restart()
            self._known_since_ns = window.start_ns

    def _batch(self, window: NormalizedWindow, rows: NumberedRows, part: Part, *, first: bool) -> Batch:
        tables = rows.tables(part)
        samples = int(tables.sample_count.sum())
        return Batch(
            node=self._node,
            epoch=self._epoch,
            sequence=self._sequence + 1,
            dictionary=self._known.generation,
            window_start_ns=max(window.start_ns, 0),
            window_ns=min(max(window.end_ns - window.start_ns, 1), wire.MAX_WINDOW_NS),
            period_ns=window.period_ns,
            type=window.type,
            mappings=tables.mappings,
            named=tables.named,
            series=tables.series,
            first_number=part.first_new,
            stacks=tables.stacks,
            sample_series=tables.sample_series,
            sample_number=tables.sample_number,
            sample_count=tables.sample_count,
            ledger=Ledger(
                taken=samples + self._lost.total() + self._lost_again.total(),
                taken_in_epoch=self._taken_in_epoch + samples + self._lost.total(),
                lost=dict(sorted((self._lost + self._lost_again).items())),
                degraded=dict(sorted(window.degraded.items())) if first else {},
            ),
        )

    def _encode(self, batch: Batch) -> tuple[bytes, int]:
        """The payload, and 1; or nothing, and how many pieces to make of the batch so that they fit."""
        content = self._limits.content
        excess = max(
            len(batch.sample_count) / content.rows,
            len(batch.stacks) / content.stacks,
            len(batch.stacks.mapping) / content.frames,
            _entries(batch) / content.entries,
            _cells(batch) / content.cells,
        )
        payload = b""
        if excess <= 1:
            raw = wire.serialize(batch)
            excess = len(raw) / content.raw_bytes
        if excess <= 1:
            payload = envelope.wrap(raw)
            excess = len(payload) / self._limits.message_bytes
        return (payload, 1) if excess <= 1 else (b"", math.ceil(excess * SPLIT_MARGIN))

    def _numbered(self, batch: Batch, payload: bytes) -> Message:
        self._sequence = batch.sequence
        self._taken_in_epoch = batch.ledger.taken_in_epoch
        self._lost.clear()
        self._lost_again.clear()
        return Message(
            payload=payload,
            message_id=f"{self._epoch.hex()}-{batch.sequence}",
            sequence=batch.sequence,
            window_start_ns=batch.window_start_ns,
            samples=batch.ledger.taken - sum(batch.ledger.lost.values()),
            lost=batch.ledger.lost,
        )


def _split(low: int, high: int, pieces: int) -> list[tuple[int, int]]:
    # The last first: they are taken from the end.
    cuts = np.unique(np.linspace(low, high, min(pieces, high - low) + 1).astype(int)).tolist()
    return list(pairwise(cuts))[::-1]


def _entries(batch: Batch) -> int:
    """Entries of a message at most, as `Limits.entries` counts them: every string might be another one."""
    texts = len(batch.mappings) + 2 * len(batch.named) + sum(2 * len(labels) for labels in batch.series)
    return HEAD_ENTRIES + texts + len(batch.mappings) + len(batch.named) + len(batch.series)


def _cells(batch: Batch) -> int:
    return sum(map(len, batch.series)) + sum(len(mapping.segments) for mapping in batch.mappings)
