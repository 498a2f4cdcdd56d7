"""The selector language: what is read, what is refused and how the refusal looks."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.selector import MAX_MATCHERS, MAX_SELECTOR_CHARS, Matcher, MatchOp, Selector, parse_selector, quote
from fleetflame.errors import UsageError

CHECKOUT = Matcher("service", MatchOp.EQ, "checkout")
WEB = Matcher("node", MatchOp.RE, "web-.*")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Selector()),
        ("  ", Selector()),
        ("cpu", Selector()),
        ("{}", Selector()),
        ("cpu{}", Selector()),
        (" offcpu ", Selector(type="offcpu")),
        ('cpu{service="checkout"}', Selector(matchers=(CHECKOUT,))),
        ('cpu{service="checkout", node=~"web-.*"}', Selector(matchers=(CHECKOUT, WEB))),
        ('cpu { service = "checkout" , node =~ "web-.*" , } ', Selector(matchers=(CHECKOUT, WEB))),
        ('{service="checkout"}', Selector(matchers=(CHECKOUT,))),
        ('service="checkout",node=~"web-.*"', Selector(matchers=(CHECKOUT, WEB))),
        ('service="checkout",', Selector(matchers=(CHECKOUT,))),
        ("cpu{service='checkout'}", Selector(matchers=(CHECKOUT,))),
        ("cpu{service=`checkout`}", Selector(matchers=(CHECKOUT,))),
        ('cpu{a!="b",c!~"d"}', Selector(matchers=(Matcher("a", MatchOp.NE, "b"), Matcher("c", MatchOp.NRE, "d")))),
        ('cpu{"app.io/name"="x"}', Selector(matchers=(Matcher("app.io/name", MatchOp.EQ, "x"),))),
    ],
)
def test_selectors_as_prometheus_writes_them_are_read(text: str, expected: Selector) -> None:
    """Types, braces and commas are optional where they say nothing."""
    assert parse_selector(text) == expected


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        (r'"a\"b"', 'a"b'),
        (r"'it\'s'", "it's"),
        (r'"\\d+"', r"\d+"),
        (r"`\d+`", r"\d+"),
        (r'"tab\tnewline\n"', "tab\tnewline\n"),
        (r'"\x41\101é\U0001F525"', "AAé🔥"),
        (r'"\xc3\xa9"', "é"),
        ('"}{,"', "}{,"),
    ],
)
def test_strings_have_the_escapes_of_prometheus(literal: str, value: str) -> None:
    """Double and single quotes take escapes, back quotes take none."""
    assert parse_selector(f"cpu{{a={literal}}}").matchers[0].value == value


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("cpu{", 4, "label name"),
        ("cpu{service}", 11, "one of `=`"),
        ('cpu{service=="a"}', 11, "one of `=`"),
        ("cpu{service=checkout}", 12, "in quotes"),
        ('cpu{service="a" node="b"}', 16, "`,` or `}`"),
        ('cpu{service="a}', 12, "no closing"),
        ("cpu{service=`a}", 12, "no closing"),
        ('cpu{service="a"', 15, "`,` or `}`"),
        ('cpu{service="a"} x', 17, "end of the selector"),
        ('cpu{service="a"}}', 16, "end of the selector"),
        ("cpu service", 4, "`{` or the end"),
        (r'cpu{a=~"\d"}', 8, r"unknown escape `\d`"),
        ('cpu{a=~"(b"}', 7, "missing )"),
        ('cpu{a=~"(?=b)"}', 7, "not a regular expression"),
        ('cpu{,a="b"}', 4, "label name"),
        ('cpu{1a="b"}', 4, "label name"),
        (r'cpu{a="\xff"}', 6, "UTF-8"),
        (r'cpu{a="\ud800"}', 7, "no character"),
        ("service=", 8, "in quotes"),
        ('cpu{""="b"}', 4, "empty"),
    ],
)
def test_an_error_points_at_its_place_and_says_what_was_expected(text: str, column: int, expected: str) -> None:
    """The caret stands below the first character that does not fit."""
    with pytest.raises(UsageError, match=re.escape(expected)) as caught:
        parse_selector(text)
    first, shown, caret = caught.value.message.split("\n")
    assert first.startswith("malformed selector: ")
    assert shown == f"  {text}"
    assert caret == " " * (2 + column) + "^"
    assert caught.value.exit_code == 2


def test_the_caret_of_a_long_selector_is_within_an_excerpt_of_it() -> None:
    """A thousand characters are not printed to show one."""
    with pytest.raises(UsageError) as caught:
        parse_selector(f'cpu{{a="{"x" * 500}", ?="{"y" * 500}"}}')
    _, shown, caret = caught.value.message.split("\n")
    assert len(shown) < 120
    assert shown[caret.index("^")] == "?"


@pytest.mark.parametrize(
    "text",
    ["x" * (MAX_SELECTOR_CHARS + 1), ",".join(f'a{i}="b"' for i in range(MAX_MATCHERS + 1)), 'a=~"(x{1000}){1000}"'],
    ids=["characters", "matchers", "expression"],
)
def test_what_would_cost_too_much_is_refused(text: str) -> None:
    """Length, number of matchers and the size of a compiled expression are bounded."""
    with pytest.raises(UsageError):
        parse_selector(text)


@pytest.mark.parametrize(
    ("matcher", "passing", "failing"),
    [
        (WEB, ["web-", "web-1", "web-a\nb"], ["web", "xweb-1", ""]),
        (Matcher("a", MatchOp.NRE, "x|y"), ["", "z", "xy"], ["x", "y"]),
        (Matcher("a", MatchOp.EQ, ""), [""], ["x"]),
        (Matcher("a", MatchOp.NE, ""), ["x"], [""]),
        (Matcher("a", MatchOp.RE, ".+"), ["x"], [""]),
    ],
)
def test_expressions_match_whole_values_and_an_absent_label_is_empty(
    matcher: Matcher, passing: list[str], failing: list[str]
) -> None:
    """As in Prometheus, which is what its users expect."""
    assert [matcher.matches(value) for value in passing] == [True] * len(passing)
    assert [matcher.matches(value) for value in failing] == [False] * len(failing)


MATCHERS = st.builds(
    Matcher,
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,10}", fullmatch=True) | st.text(min_size=1, max_size=8),
    st.sampled_from([MatchOp.EQ, MatchOp.NE]),
    st.text(),
)


@given(st.builds(Selector, type=st.just("cpu"), matchers=st.lists(MATCHERS, max_size=4).map(tuple)))
def test_a_selector_reads_back_from_its_own_text(selector: Selector) -> None:
    """Printing and parsing are inverse, whatever the values hold."""
    assert parse_selector(str(selector)) == selector


@given(st.text(alphabet=st.sampled_from(list("cpu{}=~!\"'`\\, abx1(\n\ud800")), max_size=30))
def test_any_text_is_a_selector_or_a_usage_error(text: str) -> None:
    """Nothing else comes out of the parser."""
    try:
        parsed = parse_selector(text)
    except UsageError:
        return
    assert parse_selector(str(parsed)) == parsed


def test_quoting_survives_every_quote() -> None:
    """All three quotes and the backslash in one value."""
    value = "\"'`\\"
    assert parse_selector(f"a={quote(value)}").matchers[0].value == value


def test_narrowing_adds_conditions() -> None:
    """The former selector stays as it was."""
    base = Selector(matchers=(CHECKOUT,))
    assert base.narrowed(WEB) == Selector(matchers=(CHECKOUT, WEB))
    assert base == Selector(matchers=(CHECKOUT,))
