"""Lines of a perf map as columns."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jit.perfmap import BLOCK, END_OF_USER, MAX_LINE, MAX_SIZE, iter_blocks, join_entries, parse_lines

LINE = re.compile(rb"(?:0[xX])?([0-9a-fA-F]{1,16}) (?:0[xX])?([0-9a-fA-F]{1,16}) (.+)", re.DOTALL)


def plain(block: bytes, offset: int = 0) -> tuple[list[tuple[int, int, int, bytes]], int]:
    """The same by a regular expression, line by line: (start, size, offset, name)."""
    rows, bad = [], 0
    for line in block.split(b"\n")[:-1]:
        match = LINE.fullmatch(line)
        start, size = (int(match[1], 16), int(match[2], 16)) if match else (0, 0)
        if match and 0 < size <= MAX_SIZE and start < END_OF_USER and len(line) <= MAX_LINE:
            rows.append((start, size, offset, match[3]))
        else:
            bad += 1
        offset += len(line) + 1
    return rows, bad


def parsed(block: bytes, offset: int = 0) -> tuple[list[tuple[int, int, int]], int]:
    entries, bad = parse_lines(block, offset)
    return list(zip(entries.start.tolist(), entries.size.tolist(), entries.offset.tolist(), strict=True)), bad


def test_both_ways_of_writing_numbers_are_read() -> None:
    """V8 and perf write bare digits, HotSpot a prefix and all sixteen."""
    text = b"7f32 d24 JS:*spin /srv/a.js:3:1\n0x00007f4a44ec7640 0x0000000000000130 int Hot.fib(int)\n"
    assert parsed(text, 100) == ([(0x7F32, 0xD24, 100), (0x7F4A44EC7640, 0x130, 132)], 0)


@pytest.mark.parametrize(
    "line",
    [b"", b" ", b"7f", b"7f 10", b"7f 10 ", b"7f  10 x", b"7g 10 x", b"7f 1.0 x", b"7f 0 x", b"x 10 x", b"0x 10 x",
     b"-7f 10 x", b"11112222333344445 10 x", b"7f 80000000 x", b"ffffffff81000000 10 x", b"7f\t10\tx", b"\0\xff"],
)  # fmt: skip
def test_what_is_no_line_is_counted(line: bytes) -> None:
    """Numbers that are missing, too large or none at all; what stands around it is read."""
    text = b"1000 10 a\n" + line + b"\n2000 10 b\n"
    rows, bad = parsed(text)
    assert [row[0] for row in rows] == [0x1000, 0x2000]
    assert bad == 1


@given(
    st.lists(
        st.binary(max_size=40)
        | st.builds(b"%x %x %b".__mod__, st.tuples(st.integers(0, 1 << 60), st.integers(0, 1 << 33), st.binary()))
        | st.sampled_from([b"0x10 0x20 name", b"10 20", b"10 20 ", b"  ", b"0X1f 0XF n"])
    ),
    st.integers(0, 1 << 31),
)
def test_columns_say_what_a_regular_expression_says(lines: list[bytes], offset: int) -> None:
    """Whatever the bytes are, each line is one entry or one that is counted."""
    block = b"".join(line.replace(b"\n", b"") + b"\n" for line in lines)
    rows, bad = plain(block, offset)
    assert parsed(block, offset) == ([row[:3] for row in rows], bad)


@given(st.lists(st.binary(min_size=1, max_size=12), min_size=2, max_size=20))
def test_a_digest_is_the_names_wherever_it_stands(names: list[bytes]) -> None:
    """Equal names have equal digests, others do not."""
    names = [name.replace(b"\n", b"-") for name in names]
    block = b"".join(b"%x 10 %b\n" % (0x1000 + at, name) for at, name in enumerate(names))
    digests = parse_lines(block, 0)[0].digest.tolist()
    assert len(set(digests)) == len(set(names))
    assert len(set(zip(names, digests, strict=True))) == len(set(names))


def test_a_large_map_in_blocks_is_the_same_map() -> None:
    """Blocks end where lines end, and offsets count from the file's beginning."""
    block = b"".join(b"%x 10 function_%d\n" % (0x1000 + 16 * n, n) for n in range(20_000))
    assert len(block) > 3 * BLOCK
    pieces = list(iter_blocks(block))
    assert b"".join(piece for _, piece in pieces) == block
    entries = join_entries([parse_lines(piece, at)[0] for at, piece in pieces])
    assert len(entries) == 20_000
    assert len(set(entries.digest.tolist())) == 20_000
    for row in (0, 9_999, 19_999):
        assert block[int(entries.offset[row]) :].split(b"\n", 1)[0] == b"%x 10 function_%d" % (0x1000 + 16 * row, row)


def test_a_line_of_any_length_is_harmless() -> None:
    """Longer than a name can be: counted, and the next one is read."""
    assert parsed(b"1000 10 " + b"x" * MAX_LINE + b"\n2000 10 b\n") == ([(0x2000, 0x10, MAX_LINE + 9)], 1)
