"""Opens the files that a process has mapped, as if the process had arranged everything about them to hurt us.

What it may arrange, and what stands against it:

- symbolic links out of its root, `/proc` links: `openat2` with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, O_NOFOLLOW;
- FIFOs and devices, whose opening blocks or acts: everything is opened with O_PATH first, which neither blocks nor
  acts, and opened for reading only once it turned out to be a regular file;
- FUSE, where every look-up ends in a program of theirs that may never answer: files on it are refused. The mount is
  found out without asking the file system (AT_STATX_DONT_SYNC). What the walk along a path meets cannot be checked
  before, so the exact link in `map_files` is tried first, which walks no path;
- huge and sparse files: nothing here reads; readers are bounded by constants of their own.

`/proc/PID/map_files` is exact (deleted files, overlays, memfd) but wants CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN;
without, the path is looked up in the process's root, then, for deleted executables, `/proc/PID/exe`.
"""

import ctypes
import os
import stat
import struct
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from agent.elf import ReadAt
from agent.procmaps import Region

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_SYS_OPENAT2 = 437  # the same on every architecture, as all since 424
_SYS_STATX = {"x86_64": 332, "aarch64": 291}
_AT_STATX_DONT_SYNC, _AT_EMPTY_PATH = 0x4000, 0x1000
_STATX_BASIC_STATS, _STATX_BTIME, _STATX_MNT_ID = 0x7FF, 0x800, 0x1000
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x02, 0x04, 0x10

_PATH_ONLY = os.O_PATH | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_HEAD = 4096
_MAX_MOUNTS = 4 * 1024 * 1024
"""Bytes read of a mountinfo file. 100,000 mounts in a namespace is the kernel's limit; what lies beyond is refused."""


class OpenMiss(StrEnum):
    """Why a mapped file cannot be read."""

    ABSENT = "absent"
    DENIED = "denied"
    NOT_REGULAR = "not_regular"
    USER_FILE_SYSTEM = "user_file_system"


