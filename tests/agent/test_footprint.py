"""What an agent's process does not hold: its memory is promised to stay below 64 MB."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

UNWANTED = {
    "bcc": "LLVM: only in the loader's child",
    "yaml": "only with a configuration file",
    "http": "HTTP server and client: only with --metrics-listen",
    "urllib.request": "nothing is fetched",
    "prometheus_client": "the aggregator's",
    "rich": "for people who ask",
    "numpy.random": "not loaded by `import numpy`, and to stay so, as the next ones",
    "numpy.testing": "",
    "numpy.ma": "",
    "numpy.fft": "",
    "numpy.polynomial": "",
    "aggregator": "another process",
}
"""Module -> why it has no business in an agent without options."""


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """All modules of a process that is about to run an agent."""
    program = (
        "import sys; before = set(sys.modules)\n"
        "import cli.main, cli.agent, cli.logging, cli.output, agent.app\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", UNWANTED)
def test_an_agent_imports_no_more_than_it_needs(imported: set[str], module: str) -> None:
    """Each of these takes 0.7 MB or more."""
    assert "agent.app" in imported
    assert not {name for name in imported if name == module or name.startswith(f"{module}.")}


def test_what_is_left_out_is_found_when_asked_for(tmp_path: Path) -> None:
    """A configuration file and a monitor work although nobody imported what they need."""
    config = tmp_path / "agent.yml"
    config.write_text("node: a\nmetrics_listen: 127.0.0.1:0\n")
    program = (
        "import pathlib, sys, cli.agent, agent.app\n"
        "from agent.configfile import read_config\n"
        "from agent.monitor import Monitor\n"
        "config = read_config(pathlib.Path(sys.argv[1]))\n"
        "with Monitor(config.metrics_listen, lambda: ''): print(config.node)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(config)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "a\n"
