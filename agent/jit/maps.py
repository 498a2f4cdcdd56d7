"""Names for generated code: (image, addresses) -> frames, from the perf maps that runtimes write. Used by one thread.

Work and memory are bounded by what is granted for a window and held in all, whatever processes write: a map that is
longer is read on in the next window, and names nothing before it was read to its end, because its last lines may say
that an address is another function's by now. A process without generated code in its samples is never looked at.
"""

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agent import metrics
from agent.facts import open_process, read_identity
from agent.image import Image
from agent.jit.generations import AMBIGUOUS, NOBODY, Generations
from agent.jit.mapfile import MapFile, MapMiss, Owner, is_mixed, open_map, read_owner
from agent.jit.names import parse_name
from agent.jit.perfmap import Entries, parse_lines
from agent.openat import ProcessFiles
from fleetflame.model import FrameMiss, Mapping, MappingKind, NamedFrame

JIT_MAPPING = Mapping(MappingKind.JIT)

MAX_READ = 12 << 20
"""Bytes of one map read for a window: some 170,000 lines, in 0.2 s."""
MAX_READ_IN_ALL = 24 << 20
MAX_ENTRIES = 500_000
"""Entries kept of one process, 20 bytes each. A browser's tab has 50,000, a large Node server 200,000."""
MAX_ENTRIES_IN_ALL = 1_000_000
MAX_PROCESSES = 512
"""Processes that are remembered, with a descriptor each; those that were not sampled for longest go first."""
MAX_NAMES = 16_384
"""Names remembered in all; others are read again."""
KEEP_WINDOWS = 30
"""Windows without a sample after which a map is closed. Five minutes at 10 s."""
LONGEST_RETRY = 6
"""Windows after which a process without a map is looked at again, at last."""

Found = NamedFrame | FrameMiss


class OnSampled(Protocol):
    """Is told of an image whose samples have generated code, and whether all of it has names."""

    def __call__(self, image: Image, /, *, all_named: bool) -> None: ...


class Count(StrEnum):
    """What is counted, in `metrics.JIT`. The reasons of `MapMiss` are counted beside them, as `map_` and the reason."""

    LINES = "lines"
    MALFORMED = "lines_malformed"
    WRITTEN_ANEW = "maps_written_anew"
    REUSED = "entries_replaced"
    BEHIND = "maps_behind"
    TOO_MANY = "maps_too_many_entries"
    EVICTED = "maps_evicted"
    AMBIGUOUS = "addresses_ambiguous"
    UNNAMED = "addresses_unnamed"
    CHANGED = "names_changed"


@dataclass(slots=True, eq=False)
class _Process:
    """What is kept of one process image."""

    image: Image
    file: MapFile | None = None
    asked: bool = False
    """Whether it has been looked for while the process was there."""
    entries: Generations = field(default_factory=Generations)
    whole: bool = False
    read_window: int = -1
    used_window: int = 0
    fruitless: int = 0
    retry_window: int = 0

    def close(self) -> None:
        if self.file:
            self.file.close()
            self.file = None


