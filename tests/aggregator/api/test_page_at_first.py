"""The first thing that a new user sees. A module of its own: a process opens one embedded store at a time."""

from pathlib import Path

import pytest

from aggregator.storage import Store
from aggregator.storage.types import StorageOptions
from tests.aggregator.api.conftest import SAMPLES
from tests.aggregator.api.tab import Tab, recent, served
from tests.aggregator.storage.fleet import accepted
from tests.support import browser as chromium

pytestmark = pytest.mark.skipif(not chromium.PROGRAM, reason="no browser (apt-get install chromium)")


def test_an_empty_store_is_waited_for(tmp_path: Path) -> None:
    """The page turns into a flame graph by itself when the first samples arrive."""
    store = Store(StorageOptions(location=str(tmp_path / "store")))
    with served(store, tmp_path) as url, chromium.browser() as page:
        tab = Tab(page, url)
        tab.open("/")
        tab.until("document.getElementById('verdict').textContent.startsWith('Waiting')")
        store.insert([accepted(batch) for batch in recent()])
        tab.until("!document.getElementById('graph').hidden")
        assert f"{SAMPLES:,} samples" in tab.text("#summary")
    store.close()
