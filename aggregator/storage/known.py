"""Which ids are in the store already, in bounded memory."""

import numpy as np
from numpy.typing import NDArray

_MERGE_AT = 1 << 14


class KnownIds:
    """A set of 64-bit ids that forgets: the oldest half goes when `limit` is reached. 8 bytes an id.

    Forgetting costs a needless insert of a row that its table collapses, nothing else. Not for two threads at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(limit, 2)
        self._old = np.zeros(0, np.uint64)
        self._young = np.zeros(0, np.uint64)
        self._fresh: set[int] = set()

    def __len__(self) -> int:
        return len(self._old) + len(self._young) + len(self._fresh)

    def unknown(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of `ids` that were never added, or forgotten; of equal ids the first row only. Ascending."""
        unique, first = np.unique(ids, return_index=True)
        absent = ~(_contains(self._old, unique) | _contains(self._young, unique))
        rows = np.sort(first[absent])
        if self._fresh:
            rows = np.array([row for row in rows.tolist() if int(ids[row]) not in self._fresh], np.int64)
        return rows.astype(np.int64)

    def add(self, ids: NDArray[np.uint64]) -> None:
        """From now on `ids`, each once, are known."""
        if len(ids) < _MERGE_AT:
            self._fresh.update(ids.tolist())
            if len(self._fresh) < _MERGE_AT and len(self) < self._limit:
                return
            ids = np.fromiter(self._fresh, np.uint64, len(self._fresh))
            self._fresh.clear()
        self._young = np.sort(np.concatenate((self._young, ids)))
        if len(self._young) >= self._limit // 2:
            self._old, self._young = self._young, np.zeros(0, np.uint64)


def _contains(ascending: NDArray[np.uint64], ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(ids), np.bool_)
    at = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.equal(ascending[at], ids)
