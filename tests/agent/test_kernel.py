"""Where the kernel's code lies."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.addresses import MISS
from agent.kernel import (
    Kernel,
    KernelSnapshot,
    Module,
    Symbols,
    make_snapshot,
    module_build_id,
    parse_kallsyms,
    read_build_id,
    read_modules,
)
from fleetflame.buildid import BuildId, from_notes
from fleetflame.model import FrameMiss, Mapping, MappingKind, NamedFrame
from tests.support.elf import gnu_note

KALLSYMS = b"""\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81001000 t do_things
ffffffff82000000 T _etext
ffffffff83000000 D some_data
ffffffff83780000 T _sinittext
ffffffff83781000 t start_kernel
ffffffff837f0000 T _einittext
ffffffffc0100000 t nft_do_chain\t[nf_tables]
ffffffffc0300000 t bpf_trampoline_6442\t[bpf]
ffffffffc0201000 t bpf_prog_6deef7357e7b4530_devices\t[bpf]
ffffffffc0400000 t ftrace_trampoline\t[__builtin__ftrace]
"""
SYMBOLS = Symbols(
    start=0xFFFFFFFF81000000,
    end=0xFFFFFFFF82000000,
    init_start=0xFFFFFFFF83780000,
    init_end=0xFFFFFFFF837F0000,
    generated=(
        (0xFFFFFFFFC0201000, "bpf_prog_6deef7357e7b4530_devices"),
        (0xFFFFFFFFC0300000, "bpf_trampoline_6442"),
        (0xFFFFFFFFC0400000, "ftrace_trampoline"),
    ),
)
ID = BuildId(b"\1" * 20)
MODULES = (
    Module(name="nf_tables", base=0xFFFFFFFFC0100000, size=0x80000, build_id=BuildId(b"\2" * 20)),
    Module(name="veth", base=0xFFFFFFFFC0110000, size=0x1000),
)


def resolve(snapshot: KernelSnapshot, address: int) -> tuple[Mapping | None, int]:
    target, within = snapshot.table.resolve(np.array([address], np.uint64))
    return (None if target[0] < 0 else snapshot.table.targets[target[0]]), int(within[0])


def system(folder: Path, *, kallsyms: bytes = KALLSYMS, modules: bytes | None = None) -> Kernel:
    """A kernel with these files in its proc and sys folders."""
    (folder / "proc").mkdir()
    (folder / "sys/kernel").mkdir(parents=True)
    (folder / "proc/kallsyms").write_bytes(kallsyms)
    (folder / "proc/version").write_text("Linux version 6.1")
    (folder / "sys/kernel/notes").write_bytes(gnu_note(ID.raw))
    if modules is not None:
        (folder / "proc/modules").write_bytes(modules)
    return Kernel(proc=folder / "proc", sys=folder / "sys")


@given(st.lists(st.integers(0, len(KALLSYMS)), max_size=10))
def test_any_partition_of_kallsyms_gives_the_same_symbols(cuts: list[int]) -> None:
    """Bounds of the text and generated code, wherever chunks end."""
    bounds = [0, *sorted(cuts), len(KALLSYMS)]
    assert parse_kallsyms(KALLSYMS[a:b] for a, b in pairwise(bounds)) == SYMBOLS


def test_kernel_addresses_are_counted_from_stext() -> None:
    """With the running kernel's build ID, so that address randomization does not matter."""
    snapshot = make_snapshot(ID, SYMBOLS, MODULES)
    kernel = Mapping(MappingKind.KERNEL, ID, "[kernel]")
    assert resolve(snapshot, SYMBOLS.start) == (kernel, 0)
    assert resolve(snapshot, SYMBOLS.end - 1) == (kernel, SYMBOLS.end - 1 - SYMBOLS.start)
    assert resolve(snapshot, SYMBOLS.end) == (None, 0)
    assert resolve(snapshot, 0xFFFFFFFF83781010) == (kernel, 0x2781010)


