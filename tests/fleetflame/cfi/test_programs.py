"""Programs of call frame instructions: what each does, and that columns say the same as one by one."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetflame.cfi import BpKind, CfaError, CfaKind, Dropped, UnwindTable, compile_table
from fleetflame.cfi.cie import parse_cie
from fleetflame.cfi.exact import Machine
from fleetflame.cfi.rulebook import Rule, rule_of
from tests.support.frames import CODE, START, Frames, block, cie, eh_frame, sleb, uleb

SP8 = (CfaKind.SP, 0, 0, 0, 8, 0, 0)
SP16 = (CfaKind.SP, 0, 0, 0, 16, 0, 0)
GAP = (0, 0, 0, 0, 0, 0, 0)
UNSUPPORTED = (CfaKind.UNSUPPORTED, 0, 0, 0, 0, 0, 0)
PUSHED = (CfaKind.SP, BpKind.AT_CFA, 0, 0, 16, -16, 0)
PUSH_RBP = b"\x41\x0e\x10\x86\x02"


def rows(table: UnwindTable) -> list[tuple[int, Rule]]:
    """(address, rule) of each row."""
    return [(table.base + int(pc), table.rules[rule].tolist()) for pc, rule in zip(table.pc, table.rule, strict=True)]


def of(program: bytes, start: bytes = START, **options: object) -> list[tuple[int, Rule]]:
    """The rows of one function of 0x40 bytes, relative to its beginning."""
    frames = Frames().cie(start, **options).fde(CODE + 0x100, 0x40, program)
    return [(at - CODE - 0x100, rule) for at, rule in rows(compile_table(eh_frame(frames)))]


def expression(op: int, data: bytes, register: int | None = None) -> bytes:
    return bytes([op]) + (b"" if register is None else uleb(register)) + block(data)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (b"", [(0, SP8)]),
        (PUSH_RBP, [(0, SP8), (1, PUSHED)]),
        (b"\x02\x05\x0e\x10", [(0, SP8), (5, SP16)]),
        (b"\x03\x05\x00\x0e\x10", [(0, SP8), (5, SP16)]),
        (b"\x04\x05\x00\x00\x00\x0e\x10", [(0, SP8), (5, SP16)]),
        # A row of no bytes does not count; one that says the same is none.
        (b"\x0e\x10\x40\x0e\x08\x41\x0e\x08", [(0, SP8)]),
        # What lies behind the function's end does not hold.
        (b"\x02\x40\x0e\x10", [(0, SP8)]),
        (b"\x41\x0d\x06", [(0, SP8), (1, (CfaKind.BP, 0, 0, 0, 8, 0, 0))]),
        (b"\x41\x0c\x0a\x00", [(0, SP8), (1, (CfaKind.REGISTER, 0, 10, 0, 0, 0, 0))]),
        (b"\x41\x0e\x80\x80\x04", [(0, SP8), (1, (CfaKind.SP, 0, 0, 0, 1 << 16, 0, 0))]),
        (b"\x41\x12\x07\x7e", [(0, SP8), (1, SP16)]),
        (b"\x41\x13\x7e", [(0, SP8), (1, SP16)]),
        (PUSH_RBP + b"\x41\xc6\x0e\x08", [(0, SP8), (1, PUSHED), (2, SP8)]),
        (PUSH_RBP + b"\x41\x06\x06\x0e\x08", [(0, SP8), (1, PUSHED), (2, SP8)]),
        (PUSH_RBP + b"\x41\x08\x06\x0e\x08", [(0, SP8), (1, PUSHED), (2, SP8)]),
        (b"\x41\x0e\x10\x05\x06\x02", [(0, SP8), (1, PUSHED)]),
        (b"\x41\x0e\x10\x11\x06\x02", [(0, SP8), (1, PUSHED)]),
        (b"\x41\x0e\x10\x2f\x06\x02", [(0, SP8), (1, (CfaKind.SP, BpKind.AT_CFA, 0, 0, 16, 16, 0))]),
        # Other registers' rules, and the size of arguments, change nothing.
        (b"\x41\x83\x02\x05\x03\x02\x09\x03\x0a\x2e\x10\x14\x03\x01\x07\x0c\x08\x0c", [(0, SP8)]),
        # Remembered states, within each other too.
        (b"\x41\x0e\x10\x41\x0a\x0e\x08\x41\x0b", [(0, SP8), (1, SP16), (2, SP8), (3, SP16)]),
        (
            b"\x0a" + PUSH_RBP + b"\x41\x0a\x0e\x18\x41\x0b\x41\x0b\x41\x0e\x10",
            [
                (0, SP8),
                (1, PUSHED),
                (2, (CfaKind.SP, BpKind.AT_CFA, 0, 0, 24, -16, 0)),
                (3, PUSHED),
                (4, SP8),
                (5, SP16),
            ],
        ),
        (b"\x0a\x0a\x0a\x0a\x41\x0e\x10\x41\x0b\x0b\x0b\x0b", [(0, SP8), (1, SP16), (2, SP8)]),
        # The outermost frame.
        (b"\x07\x10", [(0, (CfaKind.STOP, 0, 0, 0, 0, 0, 0))]),
        # rbp is lost, or in a register: callers without need of it are found.
        (b"\x41\x07\x06", [(0, SP8), (1, (CfaKind.SP, BpKind.UNDEFINED, 0, 0, 8, 0, 0))]),
        (b"\x41\x09\x06\x0a", [(0, SP8), (1, (CfaKind.SP, BpKind.UNDEFINED, 0, 0, 8, 0, 0))]),
        # The return address elsewhere.
        (b"\x41\x09\x10\x05", [(0, SP8), (1, UNSUPPORTED)]),
        (b"\x41\x90\x02", [(0, SP8), (1, UNSUPPORTED)]),
        (b"\x41\x90\x02\x41\xd0", [(0, SP8), (1, UNSUPPORTED), (2, SP8)]),
        # Nobody knows such an instruction, nor its length; nothing to restore; an operand beyond the end.
        (b"\x41\x0e\x10\x17", [(0, UNSUPPORTED)]),
        (b"\x0b", [(0, UNSUPPORTED)]),
        (b"\x41\x0e\x10\x00\x00\x00\x03\x00", [(0, UNSUPPORTED)]),
        (b"\x0a" * 65, [(0, UNSUPPORTED)]),
    ],
)
def test_an_instruction_does_what_the_standard_says(program: bytes, expected: list[tuple[int, Rule]]) -> None:
    """DWARF 5, section 6.4.2, and what GNU added."""
    padding = -(len(program) + 17) % 4
    # An instruction that is cut off must end where its entry does.
    program = bytes(padding) + program if program.endswith(b"\x03\x00") else program
    assert of(program) == [*expected, (0x40, GAP)]


def test_a_location_may_be_set() -> None:
    """DW_CFA_set_loc, encoded as the function's address is; never backwards."""
    at = 4 + 4 + 9 + 1
    start = len(Frames().cie().data)
    pointer = struct.pack("<i", CODE + 0x108 - (0x20000 + start + at))
    assert of(b"\x01" + pointer + b"\x0e\x10") == [(0, SP8), (8, SP16), (0x40, GAP)]
    backwards = struct.pack("<i", CODE - (0x20000 + start + at))
    assert of(b"\x01" + backwards + b"\x0e\x10") == [(0, UNSUPPORTED), (0x40, GAP)]


