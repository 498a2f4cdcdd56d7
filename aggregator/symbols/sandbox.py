"""Limits that a process puts on itself before it parses what nobody vouches for. Works without privileges; Linux only.

Memory, processor time, file size and descriptors are bounded by rlimits. A seccomp filter takes away what a parser that
was taken over would want: the network, other programs, other processes, files by name. A process that runs as root
gives that up too. What the filter forbids fails with EPERM, so that a library which merely tries goes on.

Source of the numbers: include/uapi/linux/{prctl,seccomp,filter,audit}.h; arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER_OR_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ARCHITECTURE_AT, _NUMBER_AT = 4, 0
_X32_BIT = 0x40000000

NOBODY = 65534

# Names are those of the system call table. Threads of this process exist before the filter; it needs no new ones.
_FORBIDDEN = {
    "x86_64": {
        "open": 2, "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "sendmsg": 46, "bind": 49, "listen": 50,
        "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "rename": 82, "mkdir": 83,
        "rmdir": 84, "creat": 85, "link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "chown": 92, "ptrace": 101,
        "mknod": 133, "chroot": 161, "mount": 165, "tkill": 200, "openat": 257, "mkdirat": 258, "unlinkat": 263,
        "renameat": 264, "linkat": 265, "symlinkat": 266, "fchmodat": 268, "unshare": 272, "accept4": 288,
        "perf_event_open": 298, "sendmmsg": 307, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
        "renameat2": 316, "memfd_create": 319, "bpf": 321, "execveat": 322, "userfaultfd": 323, "keyctl": 250,
        "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "openat2": 437,
    },
    "aarch64": {
        "mknodat": 33, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38, "mount": 40,
        "chroot": 51, "fchmodat": 53, "openat": 56, "unshare": 97, "ptrace": 117, "kill": 129, "tkill": 130,
        "socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "sendto": 206,
        "sendmsg": 211, "keyctl": 219, "clone": 220, "execve": 221, "perf_event_open": 241, "accept4": 242,
        "setns": 268, "sendmmsg": 269, "process_vm_readv": 270, "process_vm_writev": 271, "renameat2": 276,
        "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282, "pidfd_send_signal": 424,
        "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "openat2": 437,
    },
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What the parsing of one file may cost."""

    file_bytes: int = 2 << 30
    """Largest file that is parsed."""
    inflated_bytes: int = 1 << 30
    """Sum of what a file's sections may claim to inflate to. Chromium's DWARF inflates to 1.6 GB and is refused by
    default; the next largest that we met is half of this."""
    memory_bytes: int = 3 << 30
    """Address space beyond what the worker has when it begins, the mapped file included."""
    cpu_seconds: int = 120
    output_bytes: int = 1 << 30
    wall_seconds: float = 180.0


def confine(limits: WorkerLimits, *, file_size: int) -> list[str]:
    """Gives up, for good, what parsing does not need; returns what could not be given up, for the log.

    Everything must be imported and opened before. The parent's death ends this process too.
    """
    failed = []
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    _set_limits(limits, file_size)
    _leave_root()
    for option, value in ((PR_SET_PDEATHSIG, signal.SIGKILL), (PR_SET_DUMPABLE, 0), (PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, int(value), 0, 0, 0) != 0:
            failed.append(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
    machine = platform.machine()
    if machine not in _FORBIDDEN:
        return [*failed, f"no filter for {machine}"]
    program = filter_program(machine)
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: length in instructions, pointer.
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    pointer = ctypes.create_string_buffer(header, len(header))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(pointer), 0, 0) != 0:
        failed.append(f"seccomp: {os.strerror(ctypes.get_errno())}")
    return failed


def filter_program(machine: str) -> bytes:
    """The filter as classic BPF: (code u16, jump if true u8, jump if false u8, operand u32) an instruction.

    Another architecture's numbers, and x32's on x86-64, would slip past a list of numbers: they are all forbidden.
    """
    forbidden = sorted(set(_FORBIDDEN[machine].values()))
    deny = len(forbidden) + 1
    rows = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 0, deny + 2, _AUDIT_ARCH[machine]),
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        (_JUMP_GREATER_OR_EQUAL, deny, 0, _X32_BIT),
    ]
    rows += [(_JUMP_EQUAL, deny - 1 - index, 0, number) for index, number in enumerate(forbidden)]
    rows += [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)]
    return b"".join(struct.pack("HBBI", *row) for row in rows)


def _set_limits(limits: WorkerLimits, file_size: int) -> None:
    # Size of the program in pages is the first field of statm (proc(5)).
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    memory = used + file_size + limits.memory_bytes
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, limits.output_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 5))


def _leave_root() -> None:
    """As root, become nobody: a filter on system calls does not stop a process from using what it has open."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
