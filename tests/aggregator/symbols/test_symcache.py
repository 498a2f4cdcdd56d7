"""The symcache file read as columns, against the library that wrote it."""

import contextlib
import io
import struct
from pathlib import Path

import pytest
import symbolic
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.symbols.symcache import (
    NONE,
    VERSIONS,
    Symcache,
    UnknownSymcacheError,
    clean_path,
    full_path,
    join_path,
    read_symcache,
)
from tests.aggregator.symbols.conftest import symbols_of


def cache_bytes(program: Path) -> tuple[symbolic.SymCache, bytes]:
    """The library's symcache of the program, and its file."""
    cache = next(symbolic.Archive.open(str(program)).iter_objects()).make_symcache()
    out = io.BytesIO()
    cache.dump_into(out)
    return cache, out.getvalue()


def frames_at(cache: Symcache, address: int) -> list[tuple[str, str, int]]:
    """What the columns say about one address, innermost first."""
    index = int(cache.start.searchsorted(address, side="right")) - 1
    location = int(cache.location[index]) if index >= 0 else NONE
    found = []
    while location != NONE:
        function, file = int(cache.function[location]), int(cache.file[location])
        name = cache.functions[function] if function != NONE else "?"
        found.append((name, cache.paths[file] if file != NONE else "", int(cache.line[location])))
        location = int(cache.parent[location])
    return found


def test_the_library_writes_a_version_that_is_known_here() -> None:
    """A new version of the format needs a look at its layout before the dependency is raised."""
    assert symbolic.SYMCACHE_LATEST_VERSION in VERSIONS


@pytest.mark.parametrize("program", ["c_program", "cpp_program", "rust_program"])
def test_columns_say_what_the_library_says(program: str, request: pytest.FixtureRequest) -> None:
    """Every third address of every function: names, files, lines and the order of inlined frames are equal."""
    path = request.getfixturevalue(program)
    library, data = cache_bytes(path)
    cache = read_symcache(data)
    for start, size in list(symbols_of(path).values())[:400]:
        for address in range(start, start + size, 3):
            theirs = [(hit.symbol, hit.full_path or "", hit.line) for hit in library.lookup(address)]
            assert frames_at(cache, address) == theirs


@pytest.mark.parametrize("size", [0, 7, 50, 79, 90, 200])
def test_a_short_file_is_refused(c_program: Path, size: int) -> None:
    """Counts that the file does not hold are not believed."""
    _, data = cache_bytes(c_program)
    with pytest.raises(UnknownSymcacheError):
        read_symcache(data[:size])


def test_an_unknown_version_is_refused(c_program: Path) -> None:
    """The caller falls back to the symbol table, and says so."""
    _, data = cache_bytes(c_program)
    with pytest.raises(UnknownSymcacheError, match="version 99"):
        read_symcache(data[:4] + struct.pack("<I", 99) + data[8:])


def test_version_7_has_strings_with_a_length_of_four_bytes() -> None:
    """Older versions differ in the size of a file entry and in how strings are stored."""
    strings = struct.pack("<I", 4) + b"main" + struct.pack("<I", 3) + b"a.c"
    head = b"SYMC" + struct.pack("<I", 7) + bytes(32) + struct.pack("<IIIIII", 0, 1, 1, 1, 1, len(strings)) + bytes(16)
    files = struct.pack("<III", NONE, NONE, 8) + bytes(4)
    functions = struct.pack("<IIII", 0, NONE, 0x10, 0)
    locations = struct.pack("<IIII", 0, 42, 0, NONE)
    ranges = struct.pack("<I", 0x10) + bytes(4)
    cache = read_symcache(head + files + functions + locations + ranges + strings)
    assert frames_at(cache, 0x12) == [("main", "a.c", 42)]
    assert frames_at(cache, 0x0F) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_is_refused_or_read(damage: list[tuple[int, int]]) -> None:
    """Nothing but the typed error comes out of a damaged file."""
    strings = b"\x04main\x03a.c"
    head = b"SYMC" + struct.pack("<I", 9) + bytes(32) + struct.pack("<IIIIII", 0, 1, 1, 1, 1, len(strings)) + bytes(16)
    files = struct.pack("<IIIIII", NONE, NONE, 5, NONE, NONE, NONE)
    body = files + struct.pack("<IIII", 0, NONE, 0x10, 0) + struct.pack("<IIII", 0, 42, 0, NONE)
    data = bytearray(head + body + struct.pack("<II", 0x10, 0) + strings)
    for at, value in damage:
        data[at % len(data)] = value
    with contextlib.suppress(UnknownSymcacheError):
        read_symcache(bytes(data))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("/build", "src", "a.c"), "/build/src/a.c"),
        (("/build", "/usr/include", "b.h"), "/usr/include/b.h"),
        (("/build", "", "./x/../a.c"), "/build/a.c"),
        (("", "", "a.c"), "a.c"),
        (("/build", "../lib", "c.c"), "/lib/c.c"),
        (("C:\\work", "src", "a.c"), "C:\\work\\src\\a.c"),
        (("/build", "", "<built-in>"), "<built-in>"),
        (("", "", ""), ""),
    ],
)
def test_paths_are_joined_and_cleaned(parts: tuple[str, str, str], expected: str) -> None:
    """As the library does it."""
    assert full_path(*parts) == expected


def test_a_relative_path_keeps_its_leading_dots() -> None:
    """There is nothing to resolve them against."""
    assert clean_path("../../a/./b.c") == "../../a/b.c"
    assert join_path("", "x") == "x"
