"""Which files hold a CPython, and what is known of it: every interpreter at hand, and files that are none."""

import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.elf import ReadAt
from agent.python.build import BuildMiss, PythonBuild, read_build
from agent.python.debugoffsets import COOKIE, SIZE, OffsetsMiss, parse_offsets
from agent.python.dynamic import DynamicSymbols
from agent.python.layouts import Layout, Runs
from tests.support.interpreters import Interpreter, interpreters


def reader(data: bytes) -> ReadAt:
    return lambda offset, length: data[offset : offset + length]


def the_file(interpreter: Interpreter) -> bytes:
    """The file that the interpreter itself is in."""
    for path in interpreter.files:
        data = path.read_bytes()
        if isinstance(read_build(reader(data)), PythonBuild):
            return data
    raise AssertionError(f"{interpreter} is in none of its files")


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_an_interpreter_is_found_with_its_version(interpreter: Interpreter) -> None:
    """In the program, or in the library that it is linked with; by exports alone."""
    build = read_build(reader(the_file(interpreter)))
    assert isinstance(build, PythonBuild)
    assert build.version == (3, interpreter.minor)
    assert build.evaluation.size > 500


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_exports_are_those_that_an_independent_reader_finds(interpreter: Interpreter) -> None:
    """Each name's address and size as pyelftools gives them; undefined ones are not there."""
    data = the_file(interpreter)
    symbols = DynamicSymbols(reader(data))
    with next(path for path in interpreter.files if path.read_bytes() == data).open("rb") as file:
        table = list(ELFFile(file).get_section_by_name(".dynsym").iter_symbols())[1::5]
    for symbol in table:
        found = symbols.find(symbol.name.encode())
        if symbol["st_shndx"] == "SHN_UNDEF":
            assert found is None
        else:
            assert found == (symbol["st_value"], symbol["st_size"])
    assert len(table) > 300


@pytest.mark.parametrize("path", ["/bin/sh", "/etc/passwd", "/proc/self/exe"])
def test_other_files_hold_none(path: str) -> None:
    """Programs, text; `python` itself only where it is not linked with the library."""
    found = read_build(reader(Path(path).resolve().read_bytes()))
    assert found is None or (path == "/proc/self/exe" and isinstance(found, PythonBuild))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1 << 22), st.binary(min_size=1, max_size=16)), max_size=5), st.integers(0, 1))
def test_a_damaged_file_gives_a_build_or_a_miss(changes: list[tuple[int, bytes]], near: int) -> None:
    """Bytes changed where the tables are, and anywhere."""
    data = bytearray(_damaged)
    for at, change in changes:
        start = at % (4096 if near else len(data))
        data[start : start + len(change)] = change
    found = read_build(reader(bytes(data)))
    assert found is None or isinstance(found, PythonBuild | BuildMiss | OffsetsMiss)


_damaged = the_file(interpreters()[-1])


def offsets(minor: int, **changes: int) -> bytes:
    """What a build of that version says of itself, with slots changed by number."""
    slots = [0] * 80
    slots[0] = 0x030000F0 | minor << 16
    known = {
        13: {28: 8, 30: 56, 32: 70, 37: 136, 42: 200, 69: 40},
        14: {31: 8, 33: 56, 35: 74, 42: 136, 47: 208, 79: 40},
    }
    for slot, value in (known.get(minor, {}) | {int(name[1:]): value for name, value in changes.items()}).items():
        slots[slot] = value
    return COOKIE + struct.pack("<80Q", *slots)


@pytest.mark.parametrize(("minor", "instructions"), [(13, 200), (14, 208)])
def test_offsets_are_those_that_the_build_says(minor: int, instructions: int) -> None:
    """The order of the fields differs between versions."""
    layout = parse_offsets(offsets(minor))
    assert isinstance(layout, Layout)
    assert (layout.runs, layout.frame_instruction, layout.code_lines) == (Runs.SHIM, 56, 136)
    assert layout.code_instructions == instructions


@pytest.mark.parametrize(
    ("data", "miss"),
    [
        (b"", OffsetsMiss.NO_COOKIE),
        (bytes(SIZE), OffsetsMiss.NO_COOKIE),
        (offsets(13)[:-1], OffsetsMiss.NO_COOKIE),
        (offsets(15), OffsetsMiss.OTHER_VERSION),
        (offsets(13, s1=1), OffsetsMiss.FREE_THREADED),
        (offsets(13, s30=80), OffsetsMiss.IMPLAUSIBLE),
        (offsets(13, s29=4), OffsetsMiss.IMPLAUSIBLE),
        (offsets(14, s35=80), OffsetsMiss.IMPLAUSIBLE),
        (offsets(14, s42=8), OffsetsMiss.IMPLAUSIBLE),
        (offsets(14, s8=1 << 63), OffsetsMiss.IMPLAUSIBLE),
    ],
)
def test_offsets_that_cannot_be_are_a_miss(data: bytes, miss: OffsetsMiss) -> None:
    """No build, another version, free threading, and numbers that the kernel program could not use."""
    assert parse_offsets(data) is miss
