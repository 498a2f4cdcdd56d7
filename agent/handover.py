"""The one bounded queue between the sampling thread and the event loop. Full means a counted loss."""

import asyncio
import threading
from collections import Counter, deque
from dataclasses import replace

from agent.normalize import NormalizedWindow

MAX_WINDOWS = 4
"""Windows that wait for the loop. Batching one takes milliseconds: if four wait, the loop is stuck, not late."""
HANDOVER_FULL = "handover_full"
"""Ledger reason: the event loop did not take windows for so long that one had to go."""


class Handover:
    """`offer` is called in the sampling thread, `take` in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._filled = asyncio.Event()
        self._windows: deque[NormalizedWindow] = deque()
        self._lost: Counter[str] = Counter()
        self._lock = threading.Lock()

    def offer(self, window: NormalizedWindow) -> None:
        """Hands the window over; or, where there is no room, remembers its samples as lost for the next one to tell."""
        with self._lock:
            if len(self._windows) >= MAX_WINDOWS:
                self._lost.update(window.lost)
                self._lost[HANDOVER_FULL] += window.taken - sum(window.lost.values())
                return
            self._windows.append(self._with_losses(window))
        self._loop.call_soon_threadsafe(self._filled.set)

    def _with_losses(self, window: NormalizedWindow) -> NormalizedWindow:
        if not self._lost:
            return window
        lost = Counter(window.lost) + self._lost
        taken = window.taken + self._lost.total()
        self._lost.clear()
        return replace(window, taken=taken, lost=dict(lost))

    async def take(self) -> NormalizedWindow:
        """The oldest window; waits for one."""
        while True:
            with self._lock:
                if self._windows:
                    return self._windows.popleft()
                self._filled.clear()
            await self._filled.wait()

    async def join(self) -> None:
        """Returns once no window waits. What the loop does with one it does in the step in which it takes it."""
        while self._windows:
            await asyncio.sleep(0.01)
