"""Stack ids into frames, and what frames refer to. A bounded cache in memory in front of the tables."""

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from aggregator import metrics
from aggregator.storage import ids
from aggregator.storage.engine import Engine, hex_set
from aggregator.storage.native import Columns
from aggregator.storage.types import Build, Frames, StackRows
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind, NamedFrame, Segment

CACHED_FRAMES = 4 << 20
"""Frames kept in memory, 16 bytes each: 64 MiB, or about 150,000 stacks of 28 frames."""
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

    def __init__(self, engine: Engine, limit: int = CACHED_FRAMES) -> None:
        self._engine = engine
        self._limit = limit
        self._lock = threading.Lock()
        self._cache = _NOTHING

    def frames(self, stacks: NDArray[np.uint64]) -> Frames:
        """The frames of those of `stacks` that are stored. Raises StoreError."""
        wanted = np.unique(stacks.astype(np.uint64))
        with self._lock:
            cache = self._cache
        cached, rows = _find(cache, wanted)
        missing = wanted[~cached]
        metrics.FRAME_CACHE.labels("hit").inc(int(cached.sum()))
        metrics.FRAME_CACHE.labels("miss").inc(len(missing))
        fetched = self._fetch(missing)
        found = _sorted(ids.concatenated([ids.taken(cache, rows[cached]), fetched]))
        if len(fetched):
            self._keep(found, fetched)
        return Frames(
            stacks=found.ids, offsets=found.offsets.astype(np.uint32), mapping=found.mapping, address=found.address
        )

    def _keep(self, latest: StackRows, fetched: StackRows) -> None:
        """Adds `fetched`; when that is too much, the cache becomes the latest answer, if even that fits."""
        with self._lock:
            together = _sorted(ids.concatenated([self._cache, fetched]))
            if len(together.address) <= self._limit:
                self._cache = together
            elif len(latest.address) <= self._limit:
                self._cache = latest

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


def _find(stacks: StackRows, wanted: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    if not len(stacks):
        return np.zeros(len(wanted), np.bool_), np.zeros(len(wanted), np.int64)
    rows = np.minimum(np.searchsorted(stacks.ids, wanted), len(stacks) - 1)
    return stacks.ids[rows] == wanted, rows


def _sorted(stacks: StackRows) -> StackRows:
    _, rows = np.unique(stacks.ids, return_index=True)
    return ids.taken(stacks, rows)
