"""Which mapping an address of one address space belongs to, for many addresses at once. Pure and immutable.

A process's memory and the kernel's are looked up alike: ranges in ascending order, and for each the mapping and what to
subtract. Ranges without an offset (misses, frames that only the node can name) have one address for all of the range.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleetflame.model import FrameMiss, Mapping, MappingKind

NOWHERE = -1
"""Target of an address that lies in no range."""

MISS = Mapping(MappingKind.MISS)
"""The mapping of all placeholder frames."""


class Range(NamedTuple):
    """Addresses [start, end) are `mapping`'s: at address - `bias`, or all at `fixed` where that is not None."""

    start: int
    end: int
    mapping: Mapping
    bias: int = 0
    fixed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressTable:
    """Column i of each array is one range; `target` is its index in `targets`, `value` its bias or fixed address."""

    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    value: NDArray[np.uint64]
    fixed: NDArray[np.bool]
    target: NDArray[np.int32]
    targets: tuple[Mapping, ...]

    def resolve(self, addresses: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """For each address the index in `targets` or NOWHERE, and the address within that mapping (0 if NOWHERE)."""
        if not len(self.start):
            return np.full(len(addresses), NOWHERE, np.int32), np.zeros(len(addresses), np.uint64)
        at = np.searchsorted(self.start, addresses, side="right") - 1
        inside = (at >= 0) & (addresses < self.end[at])
        at[~inside] = 0
        value = self.value[at]
        # Unsigned and modulo 2^64: a bias is negative where a file's offset exceeds the address it is mapped at.
        within = np.where(self.fixed[at], value, addresses - value)
        return np.where(inside, self.target[at], np.int32(NOWHERE)), np.where(inside, within, np.uint64(0))


def build_table(ranges: Iterable[Range]) -> AddressTable:
    """The table of these ranges. Where two overlap, the one that starts later holds from its start on."""
    rows = sorted(ranges, key=lambda row: (row.start, row.end))
    # By identity, not by value: a build has one mapping object, and hashing one costs more than all else here.
    targets = {id(row.mapping): row.mapping for row in rows}
    number = {key: index for index, key in enumerate(targets)}
    return AddressTable(
        start=np.array([row.start for row in rows], np.uint64),
        end=np.array([row.end for row in rows], np.uint64),
        value=np.array([(row.bias if row.fixed is None else row.fixed) % (1 << 64) for row in rows], np.uint64),
        fixed=np.array([row.fixed is not None for row in rows], np.bool),
        target=np.array([number[id(row.mapping)] for row in rows], np.int32),
        targets=tuple(targets.values()),
    )


def miss_range(start: int, end: int, miss: FrameMiss) -> Range:
    """A range of which every address is the same placeholder."""
    return Range(start, end, MISS, fixed=miss)
