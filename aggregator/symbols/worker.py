"""The process that parses one file: `python -m aggregator.symbols.worker`, job on standard input, answer on output.

Job and answer are one JSON object each. The files are descriptors that the parent opened: after `confine` this process
can open nothing. It is made anew for each file, so that whatever a file does to it ends with it.
"""

import json
import mmap
import os
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from aggregator.symbols.build import build_table
from aggregator.symbols.demangle import Demangler
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.kallsyms import kallsyms_table
from aggregator.symbols.sandbox import WorkerLimits, confine
from aggregator.symbols.tablefile import write_table
from fleetflame.model import MappingKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do. `kind` is "elf" or "kallsyms"; `module` is the one to take out of a kallsyms text, "" the kernel."""

    input: int
    output: int
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


def main() -> None:
    """Reads a job, writes an answer."""
    fields: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    job = Job(**(fields | {"limits": WorkerLimits(**fields["limits"])}))
    demangle = Demangler()  # made before, because it loads a library
    open_ends = tuple(confine(job.limits, file_size=os.fstat(job.input).st_size))
    try:
        answer = work(job, demangle, open_ends)
    except SymbolFileError as error:
        answer = Answer(fault=error.fault, detail=error.message, open_ends=open_ends)
    except MemoryError:
        answer = Answer(fault=Fault.MEMORY, detail="parsing takes more memory than the limit", open_ends=open_ends)
    sys.stdout.write(json.dumps(asdict(answer)))


def work(job: Job, demangle: Demangler, open_ends: tuple[str, ...]) -> Answer:
    """Does the job. Raises SymbolFileError, MemoryError."""
    if os.fstat(job.input).st_size == 0:
        raise SymbolFileError(Fault.NOT_ELF, "the file is empty")
    mapped = mmap.mmap(job.input, 0, prot=mmap.PROT_READ)  # until the process ends
    with open(job.output, "wb", closefd=False) as output:
        if job.kind == "kallsyms":
            kind = MappingKind.MODULE if job.module else MappingKind.KERNEL
            write_table(output, kallsyms_table(mapped[:], kind, job.module))
            return Answer(open_ends=open_ends)
        built = build_table(memoryview(mapped), limit=job.limits.inflated_bytes, demangle=demangle)
        write_table(output, built.table)
        return Answer(detail=built.note, build_id=str(built.build_id), open_ends=open_ends)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # nothing is left to tidy up, and a library's tidying up after a hostile file may crash
