"""What there is to ask about: labels, series, nodes, builds; and whether all of it adds up."""

import asyncio

from starlette.responses import Response

from aggregator.api.answers import json_answer
from aggregator.api.endpoint import Asked, Param
from aggregator.api.profiles import FROM, UNTIL
from aggregator.selector import parse_selector
from aggregator.times import SECOND_NS, format_time
from fleetflame.model import Labels

QUERY = Param(name="query", help="Selector of the series; all if not given.", example='cpu{node="web-1"}')
LIMIT = Param(name="limit", help="Most entries to answer with.", default="10000")
CATALOG_PARAMS = (QUERY, FROM, UNTIL, LIMIT)
MAX_ENTRIES = 100_000


async def labels(asked: Asked) -> Response:
    """Names of the labels that the matching series have."""
    names = {name for series in await _series(asked) for name, _ in series}
    return json_answer({"labels": sorted(names)[: _limit(asked)]})


async def label_values(asked: Asked) -> Response:
    """Values of one label."""
    wanted = asked.request.path_params["name"]
    values = {value for series in await _series(asked) for name, value in series if name == wanted}
    return json_answer({"label": wanted, "values": sorted(values)[: _limit(asked)]})


async def series(asked: Asked) -> Response:
    """Label sets."""
    found = await _series(asked)
    limit = _limit(asked)
    return json_answer({"series": [dict(each) for each in found[:limit]], "total": len(found)})


async def builds(asked: Asked) -> Response:
    """Files, kernels and modules that samples refer to."""
    found = await asyncio.to_thread(asked.context.store.builds)
    rows = [
        {
            "build_id": str(build.mapping.build_id or ""),
            "kind": build.mapping.kind.name.lower(),
            "path": build.mapping.path,
            "last_seen": format_time(build.last_seen * SECOND_NS),
        }
        for build in found
    ]
    return json_answer({"builds": rows[: _limit(asked)], "total": len(rows)})


async def _series(asked: Asked) -> list[Labels]:
    selector, time = parse_selector(asked.text("query")), asked.time()
    return await asyncio.to_thread(asked.context.store.series, selector.matchers, time.from_ns, time.until_ns)


def _limit(asked: Asked) -> int:
    return asked.number("limit", least=1, most=MAX_ENTRIES)
