"""Looking up many addresses at once, against tools that look up one by one."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.symbols import build as builder
from aggregator.symbols.build import build_table
from aggregator.symbols.combine import dwarf_table
from aggregator.symbols.demangle import Demangler
from aggregator.symbols.plain import Named
from aggregator.symbols.symcache import NONE, Symcache, UnknownSymcacheError
from aggregator.symbols.table import NOWHERE, Rank, Symbolized, SymbolTable, check, look_up, nothing
from tests.aggregator.symbols.conftest import Frame, build, llvm_frames, run, symbols_of

DEMANGLE = Demangler()
LIMIT = 1 << 28


def table_of(program: Path) -> SymbolTable:
    """The table of a file on disk."""
    return build_table(memoryview(program.read_bytes()), limit=LIMIT, demangle=DEMANGLE).table


def frames(table: SymbolTable, addresses: list[int]) -> list[list[Frame]]:
    """What the table says, outermost first."""
    return unpack(look_up(table, np.array(addresses, np.uint64)))


def unpack(found: Symbolized) -> list[list[Frame]]:
    """The columns as objects."""
    rows = zip(found.function.tolist(), found.file.tolist(), found.line.tolist(), strict=True)
    flat = [Frame(found.strings[function], found.strings[file], line) for function, file, line in rows]
    return [flat[a:b] for a, b in pairwise(found.offsets.tolist())]


def addresses_in(program: Path, *names: str) -> list[int]:
    """Every address of the functions of these names."""
    symbols = symbols_of(program)
    return [at for name in names for at in range(symbols[name][0], sum(symbols[name]))]


def test_inlined_frames_and_lines_equal_those_of_llvm(c_program: Path) -> None:
    """Every address of the program's own functions."""
    asked = addresses_in(c_program, "main", "outer", "hidden")
    assert frames(table_of(c_program), asked) == llvm_frames(c_program, asked)


def test_the_outermost_frame_comes_first(c_program: Path) -> None:
    """`innermost` is inlined into `middle`, and that into `outer`."""
    names = [[frame.name for frame in at] for at in frames(table_of(c_program), addresses_in(c_program, "outer"))]
    assert ["outer", "middle", "innermost"] in names


