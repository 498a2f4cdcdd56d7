"""Symbol files over a real bus: nodes that lend, uploads that every aggregator gets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nats
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ObjectMeta

from aggregator.symbols import lending
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.lending import Lending, asking, pack, unpack
from aggregator.symbols.records import Source
from aggregator.symbols.service import SymbolConfig, SymbolService
from fleetflame import subjects
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind, Segment
from tests.support.elf import BUILD_ID, Sym, simple_elf
from tests.support.nats import NatsServer

pytestmark = pytest.mark.nats

BUILD = BuildId(BUILD_ID)
KERNEL = BuildId(b"\x0a" * 20)
FILE = Mapping(MappingKind.FILE, BUILD, "/opt/app", (Segment(0x1000, 0x1000, 0x1000),))
KALLSYMS = b"0 T _stext\n40 t helper\n10 t ext4_init\t[ext4]\n"


@dataclass
class Node:
    """A node that answers requests: `replies` by verb, else it lends `data`."""

    client: Client
    name: str = "web-1"
    data: bytes = b""
    replies: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    async def start(self) -> None:
        """Subscribes to the node's requests."""
        await self.client.subscribe(subjects.request(self.name, "*"), cb=self._answer)

    async def _answer(self, message: Msg) -> None:
        verb = message.subject.rsplit(".", 1)[-1]
        about = json.loads(message.data)
        self.asked.append((verb, about))
        reply = self.replies.get(verb)
        if reply is None:
            build_id = KERNEL if verb == "kallsyms" else BuildId.parse(about["build_id"])
            reply = {"ok": True, "key": await self._put(verb, build_id), "size": 1}
        await message.respond(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

    async def _put(self, verb: str, build_id: BuildId) -> str:
        store = await self.client.jetstream().object_store(subjects.SYMBOL_STORE)
        kernel = verb == "kallsyms"
        key = f"{build_id}.{'kallsyms' if kernel else 'a' * 16}"
        headers = {"node": self.name, "path": "/opt/app", "kind": "kallsyms" if kernel else "elf"}
        data = KALLSYMS if kernel else self.data
        await store.put(key, zstandard.compress(data), meta=ObjectMeta(name=key, headers=headers))
        return key


@asynccontextmanager
async def bus(server: NatsServer) -> AsyncIterator[Client]:
    """A client, and the object store there."""
    client = await nats.connect(server.url)
    try:
        await Lending(client).open()
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def service(folder: Path, client: Client) -> AsyncIterator[SymbolService]:
    """A running service whose only source is the bus."""
    config = SymbolConfig(folder=folder, debug_dirs=(), local_files=False)
    made = SymbolService(config, client=client)
    async with made.running():
        yield made


def name_at(made: SymbolService, mapping: Mapping, address: int) -> str:
    """The name at one address, "" for none."""
    found = made.lookup(mapping, np.array([address], np.uint64))
    return found.strings[found.function[0]] if len(found.function) else ""


async def until(condition: Any) -> None:
    """Returns when the condition holds; fails after ten seconds."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to pass")


async def test_a_node_lends_what_it_runs(nats_server: NatsServer, tmp_path: Path) -> None:
    """Asked once for all batches that carry the build, by ID and path; its name is of the record."""
    async with bus(nats_server) as client, service(tmp_path, client) as made:
        node = Node(client, data=simple_elf([Sym(name="f", value=0x1000, size=16)]))
        await node.start()
        for _ in range(5):
            made.want(FILE, "web-1")
        await made.fetcher.idle()
        made.want(FILE, "web-1")
        assert name_at(made, FILE, 0x1004) == "f"
        assert node.asked == [("symbols", {"build_id": str(BUILD), "path": "/opt/app"})]
        kept = made.list()[0].kept
        assert (kept.source, kept.where) == (Source.NODE, "web-1")


async def test_a_file_of_another_build_is_not_believed(nats_server: NatsServer, tmp_path: Path) -> None:
    """The node says it is the one; its note says it is not."""
    async with bus(nats_server) as client, service(tmp_path, client) as made:
        data = simple_elf([Sym(name="evil", value=0x1000, size=16)], build_id=b"\x09" * 20)
        await Node(client, data=data).start()
        made.want(FILE, "web-1")
        await made.fetcher.idle()
        assert made.list() == ()
        assert made.fetcher.attempts[BUILD].fault is Fault.WRONG_BUILD_ID


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ({"ok": False, "reason": "too_large"}, Fault.NOT_FOUND),
        (b"no json", Fault.REFUSED),
        ([], Fault.NOT_FOUND),
        ({"ok": True, "key": "../../etc/passwd"}, Fault.REFUSED),
        ({"ok": True, "key": f"{'09' * 20}.{'a' * 16}"}, Fault.REFUSED),
        ({"ok": True, "key": f"{BUILD}.{'b' * 16}"}, Fault.UNREACHABLE),
    ],
)
async def test_replies_are_not_believed(nats_server: NatsServer, tmp_path: Path, reply: object, fault: Fault) -> None:
    """A refusal, noise, an object of another build, an object that is not there."""
    async with bus(nats_server) as client:
        await Node(client, replies={"symbols": reply}).start()
        with pytest.raises(SymbolFileError) as caught:
            await Lending(client).lend("web-1", BUILD, "/opt/app", tmp_path)
        assert caught.value.fault is fault


async def test_a_node_that_is_not_there_is_asked_again_later(nats_server: NatsServer, tmp_path: Path) -> None:
    """No responder answers at once; another node that has the build is asked instead."""
    async with bus(nats_server) as client, service(tmp_path, client) as made:
        made.want(FILE, "gone")
        await made.fetcher.idle()
        assert made.fetcher.attempts[BUILD].fault is Fault.UNREACHABLE
        assert made.fetcher.sources.is_silent("gone")
        made.want(replace_path(FILE, "other"), "gone")
        await made.fetcher.idle()
        assert "a moment ago" in made.fetcher.attempts[BuildId(b"other")].detail
        await Node(client, name="web-2", data=simple_elf([Sym(name="f", value=0x1000, size=16)])).start()
        made.want(FILE, "web-2")
        await made.fetcher.idle()
        assert name_at(made, FILE, 0x1004) == "f"


async def test_a_kernel_and_its_modules_are_named_by_one_text(nats_server: NatsServer, tmp_path: Path) -> None:
    """Asked once for the kernel; a module's names come out of the same object."""
    kernel = Mapping(MappingKind.KERNEL, KERNEL, "[kernel]")
    module = Mapping(MappingKind.MODULE, BuildId(b"\x0b" * 20), "ext4")
    async with bus(nats_server) as client, service(tmp_path, client) as made:
        node = Node(client)
        await node.start()
        for mapping in (kernel, module):
            made.want(mapping, "web-1")
            await made.fetcher.idle()
        assert name_at(made, kernel, 0x44) == "helper"
        assert name_at(made, module, 0x14) == "ext4_init"
        assert node.asked == [("kallsyms", {})]
        made.want(replace_path(module, "xfs"), "web-1")
        await made.fetcher.idle()
        assert [missing.mapping.path for missing in made.missing()] == ["xfs"]


def replace_path(mapping: Mapping, path: str) -> Mapping:
    """The mapping of another module."""
    return Mapping(mapping.kind, BuildId(path.encode()), path)


async def test_an_upload_reaches_every_aggregator(nats_server: NatsServer, tmp_path: Path) -> None:
    """One that runs already, and one that starts later; the build must be one that it has seen."""
    upload = tmp_path / "app.debug"
    upload.write_bytes(simple_elf([Sym(name="f", value=0x1000, size=16)]))
    async with bus(nats_server) as client, service(tmp_path / "a", client) as first:
        async with bus(nats_server) as other, service(tmp_path / "b", other) as second:
            second.want(FILE, "")
            await second.fetcher.idle()
            assert name_at(second, FILE, 0x1004) == ""
            await first.upload(upload, name="app.debug", force=True)
            await until(lambda: name_at(second, FILE, 0x1004) == "f")
        async with service(tmp_path / "c", client) as third:
            await until(lambda: BUILD in third.fetcher.sources.shared)
            third.want(FILE, "")
            await third.fetcher.idle()
            assert name_at(third, FILE, 0x1004) == "f"
            assert third.list()[0].kept.source is Source.SHARED


async def test_an_object_without_its_pieces_is_not_waited_for(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that has more of them than it should: nothing is left behind, and the next object is fetched."""
    monkeypatch.setattr(lending, "STALL_SECONDS", 0.2)
    async with bus(nats_server) as client:
        fleet, jetstream = Lending(client), client.jetstream()
        store = await fleet.open()
        keys = [f"{BUILD}.{letter * 16}" for letter in "abc"]
        data = zstandard.compress(bytes(range(256)) * 10)
        empty, more, _ = [await store.put(key, data, meta=ObjectMeta(name=key)) for key in keys]
        await jetstream.purge_stream(
            f"OBJ_{subjects.SYMBOL_STORE}", subject=f"$O.{subjects.SYMBOL_STORE}.C.{empty.nuid}"
        )
        await jetstream.publish(f"$O.{subjects.SYMBOL_STORE}.C.{more.nuid}", b"more")
        for key, told in ((keys[0], "nothing came"), (keys[1], "Digest")):
            with pytest.raises(SymbolFileError, match=told):
                await fleet.fetch(key, tmp_path)
        assert (await fleet.fetch(keys[2], tmp_path)).file.read_bytes() == bytes(range(256)) * 10


async def test_lent_files_are_bounded(tmp_path: Path) -> None:
    """A stream that unpacks to more than the limit is cut off; what is no stream has a typed fault."""
    packed, out = tmp_path / "packed", tmp_path / "out"
    packed.write_bytes(zstandard.compress(bytes(1 << 20)))
    with pytest.raises(SymbolFileError) as caught:
        unpack(packed, out, limit=(1 << 20) - 1)
    assert caught.value.fault is Fault.TOO_LARGE
    packed.write_bytes(b"noise")
    with pytest.raises(SymbolFileError) as caught:
        unpack(packed, out, limit=100)
    assert caught.value.fault is Fault.COMPRESSION


@settings(max_examples=50)
@given(st.binary(max_size=5000), st.integers(0, 300_000), st.booleans(), st.data())
def test_a_stream_that_was_cut_anywhere_is_told(noise: bytes, zeroes: int, checksum: bool, data: st.DataObject) -> None:
    """Whatever its blocks are: half a list of a kernel's names must not be taken for all of it."""
    whole = zstandard.ZstdCompressor(write_checksum=checksum).compress(noise + bytes(zeroes) + noise)
    with TemporaryDirectory() as folder:
        packed, out = Path(folder) / "packed", Path(folder) / "out"
        packed.write_bytes(whole)
        unpack(packed, out, limit=1 << 20)
        assert out.read_bytes() == noise + bytes(zeroes) + noise
        packed.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(SymbolFileError) as caught:
            unpack(packed, out, limit=1 << 20)
        assert caught.value.fault is Fault.COMPRESSION


@pytest.mark.parametrize("data", [b"", b"x", bytes(3 << 20), b"x" + bytes(3 << 20) + b"y", bytes(5 << 20) + b"end"])
async def test_what_is_packed_comes_back(tmp_path: Path, data: bytes) -> None:
    """Holes of zeroes included, at any place."""
    source, packed, out = tmp_path / "source", tmp_path / "packed", tmp_path / "out"
    source.write_bytes(data)
    pack(source, packed)
    unpack(packed, out, limit=10 << 20)
    assert out.read_bytes() == data


@pytest.mark.parametrize("answer", [None, TimeoutError()])
async def test_a_cancellation_that_comes_with_the_answer_is_not_lost(answer: Exception | None) -> None:
    """Whichever the answer is: a task that is to end does not go on."""
    came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask() -> None:
        with asking("failed to ask"):
            await asyncio.wait_for(came, 10)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0.01)
    came.set_exception(answer) if answer else came.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
