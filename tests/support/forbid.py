"""Runs a program for which a system call fails, as on a kernel without it or behind a container's seccomp profile.

    python forbid.py bpf ENOSYS program argument ...

A seccomp filter of four instructions (linux/seccomp.h, linux/filter.h), which the program and its children inherit.
"""

import ctypes
import errno
import os
import struct
import sys

NUMBERS = {"bpf": {"x86_64": 321, "aarch64": 280}, "perf_event_open": {"x86_64": 298, "aarch64": 241}}
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def forbid(call: str, error: str) -> None:
    """From now on `call` fails with `error`."""
    instructions = (
        (LOAD, 0, 0, 0),  # the number of the call: the first field of struct seccomp_data
        (JUMP_IF_EQUAL, 0, 1, NUMBERS[call][os.uname().machine]),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | getattr(errno, error)),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *each) for each in instructions))
    program = Program(len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, *rest in ((PR_SET_NO_NEW_PRIVS, 1, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))):
        if libc.prctl(option, *rest, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl {option} failed")


if __name__ == "__main__":
    forbid(sys.argv[1], sys.argv[2])
    os.execvp(sys.argv[3], sys.argv[3:])
