"""Runs every benchmark, one after the other, and writes what they print into bench/RESULTS.md.

    python -m bench            all
    python -m bench wire ...   some; the others' sections stay as they were

A benchmark is a module of this package with a `main()` that prints Markdown: peer and us on the same work in one go, a
ratio, and the spread. Nothing here judges a figure.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
NOT_BENCHMARKS = {"__init__", "__main__"}
_SECTION = re.compile(r"^<!-- (\w+) -->\n(.*?)(?=^<!-- \w+ -->\n|\Z)", re.MULTILINE | re.DOTALL)


def names() -> list[str]:
    """All benchmarks: modules of this folder that are not named with an underscore."""
    stems = {path.stem for path in FOLDER.glob("*.py")} - NOT_BENCHMARKS
    return sorted(stem for stem in stems if not stem.startswith("_"))


def run(name: str) -> str:
    """What benchmark `name` prints; its progress on standard error passes through."""
    result = subprocess.run([sys.executable, "-m", f"bench.{name}"], stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        return f"{result.stdout}\n**failed with exit code {result.returncode}**\n"
    return result.stdout


def header() -> str:
    """Machine and versions, as a reader needs them to judge the figures."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    libraries = ("numpy", "protobuf", "zstandard", "nats-py", "chdb-core-lite", "clickhouse-connect", "symbolic")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)
    return (
        "# Benchmarks\n\n"
        "Written by `make bench`; each section is what one script of this folder printed: the peer and fleetflame\n"
        "on the same work, in the same run, on one machine. Where a target is not met, the figure stands as it is.\n\n"
        f"- {os.cpu_count()} CPUs ({model[1] if model else 'unknown'}), {int(memory[1]) >> 20 if memory else '?'} GiB,"
        f" Linux {platform.release()}, Python {platform.python_version()}\n"
        f"- {versions}\n\n"
    )


def main(chosen: list[str]) -> int:
    """Runs the chosen benchmarks (all of them if none is named) and rewrites RESULTS.md."""
    unknown = sorted(set(chosen) - set(names()))
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    sections = dict(_SECTION.findall(RESULTS.read_text())) if RESULTS.exists() else {}
    for name in chosen or names():
        print(f"bench: {name}", file=sys.stderr)
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        sections[name] = f"## {name}\n\nMeasured on {day}.\n\n{run(name).strip()}\n\n"
        body = "".join(f"<!-- {key} -->\n{sections[key]}" for key in sorted(sections))
        RESULTS.write_text(header() + body)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
