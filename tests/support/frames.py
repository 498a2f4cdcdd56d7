"""Small ELF files with unwind information, byte by byte."""

import struct
from collections.abc import Iterable, Sequence

CODE = 0x1000
CODE_SIZE = 0x10000
FRAMES = 0x20000
"""Addresses: code at CODE, .eh_frame at FRAMES."""

START = bytes([0x0C, 7, 8, 0x90, 1])
"""What compilers begin with: def_cfa rsp + 8, return address at CFA - 8."""


def uleb(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def sleb(value: int) -> bytes:
    out = bytearray()
    while not -64 <= value < 64:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value & 0x7F])


def block(data: bytes) -> bytes:
    return uleb(len(data)) + data


def entry(body: bytes, *, wide: bool = False, pad: int = 4) -> bytes:
    """With its length before it, padded with no-ops."""
    body += bytes(-(len(body) + 4) % pad)
    return (b"\xff\xff\xff\xff" + struct.pack("<Q", len(body)) if wide else struct.pack("<I", len(body))) + body


def cie(
    program: bytes = START,
    *,
    version: int = 1,
    augmentation: bytes = b"zR",
    data: bytes = b"\x1b",
    factors: tuple[int, int] = (1, -8),
    ra: int = 16,
    eh: bool = True,
    wide: bool = False,
) -> bytes:
    identifier = b"\0\0\0\0" if eh else b"\xff" * (8 if wide else 4)
    sizes = b"\x08\x00" if version == 4 else b""
    sized = block(data) if augmentation.startswith(b"z") else data
    body = bytes([version]) + augmentation + b"\0" + sizes + uleb(factors[0]) + sleb(factors[1]) + uleb(ra) + sized
    return entry(identifier + body + program, wide=wide)


class Frames:
    """Builds an .eh_frame of pc-relative sdata4 addresses: `cie` and `fde` append."""

    def __init__(self) -> None:
        self.data = b""
        self._cie = 0

    def cie(self, program: bytes = START, **options: object) -> "Frames":
        self._cie = len(self.data)
        self.data += cie(program, **options)  # type: ignore[arg-type]
        return self

    def fde(self, begin: int, size: int, program: bytes = b"", *, wide: bool = False) -> "Frames":
        at = len(self.data) + (12 if wide else 4)
        pointer = struct.pack("<iI", begin - (FRAMES + at + 4), size)
        self.data += entry(struct.pack("<I", at - self._cie) + pointer + b"\0" + program, wide=wide)
        return self

    def raw(self, data: bytes) -> "Frames":
        self.data += data
        return self


def header(frames: bytes, table: Sequence[tuple[int, int]] | None) -> bytes:
    """An .eh_frame_hdr directly before `frames`, whose table has (function, FDE) as distances from itself."""
    encoding = b"\xff\xff" if table is None else b"\x03\x3b"
    rows = [] if table is None else [struct.pack("<I", len(table)), *(struct.pack("<ii", *row) for row in table)]
    size = 8 + sum(map(len, rows))
    return b"\x01\x1b" + encoding + struct.pack("<i", size - 4) + b"".join(rows)


def elf(
    sections: Iterable[tuple[bytes, bytes, int]] = (),
    *,
    headers: Iterable[tuple[int, int, bytes, int]] = (),
    machine: int = 62,
    kind: int = 3,
) -> bytes:
    """`sections` are (name, content, flags), .eh_frame at FRAMES; `headers` are (type, flags, content, address).

    A PT_LOAD of CODE_SIZE executable bytes at CODE is always there.
    """
    programs = [(1, 5, b"", CODE), *headers]
    at = 64 + 56 * len(programs)
    body, table = b"", b""
    for type_, flags, content, address in programs:
        memory = len(content) or CODE_SIZE
        table += struct.pack("<IIQQQQQQ", type_, flags, at + len(body), address, address, len(content), memory, 1)
        body += content
    names, rows = b"\0", [bytes(64)]
    listed = list(sections)
    for name, content, flags in listed:
        address = FRAMES if name == b".eh_frame" else 0
        rows.append(struct.pack("<IIQQQQIIQQ", len(names), 1, flags, address, at + len(body), len(content), 0, 0, 1, 0))
        body += content
        names += name + b"\0"
    rows.append(struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at + len(body), len(names), 0, 0, 1, 0))
    body += names
    shoff, shnum = (at + len(body), len(rows)) if listed else (0, 0)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    fields = (kind, machine, 1, 0, 64, shoff, 0, 64, 56, len(programs), 64, shnum, max(shnum - 1, 0))
    return head + struct.pack("<HHIQQQIHHHHHH", *fields) + table + body + b"".join(rows if listed else [])


def eh_frame(frames: Frames) -> bytes:
    return elf([(b".eh_frame", frames.data, 2)])
