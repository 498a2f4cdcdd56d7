"""The page at `/`: files of web/, read once at the start and told apart by their content afterwards."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from aggregator.api.answers import ApiError, error_answer, file_answer
from fleetflame.errors import FleetflameError, cause_of

INDEX = "index.html"
CONTENT_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    body: bytes
    content_type: str
    etag: str


def read_assets() -> dict[str, Asset]:
    """The page's files by name. Raises FleetflameError if one is missing."""
    folder = _folder()
    try:
        return {name: _asset(folder.joinpath(name).read_bytes(), kind) for name, kind in CONTENT_TYPES.items()}
    except OSError as error:
        raise FleetflameError(
            f"failed to read the page's files: {cause_of(error)}: `{error.filename}`", hint="install fleetflame again"
        ) from None


async def asset_answer(request: Request, assets: Mapping[str, Asset], name: str) -> Response:
    """The file, or 304 if the browser has it. Browsers ask each time: an update shows at the next load."""
    asset = assets.get(name)
    if asset is None:
        return error_answer(ApiError(404, "not_found", f"not found: `{name[:80]}`"))
    headers = {"etag": asset.etag, "cache-control": "no-cache"}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return await file_answer(request, asset.body, content_type=asset.content_type, headers=headers)


def _asset(body: bytes, content_type: str) -> Asset:
    return Asset(body, content_type, f'"{hashlib.sha256(body).hexdigest()[:20]}"')


def _folder() -> Traversable:
    """In a wheel the files are beside this module; in a checkout they are where they are edited."""
    packaged = files("aggregator.api") / "static"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "web"
