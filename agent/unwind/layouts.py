"""The executable memory of process images as the kernel's step looks it up: regions, ascending, in one array for all.

Images that share their mappings (forks) share a layout. A place that was given back is not used again before GRACE_S:
a step that found the layout a moment ago is done by then.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agent.addresses import AddressTable
from agent.kernelmaps import ArrayMap
from agent.snapshot import Snapshot
from agent.unwind.extents import Extents
from bpf import layout
from fleetflame.model import Mapping, MappingKind

MAX_REGIONS = 1 << layout.REGION_STEPS
"""Regions of one layout: as many as the kernel's search finds its way in. A process with more is left to frame
pointers."""
GRACE_S = 0.1
NO_LAYOUT = 0
"""What stands for an image without one."""


@dataclass(slots=True)
class _Layout:
    fingerprint: int
    first: int
    slots: tuple[int, ...]
    images: int


class Layouts:
    """Layouts by image. `hold` gives the number of a build's unwind table, 0 if it will have none; `release` is told
    for each of these numbers when a layout is over."""

    def __init__(
        self,
        regions: ArrayMap,
        hold: Callable[[Mapping], int],
        release: Callable[[int], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._regions = regions
        self._hold = hold
        self._release = release
        self._clock = clock
        # Place 0 stays free: the number of a layout is never NO_LAYOUT.
        self._free = Extents(regions.entries)
        self._free.take(1)
        self._resting: deque[tuple[float, int, int]] = deque()
        self._by_fingerprint: dict[int, _Layout] = {}
        self._by_image: dict[int, _Layout] = {}

    def __len__(self) -> int:
        return len(self._by_fingerprint)

    def put(self, image: int, snapshot: Snapshot) -> int:
        """The layout of an image whose memory is as in `snapshot`, NO_LAYOUT if there is no room. It takes the place of
        the image's former one: tell the kernel before anything else is put."""
        known = self._by_fingerprint.get(snapshot.fingerprint)
        if known is None:
            known = self._add(snapshot)
        former = self._by_image.get(image)
        if former is not known:
            if known is not None:
                known.images += 1
                self._by_image[image] = known
            else:
                self._by_image.pop(image, None)
            self._leave(former)
        return NO_LAYOUT if known is None else known.first << 32 | len(known.slots)

    def remove(self, image: int) -> None:
        """The image is over."""
        self._leave(self._by_image.pop(image, None))

    def _add(self, snapshot: Snapshot) -> _Layout | None:
        table = snapshot.table
        count = len(table.start)
        if not 0 < count <= MAX_REGIONS:
            return None
        self._reuse()
        first = self._free.take(count)
        if first is None:
            return None
        rows = self._rows(table)
        self._regions.write(first, rows)
        added = _Layout(snapshot.fingerprint, first, tuple(rows["table"].tolist()), 0)
        self._by_fingerprint[snapshot.fingerprint] = added
        return added

    def _leave(self, left: _Layout | None) -> None:
        if left is None:
            return
        left.images -= 1
        if not left.images:
            del self._by_fingerprint[left.fingerprint]
            self._resting.append((self._clock() + GRACE_S, left.first, len(left.slots)))
            for slot in left.slots:
                self._release(slot)

    def _reuse(self) -> None:
        while self._resting and self._resting[0][0] <= self._clock():
            _, first, count = self._resting.popleft()
            self._free.give_back(first, count)

    def _rows(self, table: AddressTable) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
        rows = np.zeros(len(table.start), layout.REGION)
        rows["start"] = table.start
        rows["length"] = np.minimum(table.end - table.start, np.uint64(0xFFFF_FFFF))
        for at, target in enumerate(table.target.tolist()):
            mapping = table.targets[target]
            if not table.fixed[at] and mapping.kind in (MappingKind.FILE, MappingKind.VDSO):
                offset = (int(table.start[at]) - int(table.value[at])) % (1 << 64)
                # Region by region: a file's segments may lie at distances from each other that its offsets have not.
                vaddr = virtual_address(mapping, offset)
                if vaddr is not None:
                    rows["bias"][at] = (int(table.start[at]) - vaddr) % (1 << 64)
                    rows["table"][at] = self._hold(mapping)
        return rows


def virtual_address(mapping: Mapping, offset: int) -> int | None:
    """The ELF virtual address of a file offset, None if it is in none of the build's executable segments."""
    if mapping.kind is MappingKind.VDSO:
        return offset
    for segment in mapping.segments:
        # The mapping begins at a page, the segment perhaps within it.
        if segment.offset - segment.offset % layout.CODE_PAGE <= offset < segment.offset + segment.size:
            return offset - segment.offset + segment.vaddr
    return None
