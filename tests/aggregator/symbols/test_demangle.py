"""Mangled names, against the tools that people know."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aggregator.symbols import demangle
from aggregator.symbols.demangle import MAX_DEMANGLED, Demangler
from tests.aggregator.symbols.conftest import run

CASES = {
    "_Z3foov": "foo()",
    "_Z3foov.cold": "foo() [clone .cold]",
    "_ZN12_GLOBAL__N_14anonEi": "(anonymous namespace)::anon(int)",
    "_ZN4shop4CartIlE3addERKSt4pairIllE": "shop::Cart<long>::add(std::pair<long, long> const&)",
    "_ZN1a4work17h245fe6f0f90eeb16E": "a::work",
    "_ZN39_$LT$a..S$LT$_$GT$$u20$as$u20$a..Tr$GT$2go17h876120200ec4ed0bE": "<a::S<_> as a::Tr>::go",
    "_RNvNtNtNtCsjrHSEGnQ3l9_3std3sys2fs4unix12canonicalize": "std::sys::fs::unix::canonicalize",
    "_RNvC1a4work.llvm.123": "a::work",
    "$s4main5helloyyF": "main.hello() -> ()",
    "_$s8mangling12GenericUnionO3FooyACyxGSicAEmlF": (
        "mangling.GenericUnion.Foo<A>(mangling.GenericUnion<A>.Type) -> (Swift.Int) -> mangling.GenericUnion<A>"
    ),
    "_Znwm@plt": "operator new(unsigned long)@plt",
    "main": "main",
    "runtime.mallocgc": "runtime.mallocgc",
    "_ZN4llvm3orc": "_ZN4llvm3orc",
    "_R": "_R",
    "_Z": "_Z",
    "": "",
    "__GI___libc_write": "__GI___libc_write",
    "_Reverse": "_Reverse",
    "operator": "operator",
}


@pytest.mark.parametrize(("mangled", "expected"), CASES.items())
def test_names_are_spelled_as_in_the_source(mangled: str, expected: str) -> None:
    """C++, both Rust schemes and Swift; what is not mangled stays."""
    assert Demangler()(mangled) == expected


def test_without_libstdcxx_names_are_still_demangled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library for Rust and Swift knows C++ as well, spelled a little differently."""
    monkeypatch.setattr(demangle, "_find_libstdcxx", lambda: None)
    assert Demangler()("_ZN4shop3buyEi") == "shop::buy(int)"


def test_cplusplus_is_spelled_as_cxxfilt_spells_it() -> None:
    """All mangled exports of the C++ library, against binutils and LLVM, but for blanks between `>`."""
    library = next(Path("/usr/lib/x86_64-linux-gnu").glob("libstdc++.so.6"), None)
    if library is None or shutil.which("c++filt") is None:
        pytest.skip("`c++filt` or libstdc++ is not installed")
    lines = run("nm", "-D", "--defined-only", str(library)).splitlines()
    names = sorted({line.split()[-1].split("@")[0] for line in lines if " _Z" in line})
    binutils = run("c++filt", stdin="\n".join(names)).splitlines()
    llvm = run("llvm-cxxfilt-14", stdin="\n".join(names)).splitlines() if shutil.which("llvm-cxxfilt-14") else binutils
    either = zip(map(_no_blanks, binutils), map(_no_blanks, llvm), strict=True)
    equal = sum(_no_blanks(a) in others for a, others in zip(Demangler().all(names), either, strict=True))
    assert len(names) > 3000
    assert equal / len(names) > 0.999


def test_rust_is_spelled_as_llvm_spells_it(rust_program: Path) -> None:
    """Every v0 name of a real program, but for the suffixes that only one of the two shows."""
    tool = shutil.which("llvm-cxxfilt-14")
    if tool is None:
        pytest.skip("`llvm-cxxfilt-14` is not installed")
    names = sorted({line.split()[-1] for line in run("nm", str(rust_program)).splitlines() if " _R" in line})
    theirs = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    for mangled, ours, other in zip(names, Demangler().all(names), theirs.splitlines(), strict=True):
        assert ours.split(".llvm.")[0] == re.sub(r" \(\.[\w.]+\)$", "", other) or "." in mangled


@pytest.mark.parametrize(
    "bomb",
    [
        "_Z" + "1" * 1_000_000,
        "_Z1000000" + "a" * 1_000_000 + "v",
        "_Z1f" + "P" * 8_000 + "i",
        "_ZN" + "1a" * 4_000 + "E",
        "_Z1f" + "1aI" * 2_000 + "i" + "E" * 2_000,
        "_RNvC1a" + "I" * 8_000,
        "_R" + "Nv" * 4_000 + "C1a1b",
        "$s" + "S" * 8_000,
        "_Z1f" + "St4pairI" + "S_S_E" * 1_500,
        "_ZN" + "\udcff" * 10,
    ],
)
def test_hostile_names_are_bounded(bomb: str) -> None:
    """Nothing is as long as it claims, nothing recurses without end, nothing raises."""
    assert len(Demangler()(bomb)) <= max(len(bomb), MAX_DEMANGLED)


def test_a_name_is_demangled_once() -> None:
    """The same object comes back."""
    demangler = Demangler()
    assert demangler("_Z3foov") is demangler("_Z3foov")


def _no_blanks(text: str) -> str:
    return text.replace(" ", "")