PLT = bytes([0x77, 8, 0x80, 0, 0x3F, 0x1A, 0x3B, 0x2A, 0x33, 0x24, 0x22])


@pytest.mark.parametrize(
    ("program", "rule"),
    [
        (expression(0x0F, PLT), (CfaKind.PLT, 0, 0, 0, 11, 0, 0)),
        (expression(0x0F, PLT.replace(b"\x3b", b"\x3a")), (CfaKind.PLT, 0, 0, 0, 10, 0, 0)),
        (expression(0x0F, b"\x77\x08"), SP8),
        (expression(0x0F, b"\x92\x07\x08"), SP8),
        (expression(0x0F, b"\x77\x00\x08\x08\x22"), SP8),
        (expression(0x0F, b"\x38\x77\x00\x22"), SP8),
        (expression(0x0F, b"\x77\x10\x38\x1c"), SP8),
        (expression(0x0F, b"\x77\x80\x01\x06"), (CfaKind.DEREF_SP, 0, 0, 0, 128, 0, 0)),
        (expression(0x0F, b"\x77\x80\x01\x06\x23\x08"), (CfaKind.DEREF_SP, 0, 0, 0, 128, 0, 8)),
        (expression(0x0F, b"\x76\x78\x06"), (CfaKind.DEREF_BP, 0, 0, 0, -8, 0, 0)),
        (
            expression(0x0F, b"\x76\x78\x06") + expression(0x10, b"\x76\x00", 6),
            (CfaKind.DEREF_BP, BpKind.AT_BP, 0, 0, -8, 0, 0),
        ),
        (expression(0x10, b"\x77\x70", 6), (CfaKind.SP, BpKind.AT_SP, 0, 0, 8, -16, 0)),
        (expression(0x10, b"\x40\x1c", 6), (CfaKind.SP, BpKind.AT_CFA, 0, 0, 8, -16, 0)),
        (expression(0x10, b"\x77\x00", 16), SP8),
        (expression(0x10, b"\x38\x1c", 16), SP8),
        (expression(0x10, b"\x77\x08", 16), UNSUPPORTED),
        (expression(0x0F, b"\x7a\x00\x06"), UNSUPPORTED),
        (expression(0x0F, b"\x77\x00\x76\x00\x22"), UNSUPPORTED),
        (expression(0x0F, b"\x77\x00\x06\x06"), UNSUPPORTED),
        (expression(0x0F, b"\x22"), UNSUPPORTED),
        (expression(0x0F, b""), UNSUPPORTED),
        (expression(0x0F, b"\x77" + sleb(1 << 31)), UNSUPPORTED),
        (expression(0x0F, b"\x77\x00\x06\x23" + uleb(1 << 15)), UNSUPPORTED),
        (expression(0x16, b"\x77\x00", 6), (CfaKind.SP, BpKind.UNDEFINED, 0, 0, 8, 0, 0)),
        (b"\x14\x06\x02", (CfaKind.SP, BpKind.UNDEFINED, 0, 0, 8, 0, 0)),
        (b"\x15\x06\x02", (CfaKind.SP, BpKind.UNDEFINED, 0, 0, 8, 0, 0)),
        (b"\x86" + uleb(1 << 12), (CfaKind.SP, BpKind.AT_CFA, 0, 0, 8, -(1 << 15), 0)),
        (b"\x86" + uleb(4097), (CfaKind.SP, BpKind.UNDEFINED, 0, 0, 8, 0, 0)),
        (b"\x0e" + uleb(1 << 31), UNSUPPORTED),
        (b"\x0d\x10", UNSUPPORTED),
        (b"\x0d\x80\x01", UNSUPPORTED),
    ],
)
def test_an_expression_is_a_rule_or_is_counted(program: bytes, rule: Rule) -> None:
    """In any spelling; what no rule can hold is UNSUPPORTED, or without rbp."""
    frames = Frames().cie().fde(CODE, 0x40, program)
    table = compile_table(eh_frame(frames))
    assert rows(table)[0][1] == rule
    assert bool(table.dropped) == (rule == UNSUPPORTED or (rule[1] == BpKind.UNDEFINED))


