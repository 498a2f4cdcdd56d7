"""What a worker is asked and what it answers, as values. Light: the aggregator imports it, the parsers it does not."""

from dataclasses import dataclass, field

from aggregator.symbols.sandbox import WorkerLimits

MAX_MESSAGE = 64 << 10
"""Of a job and of an answer: what a pipe holds, so that writing one never waits for a reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do. `kind` is "elf" or "kallsyms"; `module` is the one to take out of a kallsyms text, "" the kernel."""

    kind: str = "elf"
    module: str = ""
    limits: WorkerLimits = field(default_factory=WorkerLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of it. `fault` is "" for success; `build_id` is hex, "" for kallsyms."""

    fault: str = ""
    detail: str = ""
    build_id: str = ""
    open_ends: tuple[str, ...] = ()
    """What of the confinement this system did not allow."""
