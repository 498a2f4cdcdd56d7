"""Whether an ELF file holds a CPython, of which version, and where. Pure: bytes of the file in, values out.

By its exports, not by its name: a `python3.X` that exports nothing but `Py_BytesMain` is not it, its `libpython3.X` is,
and so is any program that an interpreter was linked into.
"""

from dataclasses import dataclass
from enum import StrEnum

from agent.elf import ReadAt
from agent.python.debugoffsets import SIZE, OffsetsMiss, parse_offsets
from agent.python.dynamic import DynamicSymbols, Symbol
from agent.python.layouts import LAYOUTS, Layout


class BuildMiss(StrEnum):
    """Why a CPython cannot be looked into. With those of `OffsetsMiss`."""

    OTHER_VERSION = "unsupported_version"
    STRIPPED = "symbols_missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonBuild:
    """One build. Addresses are ELF virtual addresses; `evaluation` is 0, 0 where it is not needed."""

    version: tuple[int, int]
    layout: Layout
    runtime: int
    code_type: int
    evaluation: Symbol


@dataclass(frozen=True, slots=True)
class RunningPython:
    """A CPython in a process: which build, and what to add to its virtual addresses."""

    build: PythonBuild
    bias: int


def read_build(read_at: ReadAt) -> PythonBuild | BuildMiss | OffsetsMiss | None:
    """The CPython in the file behind `read_at`, None if there is none."""
    symbols = DynamicSymbols(read_at)
    runtime = symbols.find(b"_PyRuntime")
    if runtime is None:
        return None
    minor = _minor_version(symbols)
    code_type = symbols.find(b"PyCode_Type")
    evaluation = symbols.find(b"_PyEval_EvalFrameDefault")
    if minor is None:
        return BuildMiss.OTHER_VERSION
    if code_type is None or evaluation is None:
        return BuildMiss.STRIPPED
    layout = LAYOUTS.get(minor) or parse_offsets(symbols.read(runtime.value, SIZE))
    if isinstance(layout, OffsetsMiss):
        return layout
    return PythonBuild(
        version=(3, minor),
        layout=layout,
        runtime=runtime.value,
        code_type=code_type.value,
        evaluation=evaluation,
    )


def _minor_version(symbols: DynamicSymbols) -> int | None:
    """3.11 and later say it; before, functions tell that came with a version. Release candidates count as released."""
    said = symbols.find(b"Py_Version")
    if said is not None:
        data = symbols.read(said.value, 4)
        number = int.from_bytes(data, "little")
        released = number >> 4 & 0xF in (0xC, 0xF)
        return number >> 16 & 0xFF if len(data) == 4 and number >> 24 == 3 and released else None
    for minor, name in ((10, b"PyModule_AddObjectRef"), (9, b"PyModule_AddType"), (8, b"PyCode_NewWithPosOnlyArgs")):
        if symbols.find(name):
            return minor
    return None
