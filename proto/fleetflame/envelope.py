"""The outside of a message: one zstd frame around one protobuf message. What a stranger sent is measured here, before
anything is allocated for it.

    data  = one zstd frame, content size in its header, nothing after it
    raw   = a protobuf message of few fields

A frame states what it will become, so that a bomb is refused by its header; one that lies stops at the stated size. A
protobuf message of 4 MiB can hold two million empty submessages, each 30 times as large in memory, so that its
outermost fields are counted before it is parsed.
"""

from dataclasses import dataclass

import zstandard

from fleetflame import subjects
from fleetflame.errors import DecodeError, RejectReason

LEVEL = 3
"""zstd's default. `bench/wire.py` prints what the others give: 9 saves some 4 % for six times the time."""

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_WINDOW_BYTES = 8 << 20
"""What RFC 8878 (3.1.1.1.2) asks every decoder to support."""

VERSION_FIELD = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one message may hold. An agent splits its windows to stay below; a receiver refuses what is above.

    With the defaults the worst message that we could think of takes a quarter of a second and 60 MB: 2 Mi frames are 24
    MB, twice for a moment, and the parser's own copy of 4 MiB of one-byte numbers is 32 MB.
    """

    compressed_bytes: int = subjects.MAX_MESSAGE_BYTES
    raw_bytes: int = 4 << 20
    entries: int = 1 << 14
    """Strings + mappings + named frames + series. These, and not columns, are what decoding takes its time for."""
    cells: int = 1 << 16
    """Labels of all series + segments of all mappings."""
    rows: int = 1 << 18
    stacks: int = 1 << 16
    frames: int = 1 << 21
    """Of all stacks together, after expansion."""


DEFAULT = Limits()


def wrap(raw: bytes) -> bytes:
    """`raw` as one zstd frame with its content size and a checksum, by which a flipped bit is found."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True, write_checksum=True)
    return compressor.compress(raw)


def unwrap(data: bytes, limits: Limits = DEFAULT) -> bytes:
    """The content of the one frame that `data` is. Raises DecodeError with TOO_LARGE or COMPRESSION."""
    if len(data) > limits.compressed_bytes:
        raise DecodeError(RejectReason.TOO_LARGE, f"{len(data)} bytes, {limits.compressed_bytes} at most")
    if data[:4] != ZSTD_MAGIC:
        raise DecodeError(RejectReason.COMPRESSION, "not a zstd frame")
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            raise DecodeError(RejectReason.COMPRESSION, "the frame does not state its content's size")
        if frame.content_size > limits.raw_bytes:
            detail = f"{frame.content_size} bytes when unpacked, {limits.raw_bytes} at most"
            raise DecodeError(RejectReason.TOO_LARGE, detail)
        if frame.window_size > MAX_WINDOW_BYTES or frame.dict_id:
            raise DecodeError(RejectReason.COMPRESSION, "the frame needs a larger window or a dictionary")
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        return decompressor.decompress(data, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DecodeError(RejectReason.COMPRESSION, str(error)) from None


def check_fields(raw: bytes, *, version: int, entries: int) -> None:
    """Walks the outermost fields of a protobuf message without parsing it.

    Raises DecodeError: VERSION if field 1 is above `version` (said first, for what a newer version means by the rest is
    not ours to judge), TOO_LARGE for more than `entries` fields, PROTOBUF if it is no sequence of fields.
    """
    at, count, end = 0, 0, len(raw)
    while at < end:
        count += 1
        if count > entries:
            raise DecodeError(RejectReason.TOO_LARGE, f"more than {entries} entries")
        tag, at = _varint(raw, at)
        match tag & 7:
            case 0:
                value, at = _varint(raw, at)
                if tag >> 3 == VERSION_FIELD and value > version:
                    raise DecodeError(RejectReason.VERSION, f"version {value}, this is a reader of {version}")
            case 2:
                size, at = _varint(raw, at)
                at += size
            case 1:
                at += 8
            case 5:
                at += 4
            case wire_type:
                raise DecodeError(RejectReason.PROTOBUF, f"wire type {wire_type} at byte {at}")
    if at != end:
        raise DecodeError(RejectReason.PROTOBUF, "truncated")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise DecodeError(RejectReason.PROTOBUF, "truncated")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DecodeError(RejectReason.PROTOBUF, f"a number of more than ten bytes before byte {at}")
