"""Unwind tables beside `readelf -wF`, on the distribution's files: the same rows, and how fast.

    1. every row of every file: does the table say what readelf says, and what has no rule?
    2. rows a second of the largest; readelf prints into nothing, ours ends with a table in memory
    3. memory of ours, and bytes a row of what is kept

FLEETFLAME_BENCH_FILES is how many files are compared, spread evenly over all there are.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fleetflame.cfi import CfaError, compile_table, encode
from tests.support.readelf import compare, listing

FOLDERS = (Path("/usr/bin"), Path("/usr/lib/x86_64-linux-gnu"))
FILES = int(os.environ.get("FLEETFLAME_BENCH_FILES", "250"))
ROUNDS = 5
LARGEST = 5
NAMED = (
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0",
    "/usr/lib/x86_64-linux-gnu/libLLVM-14.so.1",
    "/usr/lib/x86_64-linux-gnu/libclang-14.so.1",
    "/usr/bin/node",
)
"""Compared whatever the spread leaves out, and timed."""


@dataclass
class Findings:
    """Of all files together."""

    files: int = 0
    rows: int = 0
    compared: int = 0
    kept: int = 0
    packed: int = 0
    differing: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    stray: int = 0
    rules: set[bytes] = field(default_factory=set)


def elf_files() -> Iterator[Path]:
    """Programs and libraries, each once."""
    seen = set()
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            with path.open("rb") as file:
                # Relocatable objects (type 1) have no addresses.
                head = file.read(18)
            if head[:4] == b"\x7fELF" and head[16] in (2, 3) and path.stat().st_ino not in seen:
                seen.add(path.stat().st_ino)
                yield path


def named() -> list[Path]:
    return list(dict.fromkeys(Path(name).resolve() for name in NAMED if Path(name).exists()))


def chosen() -> list[Path]:
    """Those with names, and others evenly spread."""
    every = list(elf_files())
    step = max(1, len(every) // FILES)
    return list(dict.fromkeys([*named(), *every[::step]]))


def compare_all(paths: list[Path]) -> Findings:
    found = Findings()
    for path in paths:
        try:
            table = compile_table(path.read_bytes())
        except CfaError as error:
            found.refused[error.reason] += 1
            continue
        result = compare(table, listing(path))
        found.files += 1
        found.rows += result.rows
        found.compared += result.compared
        found.stray += result.stray
        found.differing.update({f"{path.name}: {what}": count for what, count in result.differing.items()})
        found.forms += result.forms
        found.kept += len(table)
        found.packed += len(encode(table))
        found.rules.update(rule.tobytes() for rule in table.rules)
        if table.dropped:
            found.dropped[path.name] = dict(table.dropped)
    return found


def of_readelf(path: Path) -> float:
    """Seconds of user and system time; what it prints is thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["readelf", "--debug-dump=frames-interp,no-follow-links", str(path)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def of_ours(path: Path) -> float:
    data = path.read_bytes()
    start = time.process_time()
    compile_table(data)
    return time.process_time() - start


def peak(path: Path) -> int:
    """Bytes that are allocated at once, besides the file."""
    data = path.read_bytes()
    tracemalloc.start()
    compile_table(data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def speeds(paths: list[Path]) -> Iterator[str]:
    yield "| file | rows | readelf, M rows/s | fleetflame, M rows/s | ratio | peak, MB | bytes a row |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for path in paths:
        rows = listing(path).rows
        theirs, ours = [], []
        for _ in range(ROUNDS):
            theirs.append(max(of_readelf(path), 1e-3))
            ours.append(of_ours(path))
        table = compile_table(path.read_bytes())
        ratio = statistics.median(theirs) / statistics.median(ours)
        yield (
            f"| {path.name} | {rows:,} | {rate(rows, theirs)} | {rate(rows, ours)} | {ratio:.2f}"
            f" | {peak(path) / 1e6:.0f} | {len(encode(table)) / len(table):.2f} |"
        )


def rate(rows: int, seconds: list[float]) -> str:
    middle, low, high = (rows / value / 1e6 for value in (statistics.median(seconds), max(seconds), min(seconds)))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def report(found: Findings) -> Iterator[str]:
    yield (
        f"{found.files} files, {found.rows:,} rows printed by readelf, {found.compared:,} of them visible and compared"
        f" at both ends: **{found.differing.total()} differ**, {found.stray} rows of ours are at addresses where"
        f" readelf has none. {found.kept:,} rows remain once equal neighbours are merged and gaps are added, with"
        f" {len(found.rules):,} distinct rules; packed, {found.packed / max(found.kept, 1):.2f} bytes each."
    )
    yield from (f"- differs: {what} ({count})" for what, count in found.differing.most_common(10))
    yield "Rules that are not rsp or rbp with rbp unchanged or at the CFA: " + counts(found.forms) + "."
    total: Counter[str] = Counter()
    for reasons in found.dropped.values():
        total.update(reasons)
    yield f"Without a whole rule: {counts(total)}. Files without a table: {counts(found.refused)}."
    worst = sorted(found.dropped.items(), key=lambda item: -sum(item[1].values()))[:12]
    yield "By file: " + "; ".join(f"{name} ({counts(Counter(reasons))})" for name, reasons in worst) + "."


def counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common()) or "none"


def main() -> None:
    """Prints the comparison and the table of speeds."""
    paths = chosen()
    print(f"cfi: {len(paths)} files", file=sys.stderr)
    print("\n\n".join(report(compare_all(paths))))
    print("\nProcessor time, medians of five (range), one after the other:\n")
    largest = sorted(named(), key=lambda path: -path.stat().st_size)[:LARGEST]
    print("\n".join(speeds(largest)))


if __name__ == "__main__":
    main()
