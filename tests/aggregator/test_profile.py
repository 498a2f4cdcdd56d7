"""Profiles: names for frames, one question per mapping, and no sample lost on the way."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.fold import fold
from aggregator.profile import Completeness
from aggregator.render.folded import render
from aggregator.selector import parse_selector
from aggregator.storage.types import Frames, ProfileQuery, Selected
from fleetflame.buildid import BuildId
from fleetflame.model import FrameMiss, Mapping, MappingKind, NamedFrame
from tests.aggregator.profiles import (
    APP,
    BPF,
    IMPORTED,
    JIT,
    KERNEL,
    LIBC,
    MISS,
    MODULE,
    PERIOD_NS,
    PYTHON,
    VDSO,
    Names,
    build_profile,
    profile,
    symbolizer,
)

NAMES: Names = {
    (APP, 0x10): [("main", "app.c", 3)],
    (APP, 0x20): [("work", "app.c", 9), ("square", "math.h", 4)],
    (KERNEL, 0x5): [("vfs_read", "", 0)],
    (MODULE, 0x7): [("nft_do_chain", "", 0)],
}


def folded(*rows: object, **options: object) -> str:
    """The folded text of a profile of these rows."""
    return render(fold(profile(list(rows), **{"names": NAMES, **options}))).decode()  # type: ignore[arg-type]


def test_frames_are_named_by_kind() -> None:
    """Native, inlined, kernel, module, JIT, interpreter, BPF and imported frames carry what tells them apart."""
    named = {
        1: NamedFrame("hot", "a.js", 1),
        2: NamedFrame("f (x.py:1)"),
        3: NamedFrame("ready_[k]"),
        4: NamedFrame("g"),
    }
    stack = [(APP, 0x10), (APP, 0x20), (JIT, 1), (PYTHON, 2), (IMPORTED, 3), (KERNEL, 5), (MODULE, 7), (BPF, 4)]
    assert folded((("app",), stack, 3), named=named) == (
        "app;main;work;square_[i];hot_[j];f (x.py:1)_[p];ready_[k];vfs_read_[k];nft_do_chain_[k];g_[k] 3\n"
    )


def test_frames_without_a_name_say_where_they_are() -> None:
    """Base name and offset; the build ID's head for want of a path; kernel and modules with their suffix."""
    pathless = Mapping(MappingKind.FILE, BuildId(bytes(range(20))))
    nothing = Mapping(MappingKind.FILE)
    stack = [(LIBC, 0x28F3), (pathless, 1), (nothing, 2), (VDSO, 3), (KERNEL, 0x99), (MODULE, 0x98), (JIT, 404)]
    assert folded((("c",), stack, 1)) == (
        "c;[libc.so.6+0x28f3];[000102030405+0x1];[unknown+0x2];[vdso+0x3];[kernel+0x99]_[k];[nf_tables+0x98]_[k];"
        "[jit frame] 1\n"
    )


def test_misses_are_placeholders() -> None:
    """A truncated stack says so at its root side, after the process; other misses stand where the frame would."""
    stack = [(MISS, FrameMiss.DEPTH_LIMIT), (APP, 0x10), (MISS, FrameMiss.ANONYMOUS)]
    assert folded((("c",), stack, 2)) == "c;[truncated: depth limit];main;[anonymous] 2\n"


def test_a_stack_that_was_never_received_keeps_its_samples() -> None:
    """What the store cannot find is counted as truncated."""
    rows = [(("c",), [(APP, 0x10)], 2), (("c",), [(APP, 0x20)], 5)]
    made = profile(rows, NAMES, lost=[[(APP, 0x20)]])
    assert render(fold(made)) == b"c;[truncated: not received] 5\nc;main 2\n"
    assert made.completeness == Completeness(whole=2, truncated=5)


def test_label_values_come_before_the_process() -> None:
    """`by` labels are the first frames in their order, comm after them; a missing label is told apart."""
    rows = [(("web", "node-a", ""), [(APP, 0x10)], 1), (("web", "node-b", "x;y"), [(APP, 0x10)], 2)]
    assert folded(*rows, by=("comm", "node", "unit")) == ("node-a;[no unit];web;main 1\nnode-b;x:y;web;main 2\n")