def test_module_addresses_are_counted_from_the_base() -> None:
    """A module ends where the next one begins, and one without a note is known by its name in this kernel."""
    snapshot = make_snapshot(ID, SYMBOLS, MODULES)
    nf_tables = Mapping(MappingKind.MODULE, BuildId(b"\2" * 20), "nf_tables")
    veth = Mapping(MappingKind.MODULE, module_build_id(ID, MODULES[1]), "veth")
    assert resolve(snapshot, MODULES[0].base + 5) == (nf_tables, 5)
    assert resolve(snapshot, MODULES[1].base + 5) == (veth, 5)
    assert resolve(snapshot, MODULES[1].base + 0x1000) == (None, 0)
    assert module_build_id(ID, MODULES[1]) != module_build_id(BuildId(b"\3"), MODULES[1])


def test_generated_code_is_named() -> None:
    """A BPF program's frames carry the name that the kernel has for it, up to the next one."""
    snapshot = make_snapshot(ID, SYMBOLS, ())
    mapping, index = resolve(snapshot, 0xFFFFFFFFC0201123)
    assert mapping == Mapping(MappingKind.BPF)
    assert snapshot.named[index] == NamedFrame("bpf_prog_6deef7357e7b4530_devices")
    _mapping, index = resolve(snapshot, 0xFFFFFFFFC0300000)
    assert snapshot.named[index] == NamedFrame("bpf_trampoline_6442")
    assert resolve(snapshot, 0xFFFFFFFFC02F0000) == (None, 0)


def test_hidden_addresses_are_a_miss() -> None:
    """Without CAP_SYSLOG every address reads as 0: then no kernel address can be told."""
    hidden = parse_kallsyms([b"\n".join(b"0" * 16 + line[16:] for line in KALLSYMS.splitlines())])
    assert hidden.hidden
    assert resolve(make_snapshot(ID, hidden, ()), 0xFFFFFFFF81001000) == (MISS, FrameMiss.KERNEL_HIDDEN)


def test_modules_are_read(tmp_path: Path) -> None:
    """With build IDs from /sys; lines whose address is hidden are left out."""
    kernel = system(
        tmp_path,
        modules=b"veth 4096 0 - Live 0xffffffffc0110000\nhidden 1 0 - Live 0x0000000000000000\nshort\n"
        b"nf_tables 524288 2 nft_compat,veth, Live 0xffffffffc0100000 (OE)\n",
    )
    notes = tmp_path / "sys/module/nf_tables/notes"
    notes.mkdir(parents=True)
    (notes / ".note.gnu.build-id").write_bytes(gnu_note(b"\2" * 20))
    assert kernel.snapshot().modules == read_modules(kernel.proc, kernel.sys) == MODULES


def test_a_kernel_without_modules_is_read(tmp_path: Path) -> None:
    """/proc/modules is absent where the kernel has none."""
    snapshot = system(tmp_path).snapshot()
    assert (snapshot.modules, snapshot.symbols, snapshot.build_id) == ((), SYMBOLS, ID)


def test_a_kernel_without_a_note_is_known_by_its_version(tmp_path: Path) -> None:
    """The version text holds the time of the build."""
    kernel = system(tmp_path)
    (tmp_path / "sys/kernel/notes").unlink()
    first = read_build_id(kernel.proc, kernel.sys)
    assert first == read_build_id(kernel.proc, kernel.sys)
    (tmp_path / "proc/version").write_text("Linux version 6.2")
    assert read_build_id(kernel.proc, kernel.sys) != first


def test_it_is_read_again_only_now_and_then(tmp_path: Path) -> None:
    """Reading takes 40 ms, and an address in no range may come with every window."""
    now = [100.0]
    kernel = system(tmp_path, kallsyms=b"")
    kernel.clock = lambda: now[0]
    assert kernel.snapshot().symbols.hidden
    (tmp_path / "proc/kallsyms").write_bytes(KALLSYMS)
    now[0] += 59
    assert kernel.reread() is None
    assert kernel.snapshot().symbols.hidden
    now[0] += 1
    assert kernel.reread() is kernel.snapshot()
    assert kernel.snapshot().symbols == SYMBOLS


@pytest.mark.skipif(not os.access("/sys/kernel/notes", os.R_OK), reason="/sys/kernel/notes cannot be read")
def test_the_running_kernel_has_a_build_id() -> None:
    """The one in its own notes."""
    assert Kernel().snapshot().build_id == from_notes(Path("/sys/kernel/notes").read_bytes())
