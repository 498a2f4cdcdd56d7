"""Every endpoint in one table, and the application made from it."""

import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aggregator import metrics
from aggregator.api import catalog, diffs, health, imports, openapi, page, profiles, symbols
from aggregator.api.answers import ApiError, error_answer, json_answer
from aggregator.api.context import Context
from aggregator.api.endpoint import Asked, Endpoint, read_params
from aggregator.api.guard import Guard, hosts_to_serve
from fleetflame.errors import FleetflameError


async def _openapi(asked: Asked) -> Response:
    return json_answer(openapi.document(ENDPOINTS, version=asked.context.version))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        path="/api/v1/profile",
        handler=profiles.profile,
        summary="A profile of the samples that a selector matches in a time range.",
        params=profiles.PROFILE_PARAMS,
        answers=profiles.PROFILE_ANSWERS,
    ),
    Endpoint(
        path="/api/v1/diff",
        handler=diffs.diff,
        summary="What takes a larger or smaller share of one selection than of another.",
        params=diffs.PARAMS,
        answers=diffs.ANSWERS,
    ),
    Endpoint(
        path="/api/v1/top",
        handler=profiles.top,
        summary="The functions with the most samples.",
        params=profiles.TOP_PARAMS,
        answers={"application/json": "`rows`, with samples and nanoseconds of each function, itself and in all"},
    ),
    Endpoint(
        path="/api/v1/labels",
        handler=catalog.labels,
        summary="Names of the labels that series have.",
        params=catalog.CATALOG_PARAMS,
        answers={"application/json": "`labels`, sorted"},
    ),
    Endpoint(
        path="/api/v1/labels/{name}",
        handler=catalog.label_values,
        summary="Values of one label.",
        params=catalog.CATALOG_PARAMS,
        answers={"application/json": "`values`, sorted"},
    ),
    Endpoint(
        path="/api/v1/series",
        handler=catalog.series,
        summary="Label sets.",
        params=catalog.CATALOG_PARAMS,
        answers={"application/json": "`series`, and how many there are in `total`"},
    ),
    Endpoint(
        path="/api/v1/nodes",
        handler=catalog.nodes,
        summary="Nodes, with what became of their samples and when they were last heard of.",
        answers={"application/json": "`nodes`, by name"},
    ),
    Endpoint(
        path="/api/v1/status",
        handler=catalog.status,
        summary="The ledger: taken = stored + lost + rejected + missing + in flight, per node and in all.",
        answers={"application/json": "`balances`, `total`, `nodes`"},
    ),
    Endpoint(
        path="/api/v1/builds",
        handler=catalog.builds,
        summary="Files, kernels and modules that samples refer to, by build ID.",
        params=(catalog.LIMIT,),
        answers={"application/json": "`builds`, and how many there are in `total`"},
    ),
    Endpoint(
        path="/api/v1/symbols",
        handler=symbols.symbols,
        summary="Builds that have symbols, or with `missing` those that lack them.",
        params=symbols.LIST_PARAMS,
        answers={"application/json": "`symbols`, or `missing` with reasons"},
    ),
    Endpoint(
        path="/api/v1/symbols",
        method="POST",
        handler=symbols.upload,
        summary="Give an ELF file with symbols: an executable, a library, or a separate debug file.",
        params=symbols.UPLOAD_PARAMS,
        body="The ELF file.",
        answers={"application/json": "what is now kept for its build, and the verdict"},
    ),
    Endpoint(
        path="/api/v1/import",
        method="POST",
        handler=imports.import_,
        summary="Store a profile that another tool took: folded text or pprof.",
        params=imports.PARAMS,
        body="The profile.",
        answers={"application/json": "how many `samples` and `stacks`, and `bad_lines` of folded text"},
    ),
    Endpoint(
        path="/api/v1/openapi.json",
        handler=_openapi,
        summary="This interface in OpenAPI 3.1.",
        answers={"application/json": "an OpenAPI document"},
    ),
    Endpoint(
        path="/healthz", handler=health.healthz, summary="Whether the process answers.", answers={"text/plain": "`ok`"}
    ),
    Endpoint(
        path="/readyz",
        handler=health.readyz,
        summary="Whether batches are stored and queries answered now; 503 if not.",
        answers={"application/json": "`ready`, and `troubles` by part"},
    ),
    Endpoint(
        path="/metrics",
        handler=health.metrics,
        summary="Prometheus metrics of this aggregator.",
        answers={"text/plain": "exposition format"},
    ),
)


def create_app(context: Context) -> Starlette:
    """The application that answers every endpoint, and the page."""
    routes = [*(_route(endpoint, context) for endpoint in ENDPOINTS), *_page_routes()]
    hosts = hosts_to_serve(loopback=context.config.http.is_loopback, allowed=context.config.allowed_hosts)
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={HTTPException: _http_error, 500: _our_bug},
    )


def _route(endpoint: Endpoint, context: Context) -> Route:
    known = {param.name: param for param in endpoint.params}

    async def refusing(request: Request) -> Response:
        try:
            return await endpoint.handler(Asked(context, request, read_params(endpoint, request), known))
        except FleetflameError as error:
            return error_answer(error)

    async def answer(request: Request) -> Response:
        started, status = time.monotonic(), 500
        try:
            response = await refusing(request)
            status = response.status_code
        finally:
            metrics.REQUEST_SECONDS.labels(endpoint.path).observe(time.monotonic() - started)
            metrics.REQUESTS.labels(endpoint.path, str(status)).inc()
        return response

    return Route(endpoint.path, answer, methods=[endpoint.method], name=f"{endpoint.method} {endpoint.path}")


def _page_routes() -> list[Route]:
    assets = page.read_assets()

    async def index(request: Request) -> Response:
        return await page.asset_answer(request, assets, page.INDEX)

    async def static(request: Request) -> Response:
        return await page.asset_answer(request, assets, request.path_params["name"])

    return [Route("/", index, name="page"), Route("/static/{name}", static, name="static")]


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for HTTPException"
    code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "failed")
    hint = "endpoints are listed at /api/v1/openapi.json" if error.status_code in (404, 405) else ""
    message = f"{error.detail.lower()}: `{request.method} {request.url.path[:200]}`"
    answer = error_answer(ApiError(error.status_code, code, message, hint=hint))
    answer.headers.update(error.headers or {})
    return answer


async def _our_bug(_: Request, error: Exception) -> Response:
    # Starlette raises it again afterwards, so that it is logged with its traceback.
    return error_answer(ApiError(500, "internal", f"an error of ours: {type(error).__name__}", hint="its log has more"))
