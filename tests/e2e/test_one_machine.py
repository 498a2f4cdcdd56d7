"""What a new user sees on one machine: real samples of real programs, from the kernel to folded text."""

import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.fleet import COMMAND, Fleet
from tests.support.workloads import INLINED, NESTED, SEVENTY_THIRTY, SHORT, SYSCALLS, compile_c

pytestmark = [pytest.mark.e2e, pytest.mark.bpf, pytest.mark.nats, pytest.mark.timeout(300)]

FREQUENCY = 499
VISIBLE_S = 40
"""Two windows of 10 s, and room for a machine that is busy with other tests."""
NAMED_S = 10


def run_for_cpu_time(*command: object) -> float:
    """Runs to the end; CPU seconds used."""
    child = subprocess.Popen([str(part) for part in command])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime


def settled(fleet: Fleet, selector: str, *options: str) -> Counter[str]:
    """Folded stacks of a program that has ended: all its windows were stored, and its symbols had time to arrive."""
    ended = time.time()
    fleet.wait_until(lambda: fleet.stored_until() > ended, VISIBLE_S)
    folded = fleet.folded(selector, *options)
    end = time.monotonic() + NAMED_S
    while time.monotonic() < end and any(is_unnamed(stack) for stack in folded):
        time.sleep(2)
        folded = fleet.folded(selector, *options)
    assert folded, f"no sample of {selector}"
    return folded


def is_unnamed(stack: str) -> bool:
    """Whether a frame has an address or a placeholder for a name. A stack that says where it ends has all its names."""
    return any(frame.startswith("[") and not frame.startswith("[truncated:") for frame in stack.split(";"))


def share(folded: dict[str, int], function: str) -> float:
    total = sum(folded.values())
    return sum(count for stack, count in folded.items() if f";{function};" in f"{stack};") / total


def test_hot_functions_have_their_shares_and_counts_agree_with_cpu_time(fleet: Fleet, bin_folder: Path) -> None:
    """70 and 30 %, within 3 points, down to main; samples = CPU time x frequency, within 3 %."""
    binary = compile_c(SEVENTY_THIRTY, bin_folder / "seventy-thirty")
    used = run_for_cpu_time(binary, 12)
    folded = settled(fleet, 'cpu{comm="seventy-thirty"}')
    hottest = max(folded, key=lambda stack: folded[stack])
    assert ";hot_seventy" in hottest
    assert share(folded, "hot_seventy") == pytest.approx(0.70, abs=0.03)
    assert share(folded, "warm_thirty") == pytest.approx(0.30, abs=0.03)
    assert sum(folded.values()) == pytest.approx(used * FREQUENCY, rel=0.03)
    rooted = [stack for stack in folded if stack.startswith("seventy-thirty;") and ";main;" in stack]
    assert sum(folded[stack] for stack in rooted) >= 0.99 * sum(folded.values())
    assert hottest.index(";main;") < hottest.index(";hot_seventy;") < hottest.index(";spin")


def test_processes_of_fifty_milliseconds_keep_their_names(fleet: Fleet, bin_folder: Path) -> None:
    """The sampled stacks of programs that are gone before anybody looks are named down to main."""
    # A name of its own, as every process of the machine is sampled, another run of this test included.
    name = f"fifty-{os.getpid() % 100_000}"
    binary = compile_c(SHORT, bin_folder / name)
    used = sum(run_for_cpu_time(binary) for _ in range(100))
    folded = settled(fleet, f'cpu{{comm="{name}"}}')
    total = sum(folded.values())
    assert total == pytest.approx(used * FREQUENCY, rel=0.05)
    user = {stack: count for stack, count in folded.items() if "brief_work" in stack or ";main" in stack}
    # What is not inside main is the dynamic loader and the kernel's exec and exit: named too, by their own symbols.
    unnamed = sum(count for stack, count in folded.items() if is_unnamed(stack))
    assert unnamed <= 0.01 * total, {stack: count for stack, count in folded.items() if is_unnamed(stack)}
    assert sum(user.values()) > 0.5 * total


def test_kernel_frames_stand_below_the_programs_own(fleet: Fleet, bin_folder: Path) -> None:
    """A system call's frames follow the function that made it, and --no-kernel leaves them out, samples kept."""
    binary = compile_c(SYSCALLS, bin_folder / "sys-heavy")
    subprocess.run([binary, "5"], check=True)
    selector = 'cpu{comm="sys-heavy"}'
    folded = settled(fleet, selector)
    mixed = [stack for stack in folded if ";read_zeroes;" in stack and stack.endswith("_[k]")]
    assert sum(folded[stack] for stack in mixed) > 0.5 * sum(folded.values())
    without = fleet.folded(selector, "--no-kernel")
    assert not [stack for stack in without if "_[k]" in stack]
    assert sum(without.values()) == sum(folded.values())


