"""What leaves the kernel for one window: counted rows, the stacks they name, and what became of processes meanwhile.

Values only: the sampler fills them, `normalize` reads them, nothing here opens anything. Stacks are **leaf first** as
in the kernel's own buffers. Callers' addresses are return addresses as the unwinder finds them; the first address of
each stack is exact. `normalize` turns both into the contract's order and addresses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

ID_STACK_BIT = 1 << 63
"""Set in a row's user stack if the kernel itself resolved build IDs: the key refers to `Window.id_stacks`."""

FIRST_STACK = 16
"""Smallest stack key. Below: 0 is "there is no such stack", 1 to 15 are `FrameMiss` numbers."""

ID_BYTES = 20
"""Length of `bpf_stack_build_id.build_id` (BPF_BUILD_ID_SIZE); shorter IDs are padded with zeroes."""

ID_VALID = 1
"""BPF_STACK_BUILD_ID_VALID: build ID and file offset."""
ID_BARE = 2
"""BPF_STACK_BUILD_ID_IP: the kernel found no build ID, the address is the runtime address."""

PLAIN_DEPTH = 127
"""Frames that the kernel's own unwinder finds at most: a stack of as many may have been deeper."""


class Stop(IntEnum):
    """Why a stack has no more frames; the numbers are those of `enum stop` in bpf/unwind.h."""

    UNKNOWN = 0
    """The kernel's own unwinder found it, which does not say."""
    WHOLE = 1
    DEPTH = 2
    UNMAPPED = 3
    NO_FRAME_POINTER = 4
    NO_RULE = 5
    RULE = 6
    UNREADABLE = 7
    NO_PROGRESS = 8


TGID_BITS = 22
"""The low bits of an image's id are its tgid (PID_MAX_LIMIT is 2^22), so an image whose event was lost can be read."""

COUNT_DTYPE = np.dtype(
    [
        ("image", "<u8"),  # process image: new at fork, at exec or when first sampled; never used again
        ("user", "<u8"),  # stack key, see FIRST_STACK and ID_STACK_BIT
        ("kernel", "<u8"),  # stack key; always of `Window.stacks`
        ("python", "<u8"),  # stack key, of `Window.python`: frames that belong among those of `user`
        ("tgid", "<u4"),
        ("tid", "<u4"),  # 0 unless labels per thread are on
        ("comm", "S16"),  # of the thread if labels per thread are on, else of the process when the image began
        ("count", "<u8"),
    ]
)
"""One row of counts: samples of one process image (or thread) with one pair of stacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawStacks:
    """Stack i has the key keys[i], ends because of stop[i], and has the frames [offsets[i], offsets[i + 1]). Keys
    ascend, each once. `exact` frames have the address of an interrupted instruction, others a return address. Frames
    that a frame pointer led to, where a table was missing, are `guessed`."""

    keys: NDArray[np.uint64]
    offsets: NDArray[np.uint32]
    stop: NDArray[np.uint8]
    address: NDArray[np.uint64]
    exact: NDArray[np.bool]
    guessed: NDArray[np.bool]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonStacks:
    """Stack i has the key keys[i] and the words [offsets[i], offsets[i + 1]), which bpf/python.h describes. Keys
    ascend, each once. `miss` says why frames nearest to the root are not there, 0: they are."""

    keys: NDArray[np.uint64]
    offsets: NDArray[np.uint32]
    miss: NDArray[np.uint8]
    words: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdStacks:
    """Stacks that the kernel resolved: per frame a status (ID_VALID or ID_BARE), a build ID and an address.

    `build_id` has the shape (frames, ID_BYTES). `address` is a file offset where the status is ID_VALID, else a
    runtime address.
    """

    keys: NDArray[np.uint64]
    offsets: NDArray[np.uint32]
    status: NDArray[np.uint32]
    build_id: NDArray[np.uint8]
    address: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.keys)


def empty_raw_stacks() -> RawStacks:
    """A table without stacks."""
    return RawStacks(
        keys=np.zeros(0, np.uint64),
        offsets=np.zeros(1, np.uint32),
        stop=np.zeros(0, np.uint8),
        address=np.zeros(0, np.uint64),
        exact=np.zeros(0, np.bool),
        guessed=np.zeros(0, np.bool),
    )


def empty_python_stacks() -> PythonStacks:
    """A table without stacks."""
    return PythonStacks(
        keys=np.zeros(0, np.uint64),
        offsets=np.zeros(1, np.uint32),
        miss=np.zeros(0, np.uint8),
        words=np.zeros(0, np.uint64),
    )


def empty_id_stacks() -> IdStacks:
    """A table without stacks."""
    return IdStacks(
        keys=np.zeros(0, np.uint64),
        offsets=np.zeros(1, np.uint32),
        status=np.zeros(0, np.uint32),
        build_id=np.zeros((0, ID_BYTES), np.uint8),
        address=np.zeros(0, np.uint64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Samples taken in [start_ns, end_ns), Unix time: taken == counts["count"].sum() + sum(lost.values())."""

    start_ns: int
    end_ns: int
    period_ns: int
    counts: NDArray[np.void]
    stacks: RawStacks = field(default_factory=empty_raw_stacks)
    id_stacks: IdStacks = field(default_factory=empty_id_stacks)
    python: PythonStacks = field(default_factory=empty_python_stacks)
    taken: int
    lost: Mapping[str, int] = field(default_factory=dict)


class EventKind(IntEnum):
    """What happened to a process. The numbers are shared with the kernel program."""

    EXEC = 1
    FORK = 2
    EXIT = 3
    SEEN = 4
    """First sample, or first fork, of a process that was there before the agent."""
    SAMPLED = 6
    """First sample of an image that began with an exec."""
    UNMAPPED = 7
    """A stack led to memory that the image's layout does not have."""
    EXIT_UNSAMPLED = 5
    """The exit of an image of which there is no sample yet; its last moments may still be sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEvent:
    """`image` begins (EXEC, FORK, SEEN), is sampled first (SAMPLED), has
    other memory than is known (UNMAPPED), or ends (EXIT, EXIT_UNSAMPLED). `parent_image`:
    FORK: what it was forked from; EXEC: what the process was until then, or the nearest ancestor of it that was told;
    else 0. `comm` is the kernel's name of the process at that moment. A fork is told when its child is sampled first,
    and not at all if it never is.
    """

    kind: EventKind
    tgid: int
    image: int
    parent_image: int = 0
    comm: str = ""


def tgid_of(image: int) -> int:
    """The process that an image id belongs to."""
    return image & ((1 << TGID_BITS) - 1)


def begin_of(image: int) -> int:
    """When an image began, in ns of the monotonic clock, rounded down to 1,024 ns."""
    return image >> TGID_BITS << 10
