"""Bytes on the wire per sample: perf's own file, pprof and our messages, made of one and the same capture.

`perf record -F 2000 -a -g` samples this machine under a mixed load. Its samples, as (file, offset) pairs that `perf
script` gives, become windows of ours and a pprof; perf.data is compressed as it is.

    fresh    the first window of a dictionary: every stack's frames travel
    next     the window after it: only stacks that the first one did not have
    steady   the same window again: numbers and counts only

A capture at 2 kHz repeats its stacks more than one at the rates that a fleet is sampled at, so that the same capture is
also thinned out to 99 Hz and 19 Hz.
"""

import gzip
import hashlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard

from agent.batch import Batcher
from agent.normalize import NormalizedWindow
from fleetflame import wire
from fleetflame.buildid import BuildId
from fleetflame.model import FrameMiss, Labels, Mapping, MappingKind, Segment, StackTable

ROUNDS = 3
SECONDS = 20
HZ = 2000
RATES = (2000, 99, 19)
KERNEL = "[kernel]"
MISS = ""

LOAD = r"""
import hashlib, json, os, re, sqlite3, subprocess, sys, time, zlib
end = time.monotonic() + float(sys.argv[1])
def work():
    rounds, table = 0, sqlite3.connect(":memory:")
    table.execute("create table t(a, b)")
    while time.monotonic() < end:
        text = json.dumps({str(k): [k, k * 2.5, "x" * (k % 50)] for k in range(300)})
        json.loads(text), zlib.compress(text.encode()), re.findall(r"\d+\.\d", text), hashlib.sha256(text.encode())
        table.executemany("insert into t values(?, ?)", [(k, rounds) for k in range(100)])
        table.execute("select b, count(*) from t group by b").fetchall()
        table.execute("delete from t where b < ?", (rounds - 3,))
        rounds += 1
        if rounds % 20 == 0:
            subprocess.run(["ls", "-lR", "/usr/share/doc"], stdout=subprocess.DEVNULL)
        if rounds % 50 == 0:
            subprocess.run(["gcc", "-xc", "-O2", "-c", "-o", "/dev/null", "-"], input=b"#include <stdio.h>\nint x;")
for _ in range(3):
    if os.fork() == 0:
        work()
        os._exit(0)
for _ in range(3):
    os.wait()
"""

Frame = tuple[str, int]
"""(path, file offset), or (KERNEL, address), or (MISS, 0)."""


@dataclass(frozen=True)
class Sample:
    """`stack` root first."""

    second: float
    comm: str
    stack: tuple[Frame, ...]


