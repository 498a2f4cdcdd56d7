"""Batch <-> bytes, as `wire.proto` says. The only reader and writer of those messages; opens nothing.

`decode` reads what strangers send: every number that indexes, counts or allocates is checked against the tables of the
same message and against `Limits`, on whole columns. What it returns, it returns whole: a batch of which one index is
wrong is refused, since no other part of it can be trusted more. Nothing but DecodeError leaves it.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NoReturn, TypeVar

import numpy as np
from google.protobuf.message import DecodeError as ProtobufError
from numpy.typing import NDArray

from fleetflame import columns, envelope, wire_pb2
from fleetflame.buildid import BuildId
from fleetflame.envelope import DEFAULT, Limits
from fleetflame.errors import DecodeError, RejectReason, UsageError
from fleetflame.model import (
    MAX_FRAMES,
    NAMED_KINDS,
    Batch,
    FrameMiss,
    Labels,
    Ledger,
    Mapping,
    MappingKind,
    NamedFrame,
    Segment,
    StackTable,
)
from fleetflame.subjects import WIRE_VERSION, check_node

__all__ = ["DEFAULT", "Limits", "decode", "encode", "serialize"]

MAX_STRING_BYTES = 4096
"""Of any string, in UTF-8: Linux' PATH_MAX. A longer symbol name or label is the sender's to shorten."""
MAX_SEGMENTS = 64
MAX_LABELS = 64
MAX_REASONS = 64
MAX_NUMBER = 1 << 31
MAX_COUNT = 1 << 53
"""Counts stay exact in JSON and in a double, and their sums far away from 2^64."""
MAX_WINDOW_NS = 24 * 3600 * 10**9
"""A window of an agent that was stopped for hours is long; one of more than a day is a mistake."""
MAX_PERIOD_NS = 3600 * 10**9

EPOCH_BYTES = 16
LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
REASON = re.compile(r"[a-z][a-z0-9_]{0,63}")
TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")

Scalar = TypeVar("Scalar", bound=np.generic)


def encode(batch: Batch) -> bytes:
    """The message for `batch`. Raises ValueError for text that is not Unicode (lone surrogates)."""
    return envelope.wrap(serialize(batch))


def serialize(batch: Batch) -> bytes:
    """The message before compression: what `Limits.raw_bytes` limits. Raises as `encode`."""
    strings = _Strings()
    message = wire_pb2.Batch(
        version=WIRE_VERSION,
        node=batch.node,
        epoch=batch.epoch,
        sequence=batch.sequence,
        dictionary=batch.dictionary,
        window_start_ns=batch.window_start_ns,
        window_ns=batch.window_ns,
        period_ns=batch.period_ns,
        type=batch.type,
        mappings=[_mapping_message(mapping, strings) for mapping in batch.mappings],
        named=[
            wire_pb2.NamedFrame(name=strings[frame.name], file=strings[frame.file], line=frame.line)
            for frame in batch.named
        ],
        series=[
            wire_pb2.Series(
                label_name=[strings[name] for name, _ in labels], label_value=[strings[value] for _, value in labels]
            )
            for labels in batch.series
        ],
        first_number=batch.first_number,
        stacks=_stacks_message(batch.stacks),
        samples=_samples_message(batch),
        ledger=_ledger_message(batch.ledger, strings),
    )
    message.strings.extend(strings.texts)
    raw: bytes = message.SerializeToString(deterministic=True)
    return raw


class _Strings:
    """The table of strings: `strings[text]` is the index of `text`, which is put in if it is new."""

    def __init__(self) -> None:
        self._index = {"": 0}

    def __getitem__(self, text: str) -> int:
        return self._index.setdefault(text, len(self._index))

    @property
    def texts(self) -> Iterable[str]:
        return self._index


def _mapping_message(mapping: Mapping, strings: _Strings) -> wire_pb2.Mapping:
    return wire_pb2.Mapping(
        kind=int(mapping.kind),
        build_id=mapping.build_id.raw if mapping.build_id else b"",
        path=strings[mapping.path],
        segment_offset=[segment.offset for segment in mapping.segments],
        segment_vaddr=[segment.vaddr for segment in mapping.segments],
        segment_size=[segment.size for segment in mapping.segments],
    )


def _stacks_message(stacks: StackTable) -> wire_pb2.StackTable:
    shared = columns.shared_prefixes(stacks)
    fresh = columns.fresh_frames(stacks.offsets, shared)
    mapping = stacks.mapping[fresh]
    return wire_pb2.StackTable(
        shared=shared.tolist(),
        fresh=(np.diff(stacks.offsets.astype(np.int64)) - shared).tolist(),
        # Not as lists: of 300,000 frames they would take 13 MB.
        mapping=mapping,
        address=columns.deltas(mapping, stacks.address[fresh]),
    )


def _samples_message(batch: Batch) -> wire_pb2.Samples:
    number = columns.deltas(batch.sample_series, batch.sample_number.astype(np.uint64))
    return wire_pb2.Samples(
        rows=np.bincount(batch.sample_series, minlength=len(batch.series)).tolist(),
        number=number.tolist(),
        count=batch.sample_count.tolist(),
    )


def _ledger_message(ledger: Ledger, strings: _Strings) -> wire_pb2.Ledger:
    return wire_pb2.Ledger(
        taken=ledger.taken,
        taken_in_epoch=ledger.taken_in_epoch,
        lost_reason=[strings[reason] for reason in ledger.lost],
        lost_count=list(ledger.lost.values()),
        degraded_reason=[strings[reason] for reason in ledger.degraded],
        degraded_count=list(ledger.degraded.values()),
    )


def decode(data: bytes, *, limits: Limits = DEFAULT) -> Batch:
    """The batch that `data` holds. Raises DecodeError, whose reason tells which of the checks refused it.

    Takes bounded time and memory whatever `data` is. Whether the node is who it claims to be and whether the window
    lies in the past is the caller's to check.
    """
    raw = envelope.unwrap(data, limits)
    envelope.check_fields(raw, version=WIRE_VERSION, entries=limits.entries)
    message = wire_pb2.Batch()
    try:
        message.ParseFromString(raw)
    except ProtobufError as error:
        raise DecodeError(RejectReason.PROTOBUF, str(error)) from None
    return _batch(message, limits)


def _batch(message: wire_pb2.Batch, limits: Limits) -> Batch:
    _check_head(message)
    _check_cells(message, limits)
    strings = list(message.strings)
    _require(not strings or strings[0] == "", "the first string is not empty")
    _require(all(len(text.encode()) <= MAX_STRING_BYTES for text in strings), "a string is too long")
    mappings = tuple(_mapping(mapping, strings) for mapping in message.mappings)
    named = tuple(
        NamedFrame(name=_text(strings, frame.name), file=_text(strings, frame.file), line=frame.line)
        for frame in message.named
    )
    series = tuple(_labels(labels, strings) for labels in message.series)
    _require(len(set(series)) == len(series), "a series stands twice")
    stacks = _stacks(message.stacks, limits)
    _check_frames(stacks, mappings, len(named))
    _require(message.first_number + len(stacks) <= MAX_NUMBER, "stack numbers out of range")
    sample_series, number, count = _samples(message, limits)
    return Batch(
        node=message.node,
        epoch=message.epoch,
        sequence=message.sequence,
        dictionary=message.dictionary,
        window_start_ns=message.window_start_ns,
        window_ns=message.window_ns,
        period_ns=message.period_ns,
        type=message.type,
        mappings=mappings,
        named=named,
        series=series,
        first_number=message.first_number,
        stacks=stacks,
        sample_series=sample_series,
        sample_number=number,
        sample_count=count,
        ledger=_ledger(message, strings, int(count.sum())),
    )


def _check_head(message: wire_pb2.Batch) -> None:
    _require(message.version == WIRE_VERSION, f"version {message.version}")
    try:
        check_node(message.node)
    except UsageError as error:
        _refuse(error.message)
    _require(len(message.epoch) == EPOCH_BYTES, f"an epoch of {len(message.epoch)} bytes")
    _require(1 <= message.sequence < 1 << 63, f"sequence {message.sequence}")
    _require(TYPE.fullmatch(message.type) is not None, f"type {message.type[:80]!r}")
    _require(1 <= message.window_ns <= MAX_WINDOW_NS, f"a window of {message.window_ns} ns")
    _require(1 <= message.period_ns <= MAX_PERIOD_NS, f"a period of {message.period_ns} ns")
    _require(0 <= message.window_start_ns < (1 << 63) - MAX_WINDOW_NS, f"a window at {message.window_start_ns} ns")


def _check_cells(message: wire_pb2.Batch, limits: Limits) -> None:
    # The other columns of a row are compared with these before they are read.
    cells = sum(len(series.label_name) for series in message.series)
    cells += sum(len(mapping.segment_offset) for mapping in message.mappings)
    if cells > limits.cells:
        raise DecodeError(RejectReason.TOO_LARGE, f"{cells} labels and segments, {limits.cells} at most")


def _mapping(message: wire_pb2.Mapping, strings: Sequence[str]) -> Mapping:
    try:
        kind = MappingKind(message.kind)
        build_id = BuildId(message.build_id) if message.build_id else None
    except ValueError as error:
        _refuse(str(error))
    _require(build_id is None or kind not in NAMED_KINDS | {MappingKind.MISS}, f"a build ID for {kind.name}")
    lengths = {len(message.segment_offset), len(message.segment_vaddr), len(message.segment_size)}
    _require(len(lengths) == 1, "segment columns of different lengths")
    _require(max(lengths) <= MAX_SEGMENTS, "too many segments")
    rows = zip(message.segment_offset, message.segment_vaddr, message.segment_size, strict=True)
    segments = tuple(Segment(offset, vaddr, size) for offset, vaddr, size in rows)
    return Mapping(kind=kind, build_id=build_id, path=_text(strings, message.path), segments=segments)


def _labels(message: wire_pb2.Series, strings: Sequence[str]) -> Labels:
    _require(len(message.label_name) == len(message.label_value) <= MAX_LABELS, "label columns of different lengths")
    labels = tuple(
        (_text(strings, name), _text(strings, value))
        for name, value in zip(message.label_name, message.label_value, strict=True)
    )
    names = [name for name, _ in labels]
    _require(all(a < b for a, b in itertools.pairwise(names)), "labels are not sorted by name")
    _require(all(LABEL_NAME.fullmatch(name) and name != "node" for name in names), "not a label name")
    _require(all(value for _, value in labels), "an empty label value")
    return labels


def _stacks(message: wire_pb2.StackTable, limits: Limits) -> StackTable:
    shared = _column(message.shared, np.int64, limits.stacks)
    fresh = _column(message.fresh, np.int64, limits.stacks)
    mapping = _column(message.mapping, np.uint32, limits.frames)
    delta = _column(message.address, np.int64, limits.frames)
    _require(len(shared) == len(fresh), "stack columns of different lengths")
    _require(len(mapping) == len(delta) == int(fresh.sum()), "frame columns of different lengths")
    depth = shared + fresh
    _require(int(depth.max(initial=0)) <= MAX_FRAMES, "a stack is too deep")
    before = np.append(0, depth[:-1])[: len(depth)]
    _require(bool((shared <= before).all()), "a stack shares more frames than the one before it has")
    if int(depth.sum()) > limits.frames:
        raise DecodeError(RejectReason.TOO_LARGE, f"more than {limits.frames} frames")
    address = columns.undeltas(mapping, delta)
    source = columns.expand(shared, fresh)
    offsets = np.append(0, np.cumsum(depth)).astype(np.uint32)
    return StackTable(offsets=offsets, mapping=mapping[source], address=address[source])


def _check_frames(stacks: StackTable, mappings: Sequence[Mapping], named: int) -> None:
    _require(_all_below(stacks.mapping, len(mappings)), "a frame of an unknown mapping")
    kinds = np.array([mapping.kind for mapping in mappings], np.uint8)[stacks.mapping]
    indices = stacks.address[np.isin(kinds, [int(kind) for kind in NAMED_KINDS])]
    _require(_all_below(indices, named), "a frame of an unknown name")
    misses = np.unique(stacks.address[kinds == MappingKind.MISS])
    _require(set(misses.tolist()) <= set(map(int, FrameMiss)), "an unknown placeholder frame")


def _samples(
    message: wire_pb2.Batch, limits: Limits
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint64]]:
    rows = _column(message.samples.rows, np.int64, limits.rows)
    delta = _column(message.samples.number, np.int64, limits.rows)
    count = _column(message.samples.count, np.uint64, limits.rows)
    _require(len(rows) == len(message.series), "rows of another number of series")
    _require(len(delta) == len(count) == int(rows.sum()), "sample columns of different lengths")
    _require(bool((rows >= 1).all()), "a series without rows")
    series = np.repeat(np.arange(len(rows)), rows)
    # Sums of at most 2^18 differences of 32 bits: no overflow.
    number = columns.undeltas(series, delta).view(np.int64)
    repeated = np.append(False, series[1:] == series[:-1])[: len(series)]
    _require(bool((delta[repeated] >= 1).all()), "rows are not sorted, or not unique")
    known = message.first_number + len(message.stacks.shared)
    _require(bool((number >= 0).all()) and _all_below(number, known), "a row of an unknown stack")
    _require(bool((count >= 1).all()) and _all_below(count, MAX_COUNT), "a count out of range")
    # In floating point first, since 2^18 counts of 53 bits can wrap.
    _require(float(count.sum(dtype=np.float64)) < MAX_COUNT, "more samples than can be")
    _require(int(count.sum()) * message.period_ns < 1 << 63, "more CPU time than can be")
    return series.astype(np.uint32), number.astype(np.uint32), count


def _ledger(message: wire_pb2.Batch, strings: Sequence[str], carried: int) -> Ledger:
    ledger = message.ledger
    lost = _reasons(ledger.lost_reason, ledger.lost_count, strings)
    degraded = _reasons(ledger.degraded_reason, ledger.degraded_count, strings)
    if ledger.taken != carried + sum(lost.values()):
        detail = f"{ledger.taken} samples taken, {carried} carried, {sum(lost.values())} lost"
        raise DecodeError(RejectReason.LEDGER, detail)
    if not ledger.taken <= ledger.taken_in_epoch < 1 << 63:
        raise DecodeError(RejectReason.LEDGER, f"{ledger.taken} of {ledger.taken_in_epoch} samples of the epoch")
    return Ledger(taken=ledger.taken, taken_in_epoch=ledger.taken_in_epoch, lost=lost, degraded=degraded)


def _reasons(indices: Sequence[int], counts: Sequence[int], strings: Sequence[str]) -> dict[str, int]:
    _require(len(indices) == len(counts) <= MAX_REASONS, "ledger columns of different lengths")
    reasons = {_text(strings, index): count for index, count in zip(indices, counts, strict=True)}
    _require(len(reasons) == len(indices), "a reason stands twice")
    _require(all(REASON.fullmatch(reason) for reason in reasons), "not a reason")
    _require(all(count < MAX_COUNT for count in reasons.values()), "a count out of range")
    return reasons


def _column(values: Sequence[int], dtype: type[Scalar], limit: int) -> NDArray[Scalar]:
    if len(values) > limit:
        raise DecodeError(RejectReason.TOO_LARGE, f"a column of {len(values)} numbers, {limit} at most")
    return np.array(values, dtype)


def _all_below(values: NDArray[np.generic], limit: int) -> bool:
    return len(values) == 0 or int(values.max()) < limit


def _text(strings: Sequence[str], index: int) -> str:
    # Index 0 is "" even where the table is empty: an unset field.
    if index == 0:
        return ""
    _require(index < len(strings), "an unknown string")
    return strings[index]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        _refuse(otherwise)


def _refuse(detail: str) -> NoReturn:
    raise DecodeError(RejectReason.STRUCTURE, detail)
