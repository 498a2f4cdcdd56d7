"""What is read of a process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.facts import MAX_CMDLINE, Identity, open_process, read_facts, read_identity

STAT = "{pid} ({comm}) {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0"


def fake(folder: Path, *, stat: str, **files: str | bytes) -> Path:
    """A proc folder with the process 7."""
    (folder / "7/ns").mkdir(parents=True)
    for name, content in {"stat": stat, **files}.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "7" / name).write_bytes(data)
    return folder


def test_facts_of_this_process_are_what_python_knows() -> None:
    """A real process, compared with what the interpreter says of itself."""
    with open_process("/proc", os.getpid()) as process:
        found = read_facts(process, os.getpid())
    assert found is not None
    facts, identity = found
    assert facts.tgid == os.getpid()
    assert facts.exe == str(Path(sys.executable).resolve())
    assert facts.uid == os.getuid()
    assert facts.cmdline[1:] == tuple(sys.orig_argv[1:])[: len(facts.cmdline) - 1]
    assert facts.cgroup == Path("/proc/self/cgroup").read_text()
    assert f"pid:[{facts.pid_namespace}]" == str(Path("/proc/self/ns/pid").readlink())
    assert facts.comm == Path("/proc/self/comm").read_text().rstrip("\n")
    assert not facts.kernel
    assert facts.build_id is None
    assert identity.start > 0


def test_a_name_with_parentheses_and_spaces_is_whole(tmp_path: Path) -> None:
    """comm is anything that a process likes; the last parenthesis ends it."""
    proc = fake(tmp_path, stat=STAT.format(pid=7, comm="a) R 1 (b", state="S", flags=0, start=55))
    with open_process(str(proc), 7) as process:
        found = read_facts(process, 7)
    assert found is not None
    assert found[0].comm == "a) R 1 (b"
    assert found[1] == Identity(start=55, executable=None)


def test_a_kernel_thread_has_no_executable(tmp_path: Path) -> None:
    """It is told from a process of which the executable cannot be read."""
    proc = fake(tmp_path, stat=STAT.format(pid=7, comm="kworker/0:1", state="I", flags=0x04208060, start=5))
    with open_process(str(proc), 7) as process:
        found = read_facts(process, 7)
    assert found is not None
    assert (found[0].exe, found[0].kernel) == ("", True)


def test_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    """Another user's process shows little."""
    proc = fake(tmp_path, stat=STAT.format(pid=7, comm="a", state="S", flags=0, start=5))
    with open_process(str(proc), 7) as process:
        found = read_facts(process, 7)
    assert found is not None
    facts = found[0]
    assert (facts.exe, facts.cgroup, facts.uid, facts.cmdline, facts.pid_namespace) == ("", "", -1, (), 0)


def test_a_deleted_executable_keeps_its_path(tmp_path: Path) -> None:
    """Without the word that the kernel adds."""
    proc = fake(tmp_path, stat=STAT.format(pid=7, comm="a", state="S", flags=0, start=5))
    (proc / "7/exe").symlink_to("/opt/a (deleted)")
    with open_process(str(proc), 7) as process:
        found = read_facts(process, 7)
    assert found is not None
    assert found[0].exe == "/opt/a"


def test_bytes_that_are_no_text_are_shown(tmp_path: Path) -> None:
    """Names are bytes; what travels is text."""
    stat = STAT.format(pid=7, comm="@", state="S", flags=0, start=5).encode().replace(b"@", b"\xff\xfe")
    proc = fake(tmp_path, stat="", cmdline=b"a\0b\xff\0")
    (proc / "7/stat").write_bytes(stat)
    with open_process(str(proc), 7) as process:
        found = read_facts(process, 7)
    assert found is not None
    assert found[0].comm == "\\xff\\xfe"
    assert found[0].cmdline == ("a", "b\\xff")


def test_a_command_line_is_bounded(tmp_path: Path) -> None:
    """Class paths of 100 KiB exist."""
    proc = fake(tmp_path, stat=STAT.format(pid=7, comm="a", state="S", flags=0, start=5), cmdline="x" * 100_000)
    with open_process(str(proc), 7) as process:
        found = read_facts(process, 7)
    assert found is not None
    assert found[0].cmdline == ("x" * MAX_CMDLINE,)


@pytest.mark.parametrize(
    "stat", ["", "7", "7 (a", "7 (a) S 1", STAT.format(pid=7, comm="a", state="Z", flags=0, start=5)]
)
def test_a_process_without_a_state_is_gone(tmp_path: Path, stat: str) -> None:
    """A zombie has nothing left to read, and what is cut off was never a process."""
    proc = fake(tmp_path, stat=stat)
    with open_process(str(proc), 7) as process:
        assert read_facts(process, 7) is None
        assert read_identity(process) is None


def test_a_held_folder_does_not_show_the_next_process() -> None:
    """Once the process is gone its folder is empty, whoever gets its number."""
    with subprocess.Popen(["sleep", "60"]) as process, open_process("/proc", process.pid) as folder:
        assert read_identity(folder) is not None
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while read_identity(folder) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert read_facts(folder, process.pid) is None


def test_an_identity_without_a_start_is_decided_by_the_executable() -> None:
    """A forked process was never looked at: it runs its parent's program, or it is another one."""
    now = Identity(start=9, executable=(8, 1, 42))
    assert Identity(start=0, executable=(8, 1, 42)).is_now(now)
    assert not Identity(start=0, executable=(8, 1, 43)).is_now(now)
    assert not Identity(start=8, executable=(8, 1, 42)).is_now(now)
    assert now.is_now(now)
