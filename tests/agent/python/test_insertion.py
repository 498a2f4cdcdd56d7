"""Python frames of a window among native ones: by columns, with functions that are known, hidden or missing."""

from dataclasses import dataclass, field

import numpy as np

from agent.frames import Pool, Segments
from agent.image import Image, unknown_image
from agent.python.code import Code, CodeMiss
from agent.python.codes import Codes
from agent.python.insertion import INTERPRETER, Insertion
from agent.python.layouts import LineKind
from agent.resolve import Numbering
from agent.window import PythonStacks
from fleetflame.model import FrameMiss, NamedFrame
from tests.agent.python.test_weave import Run, words_of

IMAGES = [unknown_image(1, 1), unknown_image(2, 2)]
MAIN, INNER, INTERNAL, GONE = 0x1000, 0x2000, 0x3000, 0x4000
LINES = b"\x06\x01"


@dataclass
class Known(Codes):
    """Functions by image and address."""

    by_address: dict[tuple[int, int], Code | CodeMiss] = field(default_factory=dict)

    def find(self, image: Image, seen: tuple[int, int]) -> Code | CodeMiss:
        return self.by_address[image.id, seen[0]]


CODES = Known(
    {
        (1, MAIN): Code("main", "a.py", 1, LineKind.LNOTAB, LINES),
        (1, INNER): Code("inner", "a.py", 5, LineKind.LNOTAB, LINES),
        (2, MAIN): Code("other", "b.py", 7, LineKind.LNOTAB, LINES),
        (1, INTERNAL): CodeMiss.INTERNAL,
        (1, GONE): CodeMiss.GONE,
    }
)

NATIVE = Pool(mapping=np.full(10, 7, np.uint32), address=np.arange(10, dtype=np.uint64))
"""Frames 0 to 9 of a mapping 7."""


def table(*stacks: tuple[list[Run], int]) -> PythonStacks:
    words = [words_of(runs) for runs, _ in stacks]
    return PythonStacks(
        keys=np.arange(16, 16 + len(stacks), dtype=np.uint64),
        offsets=np.append(0, np.cumsum([len(some) for some in words])).astype(np.uint32),
        miss=np.array([miss for _, miss in stacks], np.uint8),
        words=np.array([word for some in words for word in some], np.uint64),
    )


def inserted(native: list[tuple[int, int]], python: PythonStacks, owner: list[int]) -> list[list[object]]:
    """Leaf first: numbers of native frames, named frames, misses."""
    numbering = Numbering()
    starts, lengths = (np.array(column, np.int64) for column in zip(*native, strict=True))
    found = np.arange(len(native))
    insertion = Insertion(CODES, numbering, IMAGES)
    pool, depth = insertion.insert(NATIVE, Segments(start=starts, length=lengths), python, found, np.array(owner))
    interpreter, names = numbering.of(INTERPRETER), list(numbering.named)
    frames: list[object] = []
    for mapping, address in zip(pool.mapping.tolist(), pool.address.tolist(), strict=True):
        if mapping == 7:
            frames.append(address)
        else:
            frames.append(names[address] if mapping == interpreter else FrameMiss(address))
    ends = np.cumsum(depth).tolist()
    return [frames[end - count : end] for end, count in zip(ends, depth.tolist(), strict=True)]


def test_runs_stand_before_the_frame_that_evaluates_them() -> None:
    """Leaf first: native callees, the run, the evaluating frame. Each function at the line of its instruction."""
    runs = [(1, [(INNER, 8, 0), (MAIN, 0, 0)]), (3, [(MAIN, -2, 0)])]
    (stack,) = inserted([(2, 4)], table((runs, 0)), [0])
    inner, main = NamedFrame("inner", "a.py", 6), NamedFrame("main", "a.py", 1)
    assert stack == [2, inner, main, 3, 4, main, 5]


def test_one_table_serves_several_images() -> None:
    """The same address is another function in another process."""
    stacks = inserted([(0, 1), (1, 1)], table(([(0, [(MAIN, 0, 0)])], 0), ([(0, [(MAIN, 0, 0)])], 0)), [0, 1])
    assert stacks == [[NamedFrame("main", "a.py", 1), 0], [NamedFrame("other", "b.py", 7), 1]]


def test_what_cannot_be_named_is_a_placeholder_and_what_python_hides_is_nothing() -> None:
    """Native frames stay as they are."""
    (stack,) = inserted([(0, 2)], table(([(1, [(GONE, 0, 0), (INTERNAL, 0, 0), (MAIN, 0, 0)])], 0)), [0])
    assert stack == [0, FrameMiss.UNREAD_FUNCTION, NamedFrame("main", "a.py", 1), 1]


def test_missing_frames_are_said_where_they_are_missing() -> None:
    """On the root side of the last frame found; at the end where none was."""
    stacks = inserted([(0, 2), (2, 2), (4, 2)], table(([(1, [(MAIN, 0, 0)])], 4), ([], 3), ([], 1)), [0, 0, 0])
    missing = FrameMiss.INTERPRETER_FRAMES
    assert stacks == [[0, NamedFrame("main", "a.py", 1), missing, 1], [2, 3, missing], [4, 5]]


def test_a_stack_without_native_frames_keeps_its_python_frames() -> None:
    """Unwinding broke off at the leaf: what the interpreter says is true all the same."""
    (stack,) = inserted([(0, 0)], table(([(5, [(INNER, 0, 0)]), (9, [(MAIN, 0, 0)])], 0)), [0])
    assert stack == [NamedFrame("inner", "a.py", 5), NamedFrame("main", "a.py", 1)]
