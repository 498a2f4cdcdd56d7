"""The tables, as data. The embedded engine, a server and a cluster get their DDL from the same definitions.

What each holds, and why it is keyed and cut as it is, is in docs/storage.md. All are cut by time, and what is too old
is dropped a partition at a time, which costs nothing; what is referred to is kept as long as what refers to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum


class Keep(Enum):
    """Which option bounds a table's age."""

    BRIEF = "brief"
    """For two days: what only messages that may still be in the stream need."""
    RAW = "raw"
    ROLLED = "rolled"
    FOREVER = "forever"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table. `columns` maps names to types; codecs are apart, since an insert needs the bare type."""

    name: str
    columns: dict[str, str]
    order_by: str
    shard_by: str
    """Which server of a cluster has a row. What must not be stored twice has to go by what makes it the same."""
    partition_by: str = ""
    time: str = ""
    """The column that ages."""
    keep: Keep = Keep.FOREVER
    longer: int = 0
    """Days that it is kept beyond what the option says."""
    version: str = ""
    """Of rows with an equal key the one with the highest stays; without it, any, and they are equal."""
    codecs: dict[str, str] | None = None
    granularity: int = 8192


_TIME = "DateTime('UTC')"
_WORDS = "Array(UInt64)"

SAMPLES = Table(
    name="samples",
    columns={
        "type": "LowCardinality(String)",
        "series": "UInt64",
        "time": _TIME,
        "stack": "UInt64",
        "batch": "UInt64",
        "count": "UInt64",
        "value": "UInt64",
    },
    # What is read of it is mostly the ten minutes at a range's ends: these lie together. Within them series do, so that
    # one node's are found without reading all, and stacks that come in every window are near each other, which packs.
    order_by="type, toStartOfTenMinutes(time), series, time, stack, batch",
    shard_by="batch",
    partition_by="toYYYYMMDD(time)",
    time="time",
    keep=Keep.RAW,
    # Hashes do not compress. The others are runs and small numbers: half the size under ZSTD, read at the same speed.
    codecs={"stack": "LZ4", "batch": "ZSTD(1)", "count": "T64, ZSTD(1)", "value": "ZSTD(1)", "time": "ZSTD(1)"},
)


def _sums(name: str, order_by: str = "type, series, start, version, stack") -> Table:
    return Table(
        name=name,
        columns={
            "type": "LowCardinality(String)",
            "series": "UInt64",
            "start": _TIME,
            "version": "UInt64",
            "stack": "UInt64",
            "count": "UInt64",
            "value": "UInt64",
        },
        order_by=order_by,
        shard_by="stack",
        partition_by="toYYYYMMDD(start)",
        time="start",
        keep=Keep.ROLLED,
        # Read by the million: under ZSTD they would take a third less room, and twice as long to read.
        codecs=dict.fromkeys(("series", "start", "version", "stack", "count", "value"), "LZ4"),
    )


_BY_TIME = "type, start, version, series, stack"
"""Sums of the fleet are few, and read whole."""
SAMPLES_HOUR = _sums("samples_hour")
SAMPLES_DAY = _sums("samples_day")
# Read only while the samples are there that they were made from, and gone after them at the earliest: `fleet_rolled`
# would go on telling that they are in step. Servers age tables by themselves, some hours sooner or later.
FLEET_TEN = replace(_sums("fleet_10m", _BY_TIME), keep=Keep.RAW, longer=2)
FLEET_HOUR = _sums("fleet_hour", _BY_TIME)
FLEET_DAY = _sums("fleet_day", _BY_TIME)


def _rolled(name: str) -> Table:
    return Table(
        name=name,
        columns={"span": "UInt32", "start": _TIME, "version": "UInt64", "batches": "UInt64", "done": "UInt8"},
        order_by="span, start, version, done",
        shard_by="start",
        partition_by="toYYYYMM(start)",
        time="start",
        keep=Keep.ROLLED,
    )


ROLLED = _rolled("rolled")
FLEET_ROLLED = _rolled("fleet_rolled")

SERIES = Table(
    name="series",
    columns={"day": _TIME, "series": "UInt64", "labels": "Map(String, String)"},
    order_by="series, day",
    shard_by="series",
    partition_by="toYYYYMMDD(day)",
    time="day",
    keep=Keep.ROLLED,
)

STACKS = Table(
    name="stacks",
    columns={"week": _TIME, "stack": "UInt64", "mapping": _WORDS, "address": _WORDS},
    order_by="stack",
    shard_by="stack",
    partition_by="toYYYYMMDD(week)",
    time="week",
    keep=Keep.ROLLED,
    codecs={"mapping": "ZSTD(1)", "address": "ZSTD(1)"},
    # Read by id, a few thousand of millions: small granules, so that a look-up does not read 8191 neighbours.
    granularity=512,
)

MAPPINGS = Table(
    name="mappings",
    columns={
        "week": _TIME,
        "mapping": "UInt64",
        "kind": "UInt8",
        "build_id": "String",
        "path": "String",
        "seen": "UInt8",
        "segment_offset": _WORDS,
        "segment_vaddr": _WORDS,
        "segment_size": _WORDS,
    },
    order_by="mapping, path, seen",
    shard_by="mapping",
    partition_by="toYYYYMMDD(week)",
    time="week",
    keep=Keep.ROLLED,
    granularity=1024,
)

NAMED = Table(
    name="named",
    columns={"week": _TIME, "named": "UInt64", "name": "String", "file": "String", "line": "UInt64"},
    order_by="named",
    shard_by="named",
    partition_by="toYYYYMMDD(week)",
    time="week",
    keep=Keep.ROLLED,
    granularity=1024,
)

NUMBERS = Table(
    name="stack_numbers",
    columns={
        "time": _TIME,
        "node": "LowCardinality(String)",
        "epoch": "String",
        "dictionary": "UInt32",
        "first": "UInt32",
        "stacks": _WORDS,
    },
    order_by="node, epoch, dictionary, first",
    shard_by="cityHash64(node)",
    partition_by="toYYYYMMDD(time)",
    time="time",
    keep=Keep.BRIEF,
    granularity=256,
)

LEDGER = Table(
    name="ledger",
    columns={
        "node": "LowCardinality(String)",
        "epoch": "String",
        "sequence": "UInt64",
        "batch": "UInt64",
        "time": _TIME,
        "taken": "UInt64",
        "stored": "UInt64",
        "lost": "Map(String, UInt64)",
        "degraded": "Map(String, UInt64)",
        "taken_in_epoch": "UInt64",
        "period_ns": "UInt64",
        "received": _TIME,
    },
    order_by="node, epoch, sequence",
    shard_by="batch",
    partition_by="toYYYYMMDD(time)",
    time="time",
    keep=Keep.RAW,
)

REJECTED = Table(
    name="rejected",
    columns={
        "time": _TIME,
        "node": "LowCardinality(String)",
        "reason": "LowCardinality(String)",
        "message": "UInt64",
        "samples": "UInt64",
    },
    order_by="node, reason, message",
    shard_by="message",
    partition_by="toYYYYMMDD(time)",
    time="time",
    keep=Keep.RAW,
)

STATE = Table(
    name="state",
    columns={"key": "String", "value": "UInt64", "version": "UInt64"},
    order_by="key",
    shard_by="cityHash64(key)",
    version="version",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums:
    """Tables of sums by the seconds that one of their rows spans, finest first; and which of their rows count."""

    tables: Mapping[int, Table]
    rolled: Table
    fleet: bool
    """Their series are without the labels that tell one place from another (`series.PLACES`)."""


OF_SERIES = Sums(tables={3_600: SAMPLES_HOUR, 86_400: SAMPLES_DAY}, rolled=ROLLED, fleet=False)
OF_FLEET = Sums(tables={600: FLEET_TEN, 3_600: FLEET_HOUR, 86_400: FLEET_DAY}, rolled=FLEET_ROLLED, fleet=True)
ALL_SUMS = (OF_SERIES, OF_FLEET)

TABLES = (
    SAMPLES,
    *OF_SERIES.tables.values(),
    OF_SERIES.rolled,
    *OF_FLEET.tables.values(),
    OF_FLEET.rolled,
    SERIES,
    STACKS,
    MAPPINGS,
    NAMED,
    NUMBERS,
    LEDGER,
    REJECTED,
    STATE,
)

DURABLE = {
    "fsync_after_insert": 1,
    "fsync_part_directory": 1,
    # A merged part replaces parts that were synced: it has to be synced itself before they go.
    "min_rows_to_fsync_after_merge": 1,
    "min_compressed_bytes_to_fsync_after_merge": 1,
}
"""An insert that has returned survives a power cut. The engine's default leaves that to the page cache."""


