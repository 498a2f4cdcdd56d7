"""Files that a process has mapped, opened as if it had arranged them to hurt us.

A folder with `root`, `exe`, `map_files` and `mountinfo` in it stands for a proc folder: what is tested is how things
are opened below it, and that needs no privilege.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.openat import OpenMiss, ProcessFiles, file_reader, open_on_host, parse_mounts, status_of
from agent.procmaps import Region

CONTENT = b"what was mapped"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[Path, ProcessFiles]]:
    """(what stands for a proc folder, its files)."""
    for name in ("root/lib", "map_files"):
        (tmp_path / name).mkdir(parents=True)
    fd = os.open(tmp_path, os.O_PATH)
    with ProcessFiles(fd) as files:
        yield tmp_path, files
    os.close(fd)


def region(path: bytes, *, file: Path | None = None, deleted: bool = False) -> Region:
    device, inode = (0, 0), 1
    if file is not None:
        about = file.stat()
        device, inode = (os.major(about.st_dev), os.minor(about.st_dev)), about.st_ino
    return Region(0x1000, 0x2000, 0, device, inode, path, deleted, True)


def content(opened: int | OpenMiss) -> bytes | OpenMiss:
    if isinstance(opened, OpenMiss):
        return opened
    try:
        return os.pread(opened, 100, 0)
    finally:
        os.close(opened)


def test_a_file_is_found_in_the_processs_root(process: tuple[Path, ProcessFiles]) -> None:
    """The path in maps counts from the process's root, whatever our own root has there."""
    folder, files = process
    (folder / "root/lib/a.so").write_bytes(CONTENT)
    assert content(files.open_region(region(b"/lib/a.so", file=folder / "root/lib/a.so"))) == CONTENT


def test_other_device_and_inode_numbers_do_not_matter(process: tuple[Path, ProcessFiles]) -> None:
    """On an overlay, what stat says differs from what maps show."""
    folder, files = process
    (folder / "root/lib/a.so").write_bytes(CONTENT)
    assert content(files.open_region(region(b"/lib/a.so"))) == CONTENT


def test_the_exact_link_comes_first(process: tuple[Path, ProcessFiles]) -> None:
    """What map_files leads to is the file itself, also where its path has another one by now."""
    folder, files = process
    (folder / "root/lib/a.so").write_bytes(b"a newer one")
    (folder / "old").write_bytes(CONTENT)
    (folder / "map_files/1000-2000").symlink_to(folder / "old")
    assert content(files.open_region(region(b"/lib/a.so"))) == CONTENT


def test_a_file_of_before_a_jail_is_found_in_our_root(process: tuple[Path, ProcessFiles]) -> None:
    """A daemon that went into a jail has libraries from outside; the jail's own of that name is not taken for them."""
    folder, files = process
    outside = folder / "outside.so"
    outside.write_bytes(CONTENT)
    inside = folder / "root" / str(outside).lstrip("/")
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"the jail's own")
    assert content(files.open_region(region(os.fsencode(outside), file=outside))) == CONTENT


def test_a_deleted_file_is_found_only_as_the_executable(process: tuple[Path, ProcessFiles]) -> None:
    """Whatever has the path of a deleted file now is another file."""
    folder, files = process
    (folder / "root/lib/a").write_bytes(b"a newer one")
    (folder / "kept").write_bytes(CONTENT)
    (folder / "exe").symlink_to(folder / "kept")
    assert content(files.open_region(region(b"/lib/a", file=folder / "kept", deleted=True))) == CONTENT
    assert content(files.open_region(region(b"/lib/a", deleted=True))) is OpenMiss.ABSENT


def test_links_do_not_lead_out_of_the_root(process: tuple[Path, ProcessFiles]) -> None:
    """Absolute and upward links end within the process's root, and the last one is not followed at all."""
    folder, files = process
    (folder / "secret").write_bytes(b"not theirs")
    (folder / "root/up").symlink_to("../../../..")
    (folder / "root/absolute").symlink_to(folder)
    (folder / "root/last").symlink_to("lib/a.so")
    (folder / "root/lib/a.so").write_bytes(CONTENT)
    for path in (b"/up/secret", b"/absolute/secret", b"/last"):
        assert content(files.open_path(path)) is OpenMiss.ABSENT
    (folder / "root/inner").symlink_to("/lib")
    assert content(files.open_path(b"/inner/a.so")) == CONTENT


def test_links_of_proc_are_not_followed() -> None:
    """`/proc/self/root` and its like lead anywhere; a path through one is refused."""
    assert content(open_on_host(b"/proc/self/root/etc/passwd")) is OpenMiss.ABSENT
    assert isinstance(content(open_on_host(b"/etc/passwd")), bytes)


def test_a_fifo_does_not_block(process: tuple[Path, ProcessFiles]) -> None:
    """Opening it for reading would wait for a writer, or wake one up."""
    folder, files = process
    os.mkfifo(folder / "root/lib/pipe")
    assert files.open_path(b"/lib/pipe") is OpenMiss.NOT_REGULAR
    (folder / "map_files/1000-2000").symlink_to(folder / "root/lib/pipe")
    assert files.open_region(region(b"/lib/pipe")) is OpenMiss.NOT_REGULAR


