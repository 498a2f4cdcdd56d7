"""Whose map is asked for, and how often: within what the operator allows. In a thread of its own: a JVM takes its time.

A JVM is asked when samples have code that nobody named, INTERVAL after the last time at the earliest; when all its code
has names, CONFIRM times as late, because memory may be another method's by now. Whoever will never answer is not asked
again, whoever did not this time, later and later.
"""

import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from agent import metrics
from agent.facts import Identity, open_process, read_identity
from agent.image import Image
from agent.jit.attach import Answer, ask_for_map
from agent.jit.hotspot import Doubt

_log = logging.getLogger(__name__)

CONFIRM = 10
MAX_WAITING = 64
"""JVMs that wait to be asked. More come again with their next window."""
MAX_KNOWN = 4096
"""Images of which it is known when they were asked."""
LONGEST_DELAY = 32
"""Intervals to the next attempt, at last."""
FINAL = frozenset({Doubt.NOT_HOTSPOT, Doubt.DISABLED, Doubt.UNCERTAIN, Answer.UNSUPPORTED, Answer.GONE})
"""What will be the same the next time."""
_LIBRARY = "/libjvm.so"
_MINUTE_S = 60.0

Ask = Callable[[int, Identity, int], Answer | Doubt]


@dataclass(slots=True)
class _Asked:
    """When an image may be asked again, and how often in a row it did not answer."""

    next_s: float = 0.0
    confirm_s: float = 0.0
    failures: int = 0


class MapRequests:
    """Asks JVMs for their maps. `interval_s` is the least time between two requests to one of them, `per_minute` the
    most requests to all of them in a minute. A context manager: the thread ends with it."""

    def __init__(
        self,
        *,
        interval_s: float,
        per_minute: int,
        proc: str = "/proc",
        ask: Ask = ask_for_map,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = interval_s
        self._per_minute = per_minute
        self._proc = proc
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[int, _Asked] = OrderedDict()
        self._recent: deque[float] = deque(maxlen=per_minute)
        self._waiting: queue.Queue[Image | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="jvm-maps", daemon=True)

    def __enter__(self) -> "MapRequests":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not waited for: a daemon that is between two time-outs holds up nobody.
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            _log.debug("requests for maps were waiting", extra={"waiting": MAX_WAITING})

    def want(self, image: Image, *, all_named: bool) -> None:
        """Samples of this image have generated code. Returns at once."""
        if not is_jvm(image):
            return
        now = self._clock()
        asked = self._asked(image.id)
        if now < (asked.confirm_s if all_named else asked.next_s):
            return
        while self._recent and now - self._recent[0] >= _MINUTE_S:
            self._recent.popleft()
        if len(self._recent) >= self._per_minute:
            _count("postponed")
            return
        try:
            self._waiting.put_nowait(image)
        except queue.Full:
            _count("postponed")
            return
        self._recent.append(now)
        asked.next_s = asked.confirm_s = now + self._interval_s

    def serve_one(self, image: Image) -> None:
        """Asks now."""
        answer = self._answer(image)
        _count(answer)
        asked, now = self._asked(image.id), self._clock()
        asked.failures = 0 if answer is Answer.WRITTEN else asked.failures + 1
        if answer in FINAL:
            asked.next_s = asked.confirm_s = float("inf")
        else:
            asked.next_s = now + self._interval_s * min(LONGEST_DELAY, 1 << min(asked.failures, 8))
            asked.confirm_s = now + self._interval_s * CONFIRM
        if answer is Answer.WRITTEN:
            asked.next_s = now + self._interval_s
        _log.info("asked a JVM for its map", extra={"pid": image.tgid, "answer": str(answer)})

    def _asked(self, image_id: int) -> _Asked:
        with self._lock:
            asked = self._known.setdefault(image_id, _Asked())
            self._known.move_to_end(image_id)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return asked

    def _run(self) -> None:
        while (image := self._waiting.get()) is not None:
            self.serve_one(image)

    def _answer(self, image: Image) -> Answer | Doubt:
        try:
            with open_process(self._proc, image.tgid) as process:
                identity = read_identity(process)
                if identity is None or not image.identity.is_now(identity):
                    return Answer.GONE
                return self._ask(process, identity, image.tgid)
        except OSError:
            return Answer.GONE


def is_jvm(image: Image) -> bool:
    """Whether it has HotSpot's library mapped as code; whether that is true is seen before anything is done."""
    table = image.table
    return table is not None and any(target.path.endswith(_LIBRARY) for target in table.targets)


def _count(what: str) -> None:
    metrics.JVM_MAPS.labels(what).inc()
