"""The ledger's rows, added up per node and epoch, for `aggregator.ledger`."""

from aggregator.ledger import GRACE_S, EpochAccount, Rejected
from aggregator.storage.engine import Engine
from aggregator.storage.types import DAY_S

_ONCE = "SETTINGS do_not_merge_across_partitions_select_final = 1"
"""A batch's row may stand twice for a while, in one partition: FINAL takes it once, without looking across days."""


def find_epochs(engine: Engine, now: int, dropped_until: int) -> list[EpochAccount]:
    """One account for each run of each agent of which a batch is stored, by node and epoch."""
    settled = now - GRACE_S
    answer = engine.query(
        "SELECT CAST(node, 'String') AS name, epoch AS run, count() AS batches, min(sequence) AS first,"
        " sum(taken) AS took, sum(stored) AS kept, sumMap(lost) AS missed,"
        " sumMap(degraded) AS worse, argMin(taken_in_epoch - taken, sequence) AS earlier, max(taken_in_epoch) AS total,"
        f" sumIf(taken, received <= {settled}) AS settled_took,"
        f" maxIf(taken_in_epoch, received <= {settled}) AS settled_total,"
        " toUInt64(min(time)) AS begin, toUInt64(max(time)) AS end, toUInt64(max(received)) AS heard,"
        " argMax(period_ns, time) AS period"
        f" FROM ledger FINAL GROUP BY name, run ORDER BY name, run {_ONCE}"
    )
    numbers = {
        name: answer.numbers(name).tolist()
        for name in (
            *("batches", "first", "took", "kept", "earlier", "total", "settled_took", "settled_total"),
            *("begin", "end", "heard", "period"),
        )
    }
    lost, degraded = answer.maps("missed"), answer.maps("worse")
    epochs = []
    for row, (name, run) in enumerate(zip(answer.strings("name"), answer.strings("run"), strict=True)):
        at = {key: column[row] for key, column in numbers.items()}
        # The epoch's beginning went with a day that was dropped, if what is left of it begins right after one.
        cut = at["first"] > 1 and at["begin"] < dropped_until + DAY_S
        epochs.append(
            EpochAccount(
                node=name,
                epoch=run,
                batches=at["batches"],
                taken=at["took"],
                stored=at["kept"],
                lost=lost[row],
                degraded=degraded[row],
                before=at["earlier"] if cut else 0,
                taken_in_epoch=at["total"],
                settled_taken=at["settled_took"],
                settled_total=at["settled_total"],
                last_window=at["end"],
                last_received=at["heard"],
                period_ns=at["period"],
            )
        )
    return epochs


def find_rejected(engine: Engine) -> list[Rejected]:
    """Messages that were set aside, by node and reason."""
    answer = engine.query(
        "SELECT CAST(node, 'String') AS name, CAST(reason, 'String') AS why, count() AS messages, sum(samples) AS held"
        f" FROM rejected FINAL GROUP BY name, why ORDER BY name, why {_ONCE}"
    )
    rows = zip(
        answer.strings("name"),
        answer.strings("why"),
        answer.numbers("messages").tolist(),
        answer.numbers("held").tolist(),
        strict=True,
    )
    return [Rejected(node=name, reason=why, messages=messages, samples=held) for name, why, messages, held in rows]
