"""Where samples are kept: ClickHouse, in this process or behind a URL, one SQL for both.

Everything is stored as addresses and build IDs; names are looked up when somebody reads. `Store` blocks: callers on an
event loop use threads, and any number of threads may call it at once.
"""

import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from aggregator import metrics
from aggregator.ledger import Account, FleetLedger, make_ledger
from aggregator.selector import Matcher
from aggregator.storage import accounts, announced, frames, retention, rollup, schema, select, series
from aggregator.storage.accept import Numbers
from aggregator.storage.announced import Rejection
from aggregator.storage.engine import Engine
from aggregator.storage.stacktree import StackTree
from aggregator.storage.types import (
    DAY_S,
    AcceptedBatch,
    BatchId,
    Build,
    Frames,
    ProfileQuery,
    Selected,
    StorageOptions,
    Stored,
    Usage,
)
from aggregator.storage.writer import Writer, known_batches
from fleetflame.model import Labels, Mapping, NamedFrame

__all__ = ["Store"]


class Store:
    """Samples of a fleet. Every method raises StoreError if the engine fails; nothing is half done then."""

    def __init__(self, options: StorageOptions) -> None:
        self.options = options
        self.engine = Engine(options)
        try:
            schema.ensure(self.engine)
        except BaseException:
            self.engine.close()
            raise
        self._dropped_until = schema.read_state(self.engine, retention.DROPPED_UNTIL) or 0
        self._writer = Writer(self.engine)
        self._frames = frames.FrameStore(self.engine)
        self._mappings = frames.MappingStore(self.engine)

    def close(self) -> None:
        """Closes the engine; statements under way end first."""
        self.engine.close()

    def insert(self, batches: Sequence[AcceptedBatch]) -> Stored:
        """Stores those of `batches` that are not stored yet. Durable when it returns; repeat it after an error."""
        return self._writer.store(batches)

    def known(self, batches: Sequence[AcceptedBatch]) -> set[BatchId]:
        """Those of `batches` that are stored."""
        return known_batches(self.engine, batches)

    def numbers(self, node: str, epoch: bytes, dictionary: int) -> Numbers:
        """What stored batches say about the stack numbers of a dictionary."""
        return announced.find_numbers(self.engine, node, epoch, dictionary)

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Counts messages that were set aside, each once however often it is told."""
        announced.note_rejected(self.engine, rejections)

    def check(self) -> None:
        """Returns if the engine takes inserts at all. Raises StoreError."""
        schema.write_state(self.engine, "checked", int(time.time()))

    def floor(self, now: int) -> int:
        """Unix seconds before which no samples are kept, at the time `now`: earlier batches are refused."""
        return max(self._dropped_until, (now // DAY_S - self.options.raw_days) * DAY_S)

    def select(self, query: ProfileQuery) -> Selected:
        """Sums by group and stack. Raises UsageError for a regular expression that does not compile."""
        return select.select(self.engine, query)

    def frames(self, stacks: NDArray[np.uint64]) -> Frames:
        """Frames of those of `stacks` that are stored, by id."""
        return self._frames.frames(stacks)

    def tree(self, stacks: NDArray[np.uint64]) -> tuple[StackTree, NDArray[np.int64]]:
        """A tree with those of `stacks` that are stored, and the node where each ends, -1 for the others."""
        return self._frames.tree(stacks)

    def mappings(self, wanted: Iterable[int]) -> dict[int, Mapping]:
        """Mappings by id; ids that are not stored are left out."""
        return self._mappings.mappings(wanted, self._writer.mappings_stored)

    def named(self, wanted: Iterable[int]) -> dict[int, NamedFrame]:
        """Named frames by id; ids that are not stored are left out."""
        return frames.find_named(self.engine, wanted)

    def builds(self) -> list[Build]:
        """Files, kernels and modules with a build ID, by path, then build ID."""
        return frames.find_builds(self.engine)

    def series(self, matchers: Sequence[Matcher], from_ns: int, until_ns: int) -> list[Labels]:
        """Label sets that match, of the days that [from_ns, until_ns) touches, sorted."""
        _, labels = series.find_series(self.engine, matchers, *select.seconds(from_ns, until_ns))
        return sorted(labels)

    def upkeep(self, now: int | None = None) -> Usage:
        """What has to be done now and then (every minute): sums of hours that are over, and dropping what is too old
        or too much. Any number of aggregators may do it at once. Raises StoreError."""
        now = int(time.time()) if now is None else now
        rollup.roll_up(self.engine, now)
        rollup.remove_former(self.engine, now)
        retention.drop_old(self.engine, self.options, now, self._note_dropped)
        retention.drop_beyond_budget(self.engine, self.options, now, self._note_dropped)
        self._dropped_until = schema.read_state(self.engine, retention.DROPPED_UNTIL) or 0
        found = retention.usage(self.engine)
        metrics.DISK_BYTES.set(found.bytes_on_disk)
        return found

    def _note_dropped(self, until: int) -> None:
        self._dropped_until = max(self._dropped_until, until)

    def label_names(self, from_ns: int, until_ns: int) -> list[str]:
        """Names of the labels of that time."""
        return sorted({name for labels in self.series((), from_ns, until_ns) for name, _ in labels})

    def label_values(self, name: str, from_ns: int, until_ns: int) -> list[str]:
        """Values of the label `name` of that time."""
        return sorted({value for labels in self.series((), from_ns, until_ns) for key, value in labels if key == name})

    def nodes(self) -> tuple[Account, ...]:
        """The nodes that samples came from, by name, with what became of their samples and when they were heard of."""
        return self.status().nodes

    def status(self, now: int | None = None) -> FleetLedger:
        """The books of every node; `now` in Unix seconds decides what is still under way."""
        now = int(time.time()) if now is None else now
        epochs = accounts.find_epochs(self.engine, now, self._dropped_until)
        return make_ledger(epochs, accounts.find_rejected(self.engine))
