"""ClickHouse, in this process or behind a URL: statements in, columns out, one kind of error.

Both go through `clickhouse-connect`, with the same SQL and Native blocks of our own (`native.py`). One handle runs one
statement at a time, so there are several: any number of readers up to a limit, one writer, one for upkeep. In one
process they share the engine and see each other's inserts at once.

Ids go into statements as hex text of their bytes: lists of hundreds of thousands cost a millisecond that way, where a
list of literals is parsed for seconds. Everything that people wrote goes in as a server-side parameter.
"""

import contextlib
import errno
import fcntl
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import clickhouse_connect
import numpy as np
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from numpy.typing import NDArray

from aggregator import metrics
from aggregator.storage.native import Column, Columns, decode_blocks, encode_block
from aggregator.storage.types import Fault, StorageOptions, StoreError
from fleetflame.errors import FleetflameError, UsageError, cause_of

log = logging.getLogger(__name__)

DATABASE = "fleetflame"
CONNECT_S = 10
STATEMENT_S = 300
QUERY_S = 60
"""How long a reader's statement may run. Far beyond any target; what needs longer is a mistake."""

# ClickHouse's numbers: src/Common/ErrorCodes.cpp.
_FULL = frozenset({243, 76, 75, 1001})  # NOT_ENOUGH_SPACE, CANNOT_OPEN_FILE, CANNOT_WRITE_TO_FD, STD_EXCEPTION
_MEMORY = frozenset({241, 173})
_TIMEOUT = frozenset({159, 160, 209})
_BAD_REGEX = 427
_FREE_SPACE = "free disk space, and keep --disk-budget well below the size of the disk"


