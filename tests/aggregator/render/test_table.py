"""The table of functions."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from aggregator.fold import fold
from aggregator.foldedtext import parse
from aggregator.naming import FrameKind
from aggregator.render import table
from aggregator.render.table import Order, top
from tests.aggregator.render import golden
from tests.aggregator.render.samples import every_kind


def test_the_text_is_the_golden_one() -> None:
    """Columns, shares, and a footer that says how complete the profile is."""
    golden.check("every_kind.table.txt", table.render(fold(every_kind())))


@given(st.lists(st.tuples(st.lists(st.sampled_from("abcd"), max_size=6), st.integers(1, 9)), max_size=12))
def test_totals_count_a_stack_once(rows: list[tuple[list[str], int]]) -> None:
    """Self and total are what a loop over stacks says, recursion or not; the process is no function."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stack, count in rows:
        if stack:
            own[stack[-1]] += count
        for name in set(stack):
            total[name] += count
    folded = parse("".join(f"{';'.join(['proc', *stack])} {count}\n" for stack, count in rows).encode()).folded
    for order, key in ((Order.SELF, own), (Order.TOTAL, total)):
        made = top(folded, order=order)
        assert {row.name: row.total_count for row in made.rows} == total
        assert {row.name: row.self_count for row in made.rows if row.self_count} == own
        sorted_by = [key[row.name] for row in made.rows]
        assert sorted_by == sorted(sorted_by, reverse=True)


def test_equal_rows_are_in_order_of_name() -> None:
    """Ties do not depend on how the profile came together; `limit` cuts."""
    folded = parse(b"p;b 2\np;a 2\np;c 2\np;x;d 1\n").folded
    assert [row.name for row in top(folded).rows] == ["a", "b", "c", "d", "x"]
    assert [row.name for row in top(folded, order=Order.TOTAL).rows] == ["a", "b", "c", "d", "x"]
    made = top(folded, limit=2)
    assert (len(made.rows), made.functions, made.count) == (2, 5, 7)


def test_rows_have_kinds_and_time() -> None:
    """A row says what the function is and what it cost."""
    rows = {row.name: row for row in top(fold(every_kind())).rows}
    assert rows["copy_page_[k]"].kind is FrameKind.KERNEL
    assert rows["copy_page_[k]"].self_value == 200_000_000
    assert rows["square_[i]"].total_count == 66


def test_an_empty_profile_has_no_rows() -> None:
    """A heading and a footer remain."""
    text = table.render(parse(b"").folded).decode()
    assert text.splitlines()[-1] == "0 of 0 functions · 0 samples"