def signal_frame(cfa: int = 160, rbp: int = 120, rip: int = 168) -> bytes:
    return (
        expression(0x0F, b"\x77" + sleb(cfa) + b"\x06")
        + expression(0x10, b"\x77" + sleb(rbp), 6)
        + expression(0x10, b"\x77" + sleb(rip), 16)
    )


@pytest.mark.parametrize(
    ("program", "rule"),
    [
        (signal_frame(), (CfaKind.SIGNAL, 0, 0, 1, 0, 0, 0)),
        (signal_frame(168, 128, 176), (CfaKind.SIGNAL, 0, 0, 1, 8, 0, 0)),
        (signal_frame(rbp=128), UNSUPPORTED),
        (signal_frame(rip=160), UNSUPPORTED),
    ],
)
def test_a_signal_frame_has_its_registers_where_the_kernel_puts_them(program: bytes, rule: Rule) -> None:
    """As glibc's restorer says it, from any distance; another order is another structure."""
    assert of(program, b"", augmentation=b"zRS")[0][1] == rule


def test_losses_are_counted_by_reason() -> None:
    """One row each here, four functions."""
    frames = Frames().cie()
    for number, program in enumerate((b"\x0f\x01\x06", b"\x0d\x11", b"\x90\x02", b"\x09\x06\x03", b"\x17")):
        frames.fde(CODE + number * 16, 16, program)
    assert compile_table(eh_frame(frames)).dropped == {
        Dropped.CFA_EXPRESSION: 1,
        Dropped.CFA_REGISTER: 1,
        Dropped.RETURN_ADDRESS: 1,
        Dropped.RBP_RULE: 1,
        Dropped.INSTRUCTIONS: 1,
    }


