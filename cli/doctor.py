"""`fleetflame doctor`: can this machine be profiled, and what to do if not.

Each check tries what it is about instead of asking for a version. None imports anything of the aggregator's, so that
the command works where only the agent is installed.
"""

import ctypes
import errno
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from agent.privileges import CAPABILITIES, is_held, missing, read_effective, shows_kernel_addresses
from cli.options import json_option, option
from cli.params import human_size

MIN_FREE_BYTES = 1 << 30
MIN_PAYLOAD_BYTES = (512 << 10) + 4096
"""A batch and its headers: `subjects.MAX_MESSAGE_BYTES` and HEADER_BYTES."""
CONNECT_S = 5.0
LOAD_S = 60


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `remedy` is what to do about it."""

    check: str
    outcome: Outcome
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What to check besides this machine's kernel; "" means not to."""

    nats: str
    server: str
    data: Path


@click.command()
@option(
    "--nats",
    envvar=["FLEETFLAME_DOCTOR_NATS", "FLEETFLAME_NATS"],
    default="",
    metavar="URL",
    help="Bus to check; none if not given.",
)
@option(
    "--server",
    envvar=["FLEETFLAME_DOCTOR_SERVER", "FLEETFLAME_SERVER"],
    default="",
    metavar="URL",
    help="Aggregator to check; none if not given.",
)
@option(
    "--data",
    default="/var/lib/fleetflame",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder whose disk should have room.",
)
@json_option
def command(nats: str, server: str, data: Path, as_json: bool) -> int:
    """Check what profiling needs: kernel, privileges, BCC, symbols, disk, and on request the bus and the aggregator.

    Exit code 1 if a check failed. Warnings mean that profiles lack something; each says what and how to mend it.

    \b
    Examples:
      sudo fleetflame doctor
      fleetflame doctor --nats nats://bus:4222 --server http://aggregator:4040
    """
    findings = list(examine(Targets(nats=nats, server=server, data=data)))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    return 1 if any(finding.outcome is Outcome.FAILED for finding in findings) else 0


def examine(targets: Targets) -> Iterator[Finding]:
    """Every check in the order in which remedies make sense."""
    held = read_effective()
    yield check_kernel()
    yield check_bpf()
    yield check_btf()
    yield from check_capabilities(held)
    yield check_headers()
    yield check_bcc()
    yield check_program()
    yield check_kallsyms(held)
    yield check_perf_paranoid(held)
    yield check_tracefs()
    yield check_disk(targets.data)
    if targets.nats:
        for url in targets.nats.split(","):
            yield check_nats(url.strip())
    if targets.server:
        yield check_server(targets.server)


def check_kernel() -> Finding:
    """The operating system and the processor."""
    found = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if platform.system() != "Linux":
        return Finding("kernel", Outcome.FAILED, found, "agents run on Linux; query from here with --server")
    if platform.machine() not in ("x86_64", "aarch64"):
        return Finding("kernel", Outcome.FAILED, found, "agents run on x86_64 and aarch64")
    return Finding("kernel", Outcome.OK, found)


def check_bpf() -> Finding:
    """Whether the kernel has bpf(2), by asking it for something that needs no privilege to be refused properly."""
    number = {"x86_64": 321, "aarch64": 280}.get(platform.machine())
    if number is None:
        return Finding("bpf", Outcome.FAILED, "unknown processor")
    ctypes.set_errno(0)
    libc = ctypes.CDLL(None, use_errno=True)
    no_such_command = 0x7FFF
    libc.syscall(ctypes.c_long(number), no_such_command, None, 0)
    code = ctypes.get_errno()
    if code == errno.ENOSYS:
        return Finding("bpf", Outcome.FAILED, "the kernel has no bpf()", "boot a kernel with CONFIG_BPF_SYSCALL=y")
    restricted = _read("/proc/sys/kernel/unprivileged_bpf_disabled")
    return Finding("bpf", Outcome.OK, f"the system call is there (unprivileged_bpf_disabled={restricted or '?'})")