class Engine:
    """Handles to one engine and one database. Raises StoreError if it cannot be reached or opened."""

    def __init__(self, options: StorageOptions) -> None:
        self.options = options
        self._folder: IO[str] | None = None
        self._readers: queue.LifoQueue[Client | None] = queue.LifoQueue()
        self._open: list[Client] = []
        self._lock = threading.Lock()
        self._closed = False
        if options.embedded:
            self._folder = _lock_folder(Path(options.location))
        try:
            self._create_database()
            self._writer = self._handle(self._settings(writer=True))
            self._upkeep = self._handle(self._settings(writer=True))
        except BaseException:
            self.close()
            raise
        self._upkeep_lock = threading.Lock()
        self._writer_lock = threading.Lock()
        for _ in range(options.readers):
            self._readers.put(None)

    def close(self) -> None:
        """Closes every handle and lets the data folder go; statements under way end first."""
        with self._lock:
            self._closed = True
            handles, self._open = self._open, []
        for handle in handles:
            handle.close()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def local(self, table: str) -> str:
        """Where statements about parts of `table` go: in a cluster, to every server's own table."""
        cluster = self.options.cluster
        return f"{table}_local ON CLUSTER {cluster}" if cluster else table

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Columns:
        """What `sql` selects. Waits for a free reader. Raises StoreError, UsageError for a regular expression."""
        with self._reader() as handle, _translated("query"):
            return decode_blocks(handle.raw_query(sql, parameters=dict(parameters or {}), fmt="Native"))

    def insert(self, table: str, columns: Sequence[Column]) -> None:
        """Rows into `table`, durable when it returns: all of them, or at an error those of whole partitions at most."""
        if not len(columns[0].values):
            return
        block = encode_block(columns)
        names = [column.name for column in columns]
        with self._writer_lock, _translated(f"insert into {table}"):
            self._check_open()
            if self.options.embedded:
                self._insert_file(table, names, block)
            else:
                self._writer.raw_insert(table, names, block, fmt="Native")

    def _insert_file(self, table: str, names: Sequence[str], block: bytes) -> None:
        # The engine in process takes data from a file only. The driver would put it into the system's folder for
        # temporary files, where a killed process leaves it; ours is in the data folder and overwritten.
        path = Path(self.options.location) / "incoming.native"
        path.write_bytes(block)
        quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
        self._writer.raw_query(f"INSERT INTO {table} ({', '.join(names)}) FROM INFILE '{quoted}' FORMAT Native")
        path.unlink()

    def command(self, sql: str) -> None:
        """Runs DDL or upkeep, one at a time, beside readers and the writer. Raises StoreError."""
        with self._upkeep_lock, _translated("command"):
            self._check_open()
            self._upkeep.raw_query(sql)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Client]:
        handle = self._readers.get()
        try:
            self._check_open()
            if handle is None:
                handle = self._handle(self._settings(writer=False))
            yield handle
        finally:
            self._readers.put(handle)

    def _handle(self, settings: dict[str, Any], database: str | None = None) -> Client:
        options = self.options
        self._check_open()
        with _translated("open"):
            if options.embedded:
                root = Path(options.location)
                handle = clickhouse_connect.get_client(
                    interface="chdb",
                    path=str(root / "clickhouse"),
                    database=database or DATABASE,
                    settings=settings,
                    chdb_options={"config-file": str(root / "engine.xml")},
                )
            else:
                handle = clickhouse_connect.get_client(
                    dsn=_with_database(options.location, database),
                    # Of the URL's scheme the driver takes no notice: it would speak plain text to an https:// address.
                    interface=urlsplit(options.location).scheme,
                    settings=settings,
                    autogenerate_session_id=False,
                    connect_timeout=CONNECT_S,
                    send_receive_timeout=STATEMENT_S,
                )
        with self._lock:
            if not self._closed:
                self._open.append(handle)
                return handle
        # Somebody's thread is still at work: one handle left open would keep the engine, and its folder, for ever.
        handle.close()
        self._check_open()
        raise AssertionError("it was closed a moment ago")

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(Fault.UNAVAILABLE, "the store is closed")

    def _create_database(self) -> None:
        options = self.options
        name = DATABASE
        if options.embedded:
            (Path(options.location) / "engine.xml").write_text(_engine_config(options))
        else:
            name = urlsplit(options.location).path.strip("/") or DATABASE
            if not name.replace("_", "").isalnum():
                raise UsageError(f"not a database name: `{name}`", hint="use letters, digits and `_`")
        handle = self._handle({}, "default")
        with _translated("open"):
            if f"{name}\n" not in handle.raw_query("SELECT name FROM system.databases FORMAT TSV").decode():
                handle.raw_query(f"CREATE DATABASE IF NOT EXISTS {name}")
        handle.close()
        with self._lock:
            self._open.remove(handle)

    def _settings(self, *, writer: bool) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "max_query_size": 256 << 20,
            # Answers go to numpy whole: larger blocks mean fewer columns to join.
            "max_block_size": 65_409,
        }
        if writer:
            # A batch is all or nothing because it is in one block, and one block of a partition is one part.
            settings |= {"async_insert": 0, "max_partitions_per_insert_block": 1000, "distributed_foreground_insert": 1}
        else:
            settings |= {"max_execution_time": QUERY_S}
        if self.options.embedded:
            memory = self.options.memory_bytes
            settings |= {
                "max_memory_usage": memory * 3 // 4,
                "max_bytes_before_external_group_by": memory // 3,
                "max_bytes_before_external_sort": memory // 3,
                # By default a thread wants a free GiB and 24 MB of columns to itself: every query of ours would run on
                # one. A group-by of 50,000 stacks takes 10 MB a thread.
                "max_threads_min_free_memory_per_thread": 32 << 20,
                "merge_tree_min_rows_for_concurrent_read": 1 << 16,
                "merge_tree_min_bytes_for_concurrent_read": 1 << 20,
            }
        return settings


def hex_ids(ids: NDArray[np.uint64]) -> str:
    """SQL for an array of `ids`."""
    return f"reinterpret(unhex('{np.ascontiguousarray(ids, '<u8').tobytes().hex()}'), 'Array(UInt64)')"


