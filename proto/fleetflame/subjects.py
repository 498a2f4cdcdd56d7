"""Names on the bus. Streams, subjects and buckets carry the version of what travels on them."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from fleetflame.errors import UsageError

WIRE_VERSION = 1

BATCH_STREAM = "ff_v1_batches"
BATCH_SUBJECTS = "ff.v1.batch.*"
BATCH_CONSUMER = "ff_v1_ingest"
DEAD_STREAM = "ff_v1_rejected"
DEAD_SUBJECTS = "ff.v1.rejected.*"
SYMBOL_STORE = "ff_symbols"
NODE_BUCKET = "ff_nodes"

MAX_MESSAGE_BYTES = 512 * 1024
"""Compressed size of one batch. Half of what a server allows by default, so that headers and settings do not matter."""

HEADER_BYTES = 4096
"""Room for a message's headers: the server counts them against a stream's largest message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """How a stream is made where there is none: file storage, limits retention, oldest messages go first.

    Not discard-new: with limits retention a stored message stays after it was acknowledged, so a full stream would
    turn new batches away for the sake of old ones that were ingested long ago. An operator who wants back-pressure
    makes the stream himself, with another policy; both sides use what they find (and agents keep what is refused).
    """

    name: str
    subjects: str
    max_bytes: int
    max_age_s: int
    max_message_bytes: int
    duplicate_window_s: int = 120
    """The server's own default. Long enough for a publisher's retries; beyond it the aggregator's ledger of
    (node, epoch, sequence) tells duplicates."""

    def problem(self, *, subjects: Collection[str], on_disk: bool, max_message_bytes: int) -> str:
        """Why a stream that was found would lose or misdirect messages, "" if it would not; a bound below 0 is none."""
        if set(subjects) != {self.subjects}:
            return f"takes `{', '.join(sorted(subjects))}` instead of `{self.subjects}`"
        if not on_disk:
            return "keeps its messages in memory, which a restart of the server would lose"
        if 0 <= max_message_bytes < self.max_message_bytes:
            return f"takes messages of {max_message_bytes} bytes at most instead of {self.max_message_bytes}"
        return ""


BATCHES = StreamSpec(
    name=BATCH_STREAM,
    subjects=BATCH_SUBJECTS,
    max_bytes=2 << 30,
    max_age_s=24 * 3600,
    max_message_bytes=MAX_MESSAGE_BYTES + HEADER_BYTES,
)
"""A day or 2 GiB, whichever is less: how long every aggregator may be away. 2 GiB are a day of about 100 nodes."""

REJECTED = StreamSpec(
    name=DEAD_STREAM,
    subjects=DEAD_SUBJECTS,
    max_bytes=64 << 20,
    max_age_s=7 * 24 * 3600,
    max_message_bytes=MAX_MESSAGE_BYTES + HEADER_BYTES,
)
"""For inspection, so that little is kept for long."""

SYMBOL_STORE_BYTES = 4 << 30
"""Bound of the object store of lent ELF files."""

HEARTBEAT_S = 20
"""How often a node puts its entry, key `token(node)`, into NODE_BUCKET."""
NODE_TTL_S = 60
"""How long an entry lives without another: three heartbeats."""

# A node name is one token of a subject, a key of a bucket and a label value: what all three allow.
_NODE = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_-])?")


def check_node(name: str) -> str:
    """`name` itself. Raises UsageError if it cannot name a node."""
    if not _NODE.fullmatch(name) or ".." in name:
        raise UsageError(
            f"not a node name: `{name[:80]}`", hint="use letters, digits, `-`, `_`, and `.` between them, 253 at most"
        )
    return name


def token(node: str) -> str:
    """A node's name as one subject token: dots, which separate tokens, become `=`, which no node name has."""
    return node.replace(".", "=")


def batch(node: str) -> str:
    """Where the batches of `node` go."""
    return f"ff.v1.batch.{token(node)}"


def rejected(node_token: str) -> str:
    """Where a batch that came on `ff.v1.batch.<node_token>` and was not accepted is set aside."""
    return f"ff.v1.rejected.{node_token}"


def request(node: str, verb: str) -> str:
    """Where `node` answers requests of the kind `verb`: `symbols`, `kallsyms`."""
    return f"ff.v1.node.{token(node)}.{verb}"


def node_of(subject: str) -> str:
    """The node that a batch subject belongs to, whatever the payload claims."""
    return subject.rsplit(".", 1)[-1].replace("=", ".")
