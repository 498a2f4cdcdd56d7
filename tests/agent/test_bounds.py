"""What an agent remembers is bounded: a machine that starts thousands of programs does not make it grow."""

import gc
import tracemalloc
from pathlib import Path

import pytest

import agent
from agent import labels
from agent.batch import Batcher, BatchLimits
from agent.builds import Builds
from agent.labels import LabelConfig, Labeller
from agent.normalize import Normalizer
from agent.processes import ImageTable
from agent.window import ID_STACK_BIT, TGID_BITS, EventKind, ProcessEvent
from tests.agent.fakeproc import TEXT, FakeProc, write_elf
from tests.agent.test_kernel import system
from tests.agent.test_normalize import Samples

PROCESSES = 100
"""New ones in each window, every one with a program, a build and stacks of its own."""
WINDOWS = 10
MAX_IMAGES = 200
MAX_CACHED = 300
MAX_FILES = 100
MAX_STACKS = 500

assert PROCESSES * WINDOWS > MAX_CACHED + MAX_IMAGES, "half of the windows fill every table"


class Node:
    """All parts of an agent that remember anything, but for the kernel's side and the bus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = FakeProc(folder / "processes")
        self.builds = Builds(proc=str(self.proc.folder), max_files=MAX_FILES, max_builds=MAX_FILES)
        self.labeller = Labeller(LabelConfig(container_sockets=(), kubernetes_logs=""))
        self.started = 0
        self.images = ImageTable(
            self.builds,
            on_facts=self.labeller.notice,
            proc=str(self.proc.folder),
            max_images=MAX_IMAGES,
        )
        self.normalizer = Normalizer(
            self.images,
            system(folder),
            lambda facts, thread: self.labeller.labels(facts, thread=thread),
        )
        self.batcher = Batcher(node="a", epoch=b"e" * 16, limits=BatchLimits(dictionary_stacks=MAX_STACKS))

    def window(self) -> int:
        """Programs begin, are sampled and end or not; the samples that left the node."""
        samples, files = Samples(), []
        for _ in range(PROCESSES):
            self.started += 1
            pid = self.started
            image = self.started << TGID_BITS | pid
            files.append(write_elf(self.folder / f"program{pid}", pid.to_bytes(20, "little")))
            self.proc.start(pid, files[-1], cgroup=f"0::/system.slice/job{pid % 50}.service\n")
            self.images.apply(ProcessEvent(kind=EventKind.EXEC, tgid=pid, image=image, comm=f"p{pid}"))
            samples.raw[100 + pid] = [TEXT + pid % 4096, TEXT + 8]
            samples.ids[ID_STACK_BIT | pid] = [(pid.to_bytes(20, "little"), 0x1000 + pid % 4096)]
            samples.add(image, 100 + pid).add(image, ID_STACK_BIT | pid)
            if pid % 2:
                self.images.apply(ProcessEvent(kind=EventKind.EXIT, tgid=pid, image=image))
                self.proc.end(pid)
        messages = self.batcher.messages(self.normalizer.normalize(samples.window()))
        for file in files:
            file.unlink()
        return sum(message.samples for message in messages)


def held_by_agent() -> int:
    """Bytes that modules of the agent asked for: not the interpreter's own tables, nor those of this test's files."""
    gc.collect()
    ours = tracemalloc.Filter(inclusive=True, filename_pattern=f"{Path(agent.__file__).parent}/*")
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)


def test_thousands_of_programs_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once every table is full, as many windows of new programs again need no more memory."""
    monkeypatch.setattr(labels, "MAX_CACHED", MAX_CACHED)
    node, held = Node(tmp_path), []
    tracemalloc.start()
    try:
        for _ in range(2):
            for _ in range(WINDOWS):
                assert node.window() == 2 * PROCESSES
            held.append(held_by_agent())
    finally:
        tracemalloc.stop()
    assert len(node.images) <= MAX_IMAGES
    assert node.batcher.known_stacks <= MAX_STACKS + 2 * PROCESSES
    assert held[1] < held[0] * 1.1
