"""Function names from ELF symbol tables: `.symtab`, `.dynsym`, the mini debug information, PLT slots.

Symbols overlap, repeat and lie about their size; a profile needs one name for one address. This module turns them into
disjoint ranges. An address belongs to the symbol with the greatest start whose range holds it (the innermost). Among
symbols that start at one address the first of these rules that tells them apart decides:

    1. a range that holds the address: so a sized symbol before one of size 0
    2. a function (FUNC, IFUNC) before an untyped label
    3. fewer leading underscores, `__GI_` last: `write`, not `__write` or `__GI___write`, whichever are left
    4. global, then local, then weak: a weak symbol is the alias of something that has a name of its own
    5. the default version of a symbol before an old one
    6. without a compiler's suffix (`.localalias`, `.isra.0`)
    7. shorter, then first in byte order, so that equal builds give equal names

Rules 1, 3 and 4 are perf's (`choose_best_symbol` in tools/perf/util/symbol.c), with the underscores before the binding:
a build's names must not change when a file with more aliases of the same functions arrives.

A symbol of size 0 reaches to the next symbol or the end of its section. A local label of size 0 inside a sized function
is a jump target and is left out; a global one is an entry point that somebody named (`entry_SYSCALL_64_after_hwframe`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregator.symbols import elf as elf_file
from aggregator.symbols.elf import Elf, Section
from aggregator.symbols.faults import Fault, SymbolFileError

SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])

STT_NOTYPE, STT_FUNC, STT_GNU_IFUNC = 0, 2, 10
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
VERSYM_HIDDEN = 0x8000

PLT_SLOT = 16

MAX_SYMBOLS = 30_000_000
"""Chromium with all its local symbols has about 2 million. 720 MB of table: the worker's memory limit comes first."""
MAX_NAME = 16_384
"""Longer names are cut. Rust and C++ reach a few thousand bytes before demangling."""


