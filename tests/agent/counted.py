"""Counters of the agent, as Prometheus would read them."""

from agent.metrics import REGISTRY


def counted(metric: str, label: str, value: str) -> int:
    """What a counter says now: since the process began, so that tests take differences."""
    values = next(each.values for each in REGISTRY if each.name == f"fleetflame_agent_{metric}_total")
    return int(sum(sample.value for sample in values.samples() if sample.labels == ((label, value),)))
