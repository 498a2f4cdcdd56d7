"""The wire format: nothing is lost on the way, and nothing wrong gets in."""

import contextlib
import dataclasses
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetflame import envelope, wire, wire_pb2
from fleetflame.errors import DecodeError, RejectReason
from fleetflame.model import Batch, Ledger, Mapping, MappingKind, empty_stacks
from tests.support.batches import batches, example_batch, plain, stack_table

GOLDEN = Path(__file__).parents[1] / "data" / "wire"


def reject(data: bytes, limits: wire.Limits = wire.DEFAULT) -> RejectReason:
    with pytest.raises(DecodeError) as caught:
        wire.decode(data, limits=limits)
    return caught.value.reason


def edited(change: Callable[[Any], object]) -> bytes:
    """The example batch's message after `change` was applied to the protobuf object."""
    message = wire_pb2.Batch.FromString(wire.serialize(example_batch()))
    change(message)
    return envelope.wrap(message.SerializeToString())


def assign(path: str, value: object) -> Callable[[Any], object]:
    """Sets a field that is a number, a text, or one element of a column: `samples.count[0]`."""

    def change(message: Any) -> None:
        *parents, last = path.replace("[", ".[").split(".")
        for part in parents:
            message = message[int(part[1:-1])] if part[0] == "[" else getattr(message, part)
        if last[0] == "[":
            message[int(last[1:-1])] = value
        else:
            setattr(message, last, value)

    return change


@given(batches())
@settings(max_examples=100, deadline=None)
def test_decoding_gives_back_what_was_encoded(batch: Batch) -> None:
    """Every field of every valid batch survives."""
    assert plain(wire.decode(wire.encode(batch))) == plain(batch)


def test_an_idle_window_is_a_message_with_a_ledger_only() -> None:
    """A node that sampled and found nothing says so."""
    batch = Batch(
        node="idle",
        epoch=bytes(16),
        sequence=1,
        dictionary=0,
        window_start_ns=0,
        window_ns=10**10,
        period_ns=10**7,
        ledger=Ledger(),
    )
    data = wire.encode(batch)
    assert plain(wire.decode(data)) == plain(batch)
    assert len(data) < 100


