"""What an agent lends, as the aggregator reads it: the two sides agree on what a file is and says."""

import os
import subprocess
from pathlib import Path

import pytest
import zstandard

from agent.kernel import Kernel
from agent.lend import Lent, lend_elf, lend_kallsyms
from aggregator.symbols.build import build_table
from aggregator.symbols.demangle import Demangler
from aggregator.symbols.elf import build_id, debug_link, executable_segments, file_identity, parse_elf_bytes
from aggregator.symbols.kallsyms import kallsyms_table
from aggregator.symbols.tablefile import digest_of
from fleetflame.model import MappingKind

LIMIT = 1 << 28
LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")


def lent(path: Path, folder: Path) -> bytes:
    """The lent copy of a file, unpacked."""
    sink = folder / "sink"
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with sink.open("w+b") as out:
            assert isinstance(lend_elf(descriptor, out), Lent)
    finally:
        os.close(descriptor)
    with sink.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as reader:
        return bytes(reader.read())


@pytest.mark.parametrize("kind", ["library", "program", "stripped", "no note"])
def test_a_lent_copy_says_what_the_file_says(kind: str, c_program: Path, tmp_path: Path) -> None:
    """The same table, identity, segments and debug link."""
    path = {"library": LIBC, "program": c_program}.get(kind, tmp_path / "changed")
    if kind == "stripped":
        debug = tmp_path / "prog.debug"
        subprocess.run(["objcopy", "--only-keep-debug", c_program, debug], check=True)
        subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", c_program, path], check=True)
    if kind == "no note":
        subprocess.run(["objcopy", "--remove-section=.note.gnu.build-id", c_program, path], check=True)
    whole, copy = path.read_bytes(), lent(path, tmp_path)
    ours, theirs = parse_elf_bytes(copy), parse_elf_bytes(whole)
    assert (build_id(ours) or file_identity(ours)) == (build_id(theirs) or file_identity(theirs))
    assert executable_segments(ours) == executable_segments(theirs) != ()
    assert debug_link(ours) == debug_link(theirs)
    tables = [build_table(memoryview(data), limit=LIMIT, demangle=Demangler()).table for data in (copy, whole)]
    assert digest_of(tables[0]) == digest_of(tables[1])


def test_lent_kernel_names_are_read(tmp_path: Path) -> None:
    """The running kernel's, where this process may see them."""
    snapshot = Kernel().snapshot()
    sink = tmp_path / "sink"
    with sink.open("w+b") as out:
        if not isinstance(lend_kallsyms(snapshot, out), Lent):
            pytest.skip("kernel addresses are hidden (CAP_SYSLOG is missing)")
    with sink.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as reader:
        table = kallsyms_table(bytes(reader.read()), MappingKind.KERNEL)
    assert table.functions > 10_000
