"""Numbers in words."""

import pytest

from aggregator.profile import Completeness, Origin
from aggregator.render import wording


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 5, "0%"),
        (0, 0, "0%"),
        (5, 5, "100%"),
        (1, 3, "33.33%"),
        (1, 10**6, "<0.01%"),
        (10**6 - 1, 10**6, ">99.99%"),
    ],
)
def test_shares_do_not_round_to_nothing_or_all(part: int, whole: int, text: str) -> None:
    """Something is never 0 %, and less than all never 100 %."""
    assert wording.share(part, whole) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 ms"),
        (10_101_010, "10.1 ms"),
        (5 * 10**9, "5 s"),
        (90 * 10**9, "1.5 min"),
        (3600 * 10**9 * 1234, "1,234 h"),
        (1000, "0.001 ms"),
    ],
)
def test_durations(nanoseconds: int, text: str) -> None:
    """The largest unit that fits, three digits."""
    assert wording.duration(nanoseconds) == text


def test_time_ranges_name_a_day_once() -> None:
    """Both ends in UTC; nothing if unknown."""
    second = 1_000_000_000
    assert wording.time_range(0, 60 * second) == "1970-01-01 00:00:00 – 00:01:00 UTC"
    assert wording.time_range(0, 90_000 * second) == "1970-01-01 00:00:00 – 1970-01-02 01:00:00 UTC"
    assert wording.time_range(0, 0) == ""


def test_completeness_names_what_is_missing() -> None:
    """Whole first, then truncated and unnamed if there are any."""
    assert wording.wholeness(Completeness(whole=3)) == ["100% whole"]
    assert wording.wholeness(Completeness(whole=1, truncated=2, unsymbolized=1)) == [
        "25.00% whole",
        "50.00% truncated",
        "25.00% with unnamed frames",
    ]
    assert wording.wholeness(Completeness()) == []
    assert wording.amount(Completeness(whole=1), 10**9, Origin(), timed=True) == ["1 sample", "1 s of CPU time"]
