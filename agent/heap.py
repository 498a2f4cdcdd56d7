"""Keeps glibc's heap small: what a window needs for some milliseconds goes back to the kernel after it.

By default each thread gets an arena of its own, which is never given back, and the size from which a block is mapped by
itself grows to 32 MB as soon as such blocks come and go. A window's columns come and go every ten seconds: left alone,
an agent at 99 Hz keeps 20 MB for them (measured: 82 MB resident against 60).
"""

import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_SMALL = 128 * 1024


def give_back() -> None:
    """Returns to the kernel what is free in the middle of the heap too. To be called once a window; takes 1 ms."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_small() -> None:
    """To be called before threads start. Does nothing where the C library is not glibc."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_ARENA_MAX, 1)
    # Setting a threshold, even to its default, ends its growing.
    libc.mallopt(_M_MMAP_THRESHOLD, _SMALL)
    libc.mallopt(_M_TRIM_THRESHOLD, _SMALL)
