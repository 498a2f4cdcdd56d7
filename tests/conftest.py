"""Fixtures that tests in more than one folder use, which tests can run here, and that a skip is never silent."""

import os
from collections.abc import Iterator

import pytest

from tests.support import privileges
from tests.support.nats import nats_server as nats_server
from tests.support.nats import nats_servers as nats_servers

# Set by CI: on a machine that can run every test, a skipped one is a failed one.
_NO_SKIP = os.environ.get("FLEETFLAME_NO_SKIP") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `bpf` run where the kernel lets them, and say what is missing where it does not."""
    missing = privileges.missing_for_bpf()
    if not missing:
        return
    for item in items:
        if item.get_closest_marker("bpf"):
            item.add_marker(pytest.mark.skip(reason=f"cannot load eBPF programs: {missing}"))


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Under FLEETFLAME_NO_SKIP=1 a run with skipped tests fails; their reasons are in the summary."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if _NO_SKIP and reporter and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
