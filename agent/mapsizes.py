"""How large the kernel's maps are, where the operator did not say: enough for one window of this machine, not of the
largest. They are allocated at the start, twice, and so they are what sampling costs a node most.
"""

from agent.config import AgentConfig, Unwind
from agent.loader import LoadOptions

# (least, most) entries. Above: as many as a window has samples, times what stands at each.
_COUNTS = (2048, 1 << 16)
_STACKS = (2048, 1 << 14)
"""The most: 36 MB. A machine of 64 CPUs at 99 Hz takes 63,000 samples in a window, but a program's stacks repeat; where
they do not, `stack_map_full` counts it and the option raises it."""
_ID_STACKS = (256, 8192)
"""A quarter of the samples: the kernel resolves stacks only until user space has read the mappings, milliseconds after
a process's first sample. What finds no room goes to the other map as addresses."""
_UNREAD = 4
_PYTHON_STACKS = (256, 4096)
"""Of a machine that runs little else than Python: a quarter of the stacks. What finds no room costs its samples their
Python frames, counted as `python_stack_map_full`."""
_PROCESSES = 16384
_KINDS_OF_STACK = 2  # user and kernel


def load_options(config: AgentConfig, *, cpus: int) -> LoadOptions:
    """The sizes that `config` gives, and chosen ones where it gives none, for that many CPUs."""
    samples = cpus * config.frequency * config.window
    return LoadOptions(
        counts_entries=config.counts_entries or _within(samples, _COUNTS),
        stack_entries=config.stack_entries or _within(samples * _KINDS_OF_STACK, _STACKS),
        id_stack_entries=config.id_stack_entries or _within(samples // _UNREAD, _ID_STACKS),
        python_stack_entries=_within(samples, _PYTHON_STACKS),
        process_entries=config.process_entries or _PROCESSES,
        row_entries=config.unwind_rows if config.unwind is Unwind.TABLES else 2,
        per_thread=config.thread_label,
    )


def _within(entries: int, bounds: tuple[int, int]) -> int:
    """The next power of two, within bounds."""
    return min(max(1 << max(entries - 1, 0).bit_length(), bounds[0]), bounds[1])