def check_btf() -> Finding:
    """Type information of the kernel, from which the loader takes offsets."""
    path = Path("/sys/kernel/btf/vmlinux")
    if os.access(path, os.R_OK):
        return Finding("btf", Outcome.OK, f"`{path}`, {human_size(path.stat().st_size)}")
    return Finding(
        "btf", Outcome.FAILED, f"`{path}` cannot be read", "boot a kernel with CONFIG_DEBUG_INFO_BTF=y; mount /sys"
    )


def check_capabilities(held: int) -> Iterator[Finding]:
    """One finding for each capability; what samples is a must, what names is not."""
    for each in CAPABILITIES:
        if held >> each.number & 1:
            yield Finding(each.name.lower(), Outcome.OK, "held")
        elif is_held(each, held):
            yield Finding(each.name.lower(), Outcome.OK, "CAP_SYS_ADMIN stands in for it")
        else:
            outcome = Outcome.FAILED if each.needed else Outcome.WARNING
            yield Finding(each.name.lower(), outcome, f"missing: {each.lost}", f"run as root, or grant {each.name}")


def check_headers() -> Finding:
    """Our own headers, instead of the kernel's."""
    from importlib.resources import files

    tree = files("bpf") / "kheaders" / "include"
    if (tree / "linux" / "kconfig.h").is_file():
        return Finding("headers", Outcome.OK, "our own header tree is installed; the kernel's are not needed")
    return Finding("headers", Outcome.FAILED, f"`{tree}` is missing", "install fleetflame again")


def check_bcc() -> Finding:
    """BCC's Python module, in a process of its own: it would stay in this one with 70 MB."""
    code = "import bcc, sys; sys.stdout.write(bcc.BPF and getattr(bcc, '__version__', '?'))"
    done = _python("-c", code)
    if done.returncode == 0:
        return Finding("bcc", Outcome.OK, f"version {done.stdout.strip()}")
    reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
    remedy = "install `python3-bpfcc`, and make the virtual environment with --system-site-packages"
    if "BPF" in reason:
        remedy = "the package `bcc` of PyPI is something else: pip uninstall bcc; then install `python3-bpfcc`"
    return Finding("bcc", Outcome.FAILED, f"cannot be imported: {reason}", remedy)


def check_program() -> Finding:
    """The proof: our program compiled, verified and loaded, as the agent does it."""
    from agent.config import AgentConfig
    from agent.kernelmaps import online_cpus
    from agent.loader import load
    from agent.mapsizes import load_options
    from fleetflame.errors import FleetflameError

    try:
        load(load_options(AgentConfig(node="doctor"), cpus=len(online_cpus()))).close()
    except FleetflameError as error:
        return Finding("program", Outcome.FAILED, error.message, error.hint)
    return Finding("program", Outcome.OK, "the kernel program compiles, passes the verifier and loads")


def check_kallsyms(held: int) -> Finding:
    """Whether the kernel shows its addresses."""
    try:
        shown = shows_kernel_addresses()
    except OSError as error:
        return Finding(
            "kallsyms", Outcome.WARNING, f"cannot be read: {error.strerror}", "mount /proc; CONFIG_KALLSYMS=y"
        )
    restrict = _read("/proc/sys/kernel/kptr_restrict")
    if shown:
        return Finding("kallsyms", Outcome.OK, f"real addresses (kptr_restrict={restrict or '?'})")
    syslog = not any(each.name == "CAP_SYSLOG" for each in missing(held))
    remedy = "sysctl kernel.kptr_restrict=1" if syslog and restrict == "2" else "run as root, or grant CAP_SYSLOG"
    return Finding("kallsyms", Outcome.WARNING, f"hidden (kptr_restrict={restrict}): no kernel names", remedy)


def check_perf_paranoid(held: int) -> Finding:
    """The setting that bounds perf events of those who have no capability."""
    level = _read("/proc/sys/kernel/perf_event_paranoid")
    if not level:
        return Finding(
            "perf", Outcome.FAILED, "the kernel has no perf events", "boot a kernel with CONFIG_PERF_EVENTS=y"
        )
    privileged = not any(each.name == "CAP_PERFMON" for each in missing(held))
    note = "which does not matter with CAP_PERFMON" if privileged else "but CAP_PERFMON is needed whatever it says"
    return Finding("perf", Outcome.OK, f"perf_event_paranoid={level}, {note}")


