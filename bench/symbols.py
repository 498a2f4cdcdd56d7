"""How fast addresses become names: fleetflame beside llvm-symbolizer, eu-addr2line and symbolic, on the same file.

    1. names only, warm: a libpython without DWARF, addresses drawn from its functions
    2. inlined frames and lines, from the file to the answer: a libpython with DWARF, distinct addresses

Addresses are drawn evenly over the bytes of functions, with a fixed seed. Tools that are programs are timed as
programs; libraries are timed in a running process. Ours includes the worker process that parses, confined, and the
verification of what it made. FLEETFLAME_BENCH_ELF names another file with DWARF to use.
"""

import asyncio
import json
import os
import os.path
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from symbolic.debuginfo import Archive

from aggregator.symbols import elf as elf_file
from aggregator.symbols.demangle import Demangler
from aggregator.symbols.plain import SYMBOL
from aggregator.symbols.runner import Worker, parse
from aggregator.symbols.sandbox import WorkerLimits
from aggregator.symbols.table import Symbolized, SymbolTable, look_up

SEED = 20_240_229
WARM, COLD = 200_000, 20_000
ROUNDS = 5
Frames = list[tuple[str, str, int]]


@dataclass
class Timed:
    """One contender: seconds of each round, and its answers of the last."""

    name: str
    seconds: list[float] = field(default_factory=list)
    answers: Sequence[Any] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        return f"{min(self.seconds):.2f} to {max(self.seconds):.2f}"


def main() -> int:
    """Prints both comparisons as Markdown."""
    source = find_dwarf()
    if source is None:
        print("No libpython with DWARF was found; name a file with FLEETFLAME_BENCH_ELF.")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "file"
        shutil.copyfile(source, file)
        names_only(folder, file)
        with_lines(folder, file)
    return 0


def find_dwarf() -> Path | None:
    """A shared libpython with DWARF: of an interpreter on PATH, or beside one that pyenv manages."""
    chosen = os.environ.get("FLEETFLAME_BENCH_ELF")
    candidates = [Path(chosen)] if chosen else []
    ask = (
        "import sysconfig as s; print(s.get_config_var('LIBDIR') or '', s.get_config_var('INSTSONAME') or '', sep='/')"
    )
    for folder in os.get_exec_path():
        for python in sorted(Path(folder).glob("python3.*[0-9]")):
            out = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False).stdout
            candidates.append(Path(out.strip()))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += sorted(pyenv.glob("3.11*/lib/libpython3.*.so.1.0")) + sorted(pyenv.glob("*/lib/libpython3.*.so.1.0"))
    return next((path for path in candidates if path.is_file() and _has_dwarf(path)), None)


def names_only(folder: Path, file: Path) -> None:
    """The first comparison."""
    plain = folder / "plain"
    subprocess.run(["strip", "-g", "-o", plain, file], check=True)
    addresses, aliases = draw(plain, WARM)
    asked = addresses.tolist()
    table = asyncio.run(parse(plain, folder / "plain.table", limits=WorkerLimits())).table

    def ours() -> list[str]:
        found = look_up(table, addresses)
        return [found.strings[index] for index in found.function.tolist()]

    starts, ends, texts = floor_columns(plain)

    def floor() -> list[str]:
        at = np.searchsorted(starts, addresses, side="right") - 1
        return [texts[index] for index in np.where(addresses < ends[at], at, 0).tolist()]

    cache = next(Archive.open(str(plain)).iter_objects()).make_symcache()

    def one_by_one() -> list[str]:
        return [hits[0].symbol if (hits := cache.lookup(address)) else "" for address in asked]

    rows = [Timed("fleetflame"), Timed("numpy floor: one search, no rules"), Timed("symbolic, one by one")]
    work: list[Callable[[], Sequence[Any]]] = [ours, floor, one_by_one]
    tool = shutil.which("llvm-symbolizer-14") or shutil.which("llvm-symbolizer")
    if tool:
        rows.append(Timed("llvm-symbolizer --no-inlines"))
        work.append(lambda: llvm_names(tool, plain, asked))
    race(rows, work, rounds=ROUNDS)
    if tool:
        # Warm: what the program takes to start and to read the file is not counted.
        start = statistics.median(timed(lambda: llvm_names(tool, plain, asked[:1]))[0] for _ in range(3))
        rows[-1].seconds = [seconds - start for seconds in rows[-1].seconds]
    print(f"### Names only, warm\n\n{_size(plain)} without DWARF, {len(addresses):,} addresses, {ROUNDS} rounds.\n")
    print("| | addresses/s | ours is | same name | same but for an alias |\n| --- | ---: | ---: | ---: | ---: |")
    mine = rows[0]
    for row in rows:
        pairs = list(zip(mine.answers, row.answers, strict=True))
        same = sum(a == b for a, b in pairs) / len(pairs)
        alike = sum(b in aliases[a] or a == b for a, b in pairs) / len(pairs)
        rate = len(addresses) / row.median
        print(f"| {row.name} | {rate:,.0f} | {row.median / mine.median:.2f} x | {same:.2%} | {alike:.2%} |")
    print()


