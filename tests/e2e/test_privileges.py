"""What an agent is allowed: with five capabilities everything works, without two nothing, without the others less."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from agent.privileges import CAPABILITIES
from tests.e2e.test_bad_input import is_one_line_with_a_remedy
from tests.support.fleet import parse_folded
from tests.support.nats import NatsServer
from tests.support.services import Aggregator, Service, agent, run, until
from tests.support.workloads import SYSCALLS, compile_c

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.bpf,
    pytest.mark.nats,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give privileges up one by one"),
]

NOBODY = "65534"
FORBID = (sys.executable, str(Path(__file__).parents[1] / "support" / "forbid.py"))
HIDE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
WORK_S = 5


def without(*names: str) -> tuple[str, ...]:
    """Runs a program as a user who is nobody and has the agent's capabilities but those."""
    held = [each.name.removeprefix("CAP_").lower() for each in CAPABILITIES if each.name not in names]
    sets = ",".join(["-all", *(f"+{name}" for name in held)])
    user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return ("setpriv", *user, f"--inh-caps={sets}", f"--ambient-caps={sets}", f"--bounding-set={sets}")


@pytest.mark.parametrize(
    ("wrapper", "told", "check"),
    [
        pytest.param((*FORBID, "bpf", "ENOSYS"), "the kernel has no bpf()", "bpf", id="no-bpf"),
        pytest.param((*HIDE, "/sys/kernel/btf"), "no BTF", "btf", id="no-btf"),
        pytest.param((*FORBID, "bpf", "EPERM"), "although CAP_BPF and CAP_PERFMON are held", "program", id="seccomp"),
        pytest.param(without("CAP_BPF"), "CAP_BPF is missing", "cap_bpf", id="no-cap-bpf"),
        pytest.param(without("CAP_PERFMON"), "CAP_PERFMON is missing", "cap_perfmon", id="no-cap-perfmon"),
    ],
)
def test_an_agent_that_cannot_sample_says_why_and_ends(
    bus: NatsServer, wrapper: Sequence[str], told: str, check: str
) -> None:
    """In one line with a remedy; the doctor finds the same."""
    done = run("agent", "--nats", bus.url, "--node", "none", wrapper=wrapper)
    assert done.returncode == 1
    assert told in done.stderr
    assert is_one_line_with_a_remedy(done.stderr)
    examined = run("doctor", "--json", wrapper=wrapper)
    assert examined.returncode == 1
    findings = {finding["check"]: finding for finding in json.loads(examined.stdout)}
    assert findings[check]["outcome"] == "failed"
    assert findings[check]["remedy"]
    assert told in findings["program"]["found"]


@pytest.mark.parametrize("error", ["ENOSYS", "EACCES"])
def test_perf_events_that_are_not_to_be_had_are_said(bus: NatsServer, error: str) -> None:
    """They come after the programs: whether they work is found only by trying."""
    done = run("agent", "--nats", bus.url, "--node", "none", wrapper=(*FORBID, "perf_event_open", error))
    assert done.returncode == 1
    assert "failed to open a perf event on CPU" in done.stderr
    assert is_one_line_with_a_remedy(done.stderr)


@contextmanager
def at_work(binary: Path, folder: Path) -> Iterator[None]:
    """Runs `binary` from a file system that nobody else sees, as a file that only root may read; it stays alive."""
    place = folder / f"private-{binary.name}"
    place.mkdir()
    script = f'mount -t tmpfs none "{place}" && install -m 700 "$0" "{place}/" && exec "{place}/{binary.name}" {WORK_S}'
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script, str(binary)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def until_stored(aggregator: Aggregator, nodes: Sequence[str], ended: float) -> None:
    """Returns when the windows of `nodes` up to that time are stored."""

    def stored(node: str) -> bool:
        window = aggregator.node(node).get("last_window")
        return bool(window) and datetime.fromisoformat(window).timestamp() > ended

    until(lambda: all(stored(node) for node in nodes), told=lambda: str(aggregator.status()))


def folded(aggregator: Aggregator, comm: str, node: str, *options: str) -> Counter[str]:
    """Folded stacks of a program as one node saw it."""
    selector = f'cpu{{comm="{comm}", node="{node}"}}'
    return parse_folded(aggregator.run("query", selector, "--format", "folded", *options).stdout)


def share(counts: Counter[str], part: str) -> float:
    """Of the samples whose stack has `part` in it."""
    return sum(count for stack, count in counts.items() if part in f";{stack};") / counts.total()


