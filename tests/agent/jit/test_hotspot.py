"""Who may be sent SIGQUIT: HotSpot JVMs that expect it, and nobody else."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.facts import read_identity
from agent.jit import attach
from agent.jit.attach import Answer, ask_for_map
from agent.jit.hotspot import Doubt, can_attach
from agent.openat import read_all
from tests.agent.jit.programs import JAVA, running
from tests.agent.live import proc_folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled program."""
    folder = tmp_path_factory.mktemp("classes")
    (folder / "Hot.java").write_text(JAVA)
    subprocess.run(["javac", "Hot.java"], cwd=folder, check=True)
    return folder


def java(*options: str) -> list[str]:
    return ["java", "-Xshare:auto", *options, "Hot", "30"]


def ask(pid: int) -> Answer | Doubt:
    with proc_folder(pid) as process:
        identity = read_identity(process)
        assert identity
        return ask_for_map(process, identity, pid)


def map_of(pid: int) -> str:
    return Path(f"/tmp/perf-{pid}.map").read_text()


def test_a_jvm_writes_its_map_and_does_so_again(classes: Path) -> None:
    """First by a signal, then through the socket that is there; nothing of ours is left behind."""
    with running(java(), classes) as pid:
        assert ask(pid) is Answer.WRITTEN
        assert re.search(r"^0x[0-9a-f]+ 0x[0-9a-f]+ int Hot\.fib\(int\)$", map_of(pid), re.MULTILINE)
        Path(f"/tmp/perf-{pid}.map").unlink()
        assert ask(pid) is Answer.WRITTEN
        assert "Hot.fib" in map_of(pid)
        assert not Path(f"/tmp/.attach_pid{pid}").exists()


@pytest.mark.parametrize(
    ("options", "doubt"),
    [
        (["-XX:+DisableAttachMechanism"], Doubt.DISABLED),
        (["-XX:+DisableAttachMechanism", "-XX:-UsePerfData"], Doubt.DISABLED),
        (["-Xrs"], Doubt.NO_HANDLER),
    ],
)
def test_a_jvm_that_does_not_want_it_is_left_alone(classes: Path, options: list[str], doubt: Doubt) -> None:
    """No signal is sent: it would print its threads, or end."""
    with subprocess.Popen(java(*options), cwd=classes, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        answer = ask(process.pid)
        process.terminate()
        rest = process.stdout.read()
    assert answer is doubt
    assert "thread dump" not in rest
    assert not Path(f"/tmp/perf-{process.pid}.map").exists()


def test_a_jvm_without_performance_data_is_judged_by_its_options(classes: Path) -> None:
    """They say that nothing speaks against it; options in a file nobody has seen do."""
    with running(java("-XX:-UsePerfData"), classes) as pid:
        assert ask(pid) is Answer.WRITTEN
    (classes / "options").write_text("-XX:-UsePerfData\n")
    with running(["java", "@options", "Hot", "30"], classes) as pid:
        assert ask(pid) is Doubt.UNCERTAIN


def test_a_program_that_is_no_jvm_lives_on() -> None:
    """SIGQUIT would be its end."""
    with subprocess.Popen(["sleep", "30"]) as process:
        try:
            assert ask(process.pid) is Doubt.NOT_HOTSPOT
            time.sleep(0.1)
            assert process.poll() is None
        finally:
            process.kill()


def test_a_map_that_would_be_written_elsewhere_is_not_asked_for(classes: Path, tmp_path: Path) -> None:
    """Whoever puts a link in its place wants the JVM to write where it leads."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with running(java(), classes) as pid:
        Path(f"/tmp/perf-{pid}.map").symlink_to(victim)
        assert ask(pid) is Answer.UNSAFE
    assert victim.read_text() == "precious"


def test_a_socket_of_somebody_else_is_told_nothing(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process itself has to answer."""
    with running(java(), classes) as pid, running(java(), classes) as other:
        assert ask(other) is Answer.WRITTEN
        Path(f"/tmp/.java_pid{pid}").symlink_to(f".java_pid{other}")
        monkeypatch.setattr(attach, "SOCKET_WAIT_S", 0.3)
        try:
            assert ask(pid) in (Answer.NO_SOCKET, Answer.WRITTEN)  # HotSpot puts its own in the link's place
        finally:
            Path(f"/tmp/.java_pid{pid}").unlink(missing_ok=True)
        os.link(f"/tmp/.java_pid{other}", f"/tmp/.java_pid{pid}")
        try:
            assert ask(pid) is Answer.STRANGER
        finally:
            Path(f"/tmp/.java_pid{pid}").unlink(missing_ok=True)


def test_a_real_jvm_says_that_it_can_be_attached_to(classes: Path) -> None:
    """In its hsperfdata; cut anywhere, that says nothing."""
    with running(java(), classes) as pid, proc_folder(pid) as process:
        path = re.search(rb"/\S*/hsperfdata_\w+/\d+", read_all(process, "maps"))
        assert path
        data = Path(os.fsdecode(path[0])).read_bytes()
    assert can_attach(data) is True
    at = data.index(b"sun.rt.jvmCapabilities")
    assert can_attach(data[:at]) is None
    assert can_attach(data[:at] + data[at:].replace(b"\x001100", b"\x000100", 1)) in (True, False)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: bytes.fromhex("cafec0c001020001") + tail))
def test_any_performance_data_is_harmless(data: bytes) -> None:
    """It is of the process's own making."""
    assert can_attach(data) in (True, False, None)


@pytest.mark.skipif(os.getuid() != 0, reason="runs a JVM as somebody else")
def test_a_jvm_of_another_user_is_asked_as_that_user(classes: Path) -> None:
    """The wish is written with its rights and belongs to it; ours are as before afterwards."""
    for folder in (classes, *classes.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *java()]
    with running(argv, classes) as pid:
        assert ask(pid) is Answer.WRITTEN
        assert Path(f"/tmp/perf-{pid}.map").stat().st_uid == 65534
    assert (os.geteuid(), os.access("/etc/shadow", os.R_OK)) == (0, True)
    probe = classes / "ours"
    probe.touch()
    assert probe.stat().st_uid == 0


@pytest.mark.skipif(os.getuid() != 0, reason="makes namespaces")
def test_a_jvm_in_a_container_is_asked_in_its_own_tmp(classes: Path) -> None:
    """By the PID that it has there."""
    inside = f"mount -t tmpfs none /tmp && exec java -cp {classes} Hot 30"
    if str(classes).startswith("/tmp/"):
        inside = f"mount --bind {classes} /mnt && {inside.replace(str(classes), '/mnt')}"
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside]
    with running(argv, Path("/")) as outer:
        (pid,) = map(int, Path(f"/proc/{outer}/task/{outer}/children").read_text().split())
        assert ask(pid) is Answer.WRITTEN
        written = Path(f"/proc/{pid}/root/tmp/perf-1.map").read_text()
    assert "Hot.fib" in written
    assert not Path(f"/tmp/perf-{pid}.map").exists()
