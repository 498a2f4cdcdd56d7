"""Stack ids into frames, and what frames refer to. A bounded cache in memory in front of the tables."""

import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from aggregator import metrics
from aggregator.storage import ids
from aggregator.storage.engine import Engine, hex_set
from aggregator.storage.native import Columns
from aggregator.storage.stacktree import StackTree
from aggregator.storage.types import Build, Frames, StackRows
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind, NamedFrame, Segment

CACHED_NODES = 1 << 20
"""Nodes of the tree in memory, 24 bytes each: about 200,000 stacks, which share most of their 28 frames."""
MAPPINGS_S = 10
"""How long another aggregator's news of a mapping (a path, segments) may take to be seen."""
FETCHED_STACKS = 50_000
"""Ids of one statement: 0.8 MB of text, and an answer of some 30 MB."""

_NOTHING = StackRows(
    ids=np.zeros(0, np.uint64),
    offsets=np.zeros(1, np.uint64),
    mapping=np.zeros(0, np.uint64),
    address=np.zeros(0, np.uint64),
)


class FrameStore:
    """Looks up frames. Thread-safe."""

    def __init__(self, engine: Engine, limit: int = CACHED_NODES) -> None:
        self._engine = engine
        self._limit = limit
        self._lock = threading.Lock()
        self._held = StackTree()

    def tree(self, stacks: NDArray[np.uint64]) -> tuple[StackTree, NDArray[np.int64]]:
        """A tree with those of `stacks` that are stored, and the node where each ends, -1 for the others.

        Raises StoreError.
        """
        with self._lock:
            held = self._held
        end = held.find(stacks)
        missing = np.unique(stacks[end < 0])
        metrics.FRAME_CACHE.labels("hit").inc(int(np.count_nonzero(end >= 0)))
        metrics.FRAME_CACHE.labels("miss").inc(len(missing))
        fetched = self._fetch(missing)
        if len(fetched):
            held = self._keep(held, stacks, fetched)
            end = held.find(stacks)
        return held, end

    def frames(self, stacks: NDArray[np.uint64]) -> Frames:
        """The frames of those of `stacks` that are stored. Raises StoreError."""
        wanted = np.unique(stacks.astype(np.uint64))
        held, end = self.tree(wanted)
        found = held.rows(wanted[end >= 0], end[end >= 0])
        return Frames(
            stacks=found.ids, offsets=found.offsets.astype(np.uint32), mapping=found.mapping, address=found.address
        )

    def _keep(self, held: StackTree, stacks: NDArray[np.uint64], fetched: StackRows) -> StackTree:
        """A tree with `stacks`, which are in `held` or `fetched`; kept if it is not too large.

        When all stacks of the past are too much, those of the latest question stay, if even they fit.
        """
        with self._lock:
            # Unless another thread has started anew since, what was there a moment ago is still there.
            if self._held.lineage is held.lineage:
                absent = np.flatnonzero(self._held.find(fetched.ids) < 0)
                together = self._held.with_stacks(ids.taken(fetched, absent))
                if len(together.tree) <= self._limit:
                    self._held = together
                    return together
            wanted = np.unique(stacks)
            end = held.find(wanted)
            known = held.rows(wanted[end >= 0], end[end >= 0])
            alone = StackTree().with_stacks(ids.concatenated([known, fetched]))
            if len(alone.tree) <= self._limit:
                self._held = alone
            return alone

    def _fetch(self, stacks: NDArray[np.uint64]) -> StackRows:
        parts = [_NOTHING]
        for at in range(0, len(stacks), FETCHED_STACKS):
            # The same stack stands in the table once for every week it was seen in, with equal frames.
            answer = self._engine.query(
                "SELECT stack, mapping, address FROM stacks"
                f" WHERE stack IN {hex_set(stacks[at : at + FETCHED_STACKS])} LIMIT 1 BY stack"
            )
            words = answer.ragged("mapping")
            parts.append(
                StackRows(
                    ids=answer.numbers("stack"),
                    offsets=words.offsets,
                    mapping=words.values,
                    address=answer.ragged("address").values,
                )
            )
        return ids.concatenated(parts)


