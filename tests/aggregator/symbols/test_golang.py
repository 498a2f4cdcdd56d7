"""Go programs are named by their own table, stripped or not."""

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.symbols.build import build_table
from aggregator.symbols.demangle import Demangler
from aggregator.symbols.faults import SymbolFileError
from aggregator.symbols.table import Rank, SymbolTable, check, look_up
from aggregator.symbols.tablefile import digest_of
from fleetflame.gopcln import Layout
from tests.aggregator.symbols.test_lent_copies import lent
from tests.aggregator.symbols.test_worker import parsed
from tests.support.golang import Call, Func, GoWriter, build
from tests.support.nats import server_binary

LIMIT = 1 << 28
NATS = server_binary()
Frame = tuple[str, str, int]


def table_of(data: bytes) -> SymbolTable:
    table = build_table(memoryview(data), limit=LIMIT, demangle=Demangler()).table
    assert check(table) is None
    return table


def chains(table: SymbolTable, addresses: list[int]) -> list[list[Frame]]:
    """The frames at each address, innermost first."""
    found = look_up(table, np.array(addresses, np.uint64))
    texts = found.strings
    rows = [
        (texts[function], texts[file], line)
        for function, file, line in zip(found.function.tolist(), found.file.tolist(), found.line.tolist(), strict=True)
    ]
    return [rows[a:b][::-1] for a, b in pairwise(found.offsets.tolist())]


