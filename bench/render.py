"""SVG from folded text, beside `pyinferno` (and `flamegraph.pl`, if it is on PATH); and pictures in a browser.

Every contender gets the same text in memory (pyinferno already split into lines, as it wants it) and gives an SVG.
Frames below the same width are left out, so that the frames drawn are the same, which is checked by name and count.
Text is made here, from a fixed seed: 252,000 distinct stacks of 5 to 15 frames, about a million nodes, as a collapser
writes them (sorted), and shuffled. Rounds interleave the contenders; figures are medians of processor time, which a
busy machine disturbs less than the clock, and the wall clock beside it.
"""

import html
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyinferno

from aggregator.foldedtext import parse
from aggregator.render import html as html_form
from aggregator.render import svg
from aggregator.render.picture import Options
from tests.support import browser as chromium

LINES = 252_000
ROUNDS = 7
FRAMES = (10_000, 100_000, 1_000_000)
MIN_SHARE = 0.0001
"""Below this share of the width pyinferno leaves frames out: its default of 0.01 %."""

_WORDS = re.findall(
    r"\S+",
    """
    alloc buf cache copy do_ read write tcp_ skb_ ext4_ page lock poll handle_ request parse json next sched_ update_
    run main loop thread dispatch encode hash table insert find
    """,
)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one run: processor and wall clock."""

    cpu: float
    wall: float


def make_stacks(lines: int) -> list[str]:
    """`lines` distinct stacks with counts, sorted. Each function calls a few others, some far more often."""
    pick = random.Random(5)
    endings = ["", "_locked", "_slow", "64", "_impl"]
    pool = ["".join(pick.choices(_WORDS, k=2)) + pick.choice(endings) for _ in range(6000)]
    callees: dict[str, list[str]] = {}
    counted: dict[str, int] = {}
    while len(counted) < lines:
        stack = [f"app{pick.randint(0, 20)}"]
        for _ in range(pick.randint(4, 14)):
            found = callees.setdefault(stack[-1], [])
            if not found:
                found.extend(pick.choices(pool, k=pick.randint(2, 12)))
            stack.append(found[min(int(pick.expovariate(0.45)), len(found) - 1)])
        key = ";".join(stack)
        counted[key] = counted.get(key, 0) + pick.randint(1, 9)
    return sorted(f"{stack} {count}" for stack, count in counted.items())


def spent(work: Callable[[], object]) -> Spent:
    """What one run took, in this process or in its children."""
    cpu, wall = _cpu(), time.perf_counter()
    work()
    return Spent(_cpu() - cpu, time.perf_counter() - wall)


def _cpu() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def ours(text: bytes) -> bytes:
    """Text to SVG, with the same limit as pyinferno's."""
    options = Options(min_width=MIN_SHARE * (1200 - 2 * svg.PAD))
    return svg.render(parse(text).folded, options)


def frames(picture: str) -> Counter[tuple[str, int]]:
    """Names and counts of the frames drawn, from their titles."""
    found: Counter[tuple[str, int]] = Counter()
    for title in re.findall(r"<title>([^<]*)</title><rect", picture):
        name, count = re.fullmatch(r"(.*?)(?: \(|\n.*?, )([\d,]+) samples?.*", html.unescape(title), re.DOTALL).groups()  # type: ignore[union-attr]
        found[name, int(count.replace(",", ""))] += 1
    return found


