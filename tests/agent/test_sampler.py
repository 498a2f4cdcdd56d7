"""The kernel programs on the real kernel: samples, losses and processes are counted and told apart."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from agent.loader import LoadOptions
from agent.sampler import Sampler
from agent.window import ID_STACK_BIT, EventKind, ProcessEvent, Window

pytestmark = pytest.mark.bpf

SMALL = LoadOptions(
    counts_entries=4096, stack_entries=2048, id_stack_entries=512, process_entries=4096, per_thread=False
)
SPIN = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"


@contextmanager
def sampling(options: LoadOptions = SMALL, *, frequency: int = 499) -> Iterator[Sampler]:
    sampler = Sampler(options, frequency=frequency)
    try:
        yield sampler
    finally:
        sampler.close()


def spin(seconds: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", SPIN.format(seconds)])


def last(sampler: Sampler) -> Window:
    sampler.stop()
    return sampler.take()


def events_until(sampler: Sampler, tgid: int, kind: EventKind) -> list[ProcessEvent]:
    seen: list[ProcessEvent] = []
    end = time.monotonic() + 10
    while time.monotonic() < end:
        seen.extend(event for event in sampler.events(0.1) if event.tgid == tgid)
        if any(event.kind is kind for event in seen):
            return seen
    raise AssertionError(f"no {kind!r} within 10 s, but {seen}")


def assert_balanced(window: Window) -> None:
    assert window.taken == int(window.counts["count"].sum()) + sum(window.lost.values())


def test_samples_agree_with_cpu_time_and_all_are_counted() -> None:
    """taken = counted + lost in each window, and a process gets as many samples as its CPU time says."""
    with sampling() as sampler:
        child = spin(1.0)
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = 0
        windows = [sampler.take(), last(sampler)]
    for window in windows:
        assert_balanced(window)
    mine = sum(int(w.counts["count"][w.counts["tgid"] == child.pid].sum()) for w in windows)
    # 3 % is what the issue asks for, and a tick each time that a busy machine takes the CPU away.
    assert mine == pytest.approx((usage.ru_utime + usage.ru_stime) * 499, rel=0.03, abs=10)


def test_every_stack_that_a_row_names_is_there() -> None:
    """Two sets of maps take turns, so that no window has a row whose stack went with another one."""
    with sampling(frequency=4999) as sampler:
        child = spin(1.0)
        windows = []
        for _ in range(12):
            time.sleep(0.08)
            windows.append(sampler.take())
        child.wait()
        windows.append(last(sampler))
    rows = 0
    for window in windows:
        kernel = window.counts["kernel"]
        user = window.counts["user"]
        bare = user[(user >= 16) & (user < ID_STACK_BIT)]
        resolved = user[user >= ID_STACK_BIT]
        assert np.isin(kernel[kernel >= 16], window.stacks.keys).all()
        assert np.isin(bare, window.stacks.keys).all()
        assert np.isin(resolved, window.id_stacks.keys).all()
        rows += len(kernel)
    assert rows


def test_full_maps_lose_no_sample_silently() -> None:
    """With room for hardly anything, samples are counted as lost or kept without a stack, by reason."""
    tiny = replace(SMALL, counts_entries=8, stack_entries=8, id_stack_entries=2)
    with sampling(tiny, frequency=4999) as sampler:
        children = [spin(0.5) for _ in range(12)]
        for child in children:
            child.wait()
        window = sampler.take()
        degraded = sampler.degraded
        rest = last(sampler)
    assert_balanced(window)
    assert_balanced(rest)
    assert window.lost["counts_full"] > 0
    assert degraded["stack_map_full"] + degraded["id_stack_map_full"] > 0


def test_exec_and_exit_are_told_in_order() -> None:
    """A new image at exec, with what it was forked from, and its exit. Of the fork itself there was no sample."""
    with sampling(frequency=1) as sampler:
        child = subprocess.Popen(["/bin/true"])
        child.wait()
        events = list(sampler.events(1))
    me = [event for event in events if event.tgid == os.getpid()]
    execed, ended = (event for event in events if event.tgid == child.pid)
    assert [event.kind for event in me] == [EventKind.SEEN]
    assert (execed.kind, execed.parent_image, execed.comm) == (EventKind.EXEC, me[0].image, "true")
    assert (ended.kind, ended.image) == (EventKind.EXIT_UNSAMPLED, execed.image)


def test_a_fork_is_told_when_its_child_is_sampled() -> None:
    """With the image that it was forked from, and not again; its exit says that there were samples."""
    script = f"import os\nos.fork()\n{SPIN.format(0.5)}"
    with sampling() as sampler:
        parent = subprocess.Popen([sys.executable, "-c", script])
        parent.wait()
        time.sleep(0.5)
        events = list(sampler.events(1))
        window = last(sampler)
    begun = next(event for event in events if event.kind is EventKind.EXEC and event.tgid == parent.pid)
    fork = next(event for event in events if event.kind is EventKind.FORK and event.parent_image == begun.image)
    assert [e.kind for e in events if e.image == fork.image] == [EventKind.FORK, EventKind.EXIT]
    rows = window.counts[window.counts["image"] == fork.image]
    assert rows["count"].sum() > 10
    # The fork has the name that its parent had; should all events be lost, samples have a name still.
    assert {name.decode() for name in rows["comm"].tolist()} == {begun.comm}


def test_a_process_that_was_there_before_is_seen_with_its_first_sample() -> None:
    """And its samples carry the image that the event told."""
    child = spin(60)  # loading the programs takes seconds on a busy machine
    with sampling() as sampler:
        seen = events_until(sampler, child.pid, EventKind.SEEN)
        time.sleep(0.2)
        window = last(sampler)
    child.kill()
    child.wait()
    images = set(window.counts["image"][window.counts["tgid"] == child.pid].tolist())
    assert images == {seen[0].image}


def test_the_kernel_names_builds_until_the_image_is_ready() -> None:
    """Bare addresses only once user space says that it knows the mappings, and until it has forgotten them."""
    child = spin(60)
    with sampling() as sampler:
        image = events_until(sampler, child.pid, EventKind.SEEN)[0].image
        before = sampler.take()
        sampler.set_layout(image)
        time.sleep(0.05)
        sampler.take()
        time.sleep(0.3)
        after = sampler.take()
        for _ in range(2):  # what is not there any more is no mistake
            sampler.forget_layout(image)
        time.sleep(0.05)
        sampler.take()
        time.sleep(0.3)
        forgotten = last(sampler)
    child.kill()
    child.wait()

    def user(window: Window) -> np.ndarray:
        keys: np.ndarray = window.counts["user"][window.counts["image"] == image]
        return keys[keys >= 16]

    assert (user(before) >= ID_STACK_BIT).all()
    assert (user(after) < ID_STACK_BIT).all()
    assert (user(forgotten) >= ID_STACK_BIT).all()
    assert len(user(after))
    assert len(user(forgotten))


def test_rows_per_thread_carry_the_thread() -> None:
    """Only on demand: a row for each thread multiplies rows."""
    script = "import threading\n" + SPIN.format(0.4).replace("\n", "\n ").replace(
        "import time", "def f():\n import time"
    )
    script += "\nt = threading.Thread(target=f); t.start(); t.join()"
    with sampling(replace(SMALL, per_thread=True)) as sampler:
        child = subprocess.Popen([sys.executable, "-c", script])
        child.wait()
        window = last(sampler)
    rows = window.counts[window.counts["tgid"] == child.pid]
    assert child.pid not in set(rows["tid"][rows["count"] == rows["count"].max()].tolist())
    assert set(rows["comm"].tolist()) != {b""}


@pytest.mark.parametrize("frequency", [1, 10_000])
def test_the_whole_range_of_frequencies_loads(frequency: int) -> None:
    """From one sample a second to ten thousand."""
    with sampling(frequency=frequency) as sampler:
        child = spin(0.3)
        child.wait()
        window = last(sampler)
    assert_balanced(window)
    assert window.period_ns == 1_000_000_000 // frequency
    if frequency == 10_000:
        assert window.taken > 1_000
