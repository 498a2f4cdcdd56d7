"""Does it add up? For every node, what the kernel counted against what became of it. Pure arithmetic.

    taken = stored + lost + rejected + missing + in flight

taken       what the node's agents say they have counted, in all their epochs (a start of the agent begins one)
stored      samples in the store; `degraded` of them have a placeholder in their stack
lost        by the node's own word, by reason
rejected    in batches that arrived and were set aside
missing     in batches that never arrived, known from the running total that later batches carry
in flight   the same, but so young that they may still arrive

The books balance if nothing is missing: every sample is accounted for by somebody, even if it is gone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

GRACE_S = 90
"""How old the youngest batch that speaks of a sample must be before that sample counts as missing: longer than a
message waits for another delivery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochAccount:
    """What the store knows of one run of one node's agent."""

    node: str
    epoch: str
    batches: int
    taken: int
    """Sum over the batches that arrived."""
    stored: int
    lost: Mapping[str, int]
    degraded: Mapping[str, int]
    before: int
    """Samples taken before the first batch that is known, and known to have been dropped with old days since."""
    taken_in_epoch: int
    """The highest running total that a batch carried."""
    settled_taken: int
    """`taken` and `settled_total`: the same for the batches that arrived more than `GRACE_S` ago."""
    settled_total: int
    last_window: int
    """Unix seconds."""
    last_received: int
    """Unix seconds."""
    period_ns: int = 0
    """What one sample was worth in the last window."""

    @property
    def absent(self) -> int:
        """Samples of batches that have not arrived (so far)."""
        return max(0, self.taken_in_epoch - self.before - self.taken)

    @property
    def overdue(self) -> int:
        """Those of them that should have arrived by now."""
        # A drop is reported in a later batch than the one whose total shows the gap: neither view alone is right.
        return min(self.absent, max(0, self.settled_total - self.before - self.settled_taken))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Messages of a node that were set aside for one reason."""

    node: str
    reason: str
    messages: int
    samples: int
    """Of those that could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One node's books, or all nodes' together."""

    node: str = ""
    epochs: int = 0
    batches: int = 0
    taken: int = 0
    stored: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    degraded: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Messages by reason."""
    rejected_samples: int = 0
    missing: int = 0
    in_flight: int = 0
    last_window: int = 0
    last_received: int = 0
    period_ns: int = 0

    @property
    def total_lost(self) -> int:
        """Samples that the node reports lost, whatever the reason."""
        return sum(self.lost.values())

    @property
    def difference(self) -> int:
        """Samples that nobody accounts for: 0 if the books balance."""
        return self.taken - self.stored - self.total_lost - self.rejected_samples - self.in_flight

    @property
    def balances(self) -> bool:
        """Whether every sample is accounted for."""
        return self.difference == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLedger:
    """All nodes' books, by name, and their sum."""

    nodes: tuple[Account, ...]
    total: Account

    @property
    def balances(self) -> bool:
        """Whether those of every node do."""
        return all(node.balances for node in self.nodes)


def make_ledger(epochs: Sequence[EpochAccount], rejected: Sequence[Rejected]) -> FleetLedger:
    """The books of every node that either speaks of."""
    by_node: dict[str, tuple[list[EpochAccount], list[Rejected]]] = {}
    for epoch in epochs:
        by_node.setdefault(epoch.node, ([], []))[0].append(epoch)
    for one in rejected:
        by_node.setdefault(one.node, ([], []))[1].append(one)
    nodes = tuple(_account(name, *by_node[name]) for name in sorted(by_node))
    return FleetLedger(nodes=nodes, total=_total(nodes))


def _account(name: str, epochs: Sequence[EpochAccount], rejected: Sequence[Rejected]) -> Account:
    absent = sum(epoch.absent for epoch in epochs)
    overdue = sum(epoch.overdue for epoch in epochs)
    # What was set aside has not arrived either: it explains as much of the gap. A batch that could not even be read
    # holds an unknown number of samples; then the gap, whatever its size, is what it left.
    unreadable = any(one.messages and not one.samples for one in rejected)
    explained = absent if unreadable else min(absent, sum(one.samples for one in rejected))
    missing = max(0, overdue - explained)
    latest = max(epochs, key=lambda epoch: epoch.last_window, default=None)
    return Account(
        node=name,
        epochs=len(epochs),
        batches=sum(epoch.batches for epoch in epochs),
        taken=sum(epoch.taken for epoch in epochs) + absent,
        stored=sum(epoch.stored for epoch in epochs),
        lost=_summed(epoch.lost for epoch in epochs),
        degraded=_summed(epoch.degraded for epoch in epochs),
        rejected={one.reason: one.messages for one in rejected},
        rejected_samples=explained,
        missing=missing,
        in_flight=absent - explained - missing,
        last_window=latest.last_window if latest else 0,
        last_received=max((epoch.last_received for epoch in epochs), default=0),
        period_ns=latest.period_ns if latest else 0,
    )


def _total(nodes: Sequence[Account]) -> Account:
    return Account(
        epochs=sum(node.epochs for node in nodes),
        batches=sum(node.batches for node in nodes),
        taken=sum(node.taken for node in nodes),
        stored=sum(node.stored for node in nodes),
        lost=_summed(node.lost for node in nodes),
        degraded=_summed(node.degraded for node in nodes),
        rejected=_summed(node.rejected for node in nodes),
        rejected_samples=sum(node.rejected_samples for node in nodes),
        missing=sum(node.missing for node in nodes),
        in_flight=sum(node.in_flight for node in nodes),
        last_window=max((node.last_window for node in nodes), default=0),
        last_received=max((node.last_received for node in nodes), default=0),
    )


def _summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items()))
