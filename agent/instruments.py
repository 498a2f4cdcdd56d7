"""Counters, gauges and histograms, and the text in which Prometheus reads them.

An agent's own because of its budget: importing `prometheus_client` takes 1.7 MB resident of the 64 that a node gives
(it brings HTTP servers and clients along), and what an agent needs of it is this. The format is version 0.0.4 of
github.com/prometheus/docs, content/docs/instrumenting/exposition_formats.md; the tests let `prometheus_client` read it.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# One for all: it is held for one addition. An addition alone would lose counts between threads.
_LOCK = threading.Lock()
_ESCAPED_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_ESCAPED_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Sample(NamedTuple):
    """One line of the text: what follows the metric's name, the labels, the value."""

    suffix: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Counter:
    """A sum that only grows."""

    __slots__ = ("_sum",)

    def __init__(self) -> None:
        self._sum: float = 0

    def inc(self, amount: float = 1) -> None:
        """Adds `amount`, which is not negative."""
        assert amount >= 0, "a counter only grows"
        with _LOCK:
            self._sum += amount

    def samples(self) -> Iterator[Sample]:
        """The sum."""
        yield Sample("", (), self._sum)


class Counters:
    """A counter for each combination of label values that was asked for."""

    __slots__ = ("_counters", "_names")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._counters: dict[tuple[str, ...], Counter] = {}

    def labels(self, *values: str) -> Counter:
        """The counter with these values, in the order of the names. Values are of a closed set: none is forgotten."""
        assert len(values) == len(self._names), "a value for each label"
        with _LOCK:
            return self._counters.setdefault(values, Counter())

    def samples(self) -> Iterator[Sample]:
        """The sum of each."""
        with _LOCK:
            counters = list(self._counters.items())
        for values, counter in counters:
            for sample in counter.samples():
                yield sample._replace(labels=tuple(zip(self._names, values, strict=True)))


class Gauge:
    """A value of this moment."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: float = 0

    def set(self, value: float) -> None:
        """`value` is what holds now."""
        self._value = value

    def samples(self) -> Iterator[Sample]:
        """The value."""
        yield Sample("", (), self._value)


class Histogram:
    """How many observations lie at or below each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one observation."""
        with _LOCK:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    @contextmanager
    def time(self) -> Iterator[None]:
        """Observes the seconds that the block takes, however it ends."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - start)

    def samples(self) -> Iterator[Sample]:
        """A line for each bound, cumulative, then sum and count."""
        with _LOCK:
            counts, total = list(self._counts), self._sum
        reached = 0
        for bound, count in zip((*map(repr, self._bounds), "+Inf"), counts, strict=True):
            reached += count
            yield Sample("_bucket", (("le", bound),), reached)
        yield Sample("_sum", (), total)
        yield Sample("_count", (), reached)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What a registry knows of one metric; `name` is as Prometheus sees it, `_total` included."""

    name: str
    kind: str
    about: str
    labels: tuple[str, ...]
    values: Counter | Counters | Gauge | Histogram


class Registry:
    """The metrics that are served together, in the order in which they were made."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def counter(self, name: str, about: str) -> Counter:
        """A new counter; its name ends in `_total`."""
        values = Counter()
        self._add(Metric(name=name, kind="counter", about=about, labels=(), values=values))
        return values

    def counters(self, name: str, about: str, *labels: str) -> Counters:
        """A new counter for each combination of values of these labels; its name ends in `_total`."""
        values = Counters(labels)
        self._add(Metric(name=name, kind="counter", about=about, labels=labels, values=values))
        return values

    def gauge(self, name: str, about: str) -> Gauge:
        """A new gauge, 0 at first."""
        values = Gauge()
        self._add(Metric(name=name, kind="gauge", about=about, labels=(), values=values))
        return values

    def histogram(self, name: str, about: str, bounds: Sequence[float]) -> Histogram:
        """A new histogram; `bounds` ascend."""
        values = Histogram(bounds)
        self._add(Metric(name=name, kind="histogram", about=about, labels=(), values=values))
        return values

    def text(self) -> str:
        """All metrics as Prometheus reads them."""
        lines = []
        for metric in self:
            lines.append(f"# HELP {metric.name} {metric.about.translate(_ESCAPED_HELP)}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            lines += [_line(metric.name, sample) for sample in metric.values.samples()]
        return "".join(f"{line}\n" for line in lines)

    def _add(self, metric: Metric) -> None:
        assert metric.name not in self._metrics, "each metric is made once"
        assert metric.name.endswith("_total") == (metric.kind == "counter"), "Prometheus' convention"
        self._metrics[metric.name] = metric


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{label}="{value.translate(_ESCAPED_LABEL)}"' for label, value in sample.labels)
    return f"{name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {sample.value!r}"