def addresses_of(table: SymbolTable, count: int) -> list[int]:
    chosen = np.random.default_rng(1).integers(int(table.start[0]), int(table.start[-1]), count)
    return sorted(set(chosen.tolist()))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same program as it is, stripped, and position-independent."""
    folder = tmp_path_factory.mktemp("go")
    return {
        "whole": build(folder, "whole"),
        "stripped": build(folder, "stripped", "-ldflags=-s -w"),
        "pie": build(folder, "pie", "-buildmode=pie", "-ldflags=-s -w"),
    }


@pytest.mark.parametrize("kind", ["stripped", "pie"])
def test_a_stripped_program_names_its_own_stack(kind: str, programs: dict[str, Path]) -> None:
    """What the runtime says of its callers, inlined ones included, is what the table says of their addresses."""
    said = subprocess.run(["setarch", "-R", programs[kind]], capture_output=True, text=True, check=True).stdout
    frames = [
        (name, file, int(line)) for name, file, line in re.findall(r"^frame (\S+) (\S+) (\d+)$", said, re.MULTILINE)
    ]
    pcs = [int(pc, 16) for pc in re.findall(r"^pc (\w+)$", said, re.MULTILINE)]
    table = table_of(programs[kind].read_bytes())
    assert table.rank is Rank.GO
    # A position-independent program lies somewhere: its `where` is found by name.
    bias = 0
    if kind == "pie":
        bias = next(pc & ~0xFFF for pc in pcs) - next(
            address & ~0xFFF for address in addresses_of(table, 200_000) if _outermost(table, address) == "main.where"
        )
    ours = [frame for chain in chains(table, [pc - bias for pc in _physical(table, pcs, bias)]) for frame in chain]
    ours = [frame for frame in ours if frame[0] != "runtime.Callers"]
    frames = [frame for frame in frames if frame[0] != "runtime.Callers"]
    wanted = [f"main.{name}" for name in ("where", "square", "(*account).add", "(*account).pay", "main")]
    assert [frame[0] for frame in frames][: len(wanted)] == wanted
    assert ours == frames


def _outermost(table: SymbolTable, address: int) -> str:
    (chain,) = chains(table, [address])
    return chain[-1][0] if chain else ""


def _physical(table: SymbolTable, pcs: list[int], bias: int) -> list[int]:
    """`runtime.Callers` gives a place for each inlined frame too: of one function only the first is a real one."""
    owners = [_outermost(table, pc - bias) for pc in pcs]
    return [pc for at, pc in enumerate(pcs) if at == 0 or owners[at] != owners[at - 1]]


def test_files_and_lines_are_those_of_addr2line(programs: dict[str, Path]) -> None:
    """For thousands of places all over the program."""
    table = table_of(programs["stripped"].read_bytes())
    addresses = addresses_of(table, 5000)
    said = subprocess.run(
        ["go", "tool", "addr2line", programs["stripped"]],
        input="".join(f"{address:#x}\n" for address in addresses),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    ours = [(chain[-1][0], f"{chain[0][1]}:{chain[0][2]}") for chain in chains(table, addresses)]
    # Between functions it knows no line; no code runs there.
    theirs = list(zip(said[::2], said[1::2], strict=False))
    assert [a for a, b in zip(ours, theirs, strict=True) if a != b and not b[1].endswith(":-1")] == []
    assert len(ours) > 4000


def test_inlined_frames_are_those_of_the_debug_information(programs: dict[str, Path]) -> None:
    """Chain by chain, names, files and lines, but where the two name one thing differently."""
    debug, own = table_of(programs["whole"].read_bytes()), table_of(programs["stripped"].read_bytes())
    assert (debug.rank, own.rank) == (Rank.DWARF, Rank.GO)
    addresses = addresses_of(own, 8000)
    pairs = list(zip(chains(debug, addresses), chains(own, addresses), strict=True))
    # The linker's names for one ABI of a function, and for types, are not the runtime's.
    plain = [(d, o) for d, o in pairs if d and o and ".abi0" not in d[-1][0] and "autogenerated" not in o[0][1]]
    inlined = [(d, o) for d, o in plain if len(o) > 1]
    assert len(inlined) > 500
    same = sum([f[0] for f in d] == [f[0] for f in o] for d, o in plain)
    assert same > 0.995 * len(plain)
    assert sum(d == o for d, o in inlined) > 0.95 * len(inlined)


def test_debug_information_is_worth_more(programs: dict[str, Path]) -> None:
    """And a symbol table less; numbers that are stored stay."""
    assert table_of(programs["whole"].read_bytes()).rank is Rank.DWARF
    assert Rank.SYMTAB.worth < Rank.GO.worth < Rank.DWARF.worth


@pytest.mark.parametrize("kind", ["stripped", "pie"])
def test_a_lent_copy_says_the_same(kind: str, programs: dict[str, Path], tmp_path: Path) -> None:
    """Trees of inlined calls lie apart from the table: they are lent too, and little else."""
    whole, copy = programs[kind].read_bytes(), lent(programs[kind], tmp_path)
    assert digest_of(table_of(copy)) == digest_of(table_of(whole))
    assert b"main.account" not in copy.replace(b"main.(*account)", b"")  # a type's name, in read-only data
    assert sum(map(bool, copy)) < len(copy) / 2


def test_confinement_does_not_stand_in_the_way(programs: dict[str, Path], tmp_path: Path) -> None:
    """The worker may not import anything any more."""
    assert parsed(tmp_path, programs["stripped"].read_bytes()).table.rank is Rank.GO


@pytest.mark.skipif(NATS is None, reason="no nats-server")
def test_a_large_program_of_another_version_is_named(tmp_path: Path) -> None:
    """The bus, which a later Go built: names, lines and inlined frames, and all of it in its lent copy."""
    assert NATS
    path = Path(NATS)
    table = table_of(path.read_bytes())
    if table.rank is not Rank.GO:
        pytest.skip("it has debug information")
    found = chains(table, addresses_of(table, 5000))
    assert sum(bool(chain) for chain in found) > 4500
    assert sum(len(chain) > 1 for chain in found) > 500
    assert all(file and line > 0 for chain in found for _, file, line in chain[:1] if "autogenerated" not in file)
    assert digest_of(table_of(lent(path, tmp_path))) == digest_of(table)


FUNCTIONS = (
    Func(
        name="main.main",
        entry=0,
        lines=((8, 10), (16, 31), (24, 21), (0x40, 12)),
        files=((8, 0), (24, 1), (0x40, 0)),
        inline=((8, -1), (16, 1), (24, 0), (0x40, -1)),
        calls=(Call(name="main.add", place=4), Call(name="main.square", place=20)),
    ),
    Func(name="main.last", entry=0x40, lines=((0x10, 99),), files=((0x10, 1),)),
)


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("section", [".gopclntab", ".data.rel.ro.gopclntab", ".renamed"])
def test_each_layout_says_the_same(layout: Layout, section: str) -> None:
    """Names, files, lines and inlined calls within inlined calls, whatever Go's version, also under another name."""
    table = table_of(bytes(GoWriter(layout=layout, functions=FUNCTIONS, end=0x60, section=section)))
    assert table.rank is Rank.GO
    main, other = "/src/main.go", "/src/other.go"
    assert chains(table, [0x401000, 0x401008, 0x401017, 0x401018, 0x40103F, 0x401040, 0x40105F, 0x401060]) == [
        [("main.main", main, 10)],
        [("main.square", other, 31), ("main.add", other, 21), ("main.main", main, 10)],
        [("main.add", other, 21), ("main.main", main, 10)],
        [("main.main", main, 12)],
        [("main.main", main, 12)],
        [("main.last", other, 99)],
        [("main.last", other, 99)],
        [],
    ]


def test_calls_in_a_circle_end() -> None:
    """A call that was made from within itself has no frame above it."""
    looped = Func(
        name="main.loop",
        entry=0,
        lines=((0x40, 1),),
        inline=((0x20, 0), (0x40, 1)),
        calls=(Call(name="main.a", place=0x30), Call(name="main.b", place=0x10)),
    )
    table = table_of(bytes(GoWriter(layout=Layout.GO_1_20, functions=(looped, FUNCTIONS[1]), end=0x60)))
    assert [len(chain) <= 2 for chain in chains(table, [0x401000, 0x401030])] == [True, True]


@pytest.mark.parametrize("layout", list(Layout))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), max_size=6), st.data())
def test_a_hostile_table_is_a_fault_or_a_sound_table(
    layout: Layout, changes: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    """Bytes changed anywhere: nothing but a typed fault, or a table whose indices hold."""
    file = bytearray(bytes(GoWriter(layout=layout, functions=FUNCTIONS, end=0x60)))
    for at, piece in changes:
        place = 64 + at % (len(file) - 64 - len(piece))
        file[place : place + len(piece)] = piece
    try:
        table = build_table(memoryview(bytes(file)), limit=LIMIT, demangle=str).table
    except SymbolFileError:
        return
    assert check(table) is None
    look_up(table, np.array([data.draw(st.integers(0x400F00, 0x401100))], np.uint64))
