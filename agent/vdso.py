"""The vDSO: code that the kernel maps into every process, an ELF file that is in no file system.

All 64-bit processes have the same image, so ours tells its build ID. A 32-bit process on a 64-bit kernel has another
one, which is read from the first such process that is met.
"""

import logging
import os
import struct

from agent.addresses import AddressTable, Range, build_table
from agent.elf import read_elf
from agent.facts import read_small
from agent.openat import read_all
from agent.procmaps import Region, iter_executable
from fleetflame.buildid import BuildId, from_file_ends
from fleetflame.model import Mapping, MappingKind

_log = logging.getLogger(__name__)

NAME = b"[vdso]"
MAX_BYTES = 64 * 1024
"""Bytes read of an image; today's are 8 KiB."""

_FIRST_WIDE = 1 << 32


_AT_SYSINFO_EHDR = 33
_AUXV_ENTRY = struct.Struct("<QQ")
_AUXV_BYTES = 4096


class Vdso:
    """Reads each of the two images once, at first need."""

    def __init__(self) -> None:
        self._known: dict[bool, Mapping] = {}
        self._size = 0

    def table(self, base: int) -> AddressTable | None:
        """What can be told of a process that is gone, if `read_base` was asked when it began: what lies in its vDSO.
        None if `base` is 0 or our own image cannot be read."""
        mapping = self._own() if base else None
        return build_table([Range(base, base + self._size, mapping, bias=base)]) if mapping else None

    def mapping(self, process: int, region: Region) -> Mapping | None:
        """The mapping for the vDSO of the process behind the proc folder, None if its image cannot be read."""
        if region.start >= _FIRST_WIDE:
            return self._own()
        if False not in self._known and (image := read_image(process, region)):
            self._known[False] = describe(image)
        return self._known.get(False)

    def _own(self) -> Mapping | None:
        if True not in self._known and (image := _own_image()):
            self._size = len(image)
            self._known[True] = describe(image)
        return self._known.get(True)


def read_base(process: int) -> int:
    """Where the process behind the proc folder has its vDSO; 0 if that may not be read, or the process is not 64-bit.

    From the auxiliary vector, which is complete at exec: (type u64, value u64) up to a type of 0.
    """
    data = read_small(process, "auxv", _AUXV_BYTES)
    for kind, value in _AUXV_ENTRY.iter_unpack(data[: len(data) // _AUXV_ENTRY.size * _AUXV_ENTRY.size]):
        if kind == _AT_SYSINFO_EHDR:
            return int(value) if value >= _FIRST_WIDE else 0
    return 0


def open_copy(build_id: BuildId) -> int | None:
    """A descriptor of a file in memory with our own image, None if that is not the one with this build ID."""
    image = _own_image()
    if not image or describe(image).build_id != build_id:
        return None
    fd = os.memfd_create("vdso", os.MFD_CLOEXEC)
    os.pwrite(fd, image, 0)
    return fd


def describe(image: bytes) -> Mapping:
    """The mapping of a vDSO with these bytes."""
    facts = read_elf(lambda offset, length: image[offset : offset + length], len(image))
    build_id = (facts.build_id if facts else None) or from_file_ends(image[:4096], image[-4096:], len(image))
    return Mapping(MappingKind.VDSO, build_id, NAME.decode(), facts.segments if facts else ())


def read_image(process: int, region: Region) -> bytes:
    """The bytes of a region as the process sees them, MAX_BYTES at most; b"" if it may not be read."""
    try:
        fd = os.open("mem", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    except OSError:
        return b""
    try:
        return os.pread(fd, min(region.end - region.start, MAX_BYTES), region.start)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _own_image() -> bytes:
    process = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for region in iter_executable([read_all(process, "maps")]):
            if region.path == NAME:
                return read_image(process, region)
    finally:
        os.close(process)
    _log.warning("failed to read the vdso's build ID: frames in it will have no name")
    return b""