class JitMaps:
    """The maps of all processes."""

    def __init__(
        self,
        *,
        proc: str = "/proc",
        on_sampled: OnSampled | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._proc = proc
        self._on_sampled = on_sampled
        self._clock = clock
        self._processes: OrderedDict[int, _Process] = OrderedDict()
        self._names: OrderedDict[tuple[int, int, int], NamedFrame] = OrderedDict()
        self._window = 0
        self._left = MAX_READ_IN_ALL

    def __len__(self) -> int:
        return len(self._processes)

    def close(self) -> None:
        """Closes all maps."""
        while self._processes:
            self._processes.popitem()[1].close()

    def find(self, image: Image, addresses: NDArray[np.uint64], start_ns: int) -> list[Found]:
        """The frame of each of these ascending addresses of generated code, or why there is none, for the window that
        began at `start_ns`, in Unix ns. Windows are asked for in order."""
        process = self._process(image)
        if process.read_window != self._window:
            process.read_window = self._window
            self._refresh(process)
            process.entries.settle(start_ns)
        if process.file is None:
            self._tell(image, all_named=False)
            return [FrameMiss.NO_PERF_MAP if process.asked else FrameMiss.PROCESS_GONE] * len(addresses)
        if not process.whole:
            _count(Count.BEHIND)
            return [FrameMiss.ANONYMOUS] * len(addresses)
        holders = process.entries.find(addresses)
        frames = self._frames(process, holders.entries, holders.which)
        found = [frames.get(row, FrameMiss.ANONYMOUS) for row in holders.which.tolist()]
        self._tell(image, all_named=FrameMiss.ANONYMOUS not in found)
        _count(Count.AMBIGUOUS, found.count(FrameMiss.CODE_REPLACED))
        _count(Count.UNNAMED, found.count(FrameMiss.ANONYMOUS))
        return found

    def end_window(self) -> None:
        """The addresses of one window are named: forgets what was not used for long, and what is too much."""
        self._window += 1
        self._left = MAX_READ_IN_ALL
        for process in list(self._processes.values()):
            unused = self._window - process.used_window
            if unused > KEEP_WINDOWS or (process.image.ended and unused > 1):
                self._forget(process)
        held = sum(len(process.entries) for process in self._processes.values())
        while self._processes and (held > MAX_ENTRIES_IN_ALL or len(self._processes) > MAX_PROCESSES):
            oldest = next(iter(self._processes.values()))
            held -= len(oldest.entries)
            self._forget(oldest)
            _count(Count.EVICTED)

    def _process(self, image: Image) -> _Process:
        process = self._processes.setdefault(image.id, _Process(image))
        process.image = image
        process.used_window = self._window
        self._processes.move_to_end(image.id)
        return process

    def _forget(self, process: _Process) -> None:
        del self._processes[process.image.id]
        process.close()

    def _tell(self, image: Image, *, all_named: bool) -> None:
        if self._on_sampled and not image.ended:
            self._on_sampled(image, all_named=all_named)

    # Reading.

    def _refresh(self, process: _Process) -> None:
        """Looks for the map if there is none yet, or another one by now, and reads what is new in it."""
        replaced = False
        if not process.image.ended and self._window >= process.retry_window:
            replaced = self._look(process)
            if process.file is None:
                process.fruitless = min(process.fruitless + 1, LONGEST_RETRY)
                process.retry_window = self._window + process.fruitless
        if process.file is None:
            return
        try:
            self._read(process, process.file, replaced=replaced)
        except OSError:  # its file system is gone
            process.close()

    def _look(self, process: _Process) -> bool:
        """True if `process.file` is another file than before."""
        fd = self._open(process.image)
        if fd is None:
            return False
        process.asked = True
        if isinstance(fd, MapMiss):
            metrics.JIT.labels(f"map_{fd}").inc()
            return False  # one that was deleted says what it said
        try:
            if process.file is not None and process.file.is_same(fd):
                os.close(fd)
                return False
            file = MapFile(fd)
        except OSError:
            os.close(fd)
            return False
        process.close()
        process.file, process.fruitless = file, 0
        return True

    def _open(self, image: Image) -> int | MapMiss | None:
        """None if the process is gone."""
        try:
            with open_process(self._proc, image.tgid) as folder:
                users, pid = read_owner(folder)
                identity = read_identity(folder)
                # The PID may be another process's by now; what it has in its root is not this image's.
                if identity is None or not image.identity.is_now(identity):
                    return None
                owner = Owner(users=users, begin_ns=unix_ns(identity.start))
                with ProcessFiles(folder) as files:
                    fd = open_map(files, pid, owner)
                return fd if isinstance(fd, MapMiss) else _unmixed(fd, folder, owner)
        except OSError:
            return None

    def _read(self, process: _Process, file: MapFile, *, replaced: bool) -> None:
        news = file.read(max(0, min(MAX_READ, self._left)))
        self._left -= news.size
        process.whole = news.whole
        anew = news.anew or replaced
        if anew:
            _count(Count.REUSED, process.entries.count_replaced(news.entries))
        process.entries.add(news.entries, read_ns=self._clock(), anew=anew)
        _count(Count.LINES, len(news.entries))
        _count(Count.MALFORMED, news.malformed)
        if news.anew:
            _count(Count.WRITTEN_ANEW)
        if len(process.entries) > MAX_ENTRIES:
            # Without the oldest of them an address might get a name that is not its own any more.
            _count(Count.TOO_MANY)
            process.entries = Generations()
            process.close()
            process.retry_window = self._window + KEEP_WINDOWS

    # Names.

    def _frames(self, process: _Process, entries: Entries, which: NDArray[np.int64]) -> dict[int, Found]:
        """Row -> its frame, for the rows in `which`; without those of which the file does not say the name any more."""
        frames: dict[int, Found] = {AMBIGUOUS: FrameMiss.CODE_REPLACED}
        unknown = []
        for row in np.unique(which[which > NOBODY]).tolist():
            key = process.image.id, int(entries.offset[row]), int(entries.digest[row])
            known = self._names.get(key)
            if known is None:
                unknown.append(row)
            else:
                self._names.move_to_end(key)
                frames[row] = known
        if unknown and process.file:
            for row, frame in self._read_names(process.file, entries, np.array(unknown, np.int64)):
                frames[row] = frame
                self._names[process.image.id, int(entries.offset[row]), int(entries.digest[row])] = frame
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        return frames

    def _read_names(self, file: MapFile, entries: Entries, rows: NDArray[np.int64]) -> list[tuple[int, NamedFrame]]:
        found = []
        for row in rows.tolist():
            line = b""
            with contextlib.suppress(OSError):
                line = file.line(int(entries.offset[row]))
            now, _ = parse_lines(line, 0)
            # The line may be another one's: a map that is being written anew has the same number and other content.
            if len(now) == 1 and _same(now, 0, entries, row):
                found.append((row, parse_name(line[:-1].split(b" ", 2)[2], int(entries.digest[row]))))
            else:
                _count(Count.CHANGED)
        return found


def _unmixed(fd: int, process: int, owner: Owner) -> int | MapMiss:
    """`fd` itself, or closed. Raises OSError."""
    mixed = True
    try:
        mixed = is_mixed(fd, process, owner)
    finally:
        if mixed:
            os.close(fd)
    return MapMiss.MIXED if mixed else fd


def unix_ns(ticks: int) -> int:
    """When it was, in Unix ns, `ticks` clock ticks after boot (field 22 of `/proc/PID/stat`)."""
    since_boot = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + since_boot


def _same(left: Entries, row: int, right: Entries, other: int) -> bool:
    return all(getattr(left, name)[row] == getattr(right, name)[other] for name in ("start", "size", "digest"))


def _count(what: Count, amount: int = 1) -> None:
    if amount:
        metrics.JIT.labels(what).inc(amount)
