"""Small programs, compiled once for all tests of a session, and the tools that answers are compared with."""

import json
import os.path
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

C_SOURCE = """
#include <stdio.h>
static inline __attribute__((always_inline)) int innermost(int x) { volatile int y = x * 3; return y + 1; }
static inline __attribute__((always_inline)) int middle(int x) { volatile int z = innermost(x) + 2; return z; }
__attribute__((noinline)) int outer(int x) { volatile int w = middle(x); return w * 2; }
static __attribute__((noinline)) int hidden(int x) { volatile int w = x; return outer(w) - 1; }
int main(int argc, char **argv) { printf("%d\\n", hidden(argc)); return 0; }
"""

CPP_SOURCE = """
#include <string>
#include <vector>
namespace shop {
template <class T> struct Cart {
  __attribute__((noinline)) T total(const std::vector<T> &prices) {
    T sum = 0;
    for (T p : prices) { volatile T v = p; sum += v; }
    return sum;
  }
};
}
namespace { __attribute__((noinline)) int quiet(int x) { volatile int y = x; return y; } }
int main(int argc, char **) { shop::Cart<long> cart; return cart.total({argc, 2, 3}) + quiet(argc); }
"""

RUST_SOURCE = """
struct Cart<T>(Vec<T>);
impl<T: Copy + Into<u64>> Cart<T> {
    #[inline(never)] fn total(&self) -> u64 {
        let mut s = 0;
        for x in &self.0 { s += std::hint::black_box((*x).into()); }
        s
    }
}
fn main() { println!("{}", Cart(vec![1u32, 2, 3]).total()); }
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as a tool prints it."""

    name: str
    file: str
    line: int


def build(folder: Path, source: str, *flags: str, name: str = "prog", language: str = "c") -> Path:
    """An executable compiled from `source`; skips the test where there is no such compiler."""
    compiler = {"c": "gcc", "cpp": "g++", "rs": "rustc"}[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"`{compiler}` is not installed")
    text, program = folder / f"{name}.{language}", folder / name
    text.write_text(source)
    run(compiler, *flags, str(text), "-o", str(program))
    return program


def run(*command: str, stdin: str = "") -> str:
    """What the command printed. Raises if it failed."""
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


def symbols_of(program: Path) -> dict[str, tuple[int, int]]:
    """Address and size of every sized function, by name, as `nm` lists them."""
    found = {}
    for line in run("nm", "-S", str(program)).splitlines():
        parts = line.split()
        if len(parts) == 4 and parts[2] in "tTwW":
            found[parts[3]] = (int(parts[0], 16), int(parts[1], 16))
    return found


def llvm_frames(program: Path, addresses: list[int]) -> list[list[Frame]]:
    """What llvm-symbolizer says, outermost first; skips the test where it is not installed."""
    tool = shutil.which("llvm-symbolizer-14") or shutil.which("llvm-symbolizer")
    if tool is None:
        pytest.skip("`llvm-symbolizer` is not installed")
    asked = "\n".join(map(hex, addresses))
    out = run(tool, "-e", str(program), "--output-style=JSON", stdin=asked)
    rows = [json.loads(line) for line in out.splitlines()]
    answers = [row for each in rows for row in (each if isinstance(each, list) else [each])]
    return [[_frame(symbol) for symbol in reversed(answer["Symbol"])] for answer in answers]


def _frame(symbol: dict[str, object]) -> Frame:
    file = str(symbol["FileName"])
    return Frame(str(symbol["FunctionName"]), os.path.normpath(file) if file else "", int(str(symbol["Line"])))


@pytest.fixture(scope="session")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program with inlined functions and DWARF."""
    return build(tmp_path_factory.mktemp("c"), C_SOURCE, "-g", "-O2")


@pytest.fixture(scope="session")
def cpp_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ program with DWARF."""
    return build(tmp_path_factory.mktemp("cpp"), CPP_SOURCE, "-g", "-O2", language="cpp")


@pytest.fixture(scope="session")
def rust_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Rust program with DWARF."""
    return build(tmp_path_factory.mktemp("rs"), RUST_SOURCE, "-g", "-O", language="rs")