POOR = {"no-ptrace": "CAP_SYS_PTRACE", "no-dac": "CAP_DAC_READ_SEARCH"}
RICH = {"five": "", "no-syslog": "CAP_SYSLOG"}
"""Node -> the capability it lacks. The poor ones cannot lend the workload's file; another's loan names it for all."""


@pytest.fixture(scope="module")
def agents(
    bus: NatsServer, aggregator: Aggregator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Service]]:
    """Four agents of nobody's, which sampled `early` while only the poor ones ran, and `late`."""
    folder = tmp_path_factory.mktemp("agents")
    running: dict[str, Service] = {}
    with ExitStack() as stack:

        def start(nodes: dict[str, str]) -> None:
            for node, lacking in nodes.items():
                wrapper = without(lacking) if lacking else without()
                made = agent(folder, bus.url, node, "--frequency", "199", wrapper=wrapper)
                running[node] = stack.enter_context(made)
            for node in nodes:
                running[node].until(lambda node=node: is_sampling(running[node]))  # type: ignore[misc]

        for nodes, name in ((POOR, "early"), (RICH, "late")):
            start(nodes)
            # Another name of a function makes another build.
            source = SYSCALLS.replace("read_zeroes", f"read_{name}").replace("return 0;", "pause();")
            binary = compile_c(source, folder / name, "-Wl,--build-id")
            with ExitStack() as life:
                life.enter_context(at_work(binary, folder))
                until_stored(aggregator, list(running), time.time() + WORK_S)
                if nodes is RICH:
                    stack.push(life.pop_all())
        yield running


def is_sampling(service: Service) -> bool:
    """Whether it said so; AssertionError if it ended."""
    assert service.code is None, service.text
    return any(entry["message"] == "sampling" for entry in service.messages())


def test_five_capabilities_and_no_other_privilege_are_all_that_an_agent_needs(
    agents: dict[str, Service], aggregator: Aggregator
) -> None:
    """A process of root's, from a file of mode 700 in a file system of its own: named down to the kernel, labelled."""
    assert "running without a capability" not in agents["five"].text
    until(lambda: share(folded(aggregator, "late", "five"), ";main;read_late;") > 0.9)
    counts = folded(aggregator, "late", "five", "--by", "exe")
    assert share(counts, "ksys_read_[k];") > 0.9
    assert share(counts, "/private-late/late;") > 0.99
    assert aggregator.node("five")["balances"]


@pytest.mark.parametrize("node", [*POOR, "no-syslog"])
def test_an_agent_without_one_says_so_once_and_samples(
    agents: dict[str, Service], aggregator: Aggregator, node: str
) -> None:
    """With what it costs."""
    warnings = [entry for entry in agents[node].messages() if entry["message"] == "running without a capability"]
    assert [entry["missing"] for entry in warnings] == [(POOR | RICH)[node]]
    assert warnings[0]["cost"] == next(each.lost for each in CAPABILITIES if each.name == (POOR | RICH)[node])
    assert folded(aggregator, "late", node).total() > 100
    assert aggregator.node(node)["balances"]


def test_without_syslog_the_kernel_is_hidden_and_nothing_else(
    agents: dict[str, Service], aggregator: Aggregator
) -> None:
    """As many kernel frames, none with a name."""
    until(lambda: share(folded(aggregator, "late", "no-syslog"), ";main;read_late;[kernel hidden]_[k];") > 0.9)
    assert share(folded(aggregator, "late", "no-syslog"), "ksys_read_[k];") == 0


@pytest.mark.parametrize("node", POOR)
def test_without_leave_to_read_a_file_its_frames_keep_build_and_offset(
    agents: dict[str, Service], aggregator: Aggregator, node: str
) -> None:
    """The kernel names the build all the same: names come as soon as anybody has the file."""
    early = folded(aggregator, "early", node)
    assert share(early, "read_early") == 0
    assert share(early, "+0x") > 0.9
    assert share(early, "ksys_read_[k];") > 0.9
    until(lambda: share(folded(aggregator, "late", node), ";main;read_late;") > 0.9)
    has_exe = share(folded(aggregator, "late", node, "--by", "exe"), "/private-late/late;") > 0.9
    assert has_exe is (node != "no-ptrace")


def test_agents_of_nobodys_end_in_order(agents: dict[str, Service]) -> None:
    """Nothing to clean up that would take more privileges."""
    assert [service.stop() for service in agents.values()] == [0] * len(agents)
    assert not [entry for service in agents.values() for entry in service.messages("error")]
