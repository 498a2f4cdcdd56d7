"""The reading side of a BPF ring buffer, in the calling process and without libbpf.

    page 0            consumer position (u64), written by us
    page 1            producer position (u64), written by the kernel
    pages 2 ...       data, mapped twice in a row so that no record wraps

A record is an 8-byte header {length u32: BUSY bit 31, DISCARD bit 30; page offset u32}, then the data, padded to 8
(kernel: kernel/bpf/ringbuf.c).
"""

import mmap
import select
import struct
from collections.abc import Iterator

_BUSY = 1 << 31
_DISCARD = 1 << 30
_HEADER = 8


class RingBuffer:
    """Records of a ring buffer map of `size` bytes (a power of two, at least a page). Owned by one thread."""

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._data = page
        self._epoll = select.epoll()
        self._epoll.register(fd, select.EPOLLIN)

    def wait(self, seconds: float) -> None:
        """Returns when there is something to read or the time is up."""
        self._epoll.poll(seconds)

    def read(self) -> Iterator[bytes]:
        """Complete records, oldest first; each is given back to the kernel when the next one is asked for."""
        position = struct.unpack_from("<Q", self._consumer)[0]
        while position < struct.unpack_from("<Q", self._producer)[0]:
            at = self._data + (position & self._size - 1)
            length = struct.unpack_from("<I", self._producer, at)[0]
            if length & _BUSY:
                return  # being written on another CPU; records are given out in order, so we wait for it
            discarded = length & _DISCARD
            length &= _DISCARD - 1
            if not discarded:
                yield self._producer[at + _HEADER : at + _HEADER + length]
            position += _HEADER + (length + 7) // 8 * 8
            struct.pack_into("<Q", self._consumer, 0, position)

    def close(self) -> None:
        """Unmaps the pages; the descriptor stays the caller's."""
        self._epoll.close()
        self._consumer.close()
        self._producer.close()
