"""Where the running kernel's code lies: its text, its modules, and code that it generates (BPF programs, trampolines).

Addresses become offsets from `_stext` or from a module's base, so that address randomization tells no hosts apart.
Generated code is in no file: its frames carry the name that `/proc/kallsyms` has for it. Of the 100,000 symbols there
only bounds and generated code are kept; all other names are looked up elsewhere, in a table that is lent once.
"""

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.addresses import AddressTable, Range, build_table, miss_range
from agent.lines import whole_lines
from fleetflame.buildid import BuildId, from_notes
from fleetflame.model import FrameMiss, Mapping, MappingKind, NamedFrame

REREAD_S = 60.0
"""Modules and generated code are read again at most this often, and only when an address is missing (40 ms each)."""
MAX_GENERATED = 16384
"""Generated functions kept. A host with a BPF-based network has some hundreds."""
MAX_GENERATED_BYTES = 64 * 1024
"""How far the last of them may reach; any other ends where the next begins. A program has 4,096 instructions unless
privileged, which are about 20 KiB."""
KERNEL_NAME = "[kernel]"
MAX_LINE = 4096
"""Of kallsyms: a symbol has 511 characters at most (KSYM_NAME_LEN, include/linux/kallsyms.h)."""

_CHUNK = 256 * 1024
_GENERATED = re.compile(rb"^([0-9a-f]+) [a-zA-Z] ([^\t\n]+)\t\[(?:bpf|__builtin__[^\]\n]*)\]$", re.MULTILINE)
_GENERATED_MAPPING = Mapping(MappingKind.BPF)
_LAST = (1 << 64) - 1
_FIRST_KERNEL_ADDRESS = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A loaded module: its name, where its code is, how long it is, and its build (None: it has no note)."""

    name: str
    base: int
    size: int
    build_id: BuildId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbols:
    """What is kept of kallsyms: bounds of the kernel's text, bounds of the part of it that only the start needed, and
    (address, name) of generated code in ascending order.

    The memory of that part is in other use by now, but it is at the root of the idle task's stack for good.
    """

    start: int = 0
    end: int = 0
    init_start: int = 0
    init_end: int = 0
    generated: tuple[tuple[int, str], ...] = ()

    @property
    def hidden(self) -> bool:
        """All addresses read as 0 for lack of CAP_SYSLOG, or there are none."""
        return not self.start < self.end

    def has(self, address: int) -> bool:
        """Whether the kernel's own code is there."""
        return self.start <= address < self.end or self.init_start <= address < self.init_end


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSnapshot:
    """The kernel's code at one moment. A BPF frame's address in `table` is an index in `named`."""

    build_id: BuildId
    symbols: Symbols
    modules: tuple[Module, ...] = ()
    table: AddressTable
    named: tuple[NamedFrame, ...] = ()


