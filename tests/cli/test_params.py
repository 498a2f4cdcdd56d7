"""Option values as people write them."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.params import DURATION, SIZE, format_seconds, format_size, human_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("512MiB", 512 << 20),
        ("512m", 512 << 20),
        ("2 GB", 2 << 30),
        ("1tib", 1 << 40),
        ("7B", 7),
        ("3k", 3072),
    ],
)
def test_sizes_have_units_of_1024(text: str, expected: int) -> None:
    """With or without `i` and `B`, in either case."""
    assert SIZE.convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5G", "1PiB", "1 0"])
def test_other_sizes_are_refused(text: str) -> None:
    """Fractions and signs included."""
    with pytest.raises(click.BadParameter, match="not a size"):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), ("1h30m", 5400), ("14d", 1_209_600)])
def test_durations_are_seconds_or_have_units(text: str, expected: int) -> None:
    """A bare number is seconds."""
    assert DURATION.convert(text, None, None) == expected


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_formatted_size_reads_back(size: int) -> None:
    """Defaults are shown in this form."""
    assert SIZE.convert(format_size(size), None, None) == size


@given(st.integers(min_value=0, max_value=10**9))
def test_formatted_seconds_read_back(seconds: int) -> None:
    """Defaults are shown in this form."""
    assert DURATION.convert(format_seconds(seconds), None, None) == seconds


@pytest.mark.parametrize(("size", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes_for_reading_have_one_digit(size: int, shown: str) -> None:
    """For tables."""
    assert human_size(size) == shown
