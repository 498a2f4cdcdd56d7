"""Symbol files that nodes should not have lent and nobody should have uploaded: refused by reason, over a real bus.

The aggregator is the one that all bad input goes to; that it still is there is part of every test.
"""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from urllib.parse import urlsplit

import nats
import pytest
import zstandard
from nats.aio.msg import Msg
from nats.js.api import ObjectMeta

from aggregator.symbols.faults import Fault
from fleetflame import subjects, wire
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind
from tests.aggregator.storage.fleet import MAPPINGS
from tests.e2e.test_bad_input import GOOD, metric, publish
from tests.support.elf import ElfWriter, Sec, Seg, Sym, compressed, simple_elf
from tests.support.nats import NatsServer
from tests.support.services import PATIENCE_S, Aggregator, until

pytestmark = [pytest.mark.e2e, pytest.mark.nats, pytest.mark.timeout(180)]

NODE = "lender.example"
SYMBOLS = [Sym(name="work", value=0x1000, size=64)]


def build_of(name: str) -> BuildId:
    """A build ID of its own for each case."""
    return BuildId(blake2b(name.encode(), digest_size=20).digest())


def elf(name: str, *sections: Sec, **header: int) -> bytes:
    """A file of that case's build that may lie in its header or in sections."""
    segments = [Seg(offset=0x1000, vaddr=0x1000, filesz=0x1000)]
    writer = ElfWriter(segments=segments, header=header).text().note(build_of(name).raw).symbols(SYMBOLS)
    for section in sections:
        writer = writer.add(section)
    return bytes(writer)


def sound(name: str) -> bytes:
    """A file of that case's build with nothing wrong."""
    return simple_elf(SYMBOLS, build_id=build_of(name).raw)


def bomb(size: int) -> bytes:
    """A zstd stream of `size` zeroes, a ten-thousandth as large."""
    packer, piece = zstandard.ZstdCompressor(level=1).compressobj(), bytes(1 << 24)
    return b"".join([*(packer.compress(piece) for _ in range(size >> 24)), packer.flush()])


def lent() -> dict[str, tuple[bytes, Fault]]:
    """What a node puts into the object store, packed, and what is to become of it."""
    pack = zstandard.compress
    inflating = Sec(name=".debug_info", data=compressed(b"", 1 << 50), flags=0x800)
    return {
        "nothing": (b"", Fault.COMPRESSION),
        "noise": (b"not zstd at all", Fault.COMPRESSION),
        "cut-stream": (pack(sound("cut-stream"))[:-7], Fault.COMPRESSION),
        "bomb": (bomb(2304 << 20), Fault.TOO_LARGE),
        "script": (pack(b"#!/bin/sh\n"), Fault.NOT_ELF),
        "cut-header": (pack(sound("cut-header")[:40]), Fault.TRUNCATED),
        "cut-file": (pack(sound("cut-file")[:-300]), Fault.TRUNCATED),
        "sections": (pack(elf("sections", shnum=0xFFFE)), Fault.TRUNCATED),
        "no-entries": (pack(elf("no-entries", shentsize=0)), Fault.HEADERS),
        "huge-section": (pack(elf("huge-section", Sec(name=".x", size=1 << 63))), Fault.TRUNCATED),
        "inflating": (pack(elf("inflating", inflating)), Fault.INFLATES),
        "of-another": (pack(sound("something else")), Fault.WRONG_BUILD_ID),
    }


