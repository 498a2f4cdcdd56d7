"""Stacks as columns, compared with stacks as lists."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent import frames
from agent.frames import Pool, Segments, add_up, assemble_unique, gather, in_batches

Frame = tuple[int, int]
stacks_of_frames = st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=4), max_size=8)


def pool_of(stacks: list[list[Frame]]) -> tuple[Pool, Segments]:
    """A pool with these stacks as segments, leaf first."""
    flat = [frame for stack in stacks for frame in stack]
    lengths = np.array([len(stack) for stack in stacks], np.int64)
    pool = Pool(
        mapping=np.array([frame[0] for frame in flat], np.uint32),
        address=np.array([frame[1] for frame in flat], np.uint64),
    )
    return pool, Segments(start=np.cumsum(lengths) - lengths, length=lengths)


@given(stacks_of_frames, st.data())
def test_gathered_frames_are_those_of_the_stacks(stacks: list[list[Frame]], data: st.DataObject) -> None:
    """In any order, repeated or not; only the first of each is no caller."""
    flat = [frame for stack in stacks for frame in stack]
    offsets = np.append(0, np.cumsum([len(stack) for stack in stacks])).astype(np.uint32)
    chosen = data.draw(st.lists(st.integers(0, len(stacks) - 1), max_size=6) if stacks else st.just([]))
    found = gather(offsets, np.array(chosen, np.int64))
    assert [flat[index] for index in found.index] == [frame for number in chosen for frame in stacks[number]]
    assert found.stack.tolist() == [at for at, number in enumerate(chosen) for _ in stacks[number]]
    assert found.is_caller.tolist() == [at > 0 for number in chosen for at in range(len(stacks[number]))]


@given(stacks_of_frames, st.data())
def test_stacks_are_put_together_root_first_and_once(stacks: list[list[Frame]], data: st.DataObject) -> None:
    """Two parts a stack, each turned round; equal stacks have one number, whatever they were made of."""
    pool, segments = pool_of(stacks)
    pair = st.tuples(*[st.integers(0, len(stacks) - 1)] * 2)
    pairs = data.draw(st.lists(pair, max_size=10)) if stacks else []
    upper, lower = (np.array([p[at] for p in pairs], np.int64) for at in range(2))
    table, numbers = assemble_unique(pool, [segments.pick(upper), segments.pick(lower)])
    content = [
        list(zip(table.mapping[a:b].tolist(), table.address[a:b].tolist(), strict=True))
        for a, b in zip(table.offsets[:-1], table.offsets[1:], strict=True)
    ]
    assert [content[number] for number in numbers] == [stacks[a][::-1] + stacks[b][::-1] for a, b in pairs]
    assert len({tuple(stack) for stack in content}) == len(content) == len(set(numbers.tolist()))


def test_batches_do_not_show() -> None:
    """More stacks than are worked on at once give the same as one by one."""
    count = frames.BATCH * 2 + 5
    pool = Pool(mapping=np.zeros(count, np.uint32), address=np.arange(count, dtype=np.uint64) // 2)
    parts = Segments(start=np.arange(count), length=np.ones(count, np.int64))
    table, numbers = assemble_unique(pool, [parts])
    assert table.address.tolist() == list(range(count // 2 + 1))
    assert numbers.tolist() == [n // 2 for n in range(count)]
    assert np.concatenate(list(in_batches(numbers))).tolist() == numbers.tolist()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 1 << 60)), max_size=20))
def test_rows_are_added_up_exactly(rows: list[tuple[int, int, int]]) -> None:
    """Each pair once, ascending; sums are those of whole numbers."""
    columns = [np.array([row[at] for row in rows], np.int64) for at in range(3)]
    major, minor, count = add_up(columns[0], columns[1], columns[2].astype(np.uint64))
    expected: Counter[tuple[int, int]] = Counter()
    for a, b, n in rows:
        expected[a, b] += n
    found = list(zip(major.tolist(), minor.tolist(), count.tolist(), strict=True))
    assert found == [(a, b, n % (1 << 64)) for (a, b), n in sorted(expected.items())]
