"""What an agent counts, as Prometheus' own library reads it."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.instruments import Registry

Read = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(registry: Registry) -> Read:
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(registry.text())
        for sample in family.samples
    }


def test_every_kind_is_read_as_it_was_meant() -> None:
    """Type, help and values, as prometheus_client parses them."""
    registry = Registry()
    registry.counter("a_total", 'what "a" is,\nwith a \\ in it').inc(3)
    registry.gauge("b", "b").set(1.5)
    families = {family.name: family for family in text_string_to_metric_families(registry.text())}
    assert {name: family.type for name, family in families.items()} == {"a": "counter", "b": "gauge"}
    assert families["a"].documentation == 'what "a" is,\nwith a \\ in it'
    assert read(registry) == {("a_total", ()): 3, ("b", ()): 1.5}


@given(st.dictionaries(st.tuples(st.text(), st.text()), st.integers(1, 1 << 53), max_size=8))
def test_label_values_arrive_whatever_they_are(counts: dict[tuple[str, str], int]) -> None:
    """Quotes, backslashes and line ends among them; a combination that nobody counted is not there."""
    registry = Registry()
    counters = registry.counters("a_total", "a", "reason", "verb")
    for (reason, verb), count in counts.items():
        counters.labels(reason, verb).inc(count)
    assert read(registry) == {
        ("a_total", (("reason", reason), ("verb", verb))): count for (reason, verb), count in counts.items()
    }


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.51, 2.0, 99.0])))
def test_buckets_are_cumulative_and_include_their_bound(observed: list[float]) -> None:
    """As `le` says."""
    registry = Registry()
    histogram = registry.histogram("a", "a", (0.1, 0.5, 2.0))
    for value in observed:
        histogram.observe(value)
    values = read(registry)
    for bound in (0.1, 0.5, 2.0):
        assert values["a_bucket", (("le", str(bound)),)] == sum(value <= bound for value in observed)
    assert values["a_bucket", (("le", "+Inf"),)] == values["a_count", ()] == len(observed)
    assert values["a_sum", ()] == pytest.approx(sum(observed))


def test_a_block_that_fails_is_timed_too() -> None:
    """Otherwise the slowest would be missing."""
    registry = Registry()
    histogram = registry.histogram("a", "a", (1.0,))
    with pytest.raises(OSError, match="x"), histogram.time():
        raise OSError("x")
    assert read(registry)["a_count", ()] == 1


def test_no_count_is_lost_between_threads() -> None:
    """Two threads of an agent count the same things."""
    registry = Registry()
    counters = registry.counters("a_total", "a", "reason")
    threads = [threading.Thread(target=lambda: [counters.labels("x").inc() for _ in range(5000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(registry) == {("a_total", (("reason", "x"),)): 20_000}