class MappingStore:
    """Looks up mappings. Thread-safe."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[int, Mapping] = {}
        self._since = 0.0
        self._stored = 0

    def mappings(self, wanted: Iterable[int], stored: int) -> dict[int, Mapping]:
        """The mappings with these ids, as they were MAPPINGS_S ago at the earliest, and after the last change of
        `stored`, which counts what this process has stored itself. Raises StoreError."""
        wanted = set(wanted)
        with self._lock:
            now = self._clock()
            if stored != self._stored or now - self._since > MAPPINGS_S:
                self._held, self._since, self._stored = {}, now, stored
            held = self._held
        missing = wanted - held.keys()
        if missing:
            found = find_mappings(self._engine, missing)
            with self._lock:
                held.update(found)
        return {number: held[number] for number in wanted if number in held}


def find_mappings(engine: Engine, wanted: Iterable[int]) -> dict[int, Mapping]:
    """The mappings with these ids. Of several paths seen for one build, the one seen with segments, then the least."""
    keys = np.array(sorted(set(wanted)), np.uint64)
    answer = engine.query(f"{_MAPPINGS} WHERE mapping IN {hex_set(keys)} ORDER BY mapping, seen DESC, path")
    found: dict[int, Mapping] = {}
    for key, mapping in zip(answer.numbers("mapping").tolist(), _mappings(answer), strict=True):
        best = found.setdefault(key, mapping)
        # Two segment tables for one build ID: one of the files lies. The choice has to be the same everywhere.
        if (best.path, best.segments) > (mapping.path, mapping.segments) and bool(best.segments) == bool(
            mapping.segments
        ):
            found[key] = mapping
    return found


def find_named(engine: Engine, wanted: Iterable[int]) -> dict[int, NamedFrame]:
    """The named frames with these ids."""
    keys = np.array(sorted(set(wanted)), np.uint64)
    answer = engine.query(f"SELECT named, name, file, line FROM named WHERE named IN {hex_set(keys)} LIMIT 1 BY named")
    rows = zip(answer.strings("name"), answer.strings("file"), answer.numbers("line").tolist(), strict=True)
    return dict(zip(answer.numbers("named").tolist(), (NamedFrame(*row) for row in rows), strict=True))


def find_builds(engine: Engine) -> list[Build]:
    """Everything with a build ID that stacks refer to, by path, then build ID."""
    answer = engine.query(f"{_MAPPINGS} WHERE build_id != '' ORDER BY path, build_id, seen DESC, week DESC")
    weeks = answer.numbers("week").tolist()
    builds: dict[tuple[str, str], Build] = {}
    for mapping, week in zip(_mappings(answer), weeks, strict=True):
        key = (mapping.path, str(mapping.build_id))
        best = builds.get(key)
        kept = best.mapping if best else mapping
        builds[key] = Build(mapping=kept, last_seen=max(week, best.last_seen if best else 0))
    return list(builds.values())


_MAPPINGS = (
    "SELECT week, mapping, kind, build_id, path, seen, segment_offset, segment_vaddr, segment_size FROM mappings"
)


def _mappings(answer: Columns) -> list[Mapping]:
    offset, vaddr, size = (answer.ragged(f"segment_{name}") for name in ("offset", "vaddr", "size"))
    ends = offset.offsets.tolist()
    segments = [
        Segment(*row) for row in zip(offset.values.tolist(), vaddr.values.tolist(), size.values.tolist(), strict=True)
    ]
    rows = zip(answer.numbers("kind").tolist(), answer.strings("build_id"), answer.strings("path"), strict=True)
    return [
        Mapping(
            MappingKind(kind), BuildId.parse(build) if build else None, path, tuple(segments[ends[i] : ends[i + 1]])
        )
        for i, (kind, build, path) in enumerate(rows)
    ]
