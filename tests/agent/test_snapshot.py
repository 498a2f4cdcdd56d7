"""Addresses in real processes: build ID and file offset agree with readelf and nm."""

import mmap
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.builds import Builds
from agent.snapshot import Snapshot, Snapshots
from fleetflame.buildid import from_file_ends
from fleetflame.model import FrameMiss, Mapping, MappingKind
from tests.agent.live import LIBRARY, Live, build, proc_folder, readelf_build_id, run, symbol_offset

FLAGS = {
    "pie": ("-pie", "-fPIE"),
    "non_pie": ("-no-pie",),
    "one_segment": ("-pie", "-fPIE", "-Wl,-z,noseparate-code"),
    "prelinked": ("-no-pie", "-Wl,-Ttext-segment=0x33000000"),
    "several_executable_segments": ("-no-pie", "-Wl,--section-start=.other_text=0x20000000"),
    "short_build_id": ("-pie", "-fPIE", "-Wl,--build-id=0x0123456789abcdef"),
    "small_pages": ("-no-pie", "-Wl,-z,max-page-size=4096"),
    "large_pages": ("-pie", "-fPIE", "-Wl,-z,max-page-size=0x200000"),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where programs are compiled."""
    with tempfile.TemporaryDirectory(prefix="fleetflame-test-") as name:
        yield Path(name)


def look(live: Live, former: Snapshot | None = None) -> Snapshot:
    with proc_folder(live.pid) as process:
        snapshot = Snapshots(Builds()).read(process, live.pid, former=former)
    assert snapshot is not None
    return snapshot


def resolve(snapshot: Snapshot, address: int) -> tuple[Mapping | None, int]:
    target, within = snapshot.table.resolve(np.array([address], np.uint64))
    return (None if target[0] < 0 else snapshot.table.targets[target[0]]), int(within[0])


def assert_in_file(found: tuple[Mapping | None, int], path: Path, symbol: str) -> None:
    mapping, offset = found
    assert mapping is not None
    assert mapping.kind is MappingKind.FILE
    assert str(mapping.build_id) == readelf_build_id(path)
    assert offset == symbol_offset(path, symbol)
    assert any(segment.offset <= offset < segment.offset + segment.size for segment in mapping.segments)


@pytest.mark.parametrize("kind", FLAGS)
def test_functions_of_a_program_are_found(folder: Path, kind: str) -> None:
    """However the program is linked, and in libc, which it has mapped."""
    path = build(folder, kind, *FLAGS[kind])
    with run([path]) as live:
        snapshot = look(live)
        for symbol in ("main", "marker", "elsewhere"):
            assert_in_file(resolve(snapshot, live.said[symbol]), path, symbol)
        mapping, _ = resolve(snapshot, live.said["main"])
        assert mapping is not None
        assert mapping.path == str(path)
        libc, _offset = resolve(snapshot, live.said["puts"])
        assert libc is not None
        assert_in_file(resolve(snapshot, live.said["puts"]), Path(libc.path), "puts")
        assert snapshot.whole
        assert resolve(snapshot, 0x1000) == (None, 0)


def test_a_program_without_a_build_id_is_known_by_its_ends(folder: Path) -> None:
    """Its identity is the hash of its first and last 4 KiB and its size."""
    path = build(folder, "no_build_id", "-pie", "-fPIE", "-Wl,--build-id=none")
    data = path.read_bytes()
    with run([path]) as live:
        mapping, offset = resolve(look(live), live.said["marker"])
    assert mapping is not None
    assert mapping.build_id == from_file_ends(data[:4096], data[-4096:], len(data))
    assert offset == symbol_offset(path, "marker")


def test_a_deleted_program_is_found(folder: Path) -> None:
    """Unlinked while it runs, with another file under its name."""
    path = build(folder, "deleted")
    shutil.copy(path, folder / "kept")
    with run([path]) as live:
        path.unlink()
        path.write_bytes(b"not the same")
        snapshot = look(live)
    assert_in_file(resolve(snapshot, live.said["marker"]), folder / "kept", "marker")
    mapping, _ = resolve(snapshot, live.said["marker"])
    assert mapping is not None
    assert mapping.path == str(path)


def test_a_program_in_a_memfd_is_found(folder: Path) -> None:
    """It has no path in any file system."""
    path = build(folder, "in_memory")
    fd = os.memfd_create("in memory", 0)
    os.write(fd, path.read_bytes())
    with run([f"/proc/self/fd/{fd}"], pass_fds=[fd]) as live:
        os.close(fd)
        snapshot = look(live)
    assert_in_file(resolve(snapshot, live.said["marker"]), path, "marker")
    mapping, _ = resolve(snapshot, live.said["marker"])
    assert mapping is not None
    assert mapping.path == "/memfd:in memory"


@pytest.mark.parametrize("base", ["0", "0x41000000"], ids=["at_0", "prelinked"])
def test_a_library_that_is_loaded_later_is_found(folder: Path, base: str) -> None:
    """An address that an earlier snapshot does not have is in a later one."""
    program = build(folder, "loader")
    library = build(folder, f"late{base}.so", "-shared", "-fPIC", f"-Wl,-Ttext-segment={base}", source=LIBRARY)
    with run([program]) as live:
        before = look(live)
        address = live.tell(f"load {library}")["marker"]
        after = look(live, former=before)
    assert resolve(before, address) == (None, 0)
    assert_in_file(resolve(after, address), library, "marker")


@pytest.mark.parametrize("kind", ["pie", "non_pie", "large_pages"])
def test_text_that_was_copied_to_anonymous_memory_is_attributed(folder: Path, kind: str) -> None:
    """As programs do that put their text on huge pages: the region has no file, but the file's headers prove it."""
    path = build(folder, f"copied_{kind}", *FLAGS[kind])
    with run([path]) as live:
        assert live.tell("copy") == {"sum": 8}
        with proc_folder(live.pid) as process:
            maps = Path(f"/proc/self/fd/{process}/maps").read_text()
        assert re.search(rf"^0*{live.said['marker']:x}-\w+ r-xp 00000000 00:00 0", maps, re.MULTILINE)
        snapshot = look(live)
    for symbol in ("main", "marker"):
        assert_in_file(resolve(snapshot, live.said[symbol]), path, symbol)


def test_generated_code_is_anonymous(folder: Path) -> None:
    """Memory that no file can be proven to be behind is a placeholder."""
    with run([build(folder, "generating")]) as live:
        address = live.tell("jit")["jit"]
        mapping, miss = resolve(look(live), address)
    assert mapping == Mapping(MappingKind.MISS)
    assert miss == FrameMiss.ANONYMOUS


def test_the_vdso_has_a_build_id(folder: Path) -> None:
    """The one that readelf finds in the image of our own."""
    with run([build(folder, "vdso")]) as live:
        mapping, offset = resolve(look(live), live.said["vdso"])
    image = folder / "vdso.so"
    image.write_bytes(_own_vdso())
    assert mapping is not None
    assert (mapping.kind, offset, mapping.path) == (MappingKind.VDSO, 0x100, "[vdso]")
    assert str(mapping.build_id) == readelf_build_id(image)


def test_an_unchanged_process_keeps_its_table(folder: Path) -> None:
    """Nothing is opened for a process whose regions are the same."""
    with run([build(folder, "unchanged")]) as live:
        first = look(live)
        assert look(live, former=first).table is first.table


def test_a_process_without_memory_has_no_snapshot() -> None:
    """A zombie's maps are empty."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with proc_folder(process.pid) as fd:
            assert Snapshots(Builds()).read(fd, process.pid) is None


def test_a_memfd_that_is_no_program_holds_generated_code() -> None:
    """A JIT that maps its buffer twice makes one; its bytes are nobody's build."""
    fd = os.memfd_create("doublemapper", 0)
    os.ftruncate(fd, 8192)
    with mmap.mmap(fd, 8192, prot=mmap.PROT_READ | mmap.PROT_EXEC), proc_folder(os.getpid()) as process:
        snapshot = Snapshots(Builds()).read(process, os.getpid())
        line = re.search(r"^(\w+)-\w+ r-xs .*doublemapper", Path("/proc/self/maps").read_text(), re.MULTILINE)
    os.close(fd)
    assert snapshot is not None
    assert line is not None
    assert resolve(snapshot, int(line[1], 16)) == (Mapping(MappingKind.MISS), FrameMiss.ANONYMOUS)


def _own_vdso() -> bytes:
    line = re.search(r"^(\w+)-(\w+) .*\[vdso\]$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    assert line is not None
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        memory.seek(int(line[1], 16))
        return memory.read(int(line[2], 16) - int(line[1], 16))
