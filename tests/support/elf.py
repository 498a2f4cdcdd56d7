"""Writes small ELF files for tests: well-formed ones from a description, hostile ones by overriding fields."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

SHT_NULL, SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = 0, 1, 2, 3, 4, 7, 8, 11
SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 0x2, 0x4, 0x800
PT_LOAD, PT_NOTE = 1, 4
FUNC, NOTYPE, OBJECT, IFUNC = 2, 0, 1, 10
LOCAL, GLOBAL, WEAK = 0, 1, 2

TEXT_ADDR = 0x1000
BUILD_ID = bytes(range(20))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sym:
    """One symbol. `section` is the name of the section that it is defined in, "" for undefined."""

    name: str
    value: int
    size: int = 0
    type: int = FUNC
    binding: int = GLOBAL
    section: str = ".text"


@dataclass(slots=True, kw_only=True)
class Sec:
    """One section. Fields that are not None override what the writer would put into the header."""

    name: str
    data: bytes = b""
    type: int = SHT_PROGBITS
    flags: int = 0
    addr: int = 0
    link: str = ""
    entsize: int = 0
    align: int = 8
    size: int | None = None
    offset: int | None = None


@dataclass(slots=True, kw_only=True)
class Seg:
    """One program header."""

    type: int = PT_LOAD
    flags: int = 5
    offset: int = 0
    vaddr: int = 0
    filesz: int = 0


@dataclass(slots=True, kw_only=True)
class ElfWriter:
    """A description of one file; `bytes(writer)` is the file. `header` overrides fields of the ELF header by name."""

    sections: list[Sec] = field(default_factory=list)
    segments: list[Seg] = field(default_factory=list)
    machine: int = 62
    type: int = 3
    header: dict[str, int] = field(default_factory=dict)
    ident: bytes = b"\x7fELF\x02\x01\x01" + bytes(9)

    def add(self, section: Sec) -> "ElfWriter":
        """The writer itself, with one section more."""
        self.sections.append(section)
        return self

    def text(self, size: int = 0x1000, *, addr: int = TEXT_ADDR, name: str = ".text", bits: bool = True) -> "ElfWriter":
        """Adds a section of code; without `bits` one that has no bytes, as in a debug file."""
        kind = SHT_PROGBITS if bits else SHT_NOBITS
        data = bytes(size) if bits else b""
        return self.add(Sec(name=name, data=data, type=kind, flags=SHF_ALLOC | SHF_EXECINSTR, addr=addr, size=size))

    def note(self, build_id: bytes = BUILD_ID) -> "ElfWriter":
        """Adds a GNU build ID."""
        return self.add(
            Sec(name=".note.gnu.build-id", data=gnu_note(build_id), type=SHT_NOTE, flags=SHF_ALLOC, align=4)
        )

    def symbols(self, symbols: Sequence[Sym], *, dynamic: bool = False) -> "ElfWriter":
        """Adds a symbol table and its strings. Sections that symbols are defined in must have been added before."""
        table, strings = self.symbol_table(symbols)
        name, names = (".dynsym", ".dynstr") if dynamic else (".symtab", ".strtab")
        kind = SHT_DYNSYM if dynamic else SHT_SYMTAB
        self.add(Sec(name=name, data=table, type=kind, link=names, entsize=24))
        return self.add(Sec(name=names, data=strings, type=SHT_STRTAB))

    def symbol_table(self, symbols: Sequence[Sym]) -> tuple[bytes, bytes]:
        """The bytes of a symbol table and of its strings."""
        index = {section.name: number for number, section in enumerate(self.sections, start=1)}
        strings = bytearray(b"\0")
        rows = [bytes(24)]
        for symbol in symbols:
            info = symbol.binding << 4 | symbol.type
            section = index[symbol.section] if symbol.section else 0
            rows.append(struct.pack("<IBBHQQ", len(strings), info, 0, section, symbol.value, symbol.size))
            strings += symbol.name.encode() + b"\0"
        return b"".join(rows), bytes(strings)

    def __bytes__(self) -> bytes:
        names = bytearray(b"\0")
        body = bytearray()
        start = 64 + 56 * len(self.segments)
        rows = [bytes(64)]
        sections = [*self.sections, Sec(name=".shstrtab", type=SHT_STRTAB)]
        index = {section.name: number for number, section in enumerate(sections, start=1)}
        for section in sections:
            name_at = len(names)
            names += section.name.encode() + b"\0"
            if section.name == ".shstrtab":
                section.data = bytes(names)
            body += bytes(-(start + len(body)) % max(section.align, 1))
            offset = start + len(body) if section.offset is None else section.offset
            body += section.data
            size = len(section.data) if section.size is None else section.size
            link = index.get(section.link, 0)
            row = (name_at, section.type, section.flags, section.addr, offset, size, link, 0, section.align)
            rows.append(struct.pack("<IIQQQQIIQQ", *row, section.entsize))
        body += bytes(-(start + len(body)) % 8)
        shoff = start + len(body)
        return self._head(shoff, len(rows)) + bytes(body) + b"".join(rows)

    def _head(self, shoff: int, count: int) -> bytes:
        fields = {
            "type": self.type,
            "machine": self.machine,
            "version": 1,
            "entry": 0,
            "phoff": 64 if self.segments else 0,
            "shoff": shoff,
            "flags": 0,
            "ehsize": 64,
            "phentsize": 56,
            "phnum": len(self.segments),
            "shentsize": 64,
            "shnum": count,
            "shstrndx": count - 1,
        } | self.header
        head = self.ident + struct.pack("<HHIQQQIHHHHHH", *fields.values())
        for seg in self.segments:
            head += struct.pack(
                "<IIQQQQQQ", seg.type, seg.flags, seg.offset, seg.vaddr, seg.vaddr, seg.filesz, seg.filesz, 0x1000
            )
        return head


def gnu_note(build_id: bytes) -> bytes:
    """The contents of a `.note.gnu.build-id` section."""
    return struct.pack("<III", 4, len(build_id), 3) + b"GNU\0" + build_id + bytes(-len(build_id) % 4)


def compressed(data: bytes, claimed: int, *, kind: int = 1) -> bytes:
    """The contents of an SHF_COMPRESSED section: a header that claims `claimed` bytes, then `data` as it is."""
    return struct.pack("<IIQQ", kind, 0, claimed, 1) + data


def simple_elf(symbols: Sequence[Sym], *, build_id: bytes = BUILD_ID) -> bytes:
    """An executable with one segment of code at 0x1000, a build ID and a `.symtab`."""
    writer = ElfWriter(segments=[Seg(offset=0x1000, vaddr=TEXT_ADDR, filesz=0x1000)])
    writer.text().note(build_id).symbols(symbols)
    return bytes(writer)
