"""CIEs: what the functions that refer to one have in common (DWARF 5, section 6.4.1; LSB core generic 5.0, 10.6.1)."""

from dataclasses import dataclass

from fleetflame.cfi.cursor import Cursor
from fleetflame.cfi.exact import SAME, Alignment, How, Machine, Saved, State
from fleetflame.cfi.faults import CfaError, CfaFault
from fleetflame.cfi.pointers import Format, skip_pointer
from fleetflame.cfi.rulebook import RA_OFFSET
from fleetflame.cfi.rules import REGISTERS, RIP

MAX_ALIGNMENT = 128
"""Of either factor. On x86-64 they are 1 and -8; bounded so that products of columns do not overflow."""
MAX_PROGRAM = 1 << 12
"""Initial instructions: 5 bytes and padding, or the 60 of a signal's frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cie:
    """encoding   of the addresses in its FDEs
    sized      its FDEs have augmentation data, with their length before them
    signal     they are frames that were interrupted
    initial    what holds at a function's start
    """

    alignment: Alignment
    encoding: int
    sized: bool
    signal: bool
    initial: State

    @property
    def plain(self) -> bool:
        """Whether `initial` is of the form that columns are made of: what the psABI has at a function's start."""
        register, rbp = self.initial.register, self.initial.rbp
        return (
            self.initial.expression is None
            and register is not None
            and 0 <= register < REGISTERS
            and 0 <= self.initial.offset < 1 << 31
            and rbp == SAME
            and self.initial.ra == Saved(How.OFFSET, RA_OFFSET)
            and self.alignment.ra == RIP
        )


def parse_cie(body: bytes) -> Cie:
    """The CIE whose bytes after the CIE id these are. Raises CfaError for any that is not understood entirely."""
    cursor = Cursor(body)
    version = cursor.byte()
    if version not in (1, 3, 4):
        raise CfaError(CfaFault.STRUCTURE, f"CIE version {version}")
    augmentation = cursor.text()
    if version == 4 and (sizes := cursor.take(2)) != b"\x08\x00":
        raise CfaError(CfaFault.STRUCTURE, f"address size {sizes[0]}, segment selector size {sizes[1]}")
    if augmentation == b"eh":
        # Before GCC 3: a pointer to the exception table.
        cursor.take(8)
    code, data = cursor.uleb(), cursor.sleb()
    ra = cursor.byte() if version == 1 else cursor.uleb()
    if not 0 < code <= MAX_ALIGNMENT or not -MAX_ALIGNMENT <= data <= MAX_ALIGNMENT:
        raise CfaError(CfaFault.STRUCTURE, f"alignment factors {code} and {data}")
    encoding, signal, sized = _augmented(augmentation, cursor)
    alignment = Alignment(code, data, ra)
    program = cursor.data[cursor.at :]
    if len(program) > MAX_PROGRAM:
        raise CfaError(CfaFault.STRUCTURE, f"{len(program)} bytes of initial instructions")
    *_, (_, initial) = Machine(alignment).rows(program)
    return Cie(alignment=alignment, encoding=encoding, sized=sized, signal=signal, initial=initial)


def _augmented(augmentation: bytes, cursor: Cursor) -> tuple[int, bool, bool]:
    """(encoding of FDEs' pointers, signal frame, FDEs have sized data); the cursor is behind it afterwards."""
    if augmentation in (b"", b"eh"):
        return Format.ABSPTR, False, False
    if not augmentation.startswith(b"z"):
        raise CfaError(CfaFault.STRUCTURE, f"augmentation {augmentation[:16]!r}")
    data = Cursor(cursor.block())
    encoding: int = Format.ABSPTR
    signal = False
    for letter in augmentation[1:]:
        if letter == ord("R"):
            encoding = data.byte()
        elif letter == ord("L"):
            data.byte()
        elif letter == ord("P"):
            skip_pointer(data)
        elif letter == ord("S"):
            signal = True
        elif letter not in b"BG":
            # B and G (AArch64: pointer authentication, memory tags) have no data. Of others nobody knows whether they
            # have, so that an R behind them could not be read.
            raise CfaError(CfaFault.STRUCTURE, f"augmentation {augmentation[:16]!r}")
    return encoding, signal, True
