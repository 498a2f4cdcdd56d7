"""The process that parses: `python -m aggregator.symbols.worker SOCKET`, a descriptor of a Unix socket.

What the socket brings is one job a message, with the descriptors of its files. The process forks for each job, and the
fork confines itself, parses and ends: every file meets a process that no other file has touched, without the fifth of a
second that an interpreter takes to start and import. The process itself never reads a file. It ends when nobody has
asked for a while, or when the other end of the socket is closed.

    job       {"kind", "module", "limits"} and the descriptors input, output
    answer    {"status", "error", "answer"}: how the fork ended, the end of its standard error, what it said
"""

import contextlib
import json
import mmap
import os
import socket
import sys
from dataclasses import asdict
from typing import Any

from aggregator.symbols.build import build_table
from aggregator.symbols.demangle import Demangler
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.jobs import MAX_MESSAGE, Answer, Job
from aggregator.symbols.kallsyms import kallsyms_table
from aggregator.symbols.sandbox import WorkerLimits, confine
from aggregator.symbols.tablefile import write_table
from fleetflame.model import MappingKind

MAX_ERROR = 4 << 10
IDLE_SECONDS = 60.0
"""It holds 45 MiB while it waits."""


def serve(channel: socket.socket) -> None:
    """Answers jobs, one after another, until idle or hung up on."""
    demangle = Demangler()  # made before the forks, because it loads a library
    channel.settimeout(IDLE_SECONDS)
    while True:
        with contextlib.suppress(TimeoutError):
            message, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 2)
            if not message:
                return
            reply = in_fork(message, descriptors, demangle, channel)
            with contextlib.suppress(BrokenPipeError):
                channel.send(reply)
            continue
        return


def in_fork(message: bytes, descriptors: list[int], demangle: Demangler, channel: socket.socket) -> bytes:
    """Forks, lets the fork do the job, and returns what to answer. Closes the descriptors."""
    read, write = os.pipe()
    error_read, error_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        channel.close()
        os.dup2(write, 1)
        os.dup2(error_write, 2)
        for descriptor in (read, write, error_read, error_write):
            os.close(descriptor)
        do(message, descriptors, demangle)
    for descriptor in (write, error_write, *descriptors):
        os.close(descriptor)
    # A fork writes its answer last and only if all went well, so that the two pipes cannot block each other for long
    # before it ends; what is more than a pipe holds is dropped by reading to the end.
    error, answer = _all_of(error_read)[-MAX_ERROR:], _all_of(read)
    _, status = os.waitpid(pid, 0)
    about = {
        "status": os.waitstatus_to_exitcode(status),
        "error": error.decode("utf-8", "replace"),
        "answer": answer.decode("utf-8", "replace"),
    }
    return json.dumps(about).encode()


def do(message: bytes, descriptors: list[int], demangle: Demangler) -> None:
    """The fork's life: confines itself, does the job, writes the answer, ends."""
    status = 1
    try:
        fields: dict[str, Any] = json.loads(message)
        job = Job(**(fields | {"limits": WorkerLimits(**fields["limits"])}))
        source, target = descriptors
        open_ends = tuple(confine(job.limits, file_size=os.fstat(source).st_size))
        answer = attempt(job, source, target, (demangle, open_ends))
        os.write(1, json.dumps(asdict(answer)).encode()[:MAX_MESSAGE])
        status = 0
    finally:
        # Nothing is left to tidy up, and a library's tidying up after a hostile file may crash.
        if status:
            sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(status)


def attempt(job: Job, source: int, target: int, tools: tuple[Demangler, tuple[str, ...]]) -> Answer:
    """The job's answer, faults included."""
    demangle, open_ends = tools
    try:
        return work(job, source, target, demangle=demangle, open_ends=open_ends)
    except SymbolFileError as error:
        return Answer(fault=error.fault, detail=error.message[:1000], open_ends=open_ends)
    except MemoryError:
        return Answer(fault=Fault.MEMORY, detail="parsing takes more memory than the limit", open_ends=open_ends)


def work(job: Job, source: int, target: int, *, demangle: Demangler, open_ends: tuple[str, ...]) -> Answer:
    """Parses the file `source` and writes its table to `target`. Raises SymbolFileError, MemoryError."""
    if os.fstat(source).st_size == 0:
        raise SymbolFileError(Fault.NOT_ELF, "the file is empty")
    mapped = mmap.mmap(source, 0, prot=mmap.PROT_READ)  # until the process ends
    with os.fdopen(target, "wb", closefd=False) as output:
        if job.kind == "kallsyms":
            kind = MappingKind.MODULE if job.module else MappingKind.KERNEL
            write_table(output, kallsyms_table(mapped[:], kind, job.module))
            return Answer(open_ends=open_ends)
        built = build_table(memoryview(mapped), limit=job.limits.inflated_bytes, demangle=demangle)
        write_table(output, built.table)
        return Answer(detail=built.note[:1000], build_id=str(built.build_id), open_ends=open_ends)


def _all_of(descriptor: int) -> bytes:
    """What comes through a pipe until its end; no more than MAX_MESSAGE of it is kept."""
    kept = b""
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while chunk := pipe.read(MAX_MESSAGE):
            kept = (kept + chunk)[-MAX_MESSAGE:]
    return kept


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        serve(inherited)
