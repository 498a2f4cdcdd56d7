"""Reading one structure byte by byte, within bounds: for the few that are not read as columns."""

from fleetflame.cfi.faults import CfaError, CfaFault

MAX_LEB = 10


class Cursor:
    """A position in `data`. Every read moves it, and raises CfaError beyond the end."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def more(self) -> bool:
        return self.at < len(self.data)

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise CfaError(CfaFault.TRUNCATED, f"{count} bytes wanted, {len(self.data) - self.at} there")
        part = self.data[self.at : end]
        self.at = end
        return part

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def signed(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little", signed=True)

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise CfaError(CfaFault.TRUNCATED, "a byte wanted, none there")
        value = self.data[self.at]
        self.at += 1
        return value

    def uleb(self) -> int:
        """An unsigned LEB128 number of 10 bytes at most."""
        return self._leb()[0]

    def sleb(self) -> int:
        """A signed LEB128 number of 10 bytes at most."""
        value, bits = self._leb()
        return value - (1 << bits) if value >> (bits - 1) else value

    def block(self) -> bytes:
        """As many bytes as the ULEB128 number before them says."""
        return self.take(self.uleb())

    def text(self) -> bytes:
        """Bytes up to a NUL, which is skipped."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise CfaError(CfaFault.TRUNCATED, "a text without an end")
        part = self.data[self.at : end]
        self.at = end + 1
        return part

    def _leb(self) -> tuple[int, int]:
        value = 0
        for bits in range(0, 7 * MAX_LEB, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << bits
            if byte < 0x80:
                return value, bits + 7
        raise CfaError(CfaFault.STRUCTURE, f"a number of more than {MAX_LEB} bytes")
