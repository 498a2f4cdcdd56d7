"""Reads a symcache, the file that `symbolic` makes of DWARF, as columns.

The library's own look-up hands out one address at a time, as Python objects. Its file is flat, so numpy can answer
all addresses at once. Layout of versions 7, 8 and 9, little-endian, each part aligned to 8 bytes (source:
getsentry/symbolic, symbolic-symcache/src/raw.rs, v9/raw.rs and v9/mod.rs):

    magic "SYMC", version u32
    debug_id 32 bytes, then arch, files, functions, source_locations, ranges, string_bytes u32 each, 16 bytes reserved
    files             comp_dir, directory, name  (version 9: + 3 more)     u32 each: offsets of strings
    functions         name, comp_dir, entry_pc, language                   u32 each
    source_locations  file, line, function, inlined_into                   u32 each: indices
    ranges            start                                                u32 each, ascending
    strings           version 7: length u32 before each; later: LEB128

The last `ranges` source locations belong to the ranges one by one; those before them are only inlined into.
0xFFFFFFFF is "none". Addresses count from the file's lowest loaded address and end at 4 GiB.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE = 0xFFFFFFFF
VERSIONS = {7: 12, 8: 12, 9: 24}
"""Known versions, and the size of a file entry in each."""

_PREAMBLE = struct.Struct("<4sI")
_HEADER = struct.Struct("<32sIIIIII16s")


class UnknownSymcacheError(ValueError):
    """Not a symcache of a version that this module reads, or not a whole one."""


class Symcache(NamedTuple):
    """The file's columns. `function` and `file` of a location are indices in `functions` and `paths`, NONE for none."""

    start: NDArray[np.uint64]
    location: NDArray[np.uint32]
    function: NDArray[np.uint32]
    file: NDArray[np.uint32]
    line: NDArray[np.uint32]
    parent: NDArray[np.uint32]
    functions: list[str]
    paths: list[str]


def read_symcache(data: bytes) -> Symcache:
    """The columns of one symcache. Raises UnknownSymcacheError."""
    if len(data) < _PREAMBLE.size + _HEADER.size:
        raise UnknownSymcacheError("no header")
    magic, version = _PREAMBLE.unpack_from(data)
    if magic != b"SYMC" or version not in VERSIONS:
        raise UnknownSymcacheError(f"magic {magic!r}, version {version}")
    _, _, files, functions, locations, ranges, _, _ = _HEADER.unpack_from(data, _PREAMBLE.size)
    parts, at = [], _PREAMBLE.size + _HEADER.size
    for count, size in ((files, VERSIONS[version]), (functions, 16), (locations, 16), (ranges, 4)):
        at = (at + 7) & ~7
        if at + count * size > len(data):
            raise UnknownSymcacheError("shorter than its header says")
        parts.append(np.frombuffer(data, "<u4", count * size // 4, at).reshape(count, size // 4))
        at += count * size
    if locations < ranges:
        raise UnknownSymcacheError("fewer locations than ranges")
    strings = _Strings(data[(at + 7) & ~7 :], leb128=version >= 8)
    return _columns(parts, strings)


def _columns(parts: list[NDArray[np.uint32]], strings: "_Strings") -> Symcache:
    files, functions, locations, ranges = parts
    start, locations, first = _without_repeats(ranges[:, 0], locations)
    file, line, function, parent = (np.ascontiguousarray(column) for column in locations.T)
    if ((parent >= first) & (parent != NONE)).any() or (parent[:first] >= np.arange(first))[
        parent[:first] != NONE
    ].any():
        raise UnknownSymcacheError("a location is inlined into a later one")
    location = np.arange(first, len(locations), dtype=np.uint32)
    nothing = (file == NONE) & (line == NONE) & (function == NONE) & (parent == NONE)
    location[nothing[first:]] = NONE
    return Symcache(
        start=start.astype(np.uint64),
        location=location,
        function=np.where(function < len(functions), function, NONE).astype(np.uint32),
        file=np.where(file < len(files), file, NONE).astype(np.uint32),
        line=np.where(line == NONE, 0, line).astype(np.uint32),
        parent=parent,
        functions=[strings.at(name) for name in functions[:, 0].tolist()],
        paths=[
            full_path(strings.at(comp_dir), strings.at(directory), strings.at(name))
            for comp_dir, directory, name in files[:, :3].tolist()
        ],
    )


def _without_repeats(
    start: NDArray[np.uint32], locations: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], int]:
    """Ranges and locations without the ranges that say what the one before says, a quarter of them; and how many
    locations come before those of ranges."""
    first = len(locations) - len(start)
    own = locations[first:]
    fresh = np.ones(len(own), np.bool_)
    if len(own):
        fresh[1:] = own[1:, 0] != own[:-1, 0]
        for column in range(1, 4):
            fresh[1:] |= own[1:, column] != own[:-1, column]
    return start[fresh], np.concatenate([locations[:first], own[fresh]]), first


def full_path(comp_dir: str, directory: str, name: str) -> str:
    """The three parts joined, absolute ones starting anew, without `.` and `..` where they can be resolved."""
    return clean_path(join_path(join_path(comp_dir, directory), name))


def join_path(base: str, part: str) -> str:
    """`part` below `base`; Windows paths keep their separator."""
    if not base or part.startswith(("/", "\\", "<")) or part[1:3] in (":\\", ":/"):
        return part or base
    if not part:
        return base
    windows = "\\" in base or base[1:2] == ":"
    separator = "\\" if windows else "/"
    return base.rstrip("/\\" if windows else "/") + separator + part


def clean_path(path: str) -> str:
    """`path` without `.`, empty and resolvable `..` components. A Windows path is returned as it is."""
    if "/." not in path and "//" not in path and not path.startswith("."):
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", ".") and not (part == ".." and path.startswith("/")):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts)


class _Strings:
    """The block of strings, each with its length before it; decoded once each."""

    def __init__(self, data: bytes, *, leb128: bool) -> None:
        self._data = data
        self._leb128 = leb128
        self._known: dict[int, str] = {NONE: ""}

    def at(self, offset: int) -> str:
        """The string at `offset`, "" for none. Raises UnknownSymcacheError beyond the block."""
        found = self._known.get(offset)
        if found is None:
            start, length = self._length(offset)
            if start + length > len(self._data):
                raise UnknownSymcacheError("a string ends beyond the file")
            found = self._known[offset] = self._data[start : start + length].decode("utf-8", "replace")
        return found

    def _length(self, offset: int) -> tuple[int, int]:
        if not self._leb128:
            return offset + 4, int.from_bytes(self._data[offset : offset + 4], "little")
        length = shift = 0
        while offset < len(self._data):
            byte = self._data[offset]
            offset += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                return offset, length
            shift += 7
        raise UnknownSymcacheError("a string starts beyond the file")
