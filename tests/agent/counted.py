"""Counters of the agent, as Prometheus would read them."""

from agent.metrics import REGISTRY


def counted(metric: str, label: str, value: str) -> int:
    """What a counter says now: since the process began, so that tests take differences."""
    return int(REGISTRY.get_sample_value(f"fleetflame_agent_{metric}_total", {label: value}) or 0)
