"""A node lends what it profiled, to whoever asks on its subject, and says that it is there."""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
import zstandard
from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError

from agent.builds import Builds
from agent.bus import Bus, BusConfig, ensure_bus
from agent.kernel import Kernel
from agent.node import NodeService
from fleetflame import subjects
from tests.support.nats import NatsServer

pytestmark = pytest.mark.nats
NODE = "web-1.example.org"
EXECUTABLE = Path(sys.executable).resolve()
KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff81000040 T do_one_initcall
ffffffff81002000 T _etext
ffffffffc0000010 t nft_do_chain\t[nf_tables]
"""


@dataclass
class Fleet:
    """One node's service, and somebody else on its bus."""

    client: Client
    builds: Builds

    async def ask(self, verb: str, payload: bytes) -> dict[str, Any]:
        message = await self.client.request(subjects.request(NODE, verb), payload, timeout=30)
        reply = json.loads(message.data)
        assert isinstance(reply, dict)
        return reply

    async def ask_symbols(self, build_id: object, path: object = str(EXECUTABLE)) -> dict[str, Any]:
        return await self.ask("symbols", json.dumps({"build_id": build_id, "path": path}).encode())


@contextlib.asynccontextmanager
async def serving(url: str, client: Client, folder: Path) -> AsyncIterator[Fleet]:
    """The node's service on the bus at `url`, with a kernel of our own making."""
    (folder / "proc").mkdir()
    (folder / "proc" / "kallsyms").write_text(KALLSYMS)
    bus = Bus(BusConfig(servers=(url,), node=NODE))
    await bus.start()
    await ensure_bus(bus.jetstream)
    builds = Builds()
    kernel = Kernel(proc=folder / "proc", sys=folder)
    service = NodeService(bus, builds, kernel, about=lambda: {"frequency": 19}, clock_ns=lambda: 1234)
    running = asyncio.create_task(service.run())
    await ready(client)
    yield Fleet(client, builds)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await bus.close()


@pytest.fixture
async def fleet(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    client = await nats.connect(nats_server.url)
    async with serving(nats_server.url, client, tmp_path) as fleet:
        yield fleet
    await client.close()


async def ready(client: Client) -> None:
    while True:
        try:
            await client.request(subjects.request(NODE, "symbols"), b"?", timeout=10)
        except nats.errors.NoRespondersError:
            await asyncio.sleep(0.01)
        else:
            return


def build_of(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        return str(Builds().examine(fd).build_id)
    finally:
        os.close(fd)


async def test_a_file_is_lent_under_its_build_and_content(fleet: Fleet) -> None:
    """The object has the file's length and identity; its key ends in the hash of what it unpacks to."""
    build_id = build_of(EXECUTABLE)
    reply = await fleet.ask_symbols(build_id)
    assert reply["ok"] is True
    store = await fleet.client.jetstream().object_store(subjects.SYMBOL_STORE)
    found = await store.get(reply["key"])
    assert found.data is not None
    assert len(found.data) == reply["size"] == found.info.size
    raw = zstandard.ZstdDecompressor().decompress(found.data)
    assert reply["key"] == f"{build_id}.{hashlib.sha256(raw).hexdigest()[:16]}"
    assert len(raw) == EXECUTABLE.stat().st_size
    assert found.info.headers == {
        "kind": "elf",
        "build_id": build_id,
        "path": str(EXECUTABLE),
        "node": NODE,
        "raw_size": str(len(raw)),
    }


async def test_what_the_store_has_is_not_uploaded_again(fleet: Fleet) -> None:
    """The second answer is the first one's, and the object is still the first one."""
    build_id = build_of(EXECUTABLE)
    first = await fleet.ask_symbols(build_id)
    store = await fleet.client.jetstream().object_store(subjects.SYMBOL_STORE)
    before = await store.get_info(first["key"])
    assert await fleet.ask_symbols(build_id) == first
    assert (await store.get_info(first["key"])).nuid == before.nuid


async def test_only_the_build_that_was_asked_for_is_lent(fleet: Fleet) -> None:
    """A path is no way to other files: what lies there must have the build ID."""
    other = "00" * 20
    assert await fleet.ask_symbols(other) == {"ok": False, "reason": "other_build"}
    assert await fleet.ask_symbols(other, "/nonexistent") == {"ok": False, "reason": "unknown_build"}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 50_000,
        b'{"build_id": 7}',
        b'{"build_id": "xyz", "path": "/bin/a"}',
        b'{"build_id": "../../etc", "path": ""}',
        b'{"build_id": "00", "path": 7}',
        b'{"build_id": "00", "path": "/a\\u0000b"}',
        json.dumps({"build_id": "00", "path": "x" * 5000}).encode(),
    ],
)
async def test_a_malformed_request_is_refused_and_the_next_one_answered(fleet: Fleet, payload: bytes) -> None:
    """Whatever is sent, the service lives on."""
    assert await fleet.ask("symbols", payload) == {"ok": False, "reason": "malformed_request"}
    assert (await fleet.ask_symbols("00", "/nonexistent"))["reason"] == "unknown_build"


