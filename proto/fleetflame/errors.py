"""Everything that fleetflame raises on purpose.

    FleetflameError            the operator's problem: exit code 1 and a way out, printed once by the command line
    ├── UsageError             the command line or a file given to it is wrong: exit code 2
    ├── cfi.CfaError           no unwind table can be had from these bytes; counted under `reason`
    └── PrivilegeError         a capability or kernel feature is missing
    DecodeError                bytes from outside that cannot be accepted; the catcher counts it under `reason`

A frame without a name is no error: see `model.FrameMiss`. A broken invariant of our own is an assertion.
"""

from enum import StrEnum


class FleetflameError(Exception):
    """An operation failed for a reason that the operator can mend; `hint` says how, or is empty."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FleetflameError):
    """An option, selector, time or configuration file is malformed."""

    exit_code = 2


class PrivilegeError(FleetflameError):
    """The kernel refused: a capability, a feature or a setting is missing."""


class RejectReason(StrEnum):
    """Why a message from a node was not stored. One counter each; also the last column of the dead-letter subject."""

    TOO_LARGE = "too_large"
    COMPRESSION = "bad_compression"
    PROTOBUF = "bad_protobuf"
    VERSION = "newer_version"
    STRUCTURE = "bad_structure"
    LEDGER = "unbalanced_ledger"
    NODE = "foreign_node"
    FUTURE = "from_the_future"
    TOO_OLD = "beyond_retention"


class DecodeError(ValueError):
    """A message cannot be accepted: `reason` is what the ledger counts it under, the text says what was found."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


def cause_of(error: OSError) -> str:
    """Why the system refused, as messages say it: lower case, and nothing but the cause."""
    # Libraries append what was attempted, in brackets: the message says that already.
    text = (error.strerror or str(error)).partition(" (")[0]
    return text.lower() or type(error).__name__
