"""Differences: nothing of either side is lost, and shares are compared, not samples."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.diff import SHARE_UNIT, compare, total_shares
from aggregator.fold import fold
from aggregator.foldedtext import parse
from aggregator.render import folded as text_form
from tests.aggregator.profiles import profile

Rows = list[tuple[list[str], int]]
rows_of = st.lists(st.tuples(st.lists(st.sampled_from("abc"), min_size=1, max_size=5), st.integers(1, 9)), max_size=12)


def text(rows: Rows) -> bytes:
    """The rows as folded text."""
    return "".join(f"{';'.join(stack)} {count}\n" for stack, count in rows).encode()


@given(rows_of, rows_of)
def test_both_sides_are_in_it(before: Rows, after: Rows) -> None:
    """Each stack of either side stands once, with the samples of both."""
    counted: dict[str, list[int]] = {}
    for side, rows in enumerate((before, after)):
        for stack, count in rows:
            counted.setdefault(";".join(stack), [0, 0])[side] += count
    made = compare(parse(text(before)).folded, parse(text(after)).folded)
    expected = sorted(f"{stack} {one} {other}" for stack, (one, other) in counted.items())
    assert text_form.render_diff(made).decode().splitlines() == expected


@given(rows_of, rows_of)
def test_shares_add_up(before: Rows, after: Rows) -> None:
    """All of a side is the unit, whatever its size; a parent's share is at least its children's."""
    made = compare(parse(text(before)).folded, parse(text(after)).folded)
    for rows, total in zip((before, after), total_shares(made), strict=True):
        assert int(total[0]) == (SHARE_UNIT if rows else 0)
        below = np.zeros(len(total), np.uint64)
        np.add.at(below, made.trie.parent[1:], total[1:])
        assert (below <= total).all()


def test_twice_the_samples_are_the_same_shares() -> None:
    """A profile of twice the length does not differ."""
    rows = [(["a", "b"], 3), (["a", "c"], 5), (["d"], 11)]
    one, other = total_shares(compare(parse(text(rows)).folded, parse(text(rows * 2)).folded))
    assert np.abs(one.astype(np.int64) - other.astype(np.int64)).max() <= len(rows)


def test_first_frames_must_be_the_same_labels() -> None:
    """A profile by node does not compare with one without."""
    with pytest.raises(ValueError, match="labels"):
        compare(fold(profile([])), fold(profile([], by=("comm", "node"))))


def test_a_counter_of_functions_agrees() -> None:
    """Own shares are those of a plain count."""
    before = parse(b"p;a 1\np;a;b 3\n").folded
    after = parse(b"p;a 6\np;c 2\n").folded
    made = compare(before, after)
    own: Counter[str] = Counter()
    for node in range(len(made.trie)):
        own[made.names[made.trie.item[node]]] += int(made.after.share[node])
    assert {name: round(share / SHARE_UNIT, 6) for name, share in own.items() if share} == {"a": 0.75, "c": 0.25}
