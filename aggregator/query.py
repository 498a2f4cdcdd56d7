"""From a question to a profile: select, look up frames and names, build, within stated bounds.

    Question -> ProfileQuery -> Store.select -> frames -> names -> Profile -> what `render` makes of it

The work blocks, so it is done in threads, a few at a time; the rest wait in a short queue. A question that costs too
much gets an error that names the limit, never part of an answer.
"""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TypeVar

from aggregator import metrics
from aggregator.config import QueryLimits
from aggregator.locations import Symbolize
from aggregator.names import Names, Version
from aggregator.profile import Profile, index_stacks, make_profile
from aggregator.selector import Selector
from aggregator.storage import Store
from aggregator.storage.types import ProfileQuery, Selected
from aggregator.times import SECOND_NS, TimeRange, format_duration
from aggregator.turns import Memory, Turn
from fleetflame.errors import FleetflameError, UsageError
from fleetflame.model import WINDOW_S

R = TypeVar("R")

STACK_BYTES = 3300
"""What answering costs for each stack: measured with 50,000 and 200,000 stacks of 30 frames, from the store's arrays to
250 bytes of folded text each, the highest point of all stages. Most stacks are shorter, and then it is less."""
MAX_BY = 8
"""Labels to keep apart: each becomes a level of the flame graph."""
COMM = "comm"
"""Always the last of the labels: a line of folded text begins with the process's name."""
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)


class Refusal(StrEnum):
    """Why a question was not answered; also the error's code in the API."""

    STACKS = "too_many_stacks"
    RESULT = "result_too_large"
    TIMEOUT = "timeout"
    BUSY = "busy"


class QueryRefusedError(FleetflameError):
    """The question costs more than a limit allows; nothing is wrong with it or with the data."""

    def __init__(self, refusal: Refusal, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.refusal = refusal


WINDOW_NS = WINDOW_S * SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which samples, merged how. Raises UsageError for a label that cannot be one."""

    selector: Selector
    time: TimeRange
    by: tuple[str, ...] = ()
    """Labels whose values stay apart, as the first frames; `comm` always does and need not be named."""
    kernel: bool = True

    def __post_init__(self) -> None:
        for label in self.by:
            if not _LABEL.fullmatch(label):
                raise UsageError(f"not a label name: `{label[:80]}`", hint="`fleetflame labels` lists them")
        if len(set(self.by)) > MAX_BY:
            raise UsageError(f"{len(self.by)} labels to keep apart are too many", hint=f"give at most {MAX_BY}")

    @property
    def query(self) -> ProfileQuery:
        """What the store is asked. Its rows are counts of whole windows, known by their start: the window that the
        range begins in is asked for too, since a range that leaves out what it was drawn around helps nobody."""
        return ProfileQuery(
            selector=self.selector,
            from_ns=self.time.from_ns // WINDOW_NS * WINDOW_NS,
            until_ns=self.time.until_ns,
            by=tuple(dict.fromkeys((*(label for label in self.by if label != COMM), COMM))),
        )


class QueryService:
    """Answers questions for any number of callers on one event loop. `close` it to let its threads go."""

    def __init__(
        self, store: Store, symbolize: Symbolize, limits: QueryLimits, *, version: Version | None = None
    ) -> None:
        """`version` says when `symbolize` would answer otherwise; with it, names are remembered until then."""
        self._store = store
        self._names = Names(symbolize, version)
        self.limits = limits
        self._memory = Memory(limits.memory)
        self._pool = ThreadPoolExecutor(limits.concurrent, thread_name_prefix="query")
        self.in_hand = 0
        """Questions at work or waiting for their turn."""

    def close(self) -> None:
        """Waits for the questions at work; those that wait for their turn are given up."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def ask(self, questions: tuple[Question, ...], render: Callable[..., R]) -> R:
        """What `render` makes of the questions' profiles, one argument each. Both happen in a thread.

        Raises UsageError, QueryRefusedError, StoreError; whatever `render` raises passes through.
        """
        for question in questions:
            self._check(question)
        return await self.run(partial(self._answer, questions, render))

    async def run(self, work: Callable[[Turn], R]) -> R:
        """What `work` returns, done in a thread when it is its turn. Raises QueryRefusedError."""
        outcome = "failed"
        try:
            answer = await self._run(work)
            outcome = "answered"
        except QueryRefusedError as error:
            outcome = error.refusal.value
            raise
        except asyncio.CancelledError:
            outcome = "abandoned"
            raise
        finally:
            metrics.QUERIES.labels(outcome).inc()
        return answer

    async def _run(self, work: Callable[[Turn], R]) -> R:
        limits, loop = self.limits, asyncio.get_running_loop()
        if self.in_hand >= limits.concurrent + limits.waiting:
            raise QueryRefusedError(
                Refusal.BUSY,
                f"{self.in_hand} queries are in hand already",
                hint="ask again in a moment, or raise --query-concurrency",
            )
        turn = Turn(self._memory)
        self.in_hand += 1
        metrics.QUERIES_IN_HAND.set(self.in_hand)
        job = self._pool.submit(_work, work, turn)

        def done(_: Future[R]) -> None:
            loop.call_soon_threadsafe(self._release)

        job.add_done_callback(done)
        try:
            async with asyncio.timeout(limits.timeout_s) as clock:
                return await asyncio.wrap_future(job)
        except TimeoutError:
            if not clock.expired():
                raise
            raise QueryRefusedError(
                Refusal.TIMEOUT,
                f"no answer within {limits.timeout_s} s",
                hint="narrow the time range or the selector, or raise --query-timeout",
            ) from None
        finally:
            turn.abandon()

    def _release(self) -> None:
        self.in_hand -= 1
        metrics.QUERIES_IN_HAND.set(self.in_hand)

    def _check(self, question: Question) -> None:
        allowed = self.limits.range_s * SECOND_NS
        if question.time.length_ns > allowed:
            raise UsageError(
                f"the time range of {format_duration(question.time.length_ns)} is longer than"
                f" {format_duration(allowed)}",
                hint="narrow it with --from and --until, or raise --query-range",
            )

    def _answer(self, questions: tuple[Question, ...], render: Callable[..., R], turn: Turn) -> R:
        with turn.stage("select"):
            found = [self._store.select(question.query) for question in questions]
        turn.hold(self._cost(sum(len(selected.stack) for selected in found)))
        profiles = [
            self._profile(question, selected, turn) for question, selected in zip(questions, found, strict=True)
        ]
        with turn.stage("render"):
            return render(*profiles)

    def _cost(self, stacks: int) -> int:
        """Bytes that it takes to answer with so many stacks. Raises QueryRefusedError if there are not as many."""
        cost, most = stacks * STACK_BYTES, self.limits.memory
        if cost > most:
            raise QueryRefusedError(
                Refusal.STACKS,
                f"{stacks} distinct stacks match, {most // STACK_BYTES} are allowed",
                hint="narrow the selector or the time range, keep fewer labels apart, or raise --query-memory",
            )
        return cost

    def _profile(self, question: Question, selected: Selected, turn: Turn) -> Profile:
        with turn.stage("frames"):
            tree, found = self._store.tree(selected.stack)
        with turn.stage("names"):
            ends, stack = index_stacks(selected.stack, found)
            named = self._names.of(tree, ends, self._store, kernel=question.kernel)
            return make_profile(selected, named, stack, query=question.query, kernel=question.kernel)


def _work(work: Callable[[Turn], R], turn: Turn) -> R:
    try:
        return work(turn)
    finally:
        turn.done()