class Named(NamedTuple):
    """Disjoint ranges as columns: [start, end) is called names[name]. Ascending."""

    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    name: NDArray[np.uint32]
    names: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Symbols that may name code, as columns; `text[at : at + length]` is the name without its version."""

    start: NDArray[np.uint64]
    size: NDArray[np.uint64]
    bound: NDArray[np.uint64]
    """Where a symbol of size 0 must stop at the latest: the end of its section."""
    typed: NDArray[np.bool_]
    binding: NDArray[np.uint8]
    old: NDArray[np.bool_]
    at: NDArray[np.int64]
    length: NDArray[np.int64]
    text: NDArray[np.uint8]


def read_candidates(elf: Elf, table: Section, *, limit: int) -> Candidates | None:
    """The code symbols of one symbol table section, None if it has none. Raises SymbolFileError."""
    if table.entsize != SYMBOL.itemsize:
        raise SymbolFileError(Fault.HEADERS, f"`{table.name}` has entries of {table.entsize} bytes")
    if table.size // SYMBOL.itemsize > MAX_SYMBOLS:
        raise SymbolFileError(Fault.HEADERS, f"`{table.name}` has {table.size // SYMBOL.itemsize:,} symbols")
    if not 0 < table.link < len(elf.sections):
        raise SymbolFileError(Fault.HEADERS, f"`{table.name}` names no string table")
    data = elf.content(table, limit=limit)
    symbols = np.frombuffer(data, SYMBOL, len(data) // SYMBOL.itemsize)
    strings = elf.sections[table.link]
    text = np.frombuffer(elf.content(strings, limit=limit) if strings.in_file else b"", np.uint8)
    keep = _code(elf, symbols)
    chosen = symbols[keep]
    at, length = _names(text, chosen["name"].astype(np.int64))
    at, length, old = _without_version(text, at, length)
    old |= _hidden(elf, table, len(symbols), keep)
    named = (length > 0) & _is_name(text, at)
    if not named.any():
        return None
    chosen = chosen[named]
    return Candidates(
        start=chosen["value"].astype(np.uint64),
        size=chosen["size"].astype(np.uint64),
        bound=_section_ends(elf)[chosen["section"]],
        typed=(chosen["info"] & 0xF) != STT_NOTYPE,
        binding=(chosen["info"] >> 4).astype(np.uint8),
        old=old[named],
        at=at[named],
        length=np.minimum(length[named], MAX_NAME),
        text=text,
    )


def find_symbol(elf: Elf, name: str, *, limit: int) -> int | None:
    """The value of the symbol of exactly that name in `.symtab`, None if there is none."""
    table = elf.section(".symtab")
    if table is None or table.entsize != SYMBOL.itemsize or not 0 < table.link < len(elf.sections):
        return None
    strings = elf.sections[table.link]
    at = (elf.content(strings, limit=limit) if strings.in_file else b"").find(b"\0" + name.encode() + b"\0") + 1
    symbols = np.frombuffer(elf.content(table, limit=limit)[: table.size // 24 * 24], SYMBOL)
    found = np.flatnonzero(symbols["name"] == at)
    return int(symbols["value"][found[0]]) if at > 0 and len(found) else None


def read_plt(elf: Elf, *, limit: int) -> Candidates | None:
    """A symbol for each procedure linkage slot (`puts@plt`), None if there are none.

    By order alone: linkers write slots in the order of `.rela.plt`, in `.plt.sec` from its start and in `.plt` after
    one slot of preamble (x86-64 psABI, "Procedure Linkage Table"). The code bytes need not be there.
    """
    slots = next((s for name in (".plt.sec", ".plt") for s in elf.sections if s.name == name and s.size), None)
    relocations, dynsym = elf.section(".rela.plt"), elf.section(".dynsym")
    if slots is None or relocations is None or dynsym is None or elf.machine != elf_file.EM_X86_64:
        return None
    rela = np.frombuffer(elf.raw(relocations)[: relocations.size // RELA.itemsize * RELA.itemsize], RELA)
    symbols = np.frombuffer(elf.raw(dynsym)[: dynsym.size // SYMBOL.itemsize * SYMBOL.itemsize], SYMBOL)
    strings = elf.sections[dynsym.link] if dynsym.link < len(elf.sections) else dynsym
    preamble = 0 if slots.name == ".plt.sec" else 1
    count = min(len(rela), slots.size // PLT_SLOT - preamble)
    if count <= 0 or not strings.in_file:
        return None
    index = rela["symbol"][:count].astype(np.int64)
    index[index >= len(symbols)] = 0
    text = np.frombuffer(elf.content(strings, limit=limit), np.uint8)
    at, length = _names(text, symbols["name"][index].astype(np.int64))
    named = np.flatnonzero((index > 0) & (length > 0))
    names = [f"{name}@plt".encode() for name in texts(text, at[named], length[named])]
    if not names:
        return None
    lengths = np.array([len(name) for name in names], np.int64)
    start = slots.addr + (named.astype(np.uint64) + np.uint64(preamble)) * np.uint64(PLT_SLOT)
    return Candidates(
        start=start,
        size=np.full(len(named), PLT_SLOT, np.uint64),
        bound=start + np.uint64(PLT_SLOT),
        typed=np.ones(len(named), np.bool_),
        binding=np.full(len(named), STB_LOCAL, np.uint8),
        old=np.zeros(len(named), np.bool_),
        at=np.cumsum(lengths) - lengths,
        length=lengths,
        text=np.frombuffer(b"".join(names), np.uint8),
    )


def texts(text: NDArray[np.uint8], at: NDArray[np.int64], length: NDArray[np.int64]) -> list[str]:
    """The strings text[at : at + length]; bytes that are no UTF-8 become U+FFFD."""
    data = text.tobytes()
    return [data[a:b].decode("utf-8", "replace") for a, b in zip(at.tolist(), (at + length).tolist(), strict=True)]


def _code(elf: Elf, symbols: NDArray[np.void]) -> NDArray[np.int64]:
    """Indices of the symbols that are defined in a section of code."""
    kind = symbols["info"] & 0xF
    section = symbols["section"]
    executable = np.zeros(1 << 16, np.bool_)
    for number, header in enumerate(elf.sections):
        if number < SHN_LORESERVE:
            executable[number] = bool(header.flags & elf_file.SHF_EXECINSTR)
    executable[SHN_UNDEF] = False
    function = (kind == STT_FUNC) | (kind == STT_GNU_IFUNC) | (kind == STT_NOTYPE)
    return np.flatnonzero(function & executable[section])


def _section_ends(elf: Elf) -> NDArray[np.uint64]:
    ends = np.zeros(1 << 16, np.uint64)
    for number, header in enumerate(elf.sections[:SHN_LORESERVE]):
        ends[number] = min(header.addr + header.size, (1 << 64) - 1)
    return ends


def _names(text: NDArray[np.uint8], at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each NUL-terminated name starts and how long it is; length 0 for one that starts beyond the table.

    A table without a last NUL ends its last name.
    """
    ends = np.append(np.flatnonzero(text == 0), len(text))
    inside = at < len(text)
    at = np.where(inside, at, 0)
    end = ends[np.minimum(np.searchsorted(ends, at), len(ends) - 1)]
    return at, np.where(inside, end - at, 0)


def _without_version(
    text: NDArray[np.uint8], at: NDArray[np.int64], length: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Cuts `name@VERSION` and `name@@VERSION` at the `@`; with one `@` the version is an old one."""
    signs = np.append(np.flatnonzero(text == ord("@")), len(text) + MAX_NAME)
    sign = signs[np.searchsorted(signs, at)]
    cut = (sign > at) & (sign < at + length)
    padded = np.append(text, np.zeros(1, np.uint8))
    second = padded[np.minimum(sign + 1, len(text))]
    return at, np.where(cut, sign - at, length), cut & (second != ord("@"))


def _hidden(elf: Elf, table: Section, count: int, keep: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which symbols `.gnu.version` calls hidden, that is of a version that nothing links to any more."""
    versions = elf.section(".gnu.version")
    if table.type != elf_file.SHT_DYNSYM or versions is None or versions.size < count * 2:
        return np.zeros(len(keep), np.bool_)
    hidden: NDArray[np.bool_] = (np.frombuffer(elf.raw(versions), "<u2")[keep] & VERSYM_HIDDEN) != 0
    return hidden


def _is_name(text: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Not a local label (`.L12`) and not one of Arm's mapping symbols (`$x`, `$d.5`)."""
    padded = np.append(text, np.zeros(2, np.uint8))
    first, second = padded[at], padded[at + 1]
    mapping = (first == ord("$")) & ((second == ord("x")) | (second == ord("d")))
    good: NDArray[np.bool_] = ~(((first == ord(".")) & (second == ord("L"))) | mapping)
    return good
