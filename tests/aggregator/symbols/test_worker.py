"""Parsing in a process of its own: what it may not do, and what hostile files cost."""

import asyncio
import lzma
import resource
import socket
import struct
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest

from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.jobs import Job
from aggregator.symbols.runner import Parsed, Worker, inspect, parse
from aggregator.symbols.sandbox import WorkerLimits, filter_program
from aggregator.symbols.table import Rank, SymbolTable, look_up
from aggregator.symbols.tablefile import read_table, read_verified, write_table
from fleetflame.buildid import BuildId
from tests.support.elf import (
    BUILD_ID,
    SHF_COMPRESSED,
    SHT_STRTAB,
    SHT_SYMTAB,
    ElfWriter,
    Sec,
    Sym,
    compressed,
    simple_elf,
)

MIB = 1 << 20
LIMITS = WorkerLimits()


def parsed(folder: Path, data: bytes, limits: WorkerLimits = LIMITS, module: str | None = None) -> Parsed:
    """The result of a worker on `data`."""
    source, target = folder / "in", folder / "out"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    return asyncio.run(parse(source, target, limits=limits, module=module))


def fault_of(folder: Path, data: bytes, limits: WorkerLimits = LIMITS) -> Fault:
    """The fault that a worker ends with on `data`."""
    with pytest.raises(SymbolFileError) as caught:
        parsed(folder, data, limits)
    return caught.value.fault


def names(table: SymbolTable, *addresses: int) -> list[str]:
    """Outermost names at the addresses."""
    found = look_up(table, np.array(addresses, np.uint64))
    starts = found.offsets.tolist()
    return [found.strings[found.function[a]] if b > a else "" for a, b in pairwise(starts)]


def test_a_worker_makes_the_table(tmp_path: Path) -> None:
    """The result is at the path asked for, with the file's own build ID."""
    result = parsed(tmp_path, simple_elf([Sym(name="_ZN4shop3buyEi", value=0x1000, size=16)]))
    assert result.build_id == BuildId(BUILD_ID)
    assert names(read_verified(tmp_path / "out"), 0x1004) == ["shop::buy(int)"]


@pytest.mark.parametrize("program", ["c_program", "cpp_program", "rust_program"])
def test_confinement_does_not_stand_in_the_way(program: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Real files, compressed sections and mini debug information are parsed with everything forbidden."""
    path: Path = request.getfixturevalue(program)
    assert parsed(tmp_path, path.read_bytes()).table.rank is Rank.DWARF
    for packing in ("zlib", "zlib-gnu"):
        packed = tmp_path / packing
        subprocess.run(["objcopy", f"--compress-debug-sections={packing}", path, packed], check=True)
        assert parsed(tmp_path, packed.read_bytes()).table.rank is Rank.DWARF
    inner = ElfWriter().text(bits=False).symbols([Sym(name="local", value=0x1000, size=4)])
    writer = ElfWriter().text().note().add(Sec(name=".gnu_debugdata", data=lzma.compress(bytes(inner))))
    assert parsed(tmp_path, bytes(writer)).table.rank is Rank.SYMTAB


def test_kallsyms_are_parsed_by_a_worker_too(tmp_path: Path) -> None:
    """The kernel's own symbols, or those of one module."""
    text = b"0 T _stext\n40 t helper\n10 t init\t[ext4]\n"
    assert names(parsed(tmp_path, text, module="").table, 0x41, 0x10) == ["helper", "_stext"]
    assert names(parsed(tmp_path, text, module="ext4").table, 0x41, 0xF) == ["init", ""]


def test_a_bomb_is_refused_before_a_worker_starts(tmp_path: Path) -> None:
    """3 MB that claim 3 GiB: refused by the headers, with less than 64 MiB more memory."""
    stream = zlib.compress(bytes(MIB), 9)
    writer = ElfWriter().text().note()
    writer.add(Sec(name=".debug_info", data=compressed(stream + bytes(3 * MIB), 3 << 30), flags=SHF_COMPRESSED))
    path = tmp_path / "bomb"
    path.write_bytes(bytes(writer))
    del writer
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SymbolFileError, match="inflate to 3,") as caught:
        inspect(path, LIMITS)
    assert caught.value.fault is Fault.INFLATES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


