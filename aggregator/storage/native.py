"""ClickHouse's Native format, as far as the store needs it: numpy columns out, numpy columns in.

The driver's own column code makes a Python object a value, which for millions of sample rows costs more than the
engine does. Native is column-major and fixed-width columns are their memory, so a column is one copy here.

A block (https://clickhouse.com/docs/en/interfaces/formats/Native; revision 0, as over HTTP without a protocol version):

    columns LEB128, rows LEB128, then for each column: name, type (LEB128 length + UTF-8 each), values

    UInt*, DateTime     little-endian, packed
    String              LEB128 length + bytes, each
    Array(T)            one UInt64 a row: end of the row in the values; then the values, as a column of T
    Map(K, V)           as Array(Tuple(K, V)): ends, column of K, column of V

Anything else is refused: queries convert (`toString`) what they select.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIXED: dict[str, np.dtype[Any]] = {
    "UInt8": np.dtype("<u1"),
    "UInt16": np.dtype("<u2"),
    "UInt32": np.dtype("<u4"),
    "UInt64": np.dtype("<u8"),
    "Int64": np.dtype("<i8"),
    "Float64": np.dtype("<f8"),
    "DateTime": np.dtype("<u4"),
    "DateTime('UTC')": np.dtype("<u4"),
}


@dataclass(frozen=True, slots=True)
class Ragged:
    """A column of arrays: row i is values[offsets[i]:offsets[i + 1]]."""

    offsets: NDArray[np.uint64]
    values: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class Runs:
    """A column of strings that come in runs: `values[i]`, `sizes[i]` times."""

    values: Sequence[str]
    sizes: Sequence[int]

    def __len__(self) -> int:
        return sum(self.sizes)


Values = NDArray[Any] | Ragged | Runs | Sequence[str] | Sequence[Mapping[str, Any]]
"""A column: numbers, arrays of UInt64, strings, or maps from strings."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column to insert: `values` in the form that `type` asks for."""

    name: str
    type: str
    values: Values


def encode_block(columns: Sequence[Column]) -> bytes:
    """One Native block of `columns`, which all have the same number of rows."""
    rows = len(columns[0].values)
    out = [leb128(len(columns)), leb128(rows)]
    for column in columns:
        assert len(column.values) == rows, f"column {column.name}: {len(column.values)} values for {rows} rows"
        # Low cardinality is how the table keeps the strings; the engine converts on insert.
        kind = column.type.replace("LowCardinality(String)", "String")
        out += [_string(column.name), _string(kind), *_encode(kind, column.values)]
    return b"".join(out)


def leb128(number: int) -> bytes:
    """`number` in base 128, lowest digit first, high bit set on all bytes but the last."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return leb128(len(raw)) + raw


def _encode(kind: str, values: Any) -> list[bytes]:
    if kind == "String":
        if isinstance(values, Runs):
            return [_string(value) * size for value, size in zip(values.values, values.sizes, strict=True)]
        return [_encode_strings(values)]
    if kind == "Array(UInt64)":
        return [values.offsets[1:].astype("<u8").tobytes(), values.values.astype("<u8", copy=False).tobytes()]
    if kind.startswith("Map("):
        return _encode_maps(kind, values)
    return [np.ascontiguousarray(values, _FIXED[kind]).tobytes()]


def _encode_strings(values: Iterable[str]) -> bytes:
    # The same few strings repeat (a type, a node's name): each is encoded once.
    known: dict[str, bytes] = {}
    out = []
    for value in values:
        raw = known.get(value)
        if raw is None:
            raw = known[value] = _string(value)
        out.append(raw)
    return b"".join(out)


def _encode_maps(kind: str, values: Sequence[Mapping[str, Any]]) -> list[bytes]:
    ends = np.cumsum([len(value) for value in values], dtype="<u8")
    keys = _encode_strings(key for value in values for key in value)
    flat = [item for value in values for item in value.values()]
    if kind == "Map(String, String)":
        return [ends.tobytes(), keys, _encode_strings(flat)]
    assert kind == "Map(String, UInt64)", kind
    return [ends.tobytes(), keys, np.array(flat, "<u8").tobytes()]


class Columns:
    """What a query answers: columns by name, each `len(self)` long. Strings and maps are lists."""

    __slots__ = ("_columns", "_rows")

    def __init__(self, columns: dict[str, Any], rows: int) -> None:
        self._columns = columns
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def numbers(self, name: str, dtype: str = "u8") -> NDArray[Any]:
        """The column of numbers `name`; empty if the answer had no block at all."""
        return np.asarray(self._columns.get(name, ()), dtype)

    def strings(self, name: str) -> list[str]:
        """The column of strings `name`; empty if the answer had no block at all."""
        found: list[str] = self._columns.get(name, [])
        return found

    def ragged(self, name: str) -> Ragged:
        """The column of arrays `name`; empty if the answer had no block at all."""
        found = self._columns.get(name)
        return found if found is not None else Ragged(np.zeros(1, np.uint64), np.zeros(0, np.uint64))

    def maps(self, name: str) -> list[dict[str, Any]]:
        """The column of maps `name`; empty if the answer had no block at all."""
        found: list[dict[str, Any]] = self._columns.get(name, [])
        return found


def decode_blocks(data: bytes) -> Columns:
    """All blocks of `data`, concatenated. An answer without rows may have no block, and then has no column either."""
    reader = _Reader(data)
    pieces: dict[str, list[Any]] = {}
    total = 0
    while reader.at < len(data):
        width, rows = reader.leb128(), reader.leb128()
        total += rows
        for _ in range(width):
            name, kind = reader.string(), reader.string()
            pieces.setdefault(name, []).append(reader.column(kind, rows))
    return Columns({name: _joined(parts) for name, parts in pieces.items()}, total)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def leb128(self) -> int:
        number, shift = 0, 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def string(self) -> str:
        size = self.leb128()
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8", "surrogateescape")

    def column(self, kind: str, rows: int) -> Any:
        if kind == "String":
            return [self.string() for _ in range(rows)]
        if kind == "Array(UInt64)":
            ends = self._numbers(_FIXED["UInt64"], rows)
            values = self._numbers(_FIXED["UInt64"], int(ends[-1]) if rows else 0)
            return Ragged(np.concatenate((np.zeros(1, np.uint64), ends)), values)
        if kind.startswith("Map(String, "):
            return self._maps(kind.removeprefix("Map(String, ").removesuffix(")"), rows)
        return self._numbers(_FIXED[kind], rows)

    def _numbers(self, dtype: np.dtype[Any], rows: int) -> NDArray[Any]:
        found = np.frombuffer(self.data, dtype, rows, self.at)
        self.at += rows * dtype.itemsize
        return found

    def _maps(self, kind: str, rows: int) -> list[dict[str, Any]]:
        ends = self._numbers(_FIXED["UInt64"], rows).tolist()
        size = ends[-1] if rows else 0
        keys = [self.string() for _ in range(size)]
        values = [self.string() for _ in range(size)] if kind == "String" else self.column(kind, size).tolist()
        pairs = list(zip(keys, values, strict=True))
        return [dict(pairs[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _joined(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Ragged):
        starts = np.cumsum([0] + [len(part.values) for part in parts[:-1]], dtype=np.uint64)
        ends = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=True)]
        values = np.concatenate([part.values for part in parts])
        return Ragged(np.concatenate([np.zeros(1, np.uint64), *ends]), values)
    if isinstance(parts[0], list):
        return [value for part in parts for value in part]
    return np.concatenate(parts)