def check_tracefs() -> Finding:
    """Not needed; said because every other eBPF tool asks for it."""
    mounted = any(line.split()[2:3] == ["tracefs"] for line in _read("/proc/mounts").splitlines())
    return Finding("tracefs", Outcome.NOTE, f"{'mounted' if mounted else 'not mounted'}; not needed, nor are kprobes")


def check_disk(data: Path) -> Finding:
    """Room where data will go."""
    place = next(path for path in (data, *data.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    found = f"{human_size(free)} free for `{data}`"
    if free < MIN_FREE_BYTES:
        return Finding("disk", Outcome.FAILED, found, "make room, or choose another folder with --data")
    if not os.access(place, os.W_OK):
        return Finding(
            "disk", Outcome.WARNING, f"{found}, but it cannot be written", "run as root, or choose with --data"
        )
    return Finding("disk", Outcome.OK, found)


def check_nats(url: str) -> Finding:
    """What a NATS server says of itself when one connects: the INFO line of its protocol."""
    try:
        parts = urlsplit(url)
        where = f"`{parts.hostname}:{parts.port or 4222}`"
    except ValueError:
        return Finding("nats", Outcome.FAILED, "not a NATS URL", "such as nats://127.0.0.1:4222")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 4222), CONNECT_S) as connection:
            line = connection.makefile("rb").readline(1 << 20)
        info: dict[str, Any] = json.loads(line.removeprefix(b"INFO "))
    except (OSError, ValueError) as error:
        cause = (getattr(error, "strerror", None) or "no NATS server answered").lower()
        return Finding("nats", Outcome.FAILED, f"{where}: {cause}", "start a NATS server with JetStream; check --nats")
    if not info.get("jetstream"):
        return Finding("nats", Outcome.FAILED, f"{where}: JetStream is off", "start the server with `-js`")
    if int(info.get("max_payload", 0)) < MIN_PAYLOAD_BYTES:
        found = f"{where}: messages of {info.get('max_payload')} bytes at most"
        return Finding("nats", Outcome.FAILED, found, f"set max_payload to {MIN_PAYLOAD_BYTES} or more")
    if info.get("auth_required") and not parts.username:
        return Finding("nats", Outcome.WARNING, f"{where} asks for credentials", "write them into the URL")
    return Finding("nats", Outcome.OK, f"{where}, version {info.get('version')}, JetStream is on")


def check_server(url: str) -> Finding:
    """Whether an aggregator is ready."""
    from cli.client import Client
    from fleetflame.errors import FleetflameError

    try:
        with Client(url, timeout_s=CONNECT_S) as client:
            client.get("/readyz")
    except FleetflameError as error:
        return Finding("server", Outcome.FAILED, error.message, error.hint)
    return Finding("server", Outcome.OK, f"`{url}` is ready")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", *arguments], capture_output=True, text=True, timeout=LOAD_S, check=False
    )


_MARKS: dict[Outcome, tuple[str, str]] = {
    Outcome.OK: ("✓", "green"),
    Outcome.NOTE: ("·", "bright_black"),
    Outcome.WARNING: ("!", "yellow"),
    Outcome.FAILED: ("✗", "red"),
}


def _print(findings: list[Finding]) -> None:
    from cli.output import colour_wanted, is_terminal

    for finding in findings:
        if not is_terminal():
            click.echo(f"{finding.outcome.value}\t{finding.check}\t{finding.found}\t{finding.remedy}")
            continue
        mark, colour = _MARKS[finding.outcome]
        mark = click.style(mark, fg=colour) if colour_wanted() else mark
        click.echo(f"{mark} {finding.check:20} {finding.found}")
        if finding.remedy:
            click.echo(f"  {'':20} -> {finding.remedy}")
