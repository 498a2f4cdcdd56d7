"""How a frame is written, and what its name tells. Folded text is read by people and other tools: names carry the kind.

    comm                       first frame: the process; before it the values of `by` labels
    name  name_[i]             native, inlined
    name_[k]                   kernel, its modules, BPF programs
    name_[j]  name_[p]         JIT code, interpreter
    [binary+0x1234]            no name: binary and file offset; [kernel+0x1234]_[k] in the kernel
    [unmapped]                 no name, and why
    [truncated: depth limit]   frames are missing here

The suffixes are those of `stackcollapse-perf`. Because the kind can be read off the name, merging by name loses nothing
that a picture needs, and text from elsewhere is coloured like our own.
"""

import hashlib
import re
from enum import IntEnum
from functools import lru_cache

from fleetflame.model import TRUNCATIONS, FrameMiss

REMEMBERED = 1 << 17
"""Names of which is remembered what they tell: queries that follow each other have nearly the same."""
MAX_NAME = 4096
"""Characters of one name. Longer ones (expanded templates) are cut and end in a digest, so that they stay apart."""


class FrameKind(IntEnum):
    """What a frame is, for colours, legends and `--no-kernel`."""

    LABEL = 0
    """The value of a `by` label."""
    PROCESS = 1
    """The process's comm."""
    NATIVE = 2
    KERNEL = 3
    INLINED = 4
    JIT = 5
    INTERPRETER = 6
    UNKNOWN = 7
    """There is a frame, and no name for it."""
    TRUNCATED = 8
    """Frames are missing."""


SUFFIXES = {
    FrameKind.KERNEL: "_[k]",
    FrameKind.INLINED: "_[i]",
    FrameKind.JIT: "_[j]",
    FrameKind.INTERPRETER: "_[p]",
}
_KIND_OF_SUFFIX = {suffix: kind for kind, suffix in SUFFIXES.items()}
_TRUNCATED = "[truncated: "

# What may not stand in a line of text or in XML: controls, line separators, lone surrogates, noncharacters. And marks
# that reorder the text after them (UAX #9), with which one name could pass for another: none is part of an identifier.
_BREAKS = re.compile("[\t\n\v\f\r\x85\u2028\u2029]")
_INERT = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)


def clean(name: str) -> str:
    """`name` as one field of a folded line: `;` is `:`, white space is a space, other controls are U+FFFD."""
    if name.isascii() and name.isprintable() and ";" not in name and len(name) <= MAX_NAME:
        return name
    name = inert(name).replace(";", ":")
    suffix = name[-4:] if name[-4:] in _KIND_OF_SUFFIX else ""
    if len(name) - len(suffix) > MAX_NAME:
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        name = f"{name[: MAX_NAME - 9]}…{digest}{suffix}"
    return name


def inert(name: str) -> str:
    """`name` without what acts on a terminal or a page: white space is a space, other controls are U+FFFD."""
    return name if name.isascii() and name.isprintable() else _INERT.sub("�", _BREAKS.sub(" ", name))


def miss_name(number: int) -> str:
    """The placeholder for a miss. A number that this version does not know is shown as it is."""
    try:
        miss = FrameMiss(number)
    except ValueError:
        return f"[miss {number}]"
    reason = miss.name.lower().replace("_", " ")
    if miss in TRUNCATIONS:
        return f"{_TRUNCATED}{reason}]"
    return f"[{reason}]_[k]" if miss is FrameMiss.KERNEL_HIDDEN else f"[{reason}]"


_NO_KERNEL_STACK = miss_name(FrameMiss.NO_KERNEL_STACK)


@lru_cache(REMEMBERED)
def kind_of(name: str) -> FrameKind:
    """The kind that a rendered name of code tells: never LABEL or PROCESS, which only its place tells."""
    kind = _KIND_OF_SUFFIX.get(name[-4:]) if name.endswith("]") else None
    if kind in (None, FrameKind.KERNEL) and name.startswith("["):
        if name.startswith(_TRUNCATED):
            return FrameKind.TRUNCATED
        if name.endswith("]") and "]" not in name[: -5 if kind else -1]:
            return FrameKind.UNKNOWN
    return FrameKind.NATIVE if kind is None else kind


def is_kernel(name: str) -> bool:
    """Whether a rendered name of code belongs to the kernel, named or not."""
    return name.endswith("_[k]") or name == _NO_KERNEL_STACK


def package_of(name: str) -> str:
    """What colours a name beside its kind: namespace, package, class path or prefix; the name itself if it has none.

    `std::vector<int>::push_back` -> `std`, `github.com/x/y.(*T).Run` -> `github.com/x/y`, `com/foo/Bar.run` ->
    `com/foo/Bar`, `tcp_sendmsg_[k]` -> `tcp`.
    """
    if name[-4:] in _KIND_OF_SUFFIX:
        name = name[:-4]
    if name.startswith("["):
        return name.partition("+")[0]
    head = re.split(r"[<( ]", name.lstrip("_<~"), maxsplit=1)[0]
    if "::" in head:
        return head.partition("::")[0]
    path, slash, last = head.rpartition("/")
    first, dot, _ = last.partition(".")
    if slash or dot:
        return path + slash + first
    return head.partition("_")[0] or name
