"""What the handlers work with; made once by app.py, so that nothing here is global."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.config import AggregatorConfig
from aggregator.heartbeats import NodeEntry

if TYPE_CHECKING:
    from aggregator.query import QueryService
    from aggregator.storage import Store
    from aggregator.symbols.service import SymbolService


def _said_nothing(_: str) -> NodeEntry:
    return NodeEntry()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The running aggregator as its API sees it."""

    config: AggregatorConfig
    store: "Store"
    queries: "QueryService"
    symbols: "SymbolService"
    clock: Callable[[], int]
    """Nanoseconds since 1970."""
    troubles: Callable[[], dict[str, str]]
    """What keeps this aggregator from its work now: part -> what is wrong with it. Empty: ready."""
    version: str
    entry: Callable[[str], NodeEntry] = _said_nothing
    """What a node said of itself last."""
