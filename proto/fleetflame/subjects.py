"""Names on the bus. Streams, subjects and buckets carry the version of what travels on them."""

import re

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
