"""Process images: what is read when, what is inherited, what is forgotten."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from agent.builds import Builds
from agent.image import UNKNOWN_COMM, Image
from agent.processes import (
    KEEP_WINDOWS,
    MAX_FRUITLESS,
    REFRESH_WINDOWS,
    Count,
    ImageTable,
)
from agent.window import EventKind, ProcessEvent
from fleetflame.buildid import BuildId
from tests.agent.counted import counted
from tests.agent.fakeproc import TEXT, FakeProc, write_elf

TICK_NS = 1024


def image_id(pid: int) -> int:
    """A new one, as the kernel makes them: the time in ticks above the PID."""
    # Begins after whatever was done before, as a child does after its parent's mappings were read.
    tick = time.monotonic_ns() // TICK_NS + 1
    while time.monotonic_ns() // TICK_NS <= tick:
        pass
    return tick << 22 | pid


class World:
    """A table over a fake proc folder, and what it tells."""

    def __init__(self, folder: Path, **options: int) -> None:
        self.proc = FakeProc(folder / "proc")
        self.shell = write_elf(folder / "shell", b"\1" * 20)
        self.server = write_elf(folder / "server", b"\2" * 20)
        self.plugin = write_elf(folder / "plugin", b"\3" * 20)
        self.script = write_elf(folder / "nobuildid", None)
        self.ready: list[int] = []
        self.forgotten: list[int] = []
        self.before = {what: counted("processes", "what", what) for what in Count}
        self.builds = Builds(proc=str(self.proc.folder))
        self.table = ImageTable(
            self.builds,
            on_mapped=lambda image, _snapshot: self.ready.append(image),
            on_forgotten=self.forgotten.append,
            proc=str(self.proc.folder),
            **options,
        )

    @property
    def counts(self) -> dict[Count, int]:
        return {what: counted("processes", "what", what) - before for what, before in self.before.items()}

    def event(self, kind: EventKind, pid: int, parent: int = 0, comm: str = "") -> int:
        image = image_id(pid)
        self.table.apply(ProcessEvent(kind=kind, tgid=pid, image=image, parent_image=parent, comm=comm))
        return image

    def exit(self, image: Image) -> None:
        self.proc.end(image.tgid)
        self.table.apply(ProcessEvent(kind=EventKind.EXIT, tgid=image.tgid, image=image.id))

    def seen(self, pid: int = 7) -> Image:
        self.proc.start(pid, self.shell)
        return self.table.get(self.event(EventKind.SEEN, pid))

    def tell(self, kind: EventKind, image: Image) -> None:
        self.table.apply(ProcessEvent(kind=kind, tgid=image.tgid, image=image.id))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def builds_of(image: Image) -> set[BuildId | None]:
    return {mapping.build_id for mapping in image.table.targets} if image.table else set()


def find(image: Image, address: int) -> BuildId | None:
    assert image.table is not None
    target, _within = image.table.resolve(np.array([address], np.uint64))
    return image.table.targets[target[0]].build_id if target[0] >= 0 else None


def test_a_process_that_was_there_before_us_is_read_at_once(world: World) -> None:
    """Its libraries are loaded: facts, mappings, and bare addresses from now on."""
    image = world.seen()
    assert (image.facts.comm, image.facts.exe, image.facts.uid) == ("shell", str(world.shell), 1000)
    assert image.facts.build_id == BuildId(b"\1" * 20)
    assert find(image, TEXT + 5) == BuildId(b"\1" * 20)
    assert world.ready == [image.id]


def test_mappings_are_read_with_the_first_sample_and_when_they_lack_something(world: World) -> None:
    """At exec only facts, which cannot wait; the first sample may come when there is the loader only."""
    world.proc.start(7, world.server)
    image = world.table.get(world.event(EventKind.EXEC, 7))
    assert image.facts.exe == str(world.server)
    assert (image.table, world.ready) == (None, [])
    world.tell(EventKind.SAMPLED, image)
    assert builds_of(image) == {BuildId(b"\2" * 20)}
    world.proc.map(7, world.server, world.plugin)
    world.tell(EventKind.UNMAPPED, image)
    assert builds_of(image) == {BuildId(b"\2" * 20), BuildId(b"\3" * 20)}
    assert world.ready == [image.id] * 2
    world.tell(EventKind.UNMAPPED, image)
    assert world.ready == [image.id] * 2


def test_a_short_lived_process_keeps_its_facts(world: World) -> None:
    """It is gone before its mappings are read, and its samples come later still."""
    world.proc.start(7, world.server)
    image = world.table.get(world.event(EventKind.EXEC, 7))
    world.exit(image)
    world.tell(EventKind.SAMPLED, image)
    assert world.table.get(image.id).facts.exe == str(world.server)
    assert world.table.read_maps(image) is None
    assert world.ready == []


def test_a_process_that_is_gone_at_exec_has_what_it_had_before(world: World) -> None:
    """The name is the event's; cgroup and user are those of the program before."""
    former = world.seen()
    world.proc.end(7)
    image = world.table.get(world.event(EventKind.EXEC, 7, parent=former.id, comm="brief"))
    assert (image.facts.comm, image.facts.exe, image.facts.cgroup) == ("brief", "", "0::/a\n")
    assert (image.facts.uid, image.facts.build_id) == (1000, None)
    assert world.counts[Count.FACTS_MISSED] == 1


