"""The table of unwind rules: what it holds, and what it refuses to be."""

import dataclasses

import numpy as np
import pytest

from fleetflame.cfi import RULE_DTYPE, CfaError, CfaFault, CfaKind, UnwindTable


def table(pc: tuple[int, ...] = (0x10, 0x20, 0x28, 0x40), rule: tuple[int, ...] = (1, 2, 1, 0)) -> UnwindTable:
    rules = np.zeros(3, RULE_DTYPE)
    rules["cfa"][1:] = CfaKind.SP
    rules["a"][1:] = 8, 16
    return UnwindTable(pc=np.array(pc, np.uint32), base=0x1000, rule=np.array(rule, np.uint32), rules=rules, dropped={})


def test_a_rule_has_twelve_bytes() -> None:
    """The kernel's struct has no padding either."""
    assert RULE_DTYPE.itemsize == 12
    assert [RULE_DTYPE.fields[name][1] for name in RULE_DTYPE.names] == [0, 1, 2, 3, 4, 8, 10]


def test_an_address_has_the_rule_of_the_row_before_it() -> None:
    """Rows reach to the next one; below the first and from the last on there is a gap."""
    found = table().find(np.array([0x0, 0x100F, 0x1010, 0x101F, 0x1020, 0x103F, 0x1040, 1 << 63], np.uint64))
    assert found["a"].tolist() == [0, 0, 8, 8, 16, 8, 0, 0]
    assert found["cfa"].tolist() == [0, 0, 2, 2, 2, 2, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"base": 0x1001},
        {"base": (1 << 64) - 4096, "pc": np.array([0, 1, 2, 4096], np.uint32)},
        {"pc": np.array([1, 1, 2, 3], np.uint32)},
        {"pc": np.array([1, 2, 3], np.uint32)},
        {"rule": np.array([1, 2, 3, 0], np.uint32)},
        {"rule": np.array([1, 2, 0, 1], np.uint32)},
        {"rule": np.array([1, 1, 2, 0], np.uint32)},
        {"rules": np.zeros(3, np.uint64)},
        {"pc": np.zeros(0, np.uint32), "rule": np.zeros(0, np.uint32)},
    ],
)
def test_a_table_is_valid_once_built(change: dict[str, object]) -> None:
    """What does not hold together is refused with a reason."""
    with pytest.raises(CfaError) as caught:
        dataclasses.replace(table(), **change)  # type: ignore[arg-type]
    assert caught.value.reason == CfaFault.STRUCTURE


@pytest.mark.parametrize("field", ["cfa", "bp", "reg", "flags"])
def test_a_rule_of_unknown_kind_is_refused(field: str) -> None:
    """So that the kernel never meets one."""
    rules = table().rules.copy()
    rules[field][2] = 200
    with pytest.raises(CfaError):
        dataclasses.replace(table(), rules=rules)
