"""The executable memory of one process at one moment: `/proc/PID/maps` with each file's build -> an `AddressTable`.

Bounded whatever the process does: MAX_MAPS_BYTES of text, `procmaps.MAX_REGIONS` regions, MAX_COPIES attempts to find
the file of anonymous code. What is beyond shows as a miss.
"""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from agent.addresses import AddressTable, Range, build_table, miss_range
from agent.builds import Builds, FileFacts, Place
from agent.openat import OpenMiss, ProcessFiles, link_of, status_of
from agent.procmaps import Region, iter_executable, iter_with_file
from agent.python.build import PythonBuild, RunningPython
from agent.remapped import find_offset
from agent.vdso import NAME as VDSO_NAME
from agent.vdso import Vdso
from fleetflame.model import FrameMiss

MAX_MAPS_BYTES = 16 * 1024 * 1024
"""Text read of one process's maps: 150,000 lines, more than twice vm.max_map_count's default. Takes 0.1 s."""
MAX_COPIES = 64
"""Anonymous executable regions per process for which the file they are a copy of is looked for."""

_CHUNK = 64 * 1024
_PAGE = 4096
_MEMFD = b"/memfd:"
_NO_FILE_BEHIND = (b"/anon_hugepage", b"/dev/zero", b"/SYSV", b"/[aio]")
"""Paths of memory that the kernel itself keeps in files that nobody can open (mm/shmem.c, mm/hugetlb.c, fs/aio.c)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`whole` if every file that the process executes could be read: only then is the table better than the kernel's
    own build IDs. `fingerprint` stands for the regions it was made of, `bytes_read` is what it cost. `since_ns` is when
    these regions were seen first, on the monotonic clock. `python` is the interpreter that is mapped, if there is one.
    """

    table: AddressTable
    whole: bool
    fingerprint: int
    bytes_read: int
    since_ns: int
    python: RunningPython | None = None


class Snapshots:
    """Takes snapshots. Safe for several threads."""

    def __init__(self, builds: Builds) -> None:
        self._builds = builds
        self.vdso = Vdso()

    def read(self, process: int, tgid: int, *, former: Snapshot | None = None) -> Snapshot | None:
        """The snapshot of the process behind its open proc folder; None if its maps may not be read, or it has none.

        If its regions are still those of `former`, nothing is opened and the table is the same object.
        """
        since_ns = time.monotonic_ns()
        text = _Maps(process)
        regions = tuple(iter_executable(text))
        if not regions or text.failed:
            return None
        fingerprint = hash(regions)
        if former is not None and former.fingerprint == fingerprint:
            return replace(former, bytes_read=text.bytes_read)
        with ProcessFiles(process) as files:
            reading = _Reading(self._builds, self.vdso, files, process=process, tgid=tgid)
            table = build_table(reading.ranges(regions))
        return Snapshot(
            table=table,
            whole=reading.whole,
            fingerprint=fingerprint,
            bytes_read=text.bytes_read,
            since_ns=since_ns,
            python=reading.python,
        )


class _Maps:
    """The text in chunks. Once read, `bytes_read` and `failed` tell how that went."""

    def __init__(self, process: int) -> None:
        self._process = process
        self.bytes_read = 0
        self.failed = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            with os.fdopen(os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._process), "rb", _CHUNK) as file:
                while self.bytes_read < MAX_MAPS_BYTES and (chunk := file.read(_CHUNK)):
                    self.bytes_read += len(chunk)
                    yield chunk
        except OSError:  # no permission, or ESRCH: gone between opening and reading
            self.failed = True


