"""Names for generated code of processes, out of the maps that they write."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.facts import Identity, ProcessFacts
from agent.image import Image
from agent.jit import maps
from agent.jit.mapfile import News
from agent.jit.maps import Found, JitMaps
from agent.jit.perfmap import no_entries
from fleetflame.model import FrameMiss, NamedFrame
from tests.agent.counted import counted
from tests.agent.fakeproc import FakeProc, write_elf
from tests.agent.jit.writing import Code, points, text_of


@dataclass
class World:
    """Process 7 with a root of its own, and a clock that says what a test says."""

    proc: FakeProc
    root: Path
    image: Image
    now: int = 100
    wanted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jit = JitMaps(proc=str(self.proc.folder), clock=lambda: self.now, on_sampled=self.told)

    def told(self, image: Image, /, *, all_named: bool) -> None:
        if not all_named:
            self.wanted.append(image.id)

    @property
    def path(self) -> Path:
        return self.root / "tmp/perf-7.map"

    def append(self, *code: Code) -> None:
        with self.path.open("ab") as file:
            file.write(text_of(*code))

    def window(self, *addresses: int, image: Image | None = None) -> list[Found]:
        """One window of 100 ns, which is asked for 1 ns after it ended."""
        self.now += 100
        found = self.jit.find(image or self.image, points(*addresses), self.now - 101)
        self.jit.end_window()
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    proc = FakeProc(tmp_path / "proc")
    exe = write_elf(tmp_path / "node", b"\1" * 20)
    proc.start(7, exe)
    folder, root = proc.folder / "7", tmp_path / "root"
    (root / "tmp").mkdir(parents=True)
    (folder / "root").unlink()
    (folder / "root").symlink_to(root)
    uid = os.getuid()
    (folder / "status").write_text(f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nNSpid:\t7\n")
    about = exe.stat()
    identity = Identity(start=100, executable=(os.major(about.st_dev), os.minor(about.st_dev), about.st_ino))
    made = World(proc, root, Image(id=70, tgid=7, facts=ProcessFacts(tgid=7, comm="node"), identity=identity))
    yield made
    made.jit.close()


def test_a_process_without_a_map_is_said_to_have_none(world: World) -> None:
    """And whoever can make one is told."""
    assert world.window(0x100, 0x200) == [FrameMiss.NO_PERF_MAP] * 2
    assert world.wanted == [70]


def test_addresses_have_the_names_that_the_map_says(world: World) -> None:
    """Others are code that nobody named."""
    world.append((0x100, 0x10, "JS:*run /srv/a.js:3:1"), (0x200, 0x10, "int A.f(int)"))
    assert world.window(0x100, 0x10F, 0x150, 0x200) == [
        NamedFrame("run", "/srv/a.js", 3),
        NamedFrame("run", "/srv/a.js", 3),
        FrameMiss.ANONYMOUS,
        NamedFrame("A.f(int)"),
    ]
    assert world.wanted == [70]


def test_a_map_that_comes_later_is_found(world: World) -> None:
    """Less and less often looked for, but within LONGEST_RETRY windows."""
    for _ in range(20):
        world.window(0x100)
    world.append((0x100, 0x10, "a"))
    found = [world.window(0x100) for _ in range(maps.LONGEST_RETRY)]
    assert found[-1] == [NamedFrame("a")]


def test_a_map_is_read_on_in_each_window(world: World) -> None:
    """What was added since; what was replaced meanwhile is ambiguous, then the new."""
    world.append((0x100, 0x10, "a"), (0x200, 0x10, "b"))
    assert world.window(0x100, 0x200) == [NamedFrame("a"), NamedFrame("b")]
    for _ in range(2):
        world.window(0x100)
    world.append((0x100, 0x10, "c"), (0x300, 0x10, "d"))
    assert world.window(0x100, 0x200, 0x300) == [FrameMiss.CODE_REPLACED, NamedFrame("b"), NamedFrame("d")]
    for _ in range(2):
        world.window(0x100)
    assert world.window(0x100, 0x200, 0x300) == [NamedFrame("c"), NamedFrame("b"), NamedFrame("d")]


def test_another_file_of_that_name_is_another_map(world: World) -> None:
    """The former's names end with the window; they stay readable until then, since the file is still open."""
    world.append((0x100, 0x10, "a"), (0x200, 0x10, "b"), (0x300, 0x10, "c"))
    for _ in range(3):
        world.window(0x100)
    world.path.rename(world.path.with_suffix(".old"))
    world.append((0x100, 0x10, "a"), (0x200, 0x10, "d"))
    found = world.window(0x100, 0x200, 0x300)
    assert found[:2] == [NamedFrame("a"), FrameMiss.CODE_REPLACED]
    assert found[2] in (NamedFrame("c"), FrameMiss.ANONYMOUS)
    for _ in range(2):
        world.window(0x100)
    assert world.window(0x100, 0x200, 0x300) == [NamedFrame("a"), NamedFrame("d"), FrameMiss.ANONYMOUS]


