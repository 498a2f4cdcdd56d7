"""The processes that samples come from, by image id: what they are and where their code lies.

An image is one program in one process; a new one begins at fork and exec. Reading one takes time while the process may
end, so what is read when is a choice:

- exec: the facts that labels need, at once (40 us);
- first sample: mappings; and again when a stack leads to memory that they do not have, as the kernel tells at once,
  since a program that has just begun is loading its libraries and may be gone before long;
- fork: nothing, and only once the child is sampled. Facts and mappings are the parent's, the same objects.

Once mappings are complete, `on_mapped` is told, and bare addresses arrive from then on; again when they have changed,
and `on_forgotten` when nobody will ask for the image any more. Two threads use a table: one calls `apply` and
the other what the normalizer needs. No lock is held while anything is read.
"""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from agent import metrics
from agent.addresses import AddressTable
from agent.builds import Builds, FileFacts, Place
from agent.facts import ProcessFacts, open_process, read_facts, read_identity
from agent.image import NOBODY, Image, unknown_image
from agent.openat import OpenMiss, ProcessFiles, status_of
from agent.snapshot import Snapshot, Snapshots
from agent.vdso import read_base
from agent.window import EventKind, ProcessEvent, begin_of, tgid_of

_log = logging.getLogger(__name__)

MAX_IMAGES = 8192
"""Images known at once. One takes 0.4 KB and shares the rest with its parent, or 0.9 KB after an exec."""
MAX_IDLE = 1024
"""Images kept that ended without a sample, for children of theirs that are told of later, and for samples of their end:
3 s of 300 programs a second. All MAX_IMAGES of them took an agent 7 MB (measured)."""
MAX_RANGES = 250_000
"""Ranges held in all tables together, 29 bytes each. 1,000 processes with 50 libraries have 50,000; a single one that
generates code may have 8,192, and as many of those as somebody likes to start."""
KEEP_WINDOWS = 1
"""Windows for which an image is kept after the one in which it ended or was sampled last: if that was being drained
just then, the process's last samples are in the next. Beside a build there are thousands of them, 1 KB each with
mappings."""
REFRESH_WINDOWS = 12
"""Windows after which a process that is sampled is read again, for libraries that took the place of others, new names
and cgroups. Two minutes at 10 s."""
MAX_REREAD_BYTES = 16 * 1024 * 1024
"""Text of maps read again per window, whatever the processes do: 0.1 s of work."""
MAX_FRUITLESS = 6
"""Windows at most between two readings of a process that has the same mappings each time: a minute at 10 s."""


class Count(StrEnum):
    """What a table counts, in `metrics.PROCESSES`."""

    FACTS_READ = "facts_read"
    FACTS_MISSED = "facts_missed"
    MAPS_READ = "maps_read"
    MAPS_MISSED = "maps_missed"
    MAPS_NOT_WHOLE = "maps_not_whole"
    REREAD_SKIPPED = "reread_skipped"
    EVICTED = "images_evicted"
    TABLES_DROPPED = "tables_dropped"


