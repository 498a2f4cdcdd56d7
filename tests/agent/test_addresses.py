"""Ranges of one address space."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.addresses import MISS, NOWHERE, Range, build_table, miss_range
from fleetflame.buildid import BuildId
from fleetflame.model import FrameMiss, Mapping, MappingKind

FILE = Mapping(MappingKind.FILE, BuildId(b"1"))
LAST = (1 << 64) - 1


def resolve(ranges: list[Range], *addresses: int) -> list[tuple[Mapping | None, int]]:
    table = build_table(ranges)
    target, within = table.resolve(np.array(addresses, np.uint64))
    return [
        (None if t == NOWHERE else table.targets[t], w) for t, w in zip(target.tolist(), within.tolist(), strict=True)
    ]


def test_addresses_are_counted_from_the_bias() -> None:
    """Starts belong to a range, ends do not; a bias may be larger than the address."""
    ranges = [Range(0x1000, 0x2000, FILE, bias=0x400), Range(0x5000, 0x6000, FILE, bias=0x5000 - 0x900000)]
    assert resolve(ranges, 0xFFF, 0x1000, 0x1FFF, 0x2000, 0x5001, LAST) == [
        (None, 0),
        (FILE, 0xC00),
        (FILE, 0x1BFF),
        (None, 0),
        (FILE, 0x900001),
        (None, 0),
    ]


def test_a_fixed_range_has_one_address() -> None:
    """Placeholders and named frames do not count bytes."""
    ranges = [miss_range(0x1000, 0x2000, FrameMiss.ANONYMOUS)]
    assert resolve(ranges, 0x1000, 0x1ABC) == [(MISS, FrameMiss.ANONYMOUS)] * 2


def test_nothing_is_found_in_an_empty_table() -> None:
    """A table without ranges answers too."""
    assert resolve([], 0, LAST) == [(None, 0)] * 2


def test_kernel_addresses_resolve() -> None:
    """The upper half of the address space is beyond signed numbers."""
    start = 0xFFFFFFFF81000000
    assert resolve([Range(start, LAST, FILE, bias=start)], start, start + 5, LAST - 1) == [
        (FILE, 0),
        (FILE, 5),
        (FILE, LAST - 1 - start),
    ]


@given(
    st.lists(st.integers(0, LAST), min_size=2, max_size=20, unique=True),
    st.lists(st.integers(0, LAST), max_size=20),
    st.integers(0, LAST),
)
def test_a_table_answers_as_a_search_would(cuts: list[int], addresses: list[int], bias: int) -> None:
    """For any ranges that do not overlap, and any addresses, bounds of ranges among them."""
    cuts.sort()
    ranges = [Range(a, b, FILE, bias=bias) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    addresses += cuts
    expected: list[tuple[Mapping | None, int]] = [
        (FILE, (address - bias) % (1 << 64)) if any(r.start <= address < r.end for r in ranges) else (None, 0)
        for address in addresses
    ]
    assert resolve(ranges, *addresses) == expected