def create(table: Table) -> str:
    """DDL for one server, embedded or not."""
    return _create(table, name=table.name, engine=f"ReplacingMergeTree({table.version})", settings=DURABLE)


def create_local(table: Table, days: Mapping[Keep, int], cluster: str) -> str:
    """DDL for the part of a table that each server of a cluster keeps."""
    path = f"'/clickhouse/tables/{{shard}}/{{database}}/{table.name}', '{{replica}}'"
    version = f", {table.version}" if table.version else ""
    # Each server drops whole parts by itself, also while no aggregator runs.
    ttl = f"TTL {table.time} + INTERVAL {days[table.keep] + 1 + table.longer} DAY" if table.keep in days else ""
    return _create(
        table,
        name=f"{table.name}_local ON CLUSTER '{cluster}'",
        engine=f"ReplicatedReplacingMergeTree({path}{version})",
        settings={**DURABLE, "ttl_only_drop_parts": 1},
        ttl=ttl,
    )


def create_distributed(table: Table, cluster: str) -> str:
    """DDL for the name under which a cluster's table is queried and inserted into."""
    return (
        f"CREATE TABLE IF NOT EXISTS {table.name} ON CLUSTER '{cluster}' AS {table.name}_local\n"
        f"ENGINE = Distributed('{cluster}', currentDatabase(), {table.name}_local, {table.shard_by})\n"
    )


def _create(table: Table, *, name: str, engine: str, settings: dict[str, int], ttl: str = "") -> str:
    codecs = table.codecs or {}
    columns = ",\n".join(
        f"    {column} {kind}" + (f" CODEC({codecs[column]})" if column in codecs else "")
        for column, kind in table.columns.items()
    )
    lines = [f"CREATE TABLE IF NOT EXISTS {name}\n(\n{columns}\n)", f"ENGINE = {engine}"]
    if table.partition_by:
        lines.append(f"PARTITION BY {table.partition_by}")
    lines.append(f"ORDER BY ({table.order_by})")
    if ttl:
        lines.append(ttl)
    settings = {"index_granularity": table.granularity, **settings}
    lines.append("SETTINGS " + ", ".join(f"{key} = {value}" for key, value in settings.items()))
    return "\n".join(lines) + "\n"
