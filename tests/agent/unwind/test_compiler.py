"""Tables made in a child: as in process, without privileges; whatever a file is costs its own table only."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.builds import Builds, Place
from agent.unwind.compiler import Compiler
from fleetflame.buildid import BuildId
from fleetflame.cfi import CfaError, CfaFault, compile_table
from fleetflame.model import Mapping, MappingKind
from tests.agent.fakeproc import write_elf


class World:
    def __init__(self) -> None:
        self.builds = Builds()
        self.compiler = Compiler(self.builds)

    def mapping(self, path: Path) -> Mapping:
        fd = os.open(path, os.O_RDONLY)
        try:
            return self.builds.mapping(self.builds.examine(fd), Place(os.getpid(), "exe", os.fsencode(path)))
        finally:
            os.close(fd)

    @property
    def child(self) -> int:
        assert self.compiler._child is not None
        return self.compiler._child.pid


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.compiler.close()


def libc() -> Path:
    line = next(line for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line)
    return Path(line.split()[-1])


def test_a_table_is_the_same_as_in_process(world: World) -> None:
    """Whatever is in between; and the child has no privileges left to lose."""
    found = world.compiler.find(world.mapping(libc()))
    wanted = compile_table(libc().read_bytes())
    assert found is not None
    assert np.array_equal(found.pc, wanted.pc)
    assert np.array_equal(found.rules[found.rule], wanted.rules[wanted.rule])
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{world.child}/status").read_text().splitlines())
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) == 0


def test_a_file_without_tables_costs_its_own_only(world: World, tmp_path: Path) -> None:
    """The reason comes back, and the same child goes on."""
    world.compiler.find(world.mapping(libc()))
    child = world.child
    bare = write_elf(tmp_path / "bare", b"\1" * 20)
    (tmp_path / "text").write_text("no ELF at all" * 1000)
    for path in (bare, tmp_path / "text"):
        with pytest.raises(CfaError) as refused:
            world.compiler.find(world.mapping(path))
        assert refused.value.reason in (CfaFault.ABSENT, CfaFault.NOT_ELF, CfaFault.STRUCTURE, CfaFault.TRUNCATED)
    assert world.compiler.find(world.mapping(libc())) is not None
    assert world.child == child


def test_a_child_that_dies_is_replaced(world: World) -> None:
    """That one table is refused; the next has a new child."""
    mapping = world.mapping(libc())
    world.compiler.find(mapping)
    child = world.child
    os.kill(child, signal.SIGKILL)
    with pytest.raises(CfaError):
        world.compiler.find(mapping)
    assert world.compiler.find(mapping) is not None
    assert world.child != child


def test_a_file_that_nobody_has_any_more_has_no_table(world: World) -> None:
    """Its process ended and its path holds another file."""
    gone = Mapping(MappingKind.FILE, BuildId(b"\7" * 20), "/nonexistent")
    assert world.compiler.find(gone) is None


def test_who_stops_waits_for_no_table(world: World) -> None:
    """A container is killed after 10 s, a large program's table takes longer; and no other is begun."""
    mapping = world.mapping(libc())
    world.compiler.find(mapping)
    os.kill(world.child, signal.SIGSTOP)  # it is not done before long
    timer = threading.Timer(0.2, world.compiler.interrupt)
    timer.start()
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(CfaError):
            world.compiler.find(mapping)
    timer.join()
    assert time.monotonic() - began < 5


def test_capabilities_are_given_up_by_root_without_all_of_them() -> None:
    """As a container's root has it: a few capabilities, and none to become somebody else."""
    script = (
        "from pathlib import Path; from agent.unwind.compiler import _give_up_privileges; _give_up_privileges();"
        "print(Path('/proc/self/status').read_text())"
    )
    command = [sys.executable, "-P", "-c", script]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-setuid,-setgid", *command]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    status = dict(line.split(":\t", 1) for line in shown.splitlines() if ":\t" in line)
    assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    assert status["NoNewPrivs"] == "1"
