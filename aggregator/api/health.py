"""What orchestrators and Prometheus ask."""

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.responses import PlainTextResponse, Response

from aggregator.api.answers import json_answer
from aggregator.api.endpoint import Asked


async def healthz(_: Asked) -> Response:
    """The process answers."""
    return PlainTextResponse("ok\n")


async def readyz(asked: Asked) -> Response:
    """Whether batches are stored and queries answered now; else 503 and what is wrong."""
    troubles = asked.context.troubles()
    return json_answer({"ready": not troubles, "troubles": troubles}, status=503 if troubles else 200)


async def metrics(_: Asked) -> Response:
    """Every metric of this process, as Prometheus reads them."""
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
