"""Addresses of one window -> (mapping, address within it), for user and kernel frames, with every miss as a value.

Lives for one window: each process is read again at most once in it, and each mapping gets one index.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.addresses import MISS, NOWHERE, AddressTable
from agent.frames import Pool
from agent.image import Image
from agent.jit.maps import JIT_MAPPING, JitMaps
from agent.kernel import Kernel, KernelSnapshot
from agent.processes import ImageTable
from agent.window import ID_BYTES, ID_VALID
from fleetflame.model import FrameMiss, Mapping, MappingKind, NamedFrame, Segment

LOWEST_MAPPED = 1 << 16
"""vm.mmap_min_addr's default."""
END_OF_USER = 1 << 48
"""x86-64 gives 47 bits to user space and aarch64 48, but to programs that ask for more, which hardly any does."""

Frames = tuple[NDArray[np.uint32], NDArray[np.uint64]]
"""Indices of mappings, and addresses within them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdFrames:
    """Frames as the kernel resolved them; see `window.IdStacks`."""

    status: NDArray[np.uint32]
    build_id: NDArray[np.uint8]
    address: NDArray[np.uint64]


class Numbering:
    """Mappings and named frames in the order in which they were met; equal ones have one index. MISS has 0."""

    def __init__(self) -> None:
        self.mappings: list[Mapping] = []
        self.named: dict[NamedFrame, int] = {}
        self._by_value: dict[Mapping, int] = {}
        self._by_object: dict[int, tuple[int, Mapping]] = {}
        self.of(MISS)

    def of(self, mapping: Mapping) -> int:
        """The index of this mapping."""
        # By object first: the hash of a value goes over build ID, path and segments. The object is kept, so that no
        # other one can have its id.
        known = self._by_object.get(id(mapping))
        if known is not None:
            return known[0]
        index = self._by_value.setdefault(mapping, len(self.mappings))
        if index == len(self.mappings):
            self.mappings.append(mapping)
        self._by_object[id(mapping)] = index, mapping
        return index

    def of_targets(self, targets: tuple[Mapping, ...], hit: NDArray[np.int32]) -> NDArray[np.uint32]:
        """For each of `hit`, which are indices in `targets` or NOWHERE, the index of the mapping; MISS for NOWHERE."""
        indices = np.zeros(len(targets) + 1, np.uint32)  # the last one is found by NOWHERE, which is -1
        for target in np.unique(hit).tolist():
            if target != NOWHERE:
                indices[target] = self.of(targets[target])
        return indices[hit]

    def of_name(self, frame: NamedFrame) -> int:
        """The index of this named frame."""
        return self.named.setdefault(frame, len(self.named))


class Resolver:
    """Resolves what one window needs, which began at `start_ns`."""

    def __init__(self, images: ImageTable, kernel: Kernel, jit: JitMaps, start_ns: int) -> None:
        self.numbering = Numbering()
        self._images = images
        self._kernel = kernel
        self._jit = jit
        self._start_ns = start_ns
        self._read: dict[int, AddressTable | None] = {}

    def user(self, images: Sequence[Image], owner: NDArray[np.int64], address: NDArray[np.uint64]) -> Pool:
        """Runtime addresses of processes: that of `images[owner[i]]` for address i. Owners ascend."""
        pool = _empty_pool(len(address))
        numbers, starts = np.unique(owner, return_index=True)
        ends = [*starts[1:].tolist(), len(owner)]
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=False):
            part = slice(start, end)
            pool.mapping[part], pool.address[part] = self._of_image(images[number], address[part])
        return pool

    def resolved(self, frames: IdFrames, images: Sequence[Image], owner: NDArray[np.int64]) -> Pool:
        """Frames that the kernel resolved, and those of them that it could not, through the process's mappings."""
        pool = _empty_pool(len(frames.address))
        valid = frames.status == ID_VALID
        pool.mapping[valid], pool.address[valid] = self._of_build(frames.build_id[valid], frames.address[valid])
        bare = self.user(images, owner[~valid], frames.address[~valid])
        pool.mapping[~valid], pool.address[~valid] = bare.mapping, bare.address
        return pool

    def kernel(self, address: NDArray[np.uint64]) -> Pool:
        """Kernel addresses."""
        snapshot = self._kernel.snapshot()
        target, within = snapshot.table.resolve(address)
        if (target == NOWHERE).any() and (later := self._kernel.reread()):
            snapshot = later
            target, within = snapshot.table.resolve(address)
        within[target == NOWHERE] = FrameMiss.UNMAPPED
        mapping = self.numbering.of_targets(snapshot.table.targets, target)
        self._rename(snapshot, target, within)
        return Pool(mapping=mapping, address=within)

    def _of_image(self, image: Image, address: NDArray[np.uint64]) -> Frames:
        table = image.table or self._reread(image) or self._images.vdso_table(image)
        if table is None:
            return np.zeros(len(address), np.uint32), _unasked(address)
        target, within = table.resolve(address)
        mapping = self.numbering.of_targets(table.targets, target)
        missing = np.flatnonzero(target == NOWHERE)
        if len(missing):
            # Perhaps loaded since. If not, it is nowhere; if the process cannot be asked any more, nobody knows.
            later = self._reread(image)
            within[missing] = _unasked(address[missing]) if later is None else np.uint64(FrameMiss.UNMAPPED)
            if later is not None and later is not table:
                target, found = later.resolve(address[missing])
                mapping[missing] = self.numbering.of_targets(later.targets, target)
                within[missing] = np.where(target == NOWHERE, np.uint64(FrameMiss.UNMAPPED), found)
        self._name_generated(image, address, mapping, within)
        return mapping, within

    def _name_generated(
        self, image: Image, address: NDArray[np.uint64], mapping: NDArray[np.uint32], within: NDArray[np.uint64]
    ) -> None:
        """Puts names in place of the placeholders of anonymous code, where the process says them."""
        here = np.flatnonzero((mapping == 0) & (within == np.uint64(FrameMiss.ANONYMOUS)))
        if not len(here):
            return
        unique, which = np.unique(address[here], return_inverse=True)
        found = self._jit.find(image, unique, self._start_ns)
        jit = self.numbering.of(JIT_MAPPING) if any(isinstance(frame, NamedFrame) for frame in found) else 0
        named = [isinstance(frame, NamedFrame) for frame in found]
        values = [self.numbering.of_name(frame) if isinstance(frame, NamedFrame) else frame for frame in found]
        mapping[here] = np.where(named, jit, 0).astype(np.uint32)[which]
        within[here] = np.array(values, np.uint64)[which]

    def _reread(self, image: Image) -> AddressTable | None:
        if image.id not in self._read:
            self._read[image.id] = self._images.read_maps(image)
        return self._read[image.id]

    def _of_build(self, build_id: NDArray[np.uint8], address: NDArray[np.uint64]) -> Frames:
        """As bytes of fixed length, IDs sort and compare whole; reading one back leaves out the zeroes at its end."""
        ids, which = np.unique(np.ascontiguousarray(build_id).view(f"S{ID_BYTES}").ravel(), return_inverse=True)
        indices = np.zeros(len(ids), np.uint32)
        for number, found in enumerate(ids.tolist()):
            if found:
                indices[number] = self.numbering.of(
                    self._images.builds.resolved_by_kernel(found.ljust(ID_BYTES, b"\0"))
                )
        which_mapping = indices[which]
        outside = ~self._in_code(which_mapping, address)
        within = np.where(which_mapping == 0, np.uint64(FrameMiss.UNREADABLE_FILE), address)
        within[outside] = FrameMiss.UNMAPPED
        which_mapping[outside] = 0
        return which_mapping, within

    def _in_code(self, mapping: NDArray[np.uint32], address: NDArray[np.uint64]) -> NDArray[np.bool]:
        """Which file offsets can be code of their mapping's file.

        The kernel takes the first mapping that ends above an address without asking whether it begins below it
        (stack_map_get_build_id_offset, kernel/bpf/stackmap.c): what lies in no mapping gets the build ID of the next
        one, and an offset that is negative or in none of its executable segments.
        """
        inside = address < np.uint64(END_OF_USER)
        for index in np.unique(mapping).tolist():
            segments = self.numbering.mappings[index].segments
            if segments:
                here = mapping == index
                inside[here] &= np.any([_holds(segment, address[here]) for segment in segments], axis=0)
        return inside

    def _rename(self, snapshot: KernelSnapshot, target: NDArray[np.int32], within: NDArray[np.uint64]) -> None:
        """Turns indices in the snapshot's names into the window's."""
        for number, mapping in enumerate(snapshot.table.targets):
            if mapping.kind is MappingKind.BPF:
                here = target == number
                names, which = np.unique(within[here], return_inverse=True)
                ours = [self.numbering.of_name(snapshot.named[name]) for name in names.tolist()]
                within[here] = np.array(ours, np.uint64)[which]


def _holds(segment: Segment, offset: NDArray[np.uint64]) -> NDArray[np.bool]:
    return (segment.offset <= offset) & (offset < segment.offset + segment.size)


def _unasked(address: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The misses of addresses of a process that cannot be asked. Unwinding by frame pointers through code that has none
    comes to words that are no addresses at all: those were unmapped whoever asks."""
    possible = (address >= LOWEST_MAPPED) & (address < END_OF_USER)
    return np.where(possible, np.uint64(FrameMiss.PROCESS_GONE), np.uint64(FrameMiss.UNMAPPED))


def _empty_pool(frames: int) -> Pool:
    return Pool(mapping=np.zeros(frames, np.uint32), address=np.zeros(frames, np.uint64))
