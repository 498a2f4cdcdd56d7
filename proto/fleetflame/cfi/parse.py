""".eh_frame and .debug_frame -> the functions in it, as columns (DWARF 5, section 6.4.1; LSB core generic 5.0, 10.6.1).

length u32, or 0xffffffff and length u64; 0: a terminator, which linkers leave in between as well
id     .eh_frame: u32, 0 for a CIE, else the distance back from here to the FDE's CIE
       .debug_frame: u32 or u64 as the length is, all ones for a CIE, else the CIE's offset
CIE:   see `cie`
FDE:   address of the function and its size, encoded as its CIE says; augmentation data; instructions
"""

import struct
import sys
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from fleetflame.cfi.cie import Cie, parse_cie
from fleetflame.cfi.elf import FrameSection
from fleetflame.cfi.faults import CfaError, CfaFault, Dropped
from fleetflame.cfi.leb import I64, U64, Mask, fixed, lebs
from fleetflame.cfi.pointers import read_numbers, read_pointers

MAX_ENTRIES = 1 << 22
"""CIEs, FDEs and terminators of a section. libLLVM has 95,000."""
MAX_CIES = 1 << 16
"""Distinct ones. A .debug_frame has one for each object file, but they are the same few bytes over and over."""
MAX_CIE = 1 << 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """FDEs in the order of the section; whose address is not known is not among them.

    begin, size   u64[n]  ELF virtual address and bytes of the function; begin + size may wrap: nothing is checked yet
    start, end    i64[n]  its instructions in `section.data`
    cie           i64[n]  index into `cies`
    """

    section: FrameSection
    begin: U64
    size: U64
    start: I64
    end: I64
    cie: I64
    cies: tuple[Cie, ...]
    dropped: Counter[str]

    def __len__(self) -> int:
        return len(self.begin)

    def only(self, which: Mask) -> "Functions":
        """Some of them."""
        return replace(
            self,
            begin=self.begin[which],
            size=self.size[which],
            start=self.start[which],
            end=self.end[which],
            cie=self.cie[which],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entries:
    """Positions of entries: of the id, of what follows the id, of the end."""

    id: I64
    body: I64
    end: I64
    cie: I64
    """Where the FDE's CIE begins (its length field); -1: this is a CIE."""
    at: I64


def parse_functions(section: FrameSection) -> Functions:
    """The section's FDEs. Raises CfaError where its entries do not follow upon each other up to its end."""
    entries = _entries(section)
    is_cie = entries.cie == -1
    cies, number_of = _cies(section, entries, np.flatnonzero(is_cie))
    fde = np.flatnonzero(~is_cie)
    cie = _look_up(entries.cie[fde], entries.at[is_cie], number_of)
    dropped: Counter[str] = Counter()
    broken = int(np.count_nonzero(cie < 0))
    if broken:
        # Where such a function begins is not known either: that is in its CIE's encoding.
        dropped[Dropped.CIE] = broken
        fde, cie = fde[cie >= 0], cie[cie >= 0]
    columns = _Addresses(section, cies, cie, entries.body[fde], entries.end[fde])
    unknown = int(np.count_nonzero(~columns.ok))
    if unknown:
        dropped[Dropped.POINTER] = unknown
    ok = columns.ok
    return Functions(
        section=section,
        begin=columns.begin[ok],
        size=columns.size[ok],
        start=columns.at[ok],
        end=entries.end[fde][ok],
        cie=cie[ok],
        cies=cies,
        dropped=dropped,
    )


def _entries(section: FrameSection) -> _Entries:
    """A loop over entries, since each says where the next one is; 0.1 us for each."""
    data, size = section.data.data, len(section.data)
    u32, u64 = struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from
    # Entries are padded to 4 bytes at least by all who write them; so a length is an element of this.
    words = data[: size // 4 * 4].cast("I") if sys.byteorder == "little" else None
    at, position, wide = [], 0, []
    for _ in range(MAX_ENTRIES):
        if position + 4 > size:
            break
        length = u32(data, position)[0] if position & 3 or words is None else words[position >> 2]
        if length:
            at.append(position)
            if length == 0xFFFFFFFF:
                if position + 12 > size:
                    raise CfaError(CfaFault.TRUNCATED, f"entry at 0x{position:x}: length beyond the section")
                wide.append(len(at) - 1)
                length = u64(data, position + 4)[0] + 8
        elif section.terminated:
            break
        position += 4 + length
    else:
        raise CfaError(CfaFault.TOO_LARGE, f"more than {MAX_ENTRIES} entries")
    if position > size:
        raise CfaError(CfaFault.TRUNCATED, f"entry at 0x{at[-1]:x}: ends {position - size} bytes behind the section")
    return _with_ids(section, np.array(at, np.int64), np.array(wide, np.int64))


def _with_ids(section: FrameSection, at: I64, wide: I64) -> _Entries:
    data = section.data
    id_at = at + 4
    id_at[wide] += 8
    end = id_at + fixed(data, at, 4).view(np.int64)
    end[wide] = id_at[wide] + fixed(data, at[wide] + 4, 8).view(np.int64)
    ids = fixed(data, id_at, 4).view(np.int64)
    body = id_at + 4
    cie = id_at - ids
    cie[ids == 0] = -1
    if not section.eh:
        # In .eh_frame the id has 4 bytes whatever the length has (LSB; LLVM reads it so, readelf does not).
        cie = ids
        cie[ids == 0xFFFFFFFF] = -1
        body[wide] += 4
        # An offset of 2^63 and more is negative here: it is no CIE's, and -1 is what marks a CIE in this form too.
        cie[wide] = fixed(data, id_at[wide], 8).view(np.int64)
    whole = body <= end
    return _Entries(id=id_at[whole], body=body[whole], end=end[whole], cie=cie[whole], at=at[whole])


def _cies(section: FrameSection, entries: _Entries, which: I64) -> tuple[tuple[Cie, ...], I64]:
    """The distinct CIEs, and of each of `which` its index among them, or -1 if it is not understood."""
    raw = section.data.data
    cies: list[Cie] = []
    known: dict[bytes, int] = {}
    number = np.full(len(which), -1, np.int64)
    for row, (start, end) in enumerate(zip(entries.body[which].tolist(), entries.end[which].tolist(), strict=True)):
        if end - start > MAX_CIE:
            continue
        body = bytes(raw[start:end])
        if body not in known:
            if len(known) >= MAX_CIES:
                raise CfaError(CfaFault.TOO_LARGE, f"more than {MAX_CIES} distinct CIEs")
            known[body] = _parsed(body, cies)
        number[row] = known[body]
    return tuple(cies), number


def _parsed(body: bytes, cies: list[Cie]) -> int:
    try:
        cies.append(parse_cie(body))
    except CfaError:
        # Its functions are counted as Dropped.CIE.
        return -1
    return len(cies) - 1


def _look_up(wanted: I64, at: I64, number: I64) -> I64:
    """Of each wanted position the number of the CIE there, -1 if there is none. `at` ascends."""
    if not len(at):
        return np.full(len(wanted), -1, np.int64)
    where = np.minimum(np.searchsorted(at, wanted), len(at) - 1)
    return np.where(at[where] == wanted, number[where], -1)


class _Addresses:
    """begin, size and the position of the instructions, of each FDE, decoded for all of one encoding at once."""

    def __init__(self, section: FrameSection, cies: tuple[Cie, ...], cie: I64, at: I64, end: I64) -> None:
        self._section = section
        self.begin = np.zeros(len(cie), np.uint64)
        self.size = np.zeros(len(cie), np.uint64)
        self.at = at.copy()
        self.ok = np.zeros(len(cie), bool)
        encodings = np.array([each.encoding for each in cies], np.int64)[cie]
        for encoding in np.unique(encodings).tolist():
            self._decode(encoding, np.flatnonzero(encodings == encoding), end)
        sized = np.array([each.sized for each in cies], bool)[cie] & self.ok
        which = np.flatnonzero(sized)
        length = lebs(section.data, self.at[which], end[which])
        room = (end[which] - length.next).astype(np.uint64)
        fits = length.ok & (length.value <= room)
        self.at[which] = length.next + np.where(fits, length.value, 0).astype(np.int64)
        self.ok[which] = fits

    def _decode(self, encoding: int, which: I64, end: I64) -> None:
        begin = read_pointers(self._section, encoding, self.at[which], end[which])
        size = read_numbers(self._section, encoding, begin.next, end[which])
        self.begin[which], self.size[which], self.at[which] = begin.value, size.value, size.next
        self.ok[which] = begin.ok & size.ok