class Lender:
    """A node that lends whatever the case of a build says. A context manager."""

    def __init__(self, url: str, files: dict[str, bytes]) -> None:
        self._url = url
        self._files = {str(build_of(name)): data for name, data in files.items()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> "Lender":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._client = await nats.connect(self._url)
        await self._client.subscribe(subjects.request(NODE, "*"), cb=self._lend)

    async def _lend(self, message: Msg) -> None:
        build_id = json.loads(message.data).get("build_id")
        if build_id not in self._files:
            await message.respond(json.dumps({"ok": False, "reason": "not_seen"}).encode())
            return
        store = await self._client.jetstream().object_store(subjects.SYMBOL_STORE)
        key = f"{build_id}.{'b' * 16}"
        meta = ObjectMeta(name=key, headers={"node": NODE, "path": "/opt/app", "kind": "elf"})
        await store.put(key, self._files[build_id], meta=meta)
        await message.respond(json.dumps({"ok": True, "key": key, "size": 1}).encode())


def sampled(*names: str, sequence: int) -> bytes:
    """A batch whose mappings are the builds of these cases."""
    files = tuple(Mapping(MappingKind.FILE, build_of(name), f"/nowhere/{name}") for name in names)
    ledger = replace(GOOD.ledger, taken_in_epoch=5 * sequence)
    return wire.encode(replace(GOOD, node=NODE, sequence=sequence, mappings=(*MAPPINGS, *files), ledger=ledger))


def refusals(aggregator: Aggregator) -> dict[str, str]:
    """Build ID -> reason, of the builds without symbols that were looked for."""
    rows = aggregator.get_json("/api/v1/symbols?missing=true")["missing"]
    return {row["build_id"]: row["reason"] for row in rows if row["path"].startswith("/nowhere/")}


def differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    """What a failure shows: the cases that have another reason, or none."""
    names = {str(build_of(name)): name for name in lent()}
    other = [build for build in wanted if found.get(build) != wanted[build]]
    return "\n".join(f"{names[build]}: {found.get(build)} instead of {wanted[build]}" for build in other)


def test_a_node_that_lends_nonsense_is_refused_by_reason(bus: NatsServer, aggregator: Aggregator) -> None:
    """In the list of builds without symbols, on /metrics and, once for each build, as a warning; others are named."""
    cases = lent()
    files = {name: data for name, (data, _) in cases.items()} | {"whole": zstandard.compress(sound("whole"))}
    counts = {fault: count_of(aggregator, fault) for _, fault in cases.values()}
    wanted = {str(build_of(name)): fault.value for name, (_, fault) in cases.items()}
    subject, pid = subjects.batch(NODE), aggregator.pid
    with Lender(bus.url, files):
        publish(bus.url, (subject, sampled(*cases, sequence=1)))
        until(lambda: refusals(aggregator) == wanted, told=lambda: differences(refusals(aggregator), wanted))
        publish(bus.url, (subject, sampled("whole", sequence=2)))
        aggregator.until(lambda: str(build_of("whole")) in aggregator.run("symbols", "list").stdout)
    for fault, before in counts.items():
        assert count_of(aggregator, fault) >= before + sum(each is fault for _, each in cases.values())
    warned = [
        (entry["of"], entry["reason"])
        for entry in aggregator.messages("warning")
        if entry["message"] == "refused a symbol file" and entry["of"] in wanted
    ]
    assert sorted(warned) == sorted(wanted.items())
    assert (aggregator.pid, aggregator.code, aggregator.ready()) == (pid, None, (True, ""))


def count_of(aggregator: Aggregator, fault: Fault) -> float:
    """How many files were refused for that reason."""
    return metric(aggregator, f'fleetflame_aggregator_symbol_files_total{{outcome="{fault.value}"}}')


@pytest.fixture
def raw(aggregator: Aggregator) -> Iterator[socket.socket]:
    """A connection to the aggregator, to say what no client would."""
    where = urlsplit(aggregator.url)
    with socket.create_connection((where.hostname, where.port), PATIENCE_S) as connection:
        yield connection


@pytest.mark.parametrize("path", ["symbols?force=true", "import"])
def test_an_upload_that_ends_early_leaves_nothing(aggregator: Aggregator, raw: socket.socket, path: str) -> None:
    """The connection breaks after the first bytes of what was to be a gigabyte."""
    kept = aggregator.get_json("/api/v1/symbols")
    head = (
        f"POST /api/v1/{path} HTTP/1.1\r\nHost: {urlsplit(aggregator.url).netloc}\r\nContent-Length: {1 << 28}\r\n\r\n"
    )
    raw.sendall(head.encode() + sound("early"))
    raw.close()
    assert aggregator.get_json("/api/v1/symbols") == kept
    assert aggregator.ready() == (True, "")
    assert "Traceback" not in aggregator.text


def test_a_body_that_says_it_is_larger_than_allowed_is_refused_unread(
    aggregator: Aggregator, raw: socket.socket
) -> None:
    """With the limit, before a byte of it was sent."""
    head = (
        f"POST /api/v1/symbols HTTP/1.1\r\nHost: {urlsplit(aggregator.url).netloc}\r\nContent-Length: {1 << 60}\r\n\r\n"
    )
    raw.sendall(head.encode())
    answer = raw.recv(1 << 16).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert re.search(r'"code": ?"too_large"', answer) or "too_large" in raw.recv(1 << 16).decode()
    assert aggregator.ready() == (True, "")
