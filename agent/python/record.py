"""What the kernel program has to know of one process: a row of its map of Python processes."""

import numpy as np

from agent.python.build import RunningPython
from agent.python.layouts import Runs
from bpf import layout


def pack_layout(python: RunningPython) -> bytes:
    """`struct python_layout` of bpf/python.h."""
    build, bias = python.build, python.bias
    row = np.zeros(1, layout.PYTHON_LAYOUT)
    for name in layout.PYTHON_LAYOUT.names or ():
        if hasattr(build.layout, name):
            row[name] = getattr(build.layout, name)
    row["interpreters"] = (build.runtime + bias + build.layout.interpreters_head) % (1 << 64)
    if build.layout.runs is Runs.EACH:
        row["eval"] = (build.evaluation.value + bias) % (1 << 64)
        row["eval_size"] = build.evaluation.size
    return row.tobytes()
