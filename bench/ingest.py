"""Ingest: rows a second from encoded messages to durable, queryable rows, beside DuckDB and chdb loading the same rows.

    python -m bench.ingest [--nodes 40] [--windows 60] [--rows 3000] [--runs 3]

Ours decodes and checks each message, resolves stack numbers, stores stacks, series and ledger, looks for duplicates and
stores samples, each group with fsync before it would be acknowledged. Sixty windows are one generation of an agent's
dictionary: all stacks are new in the first, one in twenty in each later one. The peers get the finished rows as
arrays in groups of the same size, each in a transaction or insert that is synced too: the lower half of our work only.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from aggregator.numbers import NumberTables
from aggregator.storage import Store
from aggregator.storage.accept import accept
from aggregator.storage.types import AcceptedBatch, StorageOptions, Stored
from fleetflame import wire
from fleetflame.buildid import BuildId
from fleetflame.model import Batch, Ledger, Mapping, MappingKind, Segment, StackTable

GROUP = 200
START = 1_790_035_200
FRAMES = 28
NEW_STACKS = 0.05
"""Share of a window's rows whose stack is new to the dictionary."""
SERIES = 60
MAPPINGS = tuple(
    Mapping(MappingKind.FILE, BuildId(bytes([n]) * 20), f"/usr/lib/lib{n}.so", (Segment(0, 0, 1 << 22),))
    for n in range(20)
)


def make_messages(nodes: int, windows: int, rows: int) -> list[bytes]:
    """What `nodes` send in `windows`: window by window, as they arrive."""
    random = np.random.default_rng(7)
    messages = []
    numbered = [0] * nodes
    for window in range(windows):
        for node in range(nodes):
            new = rows if window == 0 else int(rows * NEW_STACKS)
            batch = make_batch(random, node, window, rows, (numbered[node], new))
            numbered[node] += new
            messages.append(wire.encode(batch))
    return messages


