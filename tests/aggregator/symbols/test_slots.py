"""Linkage slots, which a debug file cannot name and the binary can."""

from pathlib import Path

import numpy as np
import pytest

from aggregator.symbols.build import build_table
from aggregator.symbols.slots import with_slots_of, without_slots
from aggregator.symbols.table import SymbolTable, check, look_up
from aggregator.symbols.tablefile import digest_of
from tests.aggregator.symbols.conftest import run


def table_of(path: Path) -> SymbolTable:
    """The table of a file."""
    return build_table(memoryview(path.read_bytes()), limit=1 << 28, demangle=str).table


def names(table: SymbolTable) -> list[list[str]]:
    """The names at the start of each range, outermost first."""
    found = look_up(table, table.start.astype(np.uint64))
    flat = [found.strings[index] for index in found.function.tolist()]
    return [flat[a:b] for a, b in zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True)]


@pytest.fixture
def parts(c_program: Path, tmp_path: Path) -> tuple[SymbolTable, SymbolTable, SymbolTable]:
    """Tables of a program, of what `strip` leaves of it, and of its debug file."""
    stripped, debug = tmp_path / "stripped", tmp_path / "debug"
    run("objcopy", "--strip-all", str(c_program), str(stripped))
    run("objcopy", "--only-keep-debug", str(c_program), str(debug))
    return table_of(c_program), table_of(stripped), table_of(debug)


def test_a_debug_file_takes_over_the_slots_of_the_binary(parts: tuple[SymbolTable, SymbolTable, SymbolTable]) -> None:
    """And then says what the whole program says."""
    whole, stripped, debug = parts
    assert ["printf@plt"] in names(stripped)
    assert ["printf@plt"] not in names(debug)
    completed = with_slots_of(debug, stripped)
    assert check(completed) is None
    everywhere = np.arange(0, int(whole.start[-1]) + 64, dtype=np.uint64)
    ours, theirs = look_up(completed, everywhere), look_up(whole, everywhere)
    assert ours.offsets.tolist() == theirs.offsets.tolist()
    for mine, other in ((ours.function, theirs.function), (ours.file, theirs.file)):
        assert [ours.strings[i] for i in mine.tolist()] == [theirs.strings[i] for i in other.tolist()]
    assert ours.line.tolist() == theirs.line.tolist()


def test_slots_make_no_difference_between_files(parts: tuple[SymbolTable, SymbolTable, SymbolTable]) -> None:
    """A program, its debug file, and that file completed are one opinion."""
    whole, stripped, debug = parts
    assert check(without_slots(whole)) is None
    assert digest_of(whole) != digest_of(debug)
    completed = with_slots_of(debug, stripped)
    assert {digest_of(without_slots(table)) for table in (whole, debug, completed)} == {digest_of(debug)}


def test_no_name_is_taken_twice_or_lost(parts: tuple[SymbolTable, SymbolTable, SymbolTable]) -> None:
    """What has slots already, or gets none, stays as it is."""
    whole, stripped, debug = parts
    assert with_slots_of(whole, stripped) is whole
    assert with_slots_of(debug, debug) is debug
    assert without_slots(debug) is debug
    assert [name for name in names(without_slots(whole)) if name and not name[0].endswith("@plt")] == [
        name for name in names(whole) if name and not name[0].endswith("@plt")
    ]
