"""What is remembered of containers, for how long, and what an engine's failures cost."""

import logging
from pathlib import Path

import pytest

from agent.labels import names
from agent.labels.engine import Container
from agent.labels.names import ContainerNames
from tests.agent.counted import counted
from tests.agent.labels.engines import NOT_FOUND, described, running

A, B = "a" * 64, "b" * 64


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_name_is_there_after_a_refresh(tmp_path: Path) -> None:
    """`find` never asks; `refresh` asks once for each container wanted."""
    with running(tmp_path / "s", lambda _: described("web")) as peer:
        known = ContainerNames([peer.path], "")
        assert known.find(A) is None
        assert known.find(A) is None
        assert peer.requests == []
        assert known.refresh() == 1
        assert known.find(A) == Container(name="web")
        assert known.refresh() == 0
        assert len(peer.requests) == 1


def test_name_is_asked_again_after_a_while(tmp_path: Path) -> None:
    """A rename shows; until it does the former name holds, as the same object if nothing changed."""
    current = "old"
    clock = Clock()
    with running(tmp_path / "s", lambda _: described(current)) as peer:
        known = ContainerNames([peer.path], "", clock=clock)
        known.find(A)
        known.refresh()
        first = known.find(A)
        clock.now += names.KNOWN_S
        assert known.find(A) is first
        known.refresh()
        assert known.find(A) is first
        current = "new"
        clock.now += names.KNOWN_S
        known.find(A)
        known.refresh()
        assert known.find(A) == Container(name="new")


def test_absence_is_remembered_briefly(tmp_path: Path) -> None:
    """An unknown container is not asked for with every window, and found soon after it is there."""
    there = False
    clock = Clock()
    with running(tmp_path / "s", lambda _: described("late") if there else NOT_FOUND) as peer:
        known = ContainerNames([peer.path], "", clock=clock)
        known.find(A)
        known.refresh()
        there = True
        known.find(A)
        assert known.refresh() == 0
        clock.now += names.ABSENT_S
        known.find(A)
        known.refresh()
        assert known.find(A) == Container(name="late")


def test_name_outlives_its_container(tmp_path: Path) -> None:
    """The last samples of a container that was removed carry its name."""
    there = True
    clock = Clock()
    with running(tmp_path / "s", lambda _: described("gone") if there else NOT_FOUND) as peer:
        known = ContainerNames([peer.path], "", clock=clock)
        known.find(A)
        known.refresh()
        there = False
        clock.now += names.KNOWN_S
        known.find(A)
        known.refresh()
        assert known.find(A) == Container(name="gone")


def test_failing_engine_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One failure stands for all containers of the next seconds, and is logged once."""
    clock = Clock()
    with running(tmp_path / "s", lambda _: b"garbage") as peer, caplog.at_level(logging.WARNING):
        known = ContainerNames([peer.path], "", clock=clock)
        for container in (A, B):
            known.find(container)
        before = [counted("container_questions", "what", what) for what in ("asked", "engine_failed")]
        assert known.refresh() == 2
        after = [counted("container_questions", "what", what) for what in ("asked", "engine_failed")]
        assert (len(peer.requests), after[0] - before[0], after[1] - before[1]) == (1, 2, 1)
        clock.now += names.FAILED_S
        known.find(A)
        known.refresh()
        assert len(peer.requests) == 2
    assert [record.message for record in caplog.records] == ["container engine does not answer, names are missing"]


def test_next_engine_is_asked(tmp_path: Path) -> None:
    """Docker without the container, no podman, then an engine that has it."""
    with (
        running(tmp_path / "1", lambda _: NOT_FOUND) as first,
        running(tmp_path / "2", lambda _: described("b")) as last,
    ):
        known = ContainerNames([first.path, str(tmp_path / "none"), last.path], "")
        known.find(A)
        known.refresh()
        assert known.find(A) == Container(name="b")


def test_kubelet_links_name_containers(tmp_path: Path) -> None:
    """Without an engine's API the links of the kubelet tell pod, namespace and container."""
    (tmp_path / f"web-5d8f-x2_shop_my-nginx-{A}.log").touch()
    (tmp_path / f"web-5d8f-x2_shop_{B}.log").touch()
    (tmp_path / "other.log").touch()
    known = ContainerNames([], str(tmp_path))
    for container in (A, B):
        known.find(container)
    known.refresh()
    assert known.find(A) == Container(name="my-nginx", pod="web-5d8f-x2", namespace="shop", pod_container="my-nginx")
    assert known.find(B) is None


def test_missing_link_folder_is_normal(tmp_path: Path) -> None:
    """A machine without a kubelet costs nothing but a look now and then."""
    known = ContainerNames([], str(tmp_path / "none"))
    known.find(A)
    assert known.refresh() == 1
    assert known.find(A) is None


@pytest.mark.parametrize("name", ["", "web-1", "x\r\n\r\nPOST /containers/create"])
def test_only_ids_are_asked_for(tmp_path: Path, name: str) -> None:
    """An LXC container's name, which anybody may choose, is no question for an engine."""
    with running(tmp_path / "s", lambda _: described("web")) as peer:
        known = ContainerNames([peer.path], "")
        assert known.find(name) is None
        assert known.refresh() == 0
        assert peer.requests == []


def test_memory_is_bounded(tmp_path: Path) -> None:
    """More containers than there is room for: the oldest are forgotten, the questions wait their turn."""
    known = ContainerNames([], str(tmp_path))
    total = names.MAX_KNOWN + names.MAX_WAITING
    for first in range(0, total, names.MAX_WAITING):
        for number in range(first, first + 2 * names.MAX_WAITING):
            known.find(f"{number:064x}")
        assert known.refresh() == names.MAX_WAITING
    assert len(known._known) == names.MAX_KNOWN


def test_time_of_a_refresh_is_bounded(tmp_path: Path) -> None:
    """Questions that do not fit into one refresh wait for the next."""
    clock = Clock()

    def slow(_: str) -> bytes:
        clock.now += names.REFRESH_S / 2
        return NOT_FOUND

    with running(tmp_path / "s", slow) as peer:
        known = ContainerNames([peer.path], "", clock=clock)
        for number in range(5):
            known.find(f"{number:064x}")
        assert [known.refresh(), known.refresh(), known.refresh()] == [2, 2, 1]


def test_without_sources_nothing_waits() -> None:
    """Engines switched off: no memory, no questions."""
    known = ContainerNames([], "")
    assert known.find(A) is None
    assert known.refresh() == 0
