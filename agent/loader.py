"""Compiles and loads the kernel programs in a child process that lives half a second.

BCC brings LLVM: 119 MB resident that never leave the process that compiled. So a child compiles, passes the descriptors
of programs and maps back over a Unix socket and exits; maps and programs live as long as somebody holds a descriptor.

    parent: load(options) -> spawns `python -m agent.loader FD` -> receives JSON and descriptors
    child:  reads BTF -> compiles -> loads -> sends

The only module that imports bcc, and only in the child.
"""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent import btf, privileges
from bpf import layout
from fleetflame.errors import FleetflameError, PrivilegeError, cause_of

BTF_PATH = Path("/sys/kernel/btf/vmlinux")
EVENT_PAGES = 64
"""Ring buffer of process events, pages: 256 KiB hold 5,400 events. A fork storm of 2,000 processes/s (three events
each) fills it in 0.9 s, and it is read within milliseconds."""
PAGE_ENTRIES = 1 << 16
"""64 KiB of code each: 4 GiB."""
RULE_ENTRIES = 1 << 16
"""As many as 16 bits of a row tell apart."""
PYTHON_CODE_PAGES = 16
"""Ring buffer of code objects that were met, pages: 64 KiB hold 2,000, which is more than a large application begins
with."""
PYTHON_ENTRIES = 4096
PYTHON_THREAD_ENTRIES = 8192
"""Processes with a CPython, 72 bytes each, and threads of theirs that were sampled, 24 bytes: one that falls out is
searched again, or has no Python frames until its mappings are read again."""
_TIMEOUT_S = 60
_MAX_FDS = 64
_X86_64 = platform.machine() == "x86_64"
_MAPS = (
    "active_set",
    "counters0",
    "counters1",
    "counts0",
    "counts1",
    "stacks0",
    "stacks1",
    "id_stacks0",
    "id_stacks1",
    "layouts",
    "events",
    "regions",
    "tables",
    "pages",
    "rows",
    "rules",
    "walkers",
    "pythons",
    "python_stacks0",
    "python_stacks1",
    "python_codes",
)
_WALKERS = ("walk", "finish", "find_python", "walk_python")
"""Programs that are called by on_sample and by each other, by their places in `walkers`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Sizes of the kernel's maps, in entries. docs/configuration.md has what each costs."""

    counts_entries: int
    stack_entries: int
    id_stack_entries: int
    process_entries: int
    region_entries: int = 1 << 16
    table_entries: int = 1 << 12
    row_entries: int = 1 << 22
    python_stack_entries: int = 512
    per_thread: bool

    @property
    def array_entries(self) -> dict[str, int]:
        """Entries of the arrays that the unwinder reads; two rows are one entry."""
        return {
            "regions": self.region_entries,
            "tables": self.table_entries,
            "pages": PAGE_ENTRIES,
            "rows": self.row_entries // 2,
            "rules": RULE_ENTRIES,
        }

    def flags(self) -> dict[str, int]:
        """Values of the -D flags of cpu.c."""
        return {
            "COUNTS_ENTRIES": self.counts_entries,
            "STACK_ENTRIES": self.stack_entries,
            "ID_STACK_ENTRIES": self.id_stack_entries,
            "PROCESS_ENTRIES": self.process_entries,
            **{f"{name.upper()}_ENTRIES": entries for name, entries in self.array_entries.items()},
            "PER_THREAD": int(self.per_thread),
            "EVENT_PAGES": EVENT_PAGES,
            "PYTHON_STACK_ENTRIES": self.python_stack_entries,
            "PYTHON_ENTRIES": PYTHON_ENTRIES,
            "PYTHON_THREAD_ENTRIES": PYTHON_THREAD_ENTRIES,
            "PYTHON_CODE_PAGES": PYTHON_CODE_PAGES,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Descriptors of everything that was loaded, by the names that cpu.c gives them."""

    sampler: int
    tracepoints: Mapping[str, int]
    maps: Mapping[str, int]

    def close(self) -> None:
        """Closes all descriptors; the kernel frees what nothing else refers to."""
        for fd in (self.sampler, *self.tracepoints.values(), *self.maps.values()):
            os.close(fd)


def load(options: LoadOptions) -> Loaded:
    """Loads bpf/cpu.c. Raises FleetflameError with the compiler's or verifier's last words."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "agent.loader", str(theirs.fileno()), json.dumps(options.flags())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        theirs.close()
        ours.settimeout(_TIMEOUT_S)
        try:
            answer, fds, _, _ = socket.recv_fds(ours, 65536, _MAX_FDS)
            output = child.communicate(timeout=_TIMEOUT_S)[0].decode(errors="replace")
        except (TimeoutError, subprocess.TimeoutExpired):
            child.kill()
            child.communicate()
            raise FleetflameError(f"failed to load the kernel programs: no answer within {_TIMEOUT_S} s") from None
    if not answer:
        raise _explained(output)
    names: list[str] = json.loads(answer)
    by_name = dict(zip(names, fds, strict=True))
    return Loaded(
        sampler=by_name["on_sample"],
        tracepoints={name: by_name[name] for name in layout.PROGRAMS},
        maps={name: by_name[name] for name in _MAPS},
    )


def _explained(output: str) -> FleetflameError:
    """An error for the operator from what BCC printed; the cases are those that were provoked by hand."""
    lines = [line for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else "no output"
    if "No module named 'bcc'" in output:
        return FleetflameError(
            "failed to load the kernel programs: BCC's Python module is missing",
            hint="install `python3-bpfcc` and use a virtual environment with --system-site-packages",
        )
    if "Operation not permitted" in output or ("Permission denied" in output and "processed" not in output):
        cause, hint = privileges.explain_refusal(privileges.read_effective())
        return PrivilegeError(f"failed to load the kernel programs: operation not permitted, {cause}", hint=hint)
    if "Function not implemented" in output:
        return PrivilegeError(
            "failed to load the kernel programs: the kernel has no bpf()",
            hint="boot a kernel with CONFIG_BPF_SYSCALL=y, or allow bpf() in the seccomp profile",
        )
    if "no BTF" in output:
        return PrivilegeError(
            f"failed to load the kernel programs: {last}",
            hint="boot a kernel with CONFIG_DEBUG_INFO_BTF=y, 5.11 or newer; in a container mount /sys",
        )
    if "Too many open files" in output:
        return FleetflameError(
            "failed to load the kernel programs: too many open files", hint="raise the limit (`ulimit -n`) to 1024"
        )
    if "Cannot allocate memory" in output:
        return FleetflameError(
            "failed to load the kernel programs: cannot allocate memory for the kernel's maps",
            hint="lower --counts-entries, --stack-entries and --id-stack-entries",
        )
    detail = next((line for line in lines if "error:" in line), last)
    return FleetflameError(f"failed to load the kernel programs: {detail}", hint="run `fleetflame doctor`")


def _task_offsets() -> dict[str, int]:
    try:
        image = BTF_PATH.read_bytes()
        offsets = btf.member_offsets(image, "task_struct", ("pid", "tgid", "mm", "thread"))
        # Elsewhere than on x86-64 no process is told of that would need it.
        fsbase = btf.member_offsets(image, "thread_struct", ("fsbase",))["fsbase"] if _X86_64 else 0
    except OSError as error:
        raise SystemExit(f"no BTF: failed to open `{BTF_PATH}`: {cause_of(error)}") from None
    except ValueError as error:
        raise SystemExit(f"no BTF: {error}") from None
    offsets["fsbase"] = offsets.pop("thread") + fsbase
    return {f"TASK_{member.upper()}": offset for member, offset in offsets.items()}


def _child(fd: int, flags: dict[str, int]) -> None:
    folder = layout.source_folder()
    os.environ["BCC_KERNEL_SOURCE"] = str(folder / "kheaders")
    defines = {**layout.flags(), **_task_offsets(), **flags}
    from bcc import BPF  # 71 MB: not for the parent

    program = BPF(
        src_file=str(folder / "cpu.c"),
        cflags=[f"-I{folder}", *(f"-D{name}={value}" for name, value in defines.items())],
    )
    fds = {"on_sample": program.load_func("on_sample", BPF.PERF_EVENT).fd}
    for name in layout.PROGRAMS:
        fds[name] = program.load_func(f"raw_tracepoint__{name}", BPF.RAW_TRACEPOINT).fd
    walkers = program["walkers"]
    for index, name in enumerate(_WALKERS):
        walkers[index] = program.load_func(name, BPF.PERF_EVENT)
    for name in _MAPS:
        fds[name] = program[name].map_fd
    with socket.socket(fileno=fd) as parent:
        socket.send_fds(parent, [json.dumps(list(fds)).encode()], list(fds.values()))


if __name__ == "__main__":
    _child(int(sys.argv[1]), json.loads(sys.argv[2]))
