"""Merged flame graphs of a made-up fleet, beside DuckDB and `go tool pprof` on the same data.

    python -m bench.query [--nodes 10 100] [--days 7] [--runs 20] [--cold 3] [--folder DIR]

Measured is the whole way of a question through `QueryService`: select, frames, names, merge by name, and the answer as
folded text; and as HTML. Warm: the same process was asked before. Cold: a process that was just started, with nothing
of the store in the page cache. 10 nodes have every sample of the days; 100 nodes have every sample where a question
reads samples, and sums for the rest, as the store keeps them.

DuckDB sums the same samples by process and stack, which is the first part of our work only; and once more the very rows
that ours reads where it reads sums. `go tool pprof` merges one file for each node and window, names included. What each
question answers is compared, byte for byte, with a brute-force count over the samples that were made up.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from aggregator import metrics
from aggregator.config import QueryLimits
from aggregator.fold import fold
from aggregator.profile import Profile
from aggregator.query import QueryService, Question
from aggregator.render import folded, html
from aggregator.selector import parse_selector
from aggregator.storage import Store, ids, select
from aggregator.storage.series import of_fleet
from aggregator.storage.tables import OF_FLEET, OF_SERIES
from aggregator.storage.types import DAY_S, HOUR_S, StorageOptions
from aggregator.times import SECOND_NS, TimeRange
from bench import _pprof
from bench._fleet import Nodes, make_population, symbol_service
from bench._load import Loader

END = 1_790_685_340
"""Neither an hour nor a day begins here: 12:35:40 UTC, on a Tuesday."""
FULL_NODES = 10
"""Up to this many nodes have every sample."""
TARGETS = {(10, "1 h"): 100, (10, "24 h"): 300, (10, "7 d"): 1000}
TARGETS |= {(100, "1 h"): 200, (100, "24 h"): 500, (100, "7 d"): 2000}
STAGES = ("select", "frames", "names", "render")
MEMORY = 1 << 30
"""Of the engine, which counts all memory of its process."""


@dataclass(frozen=True)
class Case:
    """A question about all of a fleet."""

    nodes: int
    name: str
    start: int
    end: int = END

    @property
    def question(self) -> Question:
        """As the API would ask it."""
        time_range = TimeRange(from_ns=self.start * SECOND_NS, until_ns=self.end * SECOND_NS)
        return Question(selector=parse_selector("cpu"), time=time_range)


@dataclass(frozen=True)
class Measured:
    """Milliseconds of one answer: all of it, and its parts."""

    total: float
    stages: dict[str, float]


class Asker:
    """A store, a symbol service and a query service over the folder of one fleet."""

    def __init__(self, folder: Path) -> None:
        options = StorageOptions(location=str(folder / "store"), disk_bytes=0, memory_bytes=MEMORY)
        self.store = Store(options)
        self.symbols = symbol_service(folder.parent / "symbols", [])
        self.service = QueryService(self.store, self.symbols.lookup, QueryLimits(), version=self.symbols.version)

    def close(self) -> None:
        """Closes both."""
        self.service.close()
        self.store.close()

    def ask(self, case: Case, render: Callable[[Profile], bytes]) -> tuple[bytes, Measured]:
        """The answer and what it took."""
        before = {stage: _spent(stage) for stage in STAGES}
        started = time.perf_counter()
        answer = asyncio.run(self.service.ask((case.question,), render))
        total = (time.perf_counter() - started) * 1e3
        return answer, Measured(total, {stage: (_spent(stage) - before[stage]) * 1e3 for stage in STAGES})


def _spent(stage: str) -> float:
    samples = next(iter(metrics.QUERY_STAGE_SECONDS.labels(stage).collect())).samples
    return next(sample.value for sample in samples if sample.name.endswith("_sum"))


def as_folded(profile: Profile) -> bytes:
    """Folded text."""
    return folded.render(fold(profile))


def as_html(profile: Profile) -> bytes:
    """The HTML flame graph."""
    return html.render(fold(profile))


def cases(nodes: int, days: int) -> list[Case]:
    """The three ranges, as far as there are days."""
    spans = {"1 h": HOUR_S, "24 h": DAY_S, f"{days} d": days * DAY_S}
    return [Case(nodes, name, END - span) for name, span in spans.items() if span <= days * DAY_S]


def fill(folder: Path, nodes: int, asked: Sequence[Case], peer: duckdb.DuckDBPyConnection) -> Loader:
    """A store in `folder` with what the questions need, and the same samples in `peer`."""
    options = StorageOptions(location=str(folder / "store"), disk_bytes=0, memory_bytes=MEMORY)
    store = Store(options)
    loader = Loader(store, peer, Nodes(make_population(), nodes), [(case.start, case.end) for case in asked])
    start, day, hour = asked[-1].start, END // DAY_S * DAY_S, END // HOUR_S * HOUR_S
    loader.refer(start, END)
    if nodes <= FULL_NODES:
        loader.samples(start, END)
        loader.roll_up(END)
    else:
        loader.samples(hour - HOUR_S, END)
        loader.sum_up(hour - HOUR_S, END)
        later = hour - HOUR_S
        for begin in sorted({case.start for case in asked} - {END - HOUR_S}, reverse=True):
            first = -(-begin // HOUR_S) * HOUR_S
            loader.samples(begin, first, read_by=[(begin, END)])
            loader.sum_up(begin, first)
            loader.markers(first, later)
            loader.hour_sums(first, min(hour - HOUR_S, first // DAY_S * DAY_S + DAY_S))
            later = begin
        loader.hour_sums(day, hour - HOUR_S)
        loader.day_sums(-(-start // DAY_S) * DAY_S, day)
    loader.settle()
    loader.store.close()
    return loader


def cold(folder: Path, case: Case) -> tuple[float, int]:
    """Milliseconds of the first answer of a new process, and its peak memory in MiB."""
    _forget(folder)
    _forget(folder.parent / "symbols")
    command = [sys.executable, "-m", "bench.query", "--ask", str(folder), str(case.start), str(case.end)]
    out = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return out["ms"], out["mib"]


def _forget(folder: Path) -> None:
    """Takes the files of `folder` out of the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def answer_cold(folder: Path, start: int, end: int) -> None:
    """What the process of `cold` does."""
    asker = Asker(folder)
    _, measured = asker.ask(Case(0, "", start, end), as_folded)
    asker.close()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"ms": measured.total, "mib": int(peak.split()[1]) >> 10}))


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    """Milliseconds of each run, the first of which is not counted."""
    found = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        work()
        found.append((time.perf_counter() - started) * 1e3)
    return found[1:]


