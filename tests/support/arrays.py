"""The arrays that the kernel's unwinder reads, in this process's memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class MemoryArray:
    """What `kernelmaps.ArrayMap` is for the kernel."""

    def __init__(self, dtype: "np.dtype[Any]", entries: int) -> None:
        self.values: NDArray[Any] = np.zeros(entries, dtype)
        self.entries = entries

    def write(self, first: int, values: NDArray[Any]) -> None:
        assert first >= 0
        assert first + len(values) <= self.entries, "beyond the end"
        self.values[first : first + len(values)] = values