class ProcessFiles:
    """The files of one process, which `process` is the open proc folder of. A context manager; not for two threads."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._root = -1
        self._mounts: dict[int, bytes] | None = None

    def __enter__(self) -> "ProcessFiles":
        return self

    def __exit__(self, *_: object) -> None:
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def open_executable(self) -> int | OpenMiss:
        """A descriptor for reading the executable, wherever it is now."""
        return self.open_link("exe")

    def open_link(self, name: str) -> int | OpenMiss:
        """A descriptor for reading what one of the kernel's own links in the proc folder leads to."""
        try:
            fd = os.open(name, _PATH_ONLY, dir_fd=self._process)
        except PermissionError:
            return OpenMiss.DENIED
        except OSError:
            return OpenMiss.ABSENT
        return self._readable(fd)

    def open_path(self, path: bytes) -> int | OpenMiss:
        """A descriptor for reading the file at `path` in the process's root."""
        return self._open_in(self._root_folder(), path)

    def open_folder(self, name: bytes) -> int | OpenMiss:
        """A descriptor that names the folder `name` of the process's root. Neither it nor the root is on FUSE, and it
        is no link, so that nothing below it can make us wait before it is known what it is."""
        root = self._root_folder()
        if root < 0:
            return OpenMiss.DENIED
        try:
            if self._is_user_file_system(root):
                return OpenMiss.USER_FILE_SYSTEM
            folder = _openat2(root, name, _PATH_ONLY | os.O_DIRECTORY, _RESOLVE_IN_ROOT | _RESOLVE_NO_SYMLINKS)
        except PermissionError:
            return OpenMiss.DENIED
        except OSError:
            return OpenMiss.ABSENT
        if self._is_user_file_system(folder):
            os.close(folder)
            return OpenMiss.USER_FILE_SYSTEM
        return folder

    def open_inside(self, folder: int, name: bytes) -> int | OpenMiss:
        """A descriptor for reading the file `name`, which is no path, in an open folder."""
        try:
            return self._readable(os.open(name, _PATH_ONLY | os.O_NOFOLLOW, dir_fd=folder))
        except PermissionError:
            return OpenMiss.DENIED
        except OSError:
            return OpenMiss.ABSENT

    def open_region(self, region: Region) -> int | OpenMiss:
        """A descriptor for reading the file that `region` shows: exactly that one, or the one that has its path.

        Device and inode number are no criterion, since an overlay's differ from those that maps show; they only decide
        which of several candidates is taken.
        """
        found = self.open_link(link_of(region))
        if not isinstance(found, OpenMiss) or found in (OpenMiss.NOT_REGULAR, OpenMiss.USER_FILE_SYSTEM):
            return found
        if region.deleted:
            return self._open_deleted(region)
        return self._open_mapped_path(region)

    def _open_deleted(self, region: Region) -> int | OpenMiss:
        found = self.open_executable()
        if isinstance(found, OpenMiss) or _is_file_of(found, region) or self._is_executable(region):
            return found
        os.close(found)
        return OpenMiss.ABSENT

    def _is_executable(self, region: Region) -> bool:
        try:
            return os.fsencode(os.readlink("exe", dir_fd=self._process)) == region.path + b" (deleted)"
        except OSError:
            return False

    def _open_mapped_path(self, region: Region) -> int | OpenMiss:
        """In the process's root; in ours if that is another file: a path in maps is seen from the reader's root, and
        daemons that go into a jail after they were started have the files from before it."""
        inside = self.open_path(region.path)
        if not isinstance(inside, OpenMiss) and _is_file_of(inside, region):
            return inside
        outside = self._open_in(_own_root(), region.path)
        if not isinstance(outside, OpenMiss):
            if _is_file_of(outside, region):
                if not isinstance(inside, OpenMiss):
                    os.close(inside)
                return outside
            os.close(outside)
        return inside

    def _root_folder(self) -> int:
        if self._root < 0:
            try:
                self._root = os.open("root", _PATH_ONLY | os.O_DIRECTORY, dir_fd=self._process)
            except OSError:
                return -1
        return self._root

    def _open_in(self, root: int, path: bytes) -> int | OpenMiss:
        if root < 0:
            return OpenMiss.DENIED
        try:
            return self._readable(_openat2(root, path))
        except PermissionError:
            return OpenMiss.DENIED
        except OSError:
            return OpenMiss.ABSENT

    def _readable(self, fd: int) -> int | OpenMiss:
        """`fd`, which names a file only, as one that reads. Closes it in any case."""
        try:
            about = _statx(fd)
            if stat.S_ISLNK(
                about.mode
            ):  # O_NOFOLLOW with O_PATH opens the link itself; a mapped path never ends in one
                return OpenMiss.ABSENT
            if not stat.S_ISREG(about.mode):
                return OpenMiss.NOT_REGULAR
            if self._is_user_file_system(fd):
                return OpenMiss.USER_FILE_SYSTEM
            return os.open(f"/proc/self/fd/{fd}", _READ)
        except PermissionError:
            return OpenMiss.DENIED
        except OSError:
            return OpenMiss.ABSENT
        finally:
            os.close(fd)

    def _is_user_file_system(self, fd: int) -> bool:
        about = _statx(fd)
        return about.number[0] == 0 and self._may_hang(about.mount)

    def _may_hang(self, mount: int) -> bool:
        """True for FUSE, and for mounts that nobody knows: one that was detached is not listed any more."""
        if self._mounts is None:
            self._mounts = parse_mounts(read_all(self._process, "mountinfo"))
        kind = self._mounts.get(mount)
        if kind is None and mount == _memfd_mount():
            return False
        if kind is None:
            kind = parse_mounts(read_all(os.open("/proc/self", _PATH_ONLY), "mountinfo", close=True)).get(mount)
        return kind is None or kind.startswith(b"fuse")


def link_of(region: Region) -> str:
    """The link to a region's file in its process's proc folder."""
    return f"map_files/{region.start:x}-{region.end:x}"


def open_on_host(path: bytes) -> int | OpenMiss:
    """A descriptor for reading the file at `path` in our own root, with the same care."""
    process = os.open("/proc/self", _PATH_ONLY | os.O_DIRECTORY)
    try:
        with ProcessFiles(process) as files:
            return files.open_path(path)
    finally:
        os.close(process)


def file_reader(fd: int) -> ReadAt:
    """Reads at offsets of `fd`. The first 4 KiB, where an ELF file has nearly everything we want, are read once."""
    head = _pread(fd, 0, _HEAD)

    def read_at(offset: int, length: int) -> bytes:
        if offset + length <= len(head):
            return head[offset : offset + length]
        return _pread(fd, offset, length)

    return read_at


