"""pprof: everything a profile knows, in the format of google/pprof, gzip-compressed. Equal profiles are equal files.

Process and `by` labels travel as labels of the samples, not as frames. Names have no suffix here: inlined functions are
lines of one location, and kernel, JIT and interpreter frames belong to a mapping of that name.

Our addresses are offsets into files; pprof wants addresses of one process. So each executable segment gets a place in
an address space that never was: as linked for programs with a fixed address, else 4 GiB apart. Start, limit and offset
of the mapping lead back to the file, by which `pprof` finds names in a local binary with that build ID.
"""

import gzip
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.locations import Locations
from aggregator.naming import SUFFIXES, FrameKind, inert
from aggregator.profile import Detail, Profile
from aggregator.render import pprof_pb2 as pb
from aggregator.render import wording
from fleetflame.model import NAMED_KINDS, Mapping, MappingKind, Segment

I64 = NDArray[np.int64]

KERNEL_FILE = "[kernel.kallsyms]"
NAMED_FILES = {
    MappingKind.JIT: "[jit]",
    MappingKind.INTERPRETER: "[interpreter]",
    MappingKind.BPF: "[bpf]",
    MappingKind.IMPORTED: "[imported]",
}
_PAGE = 4096
# Where x86-64 Linux links its text, and where it loads modules (Documentation/arch/x86/x86_64/mm.rst).
KERNEL_START = 0xFFFF_FFFF_8100_0000
_MODULES_START = 0xFFFF_FFFF_C000_0000
_MODULE_ROOM = 1 << 24
_USER_START = 0x5500_0000_0000
_USER_ROOM = 1 << 32
# Linkers put programs with a fixed address here or above; shared objects and PIE begin at 0.
_FIXED_FROM = 0x40_0000
_LIBRARY = re.compile(r"\.so(\.[^/]*)?$")


def render(profile: Profile) -> bytes:
    """`profile` as a gzip-compressed `Profile` message."""
    return gzip.compress(message(profile).SerializeToString(deterministic=True), compresslevel=6, mtime=0)


def message(profile: Profile) -> pb.Profile:
    """`profile` as a message: samples and CPU time, with labels, comments on its completeness, mappings and lines."""
    writer = _Writer()
    origin = profile.origin
    built = pb.Profile(
        time_nanos=origin.from_ns,
        duration_nanos=max(origin.until_ns - origin.from_ns, 0),
        period=origin.period_ns,
        default_sample_type=writer.string(origin.type),
    )
    built.period_type.CopyFrom(writer.value_type(origin.type, "nanoseconds"))
    built.sample_type.extend([writer.value_type("samples", "count"), writer.value_type(origin.type, "nanoseconds")])
    detail = profile.detail()
    used = np.zeros(len(detail.locations), bool)
    used[detail.location] = True
    spaces = _lay_out(detail, used)
    built.mapping.extend(_mappings(detail.locations, used, spaces, writer))
    built.location.extend(_locations(detail.locations, used, spaces, writer))
    built.function.extend(writer.functions)
    built.sample.extend(_samples(profile, detail, writer))
    built.comment.extend(writer.string(text) for text in _comments(profile))
    built.string_table.extend(writer.strings)
    return built


@dataclass(frozen=True, slots=True, kw_only=True)
class _Space:
    """Where the locations of one mapping, or of one of its segments, lie: id, and address = offset + bias."""

    id: int
    mapping: int
    offset: int
    limit: int
    bias: int


class _Writer:
    """The tables that grow while messages are written."""

    def __init__(self) -> None:
        self.strings: dict[str, int] = {"": 0}
        self.functions: list[pb.Function] = []
        self._function_ids: dict[tuple[int, int], int] = {}

    def string(self, text: str) -> int:
        return self.strings.setdefault(inert(text), len(self.strings))

    def value_type(self, kind: str, unit: str) -> pb.ValueType:
        return pb.ValueType(type=self.string(kind), unit=self.string(unit))

    def function(self, name: str, file: str) -> int:
        key = self.string(name), self.string(file)
        known = self._function_ids.get(key)
        if known is not None:
            return known
        number = len(self.functions) + 1
        self.functions.append(pb.Function(id=number, name=key[0], system_name=key[0], filename=key[1]))
        self._function_ids[key] = number
        return number


