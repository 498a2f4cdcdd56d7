"""Which parts of an array are free. Pure."""

from bisect import bisect_left


class Extents:
    """Places 0 to `size` - 1, all free at first. First fit: what lives long gathers at the beginning."""

    def __init__(self, size: int) -> None:
        self._starts = [0] if size else []
        self._lengths = [size] if size else []

    @property
    def free(self) -> int:
        """How many places are free."""
        return sum(self._lengths)

    def take(self, length: int) -> int | None:
        """The first of `length` places that were free and are not any more; None if there is no such gap."""
        for at, gap in enumerate(self._lengths):
            if gap >= length:
                start = self._starts[at]
                if gap == length:
                    del self._starts[at], self._lengths[at]
                else:
                    self._starts[at] += length
                    self._lengths[at] -= length
                return start
        return None

    def give_back(self, start: int, length: int) -> None:
        """Frees what `take` gave."""
        at = bisect_left(self._starts, start)
        # SANITY: what is free already would be given to two.
        assert at == len(self._starts) or start + length <= self._starts[at], "freed twice"
        assert not at or self._starts[at - 1] + self._lengths[at - 1] <= start, "freed twice"
        self._starts.insert(at, start)
        self._lengths.insert(at, length)
        for left in (at, at - 1):
            if 0 <= left < len(self._starts) - 1 and self._starts[left] + self._lengths[left] == self._starts[left + 1]:
                self._lengths[left] += self._lengths.pop(left + 1)
                del self._starts[left + 1]
