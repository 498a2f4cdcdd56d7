"""Which builds get a table, in which order, and which give way."""

import threading

import numpy as np
import pytest

from agent.addresses import Range, build_table
from agent.snapshot import Snapshot
from agent.unwind.layouts import Layouts
from agent.unwind.tables import KernelTables
from agent.unwind.unwinding import RECENT_WINDOWS, Outcome, Unwinding
from bpf import layout
from fleetflame.buildid import BuildId
from fleetflame.cfi import RULE_DTYPE, CfaError, CfaFault, CfaKind, UnwindTable
from fleetflame.model import Mapping, MappingKind, Segment
from tests.agent.counted import counted
from tests.support.arrays import MemoryArray

ROWS = 100


def mapping(number: int, text: int = 0x1000) -> Mapping:
    return Mapping(MappingKind.FILE, BuildId(bytes([number]) * 20), f"/lib/{number}", (Segment(0, 0, text),))


def table(rows: int = ROWS) -> UnwindTable:
    rules = np.zeros(2, RULE_DTYPE)
    rules["cfa"] = (CfaKind.SP, CfaKind.GAP)
    rules["a"] = (8, 0)
    return UnwindTable(
        pc=np.arange(rows, dtype=np.uint32) * 16,
        base=0,
        rule=(np.arange(rows, dtype=np.uint32) + (rows % 2)) % 2,
        rules=rules,
        dropped={},
    )


def snapshot_of(*mapped: Mapping) -> Snapshot:
    ranges = [Range(at << 20, (at << 20) + 0x1000, each, bias=at << 20) for at, each in enumerate(mapped, 1)]
    fingerprint = hash(tuple(each.path for each in mapped))
    return Snapshot(table=build_table(ranges), whole=True, fingerprint=fingerprint, bytes_read=0, since_ns=0)


class World:
    """Room for two tables, and a source that says what it was asked for."""

    def __init__(self, *, slots: int = 10) -> None:
        self.asked: list[int] = []
        self.told: dict[int, int] = {}
        self.missing: dict[int, CfaError | None] = {}
        self.rows: dict[int, int] = {}
        self.tables = KernelTables(
            MemoryArray(layout.TABLE, slots),
            MemoryArray(layout.PAGE, 64),
            MemoryArray(layout.ROWS, ROWS + 4),
            MemoryArray(RULE_DTYPE, 64),
        )
        regions = MemoryArray(layout.REGION, 1000)
        self.unwinding = Unwinding(self.tables, lambda *held: Layouts(regions, *held), self, slots=slots)

    def find(self, wanted: Mapping) -> UnwindTable | None:
        assert wanted.build_id is not None
        number = wanted.build_id.raw[0]
        self.asked.append(number)
        if number in self.missing:
            error = self.missing[number]
            if error is not None:
                raise error
            return None
        return table(self.rows.get(number, ROWS))

    def rest(self) -> None: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...

    def map(self, image: int, *mapped: Mapping) -> None:
        self.unwinding.put(image, snapshot_of(*mapped), self.told.__setitem__)

    def load(self) -> None:
        while self.unwinding.load_next(self):
            pass

    def loaded(self) -> int:
        return self.tables.rows_loaded // ROWS


def outcomes(outcome: str) -> int:
    return counted("unwind_tables", "outcome", outcome)


def test_what_samples_named_comes_first_then_the_smallest() -> None:
    """A program's libraries are hundreds, of which a few are ever in a stack."""
    world = World()
    world.map(1, mapping(1, 0x9000), mapping(2, 0x5000), mapping(3, 0x7000), mapping(4, 0x1000))
    world.unwinding.note([mapping(1)])
    world.load()
    assert world.asked[:2] == [1, 4]
    assert sorted(world.asked) == [1, 2, 3, 4]


def test_a_build_is_loaded_once_however_many_map_it() -> None:
    """Restarts and forks find it there."""
    world = World()
    for image in range(5):
        world.map(image, mapping(1))
        world.load()
        world.unwinding.remove(image, world.told.pop)
    assert world.asked == [1]
    assert world.loaded() == 1


