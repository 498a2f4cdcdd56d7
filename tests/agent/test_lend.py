"""What is lent: a copy that names addresses and nothing else."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.elf import read_elf
from agent.kernel import make_snapshot
from agent.lend import LendRefusal, Lent, iter_copy, iter_kallsyms, kept_ranges, lend_elf, lend_kallsyms
from fleetflame.buildid import from_file_ends
from tests.agent.live import build
from tests.agent.test_kernel import ID, KALLSYMS, MODULES, SYMBOLS, system
from tests.support.elf import ElfWriter, Sec

SECRET = b"a password in the data"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with debug information and a secret."""
    source = f'#include <stdio.h>\nint main(void) {{ return puts("{SECRET.decode()}"); }}\n'
    return build(tmp_path_factory.mktemp("lend"), "program", "-g", source=source)


def lend(path: Path) -> bytes:
    sink = io.BytesIO()
    fd = os.open(path, os.O_RDONLY)
    try:
        lent = lend_elf(fd, sink)
    finally:
        os.close(fd)
    assert isinstance(lent, Lent)
    assert (lent.raw_size, lent.size) == (path.stat().st_size, len(sink.getvalue()))
    return zstandard.ZstdDecompressor().decompress(sink.getvalue())


def shown(command: list[str], path: Path) -> str:
    return subprocess.run([*command, path.name], cwd=path.parent, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "command",
    [
        ["readelf", "-hSnWd"],
        ["readelf", "-sW"],
        ["readelf", "-wF"],
        ["readelf", "--debug-dump=info,decodedline,str"],
        ["nm", "-DS"],
    ],
    ids=" ".join,
)
def test_the_copy_reads_like_the_original(program: Path, command: list[str], tmp_path: Path) -> None:
    """Headers, notes, symbols, versions, unwind tables and debug information are all there, at the same places."""
    copy = tmp_path / program.name
    copy.write_bytes(lend(program))
    assert shown(command, copy) == shown(command, program)


def test_the_copy_names_addresses_like_the_original(program: Path, tmp_path: Path) -> None:
    """An independent tool finds function and line in it."""
    copy = tmp_path / program.name
    copy.write_bytes(lend(program))
    address = next(line.split()[0] for line in shown(["nm"], program).splitlines() if line.endswith(" T main"))
    expected = subprocess.run(["addr2line", "-f", "-e", program, address], capture_output=True, check=True).stdout
    assert b"main" in expected
    assert subprocess.run(["addr2line", "-f", "-e", copy, address], capture_output=True).stdout == expected


def test_the_copy_has_no_code_and_no_data(program: Path) -> None:
    """What names nothing is zeroes."""
    data, copy = program.read_bytes(), lend(program)
    assert SECRET in data
    assert SECRET not in copy
    facts = read_elf(lambda offset, length: copy[offset : offset + length], len(copy))
    assert facts is not None
    (text,) = facts.segments
    begin, end = text.offset, text.offset + text.size
    assert any(data[begin:end])
    assert not any(copy[begin:end])


def test_a_copy_without_a_note_keeps_its_identity(tmp_path: Path) -> None:
    """Which is the hash of its ends."""
    path = tmp_path / "a"
    path.write_bytes(bytes(ElfWriter().add(Sec(name=".rodata", data=os.urandom(30_000)))) + os.urandom(6000))
    data, copy = path.read_bytes(), lend(path)
    assert copy[10_000:20_000] == bytes(10_000) != data[10_000:20_000]
    identity = from_file_ends(data[:4096], data[-4096:], len(data))
    assert from_file_ends(copy[:4096], copy[-4096:], len(copy)) == identity


def test_what_is_not_code_is_not_lent(tmp_path: Path) -> None:
    """Only ELF files leave a node, and none that is too large to be one."""
    path = tmp_path / "a"
    path.write_bytes(b"root:*:0:0\n" * 1000)
    fd = os.open(path, os.O_RDONLY)
    assert lend_elf(fd, io.BytesIO()) is LendRefusal.NOT_ELF
    assert lend_elf(fd, io.BytesIO(), max_file=100) is LendRefusal.TOO_LARGE
    os.close(fd)