def duckdb_all(peer: duckdb.DuckDBPyConnection, case: Case, runs: int) -> list[float]:
    """DuckDB over every sample of the range, by process and stack."""
    sql = (
        "SELECT comm, stack, sum(n), sum(value) FROM samples JOIN comms USING (series)"
        f" WHERE time >= {case.start} AND time < {case.end} GROUP BY comm, stack"
    )
    return seconds(lambda: peer.execute(sql).fetchnumpy(), runs)


def duckdb_same(peer: duckdb.DuckDBPyConnection, store: Store, case: Case, runs: int) -> tuple[int, list[float]]:
    """How many rows our plan reads, and DuckDB over just these."""
    plan = select.make_plan(store.engine, case.start, case.end, (OF_FLEET, OF_SERIES))
    peer.execute("CREATE OR REPLACE TABLE same (series UBIGINT, stack UBIGINT, n UBIGINT, value UBIGINT)")
    rows = 0
    # A part at a time: the store's memory is bounded.
    for part, rest in itertools.product(select.every_row(plan), range(16)):
        found = store.engine.query(f"SELECT series, stack, count, value FROM ({part}) WHERE series % 16 = {rest}")
        columns = {"series": "series", "stack": "stack", "n": "count", "value": "value"}
        incoming = pa.table({name: found.numbers(ours) for name, ours in columns.items()})
        peer.register("incoming", incoming)
        peer.execute("INSERT INTO same SELECT * FROM incoming")
        peer.unregister("incoming")
        rows += len(incoming)
    sql = "SELECT comm, stack, sum(n), sum(value) FROM same JOIN comms USING (series) GROUP BY comm, stack"
    return rows, seconds(lambda: peer.execute(sql).fetchnumpy(), runs)


def measure(folder: Path, loader: Loader, asked: Sequence[Case], options: argparse.Namespace) -> list[str]:
    """The table's lines for one fleet."""
    peer, nodes = loader.peer, loader.nodes
    labels = nodes.all_labels()
    keys = [*map(ids.series_id, labels), *of_fleet(labels).tolist()]
    series = sorted({(key, dict(each)["comm"]) for key, each in zip(keys, [*labels, *labels], strict=True)})
    peer.execute("CREATE OR REPLACE TABLE comms (series UBIGINT, comm VARCHAR)")
    peer.executemany("INSERT INTO comms VALUES (?, ?)", series)
    first = [[cold(folder, case) for _ in range(options.cold)] for case in asked]
    lines = []
    asker = Asker(folder)
    for case, colds in zip(asked, first, strict=True):
        answer, _ = asker.ask(case, as_folded)
        expected = nodes.population.folded(loader.totals[case.start, case.end])
        assert answer == expected, f"{case}: the answer differs from a brute-force count"
        warm = [asker.ask(case, as_folded)[1] for _ in range(options.runs)]
        page = [asker.ask(case, as_html)[1] for _ in range(options.runs)]
        rows, same = duckdb_same(peer, asker.store, case, options.peer_runs)
        every = duckdb_all(peer, case, options.peer_runs) if nodes.count <= FULL_NODES else []
        lines.append(_line(case, rows, colds, (warm, page), (every, same)))
        print(f"  {lines[-1]}", file=sys.stderr)
    asker.close()
    return lines


