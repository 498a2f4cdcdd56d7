"""What there is to ask about: labels, series, nodes, builds; and whether all of it adds up."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starlette.responses import Response

from aggregator.api.answers import json_answer
from aggregator.api.endpoint import Asked, Param
from aggregator.api.profiles import FROM, UNTIL
from aggregator.api.symbols import quality_of_builds
from aggregator.ledger import Account
from aggregator.selector import parse_selector
from aggregator.storage.types import Build
from aggregator.times import SECOND_NS, format_time
from fleetflame.model import Labels

QUERY = Param(name="query", help="Selector of the series; all if not given.", example='cpu{node="web-1"}')
LIMIT = Param(name="limit", help="Most entries to answer with.", default="10000")
CATALOG_PARAMS = (QUERY, FROM, UNTIL, LIMIT)
MAX_ENTRIES = 100_000


async def labels(asked: Asked) -> Response:
    """Names of the labels that the matching series have."""
    if not asked.text("query"):
        time = asked.time()
        found = await asyncio.to_thread(asked.context.store.label_names, time.from_ns, time.until_ns)
    else:
        found = sorted({name for each in await _series(asked) for name, _ in each})
    return json_answer({"labels": found[: _limit(asked)]})


async def label_values(asked: Asked) -> Response:
    """Values of one label."""
    wanted = asked.request.path_params["name"]
    if not asked.text("query"):
        time = asked.time()
        found = await asyncio.to_thread(asked.context.store.label_values, wanted, time.from_ns, time.until_ns)
    else:
        found = sorted({value for each in await _series(asked) for name, value in each if name == wanted})
    return json_answer({"label": wanted, "values": found[: _limit(asked)]})


async def series(asked: Asked) -> Response:
    """Label sets."""
    found = await _series(asked)
    limit = _limit(asked)
    return json_answer({"series": [dict(each) for each in found[:limit]], "total": len(found)})


async def builds(asked: Asked) -> Response:
    """Files, kernels and modules that samples refer to."""
    found = merged_builds(await asyncio.to_thread(asked.context.store.builds))
    quality = await asyncio.to_thread(quality_of_builds, asked)
    rows = [
        {
            "build_id": str(build.mapping.build_id or ""),
            "kind": build.mapping.kind.name.lower(),
            "path": build.mapping.path,
            "symbols": quality.get(str(build.mapping.build_id), "none"),
            "seen_in_week_of": format_time(build.last_seen * SECOND_NS)[:10],
        }
        for build in found
    ]
    return json_answer({"builds": rows[: _limit(asked)], "total": len(rows)})


def merged_builds(found: Sequence[Build]) -> list[Build]:
    """Builds of which a process that was gone too soon left no path, counted with the same build's other rows."""
    with_path = {build.mapping.build_id for build in found if build.mapping.path}
    unnamed = {build.mapping.build_id: build.last_seen for build in found if not build.mapping.path}
    return [
        Build(mapping=build.mapping, last_seen=max(build.last_seen, unnamed.get(build.mapping.build_id, 0)))
        for build in found
        if build.mapping.path or build.mapping.build_id not in with_path
    ]


async def nodes(asked: Asked) -> Response:
    """Nodes by name, with what became of their samples."""
    found = await asyncio.to_thread(asked.context.store.nodes)
    return json_answer({"nodes": [{**_account(each), **asdict(asked.context.entry(each.node))} for each in found]})


async def status(asked: Asked) -> Response:
    """The ledger: every node's books, and all together."""
    ledger = await asyncio.to_thread(asked.context.store.status, asked.context.clock() // SECOND_NS)
    return json_answer(
        {
            "balances": ledger.balances,
            "total": _account(ledger.total),
            "nodes": [_account(account) for account in ledger.nodes],
            "version": asked.context.version,
        }
    )


def _account(account: Account) -> dict[str, Any]:
    return {
        "node": account.node,
        "taken": account.taken,
        "stored": account.stored,
        "lost": account.total_lost,
        "rejected": account.rejected_samples,
        "missing": account.missing,
        "in_flight": account.in_flight,
        "difference": account.difference,
        "balances": account.balances,
        "lost_by_reason": dict(account.lost),
        "degraded_by_reason": dict(account.degraded),
        "rejected_messages_by_reason": dict(account.rejected),
        "agent_starts": account.epochs,
        "batches": account.batches,
        "frequency": round(SECOND_NS / account.period_ns, 3) if account.period_ns else None,
        "last_window": _moment(account.last_window),
        "last_seen": _moment(account.last_received),
    }


def _moment(seconds: int) -> str:
    return format_time(seconds * SECOND_NS) if seconds else ""


async def _series(asked: Asked) -> list[Labels]:
    selector, time = parse_selector(asked.text("query")), asked.time()
    return await asyncio.to_thread(asked.context.store.series, selector.matchers, time.from_ns, time.until_ns)


def _limit(asked: Asked) -> int:
    return asked.number("limit", least=1, most=MAX_ENTRIES)
