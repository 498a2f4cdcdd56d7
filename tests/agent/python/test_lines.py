"""Lines of instructions: every one that every interpreter at hand gives for its own standard library."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.python.layouts import LineKind
from agent.python.lines import NO_LINE, line_at
from tests.support.interpreters import Interpreter, interpreters

# Compiles modules of the standard library and prints, for each code object, its table and the line of each instruction
# as the interpreter itself gives it.
DUMP = r"""
import ast, asyncio.base_events, dis, json, sys, types, typing
LONG = "def long():\n    x = 1\n" + "\n" * 300 + "    x = 2; y = (\n" + "\n" * 5000 + "1 + 2\n)\n    return x\n"
BACK = "def back(f):\n    return f(1,\n\n\n        (lambda: 3)(),\n  *[a for a in range(3)]\n )\n"
def code_objects(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)
def lines(code):
    if hasattr(code, "co_lines"):
        return [(start, line) for begin, end, line in code.co_lines() for start in range(begin, end, 2)]
    starts = dict(dis.findlinestarts(code))
    line, found = code.co_firstlineno, []
    for offset in range(0, len(code.co_code), 2):
        line = starts.get(offset, line)
        found.append((offset, line))
    return found
sources = [LONG, BACK] + [open(m.__file__).read() for m in (ast, asyncio.base_events, dis, typing)]
for source in sources:
    for code in code_objects(compile(source, "x", "exec")):
        table = code.co_linetable if sys.version_info >= (3, 10) else code.co_lnotab
        print(json.dumps([table.hex(), code.co_firstlineno, lines(code)]))
"""


def _kind(interpreter: Interpreter) -> LineKind:
    return LineKind(min(max(interpreter.minor - 9, 0), 2))


@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_each_instruction_has_the_line_that_the_interpreter_gives(interpreter: Interpreter) -> None:
    """All instructions of some 1,000 functions, lines far apart and going back included."""
    instructions = 0
    for text in interpreter.run(DUMP).splitlines():
        table, first, lines = json.loads(text)
        for offset, line in lines:
            assert line_at(_kind(interpreter), bytes.fromhex(table), first, offset) == (line or NO_LINE)
        instructions += len(lines)
    assert instructions > 10_000


@pytest.mark.parametrize("kind", LineKind)
def test_a_function_that_was_not_begun_is_at_its_first_line(kind: LineKind) -> None:
    """Before the first instruction the interpreter says -2."""
    assert line_at(kind, b"\x06\x01", 7, -2) == 7


@given(st.sampled_from(LineKind), st.binary(max_size=200), st.integers(-(1 << 31), 1 << 31), st.integers(-2, 5000))
def test_any_table_gives_a_line_or_none(kind: LineKind, table: bytes, first: int, offset: int) -> None:
    """A profiled process decides what its tables say."""
    line = line_at(kind, table, first, offset)
    assert line == first or 0 <= line < 1 << 31
