"""UnwindTable <-> bytes: how tables are kept and travel.

    data    = "ffunwind", version u16, machine u16 (ELF's e_machine), then one zstd frame with its content's size and a
              checksum
    content = base u64, rows u32, rules u32, wide steps u32, wide numbers u32, reasons u32
              rules    RULE_DTYPE[rules]
              steps    u8[rows]: address minus the one of the row before (of the first: minus base); 255: see wide
              wide     u32[]: the steps of 255 and more, in order
              numbers  u8[rows]: of the row's rule; 255: see wide
              wide     u32[]: the numbers of 255 and more, in order
              reasons  each u8 length, name, u64 rows
              all little-endian

Rules are numbered by use and code is dense, so that both columns are mostly bytes that repeat. Of libLLVM's 0.9 million
rows each takes 0.5 bytes, of libc's 0.8.
"""

import re
import struct
from collections.abc import Mapping

import numpy as np
import zstandard
from numpy.typing import NDArray

from fleetflame.cfi.cursor import Cursor
from fleetflame.cfi.elf import EM_X86_64
from fleetflame.cfi.faults import CfaError, CfaFault
from fleetflame.cfi.rules import RULE_BYTES, RULE_DTYPE
from fleetflame.cfi.table import MAX_ROWS, MAX_RULES, U32, UnwindTable

MAGIC = b"ffunwind"
VERSION = 1
LEVEL = 9
"""0.49 bytes a row and 60 ms for libLLVM; 3 takes 20 ms and 0.54, 19 takes 3 s and 0.40. It is done once per build."""
MAX_RAW = MAX_ROWS * 10 + MAX_RULES * RULE_BYTES + (1 << 16)
MAX_WINDOW = 8 << 20
"""What RFC 8878 (3.1.1.1.2) asks every decoder to support."""
MAX_REASONS = 64

_HEAD = struct.Struct("<8sHH")
_CONTENT = struct.Struct("<QIIIII")
_REASON = re.compile(rb"[a-z][a-z0-9_]{0,63}")
_WIDE = 255


def encode(table: UnwindTable) -> bytes:
    """The table as bytes; equal tables give equal bytes."""
    steps, wide_steps = _narrowed(np.diff(table.pc, prepend=np.uint32(0)))
    numbers, wide_numbers = _narrowed(table.rule)
    sizes = len(table), len(table.rules), len(wide_steps) // 4, len(wide_numbers) // 4, len(table.dropped)
    reasons = [
        struct.pack("<B", len(name)) + name.encode() + struct.pack("<Q", count)
        for name, count in sorted(table.dropped.items())
    ]
    content = [
        _CONTENT.pack(table.base, *sizes),
        table.rules.tobytes(),
        steps,
        wide_steps,
        numbers,
        wide_numbers,
        *reasons,
    ]
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True, write_checksum=True)
    return _HEAD.pack(MAGIC, VERSION, EM_X86_64) + compressor.compress(b"".join(content))


def decode(data: bytes) -> UnwindTable:
    """The table that was encoded. Raises CfaError, and nothing else, for bytes that are none: it may be anybody's."""
    content = _content(data)
    cursor = Cursor(content)
    base, rows, rules, wide_steps, wide_numbers, reasons = _CONTENT.unpack(cursor.take(_CONTENT.size))
    if rows > MAX_ROWS or rules > MAX_RULES or reasons > MAX_REASONS:
        raise CfaError(CfaFault.TOO_LARGE, f"{rows} rows, {rules} rules, {reasons} reasons")
    rule_bytes = cursor.take(rules * RULE_BYTES)
    steps = _widened(cursor.take(rows), cursor.take(wide_steps * 4))
    numbers = _widened(cursor.take(rows), cursor.take(wide_numbers * 4))
    dropped = _dropped(cursor, reasons)
    if cursor.more():
        raise CfaError(CfaFault.STRUCTURE, "bytes behind the table")
    pc = np.cumsum(steps, dtype=np.uint64)
    if rows and int(pc[-1]) >= 1 << 32:
        raise CfaError(CfaFault.STRUCTURE, "code extends over more than 4 GiB")
    return UnwindTable(
        pc=pc.astype(np.uint32),
        base=base,
        rule=numbers,
        rules=np.frombuffer(rule_bytes, RULE_DTYPE),
        dropped=dropped,
    )


def _content(data: bytes) -> bytes:
    if len(data) < _HEAD.size:
        raise CfaError(CfaFault.TRUNCATED, f"{len(data)} bytes")
    magic, version, machine = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise CfaError(CfaFault.STRUCTURE, "not an unwind table")
    if version != VERSION:
        raise CfaError(CfaFault.VERSION, f"version {version}, not {VERSION}")
    if machine != EM_X86_64:
        raise CfaError(CfaFault.UNSUPPORTED, f"machine {machine}: not x86-64")
    frame = memoryview(data)[_HEAD.size :]
    try:
        parameters = zstandard.get_frame_parameters(frame)
        size = parameters.content_size
        if size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR) or size > MAX_RAW:
            raise CfaError(CfaFault.TOO_LARGE, f"{size} bytes when unpacked, {MAX_RAW} at most")
        if parameters.window_size > MAX_WINDOW or parameters.dict_id:
            raise CfaError(CfaFault.COMPRESSION, "the frame needs a larger window or a dictionary")
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        return decompressor.decompress(frame, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CfaError(CfaFault.COMPRESSION, str(error)) from None


def _narrowed(values: U32) -> tuple[bytes, bytes]:
    wide = values >= _WIDE
    return np.minimum(values, _WIDE).astype(np.uint8).tobytes(), values[wide].astype("<u4").tobytes()


def _widened(narrow: bytes, wide: bytes) -> U32:
    values: NDArray[np.uint32] = np.frombuffer(narrow, np.uint8).astype(np.uint32)
    which = np.flatnonzero(values == _WIDE)
    if len(which) * 4 != len(wide):
        raise CfaError(CfaFault.STRUCTURE, f"{len(wide) // 4} wide numbers, {len(which)} wanted")
    values[which] = np.frombuffer(wide, "<u4")
    return values


def _dropped(cursor: Cursor, reasons: int) -> Mapping[str, int]:
    dropped = {}
    for _ in range(reasons):
        name = cursor.take(cursor.byte())
        if not _REASON.fullmatch(name) or name.decode() in dropped:
            raise CfaError(CfaFault.STRUCTURE, f"reason {name[:16]!r}")
        dropped[name.decode()] = cursor.unsigned(8)
    return dropped
