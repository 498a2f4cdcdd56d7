"""Names out of ELF symbol tables: which of several symbols names an address."""

import lzma
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.symbols.build import build_table
from aggregator.symbols.demangle import Demangler
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.ranges import disjoint
from aggregator.symbols.table import Rank, SymbolTable, check, look_up
from tests.support.elf import (
    GLOBAL,
    IFUNC,
    LOCAL,
    NOTYPE,
    OBJECT,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    WEAK,
    ElfWriter,
    Sec,
    Sym,
    simple_elf,
)

DEMANGLE = Demangler()
LIMIT = 1 << 26


def table_of(symbols: list[Sym]) -> SymbolTable:
    """The table of a file with these symbols."""
    table = build_table(memoryview(simple_elf(symbols)), limit=LIMIT, demangle=DEMANGLE).table
    assert check(table) is None
    return table


def name_at(table: SymbolTable, address: int) -> str:
    """The name at `address`, "" for none."""
    found = look_up(table, np.array([address], np.uint64))
    return found.strings[found.function[0]] if len(found.function) else ""


def test_an_address_belongs_to_the_symbol_whose_range_holds_it() -> None:
    """The end of a symbol is exclusive, and between symbols there is nothing."""
    table = table_of([Sym(name="f", value=0x1000, size=16), Sym(name="g", value=0x1020, size=16)])
    found = [name_at(table, at) for at in (0xFFF, 0x1000, 0x100F, 0x1010, 0x101F, 0x1020, 0x102F, 0x1030, 2**63)]
    assert found == ["", "f", "f", "", "", "g", "g", "", ""]


@pytest.mark.parametrize(
    ("expected", "symbols"),
    [
        ("sized", [("zero_size", 0, 2, GLOBAL), ("sized", 16, 2, LOCAL)]),
        ("function", [("function", 16, 2, LOCAL), ("label", 16, NOTYPE, GLOBAL)]),
        ("write", [("__write", 16, 2, GLOBAL), ("__GI___write", 16, 2, LOCAL), ("write", 16, 2, WEAK)]),
        ("____strtod", [("____strtod", 16, 2, GLOBAL), ("__GI_____strtod", 16, 2, LOCAL)]),
        ("api", [("api", 16, 2, GLOBAL), ("real", 16, 2, LOCAL)]),
        ("real", [("alias", 16, 2, WEAK), ("real", 16, 2, LOCAL)]),
        ("memmove", [("memcpy@GLIBC_2.2.5", 16, 2, GLOBAL), ("memmove@@GLIBC_2.2.5", 16, 2, GLOBAL)]),
        ("work", [("work.localalias", 16, 2, LOCAL), ("work", 16, 2, LOCAL)]),
        ("sin", [("sinf64", 16, 2, WEAK), ("sin", 16, 2, WEAK), ("sinf32x", 16, 2, WEAK)]),
        ("aaa", [("bbb", 16, 2, GLOBAL), ("aaa", 16, 2, GLOBAL)]),
        ("resolver", [("resolver", 16, IFUNC, GLOBAL), ("label", 16, NOTYPE, GLOBAL)]),
    ],
)
def test_aliases_are_chosen_by_the_written_rules(expected: str, symbols: list[tuple[str, int, int, int]]) -> None:
    """Each rule decides where those before it do not, in whatever order the table has the symbols."""
    for order in (symbols, symbols[::-1]):
        made = [Sym(name=n, value=0x1000, size=s, type=t, binding=b) for n, s, t, b in order]
        assert name_at(table_of(made), 0x1004) == expected


def test_an_alias_that_reaches_farther_names_what_is_beyond() -> None:
    """The preferred name ends where its symbol ends."""
    table = table_of([Sym(name="entry", value=0x1000, size=8), Sym(name="_whole", value=0x1000, size=32)])
    assert [name_at(table, at) for at in (0x1004, 0x1008, 0x101F, 0x1020)] == ["entry", "_whole", "_whole", ""]


def test_the_innermost_of_nested_symbols_names_the_address() -> None:
    """After the inner symbol the outer one goes on."""
    table = table_of([Sym(name="outer", value=0x1000, size=0x100), Sym(name="inner", value=0x1040, size=0x10)])
    assert [name_at(table, at) for at in (0x103F, 0x1040, 0x104F, 0x1050)] == ["outer", "inner", "inner", "outer"]


def test_a_symbol_without_size_reaches_to_the_next_or_the_end_of_its_section() -> None:
    """Assembler often leaves the size out."""
    table = table_of(
        [Sym(name="start", value=0x1000), Sym(name="next", value=0x1100, size=4), Sym(name="last", value=0x1F00)]
    )
    found = [name_at(table, at) for at in (0x10FF, 0x1100, 0x1104, 0x1FFF, 0x2000)]
    assert found == ["start", "next", "", "last", ""]


