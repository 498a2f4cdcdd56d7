"""The ledger as the store keeps it."""

import random

from aggregator.storage import Store
from aggregator.storage.announced import Rejection
from fleetflame.errors import RejectReason
from tests.aggregator.storage.conftest import OpenStore
from tests.aggregator.storage.fleet import DAY, accepted, batch, labels, random_fleet

LATER = DAY + 86_400


def test_the_books_balance_for_a_fleet_in_any_order(open_store: OpenStore) -> None:
    """After a restart, redelivery and in random order too."""
    fleet = random_fleet(7)
    batches = [accepted(one) for one in fleet]
    random.Random(1).shuffle(batches)
    store = open_store()
    store.insert(batches[:20])
    store.close()
    store = open_store()
    store.insert(batches[10:])
    ledger = store.status(LATER)
    assert ledger.balances
    assert ledger.total.stored == ledger.total.taken == sum(one.ledger.taken for one in fleet)
    assert [node.node for node in ledger.nodes] == [f"web-{n}.example" for n in range(3)]
    assert store.nodes()[0].last_window == DAY + 110


def test_a_lost_message_shows_as_missing_after_a_while(store: Store) -> None:
    """It may be under way at first."""
    rows = [(labels(comm="x"), 0, 10)]
    first, lost, last = (batch(rows, sequence=n, time=DAY + 10 * n, before=10 * (n - 1)) for n in (1, 2, 3))
    store.insert([accepted(first), accepted(last)])
    young = store.status(DAY + 61)
    assert (young.total.in_flight, young.total.missing, young.balances) == (10, 0, True)
    old = store.status(LATER)
    assert (old.total.taken, old.total.missing, old.balances) == (30, 10, False)
    store.insert([accepted(lost)])
    assert store.status(LATER).balances


def test_rejections_are_counted_once_each(store: Store) -> None:
    """However often the same message comes."""
    one = Rejection(node="web-9", reason=RejectReason.PROTOBUF, time=DAY, message=1)
    other = Rejection(node="web-9", reason=RejectReason.FUTURE, time=DAY, message=2, samples=5)
    store.reject([one, other])
    store.reject([one])
    assert store.status(LATER).nodes[0].rejected == {"bad_protobuf": 1, "from_the_future": 1}


def test_reported_losses_and_labels_are_there(store: Store) -> None:
    """Lost by reason, degraded by reason; names and values of labels."""
    store.insert([accepted(batch([(labels(comm="x", service="s"), 0, 10)], lost=4))])
    account = store.status(LATER).total
    assert (account.taken, dict(account.lost), dict(account.degraded)) == (
        14,
        {"stack_map_full": 4},
        {"depth_limit": 1},
    )
    assert store.label_names(DAY * 10**9, LATER * 10**9) == ["comm", "node", "service"]
    assert store.label_values("node", DAY * 10**9, LATER * 10**9) == ["web-1"]
