"""What an agent may do and what it lacks, from the text that the kernel shows."""

from pathlib import Path

import pytest

from agent.privileges import (
    CAPABILITIES,
    SYS_ADMIN,
    effective,
    explain_refusal,
    is_held,
    missing,
    read_effective,
    shows_kernel_addresses,
)

ALL = (1 << 41) - 1
BPF, PERFMON = 1 << 39, 1 << 38


def test_capabilities_are_read_from_status() -> None:
    """The line that /proc/PID/status has."""
    assert effective("Name:\tx\nCapEff:\t000001ffffffffff\nSeccomp: 0") == ALL
    assert effective("Name:\tx\n") == 0
    assert 0 <= read_effective() <= ALL


def test_nothing_is_missing_from_all_and_all_from_nothing() -> None:
    """Those that sampling needs come first."""
    assert missing(ALL) == []
    assert missing(0) == list(CAPABILITIES)
    assert [each.needed for each in missing(0)] == sorted((each.needed for each in CAPABILITIES), reverse=True)


def test_sys_admin_stands_in_for_what_was_part_of_it() -> None:
    """And for nothing else."""
    assert [each.name for each in CAPABILITIES if is_held(each, 1 << SYS_ADMIN)] == ["CAP_BPF", "CAP_PERFMON"]


@pytest.mark.parametrize(
    ("held", "cause", "remedy"),
    [
        (0, "CAP_BPF and CAP_PERFMON are missing", "grant CAP_BPF and CAP_PERFMON"),
        (BPF, "CAP_PERFMON is missing", "grant CAP_PERFMON"),
        (PERFMON, "CAP_BPF is missing", "grant CAP_BPF"),
        (BPF | PERFMON, "although", "seccomp"),
    ],
)
def test_a_refusal_is_explained_by_what_is_missing(held: int, cause: str, remedy: str) -> None:
    """And if nothing is, by what else refuses."""
    said, hint = explain_refusal(held)
    assert cause in said
    assert remedy in hint


@pytest.mark.parametrize(("address", "shown"), [("ffffffff81000000", True), ("0000000000000000", False)])
def test_hidden_kernel_addresses_are_zeroes(address: str, shown: bool, tmp_path: Path) -> None:
    """As `kptr_restrict` makes them."""
    kallsyms = tmp_path / "kallsyms"
    kallsyms.write_text(f"0000000000000000 A fixed_percpu_data\n{address} T _stext\n")
    assert shows_kernel_addresses(kallsyms) is shown
