"""One fleet for all end-to-end tests of a run: they look at different processes, by comm."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """`fleetflame up` at 499 Hz, running for the whole session."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a test compiles its programs; short, since `comm` has room for 15 characters only."""
    return tmp_path_factory.mktemp("bin")
