"""A made-up fleet to ask questions about: programs with stacks and names, and what nodes sample of them.

24 programs, six on a node. A program has some 2,400 stacks: paths of its own call tree, 28 frames deep on average, that
share their beginnings as real ones do, a third of them ending in the kernel, and a few interrupted instructions for
each path. Which of them a window holds is drawn by a Zipf-like law, about 200 distinct ones a node and 10 s.

Everything follows from seeds. Names and counts are kept apart from what is under test, as what to compare it with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aggregator.storage import ids
from aggregator.storage.types import StackRows
from aggregator.symbols.records import Kept, Source
from aggregator.symbols.service import SymbolConfig, SymbolService
from aggregator.symbols.store import Offer
from aggregator.symbols.table import NOWHERE, Rank, SymbolTable, pack_strings
from aggregator.symbols.tablefile import digest_of, write_table
from fleetflame.buildid import BuildId
from fleetflame.model import Labels, Mapping, MappingKind, Segment

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

PROGRAMS, ON_NODE, LIBRARIES = 24, 6, 20
PATHS, STACKS = 900, 2500
CALLS = 1200
"""Calls of a program's functions that show up in samples, and of a library's and the kernel's."""
DEPTH, SPREAD, DEEPEST = 28, 8, 80
BRANCHING = 0.06
"""How often a function of a path calls another one than the same function of most other paths."""
FUNCTIONS = {"program": 4000, "library": 1500, "kernel": 4000}
SIZE, CHUNK, FIRST = 256, 64, 0x1000
"""Bytes of a function; of each quarter, which differ in what was inlined there; where the first one begins."""
WINDOW_S = 10
DRAWS = 250
"""Samples of a node and window: some 200 distinct stacks."""
PERIOD_NS = 10**9 // 19
DICE = 1 << 18


@dataclass(frozen=True)
class Image:
    """A file or the kernel: what addresses belong to."""

    name: str
    role: str
    mapping: Mapping

    @property
    def functions(self) -> int:
        """How many it has."""
        return FUNCTIONS[self.role]

    def function(self, number: int) -> str:
        """The name of a function as source code would have it."""
        if self.role == "program":
            return f"{self.name}::{_word(number, 3)}::{_word(number, 5)}Service::{_word(number, 7)}_{number}"
        return f"{self.name}_{_word(number, 3)}_{number}"

    def rendered(self, address: int) -> list[str]:
        """What a flame graph must show for an address, outermost function first."""
        number, quarter = (address - FIRST) // SIZE, (address - FIRST) // CHUNK % 4
        if self.role == "kernel":
            return [self.function(number) + "_[k]"]
        if self.role == "library":
            return [self.function(number)]
        inlined = {1: [number * 7 + 1], 3: [number * 13 + 5, number * 7 + 1]}.get(quarter, [])
        return [self.function(number), *(self.function(each % self.functions) + "_[i]" for each in inlined)]

    def table(self) -> SymbolTable:
        """Its symbol table."""
        count = self.functions
        number = np.arange(count, dtype=np.uint32)
        location = np.repeat(number * 4, 4).reshape(-1, 4)
        rank = {"program": Rank.DWARF, "library": Rank.SYMTAB, "kernel": Rank.KALLSYMS}[self.role]
        if self.role == "program":
            location = location + np.array([0, 1, 0, 3], np.uint32)
        functions = np.stack([number, number * 7 + 1, number * 13 + 5, number * 7 + 1], axis=1) % count + 1
        parent = np.stack([np.full(count, NOWHERE), number * 4, number * 4, number * 4 + 2], axis=1)
        file = np.zeros(4 * count, np.uint32) if self.role != "program" else np.repeat(number % 50 + count + 1, 4)
        files = [f"src/{self.name}/{_word(n, 3)}_{n}.cc" for n in range(50)]
        string_at, string_bytes = pack_strings(["", *map(self.function, range(count)), *files])
        return SymbolTable(
            start=(np.arange(4 * count + 1) * CHUNK + FIRST).astype(np.uint32),
            location=np.append(location.reshape(-1), np.uint32(NOWHERE)).astype(np.uint32),
            function=functions.reshape(-1).astype(np.uint32),
            file=file.astype(np.uint32),
            line=(np.arange(4 * count) % 1000 + 1).astype(np.uint32),
            parent=parent.reshape(-1).astype(np.uint32),
            string_at=string_at,
            string_bytes=string_bytes,
            rank=rank,
            functions=count,
        )


