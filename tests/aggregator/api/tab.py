"""The application behind a real socket, and a browser's tab on it."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.api.context import Context
from aggregator.api.routes import create_app
from aggregator.app import serving, symbol_config
from aggregator.config import Address, AggregatorConfig
from aggregator.query import QueryService
from aggregator.storage import Store
from aggregator.symbols.service import SymbolService
from tests.aggregator.api.conftest import symbolize
from tests.aggregator.storage.fleet import DAY, random_fleet
from tests.support.browser import Page

PATIENCE_S = 30


@contextmanager
def served(store: Store, folder: Path) -> Iterator[str]:
    """URL of the application over `store`, on a thread with a loop of its own; ten minutes after DAY."""
    stop, started = threading.Event(), threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    address = Address("127.0.0.1", listener.getsockname()[1])

    async def serve() -> None:
        config = AggregatorConfig(storage=str(folder), http=address)
        queries = QueryService(store, symbolize, config.limits)
        context = Context(
            config=config,
            store=store,
            queries=queries,
            symbols=SymbolService(symbol_config(config)),
            clock=lambda: (DAY + 600) * 10**9,
            troubles=dict,
            version="1.2.3",
        )
        async with serving(create_app(context), listener):
            started.set()
            await asyncio.to_thread(stop.wait)
        queries.close()
        await context.symbols.aclose()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield address.url
    finally:
        stop.set()
        thread.join()
        listener.close()


@dataclass
class Tab:
    """A browser's tab on the application."""

    page: Page
    url: str

    def open(self, path: str = "", **options: Any) -> None:
        """Loads a path and waits until the answer is shown."""

        @dataclass
        class Address:
            url: str

            def as_uri(self) -> str:
                return self.url

        self.page.open(Address(self.url + path), **options)  # type: ignore[arg-type]
        self.settle()

    def settle(self) -> None:
        """Waits for the answer to what was asked last."""
        self.until("!document.body.classList.contains('busy')")

    def until(self, condition: str) -> None:
        """Polls until `condition` is true in the page."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.page.run(condition):
            assert time.monotonic() < deadline, (condition, self.text("body"), self.page.complaints())
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """What is to be read there."""
        return str(self.page.run(f"document.querySelector({selector!r}).innerText"))

    def value(self, name: str) -> Any:
        """What the form holds."""
        return self.page.run(f"document.getElementById({name!r}).value")

    def address(self) -> str:
        """The query part of the address."""
        return str(self.page.run("decodeURIComponent(location.search)"))

    def shows(self, name: str) -> bool:
        """Whether an element is to be seen."""
        return not self.page.run(f"document.getElementById({name!r}).hidden")


def recent() -> list[Any]:
    """Batches of the last minutes, since browsers have a clock of their own."""
    return random_fleet(7, start=int(time.time()) // 10 * 10 - 300)


def fill(tab: Tab, name: str, value: str) -> None:
    """Types into the form."""
    tab.page.run(
        f"(() => {{ const field = document.getElementById({name!r}); field.value = {value!r};"
        " field.dispatchEvent(new Event('input')); })()"
    )


def submit(tab: Tab) -> None:
    """Asks, and waits for the answer."""
    tab.page.run("document.getElementById('ask').requestSubmit()")
    tab.settle()


def suggestions(tab: Tab) -> list[str]:
    """What the selector's list offers."""
    found: list[str] = tab.page.run("[...document.getElementById('suggestions').options].map(each => each.value)")
    return found
