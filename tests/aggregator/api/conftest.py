"""An application over a real store with a small fleet in it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.api.context import Context
from aggregator.api.routes import create_app
from aggregator.app import symbol_config
from aggregator.config import AggregatorConfig
from aggregator.query import QueryService
from aggregator.storage import Store
from aggregator.storage.types import StorageOptions
from aggregator.symbols.service import SymbolService
from fleetflame.model import Mapping
from tests.aggregator.storage.fleet import DAY, accepted, random_fleet

FLEET = random_fleet(7)
SAMPLES = sum(int(batch.sample_count.sum()) for batch in FLEET)
RANGE = {"from": str(DAY), "until": str(DAY + 3600)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a symbolizer answers."""

    offsets: NDArray[np.uint32]
    function: NDArray[np.uint32]
    file: NDArray[np.uint32]
    line: NDArray[np.uint32]
    strings: tuple[str, ...]


def symbolize(mapping: Mapping, addresses: NDArray[np.uint64]) -> Names:
    """Every address of a file is in the function `at_<address>`; the kernel has no names."""
    strings = ("", *(f"at_{address:x}" for address in addresses.tolist()))
    each = np.arange(1 if mapping.path == "[kernel]" else len(addresses) + 1, dtype=np.uint32)
    zero = np.zeros(len(each) - 1, np.uint32)
    offsets = np.zeros(len(addresses) + 1, np.uint32) if mapping.path == "[kernel]" else each
    return Names(offsets=offsets, function=each[1:], file=zero, line=zero, strings=strings)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with FLEET in it; nobody writes to it. A process opens one embedded store at a time."""
    opened = Store(StorageOptions(location=str(tmp_path_factory.mktemp("api") / "store")))
    opened.insert([accepted(batch) for batch in FLEET])
    yield opened
    opened.close()


@dataclass(slots=True)
class Service:
    """An application, and a client of it."""

    context: Context
    client: httpx.AsyncClient
    troubles: dict[str, str]


@pytest.fixture
async def service(store: Store, tmp_path: Path) -> AsyncIterator[Service]:
    """The application as it runs, without sockets."""
    config = AggregatorConfig(storage=str(tmp_path))
    queries = QueryService(store, symbolize, config.limits)
    symbols = SymbolService(symbol_config(config), seen=lambda: [build.mapping for build in store.builds()])
    troubles: dict[str, str] = {}
    context = Context(
        config=config,
        store=store,
        queries=queries,
        symbols=symbols,
        clock=lambda: (DAY + 600) * 10**9,
        troubles=lambda: troubles,
        version="1.2.3",
    )
    transport = httpx.ASGITransport(create_app(context), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4040") as client:
        yield Service(context, client, troubles)
    queries.close()
    await symbols.aclose()
