"""Windows become messages: nothing is lost, each fits, each balances, and a stack's frames travel once."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batch import TOO_LARGE, Batcher, BatchLimits, Message
from agent.normalize import NormalizedWindow
from fleetflame import wire
from fleetflame.buildid import BuildId
from fleetflame.envelope import Limits
from fleetflame.model import NAMED_KINDS, Batch, Mapping, MappingKind, NamedFrame, Segment
from tests.support.batches import stack_table, stacks_of
from tests.support.windows import START_NS, WINDOW_NS, Rows, row_sets, window_of

EPOCH = bytes(range(16))


def batcher(**limits: object) -> Batcher:
    return Batcher(node="web-1", epoch=EPOCH, limits=BatchLimits(**limits))  # type: ignore[arg-type]


class Receiver:
    """What an aggregator makes of messages: rows by content, and the ledger."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[str, tuple[str, ...] | None]] = Counter()
        self.lost: Counter[str] = Counter()
        self.taken = 0
        self.taken_in_epoch = 0
        self.batches: list[Batch] = []
        self._stacks: dict[tuple[int, int], tuple[str, ...]] = {}

    @property
    def missing(self) -> int:
        return self.taken_in_epoch - self.taken

    def receive(self, message: Message) -> Batch:
        batch = wire.decode(message.payload)
        assert batch.sequence == message.sequence
        assert batch.ledger.taken == message.taken
        assert int(batch.sample_count.sum()) == message.samples
        self.batches.append(batch)
        for offset, stack in enumerate(stacks_of(batch.stacks)):
            names = tuple(self._frame(batch, *frame) for frame in stack)
            self._stacks[batch.dictionary, batch.first_number + offset] = names
        for series, number, count in zip(batch.sample_series, batch.sample_number, batch.sample_count, strict=True):
            comm = dict(batch.series[series])["comm"]
            self.rows[comm, self._stacks.get((batch.dictionary, int(number)))] += int(count)
        self.lost.update(batch.ledger.lost)
        self.taken += batch.ledger.taken
        self.taken_in_epoch = max(self.taken_in_epoch, batch.ledger.taken_in_epoch)
        return batch

    @staticmethod
    def _frame(batch: Batch, mapping: int, address: int) -> str:
        entry = batch.mappings[mapping]
        if entry.kind in NAMED_KINDS:
            return f"jit:{batch.named[address].name}"
        assert entry.build_id is not None
        return f"{entry.build_id.raw.decode()}+{address}"


def received(messages: list[Message]) -> Receiver:
    receiver = Receiver()
    for message in messages:
        receiver.receive(message)
    return receiver


