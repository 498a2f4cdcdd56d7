"""What can be said of maps without a kernel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernelmaps import parse_cpu_list


@pytest.mark.parametrize(("text", "cpus"), [("0\n", [0]), ("0-3\n", [0, 1, 2, 3]), ("0-1,4,6-7\n", [0, 1, 4, 6, 7])])
def test_cpu_lists_read_as_the_kernel_writes_them(text: str, cpus: list[int]) -> None:
    """Ranges include both ends."""
    assert parse_cpu_list(text) == cpus


@given(st.sets(st.integers(0, 300), min_size=1))
def test_any_set_of_cpus_survives_a_round_trip(cpus: set[int]) -> None:
    """One range per CPU is a valid list, too."""
    assert parse_cpu_list(",".join(map(str, sorted(cpus)))) == sorted(cpus)