def hex_set(ids: NDArray[np.uint64]) -> str:
    """SQL for the right side of IN: the set of `ids`."""
    return f"(SELECT arrayJoin({hex_ids(ids)}))"


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turns what the driver raises into what callers can act on, and counts it."""
    started = time.monotonic()
    try:
        yield
    except ClickHouseError as error:
        raised = _as_ours(error, f"the store failed to {_WORDS.get(doing, doing)}")
        if isinstance(raised, StoreError):
            metrics.STORE_ERRORS.labels(raised.fault.value).inc()
        raise raised from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        metrics.STORE_ERRORS.labels((Fault.FULL if full else Fault.UNAVAILABLE).value).inc()
        message = f"the store failed to {_WORDS.get(doing, doing)}: {cause_of(error)}"
        raise StoreError(
            Fault.FULL if full else Fault.UNAVAILABLE, message, hint=_FREE_SPACE if full else ""
        ) from error
    finally:
        metrics.STATEMENT_SECONDS.labels(doing).observe(time.monotonic() - started)


_AROUND = re.compile(r"Code: \d+\. DB::Exception: | \(version [^)]*\)\.?| \([A-Z_]+\)\.?")
_PAGE = re.compile(r", server response: <.*?(?=\(for url|$)")
"""What a web server that is no ClickHouse says, for browsers."""
_WORDS = {"command": "run a command"}


def _as_ours(error: ClickHouseError, failed: str) -> FleetflameError:
    code = getattr(error, "code", None)
    # Every layer of the engine puts its own code and version around the same sentence.
    text = _AROUND.sub("", " ".join(str(error).split())).rstrip(".")[:400]
    if code == _BAD_REGEX:
        return UsageError(f"not a regular expression: {text[:200]}", hint="expressions are RE2's")
    if code in _FULL and ("space" in text.lower() or code == 243):
        return StoreError(Fault.FULL, f"{failed}: no space left: {text}", hint=_FREE_SPACE)
    if code in _MEMORY:
        hint = "ask for a shorter range or fewer series, or raise --memory"
        return StoreError(Fault.MEMORY, f"{failed}: not enough memory: {text}", hint=hint)
    if code in _TIMEOUT:
        return StoreError(Fault.TIMEOUT, f"{failed}: took too long: {text}", hint="ask for a shorter range")
    if code is None:
        cause = _system_cause(error) or _PAGE.sub("", text)
        hint = "is the ClickHouse server up, and --storage its HTTP interface?"
        return StoreError(Fault.UNAVAILABLE, f"{failed}: no answer from ClickHouse: {cause}", hint=hint)
    return StoreError(Fault.REFUSED, f"{failed}: {text}")


def _system_cause(error: BaseException | None) -> str:
    """What the system said, under three libraries' words about it; "" if it said nothing."""
    while error is not None:
        # Their own errors are OSErrors too, without a number.
        if isinstance(error, OSError) and error.errno:
            return cause_of(error)
        error = error.__cause__ or error.__context__
    return ""


def _lock_folder(folder: Path) -> IO[str]:
    """The open lock file of a data folder. One process opens a folder: two engines in it would destroy it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise StoreError(
            Fault.UNAVAILABLE,
            f"failed to open the data folder `{folder}`: {cause_of(error)}",
            hint="name another folder",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise StoreError(
            Fault.UNAVAILABLE,
            f"the data folder `{folder}` is in use" + (f" by process {owner}" if owner else ""),
            hint="stop the other aggregator, name another folder, or share a ClickHouse server",
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _engine_config(options: StorageOptions) -> str:
    """The embedded engine's server settings: the caches are bounded where the defaults are gigabytes."""
    memory = options.memory_bytes
    settings = {
        "max_server_memory_usage": memory,
        "mark_cache_size": memory // 16,
        "primary_index_cache_size": memory // 16,
        "index_mark_cache_size": memory // 64,
        "uncompressed_cache_size": 0,
        "mmap_cache_size": 0,
        "query_condition_cache_size": memory // 64,
        "compiled_expression_cache_size": memory // 64,
        "background_pool_size": 2,
        # Merges are bounded too: one of a day's largest parts needs about 100 MB.
        "merges_mutations_memory_usage_soft_limit": memory // 2,
        "timezone": "UTC",
    }
    lines = "\n".join(f"  <{key}>{value}</{key}>" for key, value in settings.items())
    return f"<clickhouse>\n{lines}\n</clickhouse>\n"


def _with_database(url: str, database: str | None) -> str:
    parts = urlsplit(url)
    name = database or parts.path.strip("/") or DATABASE
    return urlunsplit((parts.scheme, parts.netloc, f"/{name}", parts.query, ""))
