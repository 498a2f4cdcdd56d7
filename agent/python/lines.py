"""The line of an instruction, from the table that a code object has. Pure, total, for tables that say anything.

LNOTAB     pairs: bytes of code, signed lines         (Objects/lnotab_notes.txt up to 3.9)
RANGES     pairs: bytes of code, signed lines; -128: these bytes have no line      (PEP 626)
LOCATIONS  1kkkklll: kind of entry, instructions - 1; then numbers by kind         (Objects/locations.md)
"""

from agent.python.layouts import LineKind

NO_LINE = 0

_NO_COLUMNS, _LONG, _NONE = 13, 14, 15
_NO_LINE_DELTA = -128


def line_at(kind: LineKind, table: bytes, first: int, offset: int) -> int:
    """The line of the instruction at `offset` bytes, `first` before the first one, NO_LINE where none is said."""
    if offset < 0:
        return first
    match kind:
        case LineKind.LNOTAB:
            line = _of_lnotab(table, first, offset)
        case LineKind.RANGES:
            line = _of_ranges(table, first, offset)
        case LineKind.LOCATIONS:
            line = _of_locations(table, first, offset)
    return line if 0 < line < 1 << 31 else NO_LINE


def _of_lnotab(table: bytes, first: int, offset: int) -> int:
    at, line = 0, first
    for i in range(0, len(table) - 1, 2):
        at += table[i]
        if at > offset:
            break
        line += _signed(table[i + 1])
    return line


def _of_ranges(table: bytes, first: int, offset: int) -> int:
    end, line = 0, first
    for i in range(0, len(table) - 1, 2):
        end += table[i]
        delta = _signed(table[i + 1])
        if delta != _NO_LINE_DELTA:
            line += delta
        if offset < end:
            return NO_LINE if delta == _NO_LINE_DELTA else line
    return NO_LINE


def _of_locations(table: bytes, first: int, offset: int) -> int:
    at, end, line = 0, 0, first
    while at < len(table):
        kind = table[at] >> 3 & 15
        end += ((table[at] & 7) + 1) * 2
        at += 1
        if 10 <= kind < _NO_COLUMNS:
            line += kind - 10
        elif kind in (_NO_COLUMNS, _LONG):
            delta, _after = _varint(table, at)
            line += -(delta >> 1) if delta & 1 else delta >> 1
        if offset < end:
            return NO_LINE if kind == _NONE else line
        # Only the first byte of an entry has its top bit set.
        while at < len(table) and not table[at] & 0x80:
            at += 1
    return NO_LINE


def _varint(table: bytes, at: int) -> tuple[int, int]:
    """Six bits a byte, lowest first; bit 6: there is more. Six of them are more than a line number needs."""
    value, shift = 0, 0
    while at < len(table) and shift < 36:
        value |= (table[at] & 63) << shift
        shift += 6
        at += 1
        if not table[at - 1] & 64:
            break
    return value, at


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte
