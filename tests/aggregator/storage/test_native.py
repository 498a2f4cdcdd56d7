"""Our reader and writer of the Native format agree with the engine and with each other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.storage import Store
from aggregator.storage.native import Column, Ragged, Runs, Values, decode_blocks, encode_block

ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**64 - 1),
        st.text(max_size=200),
        st.lists(st.integers(0, 2**64 - 1), max_size=5),
        st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
        st.dictionaries(st.text(max_size=9), st.integers(0, 2**64 - 1), max_size=3),
    ),
    min_size=1,
    max_size=20,
)
Row = tuple[int, str, list[int], dict[str, str], dict[str, int]]
TYPES = ("UInt64", "String", "Array(UInt64)", "Map(String, String)", "Map(String, UInt64)")
NAMES = ("a", "b", "c", "d", "e")


def columns(rows: list[Row]) -> list[Column]:
    """The columns of `rows`."""
    ends = np.cumsum([0, *(len(row[2]) for row in rows)], dtype=np.uint64)
    values: tuple[Values, ...] = (
        np.array([row[0] for row in rows], np.uint64),
        [row[1] for row in rows],
        Ragged(ends, np.array([word for row in rows for word in row[2]], np.uint64)),
        [row[3] for row in rows],
        [row[4] for row in rows],
    )
    return [Column(*each) for each in zip(NAMES, TYPES, values, strict=True)]


def rows_of(data: bytes) -> list[Row]:
    """The rows of Native blocks."""
    found = decode_blocks(data)
    words = found.ragged("c")
    spans = zip(words.offsets[:-1].tolist(), words.offsets[1:].tolist(), strict=True)
    arrays = [words.values[a:b].tolist() for a, b in spans]
    numbers = found.numbers("a").tolist()
    return list(zip(numbers, found.strings("b"), arrays, found.maps("d"), found.maps("e"), strict=True))


@given(st.lists(ROWS, min_size=1, max_size=3))
def test_what_is_written_is_read_in_one_block_and_in_several(blocks: list[list[Row]]) -> None:
    """Blocks one after another are one answer."""
    data = b"".join(encode_block(columns(rows)) for rows in blocks)
    assert rows_of(data) == [row for rows in blocks for row in rows]


def test_the_engine_reads_what_we_write_and_we_read_what_it_writes(store: Store) -> None:
    """Every type, with empty values, the largest numbers and text that is not ASCII."""
    rows: list[Row] = [
        (2**64 - 1, "ünï\n\t\\'", [1, 2**64 - 1], {"k": "", "": "v"}, {"n": 2**64 - 1}),
        (0, "", [], {}, {}),
        (7, "x" * 300, list(range(200)), {"a": "b" * 200}, {"a": 1, "b": 2}),
    ]
    types = ", ".join(f"{name} {kind}" for name, kind in zip(NAMES, TYPES, strict=True))
    store.engine.command(f"CREATE TABLE each_type ({types}) ENGINE = MergeTree ORDER BY a")
    store.engine.insert("each_type", columns(rows))
    with store.engine._reader() as handle:
        data = handle.raw_query("SELECT * FROM each_type", fmt="Native")
    assert sorted(rows_of(data)) == sorted(rows)


def test_runs_are_the_strings_they_stand_for() -> None:
    """And an answer without a block has empty columns."""
    plain = encode_block([Column("t", "String", ["cpu", "cpu", ""])])
    assert encode_block([Column("t", "LowCardinality(String)", Runs(["cpu", ""], [2, 1]))]) == plain
    nothing = decode_blocks(b"")
    assert (len(nothing), nothing.numbers("x").tolist(), nothing.strings("x"), len(nothing.ragged("x"))) == (
        0,
        [],
        [],
        0,
    )
