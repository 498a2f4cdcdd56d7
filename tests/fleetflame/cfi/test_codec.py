"""Tables as bytes: nothing is lost, and strangers' bytes are tables or refused."""

import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetflame.cfi import RULE_DTYPE, CfaError, CfaFault, UnwindTable, codec, decode, encode


@st.composite
def tables(draw: st.DrawFn) -> UnwindTable:
    """Any valid table: steps and numbers of rules of one byte and of more."""
    rows = draw(st.integers(1, 40))
    rules = np.zeros(draw(st.sampled_from([2, 5, 300])), RULE_DTYPE)
    rules["cfa"][1:] = 2
    rules["a"] = np.arange(len(rules)) * draw(st.integers(-8, 8))
    rules["b"] = draw(st.integers(-(1 << 15), (1 << 15) - 1))
    rules["bp"] = draw(st.integers(0, 4))
    rules["flags"] = draw(st.integers(0, 1))
    steps = draw(st.lists(st.integers(1, 1 << 24) | st.integers(1, 300), min_size=rows, max_size=rows))
    jumps = draw(st.lists(st.integers(1, len(rules) - 1), min_size=rows, max_size=rows))
    # From the last row, which is a gap, backwards: no row has the number of the one behind it.
    rule = (np.cumsum([0, *jumps[1:]]) % len(rules))[::-1]
    names = st.text(st.sampled_from("abc_"), min_size=1, max_size=8).filter(lambda name: name[0] != "_")
    return UnwindTable(
        pc=np.cumsum(steps).astype(np.uint32),
        base=draw(st.integers(0, 1 << 40)) * 4096,
        rule=rule.astype(np.uint32),
        rules=rules,
        dropped=draw(st.dictionaries(names, st.integers(0, (1 << 64) - 1), max_size=3)),
    )


def example() -> bytes:
    rules = np.zeros(3, RULE_DTYPE)
    rules["cfa"][1:], rules["a"][1:] = 2, (8, 16)
    pc, rule = np.array([0, 4, 9, 400], np.uint32), np.array([1, 2, 1, 0], np.uint32)
    return encode(UnwindTable(pc=pc, base=4096, rule=rule, rules=rules, dropped={"rbp_rule": 3}))


def rewrapped(content: bytes) -> bytes:
    frame = zstandard.ZstdCompressor(write_content_size=True).compress(content)
    return example()[:12] + frame


def refusal(data: bytes) -> CfaFault:
    with pytest.raises(CfaError) as caught:
        decode(data)
    return caught.value.reason


@given(tables())
@settings(max_examples=200, deadline=None)
def test_decoding_gives_back_what_was_encoded(table: UnwindTable) -> None:
    """Every column, and the reasons."""
    again = decode(encode(table))
    assert (again.base, dict(again.dropped)) == (table.base, dict(table.dropped))
    for mine, theirs in ((table.pc, again.pc), (table.rule, again.rule), (table.rules, again.rules)):
        assert mine.tobytes() == theirs.tobytes()
    assert encode(again) == encode(table)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", CfaFault.TRUNCATED),
        (b"x" * 40, CfaFault.STRUCTURE),
        (example()[:8] + b"\x02\x00" + example()[10:], CfaFault.VERSION),
        (example()[:10] + b"\xb7\x00" + example()[12:], CfaFault.UNSUPPORTED),
        (example()[:-1], CfaFault.COMPRESSION),
        (example() + b"x", CfaFault.COMPRESSION),
        (example()[:12] + zstandard.ZstdCompressor(write_content_size=False).compress(b"x"), CfaFault.TOO_LARGE),
        (rewrapped(b""), CfaFault.TRUNCATED),
        (rewrapped(struct.pack("<QIIIII", 0, 1 << 24, 1, 0, 0, 0)), CfaFault.TOO_LARGE),
        (rewrapped(struct.pack("<QIIIII", 0, 1 << 23, 1, 0, 0, 0)), CfaFault.TRUNCATED),
        (rewrapped(struct.pack("<QIIIII", 0, 0, 0, 0, 0, 0)), CfaFault.STRUCTURE),
    ],
)
def test_what_is_no_table_is_refused_with_a_reason(data: bytes, reason: CfaFault) -> None:
    """By its header where that is enough."""
    assert refusal(data) == reason


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_table_or_a_typed_error(data: bytes) -> None:
    """Nothing but CfaError leaves `decode`."""
    for attempt in (data, example()[:12] + data, rewrapped(data)):
        try:
            decode(attempt)
        except CfaError:
            continue


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_content_is_a_table_or_a_typed_error(data: st.DataObject) -> None:
    """Behind the checksum too: whoever can write an object can write a checksum."""
    content = bytearray(zstandard.ZstdDecompressor().decompress(example()[12:]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        table = decode(rewrapped(bytes(content)))
    except CfaError:
        return
    assert len(table) == len(table.rule)


def test_the_limit_of_a_content_is_that_of_a_table() -> None:
    """What may be encoded may be decoded."""
    assert codec.MAX_RAW >= codec.MAX_ROWS * 10 + codec.MAX_RULES * 12