def test_a_process_of_which_nothing_is_known_has_the_events_name(world: World) -> None:
    """There is always something to show."""
    assert world.table.get(world.event(EventKind.SEEN, 7, comm="gone")).facts.comm == "gone"
    assert world.table.get(world.event(EventKind.SEEN, 8)).facts.comm == UNKNOWN_COMM


def test_a_fork_shares_what_its_parent_has(world: World) -> None:
    """Nothing is read for it; it is as ready as the parent."""
    parent = world.seen()
    reads = world.counts
    child_id = world.event(EventKind.FORK, 8, parent=parent.id, comm="worker")
    assert world.counts == reads
    world.proc.start(8, world.shell, comm="worker")
    child = world.table.get(child_id)
    assert child.table is parent.table
    assert (child.facts.tgid, child.facts.comm, child.facts.exe) == (8, "worker", str(world.shell))
    assert child.facts.build_id == BuildId(b"\1" * 20)
    assert world.ready == [parent.id, child.id]


def test_what_a_parent_has_mapped_since_the_fork_is_not_its_childs(world: World) -> None:
    """A fork is told late; what lies at that address in the child is read of the child, or unknown."""
    parent = world.seen()
    alive, gone = image_id(8), image_id(9)
    world.proc.start(8, world.shell)
    world.proc.map(8, world.shell, world.server)
    world.proc.map(7, world.shell, world.plugin)
    world.table.read_maps(parent)
    for child in (alive, gone):
        event = ProcessEvent(kind=EventKind.FORK, tgid=child & 15, image=child, parent_image=parent.id)
        world.table.apply(event)
    assert builds_of(parent) == {BuildId(b"\1" * 20), BuildId(b"\3" * 20)}
    assert builds_of(world.table.get(alive)) == {BuildId(b"\1" * 20), BuildId(b"\2" * 20)}
    assert world.table.get(gone).table is None
    assert world.table.get(gone).facts.exe == str(world.shell)


def test_a_fork_that_is_gone_has_its_parents_facts(world: World) -> None:
    """Sampled, dead, and nobody looked: mappings and labels are still right."""
    parent = world.seen()
    child = world.table.get(world.event(EventKind.FORK, 8, parent=parent.id))
    assert child.ended
    assert (child.facts.comm, child.facts.cgroup) == ("shell", "0::/a\n")
    assert find(child, TEXT) == BuildId(b"\1" * 20)


def test_a_fork_of_an_unknown_parent_is_read(world: World) -> None:
    """There is nothing to inherit."""
    world.proc.start(8, world.shell)
    image = world.table.get(world.event(EventKind.FORK, 8, parent=12345))
    assert image.facts.exe == str(world.shell)


def test_a_forks_new_name_and_cgroup_are_seen_when_it_is_sampled(world: World) -> None:
    """Both change without an exec."""
    parent = world.seen()
    world.proc.start(8, world.shell, comm="renamed", cgroup="0::/b\n")
    child = world.table.get(world.event(EventKind.FORK, 8, parent=parent.id))
    assert (child.facts.comm, child.facts.cgroup) == ("renamed", "0::/b\n")


