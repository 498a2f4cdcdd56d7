"""The kernel side as the agent sees it: windows of counted stacks, and what becomes of processes.

Two threads use a sampler: one calls `events` all the time, the other `take` once a window. Any thread may call
`set_layout` and `forget_layout`. Nothing here knows what an address means; that is `normalize`'s.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from agent import kernelmaps, loader
from agent.drain import MapSet
from agent.perfevents import CpuClocks, period_of
from agent.ringbuf import RingBuffer
from agent.window import EventKind, ProcessEvent, Window
from bpf import layout

_PAGE = 4096

_GRACE_S = 0.01
"""Between switching the active set and draining the other one: a program that had read the old index is done by then.
It runs with interrupts off for some 20 us; 10 ms leave room for a hypervisor that takes the CPU away meanwhile."""


class Sampler:
    """Samples from the moment it is made until `stop`. Raises FleetflameError if the kernel refuses."""

    def __init__(self, options: loader.LoadOptions, *, frequency: int) -> None:
        self._period_ns = period_of(frequency)
        self._options = options
        self._loaded = loader.load(options)
        maps = dict(self._loaded.maps)
        self._sets = (MapSet(maps, 0), MapSet(maps, 1))
        self._active = 0
        self._ring = RingBuffer(maps["events"], loader.EVENT_PAGES * _PAGE)
        self._codes = RingBuffer(maps["python_codes"], loader.PYTHON_CODE_PAGES * _PAGE)
        self._links = [kernelmaps.open_raw_tracepoint(name, fd) for name, fd in self._loaded.tracepoints.items()]
        self._clocks: CpuClocks | None = CpuClocks(self._loaded.sampler, frequency=frequency)
        self._clocks.refresh()
        self._start = time.monotonic_ns()
        self.degraded: dict[str, int] = {}
        """Of the last window: counters that cost a stack or labels, not a sample; by name."""

    def events(self, timeout_s: float) -> Iterator[ProcessEvent]:
        """What happened to processes since the last call; waits up to `timeout_s` for something to happen."""
        self._ring.wait(timeout_s)
        for record in self._ring.read():
            row = np.frombuffer(record, layout.PROCESS_EVENT, count=1)[0]
            yield ProcessEvent(
                kind=EventKind(int(row["kind"])),
                tgid=int(row["tgid"]),
                image=int(row["image"]),
                parent_image=int(row["parent_image"]),
                comm=bytes(row["comm"]).decode(errors="replace"),
            )

    def set_layout(self, image: int, number: int = 0) -> None:
        """From now on the samples of this image carry bare addresses: its mappings are known. `number` is that of its
        layout (`unwind.layouts`), 0 if it has none."""
        kernelmaps.put(self._loaded.maps["layouts"], image.to_bytes(8, "little"), number.to_bytes(8, "little"))

    def forget_layout(self, image: int) -> None:
        """From now on the kernel names build IDs in the samples of this image again. Before its layout's place is given
        to another: the process may run on."""
        kernelmaps.remove(self._loaded.maps["layouts"], image.to_bytes(8, "little"))

    def set_python(self, image: int, record: bytes) -> None:
        """From now on Python frames of this image are followed; `record` is that of `python.record`."""
        kernelmaps.put(self._loaded.maps["pythons"], image.to_bytes(8, "little"), record)

    def python_codes(self) -> Iterator[tuple[int, int, int]]:
        """(image, address, checksum) of code objects that were met since the last call, some not for the first time."""
        for record in self._codes.read():
            row = np.frombuffer(record, layout.PYTHON_CODE, count=1)[0]
            yield int(row["image"]), int(row["code"]), int(row["checksum"])

    @property
    def table_slots(self) -> int:
        """How many unwind tables the kernel has room for."""
        return self._options.table_entries

    def array(self, name: str, dtype: "np.dtype[Any]") -> kernelmaps.ArrayMap:
        """One of the arrays that the kernel's unwinder reads."""
        return kernelmaps.ArrayMap(self._loaded.maps[name], dtype, self._options.array_entries[name])

    def take(self) -> Window:
        """What was sampled since the last call. Follows CPUs that came and went meanwhile. Raises OSError."""
        if self._clocks:
            self._clocks.refresh()
        drained = self._sets[self._active]
        self._active ^= 1
        kernelmaps.put(self._loaded.maps["active_set"], bytes(4), self._active.to_bytes(4, "little"))
        # The width is the monotonic clock's: the wall clock may have been set back since the window began.
        end_ns, end = time.time_ns(), time.monotonic_ns()
        start_ns = end_ns - (end - self._start)
        self._start = end
        time.sleep(_GRACE_S)
        window, self.degraded = drained.take(start_ns=start_ns, end_ns=end_ns, period_ns=self._period_ns)
        return window

    def stop(self) -> None:
        """No sample is taken after this; one more `take` has the last ones."""
        if self._clocks:
            self._clocks.close()
            self._clocks = None

    def close(self) -> None:
        """Frees everything in the kernel. To be called once no thread uses the sampler any more."""
        self.stop()
        for link in self._links:
            os.close(link)
        self._ring.close()
        self._codes.close()
        self._loaded.close()
