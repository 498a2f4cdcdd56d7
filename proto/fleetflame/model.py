"""The values that both sides share: what a frame, a stack, a batch and a ledger are.

Frames are **root first** everywhere but inside the kernel's own buffers and in pprof, which have the leaf first.

A frame is a pair (mapping, address). What the address counts depends on the mapping's kind:

    FILE, VDSO      offset into the file with that build ID
    KERNEL          offset from `_stext` of the kernel with that build ID, so that KASLR does not tell hosts apart
    MODULE          offset from the module's base address
    JIT, INTERPRETER, BPF, IMPORTED   index into the table of named frames
    MISS            a `FrameMiss`

A caller's address lies **inside** its call instruction: return address - 1. Whoever unwinds subtracts, because only the
unwinder knows which frames were interrupted rather than called from; nobody after it has to know.
"""

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NewType

import numpy as np
from numpy.typing import NDArray

from fleetflame.buildid import BuildId

RuntimeAddr = NewType("RuntimeAddr", int)
"""An address in a running process or kernel."""
FileOffset = NewType("FileOffset", int)
"""A byte position in a file."""
SymbolAddr = NewType("SymbolAddr", int)
"""An ELF virtual address, as symbol tables and DWARF have it."""

WINDOW_S = 10
"""Length of a window of samples unless an agent is told otherwise. Windows begin at multiples of it, on every node."""

Labels = tuple[tuple[str, str], ...]
"""Label names and values, sorted by name, no empty values (an empty label is an absent one, as in Prometheus)."""

MAX_FRAMES = 1024
"""Frames of one stack on the wire. The kernel program gives at most 127 + 127 today; deeper unwinding has room."""


class MappingKind(IntEnum):
    """What an address of a frame counts. The numbers travel; see the module's docstring."""

    FILE = 1
    KERNEL = 2
    MODULE = 3
    VDSO = 4
    JIT = 5
    INTERPRETER = 6
    BPF = 7
    MISS = 8
    IMPORTED = 9
    """A frame of an imported profile, named there. Rendered as it is: a suffix such as `_[k]` is part of the name."""


NAMED_KINDS = frozenset({MappingKind.JIT, MappingKind.INTERPRETER, MappingKind.BPF, MappingKind.IMPORTED})
KERNEL_KINDS = frozenset({MappingKind.KERNEL, MappingKind.MODULE, MappingKind.BPF})


class FrameMiss(IntEnum):
    """Why there is a placeholder where a frame should be. The numbers travel and are stored.

    Up to 15 the whole stack is missing and the kernel program itself says so, in place of a stack's hash.
    """

    NO_USER_STACK = 1
    """The user stack could not be read: paged out, or the process was on its way out."""
    NO_KERNEL_STACK = 2
    """The kernel stack could not be read."""
    STACK_MAP_FULL = 3
    """The map of stacks had no room (raise --stack-entries)."""
    STACK_COLLISION = 4
    """Another stack had the same 64-bit hash."""

    DEPTH_LIMIT = 16
    """The stack is deeper than the unwinder goes; the frames nearest the leaf are kept."""
    STACK_EXPIRED = 17
    """The kernel counted a stack whose frames were gone when they were read."""
    NO_FRAME_POINTER = 18
    """The chain of frame pointers led to an address outside of all code: a caller was compiled without them."""
    NO_UNWIND_RULE = 19
    """The unwind table of a caller's build has no rule for its address, or one that cannot be followed."""
    NO_UNWIND_TABLE = 20
    """A caller lies in memory that the unwinder did not know of: loaded since the process's mappings were read."""
    STACK_UNREADABLE = 21
    """The stack's own memory could not be read while unwinding: paged out, or not where a rule said."""
    UNMAPPED = 32
    """The address lies in no mapping of the process."""
    ANONYMOUS = 33
    """The address lies in memory without a file, and the process's perf map, if it has one, does not name it."""
    UNREADABLE_FILE = 34
    """The mapped file could not be opened, so its build is unknown."""
    PROCESS_GONE = 35
    """The process ended before its mappings were read."""
    KERNEL_HIDDEN = 36
    """A kernel address that this node may not resolve (CAP_SYSLOG is missing)."""
    NO_PERF_MAP = 40
    """The address lies in memory without a file, and the process has no perf map: JIT code that nobody can name."""
    CODE_REPLACED = 41
    """The address was given from one generated function to another while the window lasted."""
    UNREAD_FUNCTION = 42
    """A function of an interpreter whose name could not be read: its process was gone, or it was another function by
    then."""
    INTERPRETER_FRAMES = 43
    """Frames of an interpreter are missing here: too many of them, or memory that could not be read."""
    NOT_RECEIVED = 48
    """The batch with the stack's frames never reached the aggregator."""


TRUNCATIONS = frozenset(miss for miss in FrameMiss if miss < FrameMiss.UNMAPPED or miss is FrameMiss.NOT_RECEIVED)
"""Misses that stand for the missing rest of a stack: rendered `[truncated: REASON]` at the root side."""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One executable PT_LOAD: file bytes [offset, offset + size) are at ELF virtual address vaddr."""

    offset: int
    vaddr: int
    size: int


@dataclass(frozen=True, slots=True, order=True)
class Mapping:
    """What addresses of a frame refer to. Equal for every process and host that runs the same build.

    `path` is for people: where the file was seen, a module's name, `[vdso]`. `build_id` is None for `NAMED_KINDS` and
    MISS. `segments` may be empty when only the kernel said the build ID and nobody saw the file.
    """

    kind: MappingKind
    build_id: BuildId | None = None
    path: str = ""
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class NamedFrame:
    """A frame that only the node could name. `file` is "" and `line` 0 where unknown."""

    name: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackTable:
    """Stacks as columns: stack i has the frames [offsets[i], offsets[i + 1]), root first."""

    offsets: NDArray[np.uint32]
    mapping: NDArray[np.uint32]
    address: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def empty_stacks() -> StackTable:
    """A table without stacks."""
    return StackTable(offsets=np.zeros(1, np.uint32), mapping=np.zeros(0, np.uint32), address=np.zeros(0, np.uint64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What became of the samples of one batch: `taken` = samples carried + sum of `lost`.

    `degraded` samples are carried, with a placeholder in their stack. `taken_in_epoch` counts since the agent's start,
    this batch included, so that the receiver knows how many samples a missing batch held.
    """

    taken: int = 0
    taken_in_epoch: int = 0
    lost: MappingOf[str, int] = field(default_factory=dict)
    degraded: MappingOf[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One message of one node: the samples of one window, and the stacks that are new in it.

    Rows are the columns `sample_series` (index into series), `sample_number` (stack number within `dictionary`) and
    `sample_count`, sorted by (series, number), each pair once.
    """

    node: str
    epoch: bytes
    sequence: int
    dictionary: int
    window_start_ns: int
    window_ns: int
    period_ns: int
    type: str = "cpu"
    mappings: tuple[Mapping, ...] = ()
    named: tuple[NamedFrame, ...] = ()
    series: tuple[Labels, ...] = ()
    first_number: int = 0
    stacks: StackTable = field(default_factory=empty_stacks)
    sample_series: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    sample_number: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    sample_count: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    ledger: Ledger = field(default_factory=Ledger)
