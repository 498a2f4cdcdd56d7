"""Remembers what containers are called, so that labelling never waits for an engine.

`find` answers at once from memory and notes what it did not know; `refresh`, called off the hot path, asks. Rules:

1. The key is the container's ID: it is never used twice, by no engine.
2. A name is asked again after KNOWN_S (`docker rename`) and holds until there is another: also when the container is
   gone, for its last samples are still to be labelled.
3. "No such container" is remembered for ABSENT_S: other runtimes' containers are many, and the kubelet makes a link
   only after the container has started.
4. An engine that cannot be asked is left alone for FAILED_S, for all containers: one that hangs costs one time-out.
5. MAX_KNOWN names and MAX_WAITING questions at most; beyond, the oldest name and the newest question are forgotten.
   Both come back with the next sample that wants them.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent import metrics
from agent.labels import engine, podlogs
from agent.labels.engine import Container, EngineError

KNOWN_S = 300.0
ABSENT_S = 15.0
FAILED_S = 10.0
SCAN_S = 5.0
"""At most one look at the folder of log links in this time."""
REFRESH_S = 5.0
"""No question is begun later than this after `refresh` was called; what is left waits for the next call."""
MAX_KNOWN = 2048
MAX_WAITING = 256

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    container: Container | None
    until: float


class ContainerNames:
    """Containers by ID, asked of engines behind `sockets`, in that order, then of the kubelet's log links in `logs`.

    An empty `logs` means not to look. `clock` counts seconds and never goes back. `find` and `refresh` may be called
    from different threads.
    """

    def __init__(self, sockets: Sequence[str], logs: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sockets = tuple(sockets)
        self._logs = logs
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._waiting: dict[str, None] = {}
        self._not_before: dict[str, float] = {}
        self._links: dict[str, Container] = {}
        self._scanned = -SCAN_S

    def find(self, container: str) -> Container | None:
        """What is known of a container, without waiting; the same object until something else becomes known.

        None: nothing (yet). What is unknown or old is asked by the next `refresh`.
        """
        if not (self._sockets or self._logs) or not engine.is_id(container):
            return None
        with self._lock:
            known = self._known.get(container)
            if (known is None or known.until <= self._clock()) and len(self._waiting) < MAX_WAITING:
                self._waiting[container] = None
            return known.container if known else None

    def refresh(self) -> int:
        """Ask for what `find` wanted; how many containers were asked for. Blocks, for REFRESH_S + TIMEOUT_S at most a
        source; never raises for what an engine does."""
        with self._lock:
            waiting = list(self._waiting)
        deadline = self._clock() + REFRESH_S
        for done, container in enumerate(waiting):
            if self._clock() >= deadline:
                return done
            self._remember(container, *self._ask(container))
        return len(waiting)

    def _ask(self, container: str) -> tuple[Container | None, float]:
        """What the first source that knows it says, and how long that holds."""
        lasting = ABSENT_S
        metrics.CONTAINER_QUESTIONS.labels("asked").inc()
        for path in self._sockets:
            if self._clock() < self._not_before.get(path, 0.0):
                lasting = FAILED_S
                continue
            try:
                if found := engine.inspect(path, container):
                    return found, KNOWN_S
            except FileNotFoundError:
                continue  # no such engine here, now
            except EngineError as error:
                lasting = FAILED_S
                self._rest(path, error)
        found = self._linked(container)
        return found, KNOWN_S if found else lasting

    def _rest(self, path: str, error: EngineError) -> None:
        metrics.CONTAINER_QUESTIONS.labels("engine_failed").inc()
        if path not in self._not_before:
            _log.warning(
                "container engine does not answer, names are missing", extra={"socket": path, "cause": str(error)}
            )
        self._not_before[path] = self._clock() + FAILED_S

    def _linked(self, container: str) -> Container | None:
        if self._logs and container not in self._links and self._clock() >= self._scanned + SCAN_S:
            self._scanned = self._clock()
            try:
                self._links = podlogs.read_names(self._logs)
            except OSError as error:
                # No kubelet, mostly. Names are a convenience: what is missing shows as the container's ID.
                _log.debug("no log links of pods", extra={"folder": self._logs, "cause": str(error)})
        return self._links.get(container)

    def _remember(self, container: str, found: Container | None, lasting: float) -> None:
        with self._lock:
            self._waiting.pop(container, None)
            before = self._known.pop(container, None)
            if before and before.container and found in (None, before.container):
                found = before.container  # the same object: whoever compares sees that nothing changed
            elif before is None and len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[container] = _Known(found, self._clock() + lasting)
