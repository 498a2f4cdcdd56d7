"""Symbol files over the bus: asking a node to lend one, and the object store that all aggregators share.

    request  ff.v1.node.TOKEN.symbols    {"build_id": HEX, "path": PATH}  ->  {"ok": true, "key": K, "size": N}
    request  ff.v1.node.TOKEN.kallsyms   {}                               ->  or {"ok": false, "reason": R}
    object   BUILDID.SHA16               an ELF file, zstd; headers kind, build_id, node, path, raw_size
    object   BUILDID.kallsyms            a kernel's names, zstd

A reply names an object; its key must belong to the build that was asked for, and nothing else of a reply is believed.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path
from typing import Any, BinaryIO

import nats.errors
import nats.js.errors
import zstandard
from nats.aio.client import Client as Client
from nats.js import JetStreamContext
from nats.js.api import ObjectMeta, ObjectMetaOptions, ObjectStoreConfig, StorageType
from nats.js.object_store import ObjectStore

from aggregator.symbols.elf import sha256_of
from aggregator.symbols.faults import Fault, SymbolFileError
from fleetflame import subjects
from fleetflame.buildid import BuildId

log = logging.getLogger(__name__)

REPLY_SECONDS = 120.0
"""A node answers when it has uploaded: a browser's library at 10 MB/s takes a minute."""
FETCH_SECONDS = 300.0
STALL_SECONDS = 10.0
"""Without a byte. An object whose pieces are gone says so by silence, and would hold up a search for FETCH_SECONDS."""
MAX_PACKED = 1 << 30
_KEY = re.compile(r"[0-9a-f]{2,128}\.(kallsyms|[0-9a-f]{16})")
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Lent:
    """An object that was fetched and unpacked to `file`."""

    key: str
    file: Path
    path: str
    node: str


@dataclass(slots=True)
class Lending:
    """The bus as a source of symbol files. One client, shared with everything else."""

    client: Client
    max_bytes: int = 2 << 30
    _store: ObjectStore | None = field(default=None, init=False)

    async def lend(self, node: str, build_id: BuildId, path: str, folder: Path) -> Lent:
        """Has `node` lend its file `path` of that build. Raises SymbolFileError."""
        about = {"build_id": str(build_id), "path": path}
        return await self.fetch(await self._ask(node, "symbols", about, build_id), folder)

    async def lend_kallsyms(self, node: str, kernel: BuildId | None, folder: Path) -> Lent:
        """Has `node` lend its kernel's names; `kernel` is its build, None if any will do. Raises SymbolFileError."""
        return await self.fetch(await self._ask(node, "kallsyms", {}, kernel), folder)

    async def fetch(self, key: str, folder: Path) -> Lent:
        """Fetches and unpacks one object into `folder`. Raises SymbolFileError."""
        store = await self.open()
        packed, file = folder / "packed", folder / "lent"
        with asking(f"failed to fetch the object `{key}`"):
            async with asyncio.timeout(FETCH_SECONDS):
                info = await store.get_info(key)
                if (info.size or 0) > MAX_PACKED or info.is_link():
                    raise SymbolFileError(Fault.TOO_LARGE, f"the object `{key}` has {info.size:,} bytes")
                with packed.open("wb") as out:
                    await _moving(store.get(key, writeinto=out), out)
        await asyncio.to_thread(unpack, packed, file, self.max_bytes)
        packed.unlink()
        headers = info.headers or {}
        return Lent(key, file, str(headers.get("path", "")), str(headers.get("node", "")))

    async def share(self, file: Path, build_id: BuildId, *, path: str) -> str:
        """Puts an uploaded file where every aggregator gets it; returns its key. Raises SymbolFileError."""
        store = await self.open()
        packed = file.with_name("shared")
        await asyncio.to_thread(pack, file, packed)
        key = f"{build_id}.{(await asyncio.to_thread(sha256_of, file))[:16]}"
        headers = {"kind": "elf", "build_id": str(build_id), "node": "", "path": path, "source": "upload"}
        headers["raw_size"] = str(file.stat().st_size)
        try:
            with asking("failed to share the upload"), packed.open("rb") as data:
                meta = ObjectMeta(name=key, headers=headers, options=ObjectMetaOptions(max_chunk_size=_CHUNK))
                async with asyncio.timeout(FETCH_SECONDS):
                    await store.put(key, data, meta=meta)
        finally:
            packed.unlink(missing_ok=True)
        return key

    async def keys(self) -> AsyncIterator[str]:
        """Keys of the objects there are, then of each that is added, for as long as one listens."""
        store = await self.open()
        with asking("failed to follow the symbol store"):
            watcher = await store.watch(ignore_deletes=True, include_history=False)
        try:
            while True:
                info: Any = await watcher._updates.get()  # its own iterator ends at the first pause
                name = getattr(info, "name", None)
                if name and _KEY.fullmatch(name):
                    yield name
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]

    async def _ask(self, node: str, verb: str, about: dict[str, str], build_id: BuildId | None) -> str:
        """The key of the object that a node's reply names. Raises SymbolFileError."""
        self._check_connected()
        with asking(f"node `{node}` did not lend"):
            message = await self.client.request(
                subjects.request(node, verb), json.dumps(about).encode(), timeout=REPLY_SECONDS
            )
        try:
            reply: Any = json.loads(message.data)
        except ValueError as error:
            raise SymbolFileError(Fault.REFUSED, f"node `{node}` sent a reply that is no JSON") from error
        if not isinstance(reply, dict) or reply.get("ok") is not True:
            reason = str(reply.get("reason", "no reason"))[:100] if isinstance(reply, dict) else "no reason"
            raise SymbolFileError(Fault.NOT_FOUND, f"node `{node}` does not lend: {reason}")
        key = str(reply.get("key", ""))
        if not _KEY.fullmatch(key) or (build_id is not None and key.partition(".")[0] != str(build_id)):
            raise SymbolFileError(Fault.REFUSED, f"node `{node}` named the object `{key[:160]}` for build {build_id}")
        return key

    async def open(self) -> ObjectStore:
        """The object store, made if absent. Raises SymbolFileError."""
        self._check_connected()
        if self._store is None:
            jetstream = self.client.jetstream()
            with asking("failed to open the symbol store"):
                try:
                    self._store = await jetstream.object_store(subjects.SYMBOL_STORE)
                except (nats.js.errors.BucketNotFoundError, nats.js.errors.NotFoundError):
                    self._store = await _create(jetstream)
        return self._store

    def _check_connected(self) -> None:
        # What is asked of a client that was never connected is lost, and so are the answers to all later questions.
        if not self.client.is_connected:
            raise SymbolFileError(Fault.UNREACHABLE, "no connection to NATS")


