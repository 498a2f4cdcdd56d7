"""The walk over Python's frames, on every interpreter at hand: exactly the frames that the program itself knows of."""

import contextlib
import json
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.python.build import PythonBuild, RunningPython
from agent.python.code import Code, CodeMiss, read_code
from agent.python.dynamic import Symbol
from agent.python.layouts import LAYOUTS, Runs
from agent.python.memory import Memory
from agent.python.record import pack_layout
from tests.agent.python.test_code import locate
from tests.bpf.pythonwalker import (
    DEPTH,
    NO_THREAD,
    NOT_FOUND,
    UNREADABLE,
    WHOLE,
    PythonFrame,
    PythonWalker,
    compile_walker,
)
from tests.support.interpreters import Interpreter, interpreters

# Calls itself through everything that calls: C that calls Python, generators, coroutines, classes, comprehensions. At
# the innermost place it prints, of all threads, what it knows of their stacks, and waits.
SOURCE = r"""
import functools, json, sys, threading, time
ARGUMENTS = sys.argv[1:]
def describe(frame):
    found = []
    while frame:
        code = frame.f_code
        found.append([getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno or 0])
        frame = frame.f_back
    return found
def innermost(n):
    own = describe(sys._getframe(1))
    others = {t.ident: describe(sys._current_frames()[t.ident]) for t in threading.enumerate() if t is not main}
    print(json.dumps({"main": main.ident, "own": own, "others": others}), flush=True); sys.stdin.readline()
    return n
def by_key(x):
    return sorted([x], key=(
        lambda y:
            innermost(y)))
class Thing:
    def __init__(self, n):
        self.n = by_key(n)
    def __getattr__(self, name):
        return Thing(3)
class Derived(Thing):
    def __init__(self, n):
        super().__init__(n)
def generate():
    yield from (x for x in [Derived(1).other])
async def inner():
    return [x for x in generate()]
async def outer():
    return await inner()
def run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration:
        pass
def recurse(n):
    if n:
        return recurse(n - 1) + 1
    return functools.reduce(lambda a, b: run(outer()) or 0, [1, 2])
def waits(lock):
    with lock:
        pass
def sleeps():
    eval("time.sleep(1000)")
main = threading.current_thread()
lock = threading.Lock()
lock.acquire()
threads = [threading.Thread(target=waits, args=(lock,), daemon=True), threading.Thread(target=sleeps, daemon=True)]
threads += [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(int(ARGUMENTS[1]))]
for thread in threads:
    thread.start()
time.sleep(0.3)
sys.setrecursionlimit(100000)
threading.stack_size(1 << 28)
recurse(int(ARGUMENTS[0]))
"""


@dataclass
class Child:
    """An interpreter that waits in SOURCE's innermost function: how to find its frames, and what it says of them."""

    memory: Memory
    build: PythonBuild
    bias: int
    said: dict[str, object]
    record: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.record = pack_layout(RunningPython(self.build, self.bias))

    def names(self, frames: list[PythonFrame]) -> list[list[object]]:
        """As the child describes them; frames that its stacks do not show are left out."""
        found = []
        for frame in frames:
            code_type = self.build.code_type + self.bias
            code = read_code(self.memory.read, self.build.layout, code_type, frame.code, frame.checksum)
            if code is not CodeMiss.INTERNAL:
                assert isinstance(code, Code)
                found.append([code.name, code.file, code.line(frame.offset)])
        return found