_WORDS = [
    "parse",
    "route",
    "cart",
    "price",
    "index",
    "shard",
    "flush",
    "merge",
    "lease",
    "quota",
    "token",
    "frame",
    "cache",
    "probe",
    "split",
    "range",
    "chunk",
    "batch",
    "queue",
    "timer",
    "fetch",
    "stock",
    "order",
    "render",
    "decode",
    "encode",
    "verify",
    "commit",
    "replay",
    "sample",
    "select",
    "rotate",
    "schema",
    "cursor",
    "buffer",
    "codec",
    "handle",
    "stream",
    "accept",
    "submit",
    "balance",
    "window",
]


def _word(number: int, step: int) -> str:
    return _WORDS[number * step % len(_WORDS)]


def images() -> list[Image]:
    """Programs, then libraries, then the kernel."""
    found = []
    names = [("program", f"svc{n:02}", MappingKind.FILE) for n in range(PROGRAMS)]
    names += [("library", f"lib{n:02}", MappingKind.FILE) for n in range(LIBRARIES)]
    for number, (role, name, kind) in enumerate([*names, ("kernel", "kernel", MappingKind.KERNEL)]):
        path = {"program": f"/usr/bin/{name}", "library": f"/usr/lib/{name}.so", "kernel": "6.18.0"}[role]
        segments = (Segment(0, 0, 1 << 22),) if kind is MappingKind.FILE else ()
        found.append(Image(name, role, Mapping(kind, BuildId(bytes([number + 1]) * 20), path, segments)))
    return found


@dataclass(frozen=True)
class Population:
    """Every stack of the fleet, by (program, popularity). Stack i is of program `program[i]`, `image` is per frame."""

    images: list[Image]
    rows: StackRows
    image: I64
    program: I64

    def __len__(self) -> int:
        return len(self.program)

    def comm(self, stack: int) -> str:
        """The process that a stack is of."""
        return self.images[int(self.program[stack])].name

    @cached_property
    def texts(self) -> list[str]:
        """The folded text of each stack, made without anything that is under test."""
        known: dict[tuple[int, int], str] = {}
        ends, out = self.rows.offsets.tolist(), []
        pairs = list(zip(self.image.tolist(), self.rows.address.tolist(), strict=True))
        for stack in range(len(self)):
            frames = []
            for pair in pairs[ends[stack] : ends[stack + 1]]:
                text = known.get(pair)
                if text is None:
                    text = known[pair] = ";".join(self.images[pair[0]].rendered(pair[1]))
                frames.append(text)
            out.append(";".join([self.comm(stack), *frames]))
        return out

    def folded(self, counts: U64) -> bytes:
        """What a query must answer when it finds `counts[i]` samples of stack i: a brute-force count by text."""
        total: dict[str, int] = {}
        for stack in np.flatnonzero(counts).tolist():
            total[self.texts[stack]] = total.get(self.texts[stack], 0) + int(counts[stack])
        return b"".join(sorted(f"{text} {count}\n".encode() for text, count in total.items()))


