"""Bytes that nobody vouches for: a valid table or a typed error, and bounded work."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetflame.cfi import CfaError, CfaFault, compile_table, decode, encode, pieces, table
from fleetflame.cfi.faults import Dropped
from tests.support.frames import CODE, CODE_SIZE, Frames, eh_frame, elf

PROGRAMS = [
    b"\x41\x0e\x10\x86\x02\x43\x0d\x06\x02\x20\x0c\x07\x08",
    b"\x42\x0e\x10\x83\x02\x0a\x0e\x80\x02\x41\x0b\x44\x0e\x08",
    b"\x0f\x0b\x77\x08\x80\x00\x3f\x1a\x3b\x2a\x33\x24\x22",
    b"\x44\x0c\x0a\x00\x49\x10\x06\x02\x76\x00\x0f\x03\x76\x78\x06",
]


@cache
def small() -> bytes:
    """A few functions of each kind."""
    frames = Frames().cie()
    for number in range(80):
        frames.fde(CODE + number * 0x40, 0x40, PROGRAMS[number % len(PROGRAMS)])
    frames.cie(augmentation=b"zRS", version=3).fde(CODE + 0x8000, 0x100, PROGRAMS[1])
    return eh_frame(frames)


@cache
def real() -> bytes:
    return Path("/usr/bin/env").resolve().read_bytes()


def check(data: bytes) -> None:
    """A table checks itself when it is built, and survives the way to bytes and back."""
    try:
        found = compile_table(data)
    except CfaError:
        return
    again = decode(encode(found))
    assert again.pc.tobytes() == found.pc.tobytes()


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_mutated_file_has_a_valid_table_or_a_typed_error(data: st.DataObject) -> None:
    """Anywhere in it: headers, lengths, encodings, instructions."""
    raw = bytearray(small())
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, len(raw) - 1))
        change = data.draw(st.binary(min_size=1, max_size=8))
        raw[at : at + len(change)] = change
    check(bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))] if data.draw(st.booleans()) else raw))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_mutated_program_of_this_machine_too(data: st.DataObject) -> None:
    """Its unwind information lies somewhere in it; changes are as likely there as their share of it."""
    raw = bytearray(real())
    begin = raw.find(b"\x01zR\x00\x01\x78\x10\x01\x1b") - 8
    for _ in range(data.draw(st.integers(1, 30))):
        at = begin + data.draw(st.integers(0, 6000))
        change = data.draw(st.binary(min_size=1, max_size=8))
        raw[at : at + len(change)] = change
    check(bytes(raw))


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=300, deadline=None)
def test_random_sections_have_a_valid_table_or_a_typed_error(data: bytes, eh: bool) -> None:
    """As either kind of section, and as instructions of a function that is whole otherwise."""
    check(elf([(b".eh_frame" if eh else b".debug_frame", data, 2)]))
    check(eh_frame(Frames().cie().fde(CODE, 64, data).fde(CODE + 64, 64)))
    check(eh_frame(Frames().cie(data).fde(CODE, 64).cie().fde(CODE + 64, 64)))
    check(data)


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of nothing but rows."""
    monkeypatch.setattr(pieces, "MAX_ROWS", 1000)
    frames = Frames().cie().fde(CODE, CODE_SIZE, b"\x41\x0e\x10\x41\x0e\x08" * 600)
    with pytest.raises(CfaError) as caught:
        compile_table(eh_frame(frames))
    assert caught.value.reason == CfaFault.TOO_LARGE


def test_instructions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of no rows at all."""
    monkeypatch.setattr(pieces, "MAX_INSTRUCTIONS", 1000)
    with pytest.raises(CfaError) as caught:
        compile_table(eh_frame(Frames().cie().fde(CODE, 16, bytes(2000))))
    assert caught.value.reason == CfaFault.TOO_LARGE


def test_instructions_that_are_run_one_by_one_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them costs as much as thirty in columns."""
    monkeypatch.setattr(pieces, "MAX_EXACT", 1000)
    frames = Frames().cie()
    for number in range(20):
        frames.fde(CODE + number * 16, 16, b"\x08\x06" * 60)
    with pytest.raises(CfaError) as caught:
        compile_table(eh_frame(frames))
    assert caught.value.reason == CfaFault.TOO_LARGE


def test_a_program_without_end_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function is there, without a rule."""
    monkeypatch.setattr(pieces, "MAX_PROGRAM", 1000)
    found = compile_table(eh_frame(Frames().cie().fde(CODE, 16, bytes(2000)).fde(CODE + 16, 16)))
    assert found.dropped == {Dropped.INSTRUCTIONS: 1}
    assert len(found) == 3


def test_a_table_may_be_as_large_as_its_limit() -> None:
    """What is compiled may be encoded and decoded."""
    assert pieces.MAX_ROWS == table.MAX_ROWS
