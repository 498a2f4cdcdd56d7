"""From a tick of the sampling clock to the answer of a query: a whole fleetflame on this machine.

    python -m bench.latency [--programs 120] [--frequency 99]

Programs of 50 ms start at random moments of the window, each under a name of its own, while the same query is asked ten
times a second. The delay of a program is the time from its start to the end of the first answer that has it: never
less than what its first sample took, and at most the program's 50 ms and a tenth of a second more. There is no peer:
what has windows cannot be faster than half of one on average, and no other profiler states a figure.
"""

import argparse
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

WINDOW_S = 10
EVERY_S = 0.1
PAUSE_S = (0.4, 1.6)
PATIENCE_S = 30
PREFIX = f"tick{os.getpid() % 1000}-"
QUERY = {"query": f'cpu{{comm=~"{PREFIX}.*"}}', "from": "-5m", "format": "folded"}

SOURCE = r"""
#include <time.h>
static volatile unsigned long sink;
int main(void)
{
	struct timespec t;
	do { for (long i = 0; i < 20000; i++) sink += i; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); }
	while (t.tv_nsec < 50000000 && !t.tv_sec);
	return 0;
}
"""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str) -> set[str]:
    """The programs that the answer to the query has; none while there is no answer."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/profile?{urllib.parse.urlencode(QUERY)}", timeout=10) as answer:
            return {line.partition(";")[0].partition(" ")[0] for line in answer.read().decode().splitlines()}
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return set()


def start_programs(binary: Path, count: int, started: dict[str, float]) -> None:
    """One after the other, at random moments; notes when each began."""
    for number in range(count):
        name = f"{PREFIX}{number}"
        program = binary.with_name(name)
        os.link(binary, program)
        started[name] = time.monotonic()
        subprocess.run([program], check=True)
        time.sleep(random.uniform(*PAUSE_S))


def measure(url: str, binary: Path, count: int) -> tuple[list[float], int]:
    """(seconds from start to answer of each program that was sampled, programs that no answer had)."""
    started: dict[str, float] = {}
    answered: dict[str, float] = {}
    thread = threading.Thread(target=start_programs, args=(binary, count, started))
    thread.start()
    end = None
    while end is None or (time.monotonic() < end and len(answered) < count):
        asked = time.monotonic()
        found = ask(url)
        now = time.monotonic()
        for name in found:
            answered.setdefault(name, now)
        if end is None and not thread.is_alive():
            end = time.monotonic() + PATIENCE_S
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - asked)))
    thread.join()
    return sorted(answered[name] - started[name] for name in answered), count - len(answered)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=int, default=120)
    parser.add_argument("--frequency", type=int, default=99)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "tick.c").write_text(SOURCE)
        subprocess.run(["gcc", "-O0", "-o", work / "tick", work / "tick.c"], check=True)
        address = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "cli.main", "up", "--http", address, "--data", str(work / "data")]
        up = subprocess.Popen(
            [*command, "--frequency", str(options.frequency)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(3 * WINDOW_S)
            delays, missed = measure(f"http://{address}", work / "tick", options.programs)
        finally:
            up.send_signal(signal.SIGINT)
            up.wait()
    cuts = statistics.quantiles(delays, n=100, method="inclusive")
    print("| programs | asked for at | not sampled | median, s | p99, s | longest, s | window + 2 s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {len(delays)} | {1 / EVERY_S:.0f} Hz | {missed} | {cuts[49]:.1f} | {cuts[98]:.1f} | {delays[-1]:.1f} |"
        f" {WINDOW_S + 2} |"
    )
    print(f"\nWindows of {WINDOW_S} s, {options.frequency} Hz; the delay includes waiting for the window's end.")


if __name__ == "__main__":
    main()
