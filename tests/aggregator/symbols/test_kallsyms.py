"""Kernel names out of the text that a node lends."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.kallsyms import kallsyms_table
from aggregator.symbols.table import Rank, SymbolTable, check, look_up
from fleetflame.model import MappingKind

TEXT = b"""0 T _stext
0 T _text
40 t do_one_initcall
80 T entry_SYSCALL_64
a0 t entry_SYSCALL_64_after_hwframe
100 D not_code
100 T __do_softirq
100 T __softirqentry_text_start
200 W weak_one
300 T last_one
10 t ext4_read\t[ext4]
80 t ext4_write\t[ext4]
10 t other\t[xfs]
"""


def name_at(table: SymbolTable, address: int) -> str:
    """The name at an offset, "" for none."""
    found = look_up(table, np.array([address], np.uint64))
    return found.strings[found.function[0]] if len(found.function) else ""


def test_each_symbol_reaches_to_the_next() -> None:
    """There are no sizes; data is left out; aliases are chosen as in ELF files."""
    table = kallsyms_table(TEXT, MappingKind.KERNEL)
    assert table.rank is Rank.KALLSYMS
    found = [name_at(table, at) for at in (0, 0x3F, 0x40, 0x9F, 0xA1, 0x150, 0x2FF, 0x300, 0x300 + 0x10001)]
    assert found == [
        "_text", "_text", "do_one_initcall", "entry_SYSCALL_64", "entry_SYSCALL_64_after_hwframe", "__do_softirq",
        "weak_one", "last_one", "",
    ]  # fmt: skip


def test_modules_have_tables_of_their_own() -> None:
    """Offsets of a module count from its own base."""
    table = kallsyms_table(TEXT, MappingKind.MODULE, "ext4")
    assert [name_at(table, at) for at in (0xF, 0x10, 0x7F, 0x80)] == ["", "ext4_read", "ext4_read", "ext4_write"]


@pytest.mark.parametrize(
    ("text", "module", "fault"),
    [(b"", "", Fault.KALLSYMS), (b"no symbols\n", "", Fault.KALLSYMS), (TEXT, "btrfs", Fault.NO_SYMBOLS)],
)
def test_a_text_without_symbols_has_a_typed_fault(text: bytes, module: str, fault: Fault) -> None:
    """A module that the node had unloaded by then is no malformed text."""
    kind = MappingKind.MODULE if module else MappingKind.KERNEL
    with pytest.raises(SymbolFileError) as caught:
        kallsyms_table(text, kind, module)
    assert caught.value.fault is fault


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_text_is_read_or_refused(noise: bytes) -> None:
    """What is no line is passed over."""
    try:
        assert check(kallsyms_table(noise + b"\n40 T f\n", MappingKind.KERNEL)) is None
    except SymbolFileError as error:
        assert error.fault is Fault.KALLSYMS


def test_the_running_kernel_is_named(tmp_path: Path) -> None:
    """The real text, made relative as an agent does, names every function where it starts."""
    rows = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines()]
    rows = [row for row in rows if len(row) == 3 and row[1] in "tTwW"]
    start = next((int(row[0], 16) for row in rows if row[2] == "_stext"), 0)
    if not start:
        pytest.skip("kernel addresses are hidden (CAP_SYSLOG is missing)")
    text = "".join(f"{int(a, 16) - start:x} {t} {n}\n" for a, t, n in rows if int(a, 16) >= start)
    table = kallsyms_table(text.encode(), MappingKind.KERNEL)
    at_start = {}
    for address, _, name in rows:
        at_start.setdefault(int(address, 16) - start, set()).add(name)
    asked = [address for address in at_start if 0 <= address < 1 << 30]
    found = look_up(table, np.array(asked, np.uint64))
    assert len(found.function) == len(asked)
    assert all(found.strings[f] in at_start[a] for a, f in zip(asked, found.function.tolist(), strict=True))