def _lay_out(detail: Detail, used: NDArray[np.bool_]) -> list[_Space]:
    """A place for each mapping in use: the program that runs in most samples first, so that it is the main one."""
    locations, weight = detail.locations, _running(detail)

    def order(number: int) -> tuple[bool, bool, int, str, str]:
        mapping = locations.mappings[number]
        # A library runs in at least as many samples as the programs that use it.
        is_file, is_program = mapping.kind is MappingKind.FILE, bool(mapping.path and not _LIBRARY.search(mapping.path))
        return not is_file, not is_program, -int(weight[number]), mapping.path, str(mapping.build_id or "")

    spaces: list[_Space] = []
    for number in sorted(np.unique(locations.mapping[used]).tolist(), key=order):
        mapping = locations.mappings[number]
        if mapping.kind is MappingKind.MISS:
            continue
        offsets = locations.address[used & (locations.mapping == number)]
        for segment in _segments(mapping, offsets):
            identity = len(spaces) + 1
            bias = _bias(mapping, segment, identity)
            end = segment.offset + segment.size
            spaces.append(_Space(id=identity, mapping=number, offset=segment.offset, limit=end, bias=bias))
    return spaces


def _running(detail: Detail) -> NDArray[np.uint64]:
    """Samples in whose stack each mapping is, wherever it is."""
    table = detail.locations
    size = len(table.mappings)
    counts = np.zeros(len(detail.offsets) - 1, np.uint64)
    np.add.at(counts, detail.stack, detail.count)
    stacks = np.repeat(np.arange(len(counts)), np.diff(detail.offsets))
    pairs = np.unique(stacks * size + table.mapping[detail.location])
    weight = np.zeros(size, np.uint64)
    np.add.at(weight, pairs % max(size, 1), counts[pairs // max(size, 1)])
    return weight


def _segments(mapping: Mapping, offsets: NDArray[np.uint64]) -> list[Segment]:
    """The executable segments that hold these offsets, in whole pages; one made up if none is known."""
    if mapping.kind in NAMED_KINDS:
        return [Segment(0, 0, 0)]
    found = []
    rest = offsets
    for segment in mapping.segments:
        inside = (rest >= segment.offset) & (rest < segment.offset + segment.size)
        if inside.any():
            skew = segment.offset % _PAGE
            size = (segment.size + skew + _PAGE - 1) // _PAGE * _PAGE
            found.append(Segment(segment.offset - skew, max(segment.vaddr - skew, 0), size))
            rest = rest[~inside]
    if len(rest):
        low = int(rest.min()) // _PAGE * _PAGE if mapping.kind is MappingKind.FILE else 0
        high = (int(rest.max()) // _PAGE + 1) * _PAGE
        found.append(Segment(low, low, high - low))
    return found


def _bias(mapping: Mapping, segment: Segment, number: int) -> int:
    """What turns an offset of the segment into an address."""
    if mapping.kind in NAMED_KINDS:
        return 0
    if mapping.kind is MappingKind.KERNEL:
        return KERNEL_START
    if mapping.kind is MappingKind.MODULE:
        return _MODULES_START + number * _MODULE_ROOM
    linked = segment.vaddr - segment.offset
    fixed = mapping.segments and min(each.vaddr for each in mapping.segments) >= _FIXED_FROM
    return linked if fixed else _USER_START + number * _USER_ROOM + linked


def _mappings(
    locations: Locations, used: NDArray[np.bool_], spaces: list[_Space], writer: _Writer
) -> Iterable[pb.Mapping]:
    named = ~locations.any_frame(FrameKind.UNKNOWN, FrameKind.TRUNCATED)
    first, count = locations.offsets[:-1], np.diff(locations.offsets)
    has_file, has_line = locations.file[first] > 0, locations.line[first] > 0
    for space in spaces:
        mapping = locations.mappings[space.mapping]
        here = used & (locations.mapping == space.mapping)
        virtual = mapping.kind in NAMED_KINDS
        yield pb.Mapping(
            id=space.id,
            memory_start=0 if virtual else space.offset + space.bias,
            memory_limit=0 if virtual else space.limit + space.bias,
            file_offset=space.offset,
            filename=writer.string(file_name(mapping)),
            build_id=writer.string(str(mapping.build_id or "")),
            has_functions=bool(named[here].all()),
            has_filenames=bool(has_file[here].any()),
            has_line_numbers=bool(has_line[here].any()),
            has_inline_frames=bool((count[here] > 1).any()),
        )


def file_name(mapping: Mapping) -> str:
    """What a mapping is called: its path, or the bracketed names that `perf` and pprof know."""
    if mapping.kind is MappingKind.KERNEL:
        return KERNEL_FILE
    if mapping.kind is MappingKind.MODULE:
        return f"[{mapping.path.strip('[]')}]"
    return NAMED_FILES.get(mapping.kind, mapping.path)


def _locations(
    table: Locations, used: NDArray[np.bool_], spaces: list[_Space], writer: _Writer
) -> Iterable[pb.Location]:
    """The locations in use, each with its place and its lines, innermost first."""
    places: dict[int, list[_Space]] = {}
    for space in spaces:
        places.setdefault(space.mapping, []).append(space)
    bounds, kinds = table.offsets.tolist(), table.kind.tolist()
    names, files, lines = table.name.tolist(), table.file.tolist(), table.line.tolist()
    addresses, mappings = table.address.tolist(), table.mapping.tolist()
    misses = {number for number, mapping in enumerate(table.mappings) if mapping.kind is MappingKind.MISS}
    virtual = {number for number, mapping in enumerate(table.mappings) if mapping.kind in NAMED_KINDS}
    imported = {number for number, mapping in enumerate(table.mappings) if mapping.kind is MappingKind.IMPORTED}
    for number in np.flatnonzero(used).tolist():
        mapping = mappings[number]
        location = pb.Location(id=number + 1)
        if mapping in virtual:
            location.mapping_id = places[mapping][0].id
        elif mapping not in misses:
            offset = addresses[number]
            space = next(each for each in places[mapping] if each.offset <= offset < each.limit)
            location.mapping_id = space.id
            location.address = offset + space.bias
        for frame in range(bounds[number + 1] - 1, bounds[number] - 1, -1):
            # An address without a name has no line: whoever opens the file may know more than we do.
            if kinds[frame] != FrameKind.UNKNOWN or mapping in misses or mapping in virtual:
                # What was imported keeps its suffix: its mapping does not tell what it is.
                suffix = SUFFIXES.get(FrameKind(kinds[frame]), "") if mapping in imported else ""
                function = writer.function(table.strings[names[frame]] + suffix, table.strings[files[frame]])
                location.line.add(function_id=function, line=lines[frame])
        yield location


def _samples(profile: Profile, detail: Detail, writer: _Writer) -> Iterable[pb.Sample]:
    by = profile.origin.by
    labels = [
        [
            pb.Label(key=writer.string(key), str=writer.string(text))
            for key, text in zip(by, values, strict=True)
            if text
        ]
        for values in profile.groups
    ]
    ids = (detail.location + 1).tolist()
    bounds = detail.offsets.tolist()
    rows = (column.tolist() for column in (detail.group, detail.stack, detail.count, detail.value))
    for group, stack, count, value in zip(*rows, strict=True):
        leaf_first = ids[bounds[stack] : bounds[stack + 1]][::-1]
        yield pb.Sample(location_id=leaf_first, value=(count, value), label=labels[group])


def _comments(profile: Profile) -> list[str]:
    done = profile.completeness
    facts = ", ".join(wording.wholeness(done))
    return [
        f"fleetflame {profile.origin.title}".strip(),
        f"samples={done.total} whole={done.whole} truncated={done.truncated} unsymbolized={done.unsymbolized}",
        *([facts] if facts else []),
    ]
