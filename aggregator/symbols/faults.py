"""Why a symbol file, or a source of symbol files, gave no table. The reasons are counted, stored and shown."""

from enum import StrEnum

from fleetflame.errors import FleetflameError


class Fault(StrEnum):
    """One reason each. A fault of the content is final for that content; a fault of a source is tried again later."""

    NOT_ELF = "not_elf"
    UNSUPPORTED = "unsupported_elf"
    """32-bit, big-endian, or an unknown version of ELF."""
    TRUNCATED = "truncated"
    """Something that the headers place in the file lies beyond its end."""
    HEADERS = "absurd_headers"
    """Sizes or counts that no linker writes: an entry size of 0, 10^6 sections, an index out of its table."""
    OVERLAP = "overlapping_sections"
    INFLATES = "inflates_too_much"
    """Compressed sections would take more memory than the limit."""
    COMPRESSION = "bad_compression"
    TOO_LARGE = "too_large"
    NO_SYMBOLS = "no_symbols"
    NO_BUILD_ID = "no_build_id"
    WRONG_BUILD_ID = "wrong_build_id"
    CONFLICT = "conflict"
    """Another content names the same build, differently, and came first."""
    KALLSYMS = "bad_kallsyms"
    MEMORY = "memory_limit"
    CPU = "cpu_limit"
    TIME = "time_limit"
    CRASHED = "parser_crashed"
    """The worker died. The content is hostile or the parser has a bug; either way it is not tried again."""
    BAD_RESULT = "bad_result"
    """The worker's result does not hold together."""

    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    """The source answered, and what it answered was not accepted: a redirect to a private address, a bad status."""
    DISK = "disk_full"


_AGAIN = "get the file again from where it was built: no linker writes that"
HINTS = {
    Fault.NOT_ELF: "give the executable or library itself, or its separate debug file",
    Fault.UNSUPPORTED: "64-bit little-endian files are read, of x86_64 and aarch64",
    Fault.TRUNCATED: "the file is cut short: copy it again",
    Fault.HEADERS: _AGAIN,
    Fault.OVERLAP: _AGAIN,
    Fault.INFLATES: _AGAIN,
    Fault.COMPRESSION: _AGAIN,
    Fault.NO_SYMBOLS: "the file was stripped: give it as it was linked, or its separate debug file",
    Fault.DISK: "make room where the aggregator keeps symbols, or lower --symbols-budget",
}
"""What whoever gave a file can do about its fault, where the message does not say better."""


class SymbolFileError(FleetflameError):
    """A file cannot be used for symbols. `fault` is what it is counted under, the message says what was found."""

    def __init__(self, fault: Fault, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint or HINTS.get(fault, ""))
        self.fault = fault