def test_local_labels_inside_a_function_do_not_cut_it() -> None:
    """A jump target is no function; a global label is one that somebody named on purpose."""
    table = table_of(
        [
            Sym(name="entry_SYSCALL_64", value=0x1000, size=0x100),
            Sym(name="retry", value=0x1020, type=NOTYPE, binding=LOCAL),
            Sym(name="entry_SYSCALL_64_after_hwframe", value=0x1040, type=NOTYPE),
        ]
    )
    assert [name_at(table, at) for at in (0x1021, 0x1041)] == ["entry_SYSCALL_64", "entry_SYSCALL_64_after_hwframe"]


def test_only_defined_code_names_code() -> None:
    """Data, undefined symbols, `.L` labels and Arm's mapping symbols name nothing."""
    table = table_of(
        [
            Sym(name="f", value=0x1000, size=4),
            Sym(name="data", value=0x1010, size=4, type=OBJECT),
            Sym(name="printf", value=0x1020, size=4, section=""),
            Sym(name=".L5", value=0x1030, size=4, type=NOTYPE, binding=LOCAL),
            Sym(name="$x", value=0x1040, size=4, type=NOTYPE, binding=LOCAL),
        ]
    )
    assert [name_at(table, at) for at in (0x1000, 0x1010, 0x1020, 0x1030, 0x1040)] == ["f", "", "", "", ""]


def test_the_rank_says_which_tables_there_were() -> None:
    """`.dynsym` alone is the poorest; `.symtab` makes it whole."""
    exported = [Sym(name="api", value=0x1000, size=4)]
    both = [*exported, Sym(name="helper", value=0x1010, size=4, binding=LOCAL)]
    poor = build_table(
        memoryview(bytes(ElfWriter().text().note().symbols(exported, dynamic=True))), limit=LIMIT, demangle=DEMANGLE
    ).table
    rich = ElfWriter().text().note().symbols(exported, dynamic=True).symbols(both)
    full = build_table(memoryview(bytes(rich)), limit=LIMIT, demangle=DEMANGLE).table
    assert (poor.rank, full.rank) == (Rank.DYNSYM, Rank.SYMTAB)
    assert name_at(poor, 0x1010) == ""
    assert name_at(full, 0x1010) == "helper"


def test_mini_debug_information_names_local_functions() -> None:
    """Fedora strips `.symtab` and leaves the local functions xz-compressed in `.gnu_debugdata`."""
    inner = ElfWriter().text(bits=False).symbols([Sym(name="local_one", value=0x1080, size=16, binding=LOCAL)])
    writer = ElfWriter().text().note().symbols([Sym(name="exported", value=0x1000, size=16)], dynamic=True)
    writer.add(Sec(name=".gnu_debugdata", data=lzma.compress(bytes(inner))))
    table = build_table(memoryview(bytes(writer)), limit=LIMIT, demangle=DEMANGLE).table
    assert (name_at(table, 0x1000), name_at(table, 0x1081), table.rank) == ("exported", "local_one", Rank.SYMTAB)


def test_nested_mini_debug_information_is_not_followed() -> None:
    """One level is what exists; more of them multiply."""
    data = bytes(ElfWriter().text().symbols([Sym(name="deep", value=0x1000, size=4)]))
    for _ in range(3):
        writer = ElfWriter().text().note()
        data = bytes(writer.add(Sec(name=".gnu_debugdata", data=lzma.compress(data))))
    with pytest.raises(SymbolFileError) as caught:
        build_table(memoryview(data), limit=LIMIT, demangle=DEMANGLE)
    assert caught.value.fault is Fault.NO_SYMBOLS


def test_procedure_linkage_slots_are_named_after_what_they_call() -> None:
    """Slot i of `.plt.sec` belongs to relocation i, in `.plt` after one slot of preamble."""
    for name, first in ((".plt.sec", 0x3000), (".plt", 0x3010)):
        writer = ElfWriter().text().note().text(0x40, addr=0x3000, name=name)
        imported = [Sym(name="puts@GLIBC_2.2.5", value=0, section=""), Sym(name="exit", value=0, section="")]
        exported = Sym(name="main", value=0x1000, size=4)
        writer.symbols([*imported, exported], dynamic=True)
        rela = b"".join(struct.pack("<QIIq", 0, 7, index, 0) for index in (1, 2))
        writer.add(Sec(name=".rela.plt", data=rela, type=SHT_RELA, entsize=24))
        table = build_table(memoryview(bytes(writer)), limit=LIMIT, demangle=DEMANGLE).table
        assert [name_at(table, first + at) for at in (0, 15, 16, 32)] == ["puts@GLIBC_2.2.5@plt"] * 2 + ["exit@plt", ""]


