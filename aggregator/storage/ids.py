"""Identities: blake2b-64 over canonical bytes. Computed here and never believed from a node.

64 bits: among 10^8 stacks the chance of any two sharing an id is 3 in 10,000. Text goes in with its length in front, so
that no two values have the same bytes. The formulas are part of the stored schema: a change is a migration.
"""

import itertools
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from aggregator.storage.types import BatchId, StackRows
from fleetflame.model import FrameMiss, Labels, Mapping, MappingKind, NamedFrame


def mapping_id(mapping: Mapping) -> int:
    """Id of what addresses refer to: kind and build ID or, for what has none, kind and path."""
    if mapping.build_id is not None:
        return _hash(b"map\1", bytes([mapping.kind]), mapping.build_id.raw)
    return _hash(b"map\0", bytes([mapping.kind]), _text(mapping.path))


def named_id(frame: NamedFrame) -> int:
    """Id of a frame that a node named: the address of frames whose mapping's kind is in `NAMED_KINDS`."""
    return _hash(b"name", _text(frame.name), _text(frame.file), frame.line.to_bytes(8, "little"))


def series_id(labels: Labels) -> int:
    """Id of a label set, `node` included."""
    return _hash(b"labels", b"".join(_text(part) for pair in labels for part in pair))


def batch_id(node: str, epoch: bytes, sequence: int) -> BatchId:
    """Id of one message of one run of one node's agent."""
    return BatchId(_hash(b"batch", _text(node), _text(epoch.hex()), sequence.to_bytes(8, "little")))


def stack_ids(
    offsets: NDArray[np.uint64], mapping: NDArray[np.uint64], address: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Ids of stacks given as columns: each hashes its (mapping id, address) pairs, little-endian, root first."""
    pairs = np.empty((len(address), 2), "<u8")
    pairs[:, 0] = mapping
    pairs[:, 1] = address
    # One digest a stack is the only loop here: 1.0 us each, for stacks that a batch announces, not for its samples.
    view = memoryview(pairs.tobytes())
    ends = (offsets * np.uint64(16)).tolist()
    digests = [blake2b(view[a:b], digest_size=8).digest() for a, b in itertools.pairwise(ends)]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def placeholder(miss: FrameMiss) -> StackRows:
    """The stack that stands for one that is missing altogether."""
    offsets = np.array([0, 1], np.uint64)
    mapping = np.array([MISS_MAPPING], np.uint64)
    address = np.array([miss], np.uint64)
    return StackRows(ids=stack_ids(offsets, mapping, address), offsets=offsets, mapping=mapping, address=address)


def concatenated(parts: Sequence[StackRows]) -> StackRows:
    """All stacks of `parts` as one table; a stack that is in two of them is in it twice."""
    starts = np.cumsum([0] + [len(part.address) for part in parts[:-1]], dtype=np.uint64)
    ends = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=True)]
    return StackRows(
        ids=_joined(part.ids for part in parts),
        offsets=_joined([np.zeros(1, np.uint64), *ends]),
        mapping=_joined(part.mapping for part in parts),
        address=_joined(part.address for part in parts),
    )


def taken(stacks: StackRows, rows: NDArray[np.int64]) -> StackRows:
    """The stacks at `rows`, in that order."""
    offsets = stacks.offsets.astype(np.int64)
    sizes = (offsets[1:] - offsets[:-1])[rows]
    ends = np.cumsum(sizes)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - sizes, sizes)
    at = np.repeat(offsets[:-1][rows], sizes) + within
    return StackRows(
        ids=stacks.ids[rows],
        offsets=np.concatenate((np.zeros(1, np.uint64), ends.astype(np.uint64))),
        mapping=stacks.mapping[at],
        address=stacks.address[at],
    )


def _joined(parts: Iterable[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return len(raw).to_bytes(4, "little") + raw


def _hash(*parts: bytes) -> int:
    return int.from_bytes(blake2b(b"".join(parts), digest_size=8).digest(), "little")


MISS_MAPPING = mapping_id(Mapping(MappingKind.MISS))
