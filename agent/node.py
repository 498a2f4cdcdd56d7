"""What a node does on the bus besides sending batches: it lends symbols when asked, and says that it is there.

    request  ff.v1.node.TOKEN.symbols    {"build_id": HEX, "path": PATH}  ->  {"ok": true, "key": K, "size": N}
    request  ff.v1.node.TOKEN.kallsyms   {}                               ->  or {"ok": false, "reason": R}
    entry    ff_nodes, key TOKEN         {"node": ..., "seen_ns": ..., ...}, every HEARTBEAT_S

The reply names an object of the store `ff_symbols`, put there before. Requests of one kind are answered one after the
other: a node lends one file at a time, whoever asks, and only files that it has profiled.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from io import BufferedRandom
from typing import Any, BinaryIO

import zstandard
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import ObjectMeta
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

from agent import metrics
from agent.builds import Builds, LendMiss
from agent.bus import Bus
from agent.kernel import Kernel
from agent.lend import LendRefusal, Lent, lend_elf, lend_kallsyms
from fleetflame import subjects
from fleetflame.buildid import BuildId
from fleetflame.errors import cause_of

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Requests of one kind that wait for their turn. An aggregator that gets no answer asks again later."""
MAX_REQUEST_BYTES = 64 * 1024
MAX_PATH = 4096
_CHUNK = 1 << 17

MALFORMED = "malformed_request"
NO_ROOM = "no_room"
NO_STORE = "no_object_store"


Reply = dict[str, object]


class NodeService:
    """Answers requests and sends heartbeats while `run` runs."""

    def __init__(
        self,
        bus: Bus,
        builds: Builds,
        kernel: Kernel,
        *,
        about: Callable[[], Mapping[str, object]],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`about` says what an entry has besides the node's name and the time: version, frequency, and so on."""
        self._bus = bus
        self._node = bus.config.node
        self._builds = builds
        self._kernel = kernel
        self._about = about
        self._clock_ns = clock_ns

    async def run(self) -> None:
        """Until it is cancelled. A bus that is away or refuses any of this is logged and costs nothing but this."""
        await self._bus.wait_connected()
        verbs = {"symbols": self._lend_file, "kallsyms": self._lend_kernel}
        for verb, lend in verbs.items():
            await self._bus.client.subscribe(
                subjects.request(self._node, verb), cb=self._answering(verb, lend), pending_msgs_limit=MAX_WAITING
            )
        while True:
            await self._bus.wait_connected()
            with contextlib.suppress(NatsError, TimeoutError):
                await self._beat()
            await asyncio.sleep(subjects.HEARTBEAT_S)

    async def _beat(self) -> None:
        # Written as a message and not through the library's bucket, which wants to look at the stream first: a node's
        # user may be allowed this one subject only.
        entry = {**self._about(), "node": self._node, "seen_ns": self._clock_ns()}
        subject = f"$KV.{subjects.NODE_BUCKET}.{subjects.token(self._node)}"
        await self._bus.jetstream.publish(subject, json.dumps(entry).encode())

    def _answering(
        self, verb: str, lend: Callable[[Reply], Coroutine[Any, Any, Reply]]
    ) -> Callable[[Msg], Coroutine[Any, Any, None]]:
        async def answer(message: Msg) -> None:
            try:
                request = _request(message.data)
                reply = _refused(MALFORMED) if request is None else await lend(request)
            except (NatsError, TimeoutError) as error:
                reply = _refused(NO_STORE)
                log.warning("failed to upload symbols", extra={"verb": verb, "cause": str(error) or "no answer"})
            except OSError as error:
                reply = _refused(NO_ROOM)
                log.warning("failed to copy symbols", extra={"verb": verb, "cause": cause_of(error)})
            metrics.REQUESTS.labels(verb, str(reply.get("reason", "ok"))).inc()
            with contextlib.suppress(NatsError):
                await message.respond(json.dumps(reply).encode())

        return answer

    async def _lend_file(self, request: Reply) -> Reply:
        build_id, path = _build_id(request.get("build_id")), request.get("path", "")
        if build_id is None or not isinstance(path, str) or "\0" in path or len(path) > MAX_PATH:
            return _refused(MALFORMED)
        with tempfile.TemporaryFile() as sink:
            lent = await asyncio.to_thread(self._copy_file, build_id, path, sink)
            if not isinstance(lent, Lent):
                return _refused(lent.value)
            key = f"{build_id}.{(await asyncio.to_thread(_digest, sink))[:16]}"
            about = {"kind": "elf", "build_id": str(build_id), "path": path, "raw_size": str(lent.raw_size)}
            return await self._upload(key, sink, about, replace=False)

    async def _lend_kernel(self, _request: Reply) -> Reply:
        with tempfile.TemporaryFile() as sink:
            kernel = await asyncio.to_thread(self._kernel.snapshot)
            lent = await asyncio.to_thread(lend_kallsyms, kernel, sink, proc=self._kernel.proc)
            if not isinstance(lent, Lent):
                return _refused(lent.value)
            about = {"kind": "kallsyms", "build_id": str(kernel.build_id), "path": "", "raw_size": str(lent.raw_size)}
            # Other modules than the last time, perhaps: the newer one counts.
            return await self._upload(f"{kernel.build_id}.kallsyms", sink, about, replace=True)

    def _copy_file(self, build_id: BuildId, path: str, sink: BinaryIO) -> Lent | LendRefusal | LendMiss:
        fd = self._builds.open_for_lending(build_id, path)
        if isinstance(fd, LendMiss):
            return fd
        try:
            return lend_elf(fd, sink)
        finally:
            os.close(fd)

    async def _upload(self, key: str, sink: BufferedRandom, about: dict[str, str], *, replace: bool) -> Reply:
        size = sink.seek(0, os.SEEK_END)
        sink.seek(0)
        store = await self._bus.jetstream.object_store(subjects.SYMBOL_STORE)
        if not replace and await _is_there(store, key):
            return {"ok": True, "key": key, "size": size}
        await store.put(key, sink, meta=ObjectMeta(name=key, headers=about | {"node": self._node}))
        metrics.LENT_BYTES.inc(size)
        log.info("lent symbols", extra={"key": key, "bytes": size})
        return {"ok": True, "key": key, "size": size}


async def _is_there(store: ObjectStore, key: str) -> bool:
    try:
        await store.get_info(key)
    except NotFoundError:
        return False
    return True


def _refused(reason: str) -> Reply:
    return {"ok": False, "reason": reason}


def _request(data: bytes) -> Reply | None:
    """The JSON object that `data` is, an empty one for no data; None if it is anything else."""
    try:
        request = json.loads(data[:MAX_REQUEST_BYTES] or b"{}")
    except (ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) else None


def _build_id(text: object) -> BuildId | None:
    try:
        return BuildId.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _digest(packed: BinaryIO) -> str:
    """SHA-256 of what the zstd file `packed` holds, in hex."""
    packed.seek(0)
    digest = hashlib.sha256()
    with zstandard.ZstdDecompressor().stream_reader(packed, closefd=False) as reader:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