@dataclass(slots=True, kw_only=True)
class Kernel:
    """The running kernel, read when first asked for."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    clock: Callable[[], float] = time.monotonic
    _snapshot: KernelSnapshot | None = field(default=None, init=False)
    _read_at: float = field(default=0.0, init=False)

    def snapshot(self) -> KernelSnapshot:
        """What is known now."""
        return self._snapshot or self._read()

    def reread(self) -> KernelSnapshot | None:
        """As of now, after an address was found in none of the ranges; None if it is too early to look again."""
        return self._read() if self.clock() - self._read_at >= REREAD_S else None

    def _read(self) -> KernelSnapshot:
        self._read_at = self.clock()
        build_id = read_build_id(self.proc, self.sys)
        symbols = Symbols()
        with contextlib.suppress(OSError), (self.proc / "kallsyms").open("rb") as file:
            symbols = parse_kallsyms(iter(lambda: file.read(_CHUNK), b""))
        modules = read_modules(self.proc, self.sys)
        self._snapshot = make_snapshot(build_id, symbols, modules)
        return self._snapshot


def make_snapshot(build_id: BuildId, symbols: Symbols, modules: tuple[Module, ...]) -> KernelSnapshot:
    """The table that these facts make."""
    named = tuple(NamedFrame(name) for _address, name in symbols.generated)
    if symbols.hidden:
        ranges = [miss_range(_FIRST_KERNEL_ADDRESS, _LAST, FrameMiss.KERNEL_HIDDEN)]
    else:
        kernel = Mapping(MappingKind.KERNEL, build_id, KERNEL_NAME)
        ranges = [Range(symbols.start, symbols.end, kernel, bias=symbols.start)]
        if symbols.end <= symbols.init_start < symbols.init_end:
            ranges.append(Range(symbols.init_start, symbols.init_end, kernel, bias=symbols.start))
        ranges += _module_ranges(build_id, modules)
        ranges += _generated_ranges(symbols.generated)
    return KernelSnapshot(build_id=build_id, symbols=symbols, modules=modules, table=build_table(ranges), named=named)


def parse_kallsyms(chunks: Iterable[bytes]) -> Symbols:
    """The little that is kept, of text of any length.

    ffffffff81000000 T _stext
    ffffffffc0201000 t bpf_prog_6deef7357e7b4530_sd_devices	[bpf]
    """
    bounds = dict.fromkeys((b"_stext", b"_etext", b"_sinittext", b"_einittext"), 0)
    generated: dict[int, str] = {}
    for block in whole_lines(chunks, longest=MAX_LINE):
        for name in bounds:
            bounds[name] = bounds[name] or _address_of(block, b" " + name + b"\n")
        if b"\t[" in block:
            for match in _GENERATED.finditer(block):
                if len(generated) < MAX_GENERATED:
                    generated.setdefault(int(match[1], 16), match[2].decode("ascii", "backslashreplace"))
    generated.pop(0, None)
    start, end, init_start, init_end = bounds.values()
    return Symbols(
        start=start,
        end=end,
        init_start=init_start,
        init_end=init_end,
        generated=tuple(sorted(generated.items())),
    )


def read_build_id(proc: Path, sys: Path) -> BuildId:
    """The kernel's own note; without one, a hash of its version text, which holds time and compiler of the build."""
    with contextlib.suppress(OSError):
        found = from_notes((sys / "kernel/notes").read_bytes())
        if found is not None:
            return found
    version = b""
    with contextlib.suppress(OSError):
        version = (proc / "version").read_bytes()
    return _hashed(b"kernel", version)


def read_modules(proc: Path, sys: Path) -> tuple[Module, ...]:
    """Loaded modules; none where the kernel has no loadable modules or hides their addresses.

    nf_tables 372736 683 nft_compat,nft_chain_nat, Live 0xffffffffc0a00000
    """
    try:
        text = (proc / "modules").read_text("ascii", "backslashreplace")
    except OSError:
        return ()
    modules = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1].isdecimal() and (base := int(fields[5], 16)):
            build_id = None
            with contextlib.suppress(OSError):
                build_id = from_notes((sys / "module" / fields[0] / "notes/.note.gnu.build-id").read_bytes())
            modules.append(Module(name=fields[0], base=base, size=int(fields[1]), build_id=build_id))
    return tuple(sorted(modules, key=lambda module: module.base))


def module_build_id(kernel: BuildId, module: Module) -> BuildId:
    """A module's identity: its note, else its name within the kernel that it was loaded into."""
    return module.build_id or _hashed(kernel.raw, module.name.encode())


def _module_ranges(kernel: BuildId, modules: tuple[Module, ...]) -> list[Range]:
    """The size in /proc/modules counts data too, which since 6.4 ("module: replace module_layout with module_memory")
    lies elsewhere: a range ends where the next module begins, if that is earlier."""
    ends = [*(module.base for module in modules[1:]), _LAST]
    return [
        Range(
            module.base,
            min(module.base + module.size, end),
            Mapping(MappingKind.MODULE, module_build_id(kernel, module), module.name),
            bias=module.base,
        )
        for module, end in zip(modules, ends, strict=False)
    ]


def _generated_ranges(generated: tuple[tuple[int, str], ...]) -> list[Range]:
    ends = [*(address for address, _name in generated[1:]), _LAST]
    return [
        Range(address, min(end, address + MAX_GENERATED_BYTES), _GENERATED_MAPPING, fixed=number)
        for number, ((address, _name), end) in enumerate(zip(generated, ends, strict=False))
    ]


def _address_of(block: bytes, suffix: bytes) -> int:
    """Address of the line that ends in ` TYPE` and `suffix`, 0 if there is none."""
    at = block.find(suffix)
    return int(block[block.rfind(b"\n", 0, at) + 1 : at].split(b" ", 1)[0], 16) if at >= 0 else 0


def _hashed(*parts: bytes) -> BuildId:
    return BuildId(hashlib.sha256(b"fleetflame kernel\0" + b"\0".join(parts)).digest()[:16])