def test_a_line_that_changed_under_us_names_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that is written anew while names are read: the line has another name than its entry."""
    world.append((0x100, 0x10, "a"), (0x200, 0x10, "b"))
    world.window(0x100)
    state = world.path.stat()
    nothing = News(entries=no_entries(), malformed=0, size=0, anew=False, whole=True)
    monkeypatch.setattr(maps.MapFile, "read", lambda self, limit: nothing)
    with world.path.open("r+b") as file:
        file.write(text_of((0x100, 0x10, "a"), (0x200, 0x10, "x")))
    assert world.path.stat().st_ino == state.st_ino
    before = counted("jit", "what", "names_changed")
    assert world.window(0x100, 0x200) == [NamedFrame("a"), FrameMiss.ANONYMOUS]
    assert counted("jit", "what", "names_changed") - before == 1


def test_the_last_samples_of_a_process_have_names(world: World) -> None:
    """Its map was opened while it was there."""
    world.append((0x100, 0x10, "a"), (0x200, 0x10, "b"))
    assert world.window(0x100) == [NamedFrame("a")]
    world.proc.end(7)
    world.path.unlink()
    world.image.ended = True
    assert world.window(0x200) == [NamedFrame("b")]
    for _ in range(3):
        world.jit.end_window()
    assert not len(world.jit)


def test_a_process_that_is_gone_is_not_said_to_have_no_map(world: World) -> None:
    """Nobody looked."""
    world.proc.end(7)
    assert world.window(0x100) == [FrameMiss.PROCESS_GONE]


def test_another_process_with_that_pid_is_not_asked(world: World) -> None:
    """Its map names its own code."""
    world.append((0x100, 0x10, "a"))
    (world.proc.folder / "7/stat").write_text("7 (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 200 0 0")
    assert world.window(0x100) == [FrameMiss.PROCESS_GONE]


def test_a_map_that_was_not_read_to_its_end_names_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last line may say that an address is another function's."""
    monkeypatch.setattr(maps, "MAX_READ", 1)
    monkeypatch.setattr("agent.jit.mapfile.CHUNK", 16)
    world.append((0x100, 0x10, "first"), (0x200, 0x10, "other"), (0x100, 0x10, "second"))
    assert world.window(0x100) == [FrameMiss.ANONYMOUS]
    assert world.window(0x100) == [FrameMiss.ANONYMOUS]
    assert world.window(0x200) == [NamedFrame("other")]


def test_more_entries_than_there_is_room_for_are_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of them could name an address wrongly."""
    monkeypatch.setattr(maps, "MAX_ENTRIES", 3)
    world.append(*((0x100 * n, 0x10, "a") for n in range(1, 6)))
    before = counted("jit", "what", "maps_too_many_entries")
    assert world.window(0x100) == [FrameMiss.NO_PERF_MAP]
    assert counted("jit", "what", "maps_too_many_entries") - before == 1
    assert world.window(0x100) == [FrameMiss.NO_PERF_MAP]


def test_processes_and_names_that_were_not_used_for_longest_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked again is read again."""
    monkeypatch.setattr(maps, "MAX_PROCESSES", 1)
    monkeypatch.setattr(maps, "MAX_NAMES", 1)
    world.append((0x100, 0x10, "a"), (0x200, 0x10, "b"))
    assert world.window(0x100, 0x200) == [NamedFrame("a"), NamedFrame("b")]
    other = Image(id=71, tgid=8, facts=ProcessFacts(tgid=8, comm="x"), identity=world.image.identity)
    before = counted("jit", "what", "maps_evicted")
    world.window(0x100, image=other)
    assert counted("jit", "what", "maps_evicted") - before == 1
    assert len(world.jit) == 1
    assert world.window(0x100, 0x200) == [NamedFrame("a"), NamedFrame("b")]
