"""Reads the memory of other processes, without stopping them. Needs CAP_SYS_PTRACE for those of other users."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


class _Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = (
    ctypes.c_int,
    ctypes.POINTER(_Piece),
    ctypes.c_ulong,
    ctypes.POINTER(_Piece),
    ctypes.c_ulong,
    ctypes.c_ulong,
)

MAX_READ = 64 * 1024


class Memory:
    """Of one process. Not for two threads."""

    def __init__(self, tgid: int) -> None:
        self._tgid = tgid
        self._buffer = ctypes.create_string_buffer(MAX_READ)

    def read(self, address: int, length: int) -> bytes:
        """Up to `length` bytes, MAX_READ at most; fewer where they end, none where there is nothing.

        Raises ProcessLookupError if the process is gone, PermissionError.
        """
        length = min(length, MAX_READ)
        if length <= 0 or not 0 < address < 1 << 56:
            return b""
        ours = _Piece(ctypes.addressof(self._buffer), length)
        theirs = _Piece(address, length)
        got: int = _libc.process_vm_readv(self._tgid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
        if got >= 0:
            return ctypes.string_at(self._buffer, got)
        code = ctypes.get_errno()
        error = OSError(code, os.strerror(code))
        if isinstance(error, ProcessLookupError | PermissionError):
            raise error
        return b""
