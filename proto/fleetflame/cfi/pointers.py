"""Encoded addresses in unwind information (LSB core generic 5.0, section 10.5): of many functions at once, of one."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from fleetflame.cfi.cursor import Cursor
from fleetflame.cfi.elf import FrameSection
from fleetflame.cfi.faults import CfaError, CfaFault
from fleetflame.cfi.leb import I64, U64, Mask, extend, fixed, lebs


class Format(IntEnum):
    """Lower four bits of an encoding."""

    ABSPTR = 0x0
    ULEB128 = 0x1
    UDATA2 = 0x2
    UDATA4 = 0x3
    UDATA8 = 0x4
    SLEB128 = 0x9
    SDATA2 = 0xA
    SDATA4 = 0xB
    SDATA8 = 0xC


class Base(IntEnum):
    """Bits 4 to 6: what is to be added. The others (text, function, aligned) nobody uses on x86-64."""

    ABSOLUTE = 0x00
    PCREL = 0x10
    DATAREL = 0x30


INDIRECT = 0x80
"""Bit 7: the address is in memory that has no contents before the program runs."""
OMIT = 0xFF
WIDTH = {
    Format.ABSPTR: 8,
    Format.UDATA2: 2,
    Format.UDATA4: 4,
    Format.UDATA8: 8,
    Format.SDATA2: 2,
    Format.SDATA4: 4,
    Format.SDATA8: 8,
}
_SIGNED = {Format.SLEB128, Format.SDATA2, Format.SDATA4, Format.SDATA8}


class Pointers(NamedTuple):
    """Values modulo 2^64, the positions behind them, and which could be read."""

    value: U64
    next: I64
    ok: Mask


def read_pointers(section: FrameSection, encoding: int, at: I64, end: I64) -> Pointers:
    """The addresses at each position `at`, which have to end before `end`."""
    base = _base(section, encoding)
    numbers = read_numbers(section, encoding, at, end)
    if base is None:
        return numbers._replace(ok=np.zeros(len(at), bool))
    value = numbers.value + np.uint64(base)
    if encoding & 0x70 == Base.PCREL:
        value += at.view(np.uint64)
    return numbers._replace(value=value)


def read_numbers(section: FrameSection, encoding: int, at: I64, end: I64) -> Pointers:
    """As `read_pointers`, with nothing added: how sizes are encoded."""
    data, form = section.data, encoding & 0x0F
    if form in (Format.ULEB128, Format.SLEB128):
        return Pointers(*lebs(data, at, end, signed=form == Format.SLEB128))
    if form not in WIDTH:
        return Pointers(np.zeros(len(at), np.uint64), at, np.zeros(len(at), bool))
    width = WIDTH[Format(form)]
    value = fixed(data, at, width)
    return Pointers(extend(value, width) if form in _SIGNED else value, at + width, at + width <= end)


def read_pointer(cursor: Cursor, section: FrameSection, encoding: int, *, start: int) -> int:
    """The address at the cursor, whose data begin at `start` of the section. Raises CfaError if it cannot be read."""
    base, form = _base(section, encoding), encoding & 0x0F
    if base is None:
        raise CfaError(CfaFault.STRUCTURE, f"pointer encoding 0x{encoding:02x}")
    if encoding & 0x70 == Base.PCREL:
        base += start + cursor.at
    return (base + _number(cursor, form)) % (1 << 64)


def skip_pointer(cursor: Cursor) -> None:
    """Moves behind an encoding and the address in it (a personality routine's, which may be indirect)."""
    encoding = cursor.byte()
    if encoding != OMIT:
        _number(cursor, encoding & 0x0F)


def _number(cursor: Cursor, form: int) -> int:
    if form == Format.ULEB128:
        return cursor.uleb()
    if form == Format.SLEB128:
        return cursor.sleb()
    if form not in WIDTH:
        raise CfaError(CfaFault.STRUCTURE, f"pointer format {form}")
    width = WIDTH[Format(form)]
    return cursor.signed(width) if form in _SIGNED else cursor.unsigned(width)


def _base(section: FrameSection, encoding: int) -> int | None:
    """What is added to all addresses of this encoding, but for the position of pc-relative ones. None: not known."""
    if encoding & INDIRECT:
        return None
    known = {Base.ABSOLUTE: 0, Base.PCREL: section.address, Base.DATAREL: section.data_base}
    return known.get(encoding & 0x70)  # type: ignore[call-overload, no-any-return]
