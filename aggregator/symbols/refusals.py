"""Symbol files that were not taken, from whichever source: each counted by reason, and said once per build and reason.

What no source has is no refusal, and nor is a file that was stripped: most of a fleet's are. Both stand in the list of
builds without symbols.
"""

import logging
from dataclasses import dataclass, field

from aggregator import metrics
from aggregator.symbols.faults import Fault, SymbolFileError

log = logging.getLogger(__name__)

NO_FILE = frozenset({Fault.NOT_FOUND, Fault.UNREACHABLE})
"""There was nothing to refuse."""
EXPECTED = frozenset({Fault.NO_SYMBOLS})
"""Counted, and no news to anybody."""
COUNTED = frozenset({Fault.CONFLICT})
"""A verdict, which is counted and said as such."""
MAX_SAID = 10_000
"""Pairs that are remembered: 1 MB. Beyond that all are forgotten, and what is refused again is said again."""


@dataclass(slots=True)
class Refusals:
    """One aggregator's."""

    _said: set[tuple[str, Fault]] = field(default_factory=set)

    def note(self, error: SymbolFileError, *, about: str, source: str) -> None:
        """`about` is the build's ID, or what the file is called where it has none."""
        if error.fault in NO_FILE | COUNTED:
            return
        metrics.SYMBOL_FILES.labels(error.fault).inc()
        if error.fault in EXPECTED or (about, error.fault) in self._said:
            return
        if len(self._said) >= MAX_SAID:
            self._said.clear()
        self._said.add((about, error.fault))
        extra = {"of": about, "source": source, "reason": error.fault.value, "error": error.message}
        log.warning("refused a symbol file", extra=extra)
