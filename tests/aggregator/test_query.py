"""Questions: the same samples as a brute-force count, and limits that hold."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.config import QueryLimits
from aggregator.fold import fold
from aggregator.profile import Profile
from aggregator.query import STACK_BYTES, QueryRefusedError, QueryService, Question, Refusal
from aggregator.selector import parse_selector
from aggregator.storage import Store
from aggregator.times import SECOND_NS, TimeRange
from fleetflame.errors import UsageError
from fleetflame.model import Mapping
from tests.aggregator.api.conftest import FLEET, SAMPLES, store, symbolize
from tests.aggregator.storage.fleet import DAY, PERIOD, brute_force

__all__ = ["store"]

HOUR = TimeRange(from_ns=DAY * SECOND_NS, until_ns=(DAY + 3600) * SECOND_NS)
Serve = Callable[..., QueryService]


@pytest.fixture
async def serve(store: Store) -> AsyncIterator[Serve]:
    """Makes services with other limits; all are closed in the end."""
    made: list[QueryService] = []

    def service(symbolizer: Any = symbolize, **limits: int) -> QueryService:
        made.append(QueryService(store, symbolizer, replace(QueryLimits(), **limits)))
        return made[-1]

    yield service
    for each in made:
        await asyncio.to_thread(each.close)


def question(selector: str = "cpu", **about: Any) -> Question:
    """A question about the fleet's hour."""
    return Question(selector=parse_selector(selector), **{"time": HOUR, **about})


@pytest.mark.parametrize("by", [(), ("node",), ("comm",), ("node", "service"), ("service", "comm", "service")])
async def test_samples_and_nanoseconds_equal_a_brute_force_count(serve: Serve, by: tuple[str, ...]) -> None:
    """By any labels, from one series and from all."""
    for selector, equal in (("cpu", {}), ('cpu{service="search"}', {"service": "search"})):
        profile = await serve().ask((question(selector, by=by),), lambda found: found)
        counted = sum(count for count, _ in brute_force(FLEET, (), DAY, DAY + 3600, **equal).values())
        assert int(profile.count.sum()) == counted
        assert int(profile.value.sum()) == counted * PERIOD
        assert fold(profile).count.sum() == counted
        assert profile.origin.by == (*dict.fromkeys(label for label in by if label != "comm"), "comm")


async def test_nothing_that_matches_is_an_empty_profile(serve: Serve) -> None:
    """Not an error."""
    profile = await serve().ask((question('cpu{service="none"}'),), lambda found: found)
    assert profile.completeness.total == 0


async def test_several_questions_are_answered_in_one_turn(serve: Serve) -> None:
    """As a difference needs them."""
    one, two = question('node="web-0.example"'), question('node!="web-0.example"')
    sums = await serve().ask((one, two), lambda *found: [int(each.count.sum()) for each in found])
    assert sum(sums) == SAMPLES


@pytest.mark.parametrize("by", [("no-label",), ("",), ("a;b",), tuple("abcdefghi")])
def test_labels_that_cannot_be_are_refused(by: tuple[str, ...]) -> None:
    """A flame graph with nine levels of labels is none."""
    with pytest.raises(UsageError):
        question(by=by)


async def test_a_range_beyond_the_limit_is_refused_before_any_work(serve: Serve) -> None:
    """With both lengths."""
    with pytest.raises(UsageError, match="1h is longer than 59m59s"):
        await serve(range_s=3599).ask((question(),), lambda found: found)


async def test_too_many_stacks_are_refused(serve: Serve) -> None:
    """Never a part of the answer."""
    service = serve(memory=3 * STACK_BYTES)
    with pytest.raises(QueryRefusedError, match="3 are allowed") as caught:
        await service.ask((question(),), lambda found: found)
    assert caught.value.refusal is Refusal.STACKS


class Gate:
    """A symbolizer that waits until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, mapping: Mapping, addresses: NDArray[np.uint64]) -> Any:
        self.reached.set()
        assert self.open.wait(30)
        return symbolize(mapping, addresses)


async def test_who_waits_too_long_is_told(serve: Serve) -> None:
    """The thread's work is given up; its place is free when it is done."""
    gate = Gate()
    service = serve(gate, timeout_s=1, concurrent=1, waiting=0)
    with pytest.raises(QueryRefusedError) as caught:
        await service.ask((question(),), lambda found: found)
    assert caught.value.refusal is Refusal.TIMEOUT
    with pytest.raises(QueryRefusedError) as caught:
        await service.ask((question(),), lambda found: found)
    assert caught.value.refusal is Refusal.BUSY
    gate.open.set()
    await until(lambda: not service.in_hand)
    assert await service.ask((question(),), lambda found: found.completeness.total) == SAMPLES


async def test_more_than_may_wait_are_sent_away(serve: Serve) -> None:
    """The others are answered in turn."""
    gate = Gate()
    service = serve(gate, concurrent=1, waiting=1)
    count = partial(service.ask, (question(),), lambda found: found.completeness.total)
    first, second = asyncio.create_task(count()), asyncio.create_task(count())
    await asyncio.sleep(0)
    with pytest.raises(QueryRefusedError, match="2 queries are in hand"):
        await count()
    gate.open.set()
    assert await asyncio.gather(first, second) == [SAMPLES, SAMPLES]


async def test_nothing_is_rendered_for_those_who_left(serve: Serve) -> None:
    """Work stops at the next stage."""
    gate = Gate()
    service = serve(gate)
    rendered: list[Profile] = []
    task = asyncio.create_task(service.ask((question(),), rendered.append))
    await asyncio.to_thread(gate.reached.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open.set()
    await until(lambda: not service.in_hand)
    assert rendered == []


async def until(holds: Callable[[], bool]) -> None:
    """Lets the loop run until `holds()`."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)
