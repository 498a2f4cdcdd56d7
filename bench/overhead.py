"""What sampling costs the machine: fleetflame's agent beside perf record, bpftrace and bcc's profile.

Three questions, each sampler alone and in turn (A/B/A/B), so that drift hits all alike:

    1. CPU time that the sampler itself uses, per wall second, at 99 Hz with both cores busy; and ours at 19 Hz
    2. microseconds that one sample takes from a victim, as the slope at 10 kHz on a pinned, fixed amount of work
    3. samples kept / (frequency x busy seconds), and resident memory
"""

import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECONDS = 15
ROUNDS = 2
TICKS = os.sysconf("SC_CLK_TCK")

VICTIM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static volatile unsigned long sink;
__attribute__((noinline)) static void leaf(long n) { for (long i = 0; i < n; i++) sink += i * i; }
__attribute__((noinline)) static void deep(int depth, long n) { if (depth) deep(depth - 1, n); else leaf(n); sink++; }
int main(int argc, char **argv)
{
	long rounds = atol(argv[1]);
	struct timespec a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (long i = 0; i < rounds; i++) deep(30, 100000);
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%.6f\n", (b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) / 1e9);
	return 0;
}
"""


@dataclass(frozen=True)
class Peer:
    """A sampler as a command; {hz} is replaced. `settle` is how long it takes to start sampling, in seconds."""

    name: str
    command: tuple[str, ...]
    settle: float


def peers(work: Path) -> list[Peer]:
    """The samplers that are installed, ours first."""
    agent = (sys.executable, "-m", "cli.main", "agent", "--nats", "{nats}", "--node", "bench", "--frequency", "{hz}")
    # Its first half minute goes into unwind tables, once; what it costs after that is asked here.
    found = [Peer("fleetflame agent", agent, 30)]
    if shutil.which("perf"):
        perf = ("perf", "record", "-q", "-F", "{hz}", "-a", "-g", "-e", "cpu-clock", "-o", str(work / "perf.data"))
        found.append(Peer("perf record -g", perf, 2))
    if shutil.which("bpftrace"):
        script = "profile:hz:{hz} {{ @[ustack, kstack, pid] = count(); }}"
        found.append(Peer("bpftrace", ("bpftrace", "-o", str(work / "bpftrace.out"), "-e", script), 6))
    if shutil.which("profile-bpfcc"):
        # Its stacks stay in the kernel until it ends, and are counted there as ours are. What it prints is thrown away.
        found.append(Peer("bcc profile", ("profile-bpfcc", "-F", "{hz}", "-f", "-a", "3600"), 8))
    return found


@contextlib.contextmanager
def bus(work: Path) -> Iterator[str]:
    """A nats-server of our own for the agent."""
    port = 14400 + os.getpid() % 500
    binary = Path(sys.executable).with_name("nats-server")
    server = subprocess.Popen(
        [str(binary), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(work / "js")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(1)
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def running(peer: Peer, hz: int, nats: str) -> Iterator[int]:
    """The sampler, sampling; gives its PID."""
    command = [part.format(hz=hz, nats=nats) for part in peer.command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(peer.settle)
    if process.poll() is not None:
        raise RuntimeError(f"{peer.name} ended with exit code {process.returncode}")
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[i]) for i in (11, 12, 13, 14)) / TICKS


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


@contextlib.contextmanager
def busy(binary: Path) -> Iterator[None]:
    """One victim on each CPU."""
    victims = [
        subprocess.Popen(["taskset", "-c", str(cpu), str(binary), "1000000000"], stdout=subprocess.DEVNULL)
        for cpu in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for victim in victims:
            victim.kill()
            victim.wait()


def starting(found: list[Peer], nats: str) -> tuple[list[Peer], list[str]]:
    """(those that start on this machine, the names of the others)."""
    able, refused = [], []
    for peer in found:
        try:
            with running(peer, 99, nats):
                able.append(peer)
        except RuntimeError:
            refused.append(peer.name)
    return able, refused


def measure_cpu(found: list[Peer], binary: Path, nats: str, hz: int = 99) -> dict[str, tuple[list[float], float]]:
    """Peer -> CPU milliseconds per wall second, one a round, and resident MiB at the end."""
    results: dict[str, tuple[list[float], float]] = {peer.name: ([], 0.0) for peer in found}
    for _ in range(ROUNDS):
        for peer in found:
            with busy(binary), running(peer, hz, nats) as pid:
                before, start = cpu_seconds(pid), time.monotonic()
                time.sleep(SECONDS)
                spent = (cpu_seconds(pid) - before) / (time.monotonic() - start)
                values, _ = results[peer.name]
                values.append(spent * 1000)
                results[peer.name] = (values, resident_mib(pid))
    return results


def measure_slope(found: list[Peer], binary: Path, nats: str) -> dict[str, list[float]]:
    """Peer -> microseconds that a sample takes from the victim, one a round."""
    hz, rounds = 10_000, 12_000
    last = (os.cpu_count() or 1) - 1

    def victim() -> float:
        command = ["taskset", "-c", str(last), str(binary), str(rounds)]
        return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    results: dict[str, list[float]] = {peer.name: [] for peer in found}
    for _ in range(ROUNDS):
        for peer in found:
            alone = victim()
            with running(peer, hz, nats):
                sampled = victim()
            results[peer.name].append((sampled - alone) / (sampled * hz) * 1e6)
    return results


def measure_kept(binary: Path) -> tuple[float, int]:
    """Share of frequency x CPU seconds that arrives as samples, and the samples counted as lost, at 99 Hz."""
    from agent.loader import LoadOptions
    from agent.sampler import Sampler

    options = LoadOptions(
        counts_entries=16384, stack_entries=8192, id_stack_entries=1024, process_entries=16384, per_thread=False
    )
    sampler = Sampler(options, frequency=99)
    victim = subprocess.Popen(["taskset", "-c", "0", str(binary), "60000"], stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(victim.pid, 0)
    victim.returncode = 0
    sampler.stop()
    window = sampler.take()
    sampler.close()
    mine = int(window.counts["count"][window.counts["tgid"] == victim.pid].sum())
    return mine / ((usage.ru_utime + usage.ru_stime) * 99), sum(window.lost.values())


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratio(ours: float, theirs: list[float]) -> str:
    """Ours by the median of theirs; a sampler that prints at its end only may use less than a tick of CPU time."""
    median = statistics.median(theirs)
    return f"{ours / median:.2f}" if median > 0 else "-"


def main() -> None:
    """Prints the three tables."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source, binary = work / "victim.c", work / "victim"
        source.write_text(VICTIM)
        subprocess.run(["gcc", "-O1", "-fno-omit-frame-pointer", "-o", binary, source], check=True)
        found = peers(work)
        with bus(work) as nats:
            found, refused = starting(found, nats)
            cpu = measure_cpu(found, binary, nats)
            slope = measure_slope(found, binary, nats)
            slow = measure_cpu(found[:1], binary, nats, hz=19)[found[0].name][0]
        kept, lost = measure_kept(binary)
    print(f"Medians of {ROUNDS} rounds (range), each sampler alone and in turn.\n")
    print("| sampler | CPU at 99 Hz, both cores busy, ms/s | ratio | resident MiB | µs per sample at 10 kHz | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    ours, our_slope = statistics.median(cpu[found[0].name][0]), statistics.median(slope[found[0].name])
    for peer in found:
        values, memory = cpu[peer.name]
        print(
            f"| {peer.name} | {spread(values)} | {ratio(ours, values)} | {memory:.0f} | "
            f"{spread(slope[peer.name])} | {ratio(our_slope, slope[peer.name])} |"
        )
    print("\nRatio: ours / theirs; below 1 we cost less. Memory is the sampling process's, without kernel maps.")
    if refused:
        print(f"\nDid not start here: {', '.join(refused)} (bcc's own tools want the kernel's headers).")
    machine = statistics.median(slow) / 10 / (os.cpu_count() or 1)
    print(f"\nAt 19 Hz the agent uses {spread(slow)} ms/s, which is {machine:.2f} % of the machine.")
    print(f"\nSamples kept / (99 Hz x CPU seconds of a victim): {kept:.2%}; lost and counted: {lost}.")


if __name__ == "__main__":
    main()
