"""Layouts: regions ascend, forks share them, slots are held while they are named."""

from collections import Counter

import numpy as np
import pytest

from agent.addresses import Range, build_table, miss_range
from agent.snapshot import Snapshot
from agent.unwind.layouts import GRACE_S, MAX_REGIONS, NO_LAYOUT, Layouts
from bpf import layout
from fleetflame.buildid import BuildId
from fleetflame.model import FrameMiss, Mapping, MappingKind, Segment
from tests.support.arrays import MemoryArray

SHELL = Mapping(MappingKind.FILE, BuildId(b"\1" * 20), "/bin/shell", (Segment(0x1000, 0x401000, 0x3000),))
PLUGIN = Mapping(MappingKind.FILE, BuildId(b"\2" * 20), "/lib/plugin", (Segment(0x2000, 0x2000, 0x1000),))


def snapshot(fingerprint: int, *ranges: Range) -> Snapshot:
    return Snapshot(table=build_table(ranges), whole=True, fingerprint=fingerprint, bytes_read=0, since_ns=0)


class World:
    def __init__(self, entries: int = 100) -> None:
        self.array = MemoryArray(layout.REGION, entries)
        self.held: Counter[int] = Counter()
        self.now = 0.0
        self.layouts = Layouts(self.array, self.hold, self.release, clock=lambda: self.now)

    def hold(self, mapping: Mapping) -> int:
        slot = {SHELL: 7, PLUGIN: 8}[mapping]
        self.held[slot] += 1
        return slot

    def release(self, slot: int) -> None:
        self.held[slot] -= 1

    def regions(self, number: int) -> list[tuple[int, int, int, int]]:
        first, count = number >> 32, number & 0xFFFFFFFF
        rows: list[tuple[int, int, int, int]] = self.array.values[first : first + count].tolist()
        return rows


def test_a_region_has_its_builds_table_and_distance() -> None:
    """Memory without a file has none; addresses minus the distance are the ELF's own."""
    world = World()
    ranges = (
        Range(0x7000_2000, 0x7000_3000, PLUGIN, bias=0x7000_0000),
        Range(0x40_1000, 0x40_4000, SHELL, bias=0x40_0000),
        miss_range(0x5000_0000, 0x5001_0000, FrameMiss.ANONYMOUS),
    )
    assert world.regions(world.layouts.put(1, snapshot(11, *ranges))) == [
        (0x40_1000, 0, 0x3000, 7),
        (0x5000_0000, 0, 0x1_0000, 0),
        (0x7000_2000, 0x7000_0000, 0x1000, 8),
    ]
    assert world.held == {7: 1, 8: 1}


def test_forks_share_a_layout_until_the_last_is_over() -> None:
    """And its place is used again only after a moment."""
    world = World(entries=2)
    one = snapshot(1, Range(0x2000, 0x3000, PLUGIN, bias=0))
    other = snapshot(2, Range(0x5000, 0x6000, PLUGIN, bias=0x3000))
    number = world.layouts.put(1, one)
    assert world.layouts.put(2, one) == number != NO_LAYOUT
    assert world.held[8] == 1
    world.layouts.remove(1)
    assert world.held[8] == 1
    world.layouts.remove(2)
    assert (world.held[8], len(world.layouts)) == (0, 0)
    assert world.layouts.put(3, other) == NO_LAYOUT
    world.now += GRACE_S
    assert world.layouts.put(3, other) != NO_LAYOUT


def test_a_new_layout_takes_the_former_ones_place() -> None:
    """A library was loaded: the image is counted once; what is removed twice is gone once."""
    world = World()
    before = snapshot(1, Range(0x2000, 0x3000, PLUGIN, bias=0))
    after = snapshot(2, Range(0x2000, 0x3000, PLUGIN, bias=0), Range(0x40_1000, 0x40_4000, SHELL, bias=0x40_0000))
    assert world.layouts.put(1, before) != world.layouts.put(1, after)
    assert (len(world.layouts), world.held[8], world.held[7]) == (1, 1, 1)
    world.layouts.remove(1)
    world.layouts.remove(1)
    assert (len(world.layouts), world.held[8]) == (0, 0)


@pytest.mark.parametrize("count", [0, MAX_REGIONS + 1])
def test_memory_that_no_search_would_find_its_way_in_has_no_layout(count: int) -> None:
    """Frame pointers have to do."""
    world = World(entries=MAX_REGIONS + 10)
    ranges = [Range(at * 0x2000, at * 0x2000 + 0x1000, PLUGIN, bias=at * 0x2000 - 0x2000) for at in range(1, count + 1)]
    assert world.layouts.put(1, snapshot(1, *ranges)) == NO_LAYOUT
    assert not np.any(world.array.values["start"])
