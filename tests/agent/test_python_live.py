"""Mixed stacks of real interpreters, from the kernel to names: C that calls Python that calls C, in true order."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from agent import app
from agent.builds import Builds
from agent.kernel import Kernel
from agent.normalize import NormalizedWindow, Normalizer
from agent.processes import ImageTable
from agent.python.codes import Codes
from agent.sampler import Sampler
from agent.unwind.compiler import Compiler
from fleetflame.model import FrameMiss, MappingKind
from tests.agent.test_sampler import SMALL
from tests.support.interpreters import Interpreter, interpreters

pytestmark = pytest.mark.bpf

# Prints each stack in which it will spin, as it knows it itself, then spins: in a function that C calls (sorted), which
# was called by Python; below a generator; and in C without the GIL, in another thread.
SOURCE = r"""
import json, sys, threading, time, zlib
def described(frame):
    found = []
    while frame:
        code = frame.f_code
        found.insert(0, [getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno])
        frame = frame.f_back
    return found
known = set()
def tell():
    stack = json.dumps(described(sys._getframe(2)))
    if stack not in known:
        known.add(stack)
        print(stack, flush=True)
def spin(n):
    tell()
    total = 0
    for i in range(n): total += i * i
    return total
def by_key(x):
    return spin(3000) + x
def recurse(n):
    if n:
        return recurse(n - 1)
    return sorted(range(20), key=by_key)
def generate():
    for i in range(20): yield spin(3000)
def compress():
    data = bytes(3000000)
    while True: zlib.compress(data, 9)
class Worker(threading.Thread):
    def run(self):
        compress()
Worker(daemon=True).start()
end = time.time() + 60
while time.time() < end:
    recurse(3); sum(generate())
"""


class Node:
    """An agent's threads and tables, without a bus."""

    def __init__(self) -> None:
        self.sampler = Sampler(SMALL, frequency=499)
        builds, codes = Builds(), Codes()
        self.unwinding = app._unwinding(self.sampler, Compiler(builds))
        self.images = ImageTable(
            builds,
            on_mapped=partial(app._tell_mapped, self.sampler, self.unwinding),
            on_forgotten=lambda image: self.unwinding.remove(image, self.sampler.forget_layout),
        )
        label_of = lambda facts, _thread: (("pid", str(facts.tgid)),)  # noqa: E731
        self.normalizer = Normalizer(self.images, Kernel(), label_of, codes=codes)
        self.codes = codes
        self.stopping = threading.Event()

    def follow(self) -> None:
        while not self.stopping.is_set():
            for event in self.sampler.events(0.1):
                self.images.apply(event)
            for image, address, checksum in self.sampler.python_codes():
                self.codes.note(self.images.find(image), (address, checksum))

    def window(self) -> NormalizedWindow:
        window = self.normalizer.normalize(self.sampler.take())
        self.unwinding.note(window.mappings)
        return window


@contextmanager
def profiling() -> Iterator[Node]:
    node = Node()
    threads = [
        threading.Thread(target=node.follow),
        threading.Thread(target=node.unwinding.run, args=(node.stopping,)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield node
    finally:
        node.stopping.set()
        for thread in threads:
            thread.join()
        node.sampler.close()


Shown = list[tuple[str, str, int]]
"""Root first: functions of Python as (name, file, line), others as (file's path or miss, "", 0)."""


def stacks_of(window: NormalizedWindow, pid: int) -> list[Shown]:
    found = []
    for series, stack in zip(window.row_series.tolist(), window.row_stack.tolist(), strict=True):
        if window.series[series] == (("pid", str(pid)),):
            part = slice(int(window.stacks.offsets[stack]), int(window.stacks.offsets[stack + 1]))
            columns = window.stacks.mapping[part].tolist(), window.stacks.address[part].tolist()
            found.append([_frame(window, *pair) for pair in zip(*columns, strict=True)])
    return found


def _frame(window: NormalizedWindow, index: int, address: int) -> tuple[str, str, int]:
    mapping = window.mappings[index]
    if mapping.kind is MappingKind.INTERPRETER:
        named = window.named[address]
        return named.name, named.file, named.line
    return (FrameMiss(address).name if mapping.kind is MappingKind.MISS else mapping.path or mapping.kind.name, "", 0)


def is_whole(stack: Shown) -> bool:
    return not any(name in FrameMiss.__members__ for name, _, _ in stack)


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_stacks_of_python_and_c_are_in_true_order(interpreter: Interpreter) -> None:
    """Every sampled stack that spins is one that the program knows of, to the line; between the function that sorts and
    the one that it sorts by stand frames of C; the thread in C without the GIL has its Python frames."""
    with (
        profiling() as node,
        subprocess.Popen([*interpreter.command, "-I", "-c", SOURCE], stdout=subprocess.PIPE) as child,
    ):
        try:
            stacks = _sampled(node, child.pid)
        finally:
            child.kill()
        assert child.stdout
        told = {json.dumps(json.loads(line)) for line in child.stdout.read().splitlines()}
    spinning = [stack for stack in stacks if any(frame[0] == "spin" and frame[2] >= 18 for frame in stack)]
    assert len(spinning) > 20
    for stack in spinning:
        python = [list(frame) for frame in stack if frame[1]]
        names = [name for name, _, _ in python]
        assert json.dumps(python[: names.index("spin")]) in told
    sorting, threads = _with(spinning, "by_key"), _with(stacks, "compress")
    for stack in sorting:
        names = [name for name, _, _ in stack]
        last = len(names) - 1 - names[::-1].index("recurse")
        assert names.index("by_key") - last > 3
        assert not stack[0][1]
    assert sorting and threads
    # Native code is innermost, but for a sample between the interpreter's call and its taking note of it.
    assert sum(bool(stack[-1][1]) for stack in threads) <= 0.05 * len(threads) + 1


def _sampled(node: Node, pid: int) -> list[Shown]:
    """Whole stacks, once unwind tables are there: enough of each kind."""
    end = time.monotonic() + 60
    stacks: list[Shown] = []
    while time.monotonic() < end:
        time.sleep(1)
        stacks += [stack for stack in stacks_of(node.window(), pid) if is_whole(stack)]
        if len(stacks) > 100 and all(len(_with(stacks, name)) > 10 for name in ("spin", "by_key", "compress")):
            break
    return stacks


def _with(stacks: list[Shown], function: str) -> list[Shown]:
    return [stack for stack in stacks if any(frame[1] and frame[0] == function for frame in stack)]
