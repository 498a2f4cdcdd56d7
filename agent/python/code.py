"""A code object in another process's memory -> name, file, table of lines.

The process may have put anything there, and may go on changing it: all sizes are bounded, and what is taken for a code
object has to be one by its type, and to have the checksum that the kernel saw while the frame was running. So a name is
either the right one or none: an address that was given to another object meanwhile is a miss.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from agent.python.layouts import Layout, LineKind
from agent.python.lines import line_at

Read = Callable[[int, int], bytes]
"""(address, length) -> the bytes there, fewer where they end."""

MAX_TEXT = 1024
"""Characters kept of a name or a file's path. Qualified names of nested classes have some 100."""
MAX_TABLE = 60 * 1024
"""Bytes of a table of lines: generated functions of 5,000 lines have that. Beyond it a line is not known."""

CHECKED_WORDS = 11
_MULTIPLIER = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_TYPE = 8
_BYTES_SIZE, _BYTES_DATA = 16, 32
_TEXT_LENGTH, _TEXT_STATE = 16, 32
_GUESS = 256
"""Bytes read of a string at once: most are shorter."""


class CodeMiss(StrEnum):
    """Why a code object has no name."""

    GONE = "gone"
    """The process ended, or may not be read, before it was."""
    CHANGED = "changed"
    """Something else lies at the address."""
    MALFORMED = "malformed"
    """It says of itself what cannot be."""
    TOO_MANY = "too_many"
    """The window's budget for reading was used up."""
    INTERNAL = "internal"
    """It is the interpreter's own, and Python's own stacks do not show it either: there is nothing to name."""


@dataclass(frozen=True, slots=True)
class Code:
    """A function. `name` is qualified from 3.11 on."""

    name: str
    file: str
    first_line: int
    kind: LineKind
    table: bytes

    def line(self, offset: int) -> int:
        """The line of the instruction at `offset`, 0 if it has none."""
        return line_at(self.kind, self.table, self.first_line, offset)


def checksum(words: bytes) -> int:
    """Of the CHECKED_WORDS words that `Layout.code_checked` tells of; `python_checksum` of bpf/python.h."""
    value = 0
    for (word,) in struct.iter_unpack("<Q", words):
        value = ((value ^ word) * _MULTIPLIER) & _WORD
        value ^= value >> 29
    return value & 0xFFFFFFFF


def read_code(read: Read, layout: Layout, code_type: int, address: int, expected: int) -> Code | CodeMiss:
    """The code object at `address`, whose type object is at `code_type`. Raises what `read` does."""
    data = read(address, layout.code_lines + 8)
    if len(data) < layout.code_lines + 8:
        return CodeMiss.CHANGED
    if _pointer(data, _TYPE) != code_type or checksum(data[layout.code_checked :]) != expected:
        return CodeMiss.CHANGED
    if data[layout.code_name : layout.code_name + 8] == data[layout.code_filename : layout.code_filename + 8]:
        # _Py_InitCleanup (3.12 on: runs below an inlined `__init__`) has one constant for everything.
        return CodeMiss.INTERNAL
    name = _read_text(read, layout, _pointer(data, layout.code_name))
    file = _read_text(read, layout, _pointer(data, layout.code_filename))
    if name is None or file is None:
        return CodeMiss.MALFORMED
    table = _read_bytes(read, _pointer(data, layout.code_lines))
    # What the pointers led to was freed only if the code object was: then something in it has changed since.
    if read(address, len(data))[layout.code_checked :] != data[layout.code_checked :]:
        return CodeMiss.CHANGED
    (first_line,) = struct.unpack_from("<i", data, layout.code_firstlineno)
    return Code(name, file, max(0, first_line), layout.lines, table)


def _pointer(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _read_text(read: Read, layout: Layout, address: int) -> str | None:
    """A str object's characters, MAX_TEXT of them at most. None if it is none."""
    data = read(address, _GUESS)
    if len(data) < layout.text_ascii:
        return None
    (length,) = struct.unpack_from("<q", data, _TEXT_LENGTH)
    (state,) = struct.unpack_from("<I", data, _TEXT_STATE)
    width, compact, ascii_only = state >> 2 & 7, state >> 5 & 1, state >> 6 & 1
    if width not in _CODECS or not compact or length < 0 or (ascii_only and width != 1):
        return None
    start = layout.text_ascii if ascii_only else layout.text_compact
    wanted = min(length, MAX_TEXT) * width
    text = data[start : start + wanted]
    if len(text) < wanted:
        text = read(address + start, wanted)
    return _printable(text.decode(_CODECS[width], "backslashreplace")) if len(text) == wanted else None


_CODECS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _read_bytes(read: Read, address: int) -> bytes:
    """A bytes object's content; b"" if it is none, or is too long."""
    data = read(address, _GUESS)
    if len(data) < _BYTES_DATA:
        return b""
    (length,) = struct.unpack_from("<q", data, _BYTES_SIZE)
    if not 0 <= length <= MAX_TABLE:
        return b""
    table = data[_BYTES_DATA : _BYTES_DATA + length]
    if len(table) < length:
        table = read(address + _BYTES_DATA, length)
    return table if len(table) == length else b""