@pytest.mark.parametrize(
    "flags", [("-no-pie",), ("-gdwarf-4",), ("-gz",), ("-O0",), ("-flto",), ("-ffunction-sections",)]
)
def test_other_ways_to_compile_give_the_same_names(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Fixed addresses, older DWARF, compressed sections."""
    program = build(tmp_path, _source(), "-g", "-O2", *flags)
    asked = addresses_in(program, "main")
    table = table_of(program)
    assert table.rank is Rank.DWARF
    assert frames(table, asked) == llvm_frames(program, asked)


def test_a_debug_file_answers_like_the_whole_file(tmp_path: Path, c_program: Path) -> None:
    """What `objcopy --only-keep-debug` leaves has everything but the code."""
    debug = tmp_path / "prog.debug"
    run("objcopy", "--only-keep-debug", str(c_program), str(debug))
    asked = addresses_in(c_program, "main", "outer", "hidden")
    assert frames(table_of(debug), asked) == frames(table_of(c_program), asked)
    assert table_of(debug).segments == ()
    assert table_of(c_program).segments != ()


def test_without_dwarf_the_symbol_table_answers(tmp_path: Path, c_program: Path) -> None:
    """`strip -g` leaves names; `strip` leaves what is exported."""
    plain, bare = tmp_path / "plain", tmp_path / "bare"
    run("strip", "-g", "-o", str(plain), str(c_program))
    run("strip", "-o", str(bare), str(c_program))
    asked = addresses_in(c_program, "hidden", "outer")
    found = frames(table_of(plain), asked)
    assert {frame for at in found for frame in at} == {Frame("hidden", "", 0), Frame("outer", "", 0)}
    assert (table_of(plain).rank, table_of(bare).rank) == (Rank.SYMTAB, Rank.DYNSYM)
    assert frames(table_of(bare), asked) == [[]] * len(asked)


def test_functions_without_a_description_take_the_symbols_name(tmp_path: Path) -> None:
    """Assembler in a program with DWARF: the line table of its neighbour does not run over into it."""
    source = (
        _source()
        + '__asm__(".text\\n.globl bare\\n.type bare,@function\\nbare: nop\\nnop\\nret\\n.size bare,.-bare\\n");'
    )
    program = build(tmp_path, source, "-g", "-O2")
    assert frames(table_of(program), addresses_in(program, "bare")) == [[Frame("bare", "", 0)]] * 3


@pytest.mark.parametrize("program", ["cpp_program", "rust_program"])
def test_names_are_demangled(program: str, request: pytest.FixtureRequest) -> None:
    """Of symbols and of inlined functions."""
    path = request.getfixturevalue(program)
    table = table_of(path)
    names = {table.text(index) for index in np.unique(table.function).tolist()}
    assert not [name for name in names if name.startswith(("_Z", "_R"))]
    wanted = "shop::Cart<long>::total(" if program == "cpp_program" else "Cart<"
    assert [name for name in names if wanted in name]


def test_lines_of_cplusplus_equal_those_of_llvm(cpp_program: Path) -> None:
    """Names are spelled a little differently; files, lines and depth are equal."""
    asked = addresses_in(cpp_program, "main", "_ZN12_GLOBAL__N_15quietEi")
    ours, theirs = frames(table_of(cpp_program), asked), llvm_frames(cpp_program, asked)
    assert [[(f.file, f.line) for f in at] for at in ours] == [[(f.file, f.line) for f in at] for at in theirs]


def test_answers_keep_the_order_of_the_question(c_program: Path) -> None:
    """Repeated and unsorted addresses, in any partition, give the same rows."""
    table = table_of(c_program)
    asked = addresses_in(c_program, "outer", "main")[::-1] * 2 + [0, 2**64 - 1]
    whole = frames(table, asked)
    assert whole == [frames(table, [at])[0] for at in asked]
    assert whole[-2:] == [[], []]


def test_the_first_string_is_empty(c_program: Path) -> None:
    """It is the file of a frame whose file is unknown."""
    assert look_up(table_of(c_program), np.zeros(0, np.uint64)).strings == ("",)
    assert nothing(3).offsets.tolist() == [0, 0, 0, 0]


def test_an_unreadable_symcache_leaves_the_symbol_table(c_program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are there, the lines are not, and the note says why."""

    def refuse(data: bytes) -> Symcache:
        raise UnknownSymcacheError("version 99")

    monkeypatch.setattr(builder, "read_symcache", refuse)
    built = build_table(memoryview(c_program.read_bytes()), limit=LIMIT, demangle=DEMANGLE)
    assert built.table.rank is Rank.SYMTAB
    assert "version 99" in built.note


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: {"location": t.location + np.uint32(10_000)},
        lambda t: {"function": t.function + np.uint32(10_000)},
        lambda t: {"parent": np.arange(len(t.parent), dtype=np.uint32)},
        lambda t: {"start": t.start[::-1]},
        lambda t: {"string_at": t.string_at[::-1]},
        lambda t: {"line": t.line[1:]},
        lambda t: {"start": t.start[:0], "location": t.location[:0]},
    ],
)
def test_indices_that_do_not_hold_together_are_found(
    c_program: Path, damage: Callable[[SymbolTable], dict[str, object]]
) -> None:
    """A table that passes the check can be looked up in; one that does not is not used."""
    table = table_of(c_program)
    assert check(table) is None
    columns = {name: getattr(table, name) for name in SymbolTable.__dataclass_fields__}
    assert check(SymbolTable(**(columns | damage(table)))) is not None


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8), st.integers(0, 3)), max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 60), unique=True, max_size=10), spans)
def test_combining_keeps_the_indices_sound(starts: list[int], symbols: list[tuple[int, int, int]]) -> None:
    """Whatever ranges DWARF and symbols have: the table holds together, and a symbol's name wins where it covers."""
    start = np.array(sorted(starts), np.uint64)
    count = len(start)
    chained = np.array([NONE, 0, *([1] * count)], np.uint32)
    cache = Symcache(
        start=start,
        location=np.arange(2, count + 2, dtype=np.uint32),
        function=np.array([0, 1, *([2] * count)], np.uint32),
        file=np.zeros(count + 2, np.uint32),
        line=np.arange(1, count + 3, dtype=np.uint32),
        parent=chained,
        functions=["dwarf", "middle", "inner"],
        paths=["a.c"],
    )
    named = _disjoint_symbols(symbols)
    table = dwarf_table(cache, named, base=0, demangle=str)
    assert check(table) is None
    for address in range(70):
        found = frames(table, [address])[0]
        held = [named.names[n] for b, e, n in zip(*named[:3], strict=True) if b <= address < e]
        if held:
            assert found[0].name == held[0]
            assert len(found) in (1, 3)
        else:
            assert not found or found[0].name == "dwarf"


def _disjoint_symbols(symbols: list[tuple[int, int, int]]) -> Named:
    rows, reached = [], 0
    for at, size, name in sorted(symbols):
        if at >= reached:
            rows.append((at, at + size, name))
            reached = at + size
    columns = np.array(rows, np.uint64).reshape(-1, 3)
    return Named(columns[:, 0], columns[:, 1], columns[:, 2].astype(np.uint32), ["s0", "s1", "s2", "s3"])


def _source() -> str:
    return (
        "static inline __attribute__((always_inline)) int twice(int x) { volatile int y = x; return y * 2; }\n"
        "int main(int argc, char **argv) { volatile int r = twice(argc); return r + twice(r); }\n"
    )


def test_nowhere_is_no_location() -> None:
    """The sentinel is the one that a symcache uses too."""
    assert NOWHERE == NONE