def test_devices_and_folders_are_not_opened(process: tuple[Path, ProcessFiles]) -> None:
    """Opening a device can do something; only regular files are code."""
    folder, files = process
    assert files.open_path(b"/lib") is OpenMiss.NOT_REGULAR
    (folder / "map_files/1000-2000").symlink_to("/dev/null")
    assert files.open_region(region(b"/dev/null")) is OpenMiss.NOT_REGULAR


def test_a_memfd_is_opened(process: tuple[Path, ProcessFiles]) -> None:
    """It lies on a mount of the kernel's own that no mountinfo lists."""
    folder, files = process
    fd = os.memfd_create("code")
    os.write(fd, CONTENT)
    (folder / "map_files/1000-2000").symlink_to(f"/proc/self/fd/{fd}")
    assert content(files.open_region(region(b"/memfd:code", deleted=True))) == CONTENT
    os.close(fd)


def test_fuse_and_unlisted_mounts_are_refused(
    process: tuple[Path, ProcessFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system in user space may never answer; a mount that is not listed may be one that was detached."""
    folder, files = process
    mount = _mount_without_device()
    (folder / "mountinfo").write_text(f"{mount} 1 0:50 / /mnt rw - fuse.sshfs sshfs rw\n")
    (folder / "map_files/1000-2000").symlink_to("/proc/version")
    assert files.open_region(region(b"/mnt/a")) is OpenMiss.USER_FILE_SYSTEM


def test_other_file_systems_without_a_device_are_allowed(process: tuple[Path, ProcessFiles]) -> None:
    """Overlays, tmpfs and the like have no device either."""
    folder, files = process
    (folder / "mountinfo").write_text(f"{_mount_without_device()} 1 0:50 / /mnt rw - overlay overlay rw\n")
    (folder / "map_files/1000-2000").symlink_to("/proc/version")
    assert isinstance(content(files.open_region(region(b"/mnt/a"))), bytes)


def test_a_process_that_is_gone_is_a_miss(tmp_path: Path) -> None:
    """No link, no root: nothing to open, and no exception."""
    fd = os.open(tmp_path, os.O_PATH)
    with ProcessFiles(fd) as files:
        assert files.open_region(region(b"/bin/a")) in (OpenMiss.ABSENT, OpenMiss.DENIED)
        assert files.open_executable() is OpenMiss.ABSENT
    os.close(fd)


def test_reading_beyond_any_file_gives_nothing(tmp_path: Path) -> None:
    """Offsets out of a header may be any 64-bit number."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    fd = os.open(path, os.O_RDONLY)
    read_at = file_reader(fd)
    assert read_at((1 << 64) - 1, 10) == read_at((1 << 63) - 5, 10) == read_at(1 << 40, 10) == read_at(0, 0) == b""
    assert read_at((1 << 40) - 4, 10) == bytes(4)
    os.close(fd)


def test_mounts_are_parsed() -> None:
    """The type stands after the dash, behind any number of optional fields."""
    text = (
        b"22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        b"90 1 0:44 / /a\\040-\\040b rw shared:1 master:2 - fuse.sshfs x rw\n"
        b"nonsense\n\n - \n"
    )
    assert parse_mounts(text) == {22: b"proc", 90: b"fuse.sshfs"}


def test_a_file_number_survives_renaming(process: tuple[Path, ProcessFiles]) -> None:
    """It tells executables apart when their paths change."""
    folder, _files = process
    (folder / "a").write_bytes(CONTENT)
    (folder / "exe").symlink_to(folder / "a")
    fd = os.open(folder, os.O_PATH)
    before = status_of(fd, "exe")
    (folder / "a").rename(folder / "b")
    assert status_of(fd, "exe") is None
    assert before is not None
    (folder / "exe").unlink()
    (folder / "exe").symlink_to(folder / "b")
    after = status_of(fd, "exe")
    assert after is not None
    assert after.number == before.number
    os.close(fd)


def test_a_status_is_what_stat_says(tmp_path: Path) -> None:
    """Size, numbers and times, read in another way."""
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    about = path.stat()
    fd = os.open(path, os.O_RDONLY)
    status = status_of(fd)
    os.close(fd)
    assert status is not None
    assert (status.mode, status.size) == (about.st_mode, len(CONTENT))
    assert status.number == (os.major(about.st_dev), os.minor(about.st_dev), about.st_ino)
    assert status.changed == (about.st_ctime_ns, about.st_mtime_ns)


def test_no_descriptor_is_left_open(process: tuple[Path, ProcessFiles]) -> None:
    """However an attempt ends, only what was returned is open after it."""
    folder, files = process
    (folder / "root/lib/a.so").write_bytes(CONTENT)
    content(files.open_region(region(b"/lib/a.so")))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (b"/lib/a.so", b"/lib", b"/none", b"/etc/passwd"):
        for deleted in (False, True):
            content(files.open_region(region(path, deleted=deleted)))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def _mount_without_device() -> int:
    """The mount that /proc is on here."""
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_bytes())
    fd = os.open("/proc/version", os.O_PATH)
    try:
        fields = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    finally:
        os.close(fd)
    number = int(fields["mnt_id"])
    assert mounts[number] == b"proc"
    return number
