"""pprof files read: anybody's, compressed or not, within bounds, and everything in them checked before it is used.

A location with names is one frame for each of its lines. One without names is (build ID, file offset), if its mapping
has a build ID: symbols that come later name it. Otherwise it is `[binary+0xOFFSET]`. Kernel, JIT and interpreter frames
are told by the names that mappings have by convention, and get our suffixes.
"""

import re
import zlib
from collections.abc import Iterable
from itertools import chain
from pathlib import PurePosixPath

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from aggregator.naming import SUFFIXES, FrameKind, clean, inert, kind_of
from aggregator.render import pprof_pb2 as pb
from aggregator.render.pprof import KERNEL_FILE, KERNEL_START, NAMED_FILES
from aggregator.samples import Samples
from fleetflame.buildid import BuildId
from fleetflame.errors import UsageError
from fleetflame.model import MAX_FRAMES, FrameMiss, Labels, Mapping, MappingKind, NamedFrame

I64 = NDArray[np.int64]

GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 256 << 20
"""Of the uncompressed message. A profile of a million stacks takes a fifth of it."""
MAX_SAMPLES = 4_000_000
_JIT_FILE = re.compile(r"(?:.*/)?perf-\d+\.map|\[jit\]|//anon|anon_inode:.*")
_NO_KERNEL_BRACKETS = frozenset({"[vdso]", "[vsyscall]", "[heap]", "[stack]", "[anon]", "[unknown]", ""})
_LABEL = re.compile(r"[^A-Za-z0-9_]")


def read(data: bytes) -> Samples:
    """The samples of a pprof file. Raises UsageError if it is none, is inconsistent, or larger than allowed."""
    profile = pb.Profile()
    try:
        profile.ParseFromString(_decompressed(data))
    except DecodeError:
        raise _fault("not a pprof profile") from None
    if len(profile.sample) > MAX_SAMPLES:
        raise _fault(f"{len(profile.sample):,} samples, {MAX_SAMPLES:,} are allowed")
    if not profile.sample_type or not profile.string_table or profile.string_table[0]:
        raise _fault("not a pprof profile: no sample types, or no strings")
    index, period_ns = _measure(profile)
    table = _Frames(profile)
    offsets, frame = _stacks(profile, table)
    labels, group = _labels(profile)
    return Samples(
        mappings=tuple(table.mappings),
        named=tuple(table.named),
        frame_mapping=np.array(table.frame_mapping, np.int64),
        frame_address=np.array(table.frame_address, np.uint64),
        offsets=offsets,
        frame=frame,
        labels=labels,
        group=group,
        count=_counts(profile, index, period_ns if _is_time(profile, index) else 0),
        period_ns=period_ns,
        time_ns=max(profile.time_nanos, 0),
        window_ns=max(profile.duration_nanos, 0),
    )


def _fault(message: str) -> UsageError:
    return UsageError(message, hint="`go tool pprof -raw FILE` shows what a profile holds")


def _decompressed(data: bytes) -> bytes:
    if not data.startswith(GZIP_MAGIC):
        return data
    pieces: list[bytes] = []
    room = MAX_BYTES
    while data:
        decoder = zlib.decompressobj(wbits=31)
        try:
            pieces.append(decoder.decompress(data, room + 1))
        except zlib.error:
            raise _fault("not a pprof profile: the compressed data are damaged") from None
        room -= len(pieces[-1])
        if room < 0:
            raise _fault(f"the profile is larger than {MAX_BYTES >> 20} MiB when uncompressed")
        if not decoder.eof:
            raise _fault("not a pprof profile: the compressed data end early")
        data = decoder.unused_data.lstrip(b"\0")
    return b"".join(pieces)


def _text(profile: pb.Profile, index: int) -> str:
    if not 0 <= index < len(profile.string_table):
        raise _fault(f"not a pprof profile: string {index} of {len(profile.string_table)}")
    return profile.string_table[index]


def _is_time(profile: pb.Profile, index: int) -> bool:
    return _text(profile, profile.sample_type[index].unit) == "nanoseconds"


