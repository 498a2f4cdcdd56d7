"""Samples of real runtimes have the names of their functions, as far as their frame pointers lead."""

import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.jit.maps import JitMaps
from agent.jit.requests import MapRequests
from tests.agent.jit.programs import JAVA, NODE, running, stacks_of, watching

pytestmark = pytest.mark.bpf


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.js").write_text(NODE.replace("SECONDS", "30"))
    return tmp_path


def frames_of(app: Path, *argv: str | Path) -> list[tuple[tuple[str, ...], int]]:
    """The stacks of one window of a program that has started, most frequent first."""
    with watching(JitMaps()) as watcher, running(argv, app) as pid:
        time.sleep(1)
        watcher.window()
        time.sleep(1)
        return stacks_of(watcher.window(), pid).most_common()


def test_node_functions_have_names(app: Path) -> None:
    """Optimized ones with `--perf-basic-prof`, each in its place below its caller."""
    stacks = frames_of(app, "node", "--perf-basic-prof", "app.js")
    total = sum(count for _, count in stacks)
    named = sum(count for stack, count in stacks if {"serve", "pay", "interest"} & set(stack))
    assert named > 0.9 * total
    assert not any("[no_perf_map]" in stack for stack, _ in stacks)


def test_interpreted_node_functions_have_names_too(app: Path) -> None:
    """With `--interpreted-frames-native-stack` the whole way from the module to the loop is there."""
    stacks = frames_of(app, "node", "--perf-basic-prof", "--interpreted-frames-native-stack", "app.js")
    top = stacks[0][0]
    path = [frame for frame in top if frame in ("executeUserEntryPoint", "Module._load", "serve")]
    assert path == ["executeUserEntryPoint", "Module._load", "serve"]


def test_node_without_a_map_is_said_to_have_none(app: Path) -> None:
    """In place of each frame that it would have named."""
    stacks = frames_of(app, "node", "app.js")
    total = sum(count for _, count in stacks)
    assert sum(count for stack, count in stacks if "[no_perf_map]" in stack) > 0.8 * total


def test_a_jvms_map_is_read_when_it_is_there(tmp_path: Path) -> None:
    """Before, there is none; afterwards methods have names, and what calls them."""
    (tmp_path / "Hot.java").write_text(JAVA)
    subprocess.run(["javac", "Hot.java"], cwd=tmp_path, check=True)
    argv = ["java", "-XX:+PreserveFramePointer", "Hot", "30"]
    with watching(JitMaps()) as watcher, running(argv, tmp_path) as pid:
        time.sleep(1)
        before = stacks_of(watcher.window(), pid)
        subprocess.run(["jcmd", str(pid), "Compiler.perfmap"], check=True, capture_output=True)
        time.sleep(1)
        for _ in range(2):
            after = stacks_of(watcher.window(), pid)
            time.sleep(0.5)
    assert any("[no_perf_map]" in stack for stack in before)
    named = sum(count for stack, count in after.items() if "Hot.fib(int)" in stack)
    assert named > 0.9 * sum(after.values())
    assert any("Interpreter" in stack and "libjvm.so" in stack for stack in after)


def test_a_jvm_is_asked_for_its_map_when_names_are_missing(tmp_path: Path) -> None:
    """Samples without names lead to a request, and the next ones have them."""
    (tmp_path / "Hot.java").write_text(JAVA)
    subprocess.run(["javac", "Hot.java"], cwd=tmp_path, check=True)
    argv = ["java", "-XX:+PreserveFramePointer", "Hot", "60"]
    requests = MapRequests(interval_s=10, per_minute=6)
    with requests, watching(JitMaps(on_sampled=requests.want)) as watcher, running(argv, tmp_path) as pid:
        end = time.monotonic() + 30
        stacks: Counter[tuple[str, ...]] = Counter()
        while not any("Hot.fib(int)" in stack for stack in stacks) and time.monotonic() < end:
            time.sleep(0.5)
            stacks = stacks_of(watcher.window(), pid)
        assert any("Hot.fib(int)" in stack for stack in stacks)


@pytest.mark.skipif(os.getuid() != 0, reason="makes namespaces")
def test_a_map_is_found_in_namespaces_of_the_processs_own(app: Path) -> None:
    """A container's process is PID 1 there, and its /tmp is another one."""
    inside = "mount -t tmpfs none /tmp && exec node --perf-basic-prof -"
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside]
    with (
        (app / "app.js").open() as source,
        watching(JitMaps()) as watcher,
        running(argv, app, stdin=source) as outer,
    ):
        (pid,) = map(int, Path(f"/proc/{outer}/task/{outer}/children").read_text().split())
        time.sleep(1)
        watcher.window()
        time.sleep(1)
        stacks = stacks_of(watcher.window(), pid)
    assert sum(count for stack, count in stacks.items() if "serve" in stack) > 0.8 * sum(stacks.values())
