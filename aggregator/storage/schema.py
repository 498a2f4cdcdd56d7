"""The version of what is on disk: tables are created, migrated forward, and never opened by an older program."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from aggregator.storage.engine import Engine
from aggregator.storage.native import Column, Values
from aggregator.storage.tables import STATE, TABLES, Table, create, create_distributed, create_local
from fleetflame.errors import FleetflameError

log = logging.getLogger(__name__)

VERSION = 1

Migration = Callable[[Engine], None]

MIGRATIONS: Mapping[int, Migration] = {}
"""From the version that is the key to the next. Each can run twice: a crash may come before its version is noted."""


def ensure(engine: Engine, *, version: int = VERSION, migrations: Mapping[int, Migration] = MIGRATIONS) -> None:
    """Brings the database to `version`, creating what is missing. Raises FleetflameError if it is newer than that."""
    _create(engine, (STATE,))
    found = read_state(engine, "schema")
    if found is not None and found > version:
        raise FleetflameError(
            f"the stored data have schema version {found}, this program knows {version}",
            hint="run the newer fleetflame that wrote them, or name another --storage",
        )
    for step in range(found or version, version):
        log.info("migrating the store", extra={"from_version": step, "to_version": step + 1})
        migrations[step](engine)
        write_state(engine, "schema", step + 1)
    _create(engine, TABLES)
    _compare_keys(engine)
    if found is None:
        write_state(engine, "schema", version)


def _create(engine: Engine, tables: Sequence[Table]) -> None:
    cluster, days = engine.options.cluster, engine.options.days
    for table in tables:
        if cluster:
            engine.command(create_local(table, days, cluster))
            engine.command(create_distributed(table, cluster))
        else:
            engine.command(create(table))


def _compare_keys(engine: Engine) -> None:
    """Says which tables were made with another sort key. An engine cannot change that; answers do not depend on it."""
    found = engine.query("SELECT name, sorting_key AS key FROM system.tables WHERE database = currentDatabase()")
    keys = dict(zip(found.strings("name"), found.strings("key"), strict=True))
    for table in TABLES:
        former = keys.get(engine.local(table.name), table.order_by).strip("()")
        if former != table.order_by:
            about = {"table": engine.local(table.name), "sorted_by": former, "better": table.order_by}
            log.warning("a table has a former sort key: queries take longer (see docs/storage.md)", extra=about)


def read_state(engine: Engine, key: str) -> int | None:
    """The number last written under `key`, or None."""
    found = engine.query(
        "SELECT argMax(value, version) AS v FROM state WHERE key = {key:String} GROUP BY key", {"key": key}
    )
    return int(found["v"][0]) if len(found) else None


def write_state(engine: Engine, key: str, value: int) -> None:
    """Notes `value` under `key` for good."""
    kinds = STATE.columns
    row: dict[str, Values] = {"key": [key], "value": np.array([value]), "version": np.array([time.time_ns()])}
    engine.insert(STATE.name, [Column(name, kinds[name], row[name]) for name in kinds])
