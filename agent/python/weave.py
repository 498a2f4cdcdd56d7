"""Python's frames in their places among native ones. Columns in, columns out; frames are leaf first throughout.

The kernel gives both apart: native frames, and words in which each run of Python frames says how many native frames are
nearer to the leaf (bpf/python.h). Native frames whose stack was found to be broken further on are cut off before: runs
beyond the cut follow what is left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RUN = np.uint64(1 << 63)
_OFFSET_SIGN = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFrames:
    """Frames of stacks: `stack` ascends, and within one they are leaf first. `native` is how many native frames of that
    stack are nearer to the leaf. `offset` is in bytes, -2 before a function's first instruction."""

    stack: NDArray[np.int64]
    native: NDArray[np.int64]
    code: NDArray[np.uint64]
    checksum: NDArray[np.uint32]
    offset: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.stack)


def parse_words(words: NDArray[np.uint64], stack: NDArray[np.int64]) -> PythonFrames:
    """The frames in the words of some stacks; word i belongs to stack[i]. Stacks ascend, their words follow each
    other. Frames without the end of a run are left out: the kernel writes none."""
    index = np.arange(len(words))
    ends = (words & _RUN) != 0
    # The last word before each run's first one: the end of another run, or the last word of another stack.
    opens = ends.copy()
    opens[:-1] |= stack[1:] != stack[:-1]
    before = np.maximum.accumulate(np.where(opens, index, -1))
    before = np.concatenate([[-1], before[:-1]]).astype(np.int64)[: len(words)]
    first = ~ends & ((index - before) % 2 == 1)
    first[-1:] = False
    first[:-1] &= ~ends[1:]
    at = np.flatnonzero(first)
    where = np.flatnonzero(ends)
    run = np.searchsorted(where, at)
    closed = run < len(where)
    at, run = at[closed], run[closed]
    same = stack[where[run]] == stack[at]
    at, run = at[same], run[same]
    details = words[at + 1]
    offset = (details >> np.uint64(32)).astype(np.int64) & 0x7FFF_FFFF
    return PythonFrames(
        stack=stack[at],
        native=(words[where[run]] & np.uint64(0xFFFF)).astype(np.int64),
        code=words[at],
        checksum=(details & np.uint64(0xFFFF_FFFF)).astype(np.uint32),
        offset=np.where(offset >= _OFFSET_SIGN, offset - 2 * _OFFSET_SIGN, offset).astype(np.int32),
    )


def weave(
    native_stack: NDArray[np.int64], kept: NDArray[np.int64], stack: NDArray[np.int64], native: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The order in which native and other frames make whole stacks: numbers below len(native_stack) are native frames,
    the others follow in theirs. Native frame i belongs to native_stack[i], ascending; `kept` says how many of them each
    stack keeps. Other frame i belongs to stack[i], after native[i] of its native frames."""
    starts = np.searchsorted(native_stack, np.arange(len(kept)))
    position = np.arange(len(native_stack)) - starts[native_stack]
    staying = np.flatnonzero(position < kept[native_stack])
    number = np.concatenate([staying, len(native_stack) + np.arange(len(stack))])
    place = np.concatenate([position[staying], np.minimum(native, kept[stack])])
    owner = np.concatenate([native_stack[staying], stack])
    is_native = np.concatenate([np.ones(len(staying), np.bool), np.zeros(len(stack), np.bool)])
    # Stable: other frames in one place stay as they were.
    return number[np.lexsort((is_native, place, owner))]
