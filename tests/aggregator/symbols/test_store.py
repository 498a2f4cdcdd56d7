"""Tables on disk: which content names a build, what outlives a restart, what makes room."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.symbols.build import build_table
from aggregator.symbols.faults import Fault
from aggregator.symbols.records import MAX_CONFLICTS, Kept, Source, Verdict
from aggregator.symbols.store import PASSING_SECONDS, Offer, SymbolStore
from aggregator.symbols.table import Rank, look_up
from aggregator.symbols.tablefile import PARSER_VERSION, digest_of, write_table
from fleetflame.buildid import BuildId
from fleetflame.errors import FleetflameError
from fleetflame.model import Segment
from tests.support.elf import Sym, simple_elf

ONE, TWO, THREE = (BuildId(bytes([n]) * 20) for n in (1, 2, 3))
BUDGET = 1 << 30


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        self.now += 1
        return self.now


def offer(
    store: SymbolStore, build_id: BuildId, name: str, *, rank: Rank = Rank.SYMTAB, pinned: bool = False, size: int = 0
) -> Verdict:
    """Offers a table that calls everything `name`, made of a content of its own, `size` bytes larger than need be."""
    with store.workspace() as folder:
        data = simple_elf([Sym(name=name, value=0x1000, size=16)], build_id=build_id.raw)
        table = replace(build_table(memoryview(data), limit=1 << 20, demangle=str).table, rank=rank)
        content = folder / "content"
        content.write_bytes(data + bytes(size))
        with (folder / "table").open("w+b") as file:
            write_table(file, table)
        kept = Kept(
            rank=rank,
            content=(name.encode().hex() + str(rank.value)).ljust(64, "0")[:64],
            digest=digest_of(table),
            source=Source.NODE,
            where="web-1",
            functions=1,
            table_bytes=(folder / "table").stat().st_size,
            content_bytes=0,
            added=0.0,
            pinned=pinned,
            parser=PARSER_VERSION,
        )
        made = Offer(build_id=build_id, path="/bin/x", kept=kept, table=folder / "table", content=content)
        return store.add(made)


def name_of(store: SymbolStore, build_id: BuildId) -> str:
    """What the build's table calls 0x1004, "" without a table."""
    table = store.table(build_id)
    if table is None:
        return ""
    found = look_up(table, np.array([0x1004], np.uint64))
    return found.strings[found.function[0]]


def test_the_first_content_of_a_rank_stays_and_the_second_is_a_conflict(tmp_path: Path) -> None:
    """A conflict is recorded once per content, and no more of them than there is use for."""
    store = SymbolStore(tmp_path, budget=BUDGET)
    assert offer(store, ONE, "first") is Verdict.TAKEN
    assert offer(store, ONE, "first") is Verdict.SAME
    for number in range(MAX_CONFLICTS + 2):
        assert offer(store, ONE, f"other{number}") is Verdict.CONFLICT
        assert offer(store, ONE, "other0") is Verdict.CONFLICT
    record = store.record(ONE)
    assert record is not None
    assert len(record.conflicts) == MAX_CONFLICTS
    assert name_of(store, ONE) == "first"


def test_a_better_rank_wins_whichever_came_first(tmp_path: Path) -> None:
    """DWARF over `.symtab` over `.dynsym`."""
    store = SymbolStore(tmp_path, budget=BUDGET)
    assert offer(store, ONE, "exported", rank=Rank.DYNSYM) is Verdict.TAKEN
    assert offer(store, ONE, "dwarf", rank=Rank.DWARF) is Verdict.BETTER
    assert name_of(store, ONE) == "dwarf"
    assert offer(store, ONE, "all", rank=Rank.SYMTAB) is Verdict.WORSE
    assert name_of(store, ONE) == "dwarf"
    assert len(list((tmp_path / "tables").glob("??/*"))) == 1
    assert len(list((tmp_path / "contents").glob("??/*"))) == 1


def test_what_an_operator_pins_stays(tmp_path: Path) -> None:
    """Over the same rank and over better ones, until something else is pinned."""
    store = SymbolStore(tmp_path, budget=BUDGET)
    offer(store, ONE, "lent")
    assert offer(store, ONE, "mine", pinned=True) is Verdict.REPLACED
    assert offer(store, ONE, "dwarf", rank=Rank.DWARF) is Verdict.WORSE
    assert name_of(store, ONE) == "mine"
    assert offer(store, ONE, "better", rank=Rank.DWARF, pinned=True) is Verdict.REPLACED
    assert name_of(store, ONE) == "better"


