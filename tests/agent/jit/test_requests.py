"""How often JVMs are asked for their maps."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from agent.addresses import Range, build_table
from agent.facts import Identity, ProcessFacts
from agent.image import Image
from agent.jit import requests
from agent.jit.attach import Answer
from agent.jit.hotspot import Doubt
from agent.jit.requests import CONFIRM, MapRequests
from agent.snapshot import Snapshot
from fleetflame.model import Mapping, MappingKind
from tests.agent.counted import counted
from tests.agent.fakeproc import FakeProc, write_elf


@dataclass
class World:
    """JVMs that answer what a test says, at times that it says."""

    folder: Path
    exe: Path
    per_minute: int = 100
    now: float = 1000.0
    answer: Answer | Doubt = Answer.WRITTEN
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.requests = MapRequests(
            interval_s=60, per_minute=self.per_minute, proc=str(self.folder), ask=self._ask, clock=lambda: self.now
        )

    def _ask(self, process: int, identity: Identity, tgid: int) -> Answer | Doubt:
        self.asked.append(tgid)
        return self.answer

    def image(self, tgid: int, library: str = "/opt/jdk/lib/server/libjvm.so") -> Image:
        FakeProc(self.folder).start(tgid, self.exe)
        about = self.exe.stat()
        number = os.major(about.st_dev), os.minor(about.st_dev), about.st_ino
        table = build_table([Range(0, 10, Mapping(MappingKind.FILE, path=library))])
        image = Image(
            id=tgid * 10,
            tgid=tgid,
            facts=ProcessFacts(tgid=tgid, comm="java"),
            identity=Identity(start=100, executable=number),
        )
        image.snapshot = Snapshot(table=table, whole=True, fingerprint=0, bytes_read=0, since_ns=0)
        return image

    def sampled(self, *images: Image, all_named: bool = False) -> list[int]:
        """Who is asked after a window with samples of these."""
        before = len(self.asked)
        for image in images:
            self.requests.want(image, all_named=all_named)
        waiting = self.requests._waiting
        while not waiting.empty():
            image = waiting.get()
            assert image
            self.requests.serve_one(image)
        return self.asked[before:]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "proc", write_elf(tmp_path / "java", b"\1" * 20))


@contextmanager
def one_more(answer: str) -> Iterator[None]:
    before = counted("jvm_maps", "answer", answer)
    yield
    assert counted("jvm_maps", "answer", answer) == before + 1


def test_a_jvm_is_asked_once_an_interval(world: World) -> None:
    """However often its samples lack names."""
    jvm = world.image(7)
    with one_more("written"):
        assert world.sampled(jvm, jvm) == [7]
    world.now += 59
    assert world.sampled(jvm) == []
    world.now += 1
    assert world.sampled(jvm) == [7]


def test_a_jvm_whose_code_has_names_is_asked_less_often(world: World) -> None:
    """Memory may be another method's by now."""
    jvm = world.image(7)
    assert world.sampled(jvm) == [7]
    world.now += 60 * CONFIRM - 1
    assert world.sampled(jvm, all_named=True) == []
    world.now += 1
    assert world.sampled(jvm, all_named=True) == [7]


def test_the_fleet_of_a_node_is_asked_no_more_than_allowed(world: World) -> None:
    """All of them together, in any minute."""
    world.per_minute = 2
    world.__post_init__()
    jvms = [world.image(tgid) for tgid in (7, 8, 9)]
    with one_more("postponed"):
        assert world.sampled(*jvms) == [7, 8]
    world.now += 59
    assert world.sampled(jvms[2]) == []
    world.now += 1
    assert world.sampled(jvms[2]) == [9]


def test_other_programs_are_never_asked(world: World) -> None:
    """Nor is anything opened for them."""
    assert world.sampled(world.image(7, "/usr/bin/node")) == []


@pytest.mark.parametrize("answer", sorted(requests.FINAL))
def test_who_will_never_answer_is_not_asked_again(world: World, answer: Answer | Doubt) -> None:
    """Another process image is another matter."""
    world.answer = answer
    jvm = world.image(7)
    assert world.sampled(jvm) == [7]
    world.now += 1e6
    assert world.sampled(jvm) == []
    assert world.sampled(world.image(8)) == [8]


def test_who_did_not_answer_is_asked_later_and_later(world: World) -> None:
    """A JVM that stands still costs a request in half an hour at last."""
    world.answer = Answer.TIMEOUT
    jvm = world.image(7)
    times = []
    for _ in range(400):
        if world.sampled(jvm):
            times.append(world.now)
        world.now += 60
    gaps = [round((later - sooner) / 60) for sooner, later in pairwise(times)]
    assert gaps[:6] == [2, 4, 8, 16, 32, 32]


def test_a_process_that_took_its_pid_is_not_asked(world: World) -> None:
    """The PID is looked up when the request's turn comes."""
    jvm = world.image(7)
    FakeProc(world.folder).start(7, world.exe, start=200)
    with one_more("gone"):
        assert world.sampled(jvm) == []


def test_the_thread_ends(world: World) -> None:
    """And asks until then."""
    jvm = world.image(7)
    with world.requests:
        world.requests.want(jvm, all_named=False)
    world.requests._thread.join(5)
    assert not world.requests._thread.is_alive()
    assert world.asked == [7]
