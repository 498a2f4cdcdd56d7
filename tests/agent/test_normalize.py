"""A window's samples in terms that hold everywhere."""

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.builds import Builds
from agent.facts import ProcessFacts
from agent.normalize import FILTERED, NormalizedWindow, Normalizer
from agent.processes import ImageTable
from agent.window import (
    COUNT_DTYPE,
    ID_BARE,
    ID_STACK_BIT,
    ID_VALID,
    PLAIN_DEPTH,
    EventKind,
    IdStacks,
    ProcessEvent,
    RawStacks,
    Stop,
    Window,
)
from fleetflame.buildid import BuildId
from fleetflame.model import FrameMiss, Labels, MappingKind
from tests.agent.fakeproc import TEXT, FakeProc, write_elf
from tests.agent.test_kernel import SYMBOLS, system

A, B = (1 << 22) | 7, (2 << 22) | 8
GONE = (3 << 22) | 9
SHELL, SERVER = b"\1" * 20, b"\2" * 8
"""Build IDs of what A and B run."""

Frame = tuple[str, int | str]
IdFrame = tuple[bytes, int]


@dataclass
class Samples:
    """A window in the making. Stacks are leaf first; a frame of the kernel's own resolving is (build ID, offset), or
    (b"", address)."""

    rows: list[tuple[int, int, int, int, int, bytes]] = field(default_factory=list)
    raw: dict[int, Sequence[int]] = field(default_factory=dict)
    ids: dict[int, Sequence[IdFrame]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    stops: dict[int, Stop] = field(default_factory=dict)
    exact: frozenset[int] = frozenset()

    def add(self, image: int, user: int, kernel: int = 0, *, count: int = 1, thread: bytes = b"") -> "Samples":
        """Rows of threads have a thread's number and name, others the name of the process, here `kernel's`."""
        self.rows.append((image, user, kernel, count, bool(thread), thread or b"kernel's"))
        return self

    def window(self) -> Window:
        counts = np.zeros(len(self.rows), COUNT_DTYPE)
        for at, (image, user, kernel, count, tid, comm) in enumerate(self.rows):
            counts[at] = (image, user, kernel, 0, image & 0x3FFFFF, tid, comm, count)
        addresses = [address for key in sorted(self.raw) for address in self.raw[key]]
        frames = [frame for key in sorted(self.ids) for frame in self.ids[key]]
        return Window(
            start_ns=10,
            end_ns=20,
            period_ns=5,
            counts=counts,
            stacks=RawStacks(
                keys=np.array(sorted(self.raw), np.uint64),
                offsets=_offsets([len(self.raw[key]) for key in sorted(self.raw)]),
                stop=np.array([self.stops.get(key, Stop.UNKNOWN) for key in sorted(self.raw)], np.uint8),
                address=np.array(addresses, np.uint64),
                exact=np.array([address in self.exact for address in addresses], np.bool),
                guessed=np.zeros(len(addresses), np.bool),
            ),
            id_stacks=IdStacks(
                keys=np.array(sorted(self.ids), np.uint64),
                offsets=_offsets([len(self.ids[key]) for key in sorted(self.ids)]),
                status=np.array([ID_VALID if frame[0] else ID_BARE for frame in frames], np.uint32),
                build_id=np.frombuffer(b"".join(f[0].ljust(20, b"\0") for f in frames), np.uint8).reshape(-1, 20),
                address=np.array([frame[1] for frame in frames], np.uint64),
            ),
            taken=int(counts["count"].sum()) + sum(self.lost.values()),
            lost=self.lost,
        )


def _offsets(lengths: list[int]) -> np.ndarray:
    return np.append(0, np.cumsum(lengths)).astype(np.uint32)


@dataclass
class World:
    """Process 7 runs `shell` (A), process 8 runs `server` (B); A has been read, B as the kernel saw it only."""

    proc: FakeProc
    table: ImageTable
    normalizer: Normalizer
    labels: dict[int, Labels | None]

    def normalize(self, samples: Samples) -> NormalizedWindow:
        return self.normalizer.normalize(samples.window())


@pytest.fixture
def world(tmp_path: Path) -> World:
    kernel = system(tmp_path)
    proc = FakeProc(tmp_path / "proc")
    proc.start(7, write_elf(tmp_path / "shell", SHELL))
    proc.start(8, write_elf(tmp_path / "server", SERVER))
    table = ImageTable(Builds(proc=str(proc.folder)), proc=str(proc.folder))
    table.apply(ProcessEvent(kind=EventKind.SEEN, tgid=7, image=A))
    table.apply(ProcessEvent(kind=EventKind.EXEC, tgid=8, image=B))
    labels: dict[int, Labels | None] = {}

    def label_of(facts: ProcessFacts, thread: str) -> Labels | None:
        return labels.get(facts.tgid, (("comm", facts.comm), ("thread", thread))[: 2 if thread else 1])

    return World(proc, table, Normalizer(table, kernel, label_of), labels)


def shown(window: NormalizedWindow) -> Counter[tuple[Labels, tuple[Frame, ...]]]:
    """Samples by labels and stack, root first, each frame as (what it is in, address)."""
    out: Counter[tuple[Labels, tuple[Frame, ...]]] = Counter()
    for series, stack, count in zip(
        window.row_series.tolist(), window.row_stack.tolist(), window.row_count.tolist(), strict=True
    ):
        part = slice(int(window.stacks.offsets[stack]), int(window.stacks.offsets[stack + 1]))
        frames = zip(window.stacks.mapping[part].tolist(), window.stacks.address[part].tolist(), strict=True)
        out[window.series[series], tuple(frame(window, *pair) for pair in frames)] += count
    return out


def frame(window: NormalizedWindow, index: int, address: int) -> Frame:
    mapping = window.mappings[index]
    if mapping.kind is MappingKind.MISS:
        return "miss", FrameMiss(address).name.lower()
    if mapping.kind is MappingKind.BPF:
        return "bpf", window.named[address].name
    return (mapping.path.rpartition("/")[2] or str(mapping.build_id)), address


def stacks_of(window: NormalizedWindow) -> list[tuple[Frame, ...]]:
    return [stack for (_labels, stack) in shown(window)]


def test_callers_are_inside_their_call_and_root_comes_first(world: World) -> None:
    """The leaf is exact, what called it is a return address; the user part comes before the kernel's."""
    samples = Samples(raw={16: [TEXT + 0x10, TEXT + 0x20, TEXT + 0x30], 17: [SYMBOLS.start + 5, SYMBOLS.start + 9]})
    (stack,) = stacks_of(world.normalize(samples.add(A, 16, 17)))
    assert stack == (
        ("shell", 0x102F),
        ("shell", 0x101F),
        ("shell", 0x1010),
        ("[kernel]", 8),
        ("[kernel]", 5),
    )


def test_frames_that_the_kernel_resolved_need_no_mappings(world: World) -> None:
    """Build ID and file offset stand as they are; path and segments come from whoever saw the file."""
    key = ID_STACK_BIT | 99
    samples = Samples(ids={key: [(SERVER, 0x1234), (b"\7" * 20, 0x50), (SHELL, 0x1060)]}).add(GONE, key)
    window = world.normalize(samples)
    (stack,) = stacks_of(window)
    assert stack == (("shell", 0x105F), ("07" * 20, 0x4F), ("server", 0x1234))
    by_id = {mapping.build_id: mapping for mapping in window.mappings}
    assert by_id[BuildId(SERVER)].segments[0].vaddr == TEXT
    assert by_id[BuildId(b"\7" * 20)].segments == ()
    assert window.degraded == {}


def test_a_bare_address_goes_through_the_mappings(world: World) -> None:
    """Of a process that nobody has read yet too, if it is still there."""
    key = ID_STACK_BIT | 99
    samples = Samples(ids={key: [(b"", TEXT), (b"", TEXT + 0x11), (b"", 0x10)]}).add(B, key).add(GONE, key)
    window = world.normalize(samples)
    assert stacks_of(window) == [
        (("miss", "no_frame_pointer"), ("server", 0x1010), ("server", 0x1000)),
        (("miss", "no_frame_pointer"), ("miss", "process_gone"), ("miss", "process_gone")),
    ]
    assert window.degraded == {"no_frame_pointer": 2, "process_gone": 1}


def test_a_stack_ends_where_the_frame_pointers_lead_nowhere(world: World) -> None:
    """A word that is no address shows that the chain broke there: what lies beyond was never a caller."""
    samples = Samples(raw={16: [TEXT + 0x10, TEXT + 0x21, 0x7, TEXT + 0x30, 0x9], 17: [0x7, TEXT + 0x21]})
    window = world.normalize(samples.add(A, 16).add(A, 17, count=5))
    assert stacks_of(window) == [
        (("miss", "no_frame_pointer"), ("shell", 0x1020), ("shell", 0x1010)),
        (("shell", 0x1020), ("miss", "unmapped")),
    ]
    assert window.degraded == {"no_frame_pointer": 1, "unmapped": 5}


@pytest.mark.parametrize("offset", [(1 << 64) - 0x1000, 0xFFF, 0x2001])
def test_an_offset_outside_of_all_code_is_no_frame(world: World, offset: int) -> None:
    """The kernel gives an address between two mappings the build of the next one."""
    key = ID_STACK_BIT | 99
    window = world.normalize(Samples(ids={key: [(SERVER, 0x1234), (SHELL, offset)]}).add(GONE, key))
    assert stacks_of(window) == [(("miss", "no_frame_pointer"), ("server", 0x1234))]


def test_the_vdso_of_a_process_that_is_gone_is_known(world: World) -> None:
    """The kernel resolves no address in it, and programs that ask for the time spend a part of theirs there."""
    base = 0x7FFD00000000
    (world.proc.folder / "8/auxv").write_bytes(struct.pack("<QQQQ", 33, base, 0, 0))
    image = (5 << 22) | 8
    world.table.apply(ProcessEvent(kind=EventKind.EXEC, tgid=8, image=image))
    world.proc.end(8)
    key = ID_STACK_BIT | 99
    window = world.normalize(
        Samples(ids={key: [(b"", base + 0x20), (SERVER, 0x1031), (b"", TEXT + 1)]}).add(image, key)
    )
    assert stacks_of(window) == [(("miss", "process_gone"), ("server", 0x1030), ("[vdso]", 0x20))]


def test_a_library_that_was_loaded_since_is_found(world: World, tmp_path: Path) -> None:
    """An address in no mapping makes the process be read once more."""
    samples = Samples(raw={16: [TEXT + 0x100000, TEXT + 1]}).add(A, 16)
    assert stacks_of(world.normalize(samples)) == [(("shell", 0x1000), ("miss", "unmapped"))]
    world.proc.map(7, tmp_path / "shell", write_elf(tmp_path / "plugin", b"\3" * 20))
    world.table.end_window()
    assert stacks_of(world.normalize(samples))[0][1] == ("plugin", 0x1000)


def test_kernel_code_of_every_kind_is_told_apart(world: World) -> None:
    """Text, generated code by name, and what is nowhere."""
    generated = SYMBOLS.generated[0]
    samples = Samples(raw={16: [SYMBOLS.start, generated[0] + 0x10, 0xFFFFFFFF00000000]}).add(A, 0, 16, count=3)
    window = world.normalize(samples)
    assert stacks_of(window) == [(("miss", "unmapped"), ("bpf", generated[1]), ("[kernel]", 0))]
    assert window.degraded == {"unmapped": 3}
    assert [name.name for name in window.named] == [generated[1]]


@pytest.mark.parametrize("miss", [miss for miss in FrameMiss if miss < 16])
def test_a_stack_that_the_kernel_could_not_take_is_a_placeholder(world: World, miss: FrameMiss) -> None:
    """At the root side of the part that it stands for."""
    samples = Samples(raw={16: [TEXT], 17: [SYMBOLS.start]}).add(A, miss, 17, count=2).add(A, 16, miss, count=3)
    window = world.normalize(samples)
    name = miss.name.lower()
    assert set(stacks_of(window)) == {
        (("miss", name), ("[kernel]", 0)),
        (("shell", 0x1000), ("miss", name)),
    }
    assert window.degraded == {name: 5}


def test_a_stack_that_is_not_in_the_table_is_a_placeholder(world: World) -> None:
    """Counted, but gone when it was read; so is a code that no miss has."""
    samples = Samples().add(A, 16, 17).add(A, ID_STACK_BIT | 20).add(A, 15)
    window = world.normalize(samples)
    expired = ("miss", "stack_expired")
    assert set(stacks_of(window)) == {(expired, expired), (expired,)}
    assert window.degraded == {"stack_expired": 3}


def test_a_stack_as_deep_as_the_kernel_goes_may_lack_its_root(world: World) -> None:
    """A placeholder says so, at the root of the part that is cut off."""
    deep = [TEXT + 1 + n for n in range(PLAIN_DEPTH)]
    samples = Samples(raw={16: deep, 17: deep[:-1], 18: [SYMBOLS.start + 1] * PLAIN_DEPTH}).add(A, 16, 18).add(A, 17)
    window = world.normalize(samples)
    both, whole = sorted(stacks_of(window), key=len, reverse=True)
    cut = ("miss", "depth_limit")
    assert (len(both), both[0], both[PLAIN_DEPTH + 1]) == (2 * (PLAIN_DEPTH + 1), cut, cut)
    assert cut not in whole
    assert window.degraded == {"depth_limit": 1}


def test_a_sample_without_any_stack_has_a_placeholder(world: World) -> None:
    """A stack is never empty."""
    assert stacks_of(world.normalize(Samples().add(A, 0, 0))) == [(("miss", "no_user_stack"),)]


def test_filtered_samples_are_counted(world: World) -> None:
    """Relabelling may drop a process; its samples are lost under that name, beside the sampler's own losses."""
    world.labels[7] = None
    samples = Samples(raw={16: [TEXT]}, lost={"counts_full": 4}).add(A, 16, count=2).add(B, 2, count=3)
    window = world.normalize(samples)
    assert window.lost == {"counts_full": 4, FILTERED: 2}
    assert window.taken == 9 == int(window.row_count.sum()) + sum(window.lost.values())
    assert window.series == ((("comm", "server"),),)


def test_equal_stacks_of_different_processes_are_one(world: World, tmp_path: Path) -> None:
    """A build is the same wherever it is loaded; samples with the same labels are added up."""
    world.proc.start(10, tmp_path / "shell", comm="shell")
    other = (4 << 22) | 10
    world.table.apply(ProcessEvent(kind=EventKind.SEEN, tgid=10, image=other))
    samples = Samples(raw={16: [TEXT, TEXT + 8], 17: [TEXT, TEXT + 8]}).add(A, 16, count=2).add(other, 17, count=3)
    window = world.normalize(samples)
    assert (len(window.stacks), len(window.series)) == (1, 1)
    assert window.row_count.tolist() == [5]


def test_threads_have_labels_of_their_own(world: World) -> None:
    """Where rows carry the name of a thread."""
    samples = Samples(raw={16: [TEXT]}).add(A, 16, thread=b"io").add(A, 16, thread=b"main").add(A, 16, thread=b"io")
    window = world.normalize(samples)
    assert {dict(labels)["thread"]: n for (labels, _), n in shown(window).items()} == {"io": 2, "main": 1}


def test_a_process_that_is_gone_before_its_event_was_read_has_its_name(world: World) -> None:
    """Rows have it from the kernel; what was read of a process counts more."""
    window = world.normalize(Samples(raw={16: [TEXT]}).add(GONE, 16).add(A, 16))
    assert {labels for labels, _ in shown(window)} == {(("comm", "kernel's"),), (("comm", "shell"),)}


def test_an_empty_window_is_a_window(world: World) -> None:
    """An idle machine has those."""
    window = world.normalize(Samples())
    assert (len(window.stacks), len(window.row_count), window.taken) == (0, 0, 0)
    assert (window.start_ns, window.end_ns, window.period_ns, window.type) == (10, 20, 5, "cpu")


KEYS = [0, 1, 3, 16, 17, 18, 19, ID_STACK_BIT | 30, ID_STACK_BIT | 31, ID_STACK_BIT | 32]
RAW = {16: [TEXT, TEXT + 9], 17: [TEXT + 1, 5, TEXT + 9], 18: [SYMBOLS.start + 77, SYMBOLS.start + 4]}
IDS = {ID_STACK_BIT | 30: [(SERVER, 3), (b"", TEXT + 1)], ID_STACK_BIT | 31: [(SHELL, 0x1000), (SHELL, 0x1009)]}
row = st.tuples(
    st.sampled_from([A, B, GONE]), st.sampled_from(KEYS), st.sampled_from([0, 2, 18, 19]), st.integers(1, 9)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(row, max_size=25))
def test_a_window_is_the_sum_of_its_rows(world: World, rows: list[tuple[int, int, int, int]]) -> None:
    """Normalizing all rows at once gives what normalizing them one by one gives; nothing is lost, all is in order."""

    def normalize(some: list[tuple[int, int, int, int]]) -> NormalizedWindow:
        samples = Samples(raw=dict(RAW), ids=dict(IDS))
        for image, user, kernel, count in some:
            samples.add(image, user, kernel, count=count)
        return world.normalize(samples)

    window = normalize(rows)
    single: Counter[tuple[Labels, tuple[Frame, ...]]] = Counter()
    degraded: Counter[str] = Counter()
    for one in rows:
        alone = normalize([one])
        single += shown(alone)
        degraded += Counter(alone.degraded)
    assert shown(window) == single
    assert window.degraded == dict(degraded)
    assert int(window.row_count.sum()) == sum(count for *_, count in rows) == window.taken
    pairs = list(zip(window.row_series.tolist(), window.row_stack.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert len(set(stacks_of(window))) == len(window.stacks)
    assert len(set(window.mappings)) == len(window.mappings)
