"""The documentation has every command, option, environment variable, endpoint, parameter and metric, and no more."""

import re
from pathlib import Path

import click
import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from agent import metrics as agent_metrics
from aggregator import metrics as aggregator_metrics
from aggregator.api.routes import ENDPOINTS
from aggregator.formats import FORMS
from tests.cli.test_main import COMMANDS, IDS

DOCS = Path(__file__).parents[2] / "docs"
CLI = (DOCS / "cli.md").read_text()
HTTP = (DOCS / "http.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()
SECTIONS = dict(zip(*[iter(re.split(r"^## fleetflame (.*)$", CLI, flags=re.MULTILINE)[1:])] * 2, strict=True))


def test_every_command_is_documented_and_no_other() -> None:
    """A section each."""
    assert list(SECTIONS) == IDS


@pytest.mark.parametrize(("path", "verb"), COMMANDS, ids=IDS)
def test_every_option_is_documented_with_its_variable(path: tuple[str, ...], verb: click.Command) -> None:
    """In the command's own section."""
    section = SECTIONS[" ".join(path)]
    known = set()
    for option in verb.params:
        if not isinstance(option, click.Option):
            continue
        known |= {*option.opts, *option.secondary_opts}
        names = option.envvar or f"FLEETFLAME_{'_'.join(path)}_{option.name}".upper()
        for word in (*option.opts, *option.secondary_opts, *([names] if isinstance(names, str) else names)):
            assert f"`{word}`" in section, f"{word} is missing in docs/cli.md"
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `-")]
    told = {word for row in rows for word in re.findall(r"`(--?[a-z-]+)`", row)}
    assert told == known


def test_every_endpoint_is_documented_with_its_parameters() -> None:
    """And no other."""
    rows = re.findall(r"^\| `(GET|POST) (/\S*)` \|([^|]*)\|", HTTP, flags=re.MULTILINE)
    told = {(method, path): set(re.findall(r"`(\w+)`", params)) for method, path, params in rows}
    assert told == {(each.method, each.path): {param.name for param in each.params} for each in ENDPOINTS}


def test_every_format_is_documented_with_its_content_type() -> None:
    """As it is sent."""
    for name, form in FORMS.items():
        assert f"| `{name}` | `{form.content_type.partition(';')[0]}` |" in HTTP


def test_every_metric_is_documented_with_its_labels() -> None:
    """By the name that Prometheus sees, and no other."""
    assert aggregator_metrics, "imported, so that its metrics are registered"
    names = {metric.name: (metric.kind, set(metric.labels)) for metric in agent_metrics.REGISTRY}
    for collector in set(REGISTRY._collector_to_names):
        for metric in collector.describe() if isinstance(collector, MetricWrapperBase) else ():
            if metric.name.startswith("fleetflame_"):
                name = f"{metric.name}_total" if metric.type == "counter" else metric.name
                names[name] = (metric.type, set(getattr(collector, "_labelnames", ())))
    rows = re.findall(r"^\| `(fleetflame_\w+)` \| (\w+) \|([^|]*)\|", METRICS, flags=re.MULTILINE)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == names
