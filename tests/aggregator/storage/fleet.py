"""Made-up batches of a made-up fleet, and what should become of them, counted the slow way."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

import numpy as np

from aggregator.storage.accept import NO_NUMBERS, accept, announced
from aggregator.storage.types import AcceptedBatch, Selected
from fleetflame.buildid import BuildId
from fleetflame.model import Batch, FrameMiss, Labels, Ledger, Mapping, MappingKind, NamedFrame, Segment, StackTable

DAY = 1_790_035_200
"""A Tuesday, 00:00 UTC, in 2026."""
PERIOD = 10**9 // 19

LIBC = Mapping(MappingKind.FILE, BuildId(b"\x01" * 20), "/usr/lib/libc.so.6", (Segment(0x26000, 0x26000, 0x155000),))
KERNEL = Mapping(MappingKind.KERNEL, BuildId(b"\x02" * 20), "[kernel]")
JIT = Mapping(MappingKind.JIT)
MISS = Mapping(MappingKind.MISS)
MAPPINGS = (LIBC, KERNEL, JIT, MISS)
NAMED = (NamedFrame("Main.run()", "Main.java", 7), NamedFrame("λ;hot"))

Frame = tuple[int, int]
"""Index in MAPPINGS and address."""


def stack_table(stacks: Sequence[Sequence[Frame]]) -> StackTable:
    """The table of `stacks`, each root first."""
    flat = [frame for stack in stacks for frame in stack]
    return StackTable(
        offsets=np.cumsum([0, *map(len, stacks)]).astype(np.uint32),
        mapping=np.array([frame[0] for frame in flat], np.uint32),
        address=np.array([frame[1] for frame in flat], np.uint64),
    )


STACKS: tuple[tuple[Frame, ...], ...] = (
    ((0, 0x26100), (0, 0x30000)),
    ((0, 0x26100), (0, 0x30000), (1, 0x10)),
    ((2, 0), (2, 1)),
    ((3, FrameMiss.DEPTH_LIMIT), (0, 0x30000)),
    ((0, 0x26100), (0, 0x41234)),
)


def batch(
    rows: Iterable[tuple[Labels, int, int]],
    *,
    node: str = "web-1",
    sequence: int = 1,
    time: int = DAY,
    epoch: bytes = b"e" * 16,
    lost: int = 0,
    before: int = 0,
    profile: str = "cpu",
) -> Batch:
    """A batch that announces all of STACKS and holds `rows` of (labels, stack number, count)."""
    rows = list(rows)
    series = sorted({row[0] for row in rows})
    summed: Counter[tuple[int, int]] = Counter()
    for labels, number, count in rows:
        summed[series.index(labels), number] += count
    keys = sorted(summed)
    taken = sum(summed.values()) + lost
    return Batch(
        node=node,
        epoch=epoch,
        sequence=sequence,
        dictionary=1,
        window_start_ns=time * 10**9,
        window_ns=10 * 10**9,
        period_ns=PERIOD,
        type=profile,
        mappings=MAPPINGS,
        named=NAMED,
        series=tuple(series),
        stacks=stack_table(STACKS),
        sample_series=np.array([key[0] for key in keys], np.uint32),
        sample_number=np.array([key[1] for key in keys], np.uint32),
        sample_count=np.array([summed[key] for key in keys], np.uint64),
        ledger=Ledger(
            taken=taken,
            taken_in_epoch=before + taken,
            lost={"stack_map_full": lost} if lost else {},
            degraded={"depth_limit": 1},
        ),
    )


def accepted(made: Batch) -> AcceptedBatch:
    """`made` with its own announced stacks, as the first aggregator to see it would accept it."""
    stacks = announced(made)
    return accept(made, stacks, NO_NUMBERS.with_stacks(made.first_number, stacks.ids), DAY + 60)


def labels(**values: str) -> Labels:
    """A label set."""
    return tuple(sorted(values.items()))


def random_fleet(seed: int, *, nodes: int = 3, windows: int = 12, start: int = DAY, step: int = 10) -> list[Batch]:
    """Batches of `nodes` over `windows`, in order of time."""
    random = Random(seed)
    made = []
    before: Counter[str] = Counter()
    for window, node in itertools.product(range(windows), range(nodes)):
        rows = [
            (
                labels(comm=random.choice(["nginx", "php", "cron"]), service=random.choice(["checkout", "search"])),
                random.randrange(len(STACKS)),
                random.randint(1, 50),
            )
            for _ in range(random.randint(0, 12))
        ]
        name = f"web-{node}.example"
        one = batch(rows, node=name, sequence=window + 1, time=start + window * step, before=before[name])
        before[name] += one.ledger.taken
        made.append(one)
    return made


Sum = dict[tuple[tuple[str, ...], int], tuple[int, int]]
"""(group, stack id) -> (count, value)."""


def brute_force(batches: Iterable[Batch], by: Sequence[str], start: int, end: int, **equal: str) -> Sum:
    """What a query over [start, end) for series with the labels `equal` should answer."""
    counts: Counter[tuple[tuple[str, ...], int]] = Counter()
    for one in batches:
        if not start <= one.window_start_ns // 10**9 < end:
            continue
        ids = announced(one).ids
        for series, number, count in zip(one.sample_series, one.sample_number, one.sample_count, strict=True):
            found = dict(one.series[series]) | {"node": one.node}
            if all(found.get(name, "") == value for name, value in equal.items()):
                counts[tuple(found.get(name, "") for name in by), int(ids[number])] += int(count)
    return {key: (count, count * PERIOD) for key, count in counts.items()}


def as_sum(selected: Selected) -> Sum:
    """`selected` in the form of `brute_force`."""
    rows = zip(selected.group, selected.stack, selected.count, selected.value, strict=True)
    return {(selected.groups[g], int(s)): (int(c), int(v)) for g, s, c, v in rows}


def as_bytes(selected: Selected) -> bytes:
    """Everything `selected` holds, to compare two answers."""
    columns = (selected.group, selected.stack, selected.count, selected.value)
    return repr(selected.groups).encode() + b"".join(column.tobytes() for column in columns)