def test_a_file_that_changes_meanwhile_is_not_lent(tmp_path: Path) -> None:
    """Half of one build and half of another is no build."""
    path = tmp_path / "a"
    path.write_bytes(bytes(ElfWriter().text()))

    class Sink(io.BytesIO):
        def write(self, data: object) -> int:
            path.write_bytes(path.read_bytes() + b"more")
            return super().write(data)  # type: ignore[arg-type]

    fd = os.open(path, os.O_RDONLY)
    assert lend_elf(fd, Sink()) is LendRefusal.CHANGED
    os.close(fd)


def test_sections_that_lie_are_bounded(tmp_path: Path) -> None:
    """Sizes and offsets beyond the file give its own length and no more."""
    writer = ElfWriter(header={"phnum": 0xFFFF, "phoff": 64})
    writer.add(Sec(name=".debug_info", data=b"x" * 100, size=1 << 63)).add(
        Sec(name=".debug_line", data=b"y", offset=(1 << 64) - 1)
    )
    path = tmp_path / "a"
    path.write_bytes(bytes(writer))
    assert len(lend(path)) == path.stat().st_size


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_a_copy_is_the_file_within_the_ranges_and_zeroes_outside(data: bytes, cuts: list[int]) -> None:
    """Byte by byte, for any ranges."""
    bounds = sorted({min(cut, len(data)) for cut in cuts})
    kept = [(a, b) for a, b in list(pairwise(bounds))[::2]]
    fd = os.memfd_create("test")
    os.write(fd, data)
    copy = b"".join(iter_copy(fd, kept, len(data)))
    os.close(fd)
    assert copy == bytes(byte if any(a <= at < b for a, b in kept) else 0 for at, byte in enumerate(data))


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    """Pieces stay small, whatever the file's size."""
    path = tmp_path / "a"
    path.write_bytes(bytes(ElfWriter().text()))
    with path.open("r+b") as file:
        file.truncate(1 << 24)
    fd = os.open(path, os.O_RDONLY)
    kept = kept_ranges(fd, 1 << 24)
    assert kept is not None
    sizes = [len(piece) for piece in iter_copy(fd, kept, 1 << 24)]
    os.close(fd)
    assert sum(sizes) == 1 << 24
    assert max(sizes) <= 1 << 18


OWN = b"0 T _stext\n0 T _text\n1000 t do_things\n2780000 T _sinittext\n2781000 t start_kernel\n"
EXPECTED = OWN + b"0 t nft_do_chain\t[nf_tables]\n"


@given(st.lists(st.integers(0, len(KALLSYMS)), max_size=10))
def test_kernel_symbols_are_counted_from_stext_and_module_base(cuts: list[int]) -> None:
    """Code only, without what was generated, wherever chunks end."""
    snapshot = make_snapshot(ID, SYMBOLS, MODULES)
    bounds = [0, *sorted(cuts), len(KALLSYMS)]
    assert b"".join(iter_kallsyms(snapshot, (KALLSYMS[a:b] for a, b in pairwise(bounds)))) == EXPECTED


def test_kernel_symbols_are_lent(tmp_path: Path) -> None:
    """Of a kernel without modules, so that only its own are there."""
    kernel = system(tmp_path)
    sink = io.BytesIO()
    lent = lend_kallsyms(kernel.snapshot(), sink, proc=kernel.proc)
    assert isinstance(lent, Lent)
    text = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(sink.getvalue())).read()
    assert text == OWN
    assert (lent.raw_size, lent.size) == (len(text), len(sink.getvalue()))


def test_hidden_kernel_symbols_are_not_lent(tmp_path: Path) -> None:
    """A table of zeroes would name every address wrongly."""
    kernel = system(tmp_path, kallsyms=b"0000000000000000 T _stext\n0000000000000000 T _etext\n")
    assert lend_kallsyms(kernel.snapshot(), io.BytesIO(), proc=kernel.proc) is LendRefusal.HIDDEN


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Path]:
    """A large real file."""
    yield Path(sys.executable).resolve()


def test_a_real_interpreter_keeps_its_symbols(interpreter: Path, tmp_path: Path) -> None:
    """Every dynamic symbol of a file of megabytes."""
    assert shutil.which("nm")
    copy = tmp_path / interpreter.name
    copy.write_bytes(lend(interpreter))
    assert shown(["nm", "-D"], copy) == shown(["nm", "-D"], interpreter)