@pytest.mark.parametrize("name", ["example", "idle"])
def test_messages_of_the_first_release_are_still_read_and_written(name: str) -> None:
    """Golden messages decode to the same batch and serialize to the same bytes; FLEETFLAME_BLESS=1 rewrites them."""
    batch = example_batch()
    if name == "idle":
        batch = dataclasses.replace(
            batch,
            mappings=(),
            named=(),
            series=(),
            stacks=empty_stacks(),
            sample_series=np.zeros(0, np.uint32),
            sample_number=np.zeros(0, np.uint32),
            sample_count=np.zeros(0, np.uint64),
            ledger=Ledger(taken_in_epoch=2100),
        )
    path = GOLDEN / f"{name}.v1.zst"
    if os.environ.get("FLEETFLAME_BLESS"):
        path.write_bytes(wire.encode(batch))
    data = path.read_bytes()
    assert plain(wire.decode(data)) == plain(batch)
    # Compressed bytes depend on the version of zstd, their content does not.
    assert envelope.unwrap(data) == wire.serialize(batch), (
        "wire format changed: raise the version, or FLEETFLAME_BLESS=1"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (assign("version", 2), RejectReason.VERSION),
        (assign("version", 0), RejectReason.STRUCTURE),
        (assign("node", "a b"), RejectReason.STRUCTURE),
        (assign("node", ""), RejectReason.STRUCTURE),
        (assign("epoch", b"short"), RejectReason.STRUCTURE),
        (assign("sequence", 0), RejectReason.STRUCTURE),
        (assign("sequence", 1 << 63), RejectReason.STRUCTURE),
        (assign("type", ""), RejectReason.STRUCTURE),
        (assign("type", "CPU;"), RejectReason.STRUCTURE),
        (assign("window_start_ns", -1), RejectReason.STRUCTURE),
        (assign("window_start_ns", (1 << 63) - 1), RejectReason.STRUCTURE),
        (assign("window_ns", 0), RejectReason.STRUCTURE),
        (assign("window_ns", 1 << 63), RejectReason.STRUCTURE),
        (assign("period_ns", 0), RejectReason.STRUCTURE),
        (assign("period_ns", 1 << 63), RejectReason.STRUCTURE),
        (assign("strings[0]", "x"), RejectReason.STRUCTURE),
        (assign("strings[1]", "x" * 4097), RejectReason.STRUCTURE),
        (assign("mappings[0].kind", 0), RejectReason.STRUCTURE),
        (assign("mappings[0].kind", 99), RejectReason.STRUCTURE),
        (assign("mappings[0].build_id", bytes(65)), RejectReason.STRUCTURE),
        (assign("mappings[0].path", 999), RejectReason.STRUCTURE),
        (assign("mappings[2].build_id", b"x"), RejectReason.STRUCTURE),
        (lambda m: m.mappings[0].segment_size.append(1), RejectReason.STRUCTURE),
        (lambda m: [c.extend([1] * 65) for c in segment_columns(m)], RejectReason.STRUCTURE),
        (assign("named[0].name", 999), RejectReason.STRUCTURE),
        (assign("named[0].file", 999), RejectReason.STRUCTURE),
        (lambda m: m.series.add().CopyFrom(m.series[0]), RejectReason.STRUCTURE),
        (lambda m: m.series.add(), RejectReason.STRUCTURE),
        (assign("series[0].label_name[0]", 999), RejectReason.STRUCTURE),
        (assign("series[0].label_value[0]", 0), RejectReason.STRUCTURE),
        (lambda m: m.series[0].label_name.append(1), RejectReason.STRUCTURE),
        (lambda m: m.series[0].label_name.reverse(), RejectReason.STRUCTURE),
        (lambda m: name_label(m, "node"), RejectReason.STRUCTURE),
        (lambda m: name_label(m, "no-dash"), RejectReason.STRUCTURE),
        (lambda m: name_label(m, ""), RejectReason.STRUCTURE),
        (assign("first_number", 1 << 31), RejectReason.STRUCTURE),
        (assign("stacks.shared[0]", 1), RejectReason.STRUCTURE),
        (assign("stacks.shared[1]", 4), RejectReason.STRUCTURE),
        (assign("stacks.fresh[0]", 4), RejectReason.STRUCTURE),
        (lambda m: m.stacks.shared.append(0), RejectReason.STRUCTURE),
        (lambda m: m.stacks.mapping.append(0), RejectReason.STRUCTURE),
        (lambda m: m.stacks.address.pop(), RejectReason.STRUCTURE),
        (assign("stacks.mapping[0]", 4), RejectReason.STRUCTURE),
        (lambda m: retarget(m, MappingKind.MISS), RejectReason.STRUCTURE),
        (lambda m: retarget(m, MappingKind.INTERPRETER), RejectReason.STRUCTURE),
        (assign("samples.rows[0]", 3), RejectReason.STRUCTURE),
        (assign("samples.rows[0]", (1 << 32) - 1), RejectReason.STRUCTURE),
        (lambda m: m.samples.rows.append(0), RejectReason.STRUCTURE),
        (lambda m: m.samples.number.append(1), RejectReason.STRUCTURE),
        (lambda m: m.samples.count.pop(), RejectReason.STRUCTURE),
        (assign("samples.number[0]", -1), RejectReason.STRUCTURE),
        (assign("samples.number[1]", 0), RejectReason.STRUCTURE),
        (assign("samples.number[1]", -2), RejectReason.STRUCTURE),
        (assign("samples.number[4]", 104), RejectReason.STRUCTURE),
        (assign("samples.count[0]", 0), RejectReason.STRUCTURE),
        (assign("samples.count[0]", (1 << 64) - 1), RejectReason.STRUCTURE),
        (assign("samples.count[0]", (1 << 53) - 1), RejectReason.STRUCTURE),
        (assign("period_ns", 3600 * 10**9), None),
        (assign("ledger.taken", 20), RejectReason.LEDGER),
        (assign("ledger.taken_in_epoch", 20), RejectReason.LEDGER),
        (assign("ledger.taken_in_epoch", 1 << 63), RejectReason.LEDGER),
        (assign("ledger.lost_count[0]", 3), RejectReason.LEDGER),
        (assign("ledger.lost_count[0]", (1 << 64) - 2), RejectReason.STRUCTURE),
        (assign("ledger.lost_reason[0]", 0), RejectReason.STRUCTURE),
        (assign("ledger.lost_reason[0]", 999), RejectReason.STRUCTURE),
        (lambda m: m.ledger.lost_reason.append(1), RejectReason.STRUCTURE),
        (
            lambda m: [m.ledger.lost_reason.append(m.ledger.lost_reason[0]), m.ledger.lost_count.append(0)],
            RejectReason.STRUCTURE,
        ),
    ],
)
def test_each_wrong_field_is_refused_with_its_reason(
    change: Callable[[Any], object], reason: RejectReason | None
) -> None:
    """One field of a valid message is changed; None marks the control that is still valid."""
    data = edited(change)
    if reason is None:
        wire.decode(data)
    else:
        assert reject(data) is reason


