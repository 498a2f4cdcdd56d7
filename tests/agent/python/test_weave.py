"""Words of Python frames, and their places among native ones, against the plainest way of doing it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.python.weave import parse_words, weave

RUN = 1 << 63

Run = tuple[int, list[tuple[int, int, int]]]
"""(native frames nearer to the leaf, [(code, offset, checksum)])."""

frames = st.tuples(st.integers(1, (1 << 56) - 1), st.integers(-2, 1 << 20), st.integers(0, (1 << 32) - 1))
runs = st.lists(st.tuples(st.integers(0, 128), st.lists(frames, max_size=4)), max_size=4)


def words_of(stack: list[Run]) -> list[int]:
    words = []
    for native, some in stack:
        for code, offset, checksum in some:
            words += [code, (offset & 0x7FFFFFFF) << 32 | checksum]
        words.append(RUN | native)
    return words


@given(st.lists(runs, max_size=5))
def test_words_give_back_the_frames_that_they_were_made_of(stacks: list[list[Run]]) -> None:
    """Runs without frames and stacks without runs included."""
    words = [words_of(stack) for stack in stacks]
    owner = np.repeat(np.arange(len(stacks)), [len(some) for some in words])
    found = parse_words(np.array([word for some in words for word in some], np.uint64), owner)
    expected = [
        (number, native, *frame) for number, stack in enumerate(stacks) for native, some in stack for frame in some
    ]
    assert [
        *zip(
            found.stack.tolist(),
            found.native.tolist(),
            found.code.tolist(),
            found.offset.tolist(),
            found.checksum.tolist(),
            strict=True,
        )
    ] == expected


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=20), st.lists(st.integers(0, 3), max_size=20))
def test_any_words_give_frames_of_their_stacks(words: list[int], owners: list[int]) -> None:
    """Whatever stands there: nothing is read beyond a stack."""
    count = min(len(words), len(owners))
    found = parse_words(np.array(words[:count], np.uint64), np.array(sorted(owners[:count]), np.int64))
    assert set(found.stack.tolist()) <= set(owners[:count])
    assert len(found) <= count // 2


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.lists(st.integers(0, 8), max_size=4)), max_size=4),
)
def test_frames_stand_where_they_say(stacks: list[tuple[int, int, list[int]]]) -> None:
    """Native frames that are cut off are gone; what stood among them follows what is left."""
    natives = np.repeat(np.arange(len(stacks)), [count for count, _, _ in stacks])
    kept = np.array([min(kept, count) for count, kept, _ in stacks], np.int64)
    others = [(stack, native) for stack, (_, _, some) in enumerate(stacks) for native in sorted(some)]
    expected, number, other = [], 0, len(natives)
    for stack, (count, _, some) in enumerate(stacks):
        for position in range(int(kept[stack]) + 1):
            here = [n for n in sorted(some) if min(n, kept[stack]) == position]
            expected += range(other, other + len(here))
            other += len(here)
            expected += [number + position] if position < kept[stack] else []
        number += count
    columns = np.array(others, np.int64).reshape(-1, 2)
    assert weave(natives, kept, columns[:, 0], columns[:, 1]).tolist() == expected
