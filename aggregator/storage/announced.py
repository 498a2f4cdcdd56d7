"""What nodes announced and what was turned away, as the store remembers it for restarted and second aggregators."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aggregator.storage import tables
from aggregator.storage.accept import NO_NUMBERS, Numbers
from aggregator.storage.engine import Engine
from aggregator.storage.native import Column, Values
from fleetflame.errors import RejectReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A message that was set aside."""

    node: str
    """Who the subject says it came from."""
    reason: RejectReason
    time: int
    """When, in Unix seconds."""
    message: int
    """A hash that is the same when the message is delivered again."""
    samples: int = 0
    """What it held, where that could be read."""


def find_numbers(engine: Engine, node: str, epoch: bytes, dictionary: int) -> Numbers:
    """The stack numbers that stored batches announced in a dictionary."""
    answer = engine.query(
        "SELECT first, stacks FROM stack_numbers WHERE node = {node:String} AND epoch = {epoch:String}"
        f" AND dictionary = {int(dictionary)} ORDER BY first",
        {"node": node, "epoch": epoch.hex()},
    )
    stacks = answer.ragged("stacks")
    offsets = stacks.offsets.astype(np.int64)
    sizes = offsets[1:] - offsets[:-1]
    within = np.arange(len(stacks.values)) - np.repeat(offsets[:-1], sizes)
    numbers = np.repeat(answer.numbers("first", "i8"), sizes) + within
    unique, rows = np.unique(numbers, return_index=True)
    return NO_NUMBERS.merged(Numbers(unique.astype(np.uint32), stacks.values[rows]))


def note_rejected(engine: Engine, rejections: Sequence[Rejection]) -> None:
    """Counts messages that were set aside; one that was counted already changes nothing."""
    values: dict[str, Values] = {
        "time": np.array([one.time for one in rejections]),
        "node": [one.node for one in rejections],
        "reason": [one.reason.value for one in rejections],
        "message": np.array([one.message for one in rejections], np.uint64),
        "samples": np.array([one.samples for one in rejections], np.uint64),
    }
    if rejections:
        columns = [Column(name, kind, values[name]) for name, kind in tables.REJECTED.columns.items()]
        engine.insert(tables.REJECTED.name, columns)
