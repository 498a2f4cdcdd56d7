"""What goes into the store comes out: exact, once, whatever the order, the place and the accidents."""

import random
from pathlib import Path

import numpy as np
import pytest

from aggregator.selector import parse_selector
from aggregator.storage import Store
from aggregator.storage.ids import mapping_id, named_id
from aggregator.storage.types import ProfileQuery, Selected, StorageOptions, StoreError
from fleetflame.errors import UsageError
from fleetflame.model import FrameMiss
from tests.aggregator.storage.conftest import OpenStore
from tests.aggregator.storage.fleet import (
    DAY,
    JIT,
    KERNEL,
    LIBC,
    MISS,
    NAMED,
    PERIOD,
    accepted,
    as_bytes,
    as_sum,
    batch,
    brute_force,
    labels,
    random_fleet,
)

SECOND = 10**9


def ask(
    store: Store, selector: str = "cpu", start: int = DAY, end: int = DAY + 3600, by: tuple[str, ...] = ("comm",)
) -> Selected:
    """The answer to `selector` over the windows of [start, end)."""
    query = ProfileQuery(selector=parse_selector(selector), from_ns=start * SECOND, until_ns=end * SECOND, by=by)
    return store.select(query)


def test_select_equals_a_brute_force_count(store: Store) -> None:
    """Counts are conserved, by group and stack, over a part of the range too."""
    fleet = random_fleet(1)
    store.insert([accepted(one) for one in fleet])
    for by in ((), ("comm",), ("comm", "node"), ("comm", "service", "absent")):
        assert as_sum(ask(store, by=by)) == brute_force(fleet, by, DAY, DAY + 3600)
        assert as_sum(ask(store, by=by, start=DAY + 20, end=DAY + 70)) == brute_force(fleet, by, DAY + 20, DAY + 70)


def test_any_order_and_grouping_of_inserts_gives_the_same_bytes(open_store: OpenStore) -> None:
    """One insert, one a batch in random order, and everything twice: the answer's bytes are equal."""
    fleet = [accepted(one) for one in random_fleet(2)]
    store = open_store()
    shuffled = fleet[:]
    random.Random(3).shuffle(shuffled)
    for one in shuffled[:20]:
        store.insert([one])
    store.insert(shuffled[15:] + shuffled[:3])
    piecewise = as_bytes(ask(store, by=("comm", "node")))
    store.engine.command("TRUNCATE TABLE samples")
    store.insert(fleet)
    assert as_bytes(ask(store, by=("comm", "node"))) == piecewise


def test_a_batch_delivered_again_is_stored_once(store: Store) -> None:
    """Redelivery in the same call, in a later one, and to a store that has just been opened."""
    one = accepted(batch([(labels(comm="nginx"), 0, 5)]))
    assert store.insert([one, one]).batches == 1
    again = store.insert([one])
    assert (again.batches, again.duplicates) == (0, 1)
    assert store.known([one]) == {one.id}
    assert ask(store).count.sum() == 5


def test_a_crash_between_samples_and_ledger_is_mended_by_redelivery(store: Store) -> None:
    """The samples are there and the ledger row is not: redelivery adds the row and no sample."""
    one = accepted(batch([(labels(comm="nginx"), 0, 5)]))
    store.insert([one])
    store.engine.command("TRUNCATE TABLE ledger")
    assert store.insert([one]).batches == 0
    assert store.engine.query("SELECT stored FROM ledger")["stored"].tolist() == [5]
    assert ask(store).count.sum() == 5


def test_two_aggregators_that_store_one_message_at_once_count_it_once(store: Store) -> None:
    """Both found it unknown and inserted it: the rows stand twice in the table and once in the answer."""
    one, other = (accepted(batch([(labels(comm="nginx"), 0, 5)], sequence=n, time=DAY + 10 * n)) for n in (1, 2))
    store.insert([one, other])
    store.engine.command("SYSTEM STOP MERGES samples")
    store._writer._store_samples([one])
    assert store.engine.query("SELECT sum(count) AS c FROM samples WHERE type = 'cpu'")["c"][0] == 15
    assert ask(store).count.tolist() == [10]


@pytest.mark.parametrize(
    ("selector", "equal"),
    [
        ('cpu{service="checkout"}', ["checkout"]),
        ('cpu{service=~"check.*"}', ["checkout"]),
        ('cpu{service=~"heck"}', []),
        ('cpu{service!="checkout"}', ["", "search"]),
        ('cpu{service!~"check.+|sea.+"}', [""]),
        ('cpu{service=""}', [""]),
        ('cpu{service!=""}', ["checkout", "search"]),
        ('cpu{service=~".*"}', ["", "checkout", "search"]),
        ('cpu{service=~"", comm="nginx"}', [""]),
        ('cpu{service=~"search|", comm="nginx"}', ["", "search"]),
        ('heap{service="checkout"}', []),
    ],
)
def test_matchers_mean_what_they_mean_in_prometheus(store: Store, selector: str, equal: list[str]) -> None:
    """An absent label is an empty one, expressions match the whole value."""
    rows = [(labels(comm="nginx", **extra), 0, 1) for extra in ({"service": "checkout"}, {"service": "search"}, {})]
    store.insert([accepted(batch(rows))])
    assert [group[0] for group in ask(store, selector, by=("service",)).groups] == equal


