"""Which builds want symbols, and when to look for them again. Rules of asking again, in seconds:

    named as well as can be         never
    named, but not from DWARF       POOR_RETRY, then the sources of better tables only
    nothing, sources said no        MISSING_RETRY[0], [1], ... for each time in a row, the last one ever after
    nothing, a source was away      AWAY_RETRY likewise
    nothing, and another node has the build    at once, for up to MAX_NODES nodes
    nothing, and now somebody saw its path     at once

Everything here has a bound: the queue, what is remembered, the nodes that are asked.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aggregator import metrics
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.hunt import Hunt, Sources
from aggregator.symbols.intake import Intake
from aggregator.symbols.store import SymbolStore
from aggregator.symbols.table import COMPLETE, Rank
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind

log = logging.getLogger(__name__)

FILES = frozenset({MappingKind.FILE, MappingKind.VDSO})
KERNELS = frozenset({MappingKind.KERNEL, MappingKind.MODULE})

POOR_RETRY = 24 * 3600.0
MISSING_RETRY = (600.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
AWAY_RETRY = (60.0, 300.0, 900.0, 3600.0)
TOLD_SECONDS = 60.0
"""Between two lines in the log that sum up what was looked for."""
MAX_NODES = 5
MAX_QUEUE = 10_000
MAX_REMEMBERED = 100_000
"""Builds whose attempts are remembered: 20 MB. A fleet of 10,000 hosts has some tens of thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of looking for one build."""

    mapping: Mapping
    nodes: tuple[str, ...] = ()
    """Nodes that were asked."""
    failures: int = 0
    fault: Fault | None = None
    detail: str = ""
    again: float = 0.0
    """Monotonic time before which it is not looked for again."""


@dataclass(slots=True)
class Fetcher:
    """The queue of wanted builds and the attempts so far. `run` works it off; several may run at once."""

    store: SymbolStore
    intake: Intake
    sources: Sources
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    attempts: OrderedDict[BuildId, Attempt] = field(default_factory=OrderedDict)
    _queue: deque[BuildId] = field(default_factory=deque)
    _waiting: dict[BuildId, tuple[Mapping, list[str]]] = field(default_factory=dict)
    _busy: set[BuildId] = field(default_factory=set)
    _news: set[BuildId] = field(default_factory=set)
    """Builds with an object in the store that no search has seen yet."""
    _named: int = 0
    _missing: int = 0
    _told: float = float("-inf")
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def want(self, mapping: Mapping, node: str) -> bool:
        """Puts the build into the queue if it is time to look for it. Cheap: called for each mapping of each batch."""
        build_id = mapping.build_id
        if build_id is None or mapping.kind not in FILES | KERNELS:
            return False
        waiting = self._waiting.get(build_id)
        if waiting is not None:
            if node not in waiting[1] and len(waiting[1]) < MAX_NODES:
                waiting[1].append(node)
            return False
        if build_id in self._busy or not self._is_time(mapping, node):
            return False
        if len(self._queue) >= MAX_QUEUE:
            metrics.SYMBOL_SEARCHES.labels("queue_full").inc()
            return False
        self._waiting[build_id] = (mapping, [node] if node else [])
        self._queue.append(build_id)
        self._idle.clear()
        self._wake.set()
        return True

    def learn(self, key: str) -> BuildId | None:
        """Takes note of an object in the store; the build it is of if it is news, so that it is time to look again."""
        name, _, content = key.partition(".")
        try:
            build_id = BuildId.parse(name)
        except ValueError:
            return None
        record = self.store.record(build_id)
        if record is not None and record.kept.content.startswith(content):
            return None
        if len(self.sources.shared) < MAX_REMEMBERED:
            self.sources.shared.setdefault(build_id, set()).add(key)
            self._news.add(build_id)
        return build_id

    def waiting(self) -> int:
        """Builds in the queue or being looked for."""
        return len(self._waiting) + len(self._busy)

    async def run(self) -> None:
        """Looks for wanted builds, one after another, until it is cancelled."""
        while True:
            while not self._queue:
                if not self.waiting():
                    self._idle.set()
                    self._tell()
                self._wake.clear()
                await self._wake.wait()
            build_id = self._queue.popleft()
            mapping, nodes = self._waiting.pop(build_id)
            self._busy.add(build_id)
            self._news.discard(build_id)
            try:
                await self._look_for(build_id, mapping, nodes)
            finally:
                self._busy.discard(build_id)

    async def idle(self) -> None:
        """Returns when nothing is wanted any more."""
        while self.waiting():
            self._idle.clear()
            await self._idle.wait()

    def _is_time(self, mapping: Mapping, node: str) -> bool:
        assert mapping.build_id is not None
        record = self.store.record(mapping.build_id)
        if record is not None and record.kept.rank.worth >= _best_rank(mapping.kind).worth:
            return False
        if mapping.build_id in self._news:
            return True
        if record is not None and record.kept.rank in COMPLETE:
            return False
        attempt = self.attempts.get(mapping.build_id)
        if attempt is None:
            # After a restart: what was found lately was looked for lately.
            return record is None or self.wall() - record.kept.added >= POOR_RETRY
        if self.clock() >= attempt.again or (record is None and mapping.path and not attempt.mapping.path):
            return True
        return record is None and node != "" and node not in attempt.nodes and len(attempt.nodes) < MAX_NODES

    async def _look_for(self, build_id: BuildId, mapping: Mapping, nodes: list[str]) -> None:
        before = self.attempts.get(build_id)
        hunt = Hunt(self.intake, self.sources, build_id, mapping)
        await (hunt.kernel(nodes) if mapping.kind in KERNELS else hunt.file(nodes))
        self._remember(before, hunt, nodes)

    def _remember(self, before: Attempt | None, hunt: Hunt, nodes: Sequence[str]) -> None:
        build_id, faults = hunt.build_id, hunt.faults
        rank = self._rank(build_id)
        failures = 0 if rank is not None else (before.failures if before else 0) + 1
        away = [error for error in faults if error.fault in (Fault.UNREACHABLE, Fault.TIME, Fault.DISK)]
        last = (away or faults or [SymbolFileError(Fault.NOT_FOUND, "no source has it")])[-1]
        if rank is not None:
            wait = POOR_RETRY
        else:
            steps = AWAY_RETRY if away else MISSING_RETRY
            wait = steps[min(failures, len(steps)) - 1]
        asked = dict.fromkeys([*(before.nodes if before else ()), *nodes])
        self.attempts[build_id] = Attempt(
            mapping=hunt.mapping,
            nodes=tuple(asked)[:MAX_NODES],
            failures=failures,
            fault=None if rank is not None else last.fault,
            detail="" if rank is not None else last.message,
            again=self.clock() + wait,
        )
        self.attempts.move_to_end(build_id)
        while len(self.attempts) > MAX_REMEMBERED:
            self.attempts.popitem(last=False)
        metrics.SYMBOL_SEARCHES.labels("named" if rank is not None else "missing").inc()
        self._named += rank is not None
        self._missing += rank is None

    def _tell(self) -> None:
        """One line for a burst of builds that were looked for, and at most one a minute."""
        if (self._named or self._missing) and self.clock() - self._told >= TOLD_SECONDS:
            log.info("symbols looked for", extra={"builds_named": self._named, "builds_without": self._missing})
            self._named, self._missing, self._told = 0, 0, self.clock()

    def _rank(self, build_id: BuildId) -> Rank | None:
        record = self.store.record(build_id)
        return None if record is None else record.kept.rank


def _best_rank(kind: MappingKind) -> Rank:
    return Rank.DWARF if kind in FILES else Rank.KALLSYMS
