"""Profiles that other tools took, stored beside our own."""

from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from aggregator.api.answers import ApiError, json_answer
from aggregator.api.endpoint import Asked, Param
from aggregator.api.symbols import too_large
from aggregator.importing import Imported, ImportOptions, import_profile
from aggregator.pprofreader import GZIP_MAGIC
from aggregator.storage import Store
from aggregator.storage.accept import NO_NUMBERS, accept, announced
from aggregator.storage.types import AcceptedBatch, Stored
from aggregator.times import SECOND_NS, format_time, parse_time
from aggregator.turns import Turn
from fleetflame.errors import UsageError
from fleetflame.model import Batch

FORMATS = ("auto", "folded", "pprof")
FUTURE_S = 300
"""How far ahead samples may be: what ingest allows nodes."""
MAX_FAULTS = 20

FORMAT = Param(name="format", help="What the body is; auto: by its content.", default="auto", choices=FORMATS)
TYPE = Param(name="type", help="Profile type to store as.", default="cpu")
LABEL = Param(name="label", help="Label to store with, NAME=VALUE.", repeated=True, example="service=checkout")
TIME = Param(name="time", help="When the samples were taken; else what the file says, else now.")
FREQUENCY = Param(name="frequency", help="Samples per second, for folded text.", default="99")
PARAMS = (FORMAT, TYPE, LABEL, TIME, FREQUENCY)


async def import_(asked: Asked) -> Response:
    """Stores the profile in the body. The same body with the same labels is stored once."""
    context = asked.context
    options = _options(asked)
    data = await _body(asked, limit=context.queries.limits.import_bytes)

    def work(turn: Turn) -> tuple[Imported, Stored]:
        turn.hold(min(_cost(data), context.queries.limits.memory))
        with turn.stage("import"):
            imported = import_profile(data, options)
        now = context.clock() // SECOND_NS
        _check_times(context.store, imported, now)
        with turn.stage("insert"):
            return imported, context.store.insert([_accepted(batch, now) for batch in imported.batches])

    imported, stored = await context.queries.run(work)
    for batch in imported.batches:
        for mapping in batch.mappings:
            context.symbols.want(mapping, "")
    return json_answer(_told(imported, stored))


def _options(asked: Asked) -> ImportOptions:
    labels = {}
    for text in asked.values.get("label", ()):
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"not a label: `{text[:80]}`", hint="write NAME=VALUE")
        labels[name] = value
    now, time = asked.context.clock(), asked.text("time")
    return ImportOptions(
        time_ns=parse_time(time or "now", now_ns=now),
        time_given=bool(time),
        labels=labels,
        type=asked.text("type"),
        form=asked.text("format"),
        period_ns=SECOND_NS // asked.number("frequency", least=1, most=1_000_000),
    )


async def _body(asked: Asked, *, limit: int) -> bytes:
    data = bytearray()
    try:
        async for chunk in asked.request.stream():
            data += chunk
            if len(data) > limit:
                raise too_large(limit)
    except ClientDisconnect:
        raise ApiError(400, "incomplete", "the body ended early") from None
    if not data:
        raise ApiError(400, "empty", "the request has no body", hint="send the profile as the body of the request")
    return bytes(data)


def _cost(data: bytes) -> int:
    """Bytes that reading `data` takes: measured, 4.5 times its size for folded text; pprof is packed 8 to 1 or so."""
    return len(data) * (40 if data.startswith(GZIP_MAGIC) else 5)


def _check_times(store: Store, imported: Imported, now: int) -> None:
    """Refuses what the store would drop at once, or what no query would find."""
    floor = store.floor(now)
    for batch in imported.batches:
        start = batch.window_start_ns // SECOND_NS
        if start < floor:
            raise UsageError(
                f"the samples are of {format_time(batch.window_start_ns)}, which is beyond the retention",
                hint="say when they count with --time, or raise the aggregator's --retention",
            )
        if start > now + FUTURE_S:
            raise UsageError(
                f"the samples are of {format_time(batch.window_start_ns)}, which is in the future",
                hint="say when they were taken with --time",
            )


def _accepted(batch: Batch, now: int) -> AcceptedBatch:
    stacks = announced(batch)
    return accept(batch, stacks, NO_NUMBERS.with_stacks(batch.first_number, stacks.ids), now)


def _told(imported: Imported, stored: Stored) -> dict[str, Any]:
    starts = [batch.window_start_ns for batch in imported.batches]
    return {
        "samples": imported.samples,
        "stacks": imported.stacks,
        "nodes": [batch.node for batch in imported.batches],
        "from": format_time(min(starts)),
        "stored_before": stored.duplicates == len(imported.batches),
        "lines": imported.lines,
        "bad_lines": imported.bad,
        "faults": [{"line": fault.line, "reason": fault.reason} for fault in imported.faults[:MAX_FAULTS]],
    }