def make_batch(random: np.random.Generator, node: int, window: int, rows: int, stacks: tuple[int, int]) -> Batch:
    """One window of one node; `stacks`: how many it has numbered, and how many it numbers now."""
    first, new = stacks
    shared = (rows // SERIES) * SERIES
    number = np.sort(random.choice(first + new, (SERIES, shared // SERIES)), axis=1)
    keys = np.unique(np.repeat(np.arange(SERIES), shared // SERIES) * (1 << 32) + number.reshape(-1))
    count = random.integers(1, 20, len(keys)).astype(np.uint64)
    taken = int(count.sum())
    return Batch(
        node=f"node-{node}",
        epoch=node.to_bytes(16, "little"),
        sequence=window + 1,
        dictionary=1,
        window_start_ns=(START + window * 10) * 10**9,
        window_ns=10**10,
        period_ns=10**9 // 19,
        mappings=MAPPINGS,
        series=tuple(
            (("comm", f"comm{n % 20}"), ("container", f"{n:064x}"), ("service", f"service-{n // 2}"))
            for n in range(SERIES)
        ),
        first_number=first,
        stacks=StackTable(
            offsets=(np.arange(new + 1) * FRAMES).astype(np.uint32),
            mapping=np.tile(np.arange(FRAMES, dtype=np.uint32) % len(MAPPINGS), new),
            # Callers are few, leaves are many: neighbours share most of their frames.
            address=(0x1000 + random.zipf(1.3, new * FRAMES) % 5000 * 16).astype(np.uint64),
        ),
        sample_series=(keys >> 32).astype(np.uint32),
        sample_number=(keys & 0xFFFF_FFFF).astype(np.uint32),
        sample_count=count,
        ledger=Ledger(taken=taken, taken_in_epoch=taken),
    )


def groups(messages: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Messages as they would be fetched."""
    return [messages[at : at + GROUP] for at in range(0, len(messages), GROUP)]


def run_ours(folder: Path, messages: Sequence[bytes]) -> tuple[int, float]:
    """Rows stored and seconds. As in `aggregator.ingest`: one group is stored while the next one is decoded."""
    store = Store(StorageOptions(location=str(folder)))
    numbers = NumberTables(store.numbers)
    rows = 0
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as thread:
        storing: Future[Stored] | None = None
        for group in groups(messages):
            batches = []
            for message in group:
                batch = wire.decode(message)
                stacks, known, _ = numbers.resolve(batch)
                batches.append(accept(batch, stacks, known, START))
            rows += storing.result().rows if storing else 0
            storing = thread.submit(store.insert, batches)
        rows += storing.result().rows if storing else 0
    took = time.perf_counter() - started
    store.close()
    return rows, took


def finished_rows(messages: Sequence[bytes]) -> list[pa.Table]:
    """The rows that ours stores, group by group, as Arrow tables for the peers."""
    numbers = NumberTables(lambda *_: _no_more())
    tables = []
    for group in groups(messages):
        parts: list[AcceptedBatch] = []
        for message in group:
            batch = wire.decode(message)
            stacks, known, _ = numbers.resolve(batch)
            parts.append(accept(batch, stacks, known, START))
        count = np.concatenate([part.sample_count for part in parts])
        tables.append(
            pa.table(
                {
                    "series": np.concatenate([part.series_ids[part.sample_series] for part in parts]),
                    "time": np.concatenate([np.full(len(part.sample_count), part.time, np.uint32) for part in parts]),
                    "stack": np.concatenate([part.sample_stack for part in parts]),
                    "batch": np.concatenate([np.full(len(part.sample_count), part.id, np.uint64) for part in parts]),
                    "count": count,
                    "value": count * np.uint64(10**9 // 19),
                }
            )
        )
    return tables


def _no_more() -> None:
    raise AssertionError("every number was announced")


def run_duckdb(folder: Path, tables: Sequence[pa.Table]) -> tuple[int, float]:
    """Rows stored and seconds. DuckDB syncs its log at each commit."""
    connection = duckdb.connect(str(folder / "peer.duckdb"))
    connection.execute("SET threads = 2")
    columns = "series UBIGINT, time UINTEGER, stack UBIGINT, batch UBIGINT, count UBIGINT, value UBIGINT"
    connection.execute(f"CREATE TABLE samples ({columns})")
    started = time.perf_counter()
    for table in tables:
        connection.register("incoming", table)
        connection.execute("INSERT INTO samples SELECT * FROM incoming")
    took = time.perf_counter() - started
    connection.close()
    return sum(len(table) for table in tables), took


def run_chdb(folder: Path, tables: Sequence[pa.Table]) -> tuple[int, float]:
    """Rows stored and seconds, into a table like ours, by clickhouse-connect's Arrow insert."""
    import clickhouse_connect

    client = clickhouse_connect.get_client(interface="chdb", path=str(folder / "chdb"))
    client.command(
        "CREATE TABLE samples (series UInt64, time UInt32, stack UInt64, batch UInt64, count UInt64, value UInt64)"
        " ENGINE = MergeTree ORDER BY (series, time, stack, batch)"
        " SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
    )
    started = time.perf_counter()
    for table in tables:
        client.insert_arrow("samples", table)
    took = time.perf_counter() - started
    client.close()
    return sum(len(table) for table in tables), took


def measure(what: Callable[[Path], tuple[int, float]], runs: int) -> list[float]:
    """Rows a second of each run, each in a folder of its own."""
    rates = []
    for _ in range(runs):
        folder = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
        try:
            rows, took = what(folder)
            rates.append(rows / took)
        finally:
            shutil.rmtree(folder)
    return rates


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=40)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    messages = make_messages(options.nodes, options.windows, options.rows)
    tables = finished_rows(messages)
    size = sum(map(len, messages))
    rows = sum(len(table) for table in tables)
    print(f"{len(messages)} messages, {rows} rows, {size / 1e6:.1f} MB ({size / rows:.2f} bytes a row)")
    peers: dict[str, Callable[[Path], tuple[int, float]]] = {
        "fleetflame, decode to durable": lambda folder: run_ours(folder / "ours", messages),
        "DuckDB, finished rows, commit a group": lambda folder: run_duckdb(folder, tables),
        "chdb, finished rows, insert a group": lambda folder: run_chdb(folder, tables),
    }
    ours = 0.0
    for name, run in peers.items():
        rates = measure(run, options.runs)
        median = statistics.median(rates)
        ours = ours or median
        spread = f"{min(rates) / 1e3:.0f} to {max(rates) / 1e3:.0f}"
        print(f"{name:40} {median / 1e3:8.0f} k rows/s ({spread})   ours / it = {ours / median:.2f}")


if __name__ == "__main__":
    main()