numbers = st.integers(0, 40).map(uleb) | st.integers(0, 1 << 20).map(uleb)
registers = st.sampled_from([3, 6, 6, 7, 12, 16]).map(uleb)
plain = (
    st.integers(0x40, 0x48).map(lambda op: bytes([op]))
    | st.tuples(st.sampled_from([b"\x02", b"\x0e", b"\x2e", b"\x83", b"\x86"]), st.integers(0, 127)).map(
        lambda pair: pair[0] + bytes([pair[1]])
    )
    | st.sampled_from([b"\x0a", b"\x0a", b"\x0b", b"\x0b", b"\xc6", b"\xc3", b"\x0d\x06", b"\x0d\x07", b"\x00"])
    | st.tuples(st.just(b"\x0e"), numbers).map(b"".join)
    | st.tuples(st.sampled_from([b"\x0c\x07", b"\x0c\x0a"]), numbers).map(b"".join)
)
rare = (
    st.tuples(st.sampled_from([b"\x05", b"\x11", b"\x14", b"\x09", b"\x0c", b"\x12"]), registers, numbers).map(b"".join)
    | st.tuples(st.sampled_from([b"\x06", b"\x07", b"\x08"]), registers).map(b"".join)
    | st.sampled_from([b"\x0f\x02\x77\x08", b"\x10\x06\x02\x76\x00", b"\x90\x01", b"\xd0", b"\x03\x01\x00", b"\x17"])
)
programs = st.lists(st.lists(st.one_of(plain, plain, plain, rare), max_size=30).map(b"".join), min_size=1, max_size=90)


@given(programs)
@settings(max_examples=150, deadline=None)
def test_columns_say_what_one_by_one_says(programs: list[bytes]) -> None:
    """Any programs, any number of them side by side."""
    size = 0x100
    frames = Frames().cie()
    for number, program in enumerate(programs):
        frames.fde(CODE + number * size, size, program)
    table = compile_table(eh_frame(frames))
    body = parse_cie(cie()[8:])
    expected = np.zeros((len(programs) * size, 7), np.int64)
    for number, program in enumerate(programs):
        try:
            found = list(Machine(body.alignment, body.initial).rows(program))
        except CfaError:
            found = [(0, None)]  # type: ignore[list-item]
        for at, state in found:
            rule = rule_of(state, signal=False)[0] if state is not None else None
            if at < size:
                expected[number * size + at : (number + 1) * size] = rule or UNSUPPORTED
    have = table.find(np.arange(len(expected), dtype=np.uint64) + np.uint64(CODE))
    assert have.tolist() == [tuple(row) for row in expected.tolist()]