class _Reading:
    """One pass over one process: each file is opened once, however many regions show it."""

    def __init__(self, builds: Builds, vdso: Vdso, files: ProcessFiles, *, process: int, tgid: int) -> None:
        self._builds = builds
        self._vdso = vdso
        self._files = files
        self._process = process
        self._tgid = tgid
        self._known: dict[tuple[object, ...], FileFacts | OpenMiss] = {}
        self.whole = True
        self.python: RunningPython | None = None

    def ranges(self, regions: Iterable[Region]) -> list[Range]:
        """One range for each executable region, misses included."""
        ranges, anonymous = [], []
        for region in regions:
            found = self._range(region)
            if found is None:
                anonymous.append(region)
            else:
                ranges.append(found)
        # The kernel's own regions, which every process has one of, are no copies; most processes have nothing else.
        unnamed = [region for region in anonymous if region.path[:1] != b"[" or region.path.startswith(b"[anon")]
        copies = self._copies(unnamed) if unnamed else {}
        misses = (miss_range(region.start, region.end, FrameMiss.ANONYMOUS) for region in anonymous)
        return ranges + [copies.get(miss.start, miss) for miss in misses]

    def _range(self, region: Region) -> Range | None:
        """None for memory without a file."""
        if region.path == VDSO_NAME:
            vdso = self._vdso.mapping(self._process, region)
            if vdso is None:
                return miss_range(region.start, region.end, FrameMiss.UNREADABLE_FILE)
            return Range(region.start, region.end, vdso, bias=region.start)
        if not _is_backed(region):
            return None
        facts = self._facts(region)
        if facts is OpenMiss.NOT_REGULAR:
            return None
        if isinstance(facts, OpenMiss):
            self.whole = False
            if region.path.startswith(_MEMFD):
                return None  # a library now and then, which the kernel then names; generated code nearly always
            return miss_range(region.start, region.end, FrameMiss.UNREADABLE_FILE)
        if facts.elf is None and region.deleted:
            # A memfd or an unlinked file that is no ELF holds generated code: its bytes identify nothing.
            return None
        return self._file_range(region, facts, region, region.offset)

    def _file_range(self, region: Region, facts: FileFacts, shown: Region, offset: int) -> Range:
        """`region` has the bytes from `offset` on of the file that the region `shown` shows."""
        if facts.python is not None and self.python is None:
            self.python = _running(facts.python, facts, region.start, offset)
        place = Place(self._tgid, link_of(shown), shown.path)
        return Range(region.start, region.end, self._builds.mapping(facts, place), bias=region.start - offset)

    def _facts(self, region: Region) -> FileFacts | OpenMiss:
        key = (region.device, region.inode, region.path)
        if key not in self._known:
            self._known[key] = self._examine(region)
        return self._known[key]

    def _examine(self, region: Region) -> FileFacts | OpenMiss:
        known = self._builds.find(status_of(self._process, link_of(region)))
        if known is not None:
            return known
        fd = self._files.open_region(region)
        if isinstance(fd, OpenMiss):
            return fd
        try:
            return self._builds.examine(fd)
        except OSError:
            return OpenMiss.ABSENT
        finally:
            os.close(fd)

    def _copies(self, anonymous: Iterable[Region]) -> dict[int, Range]:
        """Start -> range of those regions that are proven to be a copy of a file's text; see `remapped`."""
        shown = [region for region in iter_with_file(_Maps(self._process)) if _is_backed(region)]
        by_end = {region.end: region for region in shown}
        by_start = {region.start: region for region in shown}
        found: dict[int, Range] = {}
        # A copy replaces a part of a segment, so it touches another region of the file. Generated code seldom does.
        touching = [region for region in anonymous if region.start in by_end or region.end in by_start]
        for region in touching[:MAX_COPIES]:
            for neighbour in (by_end.get(region.start), by_start.get(region.end)):
                copy = self._copy(region, neighbour, shown) if neighbour else None
                if copy is not None:
                    found[region.start] = copy
                    break
        return found

    def _copy(self, region: Region, neighbour: Region, shown: Iterable[Region]) -> Range | None:
        facts = self._facts(neighbour)
        if isinstance(facts, OpenMiss) or facts.elf is None:
            return None
        same = [other for other in shown if (other.device, other.inode) == (neighbour.device, neighbour.inode)]
        offset = find_offset(region, same, facts.elf.loads)
        return None if offset is None else self._file_range(region, facts, neighbour, offset)


def _running(build: PythonBuild, facts: FileFacts, start: int, offset: int) -> RunningPython | None:
    """`build` in a process that has the bytes from `offset` on of its file at `start`."""
    for load in facts.elf.loads if facts.elf else ():
        # The mapping begins at a page, the segment perhaps within it.
        if load.executable and load.offset - load.offset % _PAGE <= offset < load.offset + load.size:
            return RunningPython(build, start - (offset - load.offset + load.vaddr))
    return None


def _is_backed(region: Region) -> bool:
    return region.has_file and not region.path.startswith(_NO_FILE_BEHIND)