def _measure(profile: pb.Profile) -> tuple[int, int]:
    """Which value of a sample to take, and nanoseconds of one sample: numbers of samples if they are there."""
    kinds = [(_text(profile, each.type), _text(profile, each.unit)) for each in profile.sample_type]
    in_time = _text(profile, profile.period_type.unit) == "nanoseconds"
    period_ns = profile.period if in_time and profile.period > 0 else 0
    if ("samples", "count") in kinds:
        return kinds.index(("samples", "count")), period_ns
    for index, (_, unit) in enumerate(kinds):
        if unit == "nanoseconds" and period_ns:
            return index, period_ns
    default = _text(profile, profile.default_sample_type)
    names = [kind for kind, _ in kinds]
    return (names.index(default) if default in names else len(kinds) - 1), period_ns


def _counts(profile: pb.Profile, index: int, divisor: int) -> NDArray[np.uint64]:
    types = len(profile.sample_type)
    if any(len(sample.value) != types for sample in profile.sample):
        raise _fault(f"not a pprof profile: a sample without {types} values")
    values = np.fromiter((sample.value[index] for sample in profile.sample), np.int64, len(profile.sample))
    if len(values) and int(values.min()) < 0:
        raise _fault("the profile has negative values: it is a difference of two")
    if divisor:
        values = (values + divisor // 2) // divisor
    return values.astype(np.uint64)


class _Frames:
    """Frames of the locations, root first, as far as they were asked for."""

    def __init__(self, profile: pb.Profile) -> None:
        self.mappings = [Mapping(MappingKind.MISS), Mapping(MappingKind.IMPORTED)]
        self.named: list[NamedFrame] = []
        self.frame_mapping = [0]
        self.frame_address = [int(FrameMiss.DEPTH_LIMIT)]
        self._profile = profile
        self._its_mapping = {each.id: each for each in profile.mapping}
        self._function = {each.id: each for each in profile.function}
        self._frame: dict[tuple[int, int], int] = {}
        self._named: dict[NamedFrame, int] = {}
        self._file: dict[Mapping, int] = {}

    def of(self, location: pb.Location) -> list[int]:
        """The frames of a location, the function that holds its address first."""
        mapping = self._its_mapping.get(location.mapping_id)
        if mapping is None and location.mapping_id:
            raise _fault(f"not a pprof profile: location {location.id} is in no mapping")
        if not location.line:
            return [self._nameless(location, mapping)]
        kind = _kind(_text(self._profile, mapping.filename) if mapping else "")
        lines = list(reversed(location.line))
        return [self._line(line, kind, inlined=at > 0) for at, line in enumerate(lines)]

    def _line(self, line: pb.Line, kind: FrameKind, *, inlined: bool) -> int:
        function = self._function.get(line.function_id)
        if function is None:
            raise _fault(f"not a pprof profile: no function {line.function_id}")
        name = clean(_text(self._profile, function.name) or _text(self._profile, function.system_name)) or "[unknown]"
        if kind_of(name) is FrameKind.NATIVE:
            kind = FrameKind.INLINED if inlined and kind is FrameKind.NATIVE else kind
            name += SUFFIXES.get(kind, "")
        file = inert(_text(self._profile, function.filename))
        return self._name(NamedFrame(name, file, min(max(line.line, 0), 0xFFFFFFFF)))

    def _nameless(self, location: pb.Location, mapping: pb.Mapping | None) -> int:
        if mapping is None:
            return self._name(NamedFrame(f"[unknown+0x{location.address:x}]"))
        file = _text(self._profile, mapping.filename)
        build_id = _build_id(_text(self._profile, mapping.build_id))
        inside = mapping.memory_start <= location.address < (mapping.memory_limit or 1 << 64)
        offset = location.address - mapping.memory_start + mapping.file_offset if inside else location.address
        kind = _kind(file)
        if inside and build_id and kind is FrameKind.NATIVE:
            return self._add(self._mapping(Mapping(MappingKind.FILE, build_id, file)), offset)
        if inside and build_id and file == KERNEL_FILE and mapping.memory_start == KERNEL_START:
            return self._add(self._mapping(Mapping(MappingKind.KERNEL, build_id)), offset)
        binary = "kernel" if file == KERNEL_FILE else PurePosixPath(file).name.strip("[]") or "unknown"
        return self._name(NamedFrame(clean(f"[{binary}+0x{offset:x}]") + SUFFIXES.get(kind, "")))

    def _name(self, frame: NamedFrame) -> int:
        number = self._named.setdefault(frame, len(self._named))
        if number == len(self.named):
            self.named.append(frame)
        return self._add(1, number)

    def _mapping(self, mapping: Mapping) -> int:
        number = self._file.setdefault(mapping, len(self.mappings))
        if number == len(self.mappings):
            self.mappings.append(mapping)
        return number

    def _add(self, mapping: int, address: int) -> int:
        number = self._frame.setdefault((mapping, address), len(self.frame_mapping))
        if number == len(self.frame_mapping):
            self.frame_mapping.append(mapping)
            self.frame_address.append(address & (1 << 64) - 1)
        return number


def _stacks(profile: pb.Profile, table: _Frames) -> tuple[I64, I64]:
    """The frames of each sample, root first. Of too deep stacks the ones nearest the leaf, and a placeholder."""
    number = {location.id: at for at, location in enumerate(profile.location)}
    expanded = [table.of(location) for location in profile.location]
    lines = np.array([len(frames) for frames in expanded], np.int64)
    start = np.cumsum(lines) - lines
    flat = np.array(list(chain.from_iterable(expanded)), np.int64)
    length = np.array([len(sample.location_id) for sample in profile.sample], np.int64)
    ids: Iterable[int] = chain.from_iterable(reversed(sample.location_id) for sample in profile.sample)
    try:
        location = np.fromiter((number[each] for each in ids), np.int64, int(length.sum()))
    except KeyError as error:
        raise _fault(f"not a pprof profile: no location {error.args[0]}") from None
    each = lines[location]
    ends = np.concatenate(([0], np.cumsum(each)))
    frame = flat[np.repeat(start[location] - ends[:-1], each) + np.arange(ends[-1])]
    offsets = ends[np.concatenate(([0], np.cumsum(length)))]
    return _bounded(offsets, frame)


def _bounded(offsets: I64, frame: I64) -> tuple[I64, I64]:
    length = offsets[1:] - offsets[:-1]
    deep = length > MAX_FRAMES
    if not deep.any():
        return offsets, frame
    frame = frame.copy()
    keep = np.ones(len(frame), bool)
    for row in np.flatnonzero(deep).tolist():
        first = offsets[row + 1] - MAX_FRAMES
        keep[offsets[row] : first] = False
        frame[first] = 0
    kept = np.concatenate(([0], np.cumsum(keep)))
    return kept[offsets], frame[keep]


def _labels(profile: pb.Profile) -> tuple[tuple[Labels, ...], I64]:
    """The label sets of the samples. A profile that says no comm is its main program's."""
    main = PurePosixPath(_text(profile, profile.mapping[0].filename)).name if profile.mapping else ""
    fallback = clean(main.strip("[]")) or "unknown"
    known: dict[Labels, int] = {}
    group = np.zeros(len(profile.sample), np.int64)
    cache: dict[bytes, int] = {}
    for row, sample in enumerate(profile.sample):
        key = b"".join(label.SerializeToString(deterministic=True) + b"\0" for label in sample.label)
        at = cache.get(key)
        if at is None:
            found = {"comm": fallback}
            for label in sample.label:
                name = _LABEL.sub("_", _text(profile, label.key))
                # Numbers are measurements, not names of anything: as labels they would tell all samples apart.
                value = clean(_text(profile, label.str))
                if name and not name[0].isdigit() and value:
                    found[name] = value
            at = cache[key] = known.setdefault(tuple(sorted(found.items())), len(known))
        group[row] = at
    return tuple(known), group


def _kind(file: str) -> FrameKind:
    """What the frames of a mapping are, by its name."""
    if file == NAMED_FILES[MappingKind.INTERPRETER]:
        return FrameKind.INTERPRETER
    if _JIT_FILE.fullmatch(file):
        return FrameKind.JIT
    if file == NAMED_FILES[MappingKind.IMPORTED] or file.startswith(("[anon:", "[stack:")):
        return FrameKind.NATIVE
    bracketed = file.startswith("[") and file not in _NO_KERNEL_BRACKETS
    return FrameKind.KERNEL if bracketed or file.endswith((".ko", ".ko.xz", ".ko.zst", ".ko.gz")) else FrameKind.NATIVE


def _build_id(text: str) -> BuildId | None:
    """The build ID, if it is one as the linker writes them."""
    try:
        return BuildId.parse(text)
    except ValueError:
        return None
