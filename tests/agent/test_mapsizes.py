"""Sizes of the kernel's maps follow the machine where nobody said otherwise."""

from hypothesis import given
from hypothesis import strategies as st

from agent.config import AgentConfig
from agent.mapsizes import load_options


def test_a_small_machine_gets_small_maps() -> None:
    """Two CPUs at 19 Hz: 380 samples in a window."""
    sizes = load_options(AgentConfig(node="n", frequency=19), cpus=2)
    assert (sizes.counts_entries, sizes.stack_entries, sizes.id_stack_entries) == (2048, 2048, 256)


def test_what_the_operator_said_holds() -> None:
    """A size that was given is taken as it is."""
    config = AgentConfig(node="n", counts_entries=300, stack_entries=301, id_stack_entries=65, process_entries=1025)
    sizes = load_options(config, cpus=64)
    assert (sizes.counts_entries, sizes.stack_entries, sizes.id_stack_entries) == (300, 301, 65)
    assert sizes.process_entries == 1025


@given(cpus=st.integers(1, 512), frequency=st.integers(1, 10_000), window=st.integers(1, 600))
def test_every_sample_of_a_window_has_room_up_to_the_bound(cpus: int, frequency: int, window: int) -> None:
    """No row is lost for want of room before 65,536 samples of different rows come in one window."""
    sizes = load_options(AgentConfig(node="n", frequency=frequency, window=window), cpus=cpus)
    assert sizes.counts_entries >= min(cpus * frequency * window, 1 << 16)
