"""Go programs: built by the toolchain at hand, or their table of functions written by hand in any version's layout."""

import os
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from fleetflame.gopcln import GOFUNC_WORDS, MODULE_WORDS, TEXT_WORD, Layout
from tests.support.elf import SHF_ALLOC, ElfWriter, Sec

SOURCE = r"""
package main

import (
	"fmt"
	"runtime"
	"strings"
)

type account struct{ total int }

func cube(n int) int { return n * n * n }

func square(n int) int {
	if n == 7 {
		where()
	}
	return n*n + cube(n)
}

func (a *account) add(n int) { a.total += square(n) }

//go:noinline
func (a *account) pay(n int) int {
	for i := 0; i < n; i++ {
		a.add(i)
	}
	return a.total
}

//go:noinline
func where() {
	pcs := make([]uintptr, 32)
	pcs = pcs[:runtime.Callers(1, pcs)]
	for _, pc := range pcs {
		fmt.Printf("pc %x\n", pc-1)
	}
	frames := runtime.CallersFrames(pcs)
	for more := true; more; {
		var frame runtime.Frame
		frame, more = frames.Next()
		fmt.Println("frame", frame.Function, frame.File, frame.Line)
	}
}

func main() {
	a := &account{}
	fmt.Println(strings.Repeat("x", 3), a.pay(9))
}
"""


def build(folder: Path, name: str, *flags: str) -> Path:
    """The program, built with these flags."""
    (folder / "main.go").write_text(SOURCE)
    (folder / "go.mod").write_text("module hot\n\ngo 1.19\n")
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOCACHE": str(folder / "cache"), "CGO_ENABLED": "0"}
    subprocess.run(["go", "build", *flags, "-o", name, "."], cwd=folder, env=environment, check=True)
    return folder / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An inlined call of `name`, made at `place` of the function."""

    name: str
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Func:
    """A function: what holds up to which place, as (end, value); `inline` are numbers in `calls`."""

    name: str
    entry: int
    lines: tuple[tuple[int, int], ...]
    files: tuple[tuple[int, int], ...] = ((0x100, 0),)
    inline: tuple[tuple[int, int], ...] = ()
    calls: tuple[Call, ...] = ()


@dataclass(slots=True, kw_only=True)
class GoWriter:
    """A program in a version's layout; `bytes(writer)` is its ELF file."""

    layout: Layout
    functions: tuple[Func, ...]
    end: int
    paths: tuple[str, ...] = ("/src/main.go", "/src/other.go")
    text: int = 0x401000
    section: str = ".gopclntab"
    address: int = 0x500000
    rodata: int = 0x480000
    _names: dict[str, int] = field(default_factory=dict)

    def __bytes__(self) -> bytes:
        trees, tree_at = self._trees()
        table = self._table(tree_at)
        writer = ElfWriter(type=2).text(self.end, addr=self.text)
        writer.add(Sec(name=".rodata", data=trees, flags=SHF_ALLOC, addr=self.rodata))
        writer.add(Sec(name=self.section, data=table, flags=SHF_ALLOC, addr=self.address))
        writer.add(Sec(name=".noptrdata", data=bytes(64) + self._module(), flags=SHF_ALLOC | 1, addr=0x600000))
        return bytes(writer.note())

    def _module(self) -> bytes:
        words = [0] * MODULE_WORDS
        words[0], words[TEXT_WORD] = self.address, self.text
        for word in GOFUNC_WORDS[self.layout][-1:]:
            words[word] = self.rodata
        return struct.pack(f"<{MODULE_WORDS}Q", *words)

    def _name(self, name: str) -> int:
        # The first name is none of a function's, as in a real program.
        text = sum(len(each.encode()) + 1 for each in self._names) + len("go.buildid") + 1
        return self._names.setdefault(name, text)

    def _trees(self) -> tuple[bytes, list[int]]:
        data, at = b"\xee" * 40, []
        for function in self.functions:
            at.append(len(data))
            for call in function.calls:
                name = self._name(call.name)
                if self.layout is Layout.GO_1_20:
                    data += struct.pack("<B3xiii", 0, name, call.place, 1)
                else:
                    data += struct.pack("<hBxiiii", -1, 0, 0, 0, name, call.place)
        return data + bytes(16), at

    def _table(self, tree_at: list[int]) -> bytes:
        names_of = [self._name(function.name) for function in self.functions]
        names = b"go.buildid\0" + b"".join(name.encode() + b"\0" for name in self._names)
        files = b"".join(path.encode() + b"\0" for path in self.paths)
        offsets = [sum(len(path) + 1 for path in self.paths[:number]) for number in range(len(self.paths))]
        units = struct.pack(f"<{len(offsets)}I", *offsets)
        tables, records = b"\0", []
        old = self.layout is Layout.GO_1_16
        for number, function in enumerate(self.functions):
            places = []
            for rows in (function.files, function.lines, function.inline):
                places.append(len(tables) if rows else 0)
                tables += _pcvalues(rows) if rows else b""
            file, line, inline = places
            entry = struct.pack("<Q", self.text + function.entry) if old else struct.pack("<I", function.entry)
            start_line = b"\1\0\0\0" if self.layout is Layout.GO_1_20 else b""
            record = entry + struct.pack("<iiI", names_of[number], 0, 0)
            record += struct.pack("<5I", 0, file, line, 3, 0) + start_line + b"\0\0\0\4"
            record += struct.pack("<3I", 0, 0, inline)
            if old:
                record += bytes(-len(record) % 8)
                record += struct.pack("<4Q", 0, 0, 0, self.rodata + tree_at[number] if function.calls else 0)
            else:
                none = 0xFFFFFFFF
                record += struct.pack("<4I", none, none, none, tree_at[number] if function.calls else none)
            records.append(record)
        pair = "<QQ" if old else "<II"
        base = self.text if old else 0
        at = len(self.functions) * struct.calcsize(pair) + 8
        listed, bodies = b"", b""
        for function, record in zip(self.functions, records, strict=True):
            listed += struct.pack(pair, base + function.entry, at + len(bodies))
            bodies += record + bytes(-len(record) % 8)
        listed += struct.pack(pair[:2], base + self.end).ljust(8, b"\0")
        return self._header((names, units, files, tables, listed + bodies))

    def _header(self, parts: tuple[bytes, ...]) -> bytes:
        words = [len(self.functions), len(self.paths)]
        if self.layout is not Layout.GO_1_16:
            words.append(self.text if self.layout is Layout.GO_1_18 else 0)
        at, body = 8 + 8 * (len(words) + len(parts)), b""
        for part in parts:
            words.append(at + len(body))
            body += part + bytes(-len(part) % 8)
        return struct.pack("<IHBB", self.layout, 0, 1, 8) + struct.pack(f"<{len(words)}Q", *words) + body


def _pcvalues(rows: tuple[tuple[int, int], ...]) -> bytes:
    out, place, before = b"", 0, -1
    for end, value in rows:
        change = value - before
        out += _varint(change << 1 if change >= 0 else (-change << 1) - 1) + _varint(end - place)
        place, before = end, value
    return out + b"\0"


def _varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])
