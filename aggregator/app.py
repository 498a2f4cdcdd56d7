"""One running aggregator: what is started, in which order, and how it stops. The only file here that starts tasks.

    start   store, bus, symbols, queries, ingest, upkeep, HTTP
    stop    HTTP takes no more and finishes what it has (10 s at most), while ingest goes on;
            upkeep ends, ingest stores and acknowledges the batches in hand; then queries, symbols, bus, store

A part that fails while running ends the process with an error: whatever runs us starts it again, and nothing that was
acknowledged is lost.
"""

import asyncio
import contextlib
import importlib.metadata
import logging
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import prometheus_client
import uvicorn
from starlette.applications import Starlette

from aggregator import bus
from aggregator.api.context import Context
from aggregator.api.routes import create_app
from aggregator.config import DAY_S, Address, AggregatorConfig, redacted
from aggregator.heartbeats import Heartbeats
from aggregator.ingest import Ingest
from aggregator.query import QueryService
from aggregator.storage import Store
from aggregator.storage.types import StorageOptions, StoreError
from aggregator.symbols.service import SymbolConfig, SymbolService
from fleetflame.errors import FleetflameError, cause_of
from fleetflame.model import Mapping

log = logging.getLogger(__name__)

HTTP_DRAIN_S = 10
KEEP_ALIVE_S = 30
MAX_CONNECTIONS = 512
UPKEEP_S = 60
"""How often old data are looked at: a disk that fills up does so in hours."""


def run(config: AggregatorConfig) -> int:
    """Runs one aggregator until SIGTERM or SIGINT; returns 0 then. Raises FleetflameError."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that nobody reads
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # what starts and stops is said here
    for library in ("urllib3", "clickhouse_connect"):
        logging.getLogger(library).setLevel(logging.ERROR)  # what they retry and fail at is said once, by the store
    with _listening(config.http) as listener:
        asyncio.run(_run(config, listener))
    return 0


async def _run(config: AggregatorConfig, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config) as context, serving(create_app(context), listener):
        log.info(
            "ready",
            extra={"http": str(config.http), "storage": redacted(config.storage), "nats": redacted(config.nats)},
        )
        await stop.wait()
        log.info("stopping")


@contextlib.asynccontextmanager
async def running(config: AggregatorConfig) -> AsyncIterator[Context]:
    """Everything but HTTP, from start to stop. Raises FleetflameError if a part does not start."""
    async with contextlib.AsyncExitStack() as stack:
        _warn_of_budget(config)
        store = await asyncio.to_thread(Store, storage_options(config))
        stack.push_async_callback(asyncio.to_thread, store.close)
        client = await stack.enter_async_context(bus.connected(config.nats))
        tasks = await stack.enter_async_context(_tasks())
        symbols = SymbolService(
            symbol_config(config), client=client, seen=lambda: [build.mapping for build in store.builds()]
        )
        stack.callback(tasks.create_task(symbols.run(), name="symbols").cancel)
        queries = QueryService(store, symbols.lookup, config.limits, version=symbols.version)
        stack.push_async_callback(asyncio.to_thread, queries.close)
        ingest = Ingest(bus.subscriber(client), client.jetstream(), store, seen=_wanting(symbols))
        tasks.create_task(ingest.run(), name="ingest")
        heartbeats = Heartbeats(client)
        stack.callback(tasks.create_task(heartbeats.run(), name="heartbeats").cancel)
        stack.callback(ingest.stop)
        stack.callback(tasks.create_task(_upkeep(store), name="upkeep").cancel)

        def troubles() -> dict[str, str]:
            found = {"ingest": ingest.trouble, "bus": "" if client.is_connected else "not connected"}
            return {part: trouble for part, trouble in found.items() if trouble}

        yield Context(
            config=config,
            store=store,
            queries=queries,
            symbols=symbols,
            clock=time.time_ns,
            troubles=troubles,
            version=importlib.metadata.version("fleetflame"),
            entry=heartbeats.entry,
        )


def _warn_of_budget(config: AggregatorConfig) -> None:
    """A budget that the disk cannot hold removes nothing before the disk is full, and then nothing can be written."""
    folder = Path(config.storage).absolute()
    if not config.is_embedded:
        return
    place = next(path for path in (folder, *folder.parents) if path.exists())
    total = shutil.disk_usage(place).total
    if config.disk_budget + config.symbols_budget > total:
        about = {"disk_budget": config.disk_budget, "symbols_budget": config.symbols_budget, "disk_bytes": total}
        log.warning("the disk may fill up before old data are removed: lower the budgets", extra=about)


def _wanting(symbols: SymbolService) -> Callable[[str, Sequence[Mapping]], None]:
    """What ingest tells of the builds in stored batches: symbols are looked for in the background."""

    def seen(node: str, mappings: Sequence[Mapping]) -> None:
        for mapping in mappings:
            symbols.want(mapping, node)

    return seen


async def _upkeep(store: Store) -> None:
    """Sums up and removes what is old, again and again, until cancelled."""
    while True:
        try:
            await asyncio.to_thread(store.upkeep)
        except StoreError as error:
            log.warning("upkeep of the store failed", extra={"error": error.message, "fault": error.fault.value})
        await asyncio.sleep(UPKEEP_S)


@contextlib.asynccontextmanager
async def _tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose first error that is the operator's comes out as itself."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        for error in group.exceptions:
            if isinstance(error, FleetflameError):
                raise error from None
        raise


@contextlib.asynccontextmanager
async def serving(app: Starlette, listener: socket.socket) -> AsyncIterator[None]:
    """Answers HTTP on `listener`; on leaving, requests in hand are finished."""
    server = Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=HTTP_DRAIN_S,
            limit_concurrency=MAX_CONNECTIONS,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        await task


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to us: who stops first is decided here, in one place."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def storage_options(config: AggregatorConfig) -> StorageOptions:
    """What the store is told of the configuration."""
    return StorageOptions(
        location=config.storage,
        cluster=config.cluster,
        memory_bytes=config.memory,
        disk_bytes=config.disk_budget,
        raw_days=config.retention_s // DAY_S,
        rolled_days=config.rolled_retention_s // DAY_S,
        readers=config.limits.concurrent,
    )


def symbol_config(config: AggregatorConfig) -> SymbolConfig:
    """What the symbol service is told of the configuration."""
    return SymbolConfig(
        folder=config.symbols_folder,
        budget=config.symbols_budget,
        debug_dirs=config.debug_dirs,
        debuginfod_urls=config.debuginfod_urls,
        upload_bytes=config.upload_bytes,
    )


@contextlib.contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    """A socket that listens on `address`. Before anything else is started, because it fails fastest."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise FleetflameError(
            f"failed to listen on `{address}`: {cause_of(error)}",
            hint="choose another address with --http",
        ) from None
    with listener:
        yield listener