def test_an_exec_ends_the_image_before_it(world: World) -> None:
    """Its mappings are kept for samples that were taken before, and never read again."""
    former = world.seen()
    world.proc.start(7, world.server)
    later = world.table.get(world.event(EventKind.EXEC, 7, parent=former.id))
    world.tell(EventKind.SAMPLED, later)
    assert find(later, TEXT) == BuildId(b"\2" * 20)
    assert find(world.table.get(former.id), TEXT) == BuildId(b"\1" * 20)
    assert world.table.read_maps(former) is None


def test_mappings_are_not_read_from_another_process(world: World) -> None:
    """Under the same PID: other start, or, where that was never seen, other program."""
    image = world.seen()
    world.proc.start(7, world.server, start=200)
    assert world.table.read_maps(image) is None
    assert find(image, TEXT) == BuildId(b"\1" * 20)
    child = world.table.get(world.event(EventKind.FORK, 9, parent=image.id))
    world.proc.start(9, world.server, start=300)
    assert world.table.read_maps(child) is None


def test_an_executable_that_is_renamed_is_the_same(world: World) -> None:
    """An upgrade moves the running file out of the way; its number stays."""
    image = world.seen()
    moved = world.shell.rename(world.shell.with_name("shell.old"))
    world.proc.start(7, moved, comm="shell")
    assert world.table.read_maps(image) is not None


def test_a_library_that_was_loaded_since_is_found(world: World) -> None:
    """Mappings are read again on demand."""
    image = world.seen()
    world.proc.map(7, world.shell, world.plugin)
    table = world.table.read_maps(image)
    assert table is image.table
    assert find(image, TEXT + 0x100000) == BuildId(b"\3" * 20)


def test_fruitless_readings_become_rare(world: World) -> None:
    """A process with addresses that are nowhere is not read in every window."""
    image = world.seen()
    for _ in range(40):
        assert world.table.read_maps(image) is image.table
        world.table.end_window()
    assert world.counts[Count.MAPS_READ] <= 40 / MAX_FRUITLESS + MAX_FRUITLESS


def test_work_per_window_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the text read in one window exceeds the budget, the rest waits for the next."""
    monkeypatch.setattr("agent.processes.MAX_REREAD_BYTES", 1)
    images = [world.seen(pid) for pid in (7, 8)]
    world.table.end_window()
    for image, plugin in zip(images, (world.plugin, world.server), strict=True):
        world.proc.map(image.tgid, world.shell, plugin)
    assert world.table.read_maps(images[0]) is not None
    assert world.table.read_maps(images[1]) is None
    assert world.counts[Count.REREAD_SKIPPED] == 1
    world.table.end_window()
    assert world.table.read_maps(images[1]) is not None


def test_a_sampled_process_is_refreshed_now_and_then(world: World) -> None:
    """Names and libraries change while nothing is missing."""
    image = world.seen()
    world.proc.rename(7, "renamed")
    world.proc.map(7, world.shell, world.plugin)
    for _ in range(REFRESH_WINDOWS):
        world.table.end_window()
        assert world.table.get(image.id).facts.comm in ("shell", "renamed")
    assert image.facts.comm == "renamed"
    assert image.facts.build_id == BuildId(b"\1" * 20)
    assert find(image, TEXT + 0x100000) == BuildId(b"\3" * 20)


def test_an_image_outlives_its_process_by_a_window(world: World) -> None:
    """Samples of its last moments are still to come."""
    image = world.seen()
    world.exit(image)
    for _ in range(KEEP_WINDOWS):
        world.table.end_window()
        assert len(world.table) == 1
    world.table.end_window()
    assert len(world.table) == 0


def test_a_living_image_is_not_forgotten(world: World) -> None:
    """However long it is not sampled."""
    image = world.seen()
    for _ in range(100):
        world.table.end_window()
    assert world.table.get(image.id) is image


def test_images_are_bounded(tmp_path: Path) -> None:
    """The one that was not used for longest goes, and is counted; it is read again when it is met again."""
    world = World(tmp_path, max_images=2)
    images = [world.seen(pid) for pid in (7, 8, 9)]
    assert len(world.table) == 2
    assert world.counts[Count.EVICTED] == 1
    again = world.table.get(images[0].id)
    assert again is not images[0]
    assert again.facts == images[0].facts


def test_what_was_forgotten_while_it_was_read_is_not_told(tmp_path: Path) -> None:
    """A window has more images than are kept: nobody would take the layout away again."""
    world = World(tmp_path, max_images=1)
    first, _second = world.seen(7), world.seen(8)
    assert world.forgotten == [first.id]
    world.proc.map(7, world.shell, world.plugin)
    ready = list(world.ready)
    assert world.table.read_maps(first) is not None
    assert world.ready == ready


def test_an_image_that_is_told_twice_is_forgotten_whole(tmp_path: Path) -> None:
    """Two CPUs may tell of it; the second time the process may be gone, but not the layout of the first."""
    world = World(tmp_path, max_images=1)
    image = world.seen(7)
    world.proc.end(7)
    world.tell(EventKind.SEEN, image)
    world.seen(8)
    assert world.forgotten == [image.id]


def test_the_first_to_go_are_those_that_ended_without_a_sample(tmp_path: Path) -> None:
    """Thousands of programs that nobody sampled do not drive out one that somebody did."""
    world = World(tmp_path, max_images=3)
    sampled, idle = world.seen(7), world.seen(8)
    world.exit(sampled)
    world.proc.end(8)
    world.table.apply(ProcessEvent(kind=EventKind.EXIT_UNSAMPLED, tgid=8, image=idle.id))
    world.seen(9)
    world.seen(10)
    assert world.table.get(sampled.id) is sampled
    again = world.table.get(idle.id, "shell")
    assert again is not idle
    assert (again.facts.comm, again.facts.exe) == ("shell", "")
    assert world.counts[Count.EVICTED] == 2


def test_one_that_is_sampled_in_its_last_moments_is_kept(tmp_path: Path) -> None:
    """As any other that is used."""
    world = World(tmp_path, max_images=2)
    first, second = world.seen(7), world.seen(8)
    for image in (second, first):
        world.proc.end(image.tgid)
        world.table.apply(ProcessEvent(kind=EventKind.EXIT_UNSAMPLED, tgid=image.tgid, image=image.id))
    assert world.table.get(second.id) is second
    world.seen(9)
    assert world.table.get(second.id) is second


def test_tables_are_bounded_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the images that were used last are kept; shared ones count once; others are read again at need."""
    first, second = world.seen(7), world.seen(8)
    world.proc.map(8, world.shell, world.plugin)
    world.table.read_maps(second)
    child = world.table.get(world.event(EventKind.FORK, 9, parent=second.id))
    monkeypatch.setattr("agent.processes.MAX_RANGES", 2)
    world.table.end_window()
    assert first.table is None
    assert child.table is second.table is not None
    assert world.counts[Count.TABLES_DROPPED] == 1
    world.table.read_maps(first)
    assert find(first, TEXT) == BuildId(b"\1" * 20)


