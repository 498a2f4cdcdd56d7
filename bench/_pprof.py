"""Windows of a made-up fleet as pprof files, one for each node and window, and `go tool pprof` to merge them."""

import gzip
import subprocess
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench._fleet import WINDOW_S, Nodes, Population
from bench.wire import field, varint


class _Encoded:
    """Locations and functions of a population, encoded but for the numbers that differ from file to file."""

    def __init__(self, population: Population) -> None:
        rows = population.rows
        frames = list(zip(population.image.tolist(), rows.address.tolist(), strict=True))
        number = {frame: index + 1 for index, frame in enumerate(dict.fromkeys(frames))}
        names: dict[str, int] = {}
        self.location = [b""]
        self.functions: list[list[int]] = [[]]
        for image, address in number:
            rendered = population.images[image].rendered(address)
            functions = [names.setdefault(name, len(names) + 1) for name in rendered]
            lines = b"".join(field(4, field(1, function)) for function in reversed(functions))
            self.location.append(field(4, field(1, len(self.location)) + field(3, address) + lines))
            self.functions.append(functions)
        self.names = ["", *names]
        ends = rows.offsets.tolist()
        self.stacks = [[number[frame] for frame in frames[ends[i] : ends[i + 1]]] for i in range(len(population))]
        self.ids = [field(1, b"".join(map(varint, reversed(stack)))) for stack in self.stacks]

    def file(self, samples: Sequence[tuple[int, int]]) -> bytes:
        """One file of (stack, count) pairs: each frame and name once, as profilers write it."""
        strings = {"": 0, "samples": 1, "count": 2}
        out = [field(1, field(1, 1) + field(2, 2))]
        used: set[int] = set()
        for stack, count in samples:
            used.update(self.stacks[stack])
            out.append(field(2, self.ids[stack] + field(2, varint(count))))
        out += [self.location[location] for location in used]
        for function in {function for location in used for function in self.functions[location]}:
            name = strings.setdefault(self.names[function], len(strings))
            out.append(field(5, field(1, function) + field(2, name)))
        out += [field(6, text.encode()) for text in strings]
        return gzip.compress(b"".join(out), 1)


def write(folder: Path, nodes: Nodes, start: int, end: int) -> list[Path]:
    """The files of all windows of [start, end)."""
    folder.mkdir(exist_ok=True)
    encoded, files = _Encoded(nodes.population), []
    hours = [start, *range(-(-start // 3600) * 3600, end, 3600), end]
    for since, until in pairwise(hours):
        rows = nodes.sample(since, until)
        order = np.argsort(rows.batch, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(rows.batch[order]) > 0])
        for number, part in enumerate(np.split(order, starts[1:])):
            samples = list(zip(rows.stack[part].tolist(), rows.count[part].tolist(), strict=True))
            path = folder / f"{since}-{number}.pb.gz"
            path.write_bytes(encoded.file(samples))
            files.append(path)
    assert len(files) == nodes.count * (end - start) // WINDOW_S, "one file a node and window"
    return files


def merge(files: Sequence[Path]) -> float:
    """Seconds that `go tool pprof` takes to merge them into one file."""
    target = files[0].parent / "merged"
    command = ["go", "tool", "pprof", "-proto", "-symbolize=none", f"-output={target}", *map(str, files)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    took = time.perf_counter() - started
    assert target.stat().st_size, "it has written something"
    return took
