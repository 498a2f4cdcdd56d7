"""What nodes say of themselves: heard over a real bus, and not believed beyond reason."""

import asyncio
import json
from contextlib import suppress

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from aggregator import heartbeats
from aggregator.heartbeats import Heartbeats, NodeEntry, read_entry
from fleetflame import subjects
from tests.support.nats import NatsServer

PATIENCE_S = 20
SAID = {"node": "web-1.example", "seen_ns": 1, "version": "1.2", "kernel": "6.1.0-9", "machine": "x86_64", "cpus": 8}
ENTRY = NodeEntry(version="1.2", kernel="6.1.0-9", machine="x86_64", cpus=8)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.nats
async def test_the_last_entry_of_each_node_is_known(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the node of the subject, whatever it says; of those heard of last, as many as there is room for."""
    monkeypatch.setattr(heartbeats, "MAX_NODES", 2)
    client = await nats.connect(nats_server.url)
    heard = Heartbeats(client)
    running = asyncio.create_task(heard.run())
    for node, said in (
        ("web-1.example", SAID | {"version": "1.1"}),
        ("web-2.example", SAID),
        ("web-1.example", SAID | {"node": "web-9"}),
        ("web-3.example", SAID | {"cpus": 2}),
    ):
        wanted = NodeEntry(version=said["version"], kernel="6.1.0-9", machine="x86_64", cpus=said["cpus"])  # type: ignore[arg-type]
        async with asyncio.timeout(PATIENCE_S):
            while heard.entry(node) != wanted:
                await client.publish(f"$KV.{subjects.NODE_BUCKET}.{subjects.token(node)}", json.dumps(said).encode())
                await asyncio.sleep(0.02)
    assert heard.entry("web-1.example") == ENTRY
    assert heard.entry("web-2.example") == heard.entry("web-9") == NodeEntry()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await client.close()


async def test_a_bus_that_is_not_there_is_waited_for() -> None:
    """Nothing is asked of a client that was never connected."""
    running = asyncio.create_task(Heartbeats(Client()).run())
    await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(
    ("data", "entry"),
    [
        (json.dumps(SAID).encode(), ENTRY),
        (b"{}", NodeEntry()),
        (b'{"version": 1, "kernel": ["x"], "machine": null, "cpus": "8"}', NodeEntry()),
        (b'{"cpus": true}', NodeEntry()),
        (b'{"cpus": -1}', NodeEntry()),
        (b'{"cpus": 1000000000000}', NodeEntry()),
        (b'{"kernel": "6.1\\u001b[31m", "version": "1"}', NodeEntry(version="1")),
        (b'{"kernel": "' + b"6" * 101 + b'"}', NodeEntry()),
        (b"", None),
        (b"[]", None),
        (b"\xff", None),
        (b"[" * 4000, None),
        (b'{"kernel": "' + b"6" * 4096 + b'"}', None),
    ],
)
def test_an_entry_is_read_as_far_as_it_makes_sense(data: bytes, entry: NodeEntry | None) -> None:
    """Of the right type, printable, of bounded length."""
    assert read_entry(data) == entry


@given(json_values)
def test_any_json_is_read_or_none(value: object) -> None:
    """Whoever may write there cannot end an aggregator."""
    assert isinstance(read_entry(json.dumps(value).encode()), NodeEntry | None)
