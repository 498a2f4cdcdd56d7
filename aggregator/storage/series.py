"""Series: which ones a query asks for, and what they are called when it does not matter where they ran.

A series' labels tell a place (node, container) and what ran there. Most questions are about the latter, and all nodes
of a fleet together have hardly more stacks than a few of them: so sums are kept also of **series of the fleet**, whose
labels are those of series without `PLACES`. A hundred nodes are then read as quickly as five. The id of such a series
follows from the labels that are left, as that of any series does; it is not stored.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from aggregator.selector import Matcher, MatchOp
from aggregator.storage import ids
from aggregator.storage.engine import Engine
from aggregator.storage.types import DAY_S
from fleetflame.model import Labels

PLACES = frozenset({"node", "container", "pod", "instance", "host", "pid", "thread"})
"""Labels that tell one place from another, by our names and by the customary ones. What asks for none of them is
answered from sums of the fleet. Part of the stored schema: with others, sums that are stored would not be found."""


def find_series(
    engine: Engine, matchers: Sequence[Matcher], start: int, end: int
) -> tuple[NDArray[np.uint64], list[Labels]]:
    """Ids and labels of the series that match, of the days that [start, end) touches, by id."""
    where, parameters = conditions(matchers)
    first_day = start // DAY_S * DAY_S
    sql = (
        "SELECT series, any(labels) AS found FROM series"
        f" WHERE day >= {first_day} AND day < {end} AND {where} GROUP BY series ORDER BY series"
    )
    answer = engine.query(sql, parameters)
    return answer.numbers("series"), [tuple(sorted(row.items())) for row in answer.maps("found")]


def conditions(matchers: Iterable[Matcher]) -> tuple[str, dict[str, str]]:
    """SQL over the column `labels` that holds for series that all `matchers` accept, and its parameters.

    An absent label is an empty one: that is what a map gives for a key it does not have.
    """
    terms: list[str] = ["1"]
    parameters: dict[str, str] = {}
    for number, matcher in enumerate(matchers):
        value = f"labels[{{n{number}:String}}]"
        regex = matcher.op in (MatchOp.RE, MatchOp.NRE)
        test = f"match({value}, {{v{number}:String}})" if regex else f"{value} = {{v{number}:String}}"
        terms.append(test if matcher.op in (MatchOp.EQ, MatchOp.RE) else f"NOT {test}")
        parameters |= {f"n{number}": matcher.name, f"v{number}": matcher.pattern if regex else matcher.value}
    return " AND ".join(terms), parameters


def of_fleet(labels: Iterable[Labels]) -> NDArray[np.uint64]:
    """The id of the fleet's series that each of these series is part of."""
    parts = [tuple(pair for pair in each if pair[0] not in PLACES) for each in labels]
    known = {part: ids.series_id(part) for part in set(parts)}
    return np.array([known[part] for part in parts], np.uint64)