def test_names_need_not_be_utf8() -> None:
    """A byte that is no UTF-8 becomes the replacement character, and nothing fails."""
    data = simple_elf([Sym(name="caf\xe9", value=0x1000, size=4)]).replace("caf\xe9".encode(), b"caf\xff\xfe")
    assert name_at(build_table(memoryview(data), limit=LIMIT, demangle=DEMANGLE).table, 0x1000) == "caf\ufffd\ufffd"


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        (Sec(name=".symtab", data=bytes(48), type=SHT_SYMTAB, link=".strtab", entsize=0), Fault.HEADERS),
        (Sec(name=".symtab", data=bytes(48), type=SHT_SYMTAB, link=".strtab", entsize=23), Fault.HEADERS),
        (Sec(name=".symtab", data=bytes(48), type=SHT_SYMTAB, link="", entsize=24), Fault.HEADERS),
        (Sec(name=".symtab", data=bytes(48), type=SHT_SYMTAB, entsize=24, size=240_000_000), Fault.TRUNCATED),
    ],
)
def test_a_malformed_symbol_table_has_a_typed_fault(section: Sec, fault: Fault) -> None:
    """An entry size of 0, no strings, ten million symbols claimed."""
    writer = ElfWriter().text().note().add(section).add(Sec(name=".strtab", data=b"\0", type=SHT_STRTAB))
    with pytest.raises(SymbolFileError) as caught:
        build_table(memoryview(bytes(writer)), limit=LIMIT, demangle=DEMANGLE)
    assert caught.value.fault is fault


def test_names_beyond_the_strings_are_left_out_and_a_missing_nul_ends_the_last() -> None:
    """`st_name` past the table names nothing; the table's end ends a name."""
    writer = ElfWriter().text().note()
    rows = [struct.pack("<IBBHQQ", name, 0x12, 0, 1, 0x1000 + at, 4) for name, at in ((5000, 0), (1, 16))]
    writer.add(Sec(name=".symtab", data=bytes(24) + b"".join(rows), type=SHT_SYMTAB, link=".strtab", entsize=24))
    writer.add(Sec(name=".strtab", data=b"\0endless", type=SHT_STRTAB))
    table = build_table(memoryview(bytes(writer)), limit=LIMIT, demangle=DEMANGLE).table
    assert (name_at(table, 0x1000), name_at(table, 0x1010)) == ("", "endless")


def test_a_file_without_symbols_says_so() -> None:
    """That is a fault of its own: it is not tried again."""
    with pytest.raises(SymbolFileError) as caught:
        build_table(memoryview(bytes(ElfWriter().text().note())), limit=LIMIT, demangle=DEMANGLE)
    assert caught.value.fault is Fault.NO_SYMBOLS


def test_symbols_at_the_end_of_the_address_space_do_not_overflow() -> None:
    """start + size may be more than 2^64."""
    writer = ElfWriter().add(Sec(name=".text", flags=SHF_ALLOC | SHF_EXECINSTR, addr=2**64 - 4096, data=bytes(4096)))
    writer.symbols([Sym(name="vsyscall", value=2**64 - 4096, size=2**63), Sym(name="low", value=4, size=4)])
    table = build_table(memoryview(bytes(writer)), limit=LIMIT, demangle=DEMANGLE).table
    assert (name_at(table, 2**64 - 4096), name_at(table, 2**64 - 2), name_at(table, 5)) == (
        "vsyscall",
        "vsyscall",
        "low",
    )


ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=14)


@settings(max_examples=300, deadline=None)
@given(ranges)
def test_cutting_ranges_agrees_with_asking_every_range(spans: list[tuple[int, int]]) -> None:
    """For each address: the range with the greatest start that holds it, the first of equal ones that does."""
    spans = sorted(spans, key=lambda span: span[0])
    start = np.array([at for at, _ in spans], np.uint64)
    end = np.array([at + size for at, size in spans], np.uint64)
    begin, stop, owner = disjoint(start, end)
    assert (begin < stop).all()
    assert (stop[:-1] <= begin[1:]).all()
    for address in range(95):
        holders = [(at, -index) for index, (at, size) in enumerate(spans) if at <= address < at + size]
        expected = -max(holders)[1] if holders else None
        piece = [int(o) for b, e, o in zip(begin, stop, owner, strict=True) if b <= address < e]
        assert piece == ([] if expected is None else [expected])