def make_population(seed: int = 11) -> Population:
    """All stacks; those of a program in random order, which is their order of popularity."""
    random = np.random.default_rng(seed)
    count = PROGRAMS * STACKS
    program = np.repeat(np.arange(PROGRAMS), STACKS)
    path = random.integers(0, PATHS, count)
    depth = np.clip(np.random.default_rng(seed + 1).normal(DEPTH, SPREAD, (PROGRAMS, PATHS)), 8, DEEPEST).astype(int)
    length = depth[program, path]
    in_kernel = np.where(_mix(path, program) % np.uint64(3) == 0, np.minimum(length // 3, 9), 0)
    choice = np.random.default_rng(seed + 2).random((PROGRAMS, PATHS, DEEPEST))
    state, columns = _mix(program.astype(np.uint64), np.uint64(seed)), []
    kernel = PROGRAMS + LIBRARIES
    sizes = np.array([image.functions for image in images()])
    for level in range(DEEPEST):
        here = choice[program, path, level]
        # Most paths take the way that most others take; the rest branch off in few directions.
        branch = np.where(here < BRANCHING, 1 + (here / BRANCHING * 4).astype(np.int64), 0)
        state = _mix(state, branch.astype(np.uint64))
        library = PROGRAMS + (_mix(state, np.uint64(7)) % np.uint64(LIBRARIES)).astype(np.int64)
        image = np.where(_mix(state, np.uint64(5)) % np.uint64(5) < 3, program, library)
        image = np.where(level >= length - in_kernel, kernel, image)
        # The same call stands in many stacks, below different callers: there are fewer calls than ways to them.
        at = _mix(state % np.uint64(CALLS), image.astype(np.uint64))
        address = FIRST + (at % sizes[image].astype(np.uint64)).astype(np.int64) * SIZE + (at >> 40).astype(int) % SIZE
        last = level == length - 1
        address[last] = (address[last] & -CHUNK) + random.integers(0, 6, np.count_nonzero(last)) * 8
        columns.append((image, address))
    kept = np.arange(DEEPEST) < length[:, None]
    image = np.stack([column[0] for column in columns], axis=1)[kept]
    address = np.stack([column[1] for column in columns], axis=1)[kept].astype(np.uint64)
    mapping_ids = np.array([ids.mapping_id(each.mapping) for each in images()], np.uint64)
    offsets = np.concatenate(([0], np.cumsum(length))).astype(np.uint64)
    keys = ids.stack_ids(offsets, mapping_ids[image], address)
    first = np.sort(np.unique(keys, return_index=True)[1])
    rows = StackRows(ids=keys, offsets=offsets, mapping=image.astype(np.uint64), address=address)
    rows = ids.taken(rows, first)
    image = rows.mapping.astype(np.int64)
    rows = StackRows(ids=rows.ids, offsets=rows.offsets, mapping=mapping_ids[image], address=rows.address)
    return Population(images(), rows, image, program[first])


def _mix(a: NDArray[np.generic], b: NDArray[np.generic] | np.uint64) -> U64:
    """Bits that depend on both (the finalizer of SplitMix64)."""
    with np.errstate(over="ignore"):
        x = np.asarray(a, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.asarray(b, np.uint64) + np.uint64(1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)


@dataclass(frozen=True)
class Rows:
    """Samples of some nodes in some windows, by (series, time, stack), and one marker for each batch."""

    series: U64
    time: NDArray[np.uint32]
    stack: I64
    """Numbers in the population."""
    batch: U64
    count: U64
    marker_time: NDArray[np.uint32]
    marker_batch: U64
    marker_count: U64


@dataclass
class Nodes:
    """Nodes that run programs of a population."""

    population: Population
    count: int
    labels: list[list[Labels]] = field(init=False)
    series: U64 = field(init=False)
    """By node and program, 0 where it does not run."""

    def __post_init__(self) -> None:
        self.labels = [[self._labels(node, program) for program in self.programs(node)] for node in range(self.count)]
        self.series = np.zeros((self.count, PROGRAMS), np.uint64)
        for node, row in enumerate(self.labels):
            for program, labels in zip(self.programs(node), row, strict=True):
                self.series[node, program] = ids.series_id(labels)
        self._odds: dict[int, tuple[I64, NDArray[np.float64]]] = {}
        self._dice: dict[int, I64] = {}

    def programs(self, node: int) -> list[int]:
        """What runs on a node."""
        return sorted({(node * 5 + each * 7) % PROGRAMS for each in range(ON_NODE)})

    def _labels(self, node: int, program: int) -> Labels:
        name = self.population.images[program].name
        unit = f"{name}.service"
        found = {"comm": name, "service": name, "unit": unit, "exe": f"/usr/bin/{name}", "node": f"node-{node:03}"}
        return tuple(sorted(found.items()))

    def odds(self, node: int) -> tuple[I64, NDArray[np.float64]]:
        """Stacks that occur on a node, and how often each is drawn."""
        key = node * 5 % PROGRAMS
        if key not in self._odds:
            self._odds[key] = self._make_odds(node)
        return self._odds[key]

    def _make_odds(self, node: int) -> tuple[I64, NDArray[np.float64]]:
        stacks, odds = [], []
        for place, program in enumerate(self.programs(node)):
            of_program = np.flatnonzero(self.population.program == program)
            stacks.append(of_program)
            law = 1 / (np.arange(len(of_program)) + 3) ** 1.05
            odds.append(law / law.sum() / (place + 1))
        joined = np.concatenate(odds)
        return np.concatenate(stacks), joined / joined.sum()

    def dice(self, node: int) -> I64:
        """A table to draw stacks from: each as often as its odds say."""
        key = node * 5 % PROGRAMS
        if key not in self._dice:
            stacks, odds = self.odds(node)
            self._dice[key] = np.repeat(stacks, np.diff(np.round(np.cumsum(np.append(0, odds)) * DICE).astype(int)))
        return self._dice[key]

    def sample(self, start: int, end: int) -> Rows:
        """What all nodes send for the windows of [start, end)."""
        parts = [self._sample_node(node, start, end) for node in range(self.count)]
        return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _sample_node(self, node: int, start: int, end: int) -> tuple[NDArray[np.generic], ...]:
        windows = np.arange(start, end, WINDOW_S)
        random = np.random.default_rng((node, start))
        dice = self.dice(node)
        drawn = np.sort(dice[random.integers(0, len(dice), (len(windows), DRAWS))], axis=1)
        fresh = np.ones(drawn.shape, bool)
        np.not_equal(drawn[:, 1:], drawn[:, :-1], out=fresh[:, 1:])
        at = np.flatnonzero(fresh)
        count = np.diff(np.append(at, drawn.size))
        window, stack = at // DRAWS, drawn.reshape(-1)[at]
        program = self.population.program[stack]
        order = np.argsort(program.astype(np.uint8), kind="stable")
        window, stack, program, count = window[order], stack[order], program[order], count[order]
        batch = _mix(windows, np.uint64(node + 1))
        return (
            self.series[node, program],
            windows[window].astype(np.uint32),
            stack,
            batch[window],
            count.astype(np.uint64),
            windows.astype(np.uint32),
            batch,
            np.full(len(windows), DRAWS, np.uint64),
        )

    def sums(self, start: int, span: int) -> Iterator[tuple[int, I64, U64]]:
        """Node, stacks and counts of the `span` seconds from `start`, drawn as sums: for time nobody reads in full."""
        for node in range(self.count):
            stacks, odds = self.odds(node)
            drawn = np.random.default_rng((node, start)).poisson(odds * (DRAWS * span // WINDOW_S))
            some = np.flatnonzero(drawn)
            yield node, stacks[some], drawn[some].astype(np.uint64)

    def all_labels(self) -> Sequence[Labels]:
        """Label sets of all series."""
        return [labels for row in self.labels for labels in row]


def symbol_service(folder: Path, known: Sequence[Image]) -> SymbolService:
    """A symbol service; when its folder is empty, tables of the `known` images are made."""
    service = SymbolService(SymbolConfig(folder=folder))
    for image in known if not service.list() else []:
        table, build_id = image.table(), image.mapping.build_id
        assert build_id is not None, "each image is a build"
        with service.store.workspace() as work:
            path = work / "table"
            with path.open("w+b") as file:
                write_table(file, table)
            kept = Kept(
                rank=table.rank,
                content=str(build_id) * 2,
                digest=digest_of(table),
                source=Source.UPLOAD,
                where=image.name,
                functions=table.functions,
                table_bytes=path.stat().st_size,
                content_bytes=0,
                added=0.0,
                parser=1,
            )
            service.store.add(
                Offer(
                    build_id=build_id,
                    path=image.mapping.path,
                    kept=kept,
                    table=path,
                    content=None,
                    segments=image.mapping.segments,
                )
            )
    return service
