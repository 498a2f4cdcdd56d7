"""Code objects in the memory of real interpreters, and in memory that lies."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.openat import file_reader
from agent.python.build import PythonBuild, read_build
from agent.python.code import CHECKED_WORDS, Code, CodeMiss, checksum, read_code
from agent.python.layouts import LAYOUTS
from agent.python.memory import Memory
from tests.support.interpreters import Interpreter, interpreters

# Prints what it knows of its code objects, then waits.
SOURCE = r"""
import json, os, sys
def plain():
    pass
class Outer:
    class Inner:
        def method(self):
            def nested():
                return [x for x in range(3)]
            return nested
def unicode_latin_é(): pass
def unicode_two_ж(): pass
async def coroutine(): pass
def generator(): yield 1
def renamed(): pass
exec(compile("def four(): pass", "/tmp/\U0001f600\n/x.py", "exec"))
exec(compile("def long(): pass", "/tmp/" + "x" * 600, "exec"))
lambda_ = lambda: 1
functions = [plain, Outer.Inner.method, Outer.Inner.method(None), coroutine, generator, lambda_, four, long,
    unicode_latin_é, unicode_two_ж]
codes = [f.__code__ for f in functions] + [sys._getframe().f_code, json.loads.__code__]
for code in codes:
    name = getattr(code, "co_qualname", code.co_name)
    print(json.dumps([id(code), name, code.co_filename, code.co_firstlineno]))
print(json.dumps([id([]), id(plain), id(sys), id(Outer)]), flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True, slots=True)
class Running:
    """An interpreter that runs SOURCE: its code objects as (address, name, file, line), addresses of other objects."""

    memory: Memory
    build: PythonBuild
    code_type: int
    codes: list[tuple[int, str, str, int]]
    others: list[int]
    process: subprocess.Popen[str]

    def checksum(self, address: int) -> int:
        words = self.memory.read(address + self.build.layout.code_checked, CHECKED_WORDS * 8)
        return checksum(words)

    def read(self, address: int, expected: int) -> Code | CodeMiss:
        return read_code(self.memory.read, self.build.layout, self.code_type, address, expected)


@contextlib.contextmanager
def running(interpreter: Interpreter) -> Iterator[Running]:
    command = [*interpreter.command, "-I", "-X", "utf8", "-c", SOURCE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        lines = [json.loads(process.stdout.readline()) for _ in range(13)]
        build, bias = locate(process.pid)
        codes = [tuple(line) for line in lines[:-1]]
        yield Running(Memory(process.pid), build, build.code_type + bias, codes, lines[-1], process)
        process.stdin.close()


def locate(pid: int) -> tuple[PythonBuild, int]:
    """The build that a process runs, and what to add to its virtual addresses: they begin with the file's first page,
    at 0 in a library and in most programs, at 4 MiB in the distribution's."""
    with Path(f"/proc/{pid}/maps").open() as maps:
        for line in maps:
            fields = line.split()
            if len(fields) == 6 and fields[5].startswith("/") and int(fields[2], 16) == 0:
                start = int(fields[0].split("-")[0], 16)
                with Path(fields[5]).open("rb") as file:
                    build = read_build(file_reader(file.fileno()))
                if isinstance(build, PythonBuild):
                    return build, 0 if start == 0x400000 else start
    raise AssertionError("no CPython is mapped")


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_a_code_object_is_called_what_the_interpreter_calls_it(interpreter: Interpreter) -> None:
    """Nested functions, coroutines, lambdas, and names and paths in each width that CPython stores text in."""
    with running(interpreter) as child:
        for address, name, file, line in child.codes:
            code = child.read(address, child.checksum(address))
            assert isinstance(code, Code)
            assert (code.name, code.file) == (name, file.replace("\n", "\\n")[:1024])
            assert code.first_line == line
            assert code.line(-2) == line


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_what_is_no_code_object_has_no_name(interpreter: Interpreter) -> None:
    """Other objects, addresses within one, and one that is not what the kernel saw."""
    with running(interpreter) as child:
        address = child.codes[0][0]
        for other in [*child.others, address + 8, address - 8, 8, 1 << 60, 0]:
            assert child.read(other, child.checksum(other)) is CodeMiss.CHANGED
        assert child.read(address, child.checksum(address) ^ 1) is CodeMiss.CHANGED


def test_a_process_that_is_gone_is_said() -> None:
    """Not the same as memory that cannot be read."""
    with running(interpreters()[-1]) as child:
        pass
    with pytest.raises(ProcessLookupError):
        child.memory.read(child.codes[0][0], 8)


@given(st.sampled_from(sorted(LAYOUTS)), st.binary(max_size=300), st.integers(0, 300))
def test_memory_that_says_anything_gives_code_or_a_miss(minor: int, data: bytes, modulus: int) -> None:
    """Whatever a process arranges: sizes of 2^63, pointers in circles, text in no encoding. Reads are few and short."""
    asked: list[int] = []

    def read(address: int, length: int) -> bytes:
        asked.append(length)
        start = address % (modulus + 1)
        return (data * 20)[start : start + length]

    layout = LAYOUTS[minor]
    first = read(0, layout.code_lines + 8).ljust(layout.code_lines + 8)
    code_type = int.from_bytes(first[8:16], "little")
    found = read_code(read, layout, code_type, 0, checksum(first[layout.code_checked : layout.code_checked + 88]))
    assert isinstance(found, Code | CodeMiss)
    assert len(asked) < 12 and max(asked) <= 60 * 1024


def test_the_checksum_is_the_kernels() -> None:
    """`python_checksum` of bpf/python.h, computed by hand for two words."""
    first = (1 * 0x9E3779B97F4A7C15) % 2**64
    first ^= first >> 29
    second = ((first ^ 2) * 0x9E3779B97F4A7C15) % 2**64
    second ^= second >> 29
    assert checksum((1).to_bytes(8, "little") + (2).to_bytes(8, "little")) == second % 2**32
