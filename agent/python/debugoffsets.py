"""`_Py_DebugOffsets`: what every CPython from 3.13 on says of its own structures, at the very start of `_PyRuntime`.

    char cookie[8] = "xdebugpy"; uint64_t version, free_threaded;
    then groups of uint64_t: one for each structure, its size first.

It is initialised data, so the file has it. The order of its fields is fixed within a minor version, and no other: the
slots below are those of Include/internal/pycore_debug_offsets.h at 3.13 and 3.14.
"""

import struct
from collections.abc import Mapping
from enum import StrEnum

from agent.python.layouts import Layout, LineKind, Runs

COOKIE = b"xdebugpy"
SIZE = 8 + 8 * 80
"""Bytes that hold every slot below."""

_LARGEST = 1 << 20
"""Structures are larger than that in no version; PyInterpreterState has 220 KiB."""


class OffsetsMiss(StrEnum):
    """Why a build cannot be looked into."""

    NO_COOKIE = "no_debug_offsets"
    OTHER_VERSION = "unsupported_version"
    FREE_THREADED = "free_threaded"
    IMPLAUSIBLE = "implausible_offsets"


# Number of the slot after the cookie.
_SLOTS: Mapping[int, Mapping[str, int]] = {
    13: {
        "interpreters_head": 4,
        "interpreter_next": 7,
        "interpreter_threads": 8,
        "thread_next": 20,
        "thread_frame": 22,
        "thread_id": 23,
        "frame_previous": 28,
        "frame_code": 29,
        "frame_instruction": 30,
        "frame_end": 32,
        "code_filename": 34,
        "code_name": 36,
        "code_lines": 37,
        "code_firstlineno": 38,
        "code_instructions": 42,
        "text_ascii": 69,
    },
    14: {
        "interpreters_head": 4,
        "interpreter_next": 7,
        "interpreter_threads": 8,
        "thread_next": 23,
        "thread_frame": 25,
        "thread_id": 26,
        "frame_previous": 31,
        "frame_code": 32,
        "frame_instruction": 33,
        "frame_end": 35,
        "code_filename": 39,
        "code_name": 41,
        "code_lines": 42,
        "code_firstlineno": 43,
        "code_instructions": 47,
        "text_ascii": 79,
    },
}


def parse_offsets(data: bytes) -> Layout | OffsetsMiss:
    """The layout that a build describes; `data` are the first SIZE bytes of its `_PyRuntime`."""
    if len(data) < SIZE or data[:8] != COOKIE:
        return OffsetsMiss.NO_COOKIE
    slots = struct.unpack_from("<80Q", data, 8)
    minor = slots[0] >> 16 & 0xFF
    if slots[0] >> 24 != 3 or minor not in _SLOTS:
        return OffsetsMiss.OTHER_VERSION
    if slots[1]:
        # Other structures, and instructions that lie in a copy for each thread.
        return OffsetsMiss.FREE_THREADED
    found = {name: slots[slot] for name, slot in _SLOTS[minor].items()}
    if not _plausible(found):
        return OffsetsMiss.IMPLAUSIBLE
    return Layout(
        runs=Runs.SHIM,
        lines=LineKind.LOCATIONS,
        text_compact=found["text_ascii"] + 16,  # utf8_length and utf8
        **found,
    )


def _plausible(found: Mapping[str, int]) -> bool:
    """Whether the kernel program can use them: it reads the first 80 bytes of a frame, in words."""
    return (
        max(found.values()) < _LARGEST
        and max(found["frame_previous"], found["frame_code"], found["frame_instruction"]) <= 72
        and not any(found[name] % 8 for name in ("frame_previous", "frame_code", "frame_instruction", "code_lines"))
        and found["frame_end"] < 80
        and 80 <= found["code_lines"] <= 1024
        and max(value for name, value in found.items() if name.startswith(("code_", "thread_"))) <= 4096
    )