def with_lines(folder: Path, file: Path) -> None:
    """The second comparison."""
    with asyncio.Runner() as runner:
        worker = Worker()
        try:
            _with_lines(folder, file, lambda target, used: runner.run(_parse(file, target, worker if used else None)))
        finally:
            runner.run(worker.close())


async def _parse(file: Path, target: Path, worker: Worker | None) -> SymbolTable:
    return (await parse(file, target, limits=WorkerLimits(), worker=worker)).table


def _with_lines(folder: Path, file: Path, make: Callable[[Path, bool], SymbolTable]) -> None:
    addresses, aliases = draw(file, COLD, distinct=True)
    asked = addresses.tolist()
    counter = iter(range(1_000))

    def ours(*, running: bool) -> list[Frames]:
        return frames_of(look_up(make(folder / f"{next(counter)}.table", running), addresses))

    def one_by_one() -> list[Frames]:
        cache = next(Archive.open(str(file)).iter_objects()).make_symcache()
        return [[(h.symbol, h.full_path or "", h.line) for h in reversed(cache.lookup(at))] for at in asked]

    rows = [Timed("fleetflame"), Timed("fleetflame, starting its worker process"), Timed("symbolic, one by one")]
    work: list[Callable[[], Sequence[Any]]] = [partial(ours, running=True), partial(ours, running=False), one_by_one]
    tool = shutil.which("llvm-symbolizer-14") or shutil.which("llvm-symbolizer")
    if tool:
        rows.append(Timed("llvm-symbolizer"))
        work.append(lambda: llvm_frames(tool, file, asked))
    race(rows, work, rounds=ROUNDS)
    slow = shutil.which("eu-addr2line")
    if slow:
        rows.append(Timed("eu-addr2line -f -i (one round)"))
        race(rows[-1:], [lambda: addr2line_frames(slow, file, asked)], rounds=1)
    print(f"### Inlined frames and lines, from the file to the answer\n\n{_size(file)}, ", end="")
    print(f"{len(addresses):,} distinct addresses, {ROUNDS} rounds.\n")
    print("| | seconds (median) | spread | ours is | same answers | same but for an alias |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    mine = rows[0]
    for row in rows:
        pairs = [(_plain(a), _plain(b)) for a, b in zip(mine.answers, row.answers, strict=True)]
        same = sum(a == b for a, b in pairs) / len(pairs)
        alike = sum(_alike(a, b, aliases) for a, b in pairs) / len(pairs)
        ratio = f"{row.median / mine.median:.2f} x"
        print(f"| {row.name} | {row.median:.2f} | {row.spread} | {ratio} | {same:.2%} | {alike:.2%} |")
    print(
        "\nAn alias is another symbol with the same address: folded functions and clones have several. Paths are\n"
        "compared without `.` and `..` components. The worker process forks for each file; it runs while there is work."
    )


def race(rows: list[Timed], work: Sequence[Callable[[], Sequence[Any]]], *, rounds: int) -> None:
    """Each contender in turn, `rounds` times, so that drift hits all alike; the first turn of each is not counted."""
    for number in range(rounds + (rounds > 1)):
        for row, task in zip(rows, work, strict=True):
            seconds, row.answers = timed(task)
            if number or rounds == 1:
                row.seconds.append(seconds)
            print(f"  {row.name}: {seconds:.3f} s", file=sys.stderr)


def timed(task: Callable[[], Sequence[Any]]) -> tuple[float, Sequence[Any]]:
    """Seconds that the task took, and its result."""
    began = time.perf_counter()
    result = task()
    return time.perf_counter() - began, result


def draw(file: Path, count: int, *, distinct: bool = False) -> tuple[NDArray[np.uint64], dict[str, set[str]]]:
    """Addresses evenly over the bytes of sized functions, and for each name those that share its address."""
    start, size, names = functions(file)
    demangle = Demangler()
    at: dict[int, set[str]] = defaultdict(set)
    for address, name in zip(start.tolist(), names, strict=True):
        at[address].add(demangle(name))
    aliases: dict[str, set[str]] = defaultdict(set)
    for group in at.values():
        for name in group:
            aliases[name] |= group
    random = np.random.default_rng(SEED)
    ends = np.cumsum(size)
    places = random.integers(0, int(ends[-1]), count * 3 if distinct else count).astype(np.uint64)
    index = np.searchsorted(ends, places, side="right")
    addresses = start[index] + (places - (ends[index] - size[index]))
    if distinct:
        addresses = random.permutation(np.unique(addresses))[:count]
    return addresses, aliases


def functions(file: Path) -> tuple[NDArray[np.uint64], NDArray[np.uint64], list[str]]:
    """Start, size and name of each sized function in `.symtab`."""
    with file.open("rb") as data:
        elf = elf_file.open_elf(data)
        section = elf.section(".symtab")
        assert section is not None, "the file was chosen for its symbols"
        symbols = np.frombuffer(elf.raw(section), SYMBOL)
        text = elf.raw(elf.sections[section.link])
    chosen = symbols[((symbols["info"] & 0xF) == 2) & (symbols["size"] > 0) & (symbols["section"] > 0)]
    names = [text[at : text.index(b"\0", at)].decode() for at in chosen["name"].tolist()]
    return chosen["value"].astype(np.uint64), chosen["size"].astype(np.uint64), names


def floor_columns(file: Path) -> tuple[NDArray[np.uint64], NDArray[np.uint64], list[str]]:
    """What the least that can be done needs: sorted starts, ends, names."""
    start, size, names = functions(file)
    order = np.argsort(start, kind="stable")
    return start[order], (start + size)[order], [names[index] for index in order.tolist()]


def frames_of(found: Symbolized) -> list[Frames]:
    """Columns as one list of frames an address, as the peers give them."""
    strings = found.strings
    rows = zip(found.function.tolist(), found.file.tolist(), found.line.tolist(), strict=True)
    flat = [(strings[function], strings[file], line) for function, file, line in rows]
    bounds = found.offsets.tolist()
    return [flat[a:b] for a, b in pairwise(bounds)]


def llvm_names(tool: str, file: Path, addresses: list[int]) -> list[str]:
    """llvm-symbolizer's names, no inlining, no source."""
    asked = "\n".join(map(hex, addresses))
    command = [tool, "-e", str(file), "--no-inlines", "--output-style=GNU", "-s"]
    out = subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout
    return out.splitlines()[::2]


def llvm_frames(tool: str, file: Path, addresses: list[int]) -> list[Frames]:
    """llvm-symbolizer's frames, outermost first."""
    asked = "\n".join(map(hex, addresses))
    command = [tool, "-e", str(file), "--output-style=JSON"]
    out = subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    return [
        [(s["FunctionName"], s["FileName"], s["Line"]) for s in reversed(answer["Symbol"])]
        for row in rows
        for answer in (row if isinstance(row, list) else [row])
    ]


def addr2line_frames(tool: str, file: Path, addresses: list[int]) -> list[Frames]:
    """eu-addr2line's frames, outermost first."""
    out = subprocess.run(
        [tool, "-f", "-i", "-a", "-e", str(file)],
        input="\n".join(map(hex, addresses)),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found: list[Frames] = []
    at = 0
    while at < len(out):
        if out[at].startswith("0x"):
            found.append([])
            at += 1
            continue
        name = out[at].partition(" inlined at ")[0]
        place, _, line = out[at + 1].partition(" ")[0].rpartition(":")
        # The line is followed by a column where there is one.
        place, line = (
            (place.rpartition(":")[0], place.rpartition(":")[2])
            if place.rpartition(":")[2].isdigit()
            else (place, line)
        )
        found[-1].insert(0, (name, place, int(line) if line.isdigit() else 0))
        at += 2
    return found


def _plain(frames: Frames) -> Frames:
    return [(name, os.path.normpath(file) if file and file != "??" else "", line) for name, file, line in frames]


def _alike(a: Frames, b: Frames, aliases: dict[str, set[str]]) -> bool:
    same_places = [frame[1:] for frame in a] == [frame[1:] for frame in b]
    return same_places and all(x[0] == y[0] or y[0] in aliases[x[0]] for x, y in zip(a, b, strict=True))


def _has_dwarf(path: Path) -> bool:
    with path.open("rb") as file:
        return elf_file.open_elf(file).section(".debug_info") is not None


def _size(path: Path) -> str:
    return f"A libpython of {path.stat().st_size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