@contextlib.contextmanager
def waiting(interpreter: Interpreter, *, depth: int = 3, threads: int = 0) -> Iterator[Child]:
    command = [*interpreter.command, "-I", "-c", SOURCE, str(depth), str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            said = json.loads(process.stdout.readline())
            yield Child(Memory(process.pid), *locate(process.pid), said)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> PythonWalker:
    return compile_walker(tmp_path_factory.mktemp("walker"))


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_frames_are_those_that_the_program_knows_of(walker: PythonWalker, interpreter: Interpreter) -> None:
    """Function, file and current line of every frame but the innermost, which prints; also of threads without the GIL,
    of which one waits for a lock and one sleeps."""
    with waiting(interpreter) as child:
        walker.look_at(child.memory._tgid)
        stacks = {child.said["main"]: child.said["own"]} | {int(i): s for i, s in child.said["others"].items()}
        assert len(stacks) == 3
        for thread, stack in stacks.items():
            walker.forget()
            miss, state = walker.find_thread(child.record, thread)
            assert miss == WHOLE
            walked = walker.walk(child.record, state)
            assert walked.miss == WHOLE
            names = child.names(walked.frames)
            assert names[names[0][0] == "innermost" :] == stack


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_a_deep_stack_keeps_its_leaf_side(walker: PythonWalker, interpreter: Interpreter) -> None:
    """128 frames, and word that there are more. Within a run they are followed to its end, for its place among native
    frames."""
    with waiting(interpreter, depth=500) as child:
        walker.look_at(child.memory._tgid)
        _, state = walker.find_thread(child.record, child.said["main"])
        walker.reads()
        walked = walker.walk(child.record, state)
        assert walker.reads() < 2500
        assert walked.miss == DEPTH
        assert 100 < len(walked.frames) <= 128
        names = child.names(walked.frames)
        assert names[1:] == child.said["own"][: len(names) - 1]


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_a_thread_among_many_is_found_in_the_end(walker: PythonWalker, interpreter: Interpreter) -> None:
    """The first of 302 threads is the last in the list: the third sample finds it, others had no more to do."""
    with waiting(interpreter, threads=300) as child:
        walker.look_at(child.memory._tgid)
        walker.reads()
        misses = []
        while (found := walker.find_thread(child.record, child.said["main"]))[0] == NOT_FOUND:
            misses.append(walker.reads())
        assert found[0] == WHOLE and len(misses) == 2
        assert max(misses) <= 2 * 128 + 2
        assert walker.find_thread(child.record, child.said["main"]) == found
        walker.reads()
        assert walker.find_thread(child.record, child.said["main"]) == found
        assert walker.reads() == 1


def test_a_thread_that_runs_no_python_is_asked_once(walker: PythonWalker) -> None:
    """As long as the list of threads begins as it did, it is none of them."""
    with waiting(interpreters()[-1], threads=20) as child:
        walker.look_at(child.memory._tgid)
        assert walker.find_thread(child.record, 0x1234) == (NO_THREAD, 0)
        walker.reads()
        assert walker.find_thread(child.record, 0x1234) == (NO_THREAD, 0)
        assert walker.reads() < 5


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_runs_stand_where_their_anchors_are(walker: PythonWalker, interpreter: Interpreter) -> None:
    """Native frames as wide as the distance of two anchors: each run is in the one that holds its anchor."""
    if child_has_no_anchors(interpreter):
        return
    with waiting(interpreter) as child:
        walker.look_at(child.memory._tgid)
        _, state = walker.find_thread(child.record, child.said["main"])
        anchors = read_anchors(child, state)
        assert anchors == sorted(anchors) and len(set(anchors)) == len(anchors) > 5
        natives = [cfa for anchor in anchors for cfa in (anchor - 8, anchor + 8)]
        runs = walker.walk(child.record, state, cfa=natives[:128]).runs
        assert [native for native, _ in runs] == [2 * i + 1 for i in range(len(runs))]
        # A native frame that nobody found: its run follows the frames that are nearer to the leaf.
        runs = walker.walk(child.record, state, cfa=natives[:3]).runs
        assert [native for native, _ in runs] == [1] + [3] * (len(runs) - 1)


def child_has_no_anchors(interpreter: Interpreter) -> bool:
    return interpreter.minor < 10


def read_anchors(child: Child, state: int) -> list[int]:
    """Read here again, in Python: CFrames, or frames whose owner is the C stack."""
    layout, found = child.build.layout, []

    def pointer(address: int) -> int:
        return int.from_bytes(child.memory.read(address, 8), "little")

    if layout.runs in (Runs.EACH_CFRAME, Runs.ENTRY):
        # The last one is part of the thread's state, and nothing writes what comes before it.
        frame = pointer(state + layout.thread_cframe)
        while not state <= frame < state + 4096:
            found.append(frame)
            frame = pointer(frame + layout.cframe_previous)
        return found
    frame = pointer(state + layout.thread_frame)
    if layout.runs is Runs.SHIM_CFRAME:
        frame = pointer(pointer(state + layout.thread_cframe) + layout.cframe_frame)
    while frame:
        if child.memory.read(frame + layout.frame_end, 1)[0] >= 3:
            found.append(frame)
        frame = pointer(frame + layout.frame_previous)
    return found


def record_of(minor: int) -> bytes:
    build = PythonBuild(version=(3, minor), layout=LAYOUTS[minor], runtime=0x1000, code_type=0, evaluation=_EVALUATION)
    return pack_layout(RunningPython(build, 0))


_EVALUATION = Symbol(0x5000, 0x100)


@pytest.mark.parametrize("minor", sorted(LAYOUTS))
def test_a_frame_that_is_its_own_caller_ends(walker: PythonWalker, minor: int) -> None:
    """Every pointer leads to the same place: the walk is as long as the longest, and says so."""
    walker.look_into(lambda _address, length: struct.pack("<Q", 0x7000) * (length // 8))
    walker.reads()
    walked = walker.walk(record_of(minor), 0x7000)
    assert walked.miss in (DEPTH, WHOLE)
    assert len(walked.frames) <= 128 and walker.reads() <= 3 * 1024 + 400
    assert walker.find_thread(record_of(minor), 0x1)[0] == NOT_FOUND


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(LAYOUTS)), st.binary(min_size=8, max_size=200), st.integers(0, 200), st.integers(0, 40))
def test_memory_that_says_anything_ends_the_walk(
    walker: PythonWalker, minor: int, data: bytes, until: int, natives: int
) -> None:
    """Bounded work and a reason, whatever is read and wherever reading fails."""
    left = [until]

    def read(address: int, length: int) -> bytes | None:
        left[0] -= 1
        return None if left[0] < 0 else (data * 16)[address % 100 : address % 100 + length].ljust(length, b"\1")

    walker.look_into(read)
    walked = walker.walk(record_of(minor), 0x7000, address=range(natives), cfa=[i << 58 for i in range(natives)])
    assert walked.miss in (WHOLE, UNREADABLE, DEPTH)
    assert len(walked.frames) <= 128
    assert all(native <= natives for native, _ in walked.runs)
    left[0] = until
    assert walker.find_thread(record_of(minor), 0x77)[0] in (WHOLE, NO_THREAD, NOT_FOUND, UNREADABLE)


def test_each_evaluating_frame_has_one_python_frame_where_there_are_no_anchors(
    walker: PythonWalker, tmp_path: Path
) -> None:
    """3.8 and 3.9: by the native frames whose code is the evaluating function's."""
    old = [interpreter for interpreter in interpreters() if child_has_no_anchors(interpreter)]
    for interpreter in old[:1]:
        with waiting(interpreter) as child:
            walker.look_at(child.memory._tgid)
            _, state = walker.find_thread(child.record, child.said["main"])
            evaluation = child.build.evaluation.value + child.bias
            natives = [evaluation + 5 if i % 3 == 2 else 1000 for i in range(30)]
            runs = walker.walk(child.record, state, address=natives, cfa=[0] * 30).runs
            assert [native for native, _ in runs][:11] == [*range(2, 30, 3), 30]
            assert all(len(frames) == 1 for _, frames in runs)
