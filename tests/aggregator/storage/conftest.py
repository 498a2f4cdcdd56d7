"""A store of each kind: the engine in this process, and a server behind a URL."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from aggregator.storage import Store
from aggregator.storage.types import StorageOptions
from tests.support.clickhouse_http import ClickHouseHttp

SERVER = "FLEETFLAME_TEST_CLICKHOUSE"
"""URL of a ClickHouse server to test with; without it, the engine behind a server of our own."""

OpenStore = Callable[..., Store]


@pytest.fixture(scope="session")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a ClickHouse server listens; no database in it."""
    named = os.environ.get(SERVER, "").rstrip("/")
    if named:
        yield named
        return
    with ClickHouseHttp(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server.url


@pytest.fixture(params=["embedded", "server"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store of one kind goes, new for each test."""
    if request.param == "embedded":
        return str(tmp_path / "store")
    url: str = request.getfixturevalue("clickhouse_url")
    return f"{url}/test_{uuid4().hex}"


@pytest.fixture
def open_store(location: str) -> Iterator[OpenStore]:
    """Opens a store at `location`, again and again; all are closed in the end."""
    with ExitStack() as stack:

        def opened(**options: object) -> Store:
            store = Store(StorageOptions(location=location, **options))  # type: ignore[arg-type]
            stack.callback(store.close)
            return store

        yield opened


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """An empty store."""
    return open_store()
