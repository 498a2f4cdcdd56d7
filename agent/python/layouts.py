"""Where CPython keeps things, by version: offsets in bytes in the structures of a 64-bit build.

3.8 to 3.12: from the DWARF of builds of 3.8.18, 3.9.18, 3.10.13, 3.11.7 and 3.12.1 (`ptype /o` of gdb); the structures
do not change within a minor version. From 3.13 on every build says its own: see `debugoffsets`.
"""

from dataclasses import dataclass
from enum import IntEnum


class Runs(IntEnum):
    """What tells one run of frames from the next; `enum python_runs` of bpf/python.h."""

    EACH = 0
    EACH_CFRAME = 1
    ENTRY = 2
    SHIM_CFRAME = 3
    SHIM = 4


class LineKind(IntEnum):
    """Form of a code object's table of lines."""

    LNOTAB = 0
    """Up to 3.9: co_lnotab."""
    RANGES = 1
    """3.10: co_linetable of PEP 626."""
    LOCATIONS = 2
    """From 3.11 on: PEP 657."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Of one version. 0 where a version has no such thing; names as in `struct python_layout` where it has them too."""

    runs: Runs
    lines: LineKind
    interpreters_head: int
    interpreter_next: int = 0
    interpreter_threads: int
    thread_next: int = 8
    thread_id: int
    thread_frame: int = 0
    thread_cframe: int = 0
    cframe_frame: int = 0
    cframe_previous: int = 0
    frame_code: int
    frame_previous: int
    frame_instruction: int
    frame_end: int = 0
    instruction_scale: int = 0
    code_firstlineno: int
    code_filename: int
    code_name: int
    code_lines: int
    code_instructions: int = 0
    text_ascii: int
    text_compact: int

    @property
    def code_checked(self) -> int:
        """Where the 11 words begin that the kernel sums up: they end with the pointer to the table of lines.

        Constant while the object lives. First line, sizes, and the pointers to names, file and lines are among them,
        from 3.12 on a number of its own too (co_version).
        """
        return self.code_lines - 80


_OLD = Layout(
    runs=Runs.EACH,
    lines=LineKind.LNOTAB,
    interpreters_head=32,
    interpreter_threads=8,
    thread_id=176,
    thread_frame=24,
    frame_code=32,
    frame_previous=24,
    frame_instruction=104,
    instruction_scale=1,
    code_firstlineno=40,
    code_filename=104,
    code_name=112,
    code_lines=120,
    text_ascii=48,
    text_compact=72,
)

LAYOUTS = {
    8: _OLD,
    9: _OLD,
    10: Layout(
        runs=Runs.EACH_CFRAME,
        lines=LineKind.RANGES,
        interpreters_head=32,
        interpreter_threads=8,
        thread_id=176,
        thread_frame=24,
        thread_cframe=48,
        cframe_previous=8,
        frame_code=32,
        frame_previous=24,
        frame_instruction=96,
        instruction_scale=2,
        code_firstlineno=40,
        code_filename=104,
        code_name=112,
        code_lines=120,
        text_ascii=48,
        text_compact=72,
    ),
    11: Layout(
        runs=Runs.ENTRY,
        lines=LineKind.LOCATIONS,
        interpreters_head=40,
        interpreter_threads=16,
        thread_id=152,
        thread_cframe=56,
        cframe_frame=8,
        cframe_previous=16,
        frame_code=32,
        frame_previous=48,
        frame_instruction=56,
        frame_end=68,
        code_firstlineno=72,
        code_filename=112,
        code_name=128,
        code_lines=136,
        code_instructions=184,
        text_ascii=48,
        text_compact=72,
    ),
    12: Layout(
        runs=Runs.SHIM_CFRAME,
        lines=LineKind.LOCATIONS,
        interpreters_head=40,
        interpreter_threads=72,
        thread_id=136,
        thread_cframe=56,
        cframe_frame=0,
        cframe_previous=8,
        frame_code=0,
        frame_previous=8,
        frame_instruction=56,
        frame_end=70,
        code_firstlineno=68,
        code_filename=112,
        code_name=128,
        code_lines=136,
        code_instructions=192,
        text_ascii=40,
        text_compact=56,
    ),
}
"""By minor version. `code_name` is co_qualname from 3.11 on, co_name before."""
