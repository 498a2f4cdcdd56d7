"""Symbols: what is kept for which build, what is missing, and files that an operator gives."""

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from aggregator.api.answers import ApiError, json_answer
from aggregator.api.endpoint import Asked, Param
from aggregator.symbols.faults import HINTS, Fault, SymbolFileError
from aggregator.symbols.records import Record
from aggregator.symbols.service import Missing
from fleetflame.buildid import BuildId
from fleetflame.errors import UsageError, cause_of

MISSING = Param(name="missing", help="Whether to list builds without symbols instead.", default="false")
NAME = Param(name="name", help="What to call the file in messages.", default="upload")
BUILD_ID = Param(name="build_id", help="Refuse a file of another build than this, which may be yet to run.")
REPLACE = Param(name="replace", help="Use the file whatever else there is for its build.", default="false")
FORCE = Param(name="force", help="Take the file of a build that was never sampled.", default="false")
LIST_PARAMS = (MISSING,)
UPLOAD_PARAMS = (NAME, BUILD_ID, REPLACE, FORCE)

_STATUS = {Fault.TOO_LARGE: 413, Fault.CONFLICT: 409, Fault.DISK: 507, Fault.NOT_FOUND: 404}


async def symbols(asked: Asked) -> Response:
    """What is kept, or what is missing."""
    service = asked.context.symbols
    if asked.flag("missing"):
        missing = await asyncio.to_thread(service.missing)
        return json_answer({"missing": [missing_row(each) for each in missing]})
    records = await asyncio.to_thread(service.list)
    return json_answer({"symbols": [_row(record) for record in records]})


async def upload(asked: Asked) -> Response:
    """Takes a file in: its symbols name samples from now on, those of the past too."""
    service, context, build_id = asked.context.symbols, asked.context, asked.text("build_id")
    check_build_id(build_id)
    with _room(context.config.symbols_folder) as folder:
        file = folder / "file"
        await receive_file(asked, file, limit=context.config.upload_bytes)
        try:
            uploaded = await service.upload(
                file,
                name=asked.text("name")[:1000],
                build_id=build_id,
                replace=asked.flag("replace"),
                force=asked.flag("force"),
            )
        except SymbolFileError as error:
            status = _STATUS.get(error.fault, 422)
            raise ApiError(status, error.fault.value, error.message, hint=error.hint) from None
    return json_answer({**_row(uploaded.record), "verdict": uploaded.verdict.value, "seen": uploaded.seen})


@contextlib.contextmanager
def _room(parent: Path) -> Iterator[Path]:
    """A folder for one upload, which goes with it. Raises ApiError if it cannot be made."""
    try:
        made = TemporaryDirectory(prefix="upload-", dir=parent)
    except OSError as error:
        raise _no_room(error) from None
    with made as folder:
        yield Path(folder)


def _no_room(error: OSError) -> ApiError:
    hint = HINTS[Fault.DISK] if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see --symbols of the aggregator"
    return ApiError(507, "disk_full", f"the aggregator failed to keep the file: {cause_of(error)}", hint=hint)


def check_build_id(text: str) -> None:
    """Raises UsageError unless `text` is empty or a build ID."""
    try:
        if text:
            BuildId.parse(text)
    except ValueError:
        raise UsageError(f"not a build ID: `{text[:80]}`", hint="it is hex, as `readelf -n FILE` prints it") from None


async def receive_file(asked: Asked, target: Path, *, limit: int) -> int:
    """Writes the request's body to `target`; returns its size. Raises ApiError if it is larger than `limit`."""
    told = asked.request.headers.get("content-length", "")
    if told.isdigit() and int(told) > limit:
        raise too_large(limit)
    size = 0
    try:
        with target.open("wb") as file:
            async for chunk in asked.request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                await asyncio.to_thread(file.write, chunk)
    except ClientDisconnect:
        raise ApiError(400, "incomplete", "the body ended early") from None
    except OSError as error:
        raise _no_room(error) from None
    if not size:
        raise ApiError(400, "empty", "the request has no body", hint="send the file as the body of the request")
    return size


def too_large(limit: int) -> ApiError:
    """The refusal of a body."""
    return ApiError(413, "too_large", f"the body is larger than {limit} bytes", hint="see the aggregator's limits")


def quality_of_builds(asked: Asked) -> dict[str, str]:
    """Build ID -> how much is known of its symbols. Blocking."""
    return {str(record.build_id): record.kept.rank.name.lower() for record in asked.context.symbols.list()}


def _row(record: Record) -> dict[str, Any]:
    kept = record.kept
    return {
        "build_id": str(record.build_id),
        "path": record.path,
        "quality": kept.rank.name.lower(),
        "source": kept.source.value,
        "where": kept.where,
        "functions": kept.functions,
        "bytes": kept.content_bytes,
        "added": datetime.fromtimestamp(kept.added, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "pinned": kept.pinned,
        "conflicts": [{"source": each.source.value, "where": each.where} for each in record.conflicts],
    }


def missing_row(missing: Missing) -> dict[str, Any]:
    """A build without symbols, or with poor ones, and why."""
    mapping = missing.mapping
    unexplained = "not_searched" if missing.rank is None else "exports_only"
    return {
        "build_id": str(mapping.build_id),
        "kind": mapping.kind.name.lower(),
        "path": mapping.path,
        "quality": missing.rank.name.lower() if missing.rank is not None else "none",
        "reason": missing.fault.value if missing.fault is not None else unexplained,
        "detail": missing.detail,
    }
