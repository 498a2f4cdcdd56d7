"""Names as people wrote them: C++, Rust (legacy and v0), Swift.

C++ goes through `__cxa_demangle` of libstdc++ where that library is installed, so that names are spelled as `c++filt`
and `perf` spell them; it refuses deep nesting by itself. Everything else, and C++ without libstdc++, goes through
`multi-demangle`, which is Sentry's demangler for Rust and Apple's for Swift. Both are handed bounded input and run in
the worker process, because a name comes from a file that nobody vouches for.
"""

import ctypes
import re
from collections.abc import Callable, Iterable

import multi_demangle

MAX_MANGLED = 8_192
"""Longer names stay as they are. The longest in Debian's libLLVM has 1,600 characters."""
MAX_DEMANGLED = 16_384
"""Substitutions let 1 KiB of mangled name expand to gigabytes; what comes out longer than this is cut."""

_RUST_LEGACY = re.compile(r"_?_ZN.*17h[0-9a-f]{16}E(\.[\w.]+)?$", re.DOTALL)
_SWIFT = ("$s", "$S", "_$s", "_$S", "_T0", "$e", "_$e")
_CLONE = re.compile(r"\.[A-Za-z]+(\.\d+)*$")


class Demangler:
    """Demangles with a memory of what it was asked before. Bounded by the number of names of one file."""

    def __init__(self) -> None:
        self._cplusplus = _find_libstdcxx()
        self._known: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """The name as written in the source, or `name` itself if it is not mangled."""
        if not is_mangled(name):
            return name
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._demangle(name)[:MAX_DEMANGLED]
        return found

    def all(self, names: Iterable[str]) -> list[str]:
        """Each name demangled, in order."""
        return [self(name) for name in names]

    def _demangle(self, name: str) -> str:
        if len(name) > MAX_MANGLED:
            return name
        if name.endswith("@plt"):
            return self._demangle(name.removesuffix("@plt")) + "@plt"
        if name.startswith("_Z") and not _RUST_LEGACY.match(name) and self._cplusplus is not None:
            return self._cplusplus(name) or name
        rust = name.startswith("_R") or _RUST_LEGACY.match(name) is not None
        found: str = multi_demangle.demangle_symbol(name, language="rust" if rust else None)
        clone = _CLONE.search(name)
        # A clone keeps its suffix, as in C++, so that two functions do not share one name; LLVM's own is noise.
        if rust and clone and found != name and not clone[0].startswith(".llvm."):
            return found.removesuffix(clone[0]) + clone[0]
        return found


def is_mangled(name: str) -> bool:
    """Whether the name starts as a mangled one does. Cheap; false for every name that C can spell but `_Z` and `_R`."""
    if name[:1] not in ("_", "$"):
        return False
    return name.startswith(("_Z", "__Z", "_R", *_SWIFT))


def _find_libstdcxx() -> Callable[[str], str | None] | None:
    try:
        library = ctypes.CDLL("libstdc++.so.6")
        function = library.__cxa_demangle
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]

    def demangle(name: str) -> str | None:
        status = ctypes.c_int()
        # Signature: char *__cxa_demangle(const char *mangled, char *buffer, size_t *length, int *status).
        pointer = function(name.encode("utf-8", "replace"), None, None, ctypes.byref(status))
        if not pointer:
            return None
        try:
            return ctypes.string_at(pointer, _length(pointer)).decode("utf-8", "replace")
        finally:
            free(pointer)

    return demangle


def _length(pointer: int) -> int:
    """strlen, no farther than MAX_DEMANGLED: a bomb's gigabyte is not copied."""
    strnlen = ctypes.CDLL(None).strnlen
    strnlen.argtypes, strnlen.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_size_t
    return int(strnlen(pointer, MAX_DEMANGLED))