def segment_columns(message: Any) -> list[Any]:
    mapping = message.mappings[0]
    return [mapping.segment_offset, mapping.segment_vaddr, mapping.segment_size]


def name_label(message: Any, name: str) -> None:
    message.strings.append(name)
    message.series[1].label_name[1] = len(message.strings) - 1
    del message.series[1].label_name[0], message.series[1].label_value[0]


def retarget(message: Any, kind: MappingKind) -> None:
    """The file's mapping becomes one whose addresses are numbers of another table."""
    message.mappings[0].kind = int(kind)
    message.mappings[0].build_id = b""


def test_counts_that_wrap_to_a_small_sum_are_refused() -> None:
    """4,097 counts of 2^52 are 2^64 + 2^52, which 64 bits keep as 2^52."""
    rows = 4097
    batch = example_batch(
        series=((),),
        first_number=rows,
        sample_series=np.zeros(rows, np.uint32),
        sample_number=np.arange(rows, dtype=np.uint32),
        sample_count=np.full(rows, 1 << 52, np.uint64),
        ledger=Ledger(),
    )
    total = int(batch.sample_count.sum())
    wrapped = dataclasses.replace(batch, ledger=Ledger(taken=total, taken_in_epoch=total))
    assert total == 1 << 52
    assert reject(wire.encode(wrapped)) is RejectReason.STRUCTURE


def test_unknown_fields_of_a_later_release_are_ignored() -> None:
    """Version 1 may grow fields; a reader that does not know them reads the rest."""
    raw = wire.serialize(example_batch()) + b"\xf8\x06\x01" + b"\xfa\x06\x03abc"
    assert plain(wire.decode(envelope.wrap(raw))) == plain(example_batch())


def test_a_newer_version_is_said_even_if_the_rest_cannot_be_parsed() -> None:
    """What a newer version means by the other fields is not ours to judge."""
    assert reject(envelope.wrap(b"\x08\x02" + b"\x12\x02\xff\xff")) is RejectReason.VERSION


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", RejectReason.STRUCTURE),
        (b"\x08", RejectReason.PROTOBUF),
        (b"\x12\x05ab", RejectReason.PROTOBUF),
        (b"\x12\x02\xff\xff", RejectReason.PROTOBUF),
        (b"\x0b\x0c", RejectReason.PROTOBUF),
        (b"\xff" * 20, RejectReason.PROTOBUF),
        (b"\x52\x00" * 70_000, RejectReason.TOO_LARGE),
        (b"\x5a\x00" * 2_000_000, RejectReason.TOO_LARGE),
    ],
)
def test_what_is_no_message_of_ours_is_refused(raw: bytes, reason: RejectReason) -> None:
    """Truncated, malformed, groups, and more entries than a message may have."""
    assert reject(envelope.wrap(raw)) is reason


