"""Build IDs: which note counts, and what identifies a file without one."""

import hashlib
import struct

import pytest

from fleetflame.buildid import HASHED_BYTES, MAX_BYTES, BuildId, from_file_ends, from_notes, gnu_from_notes, iter_notes

GNU = b"\1" * 20
GO = b"action/main/main/content"


def note(name: bytes, kind: int, desc: bytes, *, align: int = 4) -> bytes:
    """One entry of a note section."""
    name += b"\0"

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % align)

    return struct.pack("<III", len(name), len(desc), kind) + padded(name) + padded(desc)


def test_a_build_id_is_printed_as_it_is_read() -> None:
    """Hex of either case; anything else is none."""
    assert str(BuildId.parse("ABCDEF0123")) == "abcdef0123"
    for text in ("", "abc", "xy", "ab cd", "é" * 2, "00" * (MAX_BYTES + 1)):
        with pytest.raises(ValueError, match=r"build ID|hexadecimal"):
            BuildId.parse(text)


@pytest.mark.parametrize("align", [4, 8])
def test_gnu_comes_before_go_wherever_it_stands(align: int) -> None:
    """Debuggers and debug files go by GNU's."""
    gnu, go = note(b"GNU", 3, GNU, align=align), note(b"Go", 4, GO, align=align)
    for data in (gnu + go, go + gnu):
        assert from_notes(data, align=align) == gnu_from_notes(data, align=align) == BuildId(GNU)
    assert gnu_from_notes(go, align=align) is None
    assert from_notes(go, align=align) == BuildId(hashlib.sha256(GO).digest()[:20])


def test_a_note_that_is_no_build_id_is_passed_over() -> None:
    """Of another kind, empty, too long, redacted: beside it the right one is found, alone it is none."""
    wrong = [
        note(b"GNU", 1, b"\0" * 16),
        note(b"GNU", 3, b""),
        note(b"GNU", 3, b"\2" * (MAX_BYTES + 1)),
        note(b"Go", 4, b"redacted"),
        note(b"Go", 4, b"\2" * (2 * MAX_BYTES + 1)),
    ]
    for data in wrong:
        assert from_notes(data) is None
        assert from_notes(data + note(b"GNU", 3, GNU)) == BuildId(GNU)


def test_notes_end_where_they_do_not_fit() -> None:
    """A size that lies beyond the data ends the list, without an error."""
    data = note(b"GNU", 3, GNU)
    assert [len(list(iter_notes(data[:end]))) for end in (0, 11, len(data) - 1, len(data))] == [0, 0, 0, 1]


def test_a_file_without_a_note_is_its_ends_and_its_size() -> None:
    """Another byte in either end, or another size, is another file; what lies between does not count."""
    head, tail = b"a" * HASHED_BYTES, b"b" * HASHED_BYTES
    same = from_file_ends(head, tail, 10_000)
    assert len(same.raw) == 16
    assert from_file_ends(head + b"more", b"more" + tail, 10_000) == same
    others = {from_file_ends(b"x" + head[1:], tail, 10_000), from_file_ends(head, tail[:-1] + b"x", 10_000)}
    assert len(others | {from_file_ends(head, tail, 10_001), same}) == 4
