"""The vDSO: code that the kernel maps into every process, an ELF file that is in no file system.

All 64-bit processes have the same image, so ours tells its build ID. A 32-bit process on a 64-bit kernel has another
one, which is read from the first such process that is met.
"""

import logging
import os

from agent.elf import read_elf
from agent.openat import read_all
from agent.procmaps import Region, iter_executable
from fleetflame.buildid import from_file_ends
from fleetflame.model import Mapping, MappingKind

_log = logging.getLogger(__name__)

NAME = b"[vdso]"
MAX_BYTES = 64 * 1024
"""Bytes read of an image; today's are 8 KiB."""

_FIRST_WIDE = 1 << 32


class Vdso:
    """Reads each of the two images once, at first need."""

    def __init__(self) -> None:
        self._known: dict[bool, Mapping] = {}

    def mapping(self, process: int, region: Region) -> Mapping | None:
        """The mapping for the vDSO of the process behind the proc folder, None if its image cannot be read."""
        wide = region.start >= _FIRST_WIDE
        if wide not in self._known:
            image = _own_image() if wide else read_image(process, region)
            if not image:
                return None
            self._known[wide] = describe(image)
        return self._known[wide]


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
