"""Names for the distinct frames of a query: one call of the symbolizer per mapping, then columns.

A location is one (mapping, address) that stacks refer to. It stands for one frame, or for several where the compiler
inlined: the function that holds the address first, what was inlined into it after, as in root-first stacks.
"""

from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.naming import SUFFIXES, FrameKind, clean, is_kernel, kind_of, miss_name
from fleetflame.model import KERNEL_KINDS, NAMED_KINDS, FrameMiss, Mapping, MappingKind, NamedFrame

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


class Symbolized(Protocol):
    """What a symbolizer answers: address i has the rows [offsets[i], offsets[i + 1]), none if it has no name."""

    @property
    def offsets(self) -> U32: ...
    @property
    def function(self) -> U32: ...
    @property
    def file(self) -> U32: ...
    @property
    def line(self) -> U32: ...
    @property
    def strings(self) -> tuple[str, ...]: ...


Symbolize = Callable[[Mapping, U64], Symbolized]

UNKNOWN_MAPPING = Mapping(MappingKind.MISS, path="[unknown mapping]")
"""Stands for a mapping that the store no longer knows."""

_KIND_OF_NAMED = {
    MappingKind.JIT: FrameKind.JIT,
    MappingKind.INTERPRETER: FrameKind.INTERPRETER,
    MappingKind.BPF: FrameKind.KERNEL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """Location i is (mappings[mapping[i]], address[i]) and has the frames [offsets[i], offsets[i + 1]).

    `kind`, `name`, `file` and `line` are columns over frames; `name` and `file` are indices into `strings`, whose first
    is "". A name is as its source gave it, neither cleaned nor suffixed; a frame without one has its placeholder.
    """

    mappings: tuple[Mapping, ...]
    mapping: U32
    address: U64
    offsets: I64
    kind: U8
    name: U32
    file: U32
    line: U32
    strings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.address)

    def taken(self, rows: I64, mappings: tuple[Mapping, ...], mapping: U32) -> "Locations":
        """The locations `rows`, in that order; their mappings are given anew."""
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        frame = np.repeat(self.offsets[:-1][rows] - offsets[:-1], counts) + np.arange(int(offsets[-1]))
        return Locations(
            mappings=mappings,
            mapping=mapping,
            address=self.address[rows],
            offsets=offsets,
            kind=self.kind[frame],
            name=self.name[frame],
            file=self.file[frame],
            line=self.line[frame],
            strings=self.strings,
        )

    def rendered(self) -> list[str]:
        """The name of each frame as it is written: cleaned, with its suffix."""
        suffixes = [SUFFIXES.get(kind, "") for kind in FrameKind]
        cleaned: dict[int, str] = {number: clean(self.strings[number]) for number in np.unique(self.name).tolist()}
        return [
            cleaned[name] + suffixes[kind] for name, kind in zip(self.name.tolist(), self.kind.tolist(), strict=True)
        ]

    def any_frame(self, *kinds: FrameKind) -> NDArray[np.bool_]:
        """For each location whether one of its frames is of one of these kinds."""
        before = np.zeros(len(self.kind) + 1, np.int64)
        np.cumsum(np.isin(self.kind, kinds), out=before[1:])
        return before[self.offsets[1:]] > before[self.offsets[:-1]]

    def kernel(self) -> NDArray[np.bool_]:
        """For each location whether it is the kernel's, with a name or without."""
        first = self.offsets[:-1]
        kind = self.kind[first]
        placeholder = np.array([is_kernel(text) for text in self.strings], bool)[self.name[first]]
        nameless = np.isin(kind, (FrameKind.UNKNOWN, FrameKind.TRUNCATED))
        kernel: NDArray[np.bool_] = (kind == FrameKind.KERNEL) | (nameless & placeholder)
        return kernel


def locate(
    mappings: tuple[Mapping, ...],
    mapping: U32,
    address: U64,
    named: MappingOf[int, NamedFrame],
    symbolize: Symbolize,
) -> Locations:
    """Names for the locations (mapping, address), which must be sorted by mapping. `named` goes by address."""
    table = _Table()
    bounds = np.searchsorted(mapping, np.arange(len(mappings) + 1))
    for number, each in enumerate(mappings):
        addresses = address[bounds[number] : bounds[number + 1]]
        if not len(addresses):
            continue
        if each.kind is MappingKind.MISS:
            table.add_misses(each, addresses)
        elif each.kind in NAMED_KINDS:
            table.add_named(each, addresses, named)
        else:
            table.add_symbolized(each, addresses, symbolize(each, addresses))
    return table.locations(mappings, mapping, address)


def nowhere() -> Locations:
    """The one location of a stack that was never received."""
    miss = Mapping(MappingKind.MISS)
    address = np.array([FrameMiss.NOT_RECEIVED], np.uint64)
    return locate((miss,), np.zeros(1, np.uint32), address, {}, _no_names)


def joined(first: Locations, second: Locations) -> Locations:
    """The locations of both. Strings that both have stand twice; mappings are not told apart either."""
    shift = len(first.strings) - 1
    name, file = (
        np.where(column > 0, column + np.uint32(shift), np.uint32(0)) for column in (second.name, second.file)
    )
    return Locations(
        mappings=(*first.mappings, *second.mappings),
        mapping=np.concatenate((first.mapping, second.mapping + np.uint32(len(first.mappings)))),
        address=np.concatenate((first.address, second.address)),
        offsets=np.concatenate((first.offsets, second.offsets[1:] + first.offsets[-1])),
        kind=np.concatenate((first.kind, second.kind)),
        name=np.concatenate((first.name, name)),
        file=np.concatenate((first.file, file)),
        line=np.concatenate((first.line, second.line)),
        strings=(*first.strings, *second.strings[1:]),
    )


