"""Python's side of `shared.h`: layouts, counters and the flags that make the compiler compare the two."""

from enum import IntEnum
from importlib.resources import files
from pathlib import Path

import numpy as np

MAX_DEPTH = 128
MAX_ID_DEPTH = 127
MASK_WORDS = MAX_DEPTH // 64

COUNT_KEY = np.dtype(
    [
        ("image", "<u8"),
        ("user", "<u8"),
        ("kernel", "<u8"),
        ("python", "<u8"),
        ("tgid", "<u4"),
        ("tid", "<u4"),
        ("comm", "S16"),
    ]
)
STACK = np.dtype(
    [
        ("depth", "<u4"),
        ("stop", "<u4"),
        ("exact", "<u8", (MASK_WORDS,)),
        ("by_frame_pointer", "<u8", (MASK_WORDS,)),
        ("address", "<u8", (MAX_DEPTH,)),
    ]
)
ID_FRAME = np.dtype([("status", "<u4"), ("build_id", "u1", (20,)), ("address", "<u8")])
ID_STACK = np.dtype([("depth", "<u4"), ("unused", "<u4"), ("frame", ID_FRAME, (MAX_ID_DEPTH,))])
REGION = np.dtype([("start", "<u8"), ("bias", "<u8"), ("length", "<u4"), ("table", "<u4")])
TABLE = np.dtype([("base", "<u8"), ("first_page", "<u4"), ("pages", "<u4")])
PAGE = np.dtype([("first_row", "<u4"), ("rows", "<u4")])
ROWS = np.dtype("<u8")
"""Two rows of 4 bytes, as numpy has no dtype for them."""
RULE_BYTES = 12
"""Of a rule as fleetflame.cfi.rules packs it."""
PAGE_BITS = 16
REGION_STEPS = 13
CODE_PAGE = 4096
PROCESS_EVENT = np.dtype([("kind", "<u4"), ("tgid", "<u4"), ("image", "<u8"), ("parent_image", "<u8"), ("comm", "S16")])
PYTHON_LAYOUT = np.dtype(
    [
        ("interpreters", "<u8"),
        ("eval", "<u8"),
        ("eval_cold", "<u8"),
        ("eval_size", "<u4"),
        ("eval_cold_size", "<u4"),
        ("interpreter_next", "<u4"),
        ("interpreter_threads", "<u4"),
        ("thread_next", "<u2"),
        ("thread_id", "<u2"),
        ("thread_frame", "<u2"),
        ("thread_cframe", "<u2"),
        ("cframe_frame", "<u2"),
        ("cframe_previous", "<u2"),
        ("frame_code", "<u2"),
        ("frame_previous", "<u2"),
        ("frame_instruction", "<u2"),
        ("frame_end", "<u2"),
        ("code_checked", "<u2"),
        ("code_instructions", "<u2"),
        ("runs", "u1"),
        ("instruction_scale", "u1"),
        ("unused", "u1", (6,)),
    ]
)
PYTHON_CODE = np.dtype([("image", "<u8"), ("code", "<u8"), ("checksum", "<u4"), ("unused", "<u4")])
PYTHON_WORDS = 318
PYTHON_STACK = np.dtype([("depth", "<u4"), ("miss", "<u4"), ("word", "<u8", (PYTHON_WORDS,))])


class Counter(IntEnum):
    """Index in the counters map; `enum counter` of shared.h, in its order."""

    TAKEN = 0
    COUNTS_FULL = 1
    NO_USER_STACK = 2
    NO_KERNEL_STACK = 3
    STACK_MAP_FULL = 4
    STACK_COLLISION = 5
    ID_STACK_MAP_FULL = 6
    PROCESS_MAP_FULL = 7
    EVENT_LOST = 8
    NO_TAIL_CALL = 9
    PYTHON_STACK_MAP_FULL = 10
    PYTHON_CODE_LOST = 11


LOSSES = (Counter.COUNTS_FULL,)
"""Counters whose samples are gone."""

DEGRADATIONS = tuple(counter for counter in Counter if counter not in (*LOSSES, Counter.TAKEN))
"""Counters that keep the sample and cost it a part of its stack, or its process its labels."""

PROGRAMS = ("sched_process_exec", "sched_process_fork", "sched_process_exit")
"""Raw tracepoints, by the name that the kernel and cpu.c give them."""


def flags() -> dict[str, int]:
    """What `shared.h` asserts: sizes in bytes, offsets in bytes, number of counters."""
    return {
        "SIZEOF_COUNT_KEY": COUNT_KEY.itemsize,
        "SIZEOF_STACK": STACK.itemsize,
        "SIZEOF_ID_FRAME": ID_FRAME.itemsize,
        "SIZEOF_ID_STACK": ID_STACK.itemsize,
        "SIZEOF_PROCESS_EVENT": PROCESS_EVENT.itemsize,
        "SIZEOF_PYTHON_LAYOUT": PYTHON_LAYOUT.itemsize,
        "SIZEOF_PYTHON_STACK": PYTHON_STACK.itemsize,
        "SIZEOF_PYTHON_CODE": PYTHON_CODE.itemsize,
        "OFFSETOF_COMM": COUNT_KEY.fields["comm"][1] if COUNT_KEY.fields else -1,
        "OFFSETOF_ID_ADDRESS": ID_FRAME.fields["address"][1] if ID_FRAME.fields else -1,
        "SIZEOF_REGION": REGION.itemsize,
        "SIZEOF_TABLE": TABLE.itemsize,
        "SIZEOF_RULE": RULE_BYTES,
        "SIZEOF_PAGE": PAGE.itemsize,
        "PAGE_BITS": PAGE_BITS,
        "REGION_STEPS": REGION_STEPS,
        "NUMBER_OF_COUNTERS": len(Counter),
    }


def source_folder() -> Path:
    """Where cpu.c and the header tree lie, in a checkout as in an installed wheel."""
    return Path(str(files("bpf")))
