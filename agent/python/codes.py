"""The functions of running interpreters by address of their code object: read once, kept while they are in use.

A function is read when the kernel first tells of it, in the middle of a window, since many programs end before it
does; what was missed then is read when the window is normalized. An entry is found again by address and checksum
together, for one process image: an address that is another function's now has another checksum.
"""

import threading
from collections import OrderedDict

from agent import metrics
from agent.image import Image
from agent.python.code import Code, CodeMiss, read_code
from agent.python.memory import Memory

MAX_CODES = 4096
"""Functions held of all processes together. A large application has 2,000 that are ever sampled; beside a test suite
each process brings its own, which nobody asks for any more once it has ended."""
MAX_READS = 4096
"""Functions read a window: 20 us each, 0.1 s of work at most, whatever the processes do."""

Seen = tuple[int, int]
"""(address, checksum), as the kernel saw them."""


class Codes:
    """Safe for two threads: one that follows the kernel, one that normalizes."""

    def __init__(self, *, max_codes: int = MAX_CODES, max_reads: int = MAX_READS) -> None:
        self._max_codes = max_codes
        self._max_reads = max_reads
        self._reads_left = max_reads
        self._known: OrderedDict[tuple[int, Seen], Code | CodeMiss] = OrderedDict()
        self._shared: dict[Code, Code] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, image: Image, seen: Seen) -> Code | CodeMiss:
        """The function that the kernel saw in this image; read now if that was not done before."""
        key = image.id, seen
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        found = self._read(image, seen)
        metrics.PYTHON_FUNCTIONS.labels(found.value if isinstance(found, CodeMiss) else "read").inc()
        if found is not CodeMiss.TOO_MANY:
            with self._lock:
                self._known[key] = found = self._one_for_all(found)
                if len(self._known) > self._max_codes:
                    self._known.popitem(last=False)
        return found

    def _one_for_all(self, found: Code | CodeMiss) -> Code | CodeMiss:
        """Equal functions of different processes are one object: workers and test suites run the same program often."""
        if isinstance(found, CodeMiss):
            return found
        if len(self._shared) >= self._max_codes:
            self._shared.clear()
        return self._shared.setdefault(found, found)

    def note(self, image: Image | None, seen: Seen) -> None:
        """Reads a function that the kernel has met, if there are reads left and its image is known."""
        if image is not None and not image.ended:
            self.find(image, seen)

    def end_window(self) -> None:
        """One window is normalized: what could not be read in it may be tried again."""
        with self._lock:
            self._reads_left = self._max_reads
            for key in [key for key, found in self._known.items() if isinstance(found, CodeMiss)]:
                del self._known[key]

    def _read(self, image: Image, seen: Seen) -> Code | CodeMiss:
        python = image.snapshot.python if image.snapshot else None
        if python is None:
            return CodeMiss.GONE
        if self._reads_left <= 0:
            return CodeMiss.TOO_MANY
        self._reads_left -= 1
        build, (address, expected) = python.build, seen
        try:
            return read_code(Memory(image.tgid).read, build.layout, build.code_type + python.bias, address, expected)
        except (ProcessLookupError, PermissionError):
            return CodeMiss.GONE