def _no_names(_: Mapping, addresses: U64) -> Symbolized:
    raise AssertionError(f"{len(addresses)} addresses of a mapping that has no symbols")


def binary_name(mapping: Mapping) -> str:
    """What a frame without a name is called after: kernel, module, base name of the file, or head of its build ID."""
    if mapping.kind is MappingKind.KERNEL:
        return "kernel"
    name = PurePosixPath(mapping.path).name.strip("[]")
    return name or (str(mapping.build_id)[:12] if mapping.build_id else "unknown")


class _Table:
    """Columns over frames that grow mapping by mapping."""

    def __init__(self) -> None:
        self._number = {"": 0}
        self._columns: list[tuple[I64, U8, U32, U32, U32]] = []

    def intern(self, text: str) -> int:
        return self._number.setdefault(text, len(self._number))

    def add_misses(self, mapping: Mapping, addresses: U64) -> None:
        if mapping is UNKNOWN_MAPPING:
            names = [mapping.path] * len(addresses)
        else:
            names = [miss_name(number) for number in addresses.tolist()]
        self._add_placeholders(names)

    def add_named(self, mapping: Mapping, addresses: U64, named: MappingOf[int, NamedFrame]) -> None:
        lost = NamedFrame("")
        frames = [named.get(address, lost) for address in addresses.tolist()]
        kinds: list[FrameKind] = []
        names: list[int] = []
        for frame in frames:
            kind, name = _named_frame(mapping.kind, frame.name)
            kinds.append(kind)
            names.append(self.intern(name))
        self._append(
            np.ones(len(frames), np.int64),
            np.array(kinds, np.uint8),
            np.array(names, np.uint32),
            np.array([self.intern(frame.file) for frame in frames], np.uint32),
            np.array([frame.line for frame in frames], np.uint32),
        )

    def add_symbolized(self, mapping: Mapping, addresses: U64, found: Symbolized) -> None:
        kernel = mapping.kind in KERNEL_KINDS
        ends = found.offsets.astype(np.int64)
        rows = ends[1:] - ends[:-1]
        assert len(rows) == len(addresses), "a symbolizer answers for each address, with no rows where it has no name"
        counts = np.maximum(rows, 1)
        first = np.cumsum(counts) - counts
        size = int(counts.sum())
        kind = np.full(size, FrameKind.KERNEL if kernel else FrameKind.INLINED, np.uint8)
        kind[first] = FrameKind.KERNEL if kernel else FrameKind.NATIVE
        name, file, line = (np.zeros(size, np.uint32) for _ in range(3))
        place = np.repeat(first - (np.cumsum(rows) - rows), rows) + np.arange(int(rows.sum()))
        name[place] = self._strings(found, found.function)
        file[place] = self._strings(found, found.file)
        line[place] = found.line
        nameless = np.flatnonzero(name == 0)
        owner = np.repeat(addresses, counts)[nameless]
        binary, suffix = binary_name(mapping), "_[k]" if kernel else ""
        name[nameless] = [self.intern(f"[{binary}+0x{address:x}]{suffix}") for address in owner.tolist()]
        kind[nameless] = FrameKind.UNKNOWN
        self._append(counts, kind, name, file, line)

    def locations(self, mappings: tuple[Mapping, ...], mapping: U32, address: U64) -> Locations:
        empty = (np.zeros(0, np.int64), np.zeros(0, np.uint8), *(np.zeros(0, np.uint32) for _ in range(3)))
        counts, kind, name, file, line = (np.concatenate(column) for column in zip(empty, *self._columns, strict=True))
        return Locations(
            mappings=mappings,
            mapping=mapping,
            address=address,
            offsets=np.concatenate(([0], np.cumsum(counts))),
            kind=kind,
            name=name,
            file=file,
            line=line,
            strings=tuple(self._number),
        )

    def _strings(self, found: Symbolized, column: U32) -> U32:
        """Our numbers for the symbolizer's strings of `column`."""
        used, index = np.unique(column, return_inverse=True)
        ours = np.array([self.intern(found.strings[number]) for number in used.tolist()], np.uint32)
        return ours[index]

    def _add_placeholders(self, names: list[str]) -> None:
        zeros = np.zeros(len(names), np.uint32)
        kinds = np.array([kind_of(name) for name in names], np.uint8)
        numbers = np.array([self.intern(name) for name in names], np.uint32)
        self._append(np.ones(len(names), np.int64), kinds, numbers, zeros, zeros)

    def _append(self, counts: I64, kind: U8, name: U32, file: U32, line: U32) -> None:
        self._columns.append((counts, kind, name, file, line))


def _named_frame(kind: MappingKind, name: str) -> tuple[FrameKind, str]:
    """Kind and bare name of a frame that came with its name."""
    if not name:
        return FrameKind.UNKNOWN, f"[{kind.name.lower()} frame]"
    if kind in _KIND_OF_NAMED:
        return _KIND_OF_NAMED[kind], name
    told = kind_of(name)
    suffix = SUFFIXES.get(told, "")
    return told, name.removesuffix(suffix)
