"""What an agent answers over HTTP."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from agent.monitor import Monitor
from fleetflame.errors import FleetflameError


@pytest.fixture
def trouble() -> list[str]:
    return []


@pytest.fixture
def monitor(trouble: list[str]) -> Iterator[Monitor]:
    with Monitor("127.0.0.1:0", lambda: "; ".join(trouble)) as running:
        yield running


def get(monitor: Monitor, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{monitor.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_the_agents_own(monitor: Monitor) -> None:
    """Prometheus text, without what the library says of Python itself."""
    status, text = get(monitor, "/metrics")
    assert status == 200
    assert "fleetflame_agent_samples_taken_total" in text
    assert "python_info" not in text


def test_alive_is_not_ready(monitor: Monitor, trouble: list[str]) -> None:
    """An agent that cannot send lives on, and says what is wrong."""
    assert get(monitor, "/readyz") == (200, "ok\n")
    trouble.append("no connection to NATS")
    assert get(monitor, "/readyz") == (503, "no connection to NATS\n")
    assert get(monitor, "/healthz") == (200, "ok\n")


def test_another_path_says_what_there_is(monitor: Monitor) -> None:
    """404, with the paths that exist."""
    status, text = get(monitor, "/")
    assert status == 404
    assert "/metrics" in text


def test_a_port_that_is_taken_is_the_operators_problem(monitor: Monitor) -> None:
    """One line with a way out."""
    with pytest.raises(FleetflameError, match="failed to listen on") as error:
        Monitor(f"127.0.0.1:{monitor.port}", lambda: "")
    assert "--metrics-listen" in error.value.hint
