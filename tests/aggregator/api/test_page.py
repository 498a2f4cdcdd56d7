"""The page in a real browser: what it shows, what the address keeps, what keys do, and what it never asks for."""

import time
from collections.abc import Iterator

import pytest

from aggregator.storage import Store
from aggregator.storage.types import StorageOptions
from tests.aggregator.api.conftest import SAMPLES
from tests.aggregator.api.tab import Tab, fill, recent, served, submit, suggestions
from tests.aggregator.storage.fleet import accepted
from tests.support import browser as chromium

pytestmark = pytest.mark.skipif(not chromium.PROGRAM, reason="no browser (apt-get install chromium)")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all tests here, on a store with a fleet in it."""
    folder = tmp_path_factory.mktemp("page")
    store = Store(StorageOptions(location=str(folder / "store")))
    store.insert([accepted(batch) for batch in recent()])
    with served(store, folder) as url, chromium.browser() as page:
        yield Tab(page, url)
    store.close()


def test_the_page_shows_what_was_sampled(tab: Tab) -> None:
    """Samples, how complete they are, functions, nodes, links to every format, and the flame graph in its sandbox."""
    tab.open("/")
    assert f"{SAMPLES:,} samples" in tab.text("#summary")
    assert "whole" in tab.text("#summary")
    assert "at_" in tab.text("#top")
    assert "web-1.example" in tab.text("#nodes")
    for name in ("folded", "svg", "html", "pprof", "speedscope", "json"):
        assert name in tab.text("#downloads")
    assert tab.shows("graph")
    assert tab.page.run("document.getElementById('graph').contentDocument") is None
    assert tab.address() == ""


def test_nothing_is_asked_of_others_and_nothing_is_refused(tab: Tab) -> None:
    """No error in the console, no request but to where the page came from."""
    tab.open("/?by=node")
    time.sleep(0.5)
    tab.page.run("1")
    urls = [
        event["params"]["request"]["url"] for event in tab.page.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert len(urls) > 4
    assert all(url.startswith((tab.url, "data:")) for url in urls)
    assert not [text for text in tab.page.complaints() if not text.startswith("request for")]


def test_the_address_keeps_what_is_asked(tab: Tab) -> None:
    """It can be sent to somebody else; going back asks what was asked before."""
    tab.open('/?query={service="search"}&from=-1h&by=node')
    assert tab.value("query") == '{service="search"}'
    assert tab.value("range") == "-1h"
    assert tab.value("by") == "node"
    former = tab.text("#summary")
    fill(tab, "query", "cpu")
    submit(tab)
    assert tab.address() == "?from=-1h&by=node"
    assert tab.text("#summary") != former
    tab.page.run("history.back()")
    tab.until("document.getElementById('query').value.includes('search')")
    tab.settle()
    assert tab.text("#summary") == former


def test_a_mistake_is_shown_with_its_caret(tab: Tab) -> None:
    """And goes away with the next question."""
    tab.open("/")
    fill(tab, "query", "cpu{service=checkout}")
    submit(tab)
    assert "cpu{service=checkout}\n              ^" in tab.text("#trouble")
    assert not tab.shows("graph")
    fill(tab, "query", "cpu")
    submit(tab)
    assert not tab.shows("trouble")
    assert tab.shows("graph")


def test_nothing_found_says_so_and_what_to_try(tab: Tab) -> None:
    """The range in words, and questions that may find something."""
    tab.open('/?query={service="none"}')
    tab.until("document.getElementById('reason').textContent")
    assert "in the last 15 minutes" in tab.text("#empty")
    tab.page.run("document.querySelector('#ways button').click()")
    tab.settle()
    assert tab.shows("graph")
    assert tab.value("query") == "cpu"


def test_keys_do_what_the_list_says(tab: Tab) -> None:
    """Not while somebody types."""
    tab.open("/")
    tab.page.press("n")
    tab.settle()
    assert tab.address() == "?by=node"
    tab.page.press("k")
    tab.settle()
    assert tab.address() == "?by=node&kernel=false"
    tab.page.press("/")
    assert tab.page.run("document.activeElement.id") == "query"
    tab.page.press("k")
    assert tab.address() == "?by=node&kernel=false"
    tab.page.press("Escape")
    tab.page.press("[")
    tab.settle()
    assert tab.value("range") == "custom"
    assert tab.value("from").endswith("Z")
    tab.page.press("?")
    assert tab.page.run("document.getElementById('keys').open")


def test_labels_and_their_values_are_suggested(tab: Tab) -> None:
    """As whole texts, which is what a list of suggestions can offer."""
    tab.open("/")
    tab.until("document.getElementById('labels').options.length > 0")
    fill(tab, "query", "cpu{")
    assert 'cpu{service="' in suggestions(tab)
    fill(tab, "query", 'cpu{service="')
    tab.until("[...document.getElementById('suggestions').options].some(each => each.value.endsWith('}'))")
    assert suggestions(tab) == ['cpu{service="checkout"}', 'cpu{service="search"}']


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("cpu", 'cpu{node="web-1.example"}'),
        ("", 'cpu{node="web-1.example"}'),
        ('cpu{service="a"}', 'cpu{service="a", node="web-1.example"}'),
        ('{node=~"x.*", service="a"}', '{node="web-1.example", service="a"}'),
    ],
)
def test_a_node_narrows_the_selector(tab: Tab, query: str, expected: str) -> None:
    """Beside what it says already, or in place of another node."""
    tab.open(f"/?query={query}&from=-24h")
    tab.until("document.querySelectorAll('#nodes button').length > 1")
    tab.page.run("document.querySelectorAll('#nodes button')[1].click()")
    tab.settle()
    assert tab.value("query") == expected


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1440, True)])
def test_the_page_fits_phones_and_dark_rooms(tab: Tab, width: int, dark: bool) -> None:
    """Nothing sticks out to the side, and colours follow the system's."""
    tab.open("/", width=width, dark=dark)
    assert tab.page.run("document.documentElement.scrollWidth") <= width
    colour = tab.page.run("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") is not dark