def test_a_restart_finds_what_was_kept(tmp_path: Path) -> None:
    """Records, conflicts, tables and refusals; unfinished work and files nobody speaks of are gone."""
    store = SymbolStore(tmp_path, budget=BUDGET)
    offer(store, ONE, "one")
    offer(store, ONE, "other")
    offer(store, TWO, "two")
    store.refuse("ab" * 32, Fault.CRASHED, "died")
    (tmp_path / "new" / "half").write_bytes(b"x")
    (tmp_path / "tables" / "zz").mkdir()
    (tmp_path / "tables" / "zz" / "orphan").write_bytes(b"x")
    again = SymbolStore(tmp_path, budget=BUDGET)
    assert again.records() == store.records()
    assert (name_of(again, ONE), name_of(again, TWO)) == ("one", "two")
    refusal = again.refusal("ab" * 32)
    assert refusal is not None
    assert refusal.fault is Fault.CRASHED
    assert not (tmp_path / "new" / "half").exists()
    assert not (tmp_path / "tables" / "zz" / "orphan").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"build_id": "../../etc"}'])
def test_a_damaged_record_costs_one_build(tmp_path: Path, damage: bytes) -> None:
    """The others are still there."""
    store = SymbolStore(tmp_path, budget=BUDGET)
    offer(store, ONE, "one")
    offer(store, TWO, "two")
    (tmp_path / "builds" / str(ONE)[:2] / f"{ONE}.json").write_bytes(damage)
    again = SymbolStore(tmp_path, budget=BUDGET)
    assert (name_of(again, ONE), name_of(again, TWO)) == ("", "two")


def test_a_lost_table_is_no_table(tmp_path: Path) -> None:
    """The build is wanted again; nothing raises."""
    store = SymbolStore(tmp_path, budget=BUDGET)
    offer(store, ONE, "one")
    next((tmp_path / "tables").glob("??/*")).write_bytes(b"short")
    assert name_of(store, ONE) == ""
    assert store.record(ONE) is None
    assert offer(store, ONE, "one") is Verdict.TAKEN


def test_the_budget_is_kept_by_last_use(tmp_path: Path) -> None:
    """First files that were parsed already go, then tables; what was used last stays."""
    store = SymbolStore(tmp_path, budget=70_000, clock=Clock())
    for build_id in (ONE, TWO, THREE):
        offer(store, build_id, "f", size=15_000)
        assert name_of(store, build_id) == "f"
    assert name_of(store, ONE) == "f"
    offer(store, BuildId(b"\x04" * 20), "f", size=15_000)
    kept = {record.build_id: record.kept.content_bytes > 0 for record in store.records()}
    assert kept == {ONE: True, TWO: False, THREE: True, BuildId(b"\x04" * 20): True}
    assert store.used_bytes() <= 70_000
    small = SymbolStore(tmp_path, budget=1_000, clock=Clock())
    offer(small, BuildId(b"\x05" * 20), "g")
    assert [record.build_id for record in small.records()] == [BuildId(b"\x05" * 20)]


def test_an_answer_from_memory_is_a_use(tmp_path: Path) -> None:
    """Names that are remembered elsewhere keep their table from being the one that has to go."""
    store = SymbolStore(tmp_path, budget=70_000, clock=Clock())
    for build_id in (ONE, TWO, THREE):
        offer(store, build_id, "f", size=15_000)
    assert store.used(ONE) == store.record(ONE)
    four = BuildId(b"\x04" * 20)
    assert store.used(four) is None
    offer(store, four, "f", size=15_000)
    kept = {record.build_id: record.kept.content_bytes > 0 for record in store.records()}
    assert kept == {ONE: True, TWO: False, THREE: True, four: True}


def test_refusals_pass_when_time_or_memory_was_short(tmp_path: Path) -> None:
    """A machine may have been busy; a malformed file stays malformed."""
    clock = Clock()
    store = SymbolStore(tmp_path, budget=BUDGET, clock=clock)
    store.refuse("a" * 64, Fault.TIME, "slow")
    store.refuse("b" * 64, Fault.NOT_ELF, "text")
    assert store.refusal("a" * 64) is not None
    clock.now += PASSING_SECONDS + 10
    assert store.refusal("a" * 64) is None
    assert store.refusal("b" * 64) is not None
    assert store.refusal("c" * 64) is None


def test_segments_come_with_whichever_file_has_them(tmp_path: Path) -> None:
    """A debug file has none; those of the stripped binary before it are kept."""
    store = SymbolStore(tmp_path, budget=BUDGET)
    offer(store, ONE, "exported", rank=Rank.DYNSYM)
    record = store.record(ONE)
    assert record is not None
    segments = (Segment(0x1000, 0x1000, 0x1000),)
    with store.workspace() as folder:
        table = folder / "t"
        table.write_bytes(b"")
        store.add(Offer(build_id=ONE, path="", kept=record.kept, table=table, content=None, segments=segments))
    offer(store, ONE, "dwarf", rank=Rank.DWARF)
    after = store.record(ONE)
    assert after is not None
    assert (after.segments, after.path) == (segments, "/bin/x")


def test_a_folder_that_cannot_be_used_is_the_operators_problem(tmp_path: Path) -> None:
    """With a way out."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FleetflameError) as caught:
        SymbolStore(tmp_path / "file", budget=BUDGET)
    assert caught.value.hint
