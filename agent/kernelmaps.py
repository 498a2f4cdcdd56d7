"""BPF maps and links from user space: what the sampler needs of bpf(2) and no more. Maps go straight into numpy.

Layouts of `union bpf_attr`: kernel, include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import syscalls
from fleetflame.errors import PrivilegeError, cause_of

_ONLINE = Path("/sys/devices/system/cpu/online")

_LOOKUP_ELEM = 1
_UPDATE_ELEM = 2
_DELETE_ELEM = 3
_RAW_TRACEPOINT_OPEN = 17
_LOOKUP_AND_DELETE_BATCH = 25
_UPDATE_BATCH = 26

Rows = NDArray[Any]


def _attributes(layout: str, *values: int) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(struct.pack(layout, *values), struct.calcsize(layout))


class HashMap:
    """A hash map with keys of one dtype and values of another. `fd` stays the caller's."""

    def __init__(self, fd: int, key: np.dtype[Any], value: np.dtype[Any], *, chunk: int) -> None:
        self._fd = fd
        self._key = key
        self._value = value
        self._chunk = chunk

    def drain(self) -> Iterator[tuple[Rows, Rows]]:
        """Takes all entries out, at most `chunk` (keys, values) at a time.

        The arrays are views into buffers that the next step overwrites. Raises OSError.
        """
        token = ctypes.c_uint64(0)
        first, exhausted = True, False
        # Made for each drain: kept, those of all maps would hold 1 MB for the ten seconds in between.
        keys, values = self._buffers()
        while not exhausted:
            attributes = _attributes(
                "<QQQQIIQQ",
                0 if first else ctypes.addressof(token),
                ctypes.addressof(token),
                keys.ctypes.data,
                values.ctypes.data,
                len(keys),
                self._fd,
                0,
                0,
            )
            try:
                syscalls.bpf(_LOOKUP_AND_DELETE_BATCH, attributes)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    # One bucket holds more than the buffers do; nothing was taken.
                    self._chunk *= 2
                    keys, values = self._buffers()
                    continue
                if error.errno != errno.ENOENT:
                    raise
                exhausted = True
            count = struct.unpack_from("<I", attributes, 32)[0]
            first = False
            if count:
                yield keys[:count], values[:count]

    def _buffers(self) -> tuple[Rows, Rows]:
        return np.zeros(self._chunk, self._key), np.zeros(self._chunk, self._value)


class ArrayMap:
    """An array map of `entries` entries of one dtype, written in ranges. `fd` stays the caller's."""

    def __init__(self, fd: int, dtype: np.dtype[Any], entries: int) -> None:
        self._fd = fd
        self._dtype = dtype
        self.entries = entries

    def write(self, first: int, values: Rows) -> None:
        """Sets the entries from `first` on. Raises OSError."""
        entries = np.ascontiguousarray(values, self._dtype)
        keys = np.arange(first, first + len(values), dtype=np.uint32)
        attributes = _attributes("<QQQQIIQQ", 0, 0, keys.ctypes.data, entries.ctypes.data, len(values), self._fd, 0, 0)
        if len(values):
            syscalls.bpf(_UPDATE_BATCH, attributes)


class CounterArray:
    """A per-CPU array of 64-bit counters."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._cpus = possible_cpus()

    def take(self) -> list[int]:
        """Sums over all CPUs, and sets the counters back to 0. For a map that no program writes to at the moment."""
        values = np.zeros(self._cpus, np.uint64)
        zeros = np.zeros(self._cpus, np.uint64)
        totals = []
        for index in range(self._size):
            key = ctypes.c_uint32(index)
            _element(_LOOKUP_ELEM, self._fd, ctypes.addressof(key), values.ctypes.data)
            _element(_UPDATE_ELEM, self._fd, ctypes.addressof(key), zeros.ctypes.data)
            totals.append(int(values.sum()))
        return totals


def put(fd: int, key: bytes, value: bytes) -> None:
    """Sets one entry of a map that is not per CPU. Raises OSError."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    _element(_UPDATE_ELEM, fd, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer))


def remove(fd: int, key: bytes) -> None:
    """Removes one entry of a hash map, if it is there. Raises OSError."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _element(_DELETE_ELEM, fd, ctypes.addressof(key_buffer), 0)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def open_raw_tracepoint(name: str, program: int) -> int:
    """A descriptor; until it is closed, `program` is called at the raw tracepoint. Raises OSError."""
    text = ctypes.create_string_buffer(name.encode())
    return syscalls.bpf(_RAW_TRACEPOINT_OPEN, _attributes("<QII", ctypes.addressof(text), program, 0))


def _element(command: int, fd: int, key: int, value: int) -> None:
    syscalls.bpf(command, _attributes("<IIQQQ", fd, 0, key, value, 0))


def possible_cpus() -> int:
    """How many values a per-CPU map has: CPUs that could ever come online."""
    return max(parse_cpu_list(Path("/sys/devices/system/cpu/possible").read_text())) + 1


def online_cpus() -> list[int]:
    """CPUs that run now. Raises FleetflameError."""
    try:
        return parse_cpu_list(_ONLINE.read_text())
    except OSError as error:
        cause = cause_of(error)
        raise PrivilegeError(f"failed to read `{_ONLINE}`: {cause}", hint="mount /sys") from error


def parse_cpu_list(text: str) -> list[int]:
    """Numbers in the kernel's list format, such as `0-3,8`. Raises ValueError."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus
