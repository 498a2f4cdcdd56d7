"""How failures of the system read in messages."""

import errno

import pytest

from fleetflame.errors import cause_of


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOENT, "No such file or directory", "/x"), "no such file or directory"),
        (
            OSError(errno.EADDRINUSE, "Address already in use (while attempting to bind on ...)"),
            "address already in use",
        ),
        (OSError("Odd"), "odd"),
        (OSError(), "OSError"),
    ],
)
def test_a_cause_is_lower_case_and_nothing_but_the_cause(error: OSError, told: str) -> None:
    """What was attempted stands in the message around it."""
    assert cause_of(error) == told
