"""One small profile with a frame of every kind, and one with names that would like to be markup."""

from aggregator.profile import Profile
from fleetflame.model import FrameMiss, NamedFrame
from tests.aggregator.profiles import APP, JIT, KERNEL, LIBC, MISS, PYTHON, Names, Row, profile

NAMES: Names = {
    (APP, 0x1010): [("main", "app.c", 30)],
    (APP, 0x1020): [("work(int)", "app.c", 9), ("square", "math.h", 4)],
    (KERNEL, 0x5): [("vfs_read", "", 0)],
    (KERNEL, 0x9): [("copy_page", "", 0)],
}
NAMED = {1: NamedFrame("Shop.quote", "Shop.java", 12), 2: NamedFrame("handle (views.py)", "views.py", 7)}
ROWS: list[Row] = [
    (("app", "node-a"), [(APP, 0x1010), (APP, 0x1020)], 50),
    (("app", "node-b"), [(APP, 0x1010), (APP, 0x1020)], 10),
    (("app", "node-a"), [(APP, 0x1010), (LIBC, 0x28F3), (KERNEL, 5), (KERNEL, 9)], 20),
    (("app", "node-a"), [(APP, 0x1010)], 5),
    (("java", "node-b"), [(APP, 0x1010), (JIT, 1)], 8),
    (("python3", "node-b"), [(PYTHON, 2), (APP, 0x1020)], 4),
    (("app", "node-b"), [(MISS, FrameMiss.DEPTH_LIMIT), (APP, 0x1020)], 2),
    (("app", "node-b"), [(APP, 0x1010), (MISS, FrameMiss.UNMAPPED)], 1),
]
HOSTILE = (
    "<script>alert(1)</script>",
    "</title></svg><script>alert(1)</script>",
    "]]></script><script>alert(1)//",
    "\"'><img src=x onerror=alert(1)>",
    "&lt;b&gt; &amp;",
    "\u202egnp.exe\u2066",
    "a;b\nc\r\n\x00\x1b[31m",
    "\udcff\udc00",
    "</script",
    "<!--",
    "${alert(1)} `x` \\u003cscript\\u003e",
    "🔥 שלום",
)


def every_kind(*, by: tuple[str, ...] = ("comm", "node")) -> Profile:
    """100 samples, of all kinds of frames, on two nodes."""
    rows = [(values[: len(by)], frames, count) for values, frames, count in ROWS]
    return profile(rows, NAMES, NAMED, by=by)


def hostile() -> Profile:
    """Names that are markup, script, controls, marks and broken encodings, as functions and as a process."""
    names: Names = {(APP, address): [(name, "", 0)] for address, name in enumerate(HOSTILE, 1)}
    rows: list[Row] = [((name,), [(APP, address), (LIBC, address)], 5) for address, name in enumerate(HOSTILE, 1)]
    return profile(rows, names)
