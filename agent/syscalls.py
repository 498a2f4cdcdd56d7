"""The two system calls of sampling that Python has no name for, bpf and perf_event_open. One thin wrapper each."""

import ctypes
import os
import platform

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# Numbers of the system calls (kernel: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
_NUMBERS = {"x86_64": {"bpf": 321, "perf_event_open": 298}, "aarch64": {"bpf": 280, "perf_event_open": 241}}


def _number(name: str) -> int:
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise OSError(f"fleetflame samples on x86_64 and aarch64, not on `{machine}`")
    return _NUMBERS[machine][name]


def bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2). Raises OSError with the kernel's errno."""
    return _checked(_number("bpf"), command, ctypes.byref(attributes), len(attributes))


def perf_event_open(attributes: ctypes.Array[ctypes.c_char], *, cpu: int) -> int:
    """A descriptor of a perf event of all processes on one CPU, closed on exec. Raises OSError."""
    everything, no_group, close_on_exec = -1, -1, 8
    number = _number("perf_event_open")
    return _checked(number, ctypes.byref(attributes), everything, cpu, no_group, ctypes.c_ulong(close_on_exec))


def _checked(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