HOSTILE = {
    "empty": (b"", Fault.NOT_ELF),
    "text": (b"#!/bin/sh\n", Fault.NOT_ELF),
    "header only": (b"\x7fELF\x02\x01\x01" + bytes(57), Fault.NO_SYMBOLS),
    "32-bit": (b"\x7fELF\x01\x01\x01" + bytes(57), Fault.UNSUPPORTED),
    "truncated": (simple_elf([Sym(name="f", value=0x1000, size=4)])[:-100], Fault.TRUNCATED),
    "no symbols": (bytes(ElfWriter().text().note()), Fault.NO_SYMBOLS),
    "entry size 0": (
        bytes(ElfWriter().text().add(Sec(name=".symtab", data=bytes(48), type=SHT_SYMTAB, link=".text"))),
        Fault.HEADERS,
    ),
    "debug information of noise": (
        bytes(ElfWriter().text().note().add(Sec(name=".debug_info", data=b"\xff" * 4096))),
        Fault.NO_SYMBOLS,
    ),
    "mini debug information of noise": (
        bytes(ElfWriter().text().note().add(Sec(name=".gnu_debugdata", data=b"noise"))),
        Fault.COMPRESSION,
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_have_typed_faults(case: str, tmp_path: Path) -> None:
    """Nothing but a typed fault comes back, and nothing is left running."""
    data, fault = HOSTILE[case]
    assert fault_of(tmp_path, data) is fault


MEASURE = """
import asyncio, resource, sys
from pathlib import Path
from aggregator.symbols.faults import SymbolFileError
from aggregator.symbols.runner import parse
from aggregator.symbols.sandbox import WorkerLimits
for name in sys.argv[1:]:
    try:
        asyncio.run(parse(Path(name), Path(name + ".table"), limits=WorkerLimits()))
    except SymbolFileError as error:
        print(error.fault)
own = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss counts before exec too
print(max(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, int(own.split()[1])))
"""


def test_hostile_files_take_little_memory(tmp_path: Path) -> None:
    """All of them, in a process of their own and its workers: less than an ordinary library takes."""
    paths = []
    for number, (data, _) in enumerate(HOSTILE.values()):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(data)
    out = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True).stdout
    *faults, kibibytes = out.split()
    assert faults == [fault.value for _, fault in HOSTILE.values()]
    assert int(kibibytes) < 128 * 1024


def test_an_xz_bomb_is_refused(tmp_path: Path) -> None:
    """Mini debug information has no header that says what it inflates to; the worker stops at the limit."""
    bomb = lzma.compress(bytes(64 * MIB))
    data = bytes(ElfWriter().text().note().add(Sec(name=".gnu_debugdata", data=bomb)))
    assert fault_of(tmp_path, data, WorkerLimits(inflated_bytes=32 * MIB)) is Fault.INFLATES


def test_memory_is_limited(tmp_path: Path) -> None:
    """A table that does not fit into the limit is a fault of its own, in bounded memory."""
    count = 2_000_000
    rows = np.zeros(
        count, [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("v", "<u8"), ("s", "<u8")]
    )
    rows["name"], rows["info"], rows["section"], rows["s"] = 1, 0x12, 1, 1
    rows["v"] = 0x1000 + np.arange(count) % 4096
    writer = ElfWriter().text().note()
    writer.add(Sec(name=".symtab", data=rows.tobytes(), type=SHT_SYMTAB, link=".strtab", entsize=24))
    writer.add(Sec(name=".strtab", data=b"\0f\0", type=SHT_STRTAB))
    assert fault_of(tmp_path, bytes(writer), WorkerLimits(memory_bytes=64 * MIB)) is Fault.MEMORY
    assert parsed(tmp_path, bytes(writer)).table.functions == 1


def test_processor_time_is_limited(tmp_path: Path) -> None:
    """The kernel ends a worker that computes for too long."""
    count = 1_500_000
    rows = np.zeros(
        count, [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("v", "<u8"), ("s", "<u8")]
    )
    # Each symbol lies inside the one before it: all of them are cut one by one.
    rows["name"], rows["info"], rows["section"] = 1, 0x12, 1
    rows["v"], rows["s"] = 0x1000 + np.arange(count), 2 * count - 2 * np.arange(count)
    writer = ElfWriter().text(4 * count, bits=False).note()
    writer.add(Sec(name=".symtab", data=rows.tobytes(), type=SHT_SYMTAB, link=".strtab", entsize=24))
    writer.add(Sec(name=".strtab", data=b"\0f\0", type=SHT_STRTAB))
    assert fault_of(tmp_path, bytes(writer), WorkerLimits(cpu_seconds=1)) is Fault.CPU


def test_a_worker_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    """Wall time is limited as well, and the process is gone afterwards."""
    assert fault_of(tmp_path, simple_elf([]), WorkerLimits(wall_seconds=0.001)) is Fault.TIME


async def test_damaged_files_never_kill_a_worker(c_program: Path, tmp_path: Path) -> None:
    """Bytes changed at random, in headers and elsewhere, of a program with DWARF: a sound table or a typed fault."""
    random, whole = Random(7), c_program.read_bytes()
    source, target, worker = tmp_path / "in", tmp_path / "out", Worker()
    try:
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(random.choice((1, 3, 20, 200))):
                at = random.choice((random.randrange(64), random.randrange(len(data)), -random.randrange(1, 2500)))
                data[at] = random.choice((0, 255, random.randrange(256)))
            source.write_bytes(data)
            target.unlink(missing_ok=True)
            try:
                await parse(source, target, limits=LIMITS, worker=worker)
            except SymbolFileError as error:
                assert error.fault not in (Fault.CRASHED, Fault.BAD_RESULT, Fault.TIME, Fault.MEMORY)
    finally:
        await worker.close()


async def test_one_process_serves_many_files_and_survives_each(tmp_path: Path) -> None:
    """A file that kills its fork does not hurt the next one; a process that ended is started again."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(simple_elf([Sym(name="f", value=0x1000, size=16)]))
    bad.write_bytes(b"text")
    worker = Worker()
    try:
        for number in range(3):
            assert (await parse(good, tmp_path / f"t{number}", limits=LIMITS, worker=worker)).table.functions == 1
            job = Job(limits=LIMITS)
            with bad.open("rb") as read, (tmp_path / "out").open("w+b") as write:
                assert (await worker.ask(job, (read.fileno(), write.fileno())))["fault"] == Fault.NOT_ELF
        process = worker._process
        assert process is not None
        process.kill()
        await process.wait()
        assert (await parse(good, tmp_path / "again", limits=LIMITS, worker=worker)).table.functions == 1
        assert worker._process is not process
    finally:
        await worker.close()


async def test_cancelling_a_parse_ends_its_process(tmp_path: Path) -> None:
    """Nobody waits for it any more."""
    path = tmp_path / "in"
    path.write_bytes(simple_elf([]))
    worker = Worker()
    task = asyncio.create_task(parse(path, tmp_path / "out", limits=LIMITS, worker=worker))
    while worker._process is None:
        await asyncio.sleep(0.01)
    process = worker._process
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert process.returncode is not None
    await worker.close()


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    """The size is checked first."""
    assert fault_of(tmp_path, simple_elf([]), WorkerLimits(file_bytes=100)) is Fault.TOO_LARGE


PROBE = """
import os, sys
from aggregator.symbols.sandbox import WorkerLimits, confine
import socket, subprocess
print(confine(WorkerLimits(memory_bytes=64 << 20), file_size=0))
def tried(what, action):
    try:
        action()
        print(what, "done")
    except (OSError, MemoryError) as error:
        print(what, type(error).__name__)
tried("socket", socket.socket)
tried("connect", lambda: socket.socket(socket.AF_UNIX))
tried("execute", lambda: os.execv("/bin/true", ["true"]))
tried("fork", os.fork)
tried("open", lambda: open("/etc/passwd"))
tried("write", lambda: open("/tmp/x", "w"))
tried("kill", lambda: os.kill(os.getppid(), 0))
tried("allocate", lambda: bytearray(128 << 20))
print("uid", os.getuid() != 0)
"""


def test_a_confined_process_can_do_nothing_but_compute() -> None:
    """No network, no programs, no processes, no files by name, no more memory than it may."""
    out = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout
    refused = ["socket", "connect", "execute", "fork", "open", "write", "kill"]
    assert out.splitlines() == [
        "[]",
        *(f"{what} PermissionError" for what in refused),
        "allocate MemoryError",
        "uid True",
    ]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_lands_in_it(machine: str) -> None:
    """Interpreted here: forbidden numbers and foreign architectures are denied, others allowed."""
    program = list(struct.iter_unpack("HBBI", filter_program(machine)))
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    forbidden = {"x86_64": 41, "aarch64": 198}[machine]

    def run(architecture: int, number: int) -> int:
        at, accumulator = 0, 0
        while True:
            code, when_true, when_false, operand = program[at]
            if code == 0x06:
                return int(operand)
            if code == 0x20:
                accumulator, at = (architecture if operand == 4 else number), at + 1
            else:
                holds = accumulator == operand if code == 0x15 else accumulator >= operand
                at += 1 + (when_true if holds else when_false)

    assert run(arch, forbidden) == 0x00050001
    assert run(arch, 0) == 0x7FFF0000
    assert run(arch, 0x40000000) == 0x00050001
    assert run(0x40000003, 0) == 0x00050001


def test_a_table_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    """Every column is equal, and addresses beyond 32 bits stay what they are."""
    for address in (0x1000, 0xFFFFFFFF81000000):
        writer = ElfWriter().text(addr=address).note().symbols([Sym(name="f", value=address, size=16)])
        table = parsed(tmp_path, bytes(writer)).table
        path = tmp_path / "copy"
        with path.open("w+b") as file:
            write_table(file, table)
        again = read_verified(path)
        assert names(again, address, address + 16) == ["f", ""]
        assert read_table(path).segments == table.segments


def test_a_damaged_table_is_found(tmp_path: Path) -> None:
    """Any byte changed, any byte missing."""
    parsed(tmp_path, simple_elf([Sym(name="f", value=0x1000, size=16)]))
    path = tmp_path / "out"
    good = path.read_bytes()
    for data in (good[:-1], good[:40], b"", good[:100] + bytes([good[100] ^ 1]) + good[101:], good + b"\0"):
        path.write_bytes(data)
        with pytest.raises(SymbolFileError) as caught:
            read_verified(path)
        assert caught.value.fault is Fault.BAD_RESULT


def test_the_test_machine_has_sockets() -> None:
    """The refusal above is the sandbox's, not the machine's."""
    socket.socket(socket.AF_UNIX).close()
