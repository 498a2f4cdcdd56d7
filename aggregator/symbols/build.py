"""From the bytes of one file to its table. Runs in the worker process: this is where parsers meet hostile bytes."""

from dataclasses import dataclass, replace

from symbolic import _lowlevel
from symbolic.debuginfo import Archive
from symbolic.exceptions import SymbolicError
from symbolic.symcache import SymCache

from aggregator.symbols import elf as elf_file
from aggregator.symbols.combine import Demangle, dwarf_table, plain_table
from aggregator.symbols.elf import Elf
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.golang import outside_of, read_go
from aggregator.symbols.plain import Candidates, find_symbol, read_candidates, read_plt
from aggregator.symbols.ranges import choose
from aggregator.symbols.symcache import NONE, Symcache, UnknownSymcacheError, read_symcache
from aggregator.symbols.table import Rank, SymbolTable
from fleetflame.buildid import BuildId


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A file's table and what the file says about itself. `note` tells what went wrong short of failure, or is ""."""

    table: SymbolTable
    build_id: BuildId
    note: str = ""


def build_table(data: memoryview, *, limit: int, demangle: Demangle) -> Built:
    """The best table that the ELF file `data` allows. Raises SymbolFileError.

    `limit` bounds what compressed sections may inflate to, in bytes; `demangle` turns each name into one for people.
    """
    elf = elf_file.parse_elf_bytes(data)
    elf_file.check_sizes(elf, limit=limit)
    tables, full = _symbol_tables(elf, limit=limit)
    named = choose(tables)
    segments = elf_file.executable_segments(elf)
    cache, note = _symcache(data) if has_dwarf(elf) else (None, "")
    if cache is not None and ((cache.line > 0) | (cache.parent != NONE)).any():
        table = dwarf_table(cache, named, base=elf_file.load_address(elf), demangle=demangle, segments=segments)
    elif (program := read_go(elf)) is not None:
        others = outside_of(program, named)
        described = dwarf_table(program, others, base=0, demangle=demangle, segments=segments)
        table = replace(described, rank=Rank.GO)
    elif len(named.start):
        rank = Rank.SYMTAB if full else Rank.DYNSYM
        table = plain_table(named, demangle=demangle, rank=rank, segments=segments)
    else:
        raise SymbolFileError(Fault.NO_SYMBOLS, "no symbol table and no debug information names any code")
    table = replace(table, text_start=find_symbol(elf, "_stext", limit=limit))
    found = elf_file.build_id(elf)
    return Built(table=table, build_id=found or elf_file.file_identity(elf), note=note)


def has_dwarf(elf: Elf) -> bool:
    """Whether the file has DWARF of its own."""
    return any(elf.section(name) is not None for name in (".debug_info", ".zdebug_info"))


def _symbol_tables(elf: Elf, *, limit: int) -> tuple[list[Candidates], bool]:
    """The candidates of every symbol table, and whether they include the local functions."""
    tables, full = [], False
    for section in elf.sections:
        if section.in_file and section.type in (elf_file.SHT_SYMTAB, elf_file.SHT_DYNSYM):
            found = read_candidates(elf, section, limit=limit)
            if found is not None:
                tables.append(found)
                full |= section.type == elf_file.SHT_SYMTAB
    mini = _mini_debug_information(elf, limit=limit)
    if mini is not None:
        more, _ = _symbol_tables(mini, limit=limit)
        tables += more
        full |= bool(more)
    plt = read_plt(elf, limit=limit)
    return (tables if plt is None else [*tables, plt]), full


def _mini_debug_information(elf: Elf, *, limit: int) -> Elf | None:
    """The ELF file in `.gnu_debugdata`: an xz stream with the `.symtab` of functions that `.dynsym` leaves out."""
    section = elf.section(".gnu_debugdata")
    if section is None:
        return None
    inner = elf_file.parse_elf_bytes(elf_file.unxz(elf.raw(section), limit=limit))
    # Once is all that anybody writes; a file that nests them is after our memory.
    return None if inner.section(".gnu_debugdata") else inner


def _symcache(data: memoryview) -> tuple[Symcache | None, str]:
    """What symbolic makes of the file's DWARF, None and why if it gives up."""
    try:
        view = _lowlevel.ffi.from_buffer("uint8_t[]", data)
        made = next(Archive.from_bytes(view).iter_objects()).make_symcache()
        return read_symcache(_bytes_of(made)), ""
    except (SymbolicError, StopIteration) as error:
        # The library's error and its traceback refer to each other: left to the collector, the buffer's view would be
        # cleared before the archive that reads through it.
        error.__traceback__ = None
        return None, f"no debug information: {error}"
    except UnknownSymcacheError as error:
        return None, f"symcache not understood: {error}"


def _bytes_of(cache: SymCache) -> bytes:
    """The symcache's file. The library's own way copies it in small pieces, which takes a tenth of parsing it."""
    pointer = cache._get_objptr()  # type: ignore[no-untyped-call]
    size = _lowlevel.lib.symbolic_symcache_get_size(pointer)
    return bytes(_lowlevel.ffi.buffer(_lowlevel.lib.symbolic_symcache_get_bytes(pointer), size))
