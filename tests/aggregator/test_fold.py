"""Merging by name: the algebra, against a brute-force count."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fold import Folded, NamedRows, fold, fold_rows
from aggregator.foldedtext import parse
from aggregator.growing import grown, only_root
from aggregator.profile import Origin
from aggregator.render.folded import render
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind
from tests.aggregator.profiles import APP, Row, profile

Rows = list[tuple[list[str], int]]

names = st.sampled_from(["a", "b", "aa", "a b", "a!", "é", "z_[k]", "[x+0x1]", "[truncated: depth limit]"])
rows_of_names = st.lists(st.tuples(st.lists(names, min_size=1, max_size=6), st.integers(0, 5)), max_size=20)


def folded_of(rows: Rows) -> Folded:
    """The rows merged by name, each name given as often as it occurs."""
    flat = [name for stack, _ in rows for name in stack]
    length = np.array([len(stack) for stack, _ in rows], np.int64)
    start = np.cumsum(length) - length
    tree, end = grown(only_root(), length, lambda which, depth: start[which] + depth)
    columns = NamedRows(
        names=flat,
        prefix=np.zeros((1, 0), np.int64),
        group=np.zeros(len(rows), np.int64),
        tree=tree,
        end=end,
        count=np.array([count for _, count in rows], np.uint64),
        value=np.array([count * 10 for _, count in rows], np.uint64),
    )
    return fold_rows(columns, Origin(), timed=True)


def same(one: Folded, other: Folded) -> bool:
    """Whether two are equal in every column."""
    return (
        one.names == other.names
        and one.origin == other.origin
        and all(
            np.array_equal(*pair)
            for pair in [
                (one.trie.parent, other.trie.parent),
                (one.trie.item, other.trie.item),
                (one.trie.levels, other.trie.levels),
                (one.count, other.count),
                (one.value, other.value),
            ]
        )
    )


@given(rows_of_names)
def test_merging_counts_what_a_counter_counts(rows: Rows) -> None:
    """Each distinct stack stands once with the sum of its samples, in sorted lines."""
    counted: Counter[str] = Counter()
    for stack, count in rows:
        counted[";".join(stack)] += count
    lines = render(folded_of(rows)).decode().splitlines()
    assert lines == sorted(f"{stack} {count}" for stack, count in counted.items() if count)


@given(rows_of_names, st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_partition_gives_the_same(rows: Rows, random: object, pieces: int) -> None:
    """Shuffled, the result is equal to the last bit; split, written and read as one text, to the last byte."""
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole = folded_of(rows)
    assert same(folded_of(shuffled), whole)
    parts = [render(folded_of(shuffled[start::pieces])) for start in range(pieces)]
    assert render(parse(b"".join(parts)).folded) == render(whole)


@given(rows_of_names)
def test_totals_add_up(rows: Rows) -> None:
    """The root holds all samples; completeness classes partition them; a parent holds its children."""
    folded = folded_of(rows)
    total = folded.total_counts()
    assert int(total[0]) == sum(count for _, count in rows) == folded.completeness().total
    below = folded.count.copy()
    np.add.at(below, folded.trie.parent[1:], total[1:])
    assert np.array_equal(below, total)
    assert np.array_equal(folded.total_values(), total * np.uint64(10))


def test_builds_merge_by_name() -> None:
    """One function in two builds, at other addresses, is one frame with the sum."""
    newer = Mapping(MappingKind.FILE, BuildId(b"\1" * 20), "/usr/bin/app")
    rows: list[Row] = [(("app",), [(APP, 0x10)], 2), (("app",), [(newer, 0x18)], 3)]
    named = {(APP, 0x10): [("main", "a.c", 1)], (newer, 0x18): [("main", "a.c", 7)]}
    assert render(fold(profile(rows, named))) == b"app;main 5\n"
