"""What the kernel has to allow an agent, capability by capability, and what is lost without each.

`fleetflame doctor` shows it, the loader explains a refusal by it, and an agent that starts without one of those that it
can do without says so.
"""

import re
from dataclasses import dataclass
from pathlib import Path

SYS_ADMIN = 21
"""Stands in for BPF and PERFMON, which were parts of it before Linux 5.8. Numbers: linux/capability.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One capability: its number, whether nothing can be sampled without it, and what is lost."""

    name: str
    number: int
    needed: bool
    lost: str


CAPABILITIES = (
    Capability(name="CAP_BPF", number=39, needed=True, lost="no kernel program can be loaded: nothing is sampled"),
    Capability(name="CAP_PERFMON", number=38, needed=True, lost="no kernel program may sample: nothing is sampled"),
    Capability(
        name="CAP_SYS_PTRACE",
        number=19,
        needed=False,
        lost="processes of other users have no `exe`, and their files are not lent: frames keep build ID and offset",
    ),
    Capability(
        name="CAP_DAC_READ_SEARCH",
        number=2,
        needed=False,
        lost="files that only their owner may read are not lent: their frames keep build ID and offset",
    ),
    Capability(
        name="CAP_SYSLOG", number=34, needed=False, lost="the kernel hides its addresses: kernel frames have no names"
    ),
)


def read_effective() -> int:
    """The capabilities that this process holds, as a bit mask."""
    return effective(Path("/proc/self/status").read_text())


def effective(status: str) -> int:
    """The bit mask in the text of /proc/PID/status; 0 if it has none."""
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)$", status, re.MULTILINE)
    return int(found[1], 16) if found else 0


def is_held(capability: Capability, held: int) -> bool:
    """Whether `held` has it, or what stands in for it."""
    return bool(held >> capability.number & 1 or (capability.needed and held >> SYS_ADMIN & 1))


def missing(held: int) -> list[Capability]:
    """Those that `held` lacks, the needed ones first."""
    return [capability for capability in CAPABILITIES if not is_held(capability, held)]


def explain_refusal(held: int) -> tuple[str, str]:
    """Why the kernel may have said EPERM to a process that holds `held`, and what to do about it."""
    names = " and ".join(capability.name for capability in missing(held) if capability.needed)
    if names:
        verb = "are" if " and " in names else "is"
        return f"{names} {verb} missing", f"run as root, or grant {names}"
    return (
        "although CAP_BPF and CAP_PERFMON are held",
        "allow bpf() and perf_event_open() in the seccomp profile; check lockdown and user namespaces",
    )


def find_shortages() -> list[Capability]:
    """What this process lacks and feels: the kernel's addresses are shown to everybody where it is told so."""
    found = missing(read_effective())
    try:
        shown = shows_kernel_addresses()
    except OSError:
        shown = False
    return [capability for capability in found if not (shown and capability.name == "CAP_SYSLOG")]


def shows_kernel_addresses(kallsyms: Path = Path("/proc/kallsyms")) -> bool:
    """Whether this process sees the kernel's real addresses. Raises OSError."""
    with kallsyms.open() as lines:
        return any(int(line.split()[0], 16) for _, line in zip(range(100), lines, strict=False))
