"""One aggregator as a process would run it: real bus, real store, real HTTP."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator import bus
from aggregator.app import running, storage_options, symbol_config
from aggregator.config import DAY_S, AggregatorConfig
from aggregator.selector import parse_selector
from aggregator.times import SECOND_NS
from fleetflame import subjects, wire
from tests.aggregator.storage.fleet import random_fleet
from tests.support.nats import NatsServer

PATIENCE_S = 30
NOW = int(time.time()) // 10 * 10 - 600


def test_options_reach_the_parts_they_are_for() -> None:
    """Days for the store, folders for symbols."""
    config = AggregatorConfig(storage="/data", retention_s=3 * DAY_S, debuginfod_urls=("https://debuginfod.example",))
    assert storage_options(config).raw_days == 3
    assert storage_options(config).location == "/data"
    assert symbol_config(config).folder == Path("/data/symbols")
    assert symbol_config(config).debuginfod_urls == ("https://debuginfod.example",)


@pytest.mark.nats
async def test_what_nodes_publish_can_be_asked_for(nats_server: NatsServer, tmp_path: Path) -> None:
    """And is acknowledged; leaving stops every task."""
    config = AggregatorConfig(nats=nats_server.url, storage=str(tmp_path / "store"))
    fleet = random_fleet(3, start=NOW)
    async with running(config) as context:
        async with bus.connected(nats_server.url) as client:
            await bus.ensure_streams(client.jetstream())
            for batch in fleet:
                await client.jetstream().publish(subjects.batch(batch.node), wire.encode(batch))
        wanted = sum(int(batch.sample_count.sum()) for batch in fleet)
        async with asyncio.timeout(PATIENCE_S):
            while (await asyncio.to_thread(context.store.status)).total.stored < wanted:
                await asyncio.sleep(0.05)
        assert context.troubles() == {}
        series = context.store.series(parse_selector("").matchers, NOW * SECOND_NS, (NOW + 600) * SECOND_NS)
        assert series
    assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@pytest.mark.nats
async def test_a_bus_that_goes_away_is_a_trouble_that_passes(nats_server: NatsServer, tmp_path: Path) -> None:
    """Queries are answered meanwhile; readiness says what is wrong."""
    async with running(AggregatorConfig(nats=nats_server.url, storage=str(tmp_path / "store"))) as context:
        nats_server.stop()
        async with asyncio.timeout(PATIENCE_S):
            while not context.troubles():
                await asyncio.sleep(0.05)
        assert await asyncio.to_thread(context.store.nodes) == ()
        nats_server.start()
        async with asyncio.timeout(PATIENCE_S):
            while context.troubles():
                await asyncio.sleep(0.05)


async def test_a_bus_that_is_not_there_is_a_trouble_and_no_end(tmp_path: Path) -> None:
    """What is stored can be asked for; readiness says what is missing."""
    config = AggregatorConfig(nats="nats://127.0.0.1:1", storage=str(tmp_path / "store"))
    async with running(config) as context:
        assert "bus" in context.troubles()
        assert await asyncio.to_thread(context.store.nodes) == ()


@contextmanager
def aggregator(server: NatsServer, folder: Path, address: str) -> Iterator["subprocess.Popen[str]"]:
    """`fleetflame aggregator` as a process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "aggregator", "--http", address, "--storage", str(folder)],
        env={**os.environ, "FLEETFLAME_NATS": server.url},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def free_address() -> str:
    """A loopback address that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_until_ready(process: "subprocess.Popen[str]", address: str) -> None:
    """Until /readyz is 200."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail("not ready in time")


@pytest.mark.nats
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(nats_server: NatsServer, tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0, logs in JSON where there is no terminal, and the data folder is free again."""
    address = free_address()
    with aggregator(nats_server, tmp_path / "store", address) as process:
        wait_until_ready(process, address)
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            assert b"fleetflame_aggregator_requests_total" in answer.read()
        process.send_signal(number)
        _, logged = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, logged
    messages = [json.loads(line)["message"] for line in logged.splitlines()]
    assert messages[0] == "ready"
    assert messages[-1] == "stopping"


@pytest.mark.nats
def test_a_second_one_on_the_same_folder_or_address_is_refused(nats_server: NatsServer, tmp_path: Path) -> None:
    """In one line each, while the first one lives on."""
    address = free_address()
    with aggregator(nats_server, tmp_path / "store", address) as first:
        wait_until_ready(first, address)
        with aggregator(nats_server, tmp_path / "store", free_address()) as second:
            _, said = second.communicate(timeout=PATIENCE_S)
            assert second.returncode == 1
            assert "store" in said.splitlines()[-1]
        with aggregator(nats_server, tmp_path / "other", address) as second:
            _, said = second.communicate(timeout=PATIENCE_S)
            assert second.returncode == 1
            assert f"failed to listen on `{address}`: address already in use" in said
        wait_until_ready(first, address)


def test_a_clickhouse_server_that_is_not_there_is_one_line(nats_server: NatsServer) -> None:
    """What the system said, and a remedy; no password."""
    command = [sys.executable, "-m", "cli.main", "aggregator", "--http", free_address(), "--nats", nats_server.url]
    done = subprocess.run([*command, "--storage", "http://ff:secret@127.0.0.1:1"], capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "the store failed to open: no answer from ClickHouse: connection refused" in done.stderr
    assert "--storage" in done.stderr
    assert "secret" not in done.stderr