def capture(work: Path) -> tuple[Path, list[Sample]]:
    """perf's file and what is in it, of SECONDS under load."""
    data = work / "perf.data"
    load = subprocess.Popen([sys.executable, "-c", LOAD, str(SECONDS + 3)], stderr=subprocess.DEVNULL)
    time.sleep(1)
    record = ["perf", "record", "-q", "-F", str(HZ), "-a", "-g", "-e", "cpu-clock", "-o", str(data)]
    subprocess.run([*record, "--", "sleep", str(SECONDS)], check=True, stderr=subprocess.DEVNULL)
    load.wait()
    script = ["perf", "script", "-i", str(data), "-F", "comm,pid,time,ip,dso"]
    text = subprocess.run(script, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return data, parse(text.decode(errors="replace"))


def parse(text: str) -> list[Sample]:
    """Samples of `perf script`. Unmapped frames in a row are one, as in our normalizer."""
    samples = []
    for block in text.split("\n\n"):
        head, *lines = block.strip("\n").split("\n")
        match = re.match(r"\s*(.+?)\s+-?\d+\s+(\d+\.\d+):", head)
        if match is None or not lines:
            continue
        stack: list[Frame] = []
        for line in lines:
            address, _, file = line.strip().partition(" ")
            name = file.strip()[1:-1]
            frame = (name, int(address, 16))
            if name.startswith("[kernel"):
                frame = (KERNEL, frame[1] - 0xFFFF_FFFF_8100_0000)
            elif not name.startswith("/") and name != "[vdso]":
                frame = (MISS, 0)
            if not stack or stack[-1] != frame or frame[0] != MISS:
                stack.append(frame)
        samples.append(Sample(float(match[2]), match[1], tuple(reversed(stack))))
    return samples


def mapping(name: str) -> Mapping:
    """As the normalizer would have it. A build ID is as long and as random as the file's own."""
    if name == MISS:
        return Mapping(kind=MappingKind.MISS)
    build_id = BuildId(hashlib.sha1(name.encode()).digest())
    if name == KERNEL:
        return Mapping(kind=MappingKind.KERNEL, build_id=build_id, path=KERNEL)
    return Mapping(kind=MappingKind.FILE, build_id=build_id, path=name, segments=(Segment(0x1000, 0x1000, 0x20000),))


def labels(comm: str) -> Labels:
    """What an agent always tries."""
    exe = f"/usr/bin/{comm}"
    build = hashlib.sha1(exe.encode()).hexdigest()
    values = {"build": build, "comm": comm, "exe": exe, "service": comm, "unit": "session-1.scope"}
    return tuple(sorted(values.items()))


def window(samples: list[Sample], start: int) -> NormalizedWindow:
    """The samples as one window."""
    rows = Counter((sample.comm, sample.stack) for sample in samples)
    comms = list(dict.fromkeys(comm for comm, _ in rows))
    stacks = list(dict.fromkeys(stack for _, stack in rows))
    files = list(dict.fromkeys(name for stack in stacks for name, _ in stack))
    comm_index = {comm: index for index, comm in enumerate(comms)}
    stack_index = {stack: index for index, stack in enumerate(stacks)}
    file_index = {name: index for index, name in enumerate(files)}
    frames = [frame for stack in stacks for frame in stack]
    address = [FrameMiss.UNMAPPED if name == MISS else address % (1 << 64) for name, address in frames]
    return NormalizedWindow(
        start_ns=start * 10**10,
        end_ns=(start + 1) * 10**10,
        period_ns=10**9 // HZ,
        mappings=tuple(mapping(name) for name in files),
        named=(),
        series=tuple(labels(comm) for comm in comms),
        stacks=StackTable(
            offsets=np.cumsum([0, *map(len, stacks)]).astype(np.uint32),
            mapping=np.array([file_index[name] for name, _ in frames], np.uint32),
            address=np.array(address, np.uint64),
        ),
        row_series=np.array([comm_index[comm] for comm, _ in rows], np.uint32),
        row_stack=np.array([stack_index[stack] for _, stack in rows], np.uint32),
        row_count=np.array(list(rows.values()), np.uint64),
        taken=len(samples),
    )


def varint(value: int) -> bytes:
    """Protobuf's."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def pprof(samples: list[Sample]) -> bytes:
    """A profile.proto of addresses without names: mappings with build IDs, locations, samples with a comm label."""
    strings: dict[str, int] = {"": 0}
    files: dict[str, int] = {}
    locations: dict[Frame, int] = {}
    out = []

    def text(value: str) -> int:
        return strings.setdefault(value, len(strings))

    out.append(field(1, field(1, text("samples")) + field(2, text("count"))))
    for (comm, stack), count in Counter((sample.comm, sample.stack) for sample in samples).items():
        ids = b"".join(varint(locations.setdefault(frame, len(locations) + 1)) for frame in reversed(stack))
        label = field(3, field(1, text("comm")) + field(2, text(comm)))
        out.append(field(2, field(1, ids) + field(2, varint(count)) + label))
    for (name, address), number in locations.items():
        file = files.setdefault(name, len(files) + 1)
        out.append(field(4, field(1, number) + field(2, file) + field(3, address % (1 << 64))))
    for name, number in files.items():
        build = text(hashlib.sha1(name.encode()).hexdigest())
        out.append(field(3, field(1, number) + field(5, text(name)) + field(6, build)))
    out += [field(6, value.encode()) for value in strings]
    return b"".join(out)


def thin(samples: list[Sample], hz: int) -> list[Sample]:
    """Every n-th sample, as a lower rate would have taken."""
    return samples[:: max(1, round(HZ / hz))]


def bytes_per_sample(samples: list[Sample], hz: int) -> dict[str, float]:
    """Of each format, over the first half of the capture as a window of ours, and the second as the next one."""
    middle = samples[0].second + SECONDS / 2
    thinned = thin(samples, hz)
    first = [sample for sample in thinned if sample.second < middle]
    second = [sample for sample in thinned if sample.second >= middle]
    batcher = Batcher(node="bench", epoch=os.urandom(16))
    windows = {"fresh": window(first, 0), "next": window(second, 1), "steady": window(first, 2)}
    sizes = {name: (size(batcher, entry), entry.taken) for name, entry in windows.items()}
    profile = pprof(first)
    result = {
        "pprof, gzip": len(gzip.compress(profile)) / len(first),
        "pprof, zstd": len(zstandard.compress(profile, 3)) / len(first),
    }
    return result | {f"ours, {name}": size / taken for name, (size, taken) in sizes.items()}


def size(batcher: Batcher, entry: NormalizedWindow) -> int:
    """Bytes of the window's messages."""
    return sum(len(message.payload) for message in batcher.messages(entry))


def seconds(action: Callable[[], object]) -> float:
    """The best of ten."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def speeds(samples: list[Sample]) -> list[str]:
    """What a window costs to batch, encode and decode."""
    entry = window(samples, 0)
    batch = Batcher(node="bench", epoch=bytes(16))
    payloads = [message.payload for message in batch.messages(entry)]
    batches = [wire.decode(payload) for payload in payloads]
    rows = sum(len(one.sample_count) for one in batches)
    fresh = seconds(lambda: Batcher(node="bench", epoch=bytes(16)).messages(entry))
    steady = seconds(lambda: batch.messages(entry))
    encode = seconds(lambda: [wire.encode(one) for one in batches])
    decode = seconds(lambda: [wire.decode(payload) for payload in payloads])
    raw = b"".join(map(wire.serialize, batches))
    levels = [f"{level}: {packing(raw, level, len(samples))}" for level in (1, 3, 6, 9)]
    return [
        f"A window of {len(samples):,} samples, {rows:,} rows, {len(entry.stacks):,} stacks,"
        f" {len(entry.stacks.mapping):,} frames: batched in {fresh * 1e3:.1f} ms when all stacks are new and"
        f" {steady * 1e3:.1f} ms when none is; encoded in {encode * 1e3:.1f} ms, decoded and checked in"
        f" {decode * 1e3:.1f} ms ({rows / decode / 1e6:.1f} M rows/s).",
        f"zstd levels, bytes a sample and time: {'; '.join(levels)}.",
    ]


def packing(raw: bytes, level: int, samples: int) -> str:
    """Bytes a sample and milliseconds at one level of zstd."""
    compressor = zstandard.ZstdCompressor(level=level)
    packed = len(compressor.compress(raw))
    return f"{packed / samples:.2f} B, {seconds(lambda: compressor.compress(raw)) * 1e3:.1f} ms"


def table(results: dict[int, list[dict[str, float]]]) -> Iterable[str]:
    """One line a format, one column a rate: median (range), and the ratio to perf.data at the capture's rate."""
    formats = list(results[HZ][0])
    perf = statistics.median(result["perf.data, zstd"] for result in results[HZ])
    yield "| format | " + " | ".join(f"{rate} Hz, B/sample" for rate in results) + f" | ratio at {HZ} Hz |"
    yield "| --- |" + " --- |" * (len(results) + 1)
    for name in formats:
        cells = []
        for found in results.values():
            values = [result[name] for result in found if name in result]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "")
        ratio = statistics.median(result[name] for result in results[HZ]) / perf
        yield f"| {name} | {' | '.join(cells)} | {ratio:.2f} |"


def main() -> None:
    """Prints the tables."""
    if shutil.which("perf") is None:
        sys.exit("perf is not installed")
    results: dict[int, list[dict[str, float]]] = {rate: [] for rate in RATES}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            data, samples = capture(Path(folder))
            raw = data.read_bytes()
        for rate in RATES:
            result = bytes_per_sample(samples, rate)
            if rate == HZ:
                of_perf = {"perf.data": len(raw), "perf.data, zstd": len(zstandard.compress(raw, 3))}
                result = {name: value / len(samples) for name, value in of_perf.items()} | result
            results[rate].append(result)
    stacks = {sample.stack for sample in samples}
    depth = sum(map(len, stacks)) / len(stacks)
    print(
        f"{ROUNDS} captures of {SECONDS} s at {HZ} Hz; the last has {len(samples):,} samples and {len(stacks):,}"
        f" distinct stacks of {depth:.1f} frames. Medians (range). Ratio: to perf.data as zstd packs it.\n"
    )
    print("\n".join(table(results)))
    print(
        "\nTarget: 8 bytes a sample at most when fresh, 2 when steady. At low rates labels are most of what travels.\n"
    )
    print("\n\n".join(speeds(samples)))


if __name__ == "__main__":
    main()
