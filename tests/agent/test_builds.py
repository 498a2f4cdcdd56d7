"""Files by content, builds by ID."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.builds import Builds, LendMiss, Place
from fleetflame.buildid import BuildId, from_file_ends
from fleetflame.model import Mapping, MappingKind
from tests.support.elf import PT_NOTE, ElfWriter, Sec, Seg, gnu_note

ID = bytes(range(1, 21))


def elf(build_id: bytes | None = ID, *, padding: int = 0) -> bytes:
    """A file whose build ID stands in a note segment."""
    note = gnu_note(build_id) if build_id else b""
    segments = [
        Seg(type=PT_NOTE, flags=4, offset=64 + 2 * 56, filesz=len(note)),
        Seg(flags=5, offset=0, vaddr=0x400000, filesz=300),
    ]
    return bytes(ElfWriter(sections=[Sec(name=".note", data=note, align=1)], segments=segments)) + bytes(padding)


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Path]:
    """A proc folder with the process 7, which has its root in `root`."""
    (tmp_path / "proc/7/root/bin").mkdir(parents=True)
    yield tmp_path / "proc"


def examine(builds: Builds, path: Path) -> BuildId:
    fd = os.open(path, os.O_RDONLY)
    try:
        return builds.examine(fd).build_id
    finally:
        os.close(fd)


def see(builds: Builds, path: Path, place: Place) -> Mapping:
    fd = os.open(path, os.O_RDONLY)
    try:
        return builds.mapping(builds.examine(fd), place)
    finally:
        os.close(fd)


def test_a_file_is_read_once(tmp_path: Path) -> None:
    """The same file gives the same object; a changed one is read again."""
    builds, path = Builds(), tmp_path / "a"
    path.write_bytes(elf())
    fd = os.open(path, os.O_RDONLY)
    first = builds.examine(fd)
    assert builds.examine(fd) is first
    path.write_bytes(elf(b"\1" * 20, padding=1))
    assert builds.examine(fd).build_id == BuildId(b"\1" * 20)
    os.close(fd)


def test_a_file_without_a_note_is_known_by_its_ends(tmp_path: Path) -> None:
    """Also one that is no ELF file, and one shorter than its ends."""
    for number, data in enumerate([elf(None, padding=20000), b"#!/bin/sh\n", os.urandom(9000)]):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert examine(Builds(), path) == from_file_ends(data[:4096], data[-4096:], len(data))


def test_a_huge_sparse_file_costs_nothing(tmp_path: Path) -> None:
    """Only its ends are read."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    assert examine(Builds(), path) == from_file_ends(bytes(4096), bytes(4096), 1 << 42)


def test_what_cannot_be_read_has_no_identity(tmp_path: Path) -> None:
    """An error is no content: two unreadable files are not one build."""
    path = tmp_path / "a"
    path.write_bytes(elf())
    fd = os.open(path, os.O_WRONLY)
    with pytest.raises(OSError):
        Builds().examine(fd)
    os.close(fd)


def test_one_build_has_one_mapping(tmp_path: Path) -> None:
    """Wherever its file lies, the mapping is the same object, with the path that was seen first."""
    builds = Builds()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(elf())
    first = see(builds, tmp_path / "a", Place(1, "exe", b"/bin/a"))
    assert see(builds, tmp_path / "b", Place(2, "exe", b"/bin/b")) is first
    assert (first.kind, first.build_id, first.path) == (MappingKind.FILE, BuildId(ID), "/bin/a")
    assert [segment.vaddr for segment in first.segments] == [0x400000]


@pytest.mark.parametrize("length", [8, 16, 20])
def test_the_kernels_build_ids_find_their_file(tmp_path: Path, length: int) -> None:
    """The kernel fills shorter IDs up with zeroes."""
    builds, path = Builds(), tmp_path / "a"
    path.write_bytes(elf(ID[:length]))
    seen = see(builds, path, Place(1, "exe", b"/bin/a"))
    assert builds.resolved_by_kernel(ID[:length].ljust(20, b"\0")) is seen


@pytest.mark.parametrize("length", [8, 16, 20])
def test_the_kernels_build_ids_stand_without_a_file(length: int) -> None:
    """A build that nobody saw has its ID, and neither path nor segments."""
    found = Builds().resolved_by_kernel(ID[:length].ljust(20, b"\0"))
    assert found == Mapping(MappingKind.FILE, BuildId(ID[:length]))


def test_an_id_that_ends_in_a_zero_is_whole() -> None:
    """One in 256 IDs does."""
    build_id = ID[:19] + b"\0"
    assert Builds().resolved_by_kernel(build_id).build_id == BuildId(build_id)


def test_tables_are_bounded(tmp_path: Path) -> None:
    """What was not used for longest is forgotten, in both tables."""
    builds = Builds(max_files=3, max_builds=2)
    for number in range(1, 6):
        path = tmp_path / str(number)
        path.write_bytes(elf(bytes([number]) * 20))
        see(builds, path, Place(1, "exe", b"/" + path.name.encode()))
    assert builds.resolved_by_kernel(b"\5" * 20).path == "/5"
    assert builds.resolved_by_kernel(b"\1" * 20).path == ""
    assert builds.open_for_lending(BuildId(b"\1" * 20)) is LendMiss.UNKNOWN_BUILD


def test_a_build_is_lent_from_a_process_that_has_it(proc: Path) -> None:
    """Through the process's own root."""
    builds, path = Builds(proc=str(proc)), proc / "7/root/bin/a"
    path.write_bytes(elf())
    see(builds, path, Place(7, "exe", b"/bin/a"))
    fd = builds.open_for_lending(BuildId(ID))
    assert isinstance(fd, int)
    assert os.pread(fd, 10_000, 0) == elf()
    os.close(fd)


def test_what_is_lent_is_examined_first(proc: Path) -> None:
    """A file that took the place of the one that was seen is not lent under its ID."""
    builds, path = Builds(proc=str(proc)), proc / "7/root/bin/a"
    path.write_bytes(elf())
    see(builds, path, Place(7, "exe", b"/bin/a"))
    path.write_bytes(elf(b"\2" * 20, padding=3))
    assert builds.open_for_lending(BuildId(ID)) is LendMiss.OTHER_BUILD
    path.unlink()
    assert builds.open_for_lending(BuildId(ID)) is LendMiss.GONE


def test_what_cannot_be_read_any_more_is_not_lent(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of the profiled user's own answers once and then no more: a miss that leaves nothing open."""
    builds, path = Builds(proc=str(proc)), proc / "7/root/bin/a"
    path.write_bytes(elf())
    see(builds, path, Place(7, "exe", b"/bin/a"))
    path.write_bytes(elf(padding=3))
    monkeypatch.setattr("agent.builds.file_reader", lambda _fd: lambda _offset, _length: b"")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert builds.open_for_lending(BuildId(ID)) is LendMiss.GONE
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_build_that_is_on_the_host_is_lent_though_nobody_runs_it(tmp_path: Path) -> None:
    """The asker's path is tried, and must have that build."""
    path = tmp_path / "a"
    path.write_bytes(elf())
    fd = Builds().open_for_lending(BuildId(ID), str(path))
    assert isinstance(fd, int)
    os.close(fd)
    assert Builds().open_for_lending(BuildId(b"\2" * 20), str(path)) is LendMiss.OTHER_BUILD
    assert Builds().open_for_lending(BuildId(ID), "/etc/shadow") in (LendMiss.OTHER_BUILD, LendMiss.UNKNOWN_BUILD)