def compare(lines: list[str], label: str) -> None:
    """One table row for each contender."""
    text = "".join(f"{line}\n" for line in lines).encode()
    size = len(text) / 1e6
    contenders: dict[str, Callable[[], object]] = {
        "fleetflame": lambda: ours(text),
        "pyinferno": lambda: pyinferno.flamegraph_from_lines(lines, "x"),
    }
    script = shutil.which("flamegraph.pl") or shutil.which("flamegraph")
    if script:
        contenders["flamegraph.pl"] = lambda: subprocess.run([script], input=text, capture_output=True, check=True)
    same = frames(ours(text).decode()) == frames(pyinferno.flamegraph_from_lines(lines, "x"))
    runs: dict[str, list[Spent]] = {name: [] for name in contenders}
    for round_ in range(ROUNDS):
        for name, work in contenders.items():
            if name == "flamegraph.pl" and round_ >= 2:
                continue
            print(f"render: {label}, round {round_ + 1}, {name}", file=sys.stderr)
            runs[name].append(spent(work))
    base = statistics.median(run.cpu for run in runs["fleetflame"])
    for name, taken in runs.items():
        cpu, wall = (statistics.median(column) for column in zip(*((run.cpu, run.wall) for run in taken), strict=True))
        spread = f"{min(run.cpu for run in taken):.3f} to {max(run.cpu for run in taken):.3f}"
        cells = (f"{label}, {size:.0f} MB", name, f"{cpu:.3f}", spread, f"{wall:.3f}", f"{size / cpu:.0f}")
        print(f"| {' | '.join(cells)} | {cpu / base:.2f} |")
    note = "the same frames, by name and count" if same else "**not the same frames**"
    print(f"\n{label}: fleetflame and pyinferno draw {note}.\n", file=sys.stderr)
    assert same, "the pictures differ"


def in_browser(text: bytes) -> None:
    """Opening and zooming HTML pictures of growing size."""
    folded = parse(text).folded
    print(
        "\n| frames | file | first paint | ready | zoom (median of 8) | search |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder, chromium.browser() as page:
        for frame_count in FRAMES:
            path = Path(folder) / f"{frame_count}.html"
            path.write_bytes(html_form.render(folded, Options(max_frames=frame_count)))
            begun = time.perf_counter()
            page.open(path)
            while not page.run("document.documentElement.dataset.ready"):
                time.sleep(0.005)
            ready = 1000 * (time.perf_counter() - begun)
            drawn = page.run("JSON.parse(document.getElementById('data').textContent).levels.at(-1)")
            paint = page.run("performance.getEntriesByType('paint')[0]?.startTime")
            zooms = page.run(_ZOOM)
            search = page.run(_SEARCH)
            size = path.stat().st_size / 1000
            print(
                f"| {drawn:,} | {size:,.0f} kB | {paint:.0f} ms | {ready:.0f} ms | {statistics.median(zooms):.0f} ms"
                f" | {search:.0f} ms |"
            )


# A click is drawn at once (no animation is asked for), and reading a pixel back waits until it has been.
_ZOOM = """(() => {
  const canvas = document.getElementById('canvas'), box = canvas.getBoundingClientRect(), taken = [];
  for (let step = 0; step < 8; step++) {
    const from = performance.now(), level = step % 4;
    const place = {clientX: box.left + box.width * 0.4, clientY: box.bottom - 9 - 18 * level};
    canvas.dispatchEvent(new MouseEvent('click', place));
    canvas.getContext('2d').getImageData(0, 0, 1, 1);
    taken.push(performance.now() - from);
  }
  return taken;
})()"""
_SEARCH = """(() => {
  const input = document.getElementById('search'), from = performance.now();
  input.value = 'json|read';
  input.dispatchEvent(new Event('input'));
  document.getElementById('canvas').getContext('2d').getImageData(0, 0, 1, 1);
  return performance.now() - from;
})()"""


def _heading(*cells: str) -> None:
    print(f"\n| {' | '.join(cells)} |\n|{' --- |' * len(cells)}")


def main() -> None:
    """Prints the section for RESULTS.md."""
    print(f"render: making {LINES:,} stacks", file=sys.stderr)
    lines = make_stacks(LINES)
    shuffled = list(lines)
    random.Random(1).shuffle(shuffled)
    print(
        f"SVG from {LINES:,} lines of folded text, medians of {ROUNDS} rounds, interleaved; the frames drawn are equal."
    )
    _heading("input", "tool", "CPU s", "spread", "wall s", "MB/s of CPU", "time / ours")
    compare(lines, "sorted")
    compare(shuffled, "shuffled")
    if not shutil.which("flamegraph.pl"):
        print("\n`flamegraph.pl` is not on PATH: not measured.")
    if chromium.PROGRAM:
        in_browser("".join(f"{line}\n" for line in lines).encode())
    else:
        print("\nNo Chromium here: pictures were not opened.")


if __name__ == "__main__":
    main()
