"""The builds that this node has seen: what their files are, and where one of them can be opened again.

Facts of a file are kept under what tells one content from another: device, inode, size, and the times of its last
change. So 500 processes with the same libc cost one look at it. Both tables are bounded and forget what was not used
for longest.
"""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from agent import metrics, vdso
from agent.elf import ElfFacts, ReadAt, read_elf
from agent.facts import open_process
from agent.openat import FileStatus, OpenMiss, ProcessFiles, file_reader, open_on_host, status_of
from agent.python.build import PythonBuild, read_build
from agent.window import ID_BYTES
from fleetflame.buildid import HASHED_BYTES, BuildId, from_file_ends
from fleetflame.model import Mapping, MappingKind

MAX_FILES = 2048
MAX_BUILDS = 2048
"""A host with 500 processes maps about 1,000 different files; a file and its build take 1.4 KiB together."""
MAX_PLACES = 4


class LendMiss(StrEnum):
    """Why a build's file cannot be lent. Travels as the reason of a refusal."""

    UNKNOWN_BUILD = "unknown_build"
    GONE = "gone"
    OTHER_BUILD = "other_build"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """One file's content: its build, of a note or of its ends, and its layout; `elf` is None for any other format."""

    build_id: BuildId
    elf: ElfFacts | None
    size: int
    python: PythonBuild | None = None
    """The CPython in it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a build was seen: a process, the link in its proc folder that leads to the file, and the path it had."""

    tgid: int
    link: str
    path: bytes


@dataclass(slots=True)
class _Build:
    mapping: Mapping
    places: tuple[Place, ...] = ()


class Builds:
    """Safe for several threads."""

    def __init__(self, *, proc: str = "/proc", max_files: int = MAX_FILES, max_builds: int = MAX_BUILDS) -> None:
        self._proc = proc
        self._max_files = max_files
        self._max_builds = max_builds
        self._files: OrderedDict[tuple[object, ...], FileFacts] = OrderedDict()
        self._builds: OrderedDict[BuildId, _Build] = OrderedDict()
        self._by_prefix: dict[bytes, BuildId] = {}
        self._lock = threading.Lock()

    def find(self, status: FileStatus | None) -> FileFacts | None:
        """Facts of the file in that state, if it was examined before: nothing needs to be opened then."""
        if status is None:
            return None
        with self._lock:
            known = self._files.get(status.content)
            if known is not None:
                self._files.move_to_end(status.content)
            return known

    def examine(self, fd: int) -> FileFacts:
        """Facts of an open regular file. Raises OSError if it cannot be read."""
        size = os.fstat(fd).st_size  # asks the file system, so that the status below is not an old one
        status = status_of(fd)
        known = self.find(status)
        if known is not None or status is None:
            return known or read_file(fd, size)
        facts = read_file(fd, size)
        with self._lock:
            self._files[status.content] = facts
            if len(self._files) > self._max_files:
                self._files.popitem(last=False)
        return facts

    def mapping(self, facts: FileFacts, place: Place) -> Mapping:
        """The one mapping that stands for this build, and a note of where to find the file."""
        with self._lock:
            build = self._builds.get(facts.build_id)
            if build is None:
                path = place.path.decode("utf-8", "backslashreplace")
                segments = facts.elf.segments if facts.elf else ()
                build = _Build(Mapping(MappingKind.FILE, facts.build_id, path, segments))
                self._add(facts.build_id, build)
            self._builds.move_to_end(facts.build_id)
            if place not in build.places:
                # A deque that forgets by itself would take 0.7 KiB, more than all else of a build.
                build.places = (*build.places, place)[-MAX_PLACES:]
            return build.mapping

    def resolved_by_kernel(self, padded: bytes) -> Mapping:
        """The mapping for a build ID as the kernel gives it: ID_BYTES long, shorter ones filled up with zeroes.

        Without path and segments if no file with it was seen.
        """
        with self._lock:
            known = self._by_prefix.get(padded)
            if known is not None:
                self._builds.move_to_end(known)
                return self._builds[known].mapping
        return Mapping(MappingKind.FILE, BuildId(_unpadded(padded)))

    def open_for_lending(self, build_id: BuildId, path: str = "") -> int | LendMiss:
        """A descriptor of a file that has this build ID, whoever asks: each candidate is examined before it is given.

        `path` is tried on the host's own root when no process that had the build mapped is left.
        """
        if path == vdso.NAME.decode():
            copy = vdso.open_copy(build_id)
            return LendMiss.OTHER_BUILD if copy is None else copy
        with self._lock:
            build = self._builds.get(build_id)
            places = build.places if build else ()
        miss = LendMiss.GONE if places else LendMiss.UNKNOWN_BUILD
        for fd in self._candidates(places, os.fsencode(path)):
            if isinstance(fd, OpenMiss):
                continue
            try:
                if self.examine(fd).build_id == build_id:
                    return fd
                miss = LendMiss.OTHER_BUILD
            except OSError:  # nothing of it can be read: a file system may answer one process and not another
                pass
            os.close(fd)
        return miss

    def _add(self, build_id: BuildId, build: _Build) -> None:
        self._builds[build_id] = build
        if len(build_id.raw) <= ID_BYTES:
            self._by_prefix[build_id.raw.ljust(ID_BYTES, b"\0")] = build_id
        if len(self._builds) > self._max_builds:
            gone, _build = self._builds.popitem(last=False)
            self._by_prefix.pop(gone.raw.ljust(ID_BYTES, b"\0"), None)

    def _candidates(self, places: tuple[Place, ...], path: bytes) -> Iterator[int | OpenMiss]:
        """The caller closes what it gets. The places seen last come first."""
        for place in reversed(places):
            try:
                with open_process(self._proc, place.tgid) as process, ProcessFiles(process) as files:
                    yield files.open_link(place.link)
                    yield files.open_path(place.path)
                    yield files.open_executable()
            except OSError:
                continue
        for seen in {place.path: None for place in places} | {path: None}:
            if seen:
                yield open_on_host(seen)


def read_file(fd: int, size: int) -> FileFacts:
    """Facts of the open file of `size` bytes. Raises OSError if nothing of it can be read."""
    read_at = file_reader(fd)
    head = read_at(0, HASHED_BYTES)
    if size and not head:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    elf = read_elf(read_at, size)
    build_id = elf.build_id if elf else None
    if build_id is None:
        build_id = from_file_ends(head, read_at(max(0, size - HASHED_BYTES), HASHED_BYTES), size)
    return FileFacts(build_id=build_id, elf=elf, size=size, python=_read_python(read_at) if elf else None)


def _read_python(read_at: ReadAt) -> PythonBuild | None:
    build = read_build(read_at)
    if build is None or isinstance(build, PythonBuild):
        return build
    metrics.PYTHON_BUILDS_REFUSED.labels(build.value).inc()
    return None


def _unpadded(padded: bytes) -> bytes:
    """An ID that nobody has seen in a file. Linkers write 8 (`fast`), 16 (`md5`, `uuid`) and 20 bytes; one of 20 that
    ends in four zeroes by chance is one in 2^32."""
    for length in (8, 16):
        if not any(padded[length:]):
            return padded[:length]
    return padded
