"""Names of frames: what they tell, and that nothing in them breaks a line or a picture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.naming import MAX_NAME, SUFFIXES, FrameKind, clean, is_kernel, kind_of, miss_name, package_of
from fleetflame.model import FrameMiss


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("main", FrameKind.NATIVE),
        ("operator[]", FrameKind.NATIVE),
        ("[a]b", FrameKind.NATIVE),
        ("-[NSObject init]", FrameKind.NATIVE),
        ("read_[k]", FrameKind.KERNEL),
        ("push_back_[i]", FrameKind.INLINED),
        ("[eval]_[j]", FrameKind.JIT),
        ("run (app.py:3)_[p]", FrameKind.INTERPRETER),
        ("[unknown]", FrameKind.UNKNOWN),
        ("[libc.so.6+0x28f3]", FrameKind.UNKNOWN),
        ("[kernel+0x12]_[k]", FrameKind.UNKNOWN),
        ("[truncated: depth limit]", FrameKind.TRUNCATED),
    ],
)
def test_a_name_tells_its_kind(name: str, kind: FrameKind) -> None:
    """Suffix and brackets say what a frame is."""
    assert kind_of(name) is kind


@pytest.mark.parametrize("kind", SUFFIXES)
def test_each_suffix_tells_the_kind_that_wrote_it(kind: FrameKind) -> None:
    """Writing and reading of suffixes agree."""
    assert kind_of("f" + SUFFIXES[kind]) is kind


def test_misses_are_written_in_words() -> None:
    """Truncations say so; hidden kernel addresses are the kernel's; unknown numbers are kept."""
    assert miss_name(FrameMiss.DEPTH_LIMIT) == "[truncated: depth limit]"
    assert miss_name(FrameMiss.NOT_RECEIVED) == "[truncated: not received]"
    assert miss_name(FrameMiss.UNMAPPED) == "[unmapped]"
    assert miss_name(FrameMiss.NO_PERF_MAP) == "[no perf map]"
    assert miss_name(FrameMiss.CODE_REPLACED) == "[code replaced]"
    assert miss_name(FrameMiss.KERNEL_HIDDEN) == "[kernel hidden]_[k]"
    assert miss_name(250) == "[miss 250]"
    assert all(kind_of(miss_name(miss)) in (FrameKind.UNKNOWN, FrameKind.TRUNCATED) for miss in FrameMiss)


def test_kernel_frames_are_told_by_their_name() -> None:
    """Named, unnamed and missing kernel frames are the kernel's; user frames are not."""
    assert all(map(is_kernel, ["read_[k]", "[kernel+0x1]_[k]", "[truncated: no kernel stack]"]))
    assert not any(map(is_kernel, ["read", "[truncated: no user stack]", "[unmapped]"]))


@given(st.text() | st.binary().map(lambda raw: raw.decode(errors="surrogateescape")))
def test_a_clean_name_is_one_inert_field(name: str) -> None:
    """No separator, line break, control or reordering mark is left; it encodes; cleaning again changes nothing."""
    cleaned = clean(name)
    assert ";" not in cleaned
    assert len(cleaned.splitlines()) <= 1
    assert not any(mark in cleaned for mark in "\u202e\u2066\u200f\x00\x1b\x7f")
    cleaned.encode()
    assert clean(cleaned) == cleaned


def test_plain_names_stay() -> None:
    """Spaces, templates, and letters of any script are part of a name."""
    for name in ("std::map<int, char>::operator[](int const&)", "café", "функция", "שלום", "a b", ""):
        assert clean(name) == name


def test_long_names_are_cut_and_stay_apart() -> None:
    """A name has a bound; two that differ beyond it remain two; the suffix stays."""
    one, other = clean("x" * 10_000 + "1"), clean("x" * 10_000 + "2")
    assert len(one) == MAX_NAME
    assert one != other
    assert clean("x" * 10_000 + "_[k]").endswith("_[k]")
    assert clean(one) == one


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("std::vector<int>::push_back", "std"),
        ("github.com/x/y.(*T).Run", "github.com/x/y"),
        ("com/foo/Bar.run_[j]", "com/foo/Bar"),
        ("tcp_sendmsg_[k]", "tcp"),
        ("<alloc::vec::Vec<T> as X>::f", "alloc"),
        ("[libc.so.6+0x12]", "[libc.so.6"),
        ("main", "main"),
        ("__", "__"),
    ],
)
def test_a_name_tells_its_package(name: str, package: str) -> None:
    """What belongs together has one colour."""
    assert package_of(name) == package
