"""Are stacks whole and true? fleetflame's beside those of `perf record --call-graph dwarf` in the same seconds.

Each workload is sampled by both for two windows, two workloads at a time. Stacks are compared by name: inlined frames
are left out (perf script --no-inline), parameters, versions of symbols and clones' suffixes are cut, a frame without a
name is its binary, and code that calls itself is one frame. Kernel frames are left out.

    generated code     samples that frame pointers led through code without a table, made at run time
    reach the root     samples whose outermost frame is a program's or thread's first function
    hottest path       of the ten paths that perf has most samples of, the largest |ours - perf's|, in points of share
    hottest function   the same for the innermost user frames, where perf loses its way through generated code
    noise              two standard errors of a difference of shares, for the path in question: what two samplers of one
                       and the same truth differ by

perf copies 16 KiB of stack a sample and walks that later; what lies deeper it does not see.
"""

import contextlib
import math
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench._busy import Workload, end, start, workloads
from bench.latency import free_port

HZ = 397
WINDOW_S = 10
WINDOWS = 2
START_S = 10
WARM_S = 8
SETTLE_S = 60
AHEAD_S = 4
TOP = 10
ROOTS = frozenset({"_start", "clone3", "clone"})
Stacks = Counter[tuple[str, ...]]


@contextlib.contextmanager
def fleetflame(work: Path) -> Iterator[str]:
    """A whole fleetflame that samples this machine; gives its URL."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-P", "-m", "cli.main", "up", "--http", address, "--data", str(work / "data")]
    with (work / "up.log").open("w") as log:
        up = subprocess.Popen([*command, "--frequency", str(HZ)], stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        up.send_signal(signal.SIGINT)
        up.wait()


def record(process: subprocess.Popen[bytes], output: Path) -> subprocess.Popen[bytes]:
    """perf, sampling the process and its threads; its clock is the wall's."""
    command = ["perf", "record", "-q", "--call-graph", "dwarf,16384", "-F", str(HZ), "-e", "cpu-clock"]
    command += ["-k", "CLOCK_REALTIME", "-m", "8192", "-p", str(process.pid), "-o", str(output)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


_NAMELESS = ("[anonymous]", "[no perf map]", "[code replaced]")
_INLINED_OR_KERNEL = ("_[i]", "_[k]")
_CLONE = re.compile(r"(\.(isra|part|constprop|cold|llvm)(\.\d+)?|\.\d+)+$|@@?[\w.]+$")
_UNNAMED = re.compile(r"^\[(.+)\+0x[0-9a-f]+\]$")
_V8 = re.compile(r"^JS:[*~^+]*(\S*) (?:\S*/)?(\S+)$")
_RETURNS = re.compile(r"^(?:void|bool|int|long|char|double|float|[\w.$]+(?:\[\])*) (?=[\w:.$~]+(?:<|$))")
_LIBC = re.compile(r"^(?:__GI_)?_{2,}(?=[a-z])(?!libc_start)|^__GI_+")
ALIASES = {"memcpy_avx512_unaligned_erms": "memmove_avx512_unaligned_erms", "cfree": "free"}
_KERNEL_FROM = 1 << 63


def plain(name: str) -> str:
    """A function's name as both sides have it: without parameters, version, suffix and kind."""
    unnamed = _UNNAMED.match(name)
    if unnamed:
        return f"[{unnamed[1]}]"
    for suffix in ("_[j]", "_[p]"):
        name = name.removesuffix(suffix)
    generated = _V8.match(name)
    if generated:
        return generated[1] or f"(anonymous {generated[2]})"
    if name.endswith("@plt"):
        return "@plt"
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and at and depth == 0 and not name[:at].endswith(("operator", "::", " ")):
            name = name[:at]
            break
    name = _RETURNS.sub("", _CLONE.sub("", name)) or name
    bare = _LIBC.sub("", name) or name
    return ALIASES.get(bare, bare)


def tidy(frames: list[str]) -> tuple[str, ...]:
    """Frames root first -> a path: what a stripped program starts with is `_start`, recursion is one frame."""
    names = [plain(frame) for frame in frames]
    if len(names) > 1 and names[0].startswith("[") and names[1].startswith("__libc_start_main"):
        names[0] = "_start"
    return tuple(name for at, name in enumerate(names) if not at or name != names[at - 1])


def perf_stacks(data: Path, since: float, until: float) -> tuple[Stacks, float]:
    """(paths that perf saw between two moments, mean depth in frames)."""
    command = ["perf", "script", "--no-inline", "-F", "tid,time,ip,sym,dso", "-i", str(data)]
    script = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    stacks: Stacks = Counter()
    depth = 0
    for block in script.stdout.split("\n\n"):
        head, *lines = block.strip("\n").splitlines() or [""]
        moment = re.search(r"(\d+\.\d+):", head)
        if moment is None or not since <= float(moment[1]) < until:
            continue
        frames = []
        for line in lines:
            address, _, rest = line.strip().partition(" ")
            symbol, _, binary = rest.rpartition(" (")
            if int(address, 16) < _KERNEL_FROM:
                frames.append(symbol if symbol != "[unknown]" else f"[{binary.rstrip(')').rpartition('/')[2]}]")
        if frames:
            stacks[tidy(frames[::-1])] += 1
            depth += len(frames)
    return stacks, depth / max(1, stacks.total())


def our_stacks(url: str, comm: str, since: float, until: float) -> tuple[Stacks, float, float]:
    """(paths of the windows that the range touches, mean depth in frames, share with generated code in the path)."""
    query = {"query": f'cpu{{comm="{comm}"}}', "from": str(since), "until": str(until), "format": "folded"}
    with urllib.request.urlopen(f"{url}/api/v1/profile?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        text = answer.read().decode()
    stacks: Stacks = Counter()
    depth = generated = 0
    for line in text.splitlines():
        path, _, count = line.rpartition(" ")
        frames = [frame for frame in path.split(";")[1:] if not frame.endswith(_INLINED_OR_KERNEL)]
        if frames and not frames[0].startswith("[no "):
            stacks[tidy(frames)] += int(count)
            depth += len(frames) * int(count)
            generated += int(count) * any(frame.endswith("_[j]") or frame in _NAMELESS for frame in frames)
    return stacks, depth / max(1, stacks.total()), generated / max(1, stacks.total())


def reaching(stacks: Stacks) -> float:
    """Share of the samples whose outermost frame is where a program or a thread begins."""
    return sum(count for path, count in stacks.items() if path[0] in ROOTS) / max(1, stacks.total())


def truncated(stacks: Stacks) -> dict[str, float]:
    """Reason -> share of our samples."""
    reasons: Counter[str] = Counter()
    for path, count in stacks.items():
        if path[0].startswith("[truncated: "):
            reasons[path[0][12:-1]] += count
    return {reason: count / stacks.total() for reason, count in reasons.most_common()}


def largest(ours: Stacks, theirs: Stacks) -> tuple[float, float, tuple[str, ...]]:
    """(largest difference of shares among perf's hottest, two standard errors of it, where), in points."""
    found = []
    n, m = max(1, ours.total()), max(1, theirs.total())
    for path, count in theirs.most_common(TOP):
        here, there = ours[path] / n, count / m
        together = (ours[path] + count) / (n + m)
        error = 2 * math.sqrt(together * (1 - together) * (1 / n + 1 / m))
        found.append((abs(here - there) * 100, error * 100, path))
    return max(found, default=(0.0, 0.0, ()))


def innermost(stacks: Stacks) -> Stacks:
    """The samples by their innermost frame."""
    result: Stacks = Counter()
    for path, count in stacks.items():
        result[path[-1:]] += count
    return result


def boundary(ahead: float) -> float:
    """The Unix time of the first window that begins `ahead` seconds from now or later."""
    return math.ceil((time.time() + ahead) / WINDOW_S) * WINDOW_S


def sample(pair: list[Workload], work: Path) -> tuple[float, list[Path]]:
    """Runs workloads at once, perf beside them; gives the Unix second of the first window, and perf's files."""
    began = boundary(AHEAD_S)
    time.sleep(began - AHEAD_S - time.time())
    processes = [start(workload) for workload in pair]
    files = [work / f"{Path(workload.command[0]).name}.data" for workload in pair]
    time.sleep(began - 0.5 - time.time())
    recorders = [record(process, file) for process, file in zip(processes, files, strict=True)]
    time.sleep(began + WINDOWS * WINDOW_S + 0.1 - time.time())
    for recorder in recorders:
        recorder.send_signal(signal.SIGINT)
        recorder.wait()
    end(processes)
    return began, files


def row(workload: Workload, url: str, began: float, file: Path) -> str:
    """The workload's line of the table; notes where the two differ most on standard error."""
    until = began + WINDOWS * WINDOW_S
    theirs, their_depth = perf_stacks(file, began, until)
    ours, our_depth, generated = our_stacks(url, Path(workload.command[0]).name, began + 1, until - 1)
    reasons = truncated(ours)
    points, noise, path = largest(ours, theirs)
    leaf, leaf_noise, function = largest(innermost(ours), innermost(theirs))
    print(f"{workload.name}: {points:.2f} {';'.join(path)}\n  {leaf:.2f} {';'.join(function)}", file=sys.stderr)
    why = ", ".join(f"{reason} {share:.2%}" for reason, share in reasons.items()) or "none"
    return (
        f"| {workload.name} | {ours.total():,} / {theirs.total():,} | {reaching(ours):.2%} / {reaching(theirs):.2%} |"
        f" {1 - sum(reasons.values()):.2%} | {why} | {generated:.2%} | {our_depth:.1f} / {their_depth:.1f} |"
        f" {points:.2f} ({noise:.2f}) | {leaf:.2f} ({leaf_noise:.2f}) |"
    )


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder, fleetflame(Path(folder)) as url:
        work = Path(folder)
        found, missing = workloads(work)
        time.sleep(START_S)
        warm = [start(workload) for workload in found]
        time.sleep(WARM_S)
        end(warm)
        # The unwind tables of their files are compiled at the lowest priority, once: not while both CPUs are busy.
        time.sleep(SETTLE_S)
        taken = []
        for at in range(0, len(found), 2):
            pair = found[at : at + 2]
            second, files = sample(pair, work)
            taken += [(workload, second, file) for workload, file in zip(pair, files, strict=True)]
        time.sleep(WINDOW_S / 2)
        rows = [row(workload, url, second, file) for workload, second, file in taken]
    print(f"Ours / perf's, {HZ} Hz, {WINDOWS * WINDOW_S} s a workload, two at a time.\n")
    print(
        "| workload | samples | reach the root | not truncated | truncated | generated code | frames |"
        " hottest path, points (noise) | hottest function, points (noise) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))
    print(
        "\nGenerated code has no unwind tables: ours go on by frame pointers there, perf's end. So of node and java"
        "\nonly innermost functions can be compared. `frames` are means, without inlined ones."
    )
    if missing:
        print(f"\nNot installed here: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
