"""Symbols that an ELF file exports, found by name through its GNU hash table, as the dynamic linker does. Pure.

One symbol costs some five small reads, however many there are, so that every file of every process can be asked. What a
hostile file says is bounded: MAX_CHAIN symbols are compared, and offsets lead nowhere but into the file.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from agent.elf import PT_DYNAMIC, PT_LOAD, Header, ProgramHeader, ReadAt, iter_program_headers, parse_header

MAX_DYNAMIC = 16 * 1024
"""Bytes of the dynamic section: 1,024 entries. Real ones have 30."""
MAX_CHAIN = 64
"""Symbols of one bucket. Linkers aim at four."""
MAX_NAME = 64

_DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 5, 6, 0x6FFFFEF5


class Symbol(NamedTuple):
    """An ELF virtual address and how many bytes lie there."""

    value: int
    size: int


class DynamicSymbols:
    """The exports of one 64-bit file. Nothing is found in a file without a GNU hash table."""

    def __init__(self, read_at: ReadAt) -> None:
        self._read_at = read_at
        header = parse_header(read_at(0, 64))
        headers = tuple(iter_program_headers(read_at, header)) if header else ()
        self._loads = tuple(h for h in headers if h.type == PT_LOAD)
        self._tables = self._read_dynamic(header, headers)
        self._hash = self._tables.get(_DT_GNU_HASH, 0)
        counts = self.read(self._hash, 16) if self._hash else b""
        self._buckets, self._first, self._words, self._shift = (
            struct.unpack("<4I", counts) if len(counts) == 16 else (0, 0, 0, 0)
        )

    def read(self, address: int, length: int) -> bytes:
        """Bytes of the file that are mapped at a virtual address; fewer where they end."""
        for load in self._loads:
            within = address - load.vaddr
            if 0 <= within < load.size:
                return self._read_at(load.offset + within, min(length, load.size - within))
        return b""

    def find(self, name: bytes) -> Symbol | None:
        """The symbol of that name, None if the file does not define it."""
        if not self._buckets or not self._words:
            return None
        number = gnu_hash(name)
        bloom = self._hash + 16
        word = self._number("<Q", bloom + 8 * (number // 64 % self._words))
        if not (word >> number % 64 & 1 and word >> (number >> self._shift % 32) % 64 & 1):
            return None
        buckets = bloom + 8 * self._words
        index = self._number("<I", buckets + 4 * (number % self._buckets))
        if index < self._first:
            return None
        chain = self.read(buckets + 4 * self._buckets + 4 * (index - self._first), 4 * MAX_CHAIN)
        for at in range(len(chain) // 4):
            found = int.from_bytes(chain[4 * at : 4 * at + 4], "little")
            if found | 1 == number | 1 and (symbol := self._symbol(index + at, name)):
                return symbol
            if found & 1:
                return None
        return None

    def _symbol(self, index: int, name: bytes) -> Symbol | None:
        entry = self.read(self._tables.get(_DT_SYMTAB, 0) + 24 * index, 24)
        if len(entry) < 24:
            return None
        at, _info, _other, section, value, size = struct.unpack("<IBBHQQ", entry)
        text = self.read(self._tables.get(_DT_STRTAB, 0) + at, len(name) + 1)
        return Symbol(value, size) if section and text == name + b"\0" else None

    def _number(self, layout: str, address: int) -> int:
        data = self.read(address, struct.calcsize(layout))
        return int(struct.unpack(layout, data)[0]) if len(data) == struct.calcsize(layout) else 0

    def _read_dynamic(self, header: Header | None, headers: Iterable[ProgramHeader]) -> dict[int, int]:
        if header is None or not header.wide:
            return {}
        for segment in headers:
            if segment.type == PT_DYNAMIC:
                data = self._read_at(segment.offset, min(segment.size, MAX_DYNAMIC))
                return dict(struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]))
        return {}


def gnu_hash(name: bytes) -> int:
    """Bernstein's hash, as GNU's hash tables have it."""
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
