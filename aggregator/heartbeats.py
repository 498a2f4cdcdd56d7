"""What nodes say of themselves on the bus: version, kernel, CPUs. For people; nothing depends on it.

Agents put an entry into the bucket `ff_nodes` every 20 s. It is heard as the message that it is, so that reading takes
no JetStream right and no request; an aggregator knows its nodes 20 s after its start. Nothing here is believed: an
entry belongs to the node that its subject names, and what is too long or of another type is left out.
"""

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from fleetflame import subjects

SUBJECT = f"$KV.{subjects.NODE_BUCKET}.*"
MAX_BYTES = 4096
MAX_TEXT = 100
MAX_NODES = 20_000
"""Those heard of last are kept, also when they are gone: 10 MB."""
MAX_CPUS = 1 << 16
_CONNECTED_POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry:
    """What one node said last; "" and 0 for what it did not say."""

    version: str = ""
    """Of fleetflame."""
    kernel: str = ""
    """Its release, as `uname -r` prints it."""
    machine: str = ""
    cpus: int = 0


class Heartbeats:
    """The last entry of each node, while `run` runs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._entries: OrderedDict[str, NodeEntry] = OrderedDict()

    async def run(self) -> None:
        """Listens until it is cancelled, from when there is a connection; the client keeps the subscription."""
        while not self._client.is_connected:
            await asyncio.sleep(_CONNECTED_POLL_S)
        await self._client.subscribe(SUBJECT, cb=self._hear)
        await asyncio.Event().wait()

    def entry(self, node: str) -> NodeEntry:
        """What `node` said last."""
        return self._entries.get(node, NodeEntry())

    async def _hear(self, message: Msg) -> None:
        entry = read_entry(message.data)
        if entry is None:
            return
        node = subjects.node_of(message.subject)
        self._entries[node] = entry
        self._entries.move_to_end(node)
        if len(self._entries) > MAX_NODES:
            self._entries.popitem(last=False)


def read_entry(data: bytes) -> NodeEntry | None:
    """The entry that a message holds; None if it is none."""
    try:
        said: Any = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    cpus = said.get("cpus")
    return NodeEntry(
        version=_text(said.get("version")),
        kernel=_text(said.get("kernel")),
        machine=_text(said.get("machine")),
        cpus=cpus if type(cpus) is int and 0 < cpus < MAX_CPUS else 0,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable() else ""
