"""The books balance exactly if every sample is accounted for."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aggregator.ledger import Account, EpochAccount, Rejected, make_ledger

WHOLE = EpochAccount(
    node="web-1",
    epoch="aa",
    batches=3,
    taken=100,
    stored=90,
    lost={"stack_map_full": 10},
    degraded={},
    before=0,
    taken_in_epoch=100,
    settled_taken=100,
    settled_total=100,
    last_window=50,
    last_received=60,
)


def books(epoch: EpochAccount, *rejected: Rejected) -> Account:
    """The account of the one node."""
    (account,) = make_ledger([epoch], rejected).nodes
    return account


def test_everything_arrived() -> None:
    """Stored and reported lost add up to taken."""
    account = books(WHOLE)
    assert (account.taken, account.stored, account.total_lost, account.difference) == (100, 90, 10, 0)
    assert account.balances


def test_a_batch_that_never_came_is_missing() -> None:
    """A later batch's running total tells how much it held."""
    account = books(replace(WHOLE, taken_in_epoch=130, settled_total=130))
    assert (account.taken, account.missing, account.difference, account.balances) == (130, 30, 30, False)


def test_a_batch_that_may_still_come_is_in_flight() -> None:
    """Only young batches speak of its samples."""
    account = books(replace(WHOLE, taken_in_epoch=130))
    assert (account.taken, account.missing, account.in_flight, account.balances) == (130, 0, 30, True)


def test_what_was_set_aside_explains_a_gap() -> None:
    """By its samples where they could be read, else whatever the gap."""
    short = replace(WHOLE, taken_in_epoch=130, settled_total=130)
    assert books(short, Rejected(node="web-1", reason="from_the_future", messages=1, samples=30)).balances
    assert books(short, Rejected(node="web-1", reason="from_the_future", messages=1, samples=20)).difference == 10
    assert books(short, Rejected(node="web-1", reason="bad_protobuf", messages=1, samples=0)).balances


def test_samples_before_dropped_days_are_not_missing() -> None:
    """An epoch whose beginning went by retention starts its count there."""
    assert books(replace(WHOLE, before=900, taken_in_epoch=1000, settled_total=1000)).balances


def test_a_node_that_only_sent_garbage_is_listed() -> None:
    """With its rejections, and nothing else."""
    ledger = make_ledger([], [Rejected(node="x", reason="bad_protobuf", messages=7, samples=0)])
    assert ledger.total.rejected == {"bad_protobuf": 7}
    assert ledger.nodes[0].rejected == {"bad_protobuf": 7}
    assert ledger.balances


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 99))))
def test_the_total_is_the_sum_of_the_nodes(rows: list[tuple[str, int, int, int]]) -> None:
    """Whatever the fleet, each sum equals the nodes' and taken is fully divided up."""
    epochs = [
        replace(
            WHOLE,
            node=node,
            epoch=str(number),
            taken=stored + lost,
            stored=stored,
            lost={"a": lost},
            taken_in_epoch=stored + lost + gap,
            settled_taken=stored + lost,
            settled_total=stored + lost + gap // 2,
        )
        for number, (node, stored, lost, gap) in enumerate(rows)
    ]
    ledger = make_ledger(epochs, [])
    for name in ("taken", "stored", "missing", "in_flight", "difference", "batches"):
        assert getattr(ledger.total, name) == sum(getattr(node, name) for node in ledger.nodes)
    for node in (*ledger.nodes, ledger.total):
        assert node.taken == node.stored + node.total_lost + node.missing + node.in_flight