def test_what_nobody_maps_any_more_gives_way() -> None:
    """And comes again when it is mapped and sampled again."""
    world = World()
    before = outcomes(Outcome.EVICTED)
    world.map(1, mapping(1))
    world.map(2, mapping(2))
    world.load()
    world.unwinding.remove(1, world.told.pop)
    world.map(3, mapping(3))
    world.load()
    assert world.loaded() == 2
    assert outcomes(Outcome.EVICTED) - before == 1
    world.unwinding.remove(2, world.told.pop)
    world.map(4, mapping(1))
    world.unwinding.note([mapping(1)])
    world.load()
    assert world.asked == [1, 2, 3, 1]


def test_what_samples_name_stays_and_the_rest_is_said() -> None:
    """Never a table for a table: what does not fit has frame pointers until something in use is not any more."""
    world = World()
    before = outcomes(Outcome.NO_ROOM)
    world.map(1, mapping(1), mapping(2))
    world.unwinding.note([mapping(1), mapping(2)])
    world.load()
    world.map(2, mapping(3))
    world.unwinding.note([mapping(1), mapping(2), mapping(3)])
    world.load()
    assert world.asked == [1, 2, 3]
    assert outcomes(Outcome.NO_ROOM) - before == 1
    for _ in range(RECENT_WINDOWS + 1):
        world.unwinding.note([mapping(1), mapping(3)])
    world.load()
    assert world.asked == [1, 2, 3, 3]
    assert world.loaded() == 2


def test_a_file_that_was_gone_is_asked_for_again_when_another_process_has_it() -> None:
    """Its first process was over too soon; once more for each that maps it, and a sample has to name it."""
    world = World()
    world.missing[1] = None
    world.map(1, mapping(1))
    world.load()
    del world.missing[1]
    world.map(2, mapping(1), mapping(2))
    world.unwinding.note([mapping(1)])
    world.load()
    assert world.asked == [1, 1, 2]
    assert world.loaded() == 2


def test_a_table_that_no_room_can_be_made_for_drives_out_nothing() -> None:
    """And is made again ever more seldom: making it takes seconds."""
    world = World()
    before = outcomes(Outcome.EVICTED)
    world.rows[2] = 10 * ROWS
    world.map(1, mapping(1))
    world.load()
    world.unwinding.remove(1, world.told.pop)
    world.map(2, mapping(2))
    for _ in range(100):
        world.unwinding.note([mapping(2)])
        world.load()
    assert world.asked.count(2) < 8
    assert outcomes(Outcome.EVICTED) == before
    assert world.loaded() == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, Outcome.NO_FILE), (CfaError(CfaFault.ABSENT, "none"), CfaFault.ABSENT.value)],
)
def test_a_build_without_a_table_is_asked_for_once(error: CfaError | None, outcome: str) -> None:
    """And counted by reason."""
    world = World()
    before = outcomes(outcome)
    world.missing[1] = error
    world.map(1, mapping(1))
    world.load()
    world.unwinding.note([mapping(1)])
    world.load()
    assert world.asked == [1]
    assert outcomes(outcome) - before == 1


def test_slots_are_used_again() -> None:
    """The one whose build was mapped last the longest time ago, and never one that is mapped."""
    world = World(slots=3)
    before = outcomes(Outcome.NO_SLOT)
    world.map(1, mapping(1), mapping(2))
    world.load()
    world.map(2, mapping(3))
    assert outcomes(Outcome.NO_SLOT) - before == 1
    world.unwinding.remove(1, world.told.pop)
    world.map(3, mapping(4))
    world.load()
    assert world.asked == [1, 2, 4]
    assert world.loaded() == 2


def test_the_kernel_is_told_while_nothing_else_is_put() -> None:
    """A number told late is that of a place that another layout has by then."""
    world = World()
    told = []

    def tell(_image: int, number: int) -> None:
        other = threading.Thread(target=world.map, args=(2, mapping(2)))
        other.start()
        other.join(0.05)
        assert 2 not in world.told
        told.append((number, other))

    world.unwinding.put(1, snapshot_of(mapping(1)), tell)
    told[0][1].join()
    assert world.told[2] != told[0][0]