@contextlib.contextmanager
def asking(failed: str) -> Iterator[None]:
    """What the bus's client raises, as SymbolFileError."""
    try:
        yield
    except (nats.errors.Error, TimeoutError, OSError) as error:
        _end_if_cancelled()
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        fault = Fault.DISK if full else Fault.UNREACHABLE
        raise SymbolFileError(fault, f"{failed}: {str(error) or 'no answer'}") from error
    _end_if_cancelled()


async def _moving(getting: Coroutine[Any, Any, object], out: BufferedWriter) -> None:
    """Waits for `getting`, which writes to `out`. Raises TimeoutError when it writes nothing for STALL_SECONDS."""
    task = asyncio.create_task(getting, name="fetch an object")
    written = -1
    try:
        while not task.done() and out.tell() != written:
            written = out.tell()
            await asyncio.wait({task}, timeout=STALL_SECONDS)
        if not task.done():
            raise TimeoutError(f"nothing came for {STALL_SECONDS:g} s")
        await task
    finally:
        task.cancel()
        await asyncio.wait({task})


def _end_if_cancelled() -> None:
    # The client waits with asyncio.wait_for, which until Python 3.12 forgets a cancellation that comes together with
    # the answer (github.com/python/cpython/issues/86296): a task that is to end would go on for ever.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _create(jetstream: JetStreamContext) -> ObjectStore:
    """The object store, made here or by whoever was faster. Raises nats.errors.Error."""
    config = ObjectStoreConfig(max_bytes=subjects.SYMBOL_STORE_BYTES, storage=StorageType.FILE)
    try:
        return await jetstream.create_object_store(subjects.SYMBOL_STORE, config)
    except nats.js.errors.BadRequestError:
        return await jetstream.object_store(subjects.SYMBOL_STORE)


def unpack(packed: Path, target: Path, limit: int) -> None:
    """Unpacks a zstd file, at most `limit` bytes. Raises SymbolFileError."""
    written = 0
    try:
        with packed.open("rb") as source, target.open("wb") as out:
            if _ends_early(source):
                raise SymbolFileError(Fault.COMPRESSION, "a lent file's zstd stream ends early")
            source.seek(0)
            with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(source) as reader:
                while chunk := reader.read(1 << 20):
                    written += len(chunk)
                    if written > limit:
                        raise SymbolFileError(Fault.TOO_LARGE, f"a lent file unpacks to more than {limit:,} bytes")
                    # Mostly zeroes, where code was: holes take no disk.
                    if chunk.count(0) == len(chunk):
                        out.seek(len(chunk), 1)
                    else:
                        out.write(chunk)
            out.truncate(written)
    except zstandard.ZstdError as error:
        raise SymbolFileError(Fault.COMPRESSION, f"a lent file is no zstd stream: {error}") from error


def _ends_early(source: BinaryIO) -> bool:
    """Whether a zstd frame lacks blocks or its checksum. Raises zstandard.ZstdError if none begins here.

    The library's readers take the end of the input for the end of the frame. Blocks are those of RFC 8878, 3.1.1.2.
    """
    head = source.read(18)
    at = zstandard.frame_header_size(head)
    size = source.seek(0, os.SEEK_END)
    last = False
    while not last:
        source.seek(at)
        header = int.from_bytes(source.read(3), "little")
        last, repeated = bool(header & 1), header >> 1 & 3 == 1
        at += 3 + (1 if repeated else header >> 3)
        if at > size:
            return True
    return at + (4 if zstandard.get_frame_parameters(head).has_checksum else 0) > size


def pack(source: Path, target: Path) -> None:
    """Packs a file with zstd."""
    with source.open("rb") as read, target.open("wb") as write:
        zstandard.ZstdCompressor(level=3).copy_stream(read, write)
