"""Programs that keep a CPU busy until they are killed, one for each way in which stacks are hard to walk."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CPLUSPLUS = r"""
#include <algorithm>
#include <memory>
#include <vector>
struct Node { virtual ~Node() = default; virtual unsigned visit(unsigned n) = 0; };
struct Leaf : Node {
	unsigned visit(unsigned n) override { for (int i = 0; i < 40; i++) n = n * 1664525 + 7; return n; }
};
struct Pair : Node {
	std::unique_ptr<Node> a, b;
	unsigned visit(unsigned n) override { unsigned m = a->visit(n); return b->visit(m) ^ m; }
};
static std::unique_ptr<Node> grow(int depth)
{
	if (!depth) return std::make_unique<Leaf>();
	auto pair = std::make_unique<Pair>();
	pair->a = grow(depth - 1);
	pair->b = grow(depth - 1);
	return pair;
}
__attribute__((noinline)) static unsigned sorts(unsigned seed)
{
	std::vector<unsigned> values(100000);
	for (auto &value : values) value = seed = seed * 1664525 + 1013904223;
	std::sort(values.begin(), values.end(), [](unsigned a, unsigned b) { return (a >> 3) < (b >> 3); });
	return values[7];
}
int main() { auto tree = grow(12); for (unsigned n = 1; n;) n = (tree->visit(n) + sorts(n)) | 1; }
"""

RUST = r"""
use std::collections::HashMap;
#[inline(never)] fn fib(n: u32) -> u64 { if n < 2 { n as u64 } else { fib(n - 1) + fib(n - 2) } }
#[inline(never)] fn words(n: usize) -> u64 {
    let mut m: HashMap<String, u64> = HashMap::new();
    for i in 0..n { *m.entry(format!("k{}", i % 977)).or_insert(0) += i as u64; }
    m.values().sum()
}
#[inline(never)] fn sorts(n: u64) -> u64 {
    let mut v: Vec<u64> = (0..n).map(|x| x.wrapping_mul(6364136223846793005) >> 7).collect();
    v.sort_by(|a, b| a.cmp(b));
    v[7]
}
fn main() {
    let mut t = 0u64;
    while t != 1 { t = t.wrapping_add(fib(22)).wrapping_add(words(20000)).wrapping_add(sorts(30000)); }
}
"""

PYTHON = r"""
import json
tree = {str(i): [i, {"n": i * 2}] for i in range(300)}
while True:
    text = json.dumps(tree)
    json.loads(text)
    sorted(text.split(","), key=lambda part: part[::-1])
"""

NODE = r"""
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
function words(n) { const m = new Map(); for (let i = 0; i < n; i++) m.set('k' + i % 977, i); return m.size; }
function sorts(n) {
    const v = [];
    for (let i = 0; i < n; i++) v.push(i * 7919 % 10007);
    return v.sort((a, b) => a - b)[7];
}
for (let t = 1; t;) t += fib(20) + words(20000) + sorts(20000) + JSON.stringify(process.memoryUsage()).length;
"""

JAVA = r"""
import java.util.*;
public class Busy {
    static long fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
    static long words(int n) {
        Map<String, Integer> m = new HashMap<>();
        for (int i = 0; i < n; i++) m.merge("k" + i % 977, i, Integer::sum);
        return m.size();
    }
    public static void main(String[] args) { long t = 1; while (t != 0) t += fib(24) + words(20000); }
}
"""


@dataclass(frozen=True)
class Workload:
    """A program that runs until it is killed. `command[0]` is a link whose name is the process's name."""

    name: str
    command: tuple[str, ...]


def linked(work: Path, name: str, program: str) -> str:
    """A link to `program` in `work`, under which the process is called `name`."""
    link = work / name
    link.symlink_to(Path(program).resolve())
    return str(link)


def compiled(work: Path, name: str, text: str, command: tuple[str, ...]) -> str:
    """The program made of `text`, written to `work`."""
    source, binary = work / f"{name}-source", work / name
    source.write_text(text)
    subprocess.run([*command, "-o", str(binary), str(source)], check=True, stdout=subprocess.DEVNULL)
    return str(binary)


def lines_to_sort(work: Path) -> str:
    """A file of three million numbers."""
    path = work / "lines"
    value = 1
    with path.open("w") as out:
        for _ in range(3_000_000):
            value = value * 1664525 + 1013904223 & 0xFFFFFFFF
            out.write(f"{value / 7:.3f}\n")
    return str(path)


def large_files() -> list[str]:
    """Some hundred MB of the machine's shared libraries."""
    found = {path.resolve() for path in Path("/usr/lib/x86_64-linux-gnu").glob("*.so*") if path.is_file()}
    return [str(path) for path in sorted(found, key=lambda path: -path.stat().st_size)[:8]]


def workloads(work: Path) -> tuple[list[Workload], list[str]]:
    """(those whose programs are installed, the names of the others)."""
    found: list[Workload] = []
    missing: list[str] = []

    def add(name: str, needs: str, *arguments: str) -> None:
        if shutil.which(needs):
            found.append(Workload(name, (linked(work, f"fid-{needs}", shutil.which(needs) or needs), *arguments)))
        else:
            missing.append(name)

    flags = ("g++", "-x", "c++", "-O2", "-fomit-frame-pointer")
    found.append(Workload("C++ -O2", (compiled(work, "fid-cpp", CPLUSPLUS, flags),)))
    if shutil.which("rustc"):
        flags = ("rustc", "-O", "-C", "force-frame-pointers=no")
        found.append(Workload("Rust -O", (compiled(work, "fid-rust", RUST, flags),)))
    else:
        missing.append("Rust -O")
    (work / "busy.py").write_text(PYTHON)
    (work / "busy.js").write_text(NODE)
    (work / "Busy.java").write_text(JAVA)
    add("xz, stripped", "xz", "-9", "-c", "-k", *large_files())
    add("sort, stripped", "sort", "--parallel=1", "-V", lines_to_sort(work))
    if Path("/usr/bin/python3").exists():
        found.append(
            Workload("CPython", (linked(work, "fid-python", "/usr/bin/python3"), "-I", "-S", str(work / "busy.py")))
        )
    else:
        missing.append("CPython")
    add("node, maps on", "node", "--perf-basic-prof", "--interpreted-frames-native-stack", str(work / "busy.js"))
    add("java, frame pointers on", "java", "-XX:+PreserveFramePointer", str(work / "Busy.java"))
    return found, missing


def start(workload: Workload) -> subprocess.Popen[bytes]:
    """The workload, running."""
    folder = Path(workload.command[0]).parent
    return subprocess.Popen(workload.command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kills and reaps."""
    for process in processes:
        process.kill()
        process.wait()