@pytest.mark.parametrize("value", ["it's", 'a"b', "back\\slash", "tab\tline\nend", "{x:String}", "ünï", "%s\\N", ""])
def test_any_text_can_be_a_label_and_be_asked_for(store: Store, value: str) -> None:
    """Values travel as parameters: no quoting goes wrong, nothing is taken for SQL."""
    store.insert([accepted(batch([(labels(comm="x", odd=value or "empty"), 0, 1), (labels(comm="y"), 0, 1)]))])
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert ask(store, f'{{odd="{quoted}"}}', by=("odd",)).groups == ((value,),)


def test_a_regular_expression_that_only_the_engine_refuses_is_a_usage_error(store: Store) -> None:
    """The parser refuses bad ones first; should they differ, the engine's word reaches the user as his own mistake."""
    with pytest.raises(UsageError, match="regular expression"):
        store.engine.query("SELECT match('x', {p:String}) AS m", {"p": "(("})


def test_profile_types_are_apart(store: Store) -> None:
    """A selector's type picks the samples of that type only; the markers' own type is nobody's."""
    store.insert([accepted(batch([(labels(comm="x"), 0, 3)], sequence=1))])
    store.insert([accepted(batch([(labels(comm="x"), 0, 4)], sequence=2, profile="heap"))])
    assert ask(store, "heap").count.tolist() == [4]
    assert ask(store, "cpu").value.tolist() == [3 * PERIOD]


def test_frames_come_back_as_they_were_announced(store: Store) -> None:
    """Mappings, addresses, names, placeholders, root first; unknown ids are left out."""
    one = accepted(batch([(labels(comm="x"), number, 1) for number in range(5)]))
    store.insert([one])
    wanted = np.append(one.stacks.ids, np.uint64(12345))
    for _ in range(2):  # from the table, then from the cache
        frames = store.frames(wanted)
        assert sorted(frames.stacks.tolist()) == sorted(one.stacks.ids.tolist())
        row = frames.stacks.tolist().index(int(one.stacks.ids[2]))
        span = slice(frames.offsets[row], frames.offsets[row + 1])
        assert frames.mapping[span].tolist() == [mapping_id(JIT)] * 2
        assert frames.address[span].tolist() == [named_id(NAMED[0]), named_id(NAMED[1])]
    assert store.mappings(frames.mapping.tolist()) == {mapping_id(m): m for m in (LIBC, KERNEL, JIT, MISS)}
    assert store.named(map(named_id, NAMED)) == {named_id(frame): frame for frame in NAMED}
    assert {build.mapping for build in store.builds()} == {LIBC, KERNEL}


def test_samples_with_an_unknown_number_are_kept_under_a_placeholder(store: Store) -> None:
    """Count and value stay; the stack says that its frames never came, and the ledger that it is degraded."""
    made = batch([(labels(comm="x"), 0, 2), (labels(comm="x"), 4, 3)])
    made.sample_number[1] = 99
    one = accepted(made)
    store.insert([one])
    found = ask(store)
    assert found.count.sum() == 5
    frames = store.frames(found.stack)
    assert FrameMiss.NOT_RECEIVED in frames.address.tolist()
    assert store.mappings([mapping_id(MISS)]) == {mapping_id(MISS): MISS}
    assert one.ledger.degraded == {"depth_limit": 1, "not_received": 3}


def test_everything_is_there_after_a_restart(open_store: OpenStore) -> None:
    """Samples, frames and labels outlive the process that stored them."""
    fleet = random_fleet(5)
    store = open_store()
    store.insert([accepted(one) for one in fleet])
    before = as_bytes(ask(store))
    frames = store.frames(ask(store).stack)
    store.close()
    store = open_store()
    assert as_bytes(ask(store)) == before
    assert store.frames(frames.stacks).address.tolist() == frames.address.tolist()
    assert store.insert([accepted(one) for one in fleet]).batches == 0


def test_a_data_folder_belongs_to_one_process(tmp_path: Path) -> None:
    """A second opener is told who has it, and the first is not disturbed."""
    options = StorageOptions(location=str(tmp_path / "store"))
    store = Store(options)
    with pytest.raises(StoreError, match=r"in use by process \d+"):
        Store(options)
    store.insert([accepted(batch([(labels(comm="x"), 0, 1)]))])
    store.close()
    Store(options).close()


def test_a_closed_store_answers_nobody(open_store: OpenStore) -> None:
    """A thread that is late is told, and the folder is free for the next one."""
    store = open_store()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.status()
    open_store()


def test_a_server_that_is_not_there_is_an_error_with_a_hint() -> None:
    """Nobody listens on that port."""
    with pytest.raises(StoreError) as raised:
        Store(StorageOptions(location="http://127.0.0.1:9/fleetflame"))
    assert raised.value.hint
