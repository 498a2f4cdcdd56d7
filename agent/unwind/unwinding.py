"""Which builds have an unwind table in the kernel: those that processes have mapped, as far as there is room.

A build gets a slot when the first layout names it, and waits for its table: those first that samples named, then the
smallest. Until it is loaded, and where it cannot be, frame pointers are tried. When rows run out, tables of builds that
no process has mapped any more give way, then those that no sample named for longest; what samples name stays.

Two threads tell what is mapped (`put`, `remove`) and what samples named (`note`); a third one, in `run`, has the tables
made and loads them.
"""

import heapq
import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from agent import metrics
from agent.snapshot import Snapshot
from agent.unwind.layouts import Layouts
from agent.unwind.tables import KernelTables
from fleetflame.buildid import BuildId
from fleetflame.cfi.faults import CfaError
from fleetflame.cfi.table import UnwindTable
from fleetflame.model import Mapping

log = logging.getLogger(__name__)

RECENT_WINDOWS = 3
"""A table that a sample named in as many windows is in use: it does not give way."""


MAX_REFUSED = 6
"""A table is made again, for which there was no room, after twice as many windows each time: after 64 at most. That of
a large program takes seconds of a processor."""


class Outcome(StrEnum):
    """What became of a build's table, in `metrics.UNWIND_TABLES`; or the reason why there is none (`CfaFault`)."""

    LOADED = "loaded"
    EVICTED = "evicted"
    NO_ROOM = "no_room"
    NO_SLOT = "no_slot"
    NO_FILE = "no_file"


class Source(Protocol):
    """Where tables come from. Used by one thread."""

    def find(self, mapping: Mapping) -> UnwindTable | None:
        """The table of a build, None if it is not to be had. Raises CfaError. May take seconds."""

    def rest(self) -> None:
        """Nothing is wanted at the moment: frees what only serves to find."""

    def interrupt(self) -> None:
        """What is being looked for is not wanted any more, nor will anything be. Called by any thread."""

    def close(self) -> None:
        """Frees everything."""


@dataclass(slots=True)
class _Slot:
    mapping: Mapping
    number: int
    layouts: int = 0
    named: int = 0
    waiting: bool = False
    hopeless: bool = False
    """Its file has no table that can be made."""
    absent: bool = False
    """Its file was gone, and nobody has mapped it since."""
    urgent: bool = False
    refused: int = 0
    not_before: int = 0
    """The window from which on it is asked for again: there was no room for it `refused` times in a row."""


