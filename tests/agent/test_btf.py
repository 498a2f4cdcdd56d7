"""Offsets of kernel structure members, on type information built here and on the running kernel's."""

import struct
from pathlib import Path

import pytest

from agent import btf


def image(types: bytes, strings: bytes) -> bytes:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


STRINGS = b"\0int\0task_struct\0pid\0tgid\0flags\0"
INT = struct.pack("<III", STRINGS.index(b"int"), 1 << 24, 4) + struct.pack("<I", 32)
POINTER = struct.pack("<III", 0, 2 << 24, 1)


def structure(*, bitfields: bool = False) -> bytes:
    members = [(b"pid", 32 * 8), (b"tgid", 36 * 8)]
    body = b"".join(struct.pack("<III", STRINGS.index(name + b"\0"), 1, bits) for name, bits in members)
    info = 4 << 24 | len(members) | (1 << 31 if bitfields else 0)
    return struct.pack("<III", STRINGS.index(b"task_struct"), info, 40) + body


@pytest.mark.parametrize("bitfields", [False, True])
def test_members_are_found_behind_types_of_other_kinds(bitfields: bool) -> None:
    """Types in front are stepped over by their own lengths."""
    found = btf.member_offsets(
        image(INT + POINTER + structure(bitfields=bitfields), STRINGS), "task_struct", ("tgid", "pid")
    )
    assert found == {"tgid": 36, "pid": 32}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (image(structure(), STRINGS)[:60], "truncated|knows no"),
        (b"\x7fELF" + bytes(60), "not BTF"),
        (image(INT, STRINGS), "knows no"),
        (image(struct.pack("<III", 0, 31 << 24, 0) + structure(), STRINGS), "newer kind"),
    ],
)
def test_a_malformed_image_is_refused(data: bytes, message: str) -> None:
    """Refused by ValueError: the loader turns it into one line."""
    with pytest.raises(ValueError, match=message):
        btf.member_offsets(data, "task_struct", ("pid",))


def test_the_running_kernel_agrees_with_itself() -> None:
    """The kernel declares pid and tgid one after the other, in this order (include/linux/sched.h)."""
    path = Path("/sys/kernel/btf/vmlinux")
    if not path.exists():
        pytest.skip("this kernel has no BTF")
    found = btf.member_offsets(path.read_bytes(), "task_struct", ("pid", "tgid", "mm"))
    assert found["tgid"] == found["pid"] + 4
    assert found["mm"] % 8 == 0
