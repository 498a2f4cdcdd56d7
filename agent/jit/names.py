"""What a runtime writes into its perf map -> the name that people know a function by. Pure.

What a function's name says that is not its name goes: the tier that it was compiled by, so that one function is one
frame whatever became of it, and numbers that are others in each process, so that hosts merge.

    JS:*spin /srv/app.js:3:14                    spin            /srv/app.js:3      V8; also ~ ^ + and LazyCompile:
    JS:~ /srv/app.js:7:20                        (anonymous app.js:7:20)   /srv/app.js:7
    Eval:~ /srv/app.js:1:1                       (script app.js)           /srv/app.js:1
    wasm-function[3]-3-turbofan                  wasm-function[3]-3
    int com.acme.Hot.fib(int)                    com.acme.Hot.fib(int)               HotSpot: the result's type goes
    Lcom/acme/Hot;::fib                          com.acme.Hot.fib                    perf-map-agent
    int A$$Lambda$14/0x00007f49d4000a08.f(int)   A$$Lambda.f(int)
    void [App] Acme.Hot::Run()[Tier1]            void [App] Acme.Hot::Run()          .NET
    py::run:/srv/app.py                          run             /srv/app.py         CPython's trampolines
"""

import re

from fleetflame.model import NamedFrame

MAX_NAME = 1024
"""Bytes of a line's name that are looked at. What is cut off is replaced by a hash of it, so that two stay two."""
MAX_LINE_NUMBER = (1 << 32) - 1

# github.com/v8/v8: src/logging/code-events.h (kinds), src/objects/code-kind.cc (CodeKindToMarker: tiers),
# src/logging/log.cc (AppendSource). Kinds that are no functions of the program (Builtin, BytecodeHandler, RegExp)
# stand before a name and stay.
_V8_KIND = re.compile(r"(JS|LazyCompile|Function|Script|Eval|InterpretedFunction|BaselineFunction):[~^*+'?]?")
_V8_PLACE = re.compile(r":([0-9]{1,10})(?::([0-9]{1,10}))?$")
# A name may have spaces ("get size") and so may a path: what looks like the start of one ends the name.
_V8_FILE = re.compile(r" (?=/|[a-z][\w+-]{0,20}:)")
_SCRIPTS = frozenset({"Script", "Eval"})
_WASM_TIER = re.compile(r"(-[0-9]+)-(?:liftoff|turbofan)$")
# github.com/openjdk/jdk: src/hotspot/share/code/codeCache.cpp (write_perf_map), oops/method.cpp (external_name).
_JAVA = re.compile(r"[\w.$\[\]/+]+ (?P<name>[\w.$/+<>-]+\.[\w$<>-]+\([\w.$\[\], /+-]*\))")
_DESCRIPTOR = re.compile(r"L(?P<type>[\w/$.+-]+);::(?P<name>[\w$<>-]+)(?P<rest>.*)", re.DOTALL)
_HIDDEN = re.compile(r"(?<=\$\$Lambda)\$[0-9]+(?=[/+.])|[/+]0x[0-9a-f]+")
# github.com/dotnet/runtime: src/coreclr/vm/perfmap.cpp (PerfMap::GetNativeCodeTierName).
_DOTNET_TIER = re.compile(r"\[(?:PreJIT|Tier0|Tier1|OptimizedTier1(?:OSR)?|Optimized|MinOptJitted|QuickJitted|"
                          r"Instrumented|InstrumentedTier[01]|Tier-?[0-9]\w*|Unknown|ReJIT)\]$")  # fmt: skip
_PYTHON = re.compile(r"py::(?P<name>[^:\n]+):(?P<file>.+)")


def parse_name(text: bytes, digest: int) -> NamedFrame:
    """The frame of what stands behind the numbers of a line, without its end; `digest` is the entry's."""
    name = text[:MAX_NAME].decode("utf-8", "backslashreplace")
    if len(text) > MAX_NAME:
        return NamedFrame(f"{name}…{digest:08x}")
    for reader in (_v8, _python, _java):
        if frame := reader(name):
            return frame
    return NamedFrame(_DOTNET_TIER.sub("", _WASM_TIER.sub(r"\1", name)))


def _v8(text: str) -> NamedFrame | None:
    kind = _V8_KIND.match(text)
    if kind is None:
        return None
    name, file, place = _v8_parts(text[kind.end() :])
    line = min(int(place.partition(":")[0] or 0), MAX_LINE_NUMBER)
    if not name:
        # By column too: all of a bundle is one line.
        where = f" {file.rpartition('/')[2]}" if file else ""
        name = f"(script{where})" if kind[1] in _SCRIPTS else f"(anonymous{where}{place and ':'}{place})"
    return NamedFrame(_WASM_TIER.sub(r"\1", name), file, line)


def _v8_parts(text: str) -> tuple[str, str, str]:
    """(name, file, `line:column`), each "" where it is not told."""
    place = _V8_PLACE.search(text)
    rest = text[: place.start()] if place else text
    split = _V8_FILE.search(rest)
    if split:
        name, file = rest[: split.start()], rest[split.end() :]
    elif place:
        name, _, file = rest.rpartition(" ")
    else:
        name, file = rest, ""
    return name.strip(), file.removeprefix("file://"), place[0][1:] if place else ""


def _java(text: str) -> NamedFrame | None:
    if match := _JAVA.fullmatch(text):
        return NamedFrame(_HIDDEN.sub("", match["name"]))
    if match := _DESCRIPTOR.fullmatch(text):
        return NamedFrame(_HIDDEN.sub("", f"{match['type'].replace('/', '.')}.{match['name']}{match['rest']}"))
    return None


def _python(text: str) -> NamedFrame | None:
    match = _PYTHON.fullmatch(text)
    return NamedFrame(match["name"], match["file"]) if match else None
