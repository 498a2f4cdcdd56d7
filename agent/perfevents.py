"""The clock: one perf event per online CPU, each calling the sampling program.

Layout of `struct perf_event_attr`: kernel, include/uapi/linux/perf_event.h.
"""

import ctypes
import errno
import fcntl
import os
import struct

from agent import privileges, syscalls
from agent.kernelmaps import online_cpus
from fleetflame.errors import FleetflameError, PrivilegeError, cause_of

_SOFTWARE = 1
_CPU_CLOCK = 0
_EXCLUDE_IDLE = 1 << 7
_ATTR_SIZE = 112  # PERF_ATTR_SIZE_VER5: newer kernels accept an older, shorter one
_SET_BPF = 0x40042408
_ENABLE = 0x2400
_DISABLE = 0x2401


def period_of(frequency: int) -> int:
    """Nanoseconds of CPU time between two samples at `frequency` per second."""
    return 1_000_000_000 // frequency


class CpuClocks:
    """Events on all CPUs that are online; `refresh` follows CPUs that come and go."""

    def __init__(self, program: int, *, frequency: int) -> None:
        self._program = program
        self._period = period_of(frequency)
        self._events: dict[int, int] = {}

    def refresh(self) -> tuple[list[int], list[int]]:
        """Starts events on new CPUs and closes those of CPUs that went; returns both lists. Raises FleetflameError."""
        online = set(online_cpus())
        gone = sorted(self._events.keys() - online)
        new = sorted(online - self._events.keys())
        for cpu in gone:
            os.close(self._events.pop(cpu))
        for cpu in new:
            try:
                self._events[cpu] = self._start(cpu)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ENXIO):
                    continue  # went offline since we looked; the next refresh sees it
                raise _explained(error, cpu) from error
        return new, gone

    def _start(self, cpu: int) -> int:
        # A fixed period rather than a frequency: for a clock they are the same, and the kernel does not cap it.
        layout = "<IIQQQQQ"
        head = struct.pack(layout, _SOFTWARE, _ATTR_SIZE, _CPU_CLOCK, self._period, 0, 0, _EXCLUDE_IDLE)
        attributes = ctypes.create_string_buffer(head, _ATTR_SIZE)
        event = syscalls.perf_event_open(attributes, cpu=cpu)
        try:
            fcntl.ioctl(event, _SET_BPF, self._program)
            fcntl.ioctl(event, _ENABLE, 0)
        except OSError:
            os.close(event)
            raise
        return event

    def close(self) -> None:
        """Stops sampling on every CPU: no program runs once this has returned."""
        for event in self._events.values():
            fcntl.ioctl(event, _DISABLE, 0)
            os.close(event)
        self._events.clear()


def _explained(error: OSError, cpu: int) -> FleetflameError:
    message = f"failed to open a perf event on CPU {cpu}: {cause_of(error)}"
    if error.errno in (errno.EACCES, errno.EPERM):
        cause, hint = privileges.explain_refusal(privileges.read_effective())
        return PrivilegeError(f"{message}, {cause}", hint=hint)
    if error.errno in (errno.ENOSYS, errno.ENOENT, errno.EOPNOTSUPP):
        hint = "boot a kernel with CONFIG_PERF_EVENTS=y, or allow perf_event_open() in the seccomp profile"
        return PrivilegeError(message, hint=hint)
    if error.errno == errno.EMFILE:
        return FleetflameError(message, hint="raise the limit of open files (ulimit -n)")
    return FleetflameError(message)