def test_no_kernel_keeps_the_samples() -> None:
    """Kernel frames go, of whatever kind, and rows that become equal are one."""
    rows = [
        (("c",), [(APP, 0x10), (KERNEL, 5)], 1),
        (("c",), [(APP, 0x10), (MODULE, 0x98)], 2),
        (("c",), [(APP, 0x10), (MISS, FrameMiss.KERNEL_HIDDEN)], 4),
        (("c",), [(APP, 0x10), (IMPORTED, 1), (MISS, FrameMiss.NO_KERNEL_STACK)], 8),
        (("c",), [(KERNEL, 5)], 16),
        (("d",), [(APP, 0x10)], 32),
    ]
    made = profile(rows, NAMES, {1: NamedFrame("x_[k]")}, no_kernel=True)
    assert render(fold(made)) == b"c 16\nc;main 15\nd;main 32\n"
    assert len(made.detail().count) == 3
    assert made.completeness == Completeness(whole=63)


def test_each_sample_is_in_one_class_of_completeness() -> None:
    """A stack both truncated and unnamed counts as truncated; columns and text agree."""
    rows = [
        (("c",), [(APP, 0x10)], 1),
        (("c",), [(MISS, 16), (LIBC, 1)], 2),
        (("c",), [(LIBC, 1)], 4),
        (("c",), [(MISS, FrameMiss.UNMAPPED)], 8),
    ]
    made = profile(rows, NAMES)
    assert made.completeness == Completeness(whole=1, truncated=2, unsymbolized=12)
    assert fold(made).completeness() == made.completeness
    assert made.completeness.total == 15


def test_a_mapping_is_asked_once_for_distinct_addresses() -> None:
    """However often a frame occurs, the symbolizer sees its address once, in order."""
    asked: list[tuple[Mapping, list[int]]] = []
    known = symbolizer(NAMES)

    def symbolize(mapping: Mapping, addresses: NDArray[np.uint64]) -> object:
        asked.append((mapping, addresses.tolist()))
        return known(mapping, addresses)

    selected = Selected(
        groups=(("c",),),
        group=np.zeros(2, np.uint32),
        stack=np.array([1, 2], np.uint64),
        count=np.array([1, 2], np.uint64),
        value=np.array([1, 2], np.uint64),
    )
    frames = Frames(
        stacks=np.array([1, 2], np.uint64),
        offsets=np.array([0, 3, 5], np.uint32),
        mapping=np.array([7, 7, 8, 7, 9], np.uint64),
        address=np.array([0x20, 0x10, 5, 0x20, 1], np.uint64),
    )
    query = ProfileQuery(selector=parse_selector("cpu"), from_ns=0, until_ns=1)
    made = build_profile(selected, frames, {7: APP, 8: KERNEL}, {}, symbolize, query=query)  # type: ignore[arg-type]
    assert asked == [(APP, [0x10, 0x20]), (KERNEL, [5])]
    assert render(fold(made)) == b"c;work;square_[i];[unknown mapping] 2\nc;work;square_[i];main;vfs_read_[k] 1\n"


def test_values_are_kept_beside_counts() -> None:
    """Nanoseconds of equal rows add up; the period is what one sample is worth."""
    made = profile([(("c",), [(APP, 0x10)], 3)], NAMES)
    assert made.value.tolist() == [3 * PERIOD_NS]
    assert made.origin.period_ns == PERIOD_NS


@pytest.mark.parametrize("no_kernel", [False, True])
def test_nothing_selected_is_an_empty_profile(no_kernel: bool) -> None:
    """A query without samples gives a profile without stacks, and empty text."""
    made = profile([], no_kernel=no_kernel)
    assert made.completeness == Completeness()
    assert render(fold(made)) == b""


def test_a_stack_without_frames_is_its_process() -> None:
    """A process can be all that is known."""
    assert folded((("kworker/0:1",), [], 4)) == "kworker/0:1 4\n"
