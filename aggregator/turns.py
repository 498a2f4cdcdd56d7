"""Whose turn it is: a few threads at work, a short queue, and memory that is asked for before it is used.

A thread cannot be stopped from outside. So work comes in stages, and stops before the next one when nobody waits.
"""

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aggregator import metrics

TRIM_FROM_BYTES = 64 << 20
"""After less than this the allocator's own judgement is good enough."""
_LOOK_AGAIN_S = 0.2


class AbandonedError(Exception):
    """Nobody waits for the answer any more."""


class Memory:
    """Bytes that all work together may hold. Asking for more than there is waits until others are done."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._changed = threading.Condition()

    def take(self, amount: int, abandoned: threading.Event) -> None:
        """Waits for `amount` bytes, which must not be more than all. Raises AbandonedError if nobody waits for us."""
        assert amount <= self.total, "whoever needs more is refused before"
        with self._changed:
            while self._free < amount:
                if abandoned.is_set():
                    raise AbandonedError
                self._changed.wait(_LOOK_AGAIN_S)
            self._free -= amount

    def give_back(self, amount: int) -> None:
        """The opposite of `take`."""
        with self._changed:
            self._free += amount
            self._changed.notify_all()


class Turn:
    """One piece of work: whether its answer is still wanted, and the memory it holds until it is done."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._held = 0
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """The answer is not wanted any more."""
        self._abandoned.set()

    def hold(self, amount: int) -> None:
        """Waits until `amount` bytes may be used. Once a turn: two that each hold half would wait for ever."""
        assert not self._held, "asked for once, for everything"
        self._memory.take(amount, self._abandoned)
        self._held = amount

    def done(self) -> None:
        """Gives back what was held."""
        held, self._held = self._held, 0
        if held >= TRIM_FROM_BYTES:
            # Arrays below 32 MiB come from the heap (mallopt(3), M_MMAP_THRESHOLD), which keeps what is freed.
            ctypes.CDLL(None).malloc_trim(0)
        self._memory.give_back(held)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures a part of the work. Raises AbandonedError before it begins if nobody waits."""
        if self._abandoned.is_set():
            raise AbandonedError
        started = time.monotonic()
        try:
            yield
        finally:
            metrics.QUERY_STAGE_SECONDS.labels(name).observe(time.monotonic() - started)
