"""Programs of real runtimes that generate code, and what the agent makes of their samples."""

import contextlib
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent.builds import Builds
from agent.jit.maps import JitMaps
from agent.kernel import Kernel
from agent.loader import LoadOptions
from agent.normalize import NormalizedWindow, Normalizer
from agent.processes import ImageTable
from agent.sampler import Sampler
from fleetflame.model import FrameMiss, MappingKind

OPTIONS = LoadOptions(
    counts_entries=4096, stack_entries=2048, id_stack_entries=512, process_entries=4096, per_thread=False
)

NODE = r"""
class Account { pay(n) { let s = 0; for (let i = 0; i < n; i++) s += interest(i); return s; } }
function interest(i) { let r = 0; for (let k = 1; k < 20; k++) r += Math.sqrt(i * k) % 7; return r; }
function serve(account, until) { let n = 0; while (Date.now() < until) n += account.pay(1000); return n; }
process.stdout.write("ready\n");
serve(new Account(), Date.now() + 1000 * SECONDS);
"""

JAVA = r"""
public class Hot {
    static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
    static long serve(long until) { long s = 0; while (System.currentTimeMillis() < until) s += fib(25); return s; }
    public static void main(String[] a) {
        System.out.println("ready");
        System.out.println(serve(System.currentTimeMillis() + 1000 * Long.parseLong(a[0])));
    }
}
"""


@contextlib.contextmanager
def running(argv: Sequence[str | Path], cwd: Path, *, stdin: IO[str] | None = None) -> Iterator[int]:
    """The program's PID, once it said "ready"; it is killed at the end of the block."""
    with subprocess.Popen(argv, cwd=cwd, stdin=stdin, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            process.kill()
            for left in (f"perf-{process.pid}.map", f".java_pid{process.pid}"):  # a killed JVM leaves its socket
                Path("/tmp", left).unlink(missing_ok=True)


@dataclass
class Watcher:
    """A sampler with all that turns its windows into names."""

    sampler: Sampler
    images: ImageTable
    jit: JitMaps

    def window(self) -> NormalizedWindow:
        """The samples since the last one."""
        label_of = lambda facts, thread: (("pid", str(facts.tgid)),)  # noqa: E731
        return Normalizer(self.images, Kernel(), label_of, jit=self.jit).normalize(self.sampler.take())


@contextlib.contextmanager
def watching(jit: JitMaps) -> Iterator[Watcher]:
    """Samples all of this machine until the end of the block."""
    sampler = Sampler(OPTIONS, frequency=499)
    images = ImageTable(Builds(), on_mapped=lambda image, _snapshot: sampler.set_layout(image))
    stopping = threading.Event()

    def follow() -> None:
        while not stopping.is_set():
            for event in sampler.events(0.05):
                images.apply(event)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield Watcher(sampler, images, jit)
    finally:
        stopping.set()
        thread.join()
        jit.close()
        sampler.close()


def stacks_of(window: NormalizedWindow, pid: int) -> Counter[tuple[str, ...]]:
    """The process's samples by stack, root first: a frame is its name, `[miss]`, or the base name of its file."""
    out: Counter[tuple[str, ...]] = Counter()
    rows = zip(window.row_series.tolist(), window.row_stack.tolist(), window.row_count.tolist(), strict=True)
    for series, stack, count in rows:
        if dict(window.series[series])["pid"] == str(pid):
            part = slice(int(window.stacks.offsets[stack]), int(window.stacks.offsets[stack + 1]))
            pairs = zip(window.stacks.mapping[part].tolist(), window.stacks.address[part].tolist(), strict=True)
            out[tuple(_shown(window, *pair) for pair in pairs)] += count
    return out


def _shown(window: NormalizedWindow, index: int, address: int) -> str:
    mapping = window.mappings[index]
    if mapping.kind is MappingKind.MISS:
        return f"[{FrameMiss(address).name.lower()}]"
    if mapping.kind is MappingKind.JIT:
        return window.named[address].name
    return mapping.path.rpartition("/")[2]