def test_a_bomb_is_refused_by_its_header() -> None:
    """A 10 KB frame that becomes 100 MB, and one that claims 10 GB, cost no memory."""
    honest = zstandard.ZstdCompressor(level=19).compress(bytes(100 << 20))
    assert len(honest) < 20_000
    liar = honest[:4] + b"\xe0" + (10 << 30).to_bytes(8, "little") + honest[10:]
    tracemalloc.start()
    assert reject(honest) is RejectReason.TOO_LARGE
    assert reject(liar) is RejectReason.TOO_LARGE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_frame_whose_header_understates_its_content_is_refused() -> None:
    """The size in the header is the size of the buffer, whatever the blocks say."""
    data = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(70_000))
    assert data[4] == 0xA4
    assert reject(data[:5] + (300).to_bytes(4, "little") + data[9:]) is RejectReason.COMPRESSION


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x28\xb5\x2f\xfd",
        b"PK\x03\x04",
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd",
        wire.encode(example_batch()) + b"x",
        wire.encode(example_batch()) * 2,
        wire.encode(example_batch())[:-1],
        zstandard.ZstdCompressor(write_content_size=False).compress(wire.serialize(example_batch())),
        zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True))
        .compressobj()
        .compress(b"x"),
    ],
)
def test_only_one_whole_frame_of_known_size_is_accepted(data: bytes) -> None:
    """Empty, other formats, skippable frames, trailing bytes, two frames, truncation, unknown size."""
    assert reject(data) is RejectReason.COMPRESSION


def test_limits_refuse_what_exceeds_them() -> None:
    """Each limit is tried one below what the example needs."""
    batch = example_batch()
    data = wire.encode(batch)
    raw = wire.serialize(batch)
    for limits in (
        wire.Limits(compressed_bytes=len(data) - 1),
        wire.Limits(raw_bytes=len(raw) - 1),
        wire.Limits(entries=20),
        wire.Limits(cells=5),
        wire.Limits(rows=4),
        wire.Limits(stacks=3),
        wire.Limits(frames=11),
    ):
        assert reject(data, limits) is RejectReason.TOO_LARGE
    exact = wire.Limits(compressed_bytes=len(data), raw_bytes=len(raw), cells=6, rows=5, stacks=4, frames=12)
    wire.decode(data, limits=exact)


def test_prefixes_cannot_multiply_a_small_message_into_a_large_table() -> None:
    """Stacks of 1,024 frames that share all but one are 2 bytes each on the wire."""
    deep = [[(0, level) for level in range(1024)]] * 3000
    batch = example_batch(mappings=(Mapping(kind=MappingKind.VDSO),), stacks=stack_table(deep))
    data = wire.encode(batch)
    assert len(data) < 10_000
    assert reject(data) is RejectReason.TOO_LARGE


def test_a_stack_deeper_than_the_limit_is_refused() -> None:
    """1,024 frames pass, 1,025 do not."""
    for depth, accepted in ((1024, True), (1025, False)):
        stacks = stack_table([[(0, level) for level in range(depth)]] * 4)
        data = wire.encode(example_batch(mappings=(Mapping(kind=MappingKind.VDSO),), stacks=stacks))
        if accepted:
            wire.decode(data)
        else:
            assert reject(data) is RejectReason.STRUCTURE


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    """Neither as a message nor as a message's content."""
    for message in (data, envelope.wrap(data), envelope.wrap(wire.serialize(example_batch()) + data)):
        try_decoding(message)


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_messages_never_raise_anything_else(data: st.DataObject) -> None:
    """Bits flipped, bytes replaced and ends cut off, before and after compression."""
    raw = bytearray(wire.serialize(example_batch()))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try_decoding(envelope.wrap(bytes(raw[: data.draw(st.integers(1, len(raw)))])))
    packed = bytearray(wire.encode(example_batch()))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try_decoding(bytes(packed))


@given(batches(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_is_refused_or_harmless(batch: Batch, data: st.DataObject) -> None:
    """The frame's checksum sees to it that damage on the way never yields another batch."""
    packed = bytearray(wire.encode(batch))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(DecodeError):
        assert plain(wire.decode(bytes(packed))) == plain(batch)


def try_decoding(data: bytes) -> None:
    try:
        wire.decode(data)
    except DecodeError as error:
        assert error.reason in RejectReason
        assert error.detail
