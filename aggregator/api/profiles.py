"""Profiles and their differences."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from aggregator.api.answers import file_answer, json_answer
from aggregator.api.endpoint import Asked, Param
from aggregator.api.guard import PICTURE_POLICY
from aggregator.config import QueryLimits
from aggregator.fold import fold
from aggregator.formats import FORMS, Format
from aggregator.profile import Completeness, Profile
from aggregator.query import QueryRefusedError, Question, Refusal
from aggregator.render import table
from aggregator.render.json import completeness_fields
from aggregator.selector import parse_selector
from aggregator.times import DEFAULT_FROM, DEFAULT_UNTIL

R = TypeVar("R")

QUERY = Param(name="query", help="Selector of the samples.", default="cpu", example='cpu{service="checkout"}')
FROM = Param(name="from", help="Start of the time range: -15m, now-1h, RFC 3339 or Unix seconds.", default=DEFAULT_FROM)
UNTIL = Param(name="until", help="End of the time range.", default=DEFAULT_UNTIL)
BY = Param(name="by", help="Label whose values stay apart, as root frames.", repeated=True, example="node")
KERNEL = Param(name="kernel", help="Whether to keep kernel frames.", default="true")
FORMAT = Param(name="format", help="What to make of the profile.", default="json", choices=tuple(Format))
DOWNLOAD = Param(name="download", help="Whether browsers should save the answer to a file.", default="false")

LIMIT = Param(name="limit", help="How many functions.", default="50")
SORT = Param(name="sort", help="What to sort by.", default="self", choices=tuple(table.Order))

PROFILE_ANSWERS = {
    kind: "format " + ", ".join(f"`{name}`" for name, form in FORMS.items() if form.content_type == kind)
    for kind in sorted({form.content_type for form in FORMS.values()})
}
PROFILE_PARAMS = (QUERY, FROM, UNTIL, BY, KERNEL, FORMAT, DOWNLOAD)
TOP_PARAMS = (QUERY, FROM, UNTIL, BY, KERNEL, LIMIT, SORT)
MAX_ROWS = 10_000


async def profile(asked: Asked) -> Response:
    """One profile in one format."""
    question = question_of(asked)
    form = FORMS[Format(asked.text("format"))]
    limits = asked.context.queries.limits

    def render(found: Profile) -> tuple[bytes, Completeness]:
        return bounded(form.render(titled(found, str(question.selector))), limits), found.completeness

    body, completeness = await while_connected(asked.request, asked.context.queries.ask((question,), render))
    headers = {"fleetflame-samples": samples_header(completeness)}
    if form.picture:
        headers["content-security-policy"] = PICTURE_POLICY
    name = f"{question.selector.type}{form.suffix}" if asked.flag("download") else ""
    return await file_answer(asked.request, body, content_type=form.content_type, name=name, headers=headers)


async def top(asked: Asked) -> Response:
    """The functions with the most samples, as JSON."""
    question, limit = question_of(asked), asked.number("limit", least=1, most=MAX_ROWS)
    order = table.Order(asked.text("sort"))

    def render(found: Profile) -> tuple[dict[str, Any], Completeness]:
        rows = table.top(fold(found), limit=limit, order=order)
        return _top_answer(rows, found.completeness), found.completeness

    answer, completeness = await while_connected(asked.request, asked.context.queries.ask((question,), render))
    response = json_answer(answer)
    response.headers["fleetflame-samples"] = samples_header(completeness)
    return response


def question_of(asked: Asked) -> Question:
    """The question that the parameters of a profile ask. Raises UsageError."""
    return Question(
        selector=parse_selector(asked.text("query")),
        time=asked.time(),
        by=asked.many("by"),
        kernel=asked.flag("kernel"),
    )


def titled(profile: Profile, title: str) -> Profile:
    """The same profile under a title, which pictures show."""
    return replace(profile, origin=replace(profile.origin, title=title))


def _top_answer(top: table.Top, completeness: Completeness) -> dict[str, Any]:
    rows = [
        {
            "name": row.name,
            "kind": row.kind.name.lower(),
            "self": row.self_count,
            "total": row.total_count,
            "self_ns": row.self_value,
            "total_ns": row.total_value,
        }
        for row in top.rows
    ]
    return {"functions": top.functions, "nanoseconds": top.value, **completeness_fields(completeness), "rows": rows}


def samples_header(completeness: Completeness) -> str:
    """How complete a profile is, in samples, for programs that do not read the format."""
    return (
        f"total={completeness.total}, whole={completeness.whole}, truncated={completeness.truncated},"
        f" unsymbolized={completeness.unsymbolized}"
    )


def bounded(body: bytes, limits: QueryLimits) -> bytes:
    """`body` itself. Raises QueryRefusedError if it is larger than an answer may be."""
    if len(body) > limits.result_bytes:
        raise QueryRefusedError(
            Refusal.RESULT,
            f"the answer has {len(body)} bytes, {limits.result_bytes} are allowed",
            hint="narrow the selector or the time range, or raise --query-bytes",
        )
    return body


async def while_connected(request: Request, answer: Awaitable[R]) -> R:
    """What `answer` gives; it is cancelled when the client hangs up first."""
    work = asyncio.ensure_future(answer)
    hung_up = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((work, hung_up), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
        return await work
    finally:
        hung_up.cancel()
        with suppress(asyncio.CancelledError):
            await hung_up


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
