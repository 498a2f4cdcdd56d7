"""From a batch's numbers and indices to ids, with every sample kept."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.numbers import NumberTables
from aggregator.storage import ids
from aggregator.storage.accept import NO_NUMBERS, NOT_RECEIVED, Numbers, accept, announced
from aggregator.storage.known import KnownIds
from fleetflame.buildid import BuildId
from fleetflame.model import Batch, Mapping, MappingKind, NamedFrame, empty_stacks
from tests.aggregator.storage.fleet import STACKS, batch, labels, random_fleet, stack_table


def test_equal_stacks_have_equal_ids_wherever_they_come_from() -> None:
    """Other mapping order, other names' order, other stacks around them: the same id; other frames: another one."""
    one = batch([])
    order = (3, 2, 1, 0)
    other = replace(
        one,
        mappings=tuple(one.mappings[n] for n in order),
        named=one.named[::-1],
        stacks=stack_table([[(3 - m, 1 - a if m == 2 else a) for m, a in stack] for stack in STACKS[::-1]]),
    )
    assert announced(one).ids.tolist() == announced(other).ids.tolist()[::-1]
    assert len(set(announced(one).ids.tolist())) == len(STACKS)


def test_ids_tell_things_apart() -> None:
    """Fields that would read the same run together do not."""
    build = BuildId(b"ab")
    mappings = [
        Mapping(MappingKind.FILE, build, "x"),
        Mapping(MappingKind.MODULE, build, "x"),
        Mapping(MappingKind.FILE, None, "ab"),
        Mapping(MappingKind.FILE, None, "x"),
    ]
    assert len({ids.mapping_id(mapping) for mapping in mappings}) == len(mappings)
    assert ids.mapping_id(mappings[0]) == ids.mapping_id(Mapping(MappingKind.FILE, build, "another path"))
    assert ids.named_id(NamedFrame("ab", "c")) != ids.named_id(NamedFrame("a", "bc"))
    assert ids.series_id((("a", "bc"),)) != ids.series_id((("ab", "c"),))
    assert ids.batch_id("a", b"\1", 1) != ids.batch_id("a", b"\1", 257)


def test_ids_are_part_of_the_stored_schema() -> None:
    """A change of these is a migration of every database."""
    assert ids.mapping_id(Mapping(MappingKind.FILE, BuildId(b"\1" * 20), "x")) == 1816299102382631018
    assert ids.named_id(NamedFrame("Main.run()", "Main.java", 7)) == 2785285056289215801
    assert NOT_RECEIVED.ids.tolist() == [NOT_RECEIVED_ID]


NOT_RECEIVED_ID = 14274406435222424139


@given(st.integers(0, 10**6), st.sets(st.integers(0, len(STACKS) - 1)))
def test_every_sample_is_kept(seed: int, known: set[int]) -> None:
    """Whatever numbers are unknown, the counts by series and stack are those of the batch."""
    for made in random_fleet(seed, nodes=1, windows=3):
        stacks = announced(made)
        rows = np.array(sorted(known), np.uint32)
        one = accept(made, stacks, Numbers(rows, stacks.ids[rows]), 0)
        expected: Counter[tuple[str, int]] = Counter()
        for series, number, count in zip(made.sample_series, made.sample_number, made.sample_count, strict=True):
            stack = int(stacks.ids[number]) if int(number) in known else int(NOT_RECEIVED.ids[0])
            expected[dict(made.series[series])["comm"], stack] += int(count)
        found: Counter[tuple[str, int]] = Counter()
        for series, stack, count in zip(one.sample_series, one.sample_stack, one.sample_count, strict=True):
            found[dict(one.series[series])["comm"], int(stack)] += int(count)
        assert found == expected
        keys = list(zip(one.sample_series.tolist(), one.sample_stack.tolist(), strict=True))
        assert len(set(keys)) == len(keys), "rows with an equal key would be taken for one"
        unknown = sum(int(c) for n, c in zip(made.sample_number, made.sample_count, strict=True) if int(n) not in known)
        assert one.ledger.degraded.get("not_received", 0) == unknown


def test_the_node_label_is_the_subjects() -> None:
    """Whatever a batch's labels say; series that become equal by it are one, with the sum."""
    made = batch([(labels(comm="x", node="liar"), 0, 2), (labels(comm="x"), 0, 3)])
    stacks = announced(made)
    one = accept(made, stacks, NO_NUMBERS.with_stacks(0, stacks.ids), 0)
    assert one.series == ((("comm", "x"), ("node", "web-1")),)
    assert one.sample_count.tolist() == [5]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8))
def test_numbers_come_in_any_order(parts: list[tuple[int, int]]) -> None:
    """What was said first of a number stays."""
    numbers, expected = NO_NUMBERS, dict[int, int]()
    for first, count in parts:
        stacks = np.arange(first, first + count, dtype=np.uint64) * 10 + 1
        numbers = numbers.with_stacks(first, stacks)
        expected |= {n: n * 10 + 1 for n in range(first, first + count)}
    found, known = numbers.find(np.arange(100, dtype=np.uint32))
    assert {n: int(found[n]) for n in range(100) if known[n]} == expected


def test_number_tables_are_bounded_and_read_back() -> None:
    """The least recently used dictionary is forgotten, and asked for again when it is needed."""
    asked = []

    def load(node: str, epoch: bytes, dictionary: int) -> Numbers:
        asked.append(node)
        stacks = announced(batch([]))
        return NO_NUMBERS.with_stacks(0, stacks.ids)

    tables = NumberTables(load, limit=12)
    for node in ("a", "b", "c"):
        tables.resolve(batch([], node=node))

    def later(node: str) -> Batch:
        made = batch([(labels(comm="x"), 1, 1)], node=node, sequence=2)
        return replace(made, stacks=empty_stacks(), first_number=5)

    assert tables.resolve(later("c"))[2]
    assert asked == []
    assert tables.resolve(later("a"))[2]
    assert asked == ["a"]


@given(st.lists(st.lists(st.integers(0, 50), unique=True, max_size=20), max_size=10), st.sampled_from([2, 5, 12, 1000]))
def test_known_ids_never_claim_what_was_not_added(parts: list[list[int]], limit: int) -> None:
    """They may forget when there are too many; they never invent."""
    known, added = KnownIds(limit), set[int]()
    for part in parts:
        wanted = np.array(part, np.uint64)
        fresh = wanted[known.unknown(wanted)]
        assert set(part) - added <= set(fresh.tolist())
        known.add(fresh)
        added |= set(part)
        assert len(known) <= limit + max(map(len, parts))
        assert limit < 60 or not len(known.unknown(wanted))