class Unwinding:
    """The tables and layouts of one sampler. Without a source there are frame pointers only."""

    def __init__(
        self, tables: KernelTables, layouts: Callable[..., Layouts], source: Source | None, *, slots: int
    ) -> None:
        self._tables = tables
        self._source = source
        self._lock = threading.RLock()
        self._layouts = layouts(self._hold, self._release)
        self._slots: OrderedDict[BuildId, _Slot] = OrderedDict()
        self._by_number: dict[int, _Slot] = {}
        self._unused = list(range(slots - 1, 0, -1))
        self._queue: list[tuple[bool, int, int, _Slot]] = []
        self._order = itertools.count()
        self._wake = threading.Event()
        self._window = 0

    def put(self, image: int, snapshot: Snapshot, tell: Callable[[int, int], None]) -> None:
        """Makes the image's layout, and tells the kernel its number, 0 if it has none. Both at once: a number that is
        told late is that of a layout whose place another has by then."""
        with self._lock:
            tell(image, self._layouts.put(image, snapshot))

    def remove(self, image: int, tell: Callable[[int], None]) -> None:
        """The image is over, as far as anybody asks: the kernel is told first."""
        with self._lock:
            tell(image)
            self._layouts.remove(image)

    def note(self, named: Iterable[Mapping]) -> None:
        """What the samples of one window named: called once a window."""
        with self._lock:
            self._window += 1
            for mapping in named:
                slot = self._slots.get(mapping.build_id) if mapping.build_id else None
                if slot is None:
                    continue
                slot.named = self._window
                lost = slot.urgent or slot.hopeless or slot.absent or self._window < slot.not_before
                if not lost and not self._tables.is_loaded(slot.number):
                    self._want(slot, urgent=True)

    def run(self, stopping: threading.Event) -> None:
        """Loads what is wanted until `stopping` is set."""
        if self._source is None:
            stopping.wait()
            return
        try:
            while not stopping.is_set():
                if not self.load_next(self._source):
                    self._source.rest()
                    self._wake.wait(0.5)
                    self._wake.clear()
        finally:
            self._source.close()

    def interrupt(self) -> None:
        """Whoever stops `run` does not wait for a table that is being made."""
        if self._source is not None:
            self._source.interrupt()

    def load_next(self, source: Source) -> bool:
        """Finds and loads one table; False if none is wanted."""
        with self._lock:
            while self._queue:
                slot = heapq.heappop(self._queue)[-1]
                if slot.waiting:
                    break
            else:
                return False
            mapping = slot.mapping
        outcome = self._load(source, slot, mapping)
        metrics.UNWIND_TABLES.labels(outcome).inc()
        with self._lock:
            metrics.UNWIND_ROWS.set(self._tables.rows_loaded)
        return True

    def _load(self, source: Source, slot: _Slot, mapping: Mapping) -> str:
        try:
            table = source.find(mapping)
        except CfaError as error:
            log.debug(
                "no unwind table", extra={"build": str(mapping.build_id), "path": mapping.path, "cause": str(error)}
            )
            with self._lock:
                slot.waiting, slot.urgent, slot.hopeless = False, False, True
            return error.reason.value
        with self._lock:
            slot.waiting = slot.urgent = False
            if slot.mapping is not mapping:
                return Outcome.NO_SLOT  # another build has the slot by now
            if table is None:
                slot.absent = True
                return Outcome.NO_FILE
            victims = self._victims()
            if not self._tables.could_hold(table, [victim.number for victim in victims]):
                victims = []
            while not self._tables.load(slot.number, table):
                if not victims:
                    # Until something that is in use now is not: a sample that names this one asks again, not at once.
                    slot.refused = min(slot.refused + 1, MAX_REFUSED)
                    slot.not_before = self._window + (1 << slot.refused)
                    return Outcome.NO_ROOM
                self._tables.unload(victims.pop().number)
                metrics.UNWIND_TABLES.labels(Outcome.EVICTED).inc()
            slot.refused = 0
            return Outcome.LOADED

    def _victims(self) -> list[_Slot]:
        """Tables that may give way, the first to go last."""
        loaded = [slot for slot in self._slots.values() if self._tables.is_loaded(slot.number)]
        idle = [slot for slot in loaded if not slot.layouts or self._window - slot.named > RECENT_WINDOWS]
        return sorted(idle, key=lambda slot: (bool(slot.layouts), slot.named), reverse=True)

    def _hold(self, mapping: Mapping) -> int:
        if mapping.build_id is None or self._source is None:
            return 0
        slot = self._slots.get(mapping.build_id)
        if slot is None:
            number = self._free_number()
            if not number:
                metrics.UNWIND_TABLES.labels(Outcome.NO_SLOT).inc()
                return 0
            slot = self._slots[mapping.build_id] = self._by_number[number] = _Slot(mapping, number)
            self._want(slot, urgent=False)
        # Another process has it: its file may be at hand now.
        slot.absent = False
        self._slots.move_to_end(mapping.build_id)
        slot.layouts += 1
        return slot.number

    def _release(self, number: int) -> None:
        if number:
            self._by_number[number].layouts -= 1

    def _free_number(self) -> int:
        if self._unused:
            return self._unused.pop()
        # The one that was mapped last the longest time ago: a restart maps the same files again.
        for build_id, slot in self._slots.items():
            if not slot.layouts and not slot.waiting:
                if self._tables.is_loaded(slot.number):
                    self._tables.unload(slot.number)
                del self._slots[build_id], self._by_number[slot.number]
                return slot.number
        return 0

    def _want(self, slot: _Slot, *, urgent: bool) -> None:
        slot.waiting, slot.urgent = True, urgent
        text = sum(segment.size for segment in slot.mapping.segments)
        heapq.heappush(self._queue, (not urgent, text, next(self._order), slot))
        self._wake.set()
