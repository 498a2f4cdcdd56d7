"""The values that cross the store's border: what goes in, what is asked, what comes out, and how it fails."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

import numpy as np
from numpy.typing import NDArray

from aggregator.selector import Matcher, Selector
from aggregator.storage.tables import Keep
from fleetflame.errors import FleetflameError, UsageError
from fleetflame.model import Labels, Ledger, NamedFrame
from fleetflame.model import Mapping as FrameMapping

BatchId = NewType("BatchId", int)
"""blake2b-64 of (node, epoch, sequence): what makes a batch the same batch."""

DAY_S = 86_400
BRIEF_DAYS = 2
HOUR_S = 3_600
TEN_S = 600


class Fault(StrEnum):
    """What kind of trouble the store is in; the label of its metric."""

    FULL = "disk_full"
    MEMORY = "memory_limit"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"


class StoreError(FleetflameError):
    """The engine could not do what was asked; nothing was half done. `fault` says whose turn it is."""

    def __init__(self, fault: Fault, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fault = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """Where samples are kept and how much of everything they may take. Raises UsageError for values without sense."""

    location: str
    """A folder for the embedded engine, or `http(s)://user:password@host:port/database`."""
    cluster: str = ""
    """Name of the server's cluster, where tables are replicated and distributed over one."""
    memory_bytes: int = 512 << 20
    """Of the embedded engine, queries included. What a group-by needs beyond half of it goes to the disk."""
    disk_bytes: int = 10 << 30
    """Budget of the data; the oldest days go when it is exceeded. 0: no budget."""
    raw_days: int = 14
    """How long samples keep the resolution they came in."""
    rolled_days: int = 90
    """How long hourly sums are kept."""
    readers: int = 4
    """Queries at the same time; more wait."""

    def __post_init__(self) -> None:
        if not self.location:
            raise UsageError("no place to store samples", hint="name a folder or a ClickHouse URL with --storage")
        if self.embedded and set("*?{}") & set(self.location):
            # The engine reads inserts from a file there, and takes such a path for a pattern.
            raise UsageError(f"not a data folder: `{self.location}`", hint="name one without `*`, `?`, `{` and `}`")
        if self.cluster and not self.cluster.replace("_", "").replace("-", "").isalnum():
            raise UsageError(f"not a cluster name: `{self.cluster}`", hint="use letters, digits, `_` and `-`")
        if self.raw_days < 1 or self.rolled_days < self.raw_days:
            raise UsageError(
                f"retention of {self.raw_days} days raw and {self.rolled_days} days rolled up",
                hint="keep raw samples for a day at least, and sums for as long as raw samples at least",
            )
        if self.memory_bytes < 128 << 20:
            raise UsageError(f"{self.memory_bytes >> 20} MiB of memory for the engine", hint="it needs 128 MiB")
        if self.readers < 1 or self.disk_bytes < 0:
            raise UsageError("storage needs one reader at least and a disk budget of 0 (none) or more")

    @property
    def days(self) -> Mapping[Keep, int]:
        """For how many days each kind of table keeps its rows at least."""
        # Frames may be as old as the dictionary's week before the oldest sums that refer to them.
        return {Keep.BRIEF: BRIEF_DAYS, Keep.RAW: self.raw_days, Keep.ROLLED: self.rolled_days + 14}

    @property
    def embedded(self) -> bool:
        """Whether the engine runs in this process."""
        return "://" not in self.location


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRows:
    """Stacks with their ids: stack i has the frames [offsets[i], offsets[i + 1]), root first."""

    ids: NDArray[np.uint64]
    offsets: NDArray[np.uint64]
    mapping: NDArray[np.uint64]
    """Mapping id of each frame."""
    address: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedBatch:
    """A batch that was validated and whose stacks all have an id. `accept.accept` makes them."""

    id: BatchId
    node: str
    epoch: bytes
    sequence: int
    dictionary: int
    time: int
    """Window start in Unix seconds, rounded down."""
    period_ns: int
    type: str
    mappings: tuple[FrameMapping, ...]
    named: tuple[NamedFrame, ...]
    series: tuple[Labels, ...]
    """With `node`."""
    series_ids: NDArray[np.uint64]
    first_number: int
    stacks: StackRows
    """The stacks that this batch announces, in the order of their numbers."""
    placeholders: bool
    """Some samples have the stack of `FrameMiss.NOT_RECEIVED`, which no node announces."""
    sample_series: NDArray[np.uint32]
    """Index in `series`."""
    sample_stack: NDArray[np.uint64]
    sample_count: NDArray[np.uint64]
    ledger: Ledger
    """As the node wrote it, and in `degraded` what was added here."""
    received: int
    """Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What `Store.insert` did with the batches it was given."""

    batches: int
    rows: int
    duplicates: int
    """Batches that were in the store already, and were not stored again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileQuery:
    """Samples of windows that begin in [from_ns, until_ns), summed by the labels `by` and by stack."""

    selector: Selector
    from_ns: int
    until_ns: int
    by: tuple[str, ...] = ("comm",)

    @property
    def matchers(self) -> tuple[Matcher, ...]:
        """The selector's conditions on labels."""
        return self.selector.matchers


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Sums: row i is `count[i]` samples worth `value[i]` of stack `stack[i]` in group `groups[group[i]]`.

    Sorted by (group, stack), each pair once; `groups` sorted. So equal data give equal bytes, however they arrived.
    """

    groups: tuple[tuple[str, ...], ...]
    """One value for each label of `ProfileQuery.by`; "" where a series has no such label."""
    group: NDArray[np.uint32]
    stack: NDArray[np.uint64]
    count: NDArray[np.uint64]
    value: NDArray[np.uint64]
    """Nanoseconds for `cpu`."""

    @property
    def period_ns(self) -> int:
        """What one sample is worth, on average; 0 without samples."""
        total = int(self.count.sum())
        return int(self.value.sum()) // total if total else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Frames of the stacks that were found, sorted by id: stack i has [offsets[i], offsets[i + 1]), root first."""

    stacks: NDArray[np.uint64]
    offsets: NDArray[np.uint32]
    mapping: NDArray[np.uint64]
    """Mapping ids: see `Store.mappings`."""
    address: NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A build of a file, kernel or module that stacks refer to."""

    mapping: FrameMapping
    last_seen: int
    """Unix seconds, rounded down to the week it was announced in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the data take."""

    bytes_on_disk: int
    rows: int
    oldest: int
    """Unix seconds of the oldest raw day; 0 without samples."""
    days: tuple[str, ...] = field(default_factory=tuple)