def test_stacks_are_whole_without_frame_pointers(fleet: Fleet, bin_folder: Path) -> None:
    """Optimized code as distributions ship it, from the innermost call to _start, through libc and the vDSO."""
    flags = ("-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls")
    first = compile_c(NESTED, bin_folder / "nested-first", *flags)
    subprocess.run([first, "5"], check=True)  # meanwhile its tables are made
    again = bin_folder / "nested-again"
    os.link(first, again)
    subprocess.run([again, "5"], check=True)
    folded = settled(fleet, 'cpu{comm="nested-again"}', "--no-kernel")
    total = sum(folded.values())
    below_main = {stack: count for stack, count in folded.items() if ";innermost" in stack}
    assert sum(below_main.values()) > 0.9 * total
    wanted = ";".join(["main", *["nested"] * 9, "innermost"])
    whole = sum(count for stack, count in below_main.items() if ";_start;" in stack and wanted in stack)
    assert whole >= 0.99 * sum(below_main.values()), below_main


def test_two_nodes_merge_by_function_and_split_by_node(fleet: Fleet, bin_folder: Path) -> None:
    """Two agents feed one aggregator: each function once with the sum, and apart with --by node."""
    url = (fleet.folder / "data" / "bus" / "url").read_text().strip()
    second = subprocess.Popen(
        [*COMMAND, "agent", "--nats", url, "--node", "second", "--frequency", str(FREQUENCY)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(4)
        binary = compile_c(SEVENTY_THIRTY, bin_folder / "two-nodes")
        run_for_cpu_time(binary, 5)
        settled(fleet, 'cpu{comm="two-nodes", node="second"}')
    finally:
        second.terminate()
        assert second.wait(30) == 0
    selector = 'cpu{comm="two-nodes"}'
    merged = settled(fleet, selector)
    split = fleet.folded(selector, "--by", "node")
    roots = {stack.split(";")[0] for stack in split}
    assert len(roots) == 2
    assert "second" in roots
    again: dict[str, int] = {}
    for stack, count in split.items():
        rest = stack.partition(";")[2]
        again[rest] = again.get(rest, 0) + count
    assert again == merged
    assert len(merged) == len(fleet.run("query", selector, "--format", "folded").stdout.splitlines())


def test_late_symbols_rename_history(fleet: Fleet, bin_folder: Path) -> None:
    """A stripped binary shows addresses; its debug file, uploaded later, names the same past range."""
    whole = compile_c(INLINED, bin_folder / "late-whole", "-O2", "-g", "-Wl,--build-id")
    other = compile_c(SEVENTY_THIRTY, bin_folder / "late-other", "-g", "-Wl,--build-id")
    debug, stripped = bin_folder / "late.debug", bin_folder / "late-names"
    subprocess.run(["objcopy", "--only-keep-debug", whole, debug], check=True)
    subprocess.run(["strip", "-o", stripped, whole], check=True)
    start = int(time.time())
    subprocess.run([stripped, "4"], check=True)
    selector = 'cpu{comm="late-names"}'
    settled(fleet, selector)
    span = ("--from", str(start), "--until", str(int(time.time())))
    before = fleet.folded(selector, *span)
    assert any("[late-names+0x" in stack for stack in before), before
    assert not any("outer_loop" in stack for stack in before)

    build_id = (
        subprocess.run(["readelf", "-n", whole], capture_output=True, text=True)
        .stdout.split("Build ID: ")[1]
        .split()[0]
    )
    wrong = fleet.run("symbols", "upload", str(other), "--build-id", build_id, check=False)
    other_id = (
        subprocess.run(["readelf", "-n", other], capture_output=True, text=True)
        .stdout.split("Build ID: ")[1]
        .split()[0]
    )
    assert wrong.returncode == 1
    assert build_id in wrong.stderr
    assert other_id in wrong.stderr

    fleet.run("symbols", "upload", str(debug))
    after = fleet.folded(selector, *span)
    assert sum(after.values()) == sum(before.values())
    assert share(after, "outer_loop") > 0.95
    assert any("inlined_step_[i]" in stack for stack in after)
    lines = fleet.run("query", selector, *span, "--format", "json").stdout
    assert (
        "late-whole.c" in lines
        or "late-whole.c" in fleet.run("query", selector, *span, "--format", "speedscope").stdout
    )


def test_the_ledger_balances_and_survives_a_restart(fleet: Fleet) -> None:
    """taken = stored + lost on every node, and after bus, aggregator and agent were restarted still so."""
    fleet.wait_until(lambda: fleet.status()["balances"], VISIBLE_S)
    stored = sum(node["stored"] for node in fleet.status()["nodes"])
    assert stored > 0
    assert fleet.stop() == 0
    fleet.start()
    fleet.wait_until(lambda: fleet.status()["balances"], VISIBLE_S)
    assert sum(node["stored"] for node in fleet.status()["nodes"]) >= stored
    assert fleet.run("status").returncode == 0


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    """Everything that `up` started is gone when it is, whatever signal ends it politely."""
    fleet = Fleet(tmp_path)
    fleet.start()
    session = str(os.getsid(fleet.pid))
    assert len(_members(session)) >= 4
    assert fleet.stop() == 0
    assert not _members(session)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "up.log"}


def _members(session: str) -> list[str]:
    listing = subprocess.run(["ps", "-o", "pid=,args=", "-s", session], capture_output=True, text=True).stdout
    # A process that has ended stays listed until init has taken note.
    return [line for line in listing.splitlines() if line.strip() and "<defunct>" not in line]