def test_an_image_whose_event_was_lost_is_read(world: World) -> None:
    """The id says which process it is."""
    world.proc.start(7, world.shell)
    image = world.table.get(image_id(7))
    assert image.facts.exe == str(world.shell)
    assert world.table.read_maps(image) is not None


def test_a_lost_image_of_a_process_that_went_on_is_not_mistaken(world: World) -> None:
    """If a later image of the same process is known, what can be read now is not its."""
    lost = image_id(7)
    world.seen(7)
    image = world.table.get(lost)
    assert (image.facts.comm, image.facts.exe) == (UNKNOWN_COMM, "")
    assert world.table.read_maps(image) is None


def test_a_process_with_an_unreadable_file_is_left_to_the_kernel(world: World) -> None:
    """Its table serves bare addresses, but build IDs keep coming from the kernel."""
    world.proc.start(7, world.shell)
    world.proc.map(7, world.shell, world.shell.with_name("gone"))
    image = world.table.get(world.event(EventKind.SEEN, 7))
    assert find(image, TEXT) == BuildId(b"\1" * 20)
    assert world.ready == []
    assert world.counts[Count.MAPS_NOT_WHOLE] == 1


def test_two_threads_may_use_a_table(world: World) -> None:
    """One applies events while the other normalizes."""
    world.proc.start(7, world.shell)
    ids: list[int] = [world.event(EventKind.SEEN, 7)]
    stop = threading.Event()

    def normalize() -> None:
        while not stop.is_set():
            for number in ids[-20:]:
                world.table.read_maps(world.table.get(number))
            world.table.end_window()

    thread = threading.Thread(target=normalize)
    thread.start()
    for number in range(300):
        ids.append(world.event(EventKind.FORK, 100 + number, parent=ids[0]))
        world.exit(world.table.get(ids[-1]))
    stop.set()
    thread.join()
    assert world.table.get(ids[0]).table is not None
