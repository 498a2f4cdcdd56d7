"""What stack numbers mean, in bounded memory: one table for each (node, epoch, dictionary) that was heard of lately."""

from collections import OrderedDict
from collections.abc import Callable

from aggregator import metrics
from aggregator.storage.accept import NO_NUMBERS, Numbers, announced
from aggregator.storage.types import StackRows
from fleetflame.model import Batch

MAX_NUMBERS = 4 << 20
"""Numbers in memory, 12 bytes each. A node of 2 CPUs has some 5,000: room for 800 of them, the rest is read back."""

Key = tuple[str, bytes, int]
"""Node, epoch, dictionary."""


class NumberTables:
    """Numbers by dictionary; the one that was used least recently goes when there are too many."""

    def __init__(self, load: Callable[[str, bytes, int], Numbers], limit: int = MAX_NUMBERS) -> None:
        """`load` reads what the store knows of a dictionary."""
        self._load = load
        self._limit = limit
        self._tables: OrderedDict[Key, Numbers] = OrderedDict()
        self._size = 0

    def resolve(self, batch: Batch) -> tuple[StackRows, Numbers, bool]:
        """The stacks that `batch` announces, its dictionary's numbers with them, and whether all it uses are known.

        Asks the store when a number is not in memory. Raises StoreError.
        """
        key = (batch.node, batch.epoch, batch.dictionary)
        stacks = announced(batch)
        numbers = self._tables.get(key, NO_NUMBERS).with_stacks(batch.first_number, stacks.ids)
        whole = bool(numbers.find(batch.sample_number)[1].all())
        if not whole:
            stored = self._load(*key)
            numbers = numbers.merged(stored)
            whole = bool(numbers.find(batch.sample_number)[1].all())
        self._keep(key, numbers)
        return stacks, numbers, whole

    def _keep(self, key: Key, numbers: Numbers) -> None:
        self._size += len(numbers) - len(self._tables.pop(key, NO_NUMBERS))
        self._tables[key] = numbers
        while self._size > self._limit and len(self._tables) > 1:
            _, gone = self._tables.popitem(last=False)
            self._size -= len(gone)
        metrics.NUMBER_TABLES.set(len(self._tables))