@given(st.lists(row_sets(), max_size=5), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_a_receiver_gets_every_sample_under_its_own_stack(windows: list[Rows], rows_per_message: int) -> None:
    """Whatever the windows and however small the messages, the rows that come out are those that went in."""
    sender = batcher(content=Limits(rows=rows_per_message))
    receiver = Receiver()
    expected: Counter[tuple[str, tuple[str, ...] | None]] = Counter()
    for index, rows in enumerate(windows):
        expected.update(rows)
        for message in sender.messages(window_of(rows, index=index, lost={"counts_full": index})):
            batch = receiver.receive(message)
            assert len(batch.sample_count) <= rows_per_message
    assert receiver.rows == expected
    assert receiver.missing == 0
    assert [batch.sequence for batch in receiver.batches] == list(range(1, len(receiver.batches) + 1))


def test_frames_travel_once_and_then_only_numbers_do() -> None:
    """The second window announces only the stack that the first did not have."""
    sender = batcher()
    first = wire.decode(sender.messages(window_of({("x", ("a+1", "a+2")): 5, ("x", ("b+1",)): 1}))[0].payload)
    again = wire.decode(sender.messages(window_of({("y", ("a+1", "a+2")): 7}, index=1))[0].payload)
    more = wire.decode(sender.messages(window_of({("y", ("a+1", "c+2")): 1, ("x", ("b+1",)): 2}, index=2))[0].payload)
    assert (len(first.stacks), len(again.stacks), len(more.stacks)) == (2, 0, 1)
    assert first.dictionary == again.dictionary == more.dictionary
    assert again.mappings == ()
    assert again.first_number == more.first_number == 2
    assert {mapping.path for mapping in more.mappings} == {"/bin/a", "/bin/c"}


def test_stacks_are_sorted_so_that_neighbours_share_their_first_frames() -> None:
    """Two families of stacks given alternately come out family by family."""
    rows = {("x", (f"{binary}+1", f"{binary}+{leaf}")): 1 for leaf in range(5, 10) for binary in "ab"}
    batch = wire.decode(batcher().messages(window_of(rows))[0].payload)
    roots = [stack[0] for stack in stacks_of(batch.stacks)]
    assert sorted(roots) in (roots, roots[::-1])


def test_only_what_a_message_uses_is_announced() -> None:
    """Mappings, names and series of stacks without rows stay at home, and so does a JIT table without frames."""
    window = window_of({("x", ("a+1",)): 1, ("y", ("b+1", "jit:f")): 1})
    window = dataclasses.replace(
        window, row_series=window.row_series[:1], row_stack=window.row_stack[:1], row_count=window.row_count[:1]
    )
    batch = wire.decode(batcher().messages(window)[0].payload)
    assert [mapping.path for mapping in batch.mappings] == ["/bin/a"]
    assert batch.named == ()
    assert batch.series == ((("comm", "x"),),)


def test_an_idle_window_sends_its_ledger() -> None:
    """A node that took no sample still says that it was there, and what it lost."""
    messages = batcher().messages(window_of({}, lost={"counts_full": 3}))
    receiver = received(messages)
    assert len(messages) == 1
    assert receiver.lost == {"counts_full": 3}
    assert receiver.taken == receiver.taken_in_epoch == 3


def test_message_ids_are_epoch_and_sequence() -> None:
    """Unguessable for others on the bus, and the same at each attempt to send."""
    sender = batcher()
    ids = [sender.messages(window_of({}, index=index))[0].message_id for index in range(2)]
    assert ids == [f"{EPOCH.hex()}-1", f"{EPOCH.hex()}-2"]


def large_window(stacks: int) -> NormalizedWindow:
    rng = np.random.default_rng(1)
    rows = {("x", tuple(f"a+{offset}" for offset in rng.integers(1 << 40, size=20))): 1 for _ in range(stacks)}
    return window_of(rows)


def test_messages_stay_below_the_limit_in_bytes() -> None:
    """A window that compresses to some 100 KB is cut until each part fits; together they are the window."""
    window = large_window(1000)
    messages = batcher(message_bytes=10_000).messages(window)
    assert len(messages) > 5
    assert max(len(message.payload) for message in messages) <= 10_000
    assert min(len(message.payload) for message in messages) > 3_000
    receiver = received(messages)
    assert receiver.taken == window.taken
    assert None not in {stack for _, stack in receiver.rows}


def test_the_limit_can_change_while_running() -> None:
    """A server that takes less than the one before gets smaller messages from the next window on."""
    sender = batcher()
    assert len(sender.messages(large_window(1000))) == 1
    sender.limit_messages(10_000)
    sender.note_dropped(sender.messages(window_of({}, index=1))[0], "message_refused")
    assert max(len(message.payload) for message in sender.messages(large_window(1000))) <= 10_000


@pytest.mark.parametrize("limit", ["raw_bytes", "entries", "cells", "stacks", "frames"])
def test_messages_stay_below_every_limit_of_the_receiver(limit: str) -> None:
    """Each limit is set low by itself, and the receiver enforces it."""
    limits = Limits(**{limit: 500})
    rows = {(f"comm{index}", ("a+1", f"b{index}+{index}", f"jit:f{index}")): 1 for index in range(1000)}
    messages = batcher(content=limits).messages(window_of(rows))
    assert len(messages) > 1
    for message in messages:
        wire.decode(message.payload, limits=limits)
    assert received(messages).rows == rows


def test_a_row_that_cannot_fit_is_counted_and_the_rest_is_sent() -> None:
    """One stack too long for a tiny message is lost by name; its number is not used again."""
    sender = batcher(message_bytes=400)
    long = tuple(f"a+{offset}" for offset in np.random.default_rng(1).integers(1 << 40, size=400))
    rows = {("x", ("a+1",)): 3, ("x", long): 5}
    messages = sender.messages(window_of(rows)) + sender.messages(window_of({("x", ("a+1",)): 1}, index=1))
    receiver = received(messages)
    assert receiver.rows == {("x", ("a+1",)): 4}
    assert receiver.lost == {TOO_LARGE: 5}
    assert receiver.missing == 0
    assert len({batch.dictionary for batch in receiver.batches}) == 2


def test_a_window_of_which_nothing_fits_still_sends_its_ledger() -> None:
    """The only row is lost, and the same window's message says so."""
    long = tuple(f"a+{offset}" for offset in np.random.default_rng(1).integers(1 << 40, size=400))
    messages = batcher(message_bytes=400).messages(window_of({("x", long): 5}))
    receiver = received(messages)
    assert receiver.lost == {TOO_LARGE: 5}
    assert receiver.missing == 0


@given(st.lists(row_sets(), min_size=1, max_size=8), st.data())
@settings(max_examples=200, deadline=None)
def test_dropped_messages_are_missing_until_they_are_reported_as_lost(windows: list[Rows], data: st.DataObject) -> None:
    """At the end everything taken is either stored or lost by name, and what is missing meanwhile is known exactly."""
    sender = batcher(content=Limits(rows=3))
    receiver = Receiver()
    taken = 0
    for index, rows in enumerate(windows):
        taken += sum(rows.values()) + index
        for message in sender.messages(window_of(rows, index=index, lost={"counts_full": index})):
            if data.draw(st.booleans()):
                sender.note_dropped(message, "queue_full")
                continue
            receiver.receive(message)
    for message in sender.messages(window_of({}, index=len(windows))):
        receiver.receive(message)
    assert receiver.missing == 0
    assert receiver.taken == taken
    assert sum(receiver.rows.values()) + receiver.lost.total() == taken


def test_what_a_dropped_message_held_shows_as_missing_before_it_is_reported() -> None:
    """The next message of the same window was made before the drop: it cannot report, but its total tells."""
    sender = batcher(content=Limits(rows=1))
    dropped, kept = sender.messages(window_of({("x", ("a+1",)): 5, ("x", ("a+2",)): 2}))
    sender.note_dropped(dropped, "queue_full")
    receiver = received([kept])
    assert receiver.missing == dropped.samples
    receiver.receive(sender.messages(window_of({}, index=1))[0])
    assert receiver.missing == 0
    assert receiver.lost == {"queue_full": dropped.samples}


def test_stacks_of_a_dropped_message_are_announced_again() -> None:
    """The receiver never saw them, so a new generation begins."""
    sender = batcher()
    sender.note_dropped(sender.messages(window_of({("x", ("a+1",)): 5}))[0], "queue_full")
    receiver = received(sender.messages(window_of({("x", ("a+1",)): 7}, index=1)))
    assert receiver.rows == {("x", ("a+1",)): 7}


def test_what_a_dropped_message_reported_is_reported_again() -> None:
    """Losses keep their own reasons when the message that named them is lost too."""
    sender = batcher()
    sender.note_dropped(sender.messages(window_of({}, lost={"counts_full": 4}))[0], "queue_full")
    receiver = received(sender.messages(window_of({}, index=1)))
    assert receiver.lost == {"counts_full": 4}
    assert receiver.missing == 0


@pytest.mark.parametrize("index", [60, -1])
def test_a_generation_ends_after_ten_minutes_or_when_the_clock_was_set_back(index: int) -> None:
    """The stack of the first window is announced again, in a new generation."""
    sender = batcher()
    rows = {("x", ("a+1",)): 1}
    first = wire.decode(sender.messages(window_of(rows))[0].payload)
    later = wire.decode(sender.messages(window_of(rows, index=index))[0].payload)
    assert later.dictionary == first.dictionary + 1
    assert len(later.stacks) == 1


def test_the_dictionary_is_bounded() -> None:
    """Windows of ever new stacks never make it know more than its bound."""
    sender = batcher(dictionary_stacks=50)
    receiver = Receiver()
    for index in range(20):
        rows = {("x", (f"a+{index * 20 + offset}",)): 1 for offset in range(20)}
        for message in sender.messages(window_of(rows, index=index)):
            receiver.receive(message)
        assert sender.known_stacks <= 50
    assert receiver.missing == 0
    assert len(receiver.rows) == 400


def test_one_build_seen_at_two_paths_is_one_stack() -> None:
    """A container's and the host's path of the same file: rows of both are added up, for their numbers are the same."""
    build = BuildId(b"one build")
    window = dataclasses.replace(
        window_of({("x", ("a+1",)): 5, ("x", ("b+1",)): 7}),
        mappings=(
            Mapping(kind=MappingKind.FILE, build_id=build, path="/bin/a"),
            Mapping(kind=MappingKind.FILE, build_id=build, path="/overlay/bin/a"),
        ),
    )
    batch = wire.decode(batcher().messages(window)[0].payload)
    assert batch.sample_count.tolist() == [12]
    assert len(batch.mappings) == 1


def test_files_without_a_build_are_told_apart_by_their_paths() -> None:
    """Where there is no build ID the path is all there is."""
    window = dataclasses.replace(
        window_of({("x", ("a+1",)): 5, ("x", ("b+1",)): 7}),
        mappings=(Mapping(kind=MappingKind.FILE, path="/a"), Mapping(kind=MappingKind.FILE, path="/b")),
    )
    batch = wire.decode(batcher().messages(window)[0].payload)
    assert sorted(batch.sample_count.tolist()) == [5, 7]


def test_what_a_profiled_process_can_arrange_never_makes_an_invalid_message() -> None:
    """A path that is no text, a name of a megabyte, a thousand segments, a line below zero."""
    mappings = (
        Mapping(
            kind=MappingKind.FILE,
            build_id=BuildId(b"x"),
            path="/tmp/\udcff" + "é" * 5000,
            segments=tuple(Segment(index, index, 1) for index in range(1000)),
        ),
        Mapping(kind=MappingKind.JIT),
    )
    window = dataclasses.replace(
        window_of({("x", ("a+1",)): 1}),
        mappings=mappings,
        named=(NamedFrame("f" * (1 << 20), "\ud800.js", -1),),
        stacks=stack_table([[(0, 1), (1, 0)]]),
    )
    batch = wire.decode(batcher().messages(window)[0].payload)
    assert batch.mappings[0].path.startswith("/tmp/?éé")
    assert len(batch.mappings[0].segments) == 64
    assert batch.named == (NamedFrame("f" * 4096, "?.js", 0),)


def test_windows_lie_where_the_sampler_says() -> None:
    """Start, length and period are passed on."""
    batch = wire.decode(batcher().messages(window_of({}, index=3))[0].payload)
    assert (batch.window_start_ns, batch.window_ns) == (START_NS + 3 * WINDOW_NS, WINDOW_NS)
    assert (batch.node, batch.epoch, batch.period_ns, batch.type) == ("web-1", EPOCH, 10_101_010, "cpu")
