"""Normalized windows for tests: given as plain rows, or arbitrary ones."""

import numpy as np
from hypothesis import strategies as st

from agent.normalize import NormalizedWindow
from fleetflame.buildid import BuildId
from fleetflame.model import Mapping, MappingKind, NamedFrame
from tests.support.batches import stack_table

Stack = tuple[str, ...]
Rows = dict[tuple[str, Stack], int]
"""(comm, names of frames root first) -> samples. A frame is `binary+offset`, `jit:name`."""

WINDOW_NS = 10_000_000_000
START_NS = 1_700_000_000_000_000_000


def window_of(rows: Rows, *, index: int = 0, lost: dict[str, int] | None = None) -> NormalizedWindow:
    """The window number `index` with these rows."""
    stacks = sorted({stack for _, stack in rows})
    binaries = sorted({frame.split("+")[0] for stack in stacks for frame in stack if "+" in frame})
    names = sorted({frame.split(":")[1] for stack in stacks for frame in stack if ":" in frame})
    comms = sorted({comm for comm, _ in rows})
    files = [Mapping(kind=MappingKind.FILE, build_id=BuildId(name.encode()), path=f"/bin/{name}") for name in binaries]

    def frame(text: str) -> tuple[int, int]:
        if ":" in text:
            return len(files), names.index(text.split(":")[1])
        name, offset = text.split("+")
        return binaries.index(name), int(offset)

    ordered = sorted(rows.items())
    return NormalizedWindow(
        start_ns=START_NS + index * WINDOW_NS,
        end_ns=START_NS + (index + 1) * WINDOW_NS,
        period_ns=10_101_010,
        mappings=(*files, Mapping(kind=MappingKind.JIT)),
        named=tuple(NamedFrame(name) for name in names),
        series=tuple((("comm", comm),) for comm in comms),
        stacks=stack_table([[frame(text) for text in stack] for stack in stacks]),
        row_series=np.array([comms.index(comm) for (comm, _), _ in ordered], np.uint32),
        row_stack=np.array([stacks.index(stack) for (_, stack), _ in ordered], np.uint32),
        row_count=np.array([count for _, count in ordered], np.uint64),
        taken=sum(rows.values()) + sum((lost or {}).values()),
        lost=lost or {},
    )


def row_sets() -> st.SearchStrategy[Rows]:
    """Rows over few names, so that stacks, mappings and series repeat from window to window."""
    frame = st.builds("{}+{}".format, st.sampled_from("abc"), st.integers(0, 3)) | st.sampled_from(["jit:f", "jit:g"])
    stack = st.lists(frame, max_size=4).map(tuple)
    return st.dictionaries(st.tuples(st.sampled_from(["x", "y", "z"]), stack), st.integers(1, 99), max_size=12)