def _line(
    case: Case,
    rows: int,
    colds: list[tuple[float, int]],
    ours: tuple[list[Measured], list[Measured]],
    theirs: tuple[list[float], list[float]],
) -> str:
    warm, page = ours
    total = [each.total for each in warm]
    parts = " + ".join(f"{statistics.median(each.stages[stage] for each in warm):.0f}" for stage in STAGES)
    summed = statistics.median(each.stages["select"] for each in warm)
    every, same = theirs
    cells = [
        f"{case.nodes}",
        case.name,
        f"{rows / 1e6:.1f} M",
        _spread(total),
        f"{TARGETS.get((case.nodes, case.name), 0) or ''}",
        parts,
        _spread([each.total for each in page]),
        _spread([each[0] for each in colds]) if colds else "",
        f"{max((each[1] for each in colds), default=0)}",
        f"{statistics.median(every):.0f} ({statistics.median(every) / summed:.2f})" if every else "",
        f"{statistics.median(same):.0f} ({statistics.median(same) / summed:.2f})",
    ]
    return "| " + " | ".join(cells) + " |"


def _spread(values: list[float]) -> str:
    """Median and 95th percentile."""
    return f"{statistics.median(values):.0f} / {np.quantile(values, 0.95):.0f}"


HEAD = """\
| nodes | range | rows read | folded, warm, ms p50 / p95 | target | select + frames + names + merge and text \
| HTML, warm | folded, cold | peak MiB | DuckDB, every sample, ms (x our select) | DuckDB, rows that we read |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    options = _options(arguments)
    if options.ask:
        folder, start, end = options.ask
        answer_cold(Path(folder), int(start), int(end))
        return 0
    folder = Path(options.folder or tempfile.mkdtemp(prefix="bench-query-"))
    population = make_population()
    symbol_service(folder / "symbols", population.images)
    print(
        f"A population of {len(population):,} stacks with {len(population.rows.address):,} frames; medians and 95th"
        f" percentiles of {options.runs} answers (cold: {options.cold}). Every answer equals the brute-force count.\n"
    )
    lines, merged = [], ""
    for nodes in options.nodes:
        asked = cases(nodes, options.days)
        place = folder / f"{nodes}"
        place.mkdir(parents=True)
        with duckdb.connect(str(place / "duckdb")) as peer:
            peer.execute("SET threads = 2")
            loader = fill(place, nodes, asked, peer)
            lines += measure(place, loader, asked, options)
            if nodes <= FULL_NODES and shutil.which("go"):
                merged = beside_pprof(place, loader, asked[0])
        if not options.folder:
            shutil.rmtree(place)
    print(HEAD)
    print("\n".join(lines))
    print(
        "\nDuckDB's figure is for sums by process and stack, to be compared with our `select`: above 1 it takes longer."
        " It finds no frames and no names, and merges nothing.\n"
    )
    print(merged)
    if not options.folder:
        shutil.rmtree(folder)
    return 0


def beside_pprof(folder: Path, loader: Loader, case: Case) -> str:
    """`go tool pprof` on the windows of a question, and ours on the same."""
    files = _pprof.write(folder / "pprof", loader.nodes, case.start, case.end)
    took = _pprof.merge(files)
    asker = Asker(folder)
    asker.ask(case, as_folded)
    ours = [asker.ask(case, as_folded)[1].total / 1e3 for _ in range(5)]
    asker.close()
    return (
        f"`go tool pprof -proto` merges the {len(files):,} files of {case.nodes} nodes and {case.name},"
        f" {sum(file.stat().st_size for file in files) / 1e6:.0f} MB, in {took:.1f} s: "
        f"{took / statistics.median(ours):.0f} times what ours takes for the same windows."
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--peer-runs", type=int, default=5)
    parser.add_argument("--cold", type=int, default=3)
    parser.add_argument("--folder", default="", help="keep the data there")
    parser.add_argument("--ask", nargs=3, metavar=("FOLDER", "START", "END"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
