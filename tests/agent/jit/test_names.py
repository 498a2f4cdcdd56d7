"""What runtimes write, and the names that people know."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jit.names import MAX_NAME, parse_name
from fleetflame.model import NamedFrame


@pytest.mark.parametrize(
    ("text", "name", "file", "line"),
    [
        ("JS:*spin /srv/app.js:3:14", "spin", "/srv/app.js", 3),
        ("JS:^spin /srv/app.js:3:14", "spin", "/srv/app.js", 3),
        ("LazyCompile:~spin /srv/app.js:3:14", "spin", "/srv/app.js", 3),
        ("InterpretedFunction:spin /srv/app.js:3", "spin", "/srv/app.js", 3),
        ("JS:+get size /srv/two words/a b.js:3:14", "get size", "/srv/two words/a b.js", 3),
        ("JS:*Module._load node:internal/loader:950:24", "Module._load", "node:internal/loader", 950),
        ("JS:~run file:///srv/app.mjs:5:6", "run", "/srv/app.mjs", 5),
        ("JS:~ /srv/app.js:7:20", "(anonymous app.js:7:20)", "/srv/app.js", 7),
        ("JS:~", "(anonymous)", "", 0),
        ("JS:*f", "f", "", 0),
        ("Eval:~ /srv/app.js:1:1", "(script app.js)", "/srv/app.js", 1),
        ("Script:~", "(script)", "", 0),
        ("JS:*wasm-function[3]-3-turbofan", "wasm-function[3]-3", "", 0),
        ("Builtin:CallFunction_ReceiverIsAny", "Builtin:CallFunction_ReceiverIsAny", "", 0),
        ("RegExp:ab+c", "RegExp:ab+c", "", 0),
        ("int com.acme.Hot.fib(int)", "com.acme.Hot.fib(int)", "", 0),
        ("java.lang.String[] A$B.<init>(int[], java.util.Map)", "A$B.<init>(int[], java.util.Map)", "", 0),
        ("int Hot$$Lambda$1/0x00007f49d4000a08.applyAsInt(int)", "Hot$$Lambda.applyAsInt(int)", "", 0),
        ("int Hot$$Lambda+0x00007f49d4000a08.applyAsInt(int)", "Hot$$Lambda.applyAsInt(int)", "", 0),
        ("Lcom/acme/Foo;::bar", "com.acme.Foo.bar", "", 0),
        ("I2C/C2I adapters", "I2C/C2I adapters", "", 0),
        ("StubRoutines (1)", "StubRoutines (1)", "", 0),
        ("void [App] Acme.Hot::Run()[OptimizedTier1]", "void [App] Acme.Hot::Run()", "", 0),
        ("py::run:/srv/app.py", "run", "/srv/app.py", 0),
    ],
)  # fmt: skip
def test_tiers_and_numbers_of_one_process_go(text: str, name: str, file: str, line: int) -> None:
    """What is left is the same for a function in each tier, process and host."""
    assert parse_name(text.encode(), 0) == NamedFrame(name, file, line)


def test_a_long_name_is_cut_and_stays_apart_from_others() -> None:
    """What is cut off is told by its digest."""
    first, second = (parse_name(b"x" * 2 * MAX_NAME, digest).name for digest in (1, 2))
    assert first != second
    assert len(first) < MAX_NAME + 16


@given(st.binary(max_size=200) | st.text("JS:~*. /(a$L;0x+λ)", max_size=200).map(str.encode))
def test_any_bytes_have_a_name(text: bytes) -> None:
    """Names are of a process's choosing."""
    frame = parse_name(text, 0)
    assert frame.name or not text.strip()
    frame.name.encode(), frame.file.encode()


@pytest.mark.parametrize("unit", ["a", "a.", " /", " a:", ":1", "JS:~", "a(", "$$Lambda$1", "L/;::", "a b.c(d, "])
def test_no_name_takes_long(unit: str) -> None:
    """A thousand bytes against each pattern that backtracks if it can: 1,000 of them take no second."""
    begin = time.thread_time()
    for prefix in ("", "JS:~", "int ", "L"):
        parse_name((prefix + unit * MAX_NAME).encode()[:MAX_NAME], 0)
    assert time.thread_time() - begin < 0.5