async def test_the_kernels_symbols_are_lent_anew_each_time(fleet: Fleet) -> None:
    """One object per kernel build; asking again replaces it."""
    reply = await fleet.ask("kallsyms", b"{}")
    assert reply["ok"] is True
    assert reply["key"].endswith(".kallsyms")
    store = await fleet.client.jetstream().object_store(subjects.SYMBOL_STORE)
    first = await store.get(reply["key"])
    assert first.data is not None
    with zstandard.ZstdDecompressor().stream_reader(first.data) as reader:
        assert b"40 T do_one_initcall\n" in reader.read()
    assert (first.info.headers or {})["kind"] == "kallsyms"
    assert await fleet.ask("kallsyms", b"") == reply
    assert (await store.get_info(reply["key"])).nuid != first.info.nuid


PERMISSIONS = """
accounts { A {
  jetstream: enabled
  users: [
    { user: admin, password: admin }
    { user: node, password: node, permissions: {
      publish: [
        "ff.v1.batch.TOKEN", "$KV.ff_nodes.TOKEN", "$O.ff_symbols.>", "$JS.API.STREAM.INFO.*",
        "$JS.API.STREAM.MSG.GET.OBJ_ff_symbols", "$JS.API.STREAM.PURGE.OBJ_ff_symbols"
      ]
      subscribe: ["_INBOX_TOKEN.>", "ff.v1.node.TOKEN.*"]
      allow_responses: true
    } }
  ]
} }
"""


async def test_the_documented_rights_of_a_node_are_enough(
    nats_servers: Callable[[str], NatsServer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It lends, replaces what it lent, and says that it is there; the server refuses nothing that it does."""
    server = nats_servers(PERMISSIONS.replace("TOKEN", subjects.token(NODE)))
    server.start()
    admin = await nats.connect(server.url.replace("://", "://admin:admin@"))
    await ensure_bus(admin.jetstream())
    async with serving(server.url.replace("://", "://node:node@"), admin, tmp_path) as fleet:
        assert (await fleet.ask_symbols(build_of(EXECUTABLE)))["ok"] is True
        assert (await fleet.ask("kallsyms", b""))["ok"] is True
        assert (await fleet.ask("kallsyms", b""))["ok"] is True
        await find_entry(admin)
    await admin.close()
    assert "refuses" not in caplog.text


async def test_a_node_says_that_it_is_there(fleet: Fleet) -> None:
    """Its entry has its name, the time, and what the agent says of itself."""
    assert await find_entry(fleet.client) == {"frequency": 19, "node": NODE, "seen_ns": 1234}


async def find_entry(client: Client) -> Any:
    bucket = await client.jetstream().key_value(subjects.NODE_BUCKET)
    while True:
        with contextlib.suppress(KeyNotFoundError):
            entry = await bucket.get(subjects.token(NODE))
            assert entry.value is not None
            return json.loads(entry.value)
        await asyncio.sleep(0.01)