def read_all(folder: int, name: str, *, close: bool = False) -> bytes:
    """A proc file whole, up to 4 MiB; b"" if it cannot be read. Closes the folder's descriptor too if told."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return b""
    finally:
        if close:
            os.close(folder)
    with os.fdopen(fd, "rb") as file:
        try:
            return file.read(_MAX_MOUNTS)
        except OSError:
            return b""


def parse_mounts(text: bytes) -> dict[int, bytes]:
    """Mount ID -> type of file system, of the lines of a mountinfo file.

    22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
    """
    mounts = {}
    for line in text.splitlines():
        before, found, after = line.partition(b" - ")
        number = before.split(b" ", 1)[0]
        if found and number.isdigit():
            mounts[int(number)] = after.split(b" ", 1)[0]
    return mounts


def mount_of(fd: int) -> int:
    """ID of the mount that the file is on. Raises OSError."""
    return _statx(fd).mount


class FileStatus(NamedTuple):
    """What tells a file, and a state of its content, from any other. `number`: device and inode, which nobody else has
    while the file is in use, and which renaming and deletion leave as they are."""

    mode: int
    number: tuple[int, int, int]
    size: int
    changed: tuple[int, int]
    mount: int

    @property
    def content(self) -> tuple[object, ...]:
        """Differs for any two contents: no file can be written to without its ctime moving, or its mtime."""
        return self.number, self.size, self.changed


def birth_of(fd: int) -> int:
    """When the file was made, in Unix ns; 0 where its file system does not know. Raises OSError."""
    return _birth(_statx_raw(fd, b""))


def status_of(folder: int, link: str = "") -> FileStatus | None:
    """The status of what a link in a proc folder leads to (without: of the open file itself), without asking the file
    system, so that none can make us wait. None if it leads nowhere, or may not be followed."""
    try:
        return _statx(folder, link.encode())
    except OSError:
        return None


# statx(2), include/uapi/linux/stat.h: mode 28, ino 32, size 40, ctime 96, mtime 112, dev 136, mnt_id 144 (since 5.8).
_STATX = struct.Struct("<28xH2xQQ48xqI4xqI12xIIQ")


def _statx_raw(folder: int, path: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(256)
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    wanted = _STATX_BASIC_STATS | _STATX_BTIME | _STATX_MNT_ID
    _check(_libc.syscall(_statx_number(), folder, path, flags, wanted, buffer))
    return buffer.raw


def _birth(buffer: bytes) -> int:
    """stx_mask 0, stx_btime 80."""
    (known,) = struct.unpack_from("<I", buffer)
    seconds, nanoseconds = struct.unpack_from("<qI", buffer, 80)
    return seconds * 1_000_000_000 + nanoseconds if known & _STATX_BTIME else 0


def _statx(folder: int, path: bytes = b"") -> FileStatus:
    buffer = _statx_raw(folder, path)
    mode, inode, size, ctime_s, ctime_ns, mtime_s, mtime_ns, major, minor, mount = _STATX.unpack_from(buffer)
    changed = ctime_s * 1_000_000_000 + ctime_ns, mtime_s * 1_000_000_000 + mtime_ns
    return FileStatus(mode, (major, minor, inode), size, changed, mount)


@cache
def _statx_number() -> ctypes.c_long:
    return ctypes.c_long(_SYS_STATX[os.uname().machine])


def _openat2(
    root: int,
    path: bytes,
    flags: int = _PATH_ONLY | os.O_NOFOLLOW,
    resolve: int = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS,
) -> int:
    how = struct.pack("<QQQ", flags, 0, resolve)
    return _check(_libc.syscall(ctypes.c_long(_SYS_OPENAT2), root, path, how, ctypes.c_size_t(len(how))))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _pread(fd: int, offset: int, length: int) -> bytes:
    """SANITY: a 64-bit offset of a hostile header may be beyond what the kernel takes, which is beyond any file."""
    if length <= 0 or offset + length >= 1 << 63:
        return b""
    try:
        return os.pread(fd, length, offset)
    except OSError:
        return b""


def _is_file_of(fd: int, region: Region) -> bool:
    return _statx(fd).number == (*region.device, region.inode)


@cache
def _own_root() -> int:
    return os.open("/", _PATH_ONLY | os.O_DIRECTORY)


@cache
def _memfd_mount() -> int:
    """The kernel's own tmpfs, on which memfds live; no mountinfo lists it."""
    fd = os.memfd_create("fleetflame", os.MFD_CLOEXEC)
    try:
        return mount_of(fd)
    finally:
        os.close(fd)
