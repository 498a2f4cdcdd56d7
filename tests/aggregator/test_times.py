"""Times and durations: every accepted form, and what the refusal of others says."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.times import MAX_NS, TimeRange, format_duration, format_time, parse_duration, parse_range, parse_time
from fleetflame.errors import UsageError

S = 10**9
NOW = 1_769_851_800 * S  # 2026-01-31T09:30:00Z


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        (" now ", NOW),
        ("-15m", NOW - 900 * S),
        ("-1h30m", NOW - 5400 * S),
        ("-1.5h", NOW - 5400 * S),
        ("now-1h30m", NOW - 5400 * S),
        ("now - 250ms", NOW - S // 4),
        ("now+1d", NOW + 86_400 * S),
        ("+1w", NOW + 604_800 * S),
        ("2026-01-31T09:30:00Z", NOW),
        ("2026-01-31t10:30:00.000000001+01:00", NOW + 1),
        ("2026-01-31 04:00:00-05:30", NOW),
        ("1769851800", NOW),
        ("1769851800.25", NOW + S // 4),
        ("1769851800123", NOW + 123_000_000),
        ("1769851800123456", NOW + 123_456_000),
        ("1769851800123456789", NOW + 123_456_789),
        ("0", 0),
    ],
)
def test_every_documented_form_is_read(text: str, expected: int) -> None:
    """Relative, RFC 3339 and Unix times in each unit."""
    assert parse_time(text, now_ns=NOW) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "`now`, `-15m`"),
        ("yesterday", "RFC 3339"),
        ("15m", "`-15m`"),
        ("2026-01-31", "a zone"),
        ("2026-01-31T09:30:00", "a zone"),
        ("2026-02-31T09:30:00Z", "RFC 3339"),
        ("now-", "`now`"),
        ("nowish", "`now`"),
        ("-15", "`-15m`"),
        ("-15x", "`-15m`"),
        ("-100000w", "1970"),
        ("999999999999999999999", "`now`"),
        ("١٥", "`now`"),
    ],
)
def test_other_forms_are_refused_with_a_way_out(text: str, hint: str) -> None:
    """The hint names the forms that are accepted, or the one that was probably meant."""
    with pytest.raises(UsageError) as caught:
        parse_time(text, now_ns=NOW)
    assert hint in caught.value.hint


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "1h 30m", "1y", "1e3s"])
def test_a_duration_needs_numbers_with_units(text: str) -> None:
    """Signs, blanks and unknown units are refused."""
    with pytest.raises(UsageError, match=re.escape("not a duration")):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=MAX_NS - 1))
def test_a_formatted_time_reads_back_exactly(moment: int) -> None:
    """No digit is lost on the way."""
    assert parse_time(format_time(moment), now_ns=NOW) == moment


@given(st.integers(min_value=0, max_value=10**10))
def test_a_formatted_duration_reads_back_to_the_millisecond(milliseconds: int) -> None:
    """What the page and the help print can be typed again."""
    assert parse_duration(format_duration(milliseconds * 10**6)) == milliseconds * 10**6


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_a_usage_error(text: str) -> None:
    """Nothing else comes out of the parser."""
    with contextlib.suppress(UsageError):
        assert 0 <= parse_time(text, now_ns=NOW) < MAX_NS


def test_a_range_defaults_to_the_last_quarter_of_an_hour() -> None:
    """Either end may be left out."""
    assert parse_range("", "", now_ns=NOW) == TimeRange(from_ns=NOW - 900 * S, until_ns=NOW)
    assert parse_range("-1h", "", now_ns=NOW).length_ns == 3600 * S


@pytest.mark.parametrize(("start", "end"), [("now", "now"), ("now", "-1m")])
def test_a_range_that_does_not_start_before_it_ends_is_refused(start: str, end: str) -> None:
    """An empty answer would look like an idle fleet."""
    with pytest.raises(UsageError, match="time range is empty"):
        parse_range(start, end, now_ns=NOW)
