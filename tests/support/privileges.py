"""What this process may do, read from the kernel."""

import os
import re
from pathlib import Path

_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39


def effective() -> int:
    """The effective capability set as a bit mask."""
    found = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, "every Linux since 2.2 has this line"
    return int(found[1], 16)


def missing_for_bpf() -> str:
    """Why eBPF programs cannot be loaded, or nothing."""
    held = effective()
    if not held >> _CAP_SYS_ADMIN & 1 and not (held >> _CAP_BPF & 1 and held >> _CAP_PERFMON & 1):
        return "needs CAP_BPF and CAP_PERFMON"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "this kernel has no BTF"
    if os.uname().sysname != "Linux":
        return "not Linux"
    return ""
