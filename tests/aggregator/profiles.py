"""Small profiles for tests: rows, frames and names written out, as store and symbolizer would give them."""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.locations import Symbolize
from aggregator.names import Names as StackNames
from aggregator.profile import Profile, index_stacks, make_profile
from aggregator.selector import parse_selector
from aggregator.storage.stacktree import StackTree
from aggregator.storage.types import Frames, ProfileQuery, Selected, StackRows
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind, NamedFrame

APP = Mapping(MappingKind.FILE, BuildId(bytes(range(20))), "/usr/bin/app")
LIBC = Mapping(MappingKind.FILE, BuildId(bytes(range(20, 40))), "/usr/lib/libc.so.6")
KERNEL = Mapping(MappingKind.KERNEL, BuildId(bytes(range(40, 60))), "6.1.0")
MODULE = Mapping(MappingKind.MODULE, BuildId(bytes(range(60, 80))), "nf_tables")
VDSO = Mapping(MappingKind.VDSO, BuildId(bytes(range(80, 100))), "[vdso]")
JIT = Mapping(MappingKind.JIT)
PYTHON = Mapping(MappingKind.INTERPRETER)
BPF = Mapping(MappingKind.BPF)
MISS = Mapping(MappingKind.MISS)
IMPORTED = Mapping(MappingKind.IMPORTED)

PERIOD_NS = 10_000_000

Frame = tuple[Mapping, int]
Row = tuple[tuple[str, ...], Sequence[Frame], int]
Names = dict[tuple[Mapping, int], list[tuple[str, str, int]]]


@dataclass(frozen=True)
class Answer:
    """What a symbolizer answers."""

    offsets: NDArray[np.uint32]
    function: NDArray[np.uint32]
    file: NDArray[np.uint32]
    line: NDArray[np.uint32]
    strings: tuple[str, ...]


def symbolizer(names: Names) -> Callable[[Mapping, NDArray[np.uint64]], Answer]:
    """A symbolizer that knows `names`: (function, file, line), outermost first."""

    def symbolize(mapping: Mapping, addresses: NDArray[np.uint64]) -> Answer:
        rows = [names.get((mapping, address), []) for address in addresses.tolist()]
        flat = [row for each in rows for row in each]
        strings = ["", *dict.fromkeys(text for function, file, _ in flat for text in (function, file) if text)]
        return Answer(
            offsets=np.concatenate(([0], np.cumsum([len(each) for each in rows]))).astype(np.uint32),
            function=np.array([strings.index(row[0]) for row in flat], np.uint32),
            file=np.array([strings.index(row[1]) for row in flat], np.uint32),
            line=np.array([row[2] for row in flat], np.uint32),
            strings=tuple(strings),
        )

    return symbolize


def profile(
    rows: Sequence[Row],
    names: Names | None = None,
    named: dict[int, NamedFrame] | None = None,
    *,
    by: tuple[str, ...] = ("comm",),
    no_kernel: bool = False,
    lost: Sequence[Sequence[Frame]] = (),
) -> Profile:
    """The profile of `rows`: (values of `by`, frames, samples). Stacks in `lost` are not among the frames found."""
    mappings = list(dict.fromkeys(mapping for _, frames, _ in rows for mapping, _ in frames))
    ids = {mapping: 1000 + index for index, mapping in enumerate(mappings)}
    stacks = list(dict.fromkeys(tuple(frames) for _, frames, _ in rows))
    groups = sorted({values for values, _, _ in rows})
    found = [stack for stack in stacks if stack not in [tuple(each) for each in lost]]
    selected = Selected(
        groups=tuple(groups),
        group=np.array([groups.index(values) for values, _, _ in rows], np.uint32),
        stack=np.array([stacks.index(tuple(frames)) for _, frames, _ in rows], np.uint64),
        count=np.array([count for _, _, count in rows], np.uint64),
        value=np.array([count * PERIOD_NS for _, _, count in rows], np.uint64),
    )
    frames = Frames(
        stacks=np.array([stacks.index(stack) for stack in found], np.uint64),
        offsets=np.concatenate(([0], np.cumsum([len(stack) for stack in found]))).astype(np.uint32),
        mapping=np.array([ids[mapping] for stack in found for mapping, _ in stack], np.uint64),
        address=np.array([address for stack in found for _, address in stack], np.uint64),
    )
    query = ProfileQuery(
        selector=parse_selector("cpu"), from_ns=1_700_000_000_000_000_000, until_ns=1_700_000_060_000_000_000, by=by
    )
    tables = {number: mapping for mapping, number in ids.items()}
    return build_profile(
        selected, frames, tables, named or {}, symbolizer(names or {}), query=query, no_kernel=no_kernel
    )


def build_profile(
    selected: Selected,
    frames: Frames,
    mappings: MappingOf[int, Mapping],
    named: MappingOf[int, NamedFrame],
    symbolize: Symbolize,
    *,
    query: ProfileQuery,
    no_kernel: bool = False,
) -> Profile:
    """The profile of rows whose frames, mappings and named frames are at hand, nothing remembered."""
    tree = StackTree().with_stacks(
        StackRows(
            ids=frames.stacks,
            offsets=frames.offsets.astype(np.uint64),
            mapping=frames.mapping,
            address=frames.address,
        )
    )
    ends, stack = index_stacks(selected.stack, tree.find(selected.stack))
    names = StackNames(symbolize).of(tree, ends, _AtHand(mappings, named), kernel=not no_kernel)
    return make_profile(selected, names, stack, query=query, kernel=not no_kernel)


@dataclass(frozen=True, slots=True)
class _AtHand:
    """What frames refer to, as it was given."""

    _mappings: MappingOf[int, Mapping]
    _named: MappingOf[int, NamedFrame]

    def mappings(self, wanted: Iterable[int]) -> MappingOf[int, Mapping]:
        return {number: self._mappings[number] for number in wanted if number in self._mappings}

    def named(self, wanted: Iterable[int]) -> MappingOf[int, NamedFrame]:
        return {number: self._named[number] for number in wanted if number in self._named}
