"""The frames in memory: bounded, shared by threads, and never older than a moment."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from random import Random

import numpy as np

from aggregator.storage import Store
from aggregator.storage.frames import MAPPINGS_S, FrameStore, MappingStore
from aggregator.storage.ids import mapping_id
from aggregator.storage.types import Frames
from fleetflame.model import Mapping
from tests.aggregator.storage.fleet import LIBC, STACKS, accepted, batch, labels

Rows = list[tuple[int, list[tuple[int, int]]]]


def filled(store: Store) -> np.ndarray:
    """The ids of STACKS, stored."""
    made = accepted(batch([(labels(comm="a"), number, 1) for number in range(len(STACKS))]))
    store.insert([made])
    return made.stacks.ids


def rows(frames: Frames) -> Rows:
    """Frames as stack ids with (mapping id, address) pairs."""
    pairs = list(zip(frames.mapping.tolist(), frames.address.tolist(), strict=True))
    return [(stack, pairs[a:b]) for stack, (a, b) in zip(frames.stacks.tolist(), pairwise(frames.offsets), strict=True)]


def test_frames_are_the_same_however_little_may_be_kept(store: Store) -> None:
    """With room for all, for some, for one and for none."""
    stacks = filled(store)
    expected = rows(store.frames(stacks))
    assert len(expected) == len(STACKS)
    for limit in (1 << 20, 8, 4, 0):
        kept, random = FrameStore(store.engine, limit), Random(limit)
        for _ in range(12):
            some = np.array(random.sample(stacks.tolist(), random.randint(0, len(stacks))), np.uint64)
            end = kept.tree(some)[1]
            assert (end >= 0).all()
            assert rows(kept.frames(some)) == [row for row in expected if row[0] in some]
            assert len(kept.tree(some[:0])[0].tree) <= max(limit, 1)


def test_threads_that_ask_at_once_all_get_their_stacks(store: Store) -> None:
    """Also when there is room for one question's stacks only, and each question takes it from another."""
    stacks = filled(store)
    kept = FrameStore(store.engine, 4)

    def ask(seed: int) -> bool:
        some = np.array(Random(seed).sample(stacks.tolist(), 2), np.uint64)
        tree, end = kept.tree(some)
        return bool((end >= 0).all()) and np.array_equal(tree.rows(some, end).ids, some)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(40)))


def test_a_stack_that_is_not_stored_has_no_end(store: Store) -> None:
    """And is looked for again the next time."""
    stacks = filled(store)
    unknown = np.append(stacks[:1], np.uint64(12345))
    assert store.tree(unknown)[1].tolist()[1] == -1
    assert store.tree(unknown)[1].tolist()[0] >= 0


def test_what_is_known_of_a_mapping_is_looked_at_again(store: Store) -> None:
    """At once after this process stored something of it, and soon after another one did."""
    number, now = mapping_id(LIBC), [0.0]
    kept = MappingStore(store.engine, lambda: now[0])
    assert kept.mappings([number], 0) == {}
    bare = Mapping(LIBC.kind, LIBC.build_id, "")
    store._writer._store_mappings(0, [bare])
    assert kept.mappings([number], 0) == {number: bare}
    store._writer._store_mappings(0, [LIBC])
    assert kept.mappings([number], 0) == {number: bare}
    assert kept.mappings([number], 1) == {number: LIBC}
    store._writer._store_mappings(7 * 86_400, [bare])
    now[0] += MAPPINGS_S + 1
    assert kept.mappings([number], 1) == {number: LIBC}


def test_a_store_sees_its_own_mappings_at_once(store: Store) -> None:
    """The segments that a second batch brings name what the first one sampled."""
    number = mapping_id(LIBC)
    store._writer._store_mappings(0, [Mapping(LIBC.kind, LIBC.build_id, "")])
    assert store.mappings([number])[number].segments == ()
    filled(store)
    assert store.mappings([number])[number] == LIBC
