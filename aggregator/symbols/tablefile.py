"""A symbol table as a file: columns that are mapped into memory as they are.

    magic 8 bytes, header length u32, header (JSON, UTF-8), columns (each aligned to 64 bytes), SHA-256 of all before

The header has rank, segments and counts, and for each column its type, offset and length. A table that a worker made is
verified once, when it is taken over (`read_verified`); afterwards the file is ours and is only checked for its size.
"""

import hashlib
import json
import mmap
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.table import Rank, SymbolTable, check
from fleetflame.model import Segment

MAGIC = b"FFSYMT1\n"
PARSER_VERSION = 2
"""Raised when the same file would give another table: tables and refusals of an older version are made anew."""

_COLUMNS = ("start", "location", "function", "file", "line", "parent", "string_at", "string_bytes")
_TYPES = {
    "start": ("<u4", "<u8"),
    "string_at": ("<u8",),
    "string_bytes": ("|u1",),
}
_ALIGN = 64
_DIGEST = 32
_MAX_HEADER = 1 << 20


def write_table(file: BinaryIO, table: SymbolTable) -> None:
    """Writes the table to a file open for reading and writing at its start."""
    header, columns = _header(table)
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        digest.update(data)
        file.write(data)

    put(header)
    at = len(header)
    for column in columns:
        put(bytes(-at % _ALIGN))
        at += -at % _ALIGN
        put(column.tobytes())
        at += column.nbytes
    file.write(digest.digest())
    file.flush()


def digest_of(table: SymbolTable) -> str:
    """SHA-256, in hex, of what the table says: equal for files that name every address alike."""
    digest = hashlib.sha256()
    for name in _COLUMNS:
        digest.update(getattr(table, name).tobytes())
    return digest.hexdigest()


def read_verified(path: Path) -> SymbolTable:
    """The table of a file that came from a worker. Raises SymbolFileError(BAD_RESULT) if anything in it is unsound."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        body = max(0, size - _DIGEST)
        digest = hashlib.sha256()
        while body and (chunk := file.read(min(body, 1 << 20))):
            digest.update(chunk)
            body -= len(chunk)
        if file.read() != digest.digest():
            raise _unsound("its checksum does not match")
    table = read_table(path)
    wrong = check(table)
    if wrong is not None:
        raise _unsound(wrong)
    return table


def read_table(path: Path) -> SymbolTable:
    """The table of a file that was verified before, mapped. Raises SymbolFileError(BAD_RESULT), OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < len(MAGIC) + 4 + _DIGEST:
            raise _unsound("it is cut short")
        mapped = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    magic, length = struct.unpack_from("<8sI", mapped)
    if magic != MAGIC or length > min(size, _MAX_HEADER):
        raise _unsound("it has another format")
    try:
        header: dict[str, Any] = json.loads(mapped[12 : 12 + length])
        columns: dict[str, Any] = {name: _column(mapped, name, header["columns"][name]) for name in _COLUMNS}
        return SymbolTable(
            **columns,
            rank=Rank(header["rank"]),
            segments=tuple(Segment(*segment) for segment in header["segments"]),
            functions=int(header["functions"]),
            text_start=header["text_start"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _unsound(str(error)) from error


def _header(table: SymbolTable) -> tuple[bytes, list[NDArray[Any]]]:
    columns = [np.ascontiguousarray(getattr(table, name)) for name in _COLUMNS]
    about: dict[str, Any] = {
        "rank": int(table.rank),
        "functions": table.functions,
        "text_start": table.text_start,
        "segments": [[s.offset, s.vaddr, s.size] for s in table.segments],
    }
    # Offsets depend on the header's length, and the header holds them: they are counted from the first column, which
    # begins at the first aligned byte after the header.
    at, places = 0, {}
    for name, column in zip(_COLUMNS, columns, strict=True):
        at += -at % _ALIGN
        places[name] = [column.dtype.str, at, len(column)]
        at += column.nbytes
    text = json.dumps(about | {"columns": places}).encode()
    return struct.pack("<8sI", MAGIC, len(text)) + text, columns


def _column(mapped: mmap.mmap, name: str, place: list[Any]) -> NDArray[Any]:
    kind, offset, count = place
    if kind not in _TYPES.get(name, ("<u4",)) or offset < 0 or count < 0:
        raise ValueError(f"column `{name}` is malformed")
    first = 12 + struct.unpack_from("<I", mapped, 8)[0]
    first += -first % _ALIGN
    if first + offset + count * np.dtype(kind).itemsize > len(mapped) - _DIGEST:
        raise ValueError(f"column `{name}` ends beyond the file")
    return np.frombuffer(mapped, kind, count, first + offset)


def _unsound(what: str) -> SymbolFileError:
    return SymbolFileError(Fault.BAD_RESULT, f"the symbol table is unsound: {what}")
