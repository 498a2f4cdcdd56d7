"""Arbitrary valid batches, and what it means for two to be equal."""

from dataclasses import fields
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fleetflame.buildid import BuildId
from fleetflame.model import (
    NAMED_KINDS,
    Batch,
    FrameMiss,
    Labels,
    Ledger,
    Mapping,
    MappingKind,
    NamedFrame,
    Segment,
    StackTable,
)

EPOCH = bytes(range(16))
U64 = st.integers(0, (1 << 64) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def plain(value: object) -> object:
    """`value` with every array as a list, so that `==` compares batches."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.tolist())
    if isinstance(value, Batch | StackTable):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


def stack_table(stacks: list[list[tuple[int, int]]]) -> StackTable:
    """Stacks given as lists of (mapping index, address), root first."""
    frames = [frame for stack in stacks for frame in stack]
    return StackTable(
        offsets=np.cumsum([0, *(len(stack) for stack in stacks)]).astype(np.uint32),
        mapping=np.array([mapping for mapping, _ in frames], np.uint32),
        address=np.array([address for _, address in frames], np.uint64),
    )


def stacks_of(table: StackTable) -> list[list[tuple[int, int]]]:
    """The inverse of `stack_table`."""
    frames = list(zip(table.mapping.tolist(), table.address.tolist(), strict=True))
    ends = table.offsets.tolist()
    return [frames[ends[i] : ends[i + 1]] for i in range(len(table))]


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    kind = draw(st.sampled_from(MappingKind))
    nameless = kind in NAMED_KINDS or kind is MappingKind.MISS
    build_id = None if nameless else draw(st.none() | st.binary(min_size=1, max_size=64).map(BuildId))
    segments = tuple(draw(st.lists(st.builds(Segment, U64, U64, U64), max_size=3)))
    return Mapping(kind=kind, build_id=build_id, path=draw(TEXT), segments=segments)


@st.composite
def frames(draw: st.DrawFn, table: list[Mapping], named: int) -> tuple[int, int]:
    usable = [i for i, mapping in enumerate(table) if named or mapping.kind not in NAMED_KINDS]
    index = draw(st.sampled_from(usable))
    if table[index].kind in NAMED_KINDS:
        return index, draw(st.integers(0, named - 1))
    if table[index].kind is MappingKind.MISS:
        return index, int(draw(st.sampled_from(FrameMiss)))
    return index, draw(U64)


@st.composite
def stack_tables(draw: st.DrawFn, table: list[Mapping], named: int) -> StackTable:
    """Stacks of which many share first frames, as stacks do."""
    if not any(named or mapping.kind not in NAMED_KINDS for mapping in table):
        return stack_table(draw(st.lists(st.just([]), max_size=2)))
    result: list[list[tuple[int, int]]] = []
    for tail in draw(st.lists(st.lists(frames(table, named), max_size=6), max_size=12)):
        keep = draw(st.integers(0, len(result[-1]))) if result else 0
        result.append([*(result[-1][:keep] if result else []), *tail])
    return stack_table(result)


def label_sets() -> st.SearchStrategy[Labels]:
    name = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda text: text != "node")
    value = TEXT.filter(bool)
    return st.dictionaries(name, value, max_size=4).map(lambda labels: tuple(sorted(labels.items())))


def reasons() -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), st.integers(0, 1000), max_size=3)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Any batch that a receiver must accept."""
    table = draw(st.lists(mappings(), max_size=4))
    named = draw(st.lists(st.builds(NamedFrame, name=TEXT, file=TEXT, line=st.integers(0, 2**32 - 1)), max_size=3))
    stacks = draw(stack_tables(table, len(named)))
    first = draw(st.integers(0, 1 << 20))
    rows: dict[tuple[int, int], int] = {}
    series = draw(st.lists(label_sets(), max_size=4, unique=True)) if first + len(stacks) else []
    number = st.integers(0, max(0, first + len(stacks) - 1))
    for index in range(len(series)):
        counts = draw(st.dictionaries(number, st.integers(1, 1 << 40), min_size=1, max_size=5))
        rows |= {(index, key): count for key, count in counts.items()}
    lost = draw(reasons())
    ordered: list[Any] = sorted(rows.items())
    taken = sum(rows.values()) + sum(lost.values())
    return Batch(
        node=draw(st.sampled_from(["web-1", "db.example.org", "_"])),
        epoch=draw(st.binary(min_size=16, max_size=16)),
        sequence=draw(st.integers(1, (1 << 63) - 1)),
        dictionary=draw(st.integers(0, (1 << 32) - 1)),
        window_start_ns=draw(st.integers(0, 1 << 62)),
        window_ns=draw(st.integers(1, 10**12)),
        period_ns=draw(st.integers(1, 10**5)),
        type=draw(st.sampled_from(["cpu", "off_cpu"])),
        mappings=tuple(table),
        named=tuple(named),
        series=tuple(series),
        first_number=first,
        stacks=stacks,
        sample_series=np.array([key[0] for key, _ in ordered], np.uint32),
        sample_number=np.array([key[1] for key, _ in ordered], np.uint32),
        sample_count=np.array([count for _, count in ordered], np.uint64),
        ledger=Ledger(
            taken=taken, taken_in_epoch=taken + draw(st.integers(0, 99)), lost=lost, degraded=draw(reasons())
        ),
    )


def example_batch(**changes: Any) -> Batch:
    """A small batch that has something of everything; `changes` replace fields."""
    values: dict[str, Any] = {
        "node": "web-1.example.org",
        "epoch": EPOCH,
        "sequence": 7,
        "dictionary": 2,
        "window_start_ns": 1_700_000_000_000_000_000,
        "window_ns": 10_000_000_000,
        "period_ns": 10_101_010,
        "mappings": (
            Mapping(
                kind=MappingKind.FILE,
                build_id=BuildId(bytes.fromhex("0123456789abcdef0123456789abcdef01234567")),
                path="/usr/bin/checkout",
                segments=(Segment(0x1000, 0x401000, 0x5000), Segment(0x8000, 0x409000, 0x100)),
            ),
            Mapping(kind=MappingKind.KERNEL, build_id=BuildId(b"\xfe" * 20), path="[kernel]"),
            Mapping(kind=MappingKind.JIT),
            Mapping(kind=MappingKind.MISS),
        ),
        "named": (NamedFrame("Order.total", "/srv/Order.java", 42), NamedFrame("λ")),
        "series": (
            (("comm", "checkout"), ("service", "checkout")),
            (("comm", "kworker"), ("service", "kworker")),
        ),
        "first_number": 100,
        "stacks": stack_table(
            [
                [(0, 0x1100), (0, 0x1200), (1, 0x9000)],
                [(0, 0x1100), (0, 0x1200), (2, 0)],
                [(0, 0x1100), (0, 0x3000), (2, 1), (1, 0xFFFF_FFFF_FFFF_FFF0)],
                [(3, int(FrameMiss.NO_USER_STACK)), (1, 0x9000)],
            ]
        ),
        "sample_series": np.array([0, 0, 0, 0, 1], np.uint32),
        "sample_number": np.array([3, 100, 101, 102, 103], np.uint32),
        "sample_count": np.array([5, 1, 2, 9, 1], np.uint64),
        "ledger": Ledger(
            taken=21, taken_in_epoch=2100, lost={"counts_full": 2, "queue_full": 1}, degraded={"no_user_stack": 1}
        ),
    }
    return Batch(**(values | changes))