class ImageTable:
    """Images by id, MAX_IMAGES at most. The first to go are those that ended without a sample, then those that were not
    used for longest; each is counted."""

    def __init__(  # noqa: PLR0913  # half of them are seams for tests
        self,
        builds: Builds,
        *,
        on_mapped: Callable[[int, Snapshot], None] | None = None,
        on_forgotten: Callable[[int], None] | None = None,
        on_facts: Callable[[ProcessFacts], None] | None = None,
        proc: str = "/proc",
        max_images: int = MAX_IMAGES,
    ) -> None:
        self.builds = builds
        self._snapshots = Snapshots(builds)
        self._on_mapped = on_mapped
        self._on_forgotten = on_forgotten
        self._on_facts = on_facts
        self._proc = proc
        self._max_images = max_images
        self._images: OrderedDict[int, Image] = OrderedDict()
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._current: dict[int, int] = {}
        self._window = 0
        self._reread_left = MAX_REREAD_BYTES
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._images)

    # The thread that follows events calls these.

    def apply(self, event: ProcessEvent) -> None:
        """Takes note of what happened, and reads what cannot wait."""
        match event.kind:
            case EventKind.EXEC:
                self._begin_exec(event)
            case EventKind.FORK:
                self._begin_fork(event)
            case EventKind.SEEN:
                self._read_maps(self._begin(event))
            case EventKind.SAMPLED | EventKind.UNMAPPED:
                image = self._find(event.image)
                if image is not None and not image.ended:
                    self._read_maps(image)
            case EventKind.EXIT | EventKind.EXIT_UNSAMPLED:
                self._end(self._find(event.image), idle=event.kind is EventKind.EXIT_UNSAMPLED)

    # The thread that normalizes calls these.

    def get(self, image_id: int, comm: str = "") -> Image:
        """The image, read now if its event was lost; `comm` is its name if that is too late. Counts as a use in this
        window."""
        image = self._find(image_id) or self._adopt(image_id, comm)
        with self._lock:
            self._idle.pop(image_id, None)
            image.last_window = self._window
            if image_id in self._images:
                self._images.move_to_end(image_id)
        if not image.ended and (image.inherited or self._window - image.read_window >= REFRESH_WINDOWS):
            self._refresh(image)
        return image

    def find(self, image_id: int) -> Image | None:
        """The image, if it is known. Does not count as a use."""
        return self._find(image_id)

    def read_maps(self, image: Image) -> AddressTable | None:
        """The image's table as of now; None if the process is gone or is another image, or the window's budget for such
        readings is used up. For addresses that the table at hand does not have (or where there is none yet)."""
        if image.ended:
            return None
        if self._window < image.retry_window:
            return image.table
        if self._reread_left <= 0:
            _count(Count.REREAD_SKIPPED)
            return None
        former = image.table
        if not self._read_maps(image) or image.snapshot is None:
            return None
        self._reread_left -= image.snapshot.bytes_read
        # Code without frame pointers leaves addresses on its stacks that are in no mapping ever: asking again and again
        # for the same answer is waste.
        image.fruitless = min(image.fruitless + 1, MAX_FRUITLESS) if image.table is former else 0
        image.retry_window = self._window + image.fruitless
        return image.table

    def vdso_table(self, image: Image) -> AddressTable | None:
        """For a process that ended before its mappings were read: its vDSO alone."""
        return self._snapshots.vdso.table(image.vdso)

    def end_window(self) -> None:
        """The samples of one window are normalized: forgets images that ended KEEP_WINDOWS before."""
        with self._lock:
            self._window += 1
            self._reread_left = MAX_REREAD_BYTES
            gone = [i for i in self._images.values() if i.ended and self._window - i.last_window > KEEP_WINDOWS]
            for image in gone:
                self._forget(image)
            self._drop_tables()

    # How an image begins and ends.

    def _begin_exec(self, event: ProcessEvent) -> None:
        former = self._find(event.parent_image)
        image = self._begin(event)
        if image.identity == NOBODY and former is not None:
            # Gone already. Its cgroup and user were those of the program before it; what it ran nobody can tell now.
            image.facts = replace(former.facts, comm=event.comm, exe="", cmdline=(), build_id=None)

    def _begin_fork(self, event: ProcessEvent) -> None:
        parent = self._find(event.parent_image)
        if parent is None or parent.identity == NOBODY:
            self._read_maps(self._begin(event))
            return
        facts = replace(parent.facts, tgid=event.tgid, comm=event.comm or parent.facts.comm)
        image = Image(id=event.image, tgid=event.tgid, facts=facts, identity=replace(parent.identity, start=0))
        image.vdso = parent.vdso
        image.inherited = True
        snapshot = parent.snapshot
        # What the parent has mapped since the fork the child may have somewhere else.
        shared = snapshot is not None and snapshot.since_ns < begin_of(event.image)
        if shared:
            image.snapshot = snapshot
        self._add(image)
        if shared and parent.told is not None:
            self._tell_mapped(image)
        elif not shared:
            self._read_maps(image)

    def _begin(self, event: ProcessEvent) -> Image:
        image = unknown_image(event.image, event.tgid, event.comm)
        self._read_facts(image)
        self._add(image)
        return image

    def _adopt(self, image_id: int, comm: str) -> Image:
        """An image that no event announced: the ring buffer was full, or there were too many images."""
        tgid = tgid_of(image_id)
        image = unknown_image(image_id, tgid, comm)
        with self._lock:
            # Ids grow with time: if a later image of the process is known, this one is over.
            image.ended = self._current.get(tgid, 0) > image_id
        if not image.ended:
            self._read_facts(image)
        self._add(image)
        return image

    def _add(self, image: Image) -> None:
        with self._lock:
            image.last_window = self._window
            if not image.ended:
                self._end(self._images.get(self._current.get(image.tgid, 0)))
                self._current[image.tgid] = image.id
            self._images[image.id] = image
            if len(self._images) > self._max_images:
                self._forget(self._images[next(iter(self._idle or self._images))])
                _count(Count.EVICTED)

    def _drop_tables(self) -> None:
        """Those of the images that were not used for longest, until MAX_RANGES hold; they are read again at need."""
        held, kept = 0, set()
        for image in reversed(self._images.values()):
            table = image.table
            if table is None or id(table) in kept:
                continue
            if held + len(table.start) <= MAX_RANGES:
                held += len(table.start)
                kept.add(id(table))
            else:
                image.snapshot = None
                _count(Count.TABLES_DROPPED)

    def _end(self, image: Image | None, *, idle: bool = False) -> None:
        if image is not None and not image.ended:
            with self._lock:
                image.ended = True
                image.last_window = self._window
                if idle and image.id in self._images:
                    self._idle[image.id] = None
                if len(self._idle) > MAX_IDLE:
                    self._forget(self._images[next(iter(self._idle))])

    def _forget(self, image: Image) -> None:
        self._images.pop(image.id, None)
        self._idle.pop(image.id, None)
        if self._on_forgotten is not None:
            self._on_forgotten(image.id)
        if self._current.get(image.tgid) == image.id:
            del self._current[image.tgid]

    def _find(self, image_id: int) -> Image | None:
        with self._lock:
            return self._images.get(image_id)

    # What is read of an image.

    def _read_facts(self, image: Image) -> None:
        """Facts of a new image, and its executable's build. Leaves the image as it is if the process is gone."""
        image.read_window = self._window
        executable = None
        try:
            with open_process(self._proc, image.tgid) as process:
                found = read_facts(process, image.tgid)
                if found is not None:
                    executable = self._examine_executable(process, found[0])
                    image.vdso = read_base(process)
        except OSError:
            found = None
        if found is None:
            _count(Count.FACTS_MISSED)
            return
        _count(Count.FACTS_READ)
        image.facts = replace(found[0], build_id=executable.build_id if executable else None)
        image.identity = found[1]
        if self._on_facts:
            self._on_facts(image.facts)

    def _examine_executable(self, process: int, facts: ProcessFacts) -> FileFacts | None:
        """Also tells `builds` of it, so that a build ID from the kernel has a path and segments."""
        executable = self.builds.find(status_of(process, "exe")) or self._read_executable(process)
        if executable is not None:
            self.builds.mapping(executable, Place(facts.tgid, "exe", os.fsencode(facts.exe)))
        return executable

    def _read_executable(self, process: int) -> FileFacts | None:
        with ProcessFiles(process) as files:
            fd = files.open_executable()
        if isinstance(fd, OpenMiss):
            return None
        try:
            return self.builds.examine(fd)
        except OSError:
            return None
        finally:
            os.close(fd)

    def _refresh(self, image: Image) -> None:
        """Facts that change without an exec: comm, cgroup, user. Ends the image if its process is over."""
        image.read_window = self._window
        try:
            with open_process(self._proc, image.tgid) as process:
                found = read_facts(process, image.tgid)
        except OSError:
            found = None
        if found is None or not image.identity.is_now(found[1]):
            self._end(image)
            return
        _count(Count.FACTS_READ)
        image.identity = found[1]
        facts = replace(found[0], build_id=image.facts.build_id)
        if facts != image.facts:
            image.facts = facts
        if image.inherited:
            image.inherited = False  # the mappings of the parent will do until an address is missing
        elif image.snapshot is not None:
            self.read_maps(image)

    def _read_maps(self, image: Image) -> bool:
        """True if the image has a table as of now."""
        try:
            with open_process(self._proc, image.tgid) as process:
                snapshot = self._snapshots.read(process, image.tgid, former=image.snapshot)
                identity = read_identity(process)
        except OSError:
            snapshot, identity = None, None
        # The identity is read last: an exec between the two readings would show the new program.
        if snapshot is None or identity is None or not image.identity.is_now(identity):
            _count(Count.MAPS_MISSED)
            return False
        image.identity = identity
        image.snapshot = snapshot
        _count(Count.MAPS_READ)
        if not snapshot.whole:
            _count(Count.MAPS_NOT_WHOLE)
        else:
            self._tell_mapped(image)
        return True

    def _tell_mapped(self, image: Image) -> None:
        snapshot = image.snapshot
        with self._lock:
            # One that was forgotten while it was read would never be forgotten again.
            known = self._images.get(image.id) is image
            if known and snapshot is not None and snapshot.fingerprint != image.told:
                image.told = snapshot.fingerprint
                if self._on_mapped is not None:
                    self._on_mapped(image.id, snapshot)


def _count(what: Count) -> None:
    metrics.PROCESSES.labels(what).inc()
