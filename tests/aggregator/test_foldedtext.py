"""Folded text: read as a plain loop would read it, whole or in blocks; nothing lost silently."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import foldedtext
from aggregator.foldedtext import MAX_FAULTS, MAX_LINE, Fault, parse
from aggregator.render.folded import render
from fleetflame.model import MAX_FRAMES

frames = st.text(
    st.characters(exclude_characters=";", exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")),
    min_size=1,
    max_size=30,
)
stacks = st.lists(frames, min_size=1, max_size=8)
texts = st.lists(st.tuples(stacks, st.integers(1, 10**12)), max_size=30)


def plain(rows: list[tuple[list[str], int]]) -> list[str]:
    """The merged lines, by a dictionary."""
    counted: Counter[str] = Counter()
    for stack, count in rows:
        counted[";".join(stack)] += count
    return sorted(f"{stack} {count}" for stack, count in counted.items())


@given(texts)
def test_text_is_read_as_a_loop_reads_it(rows: list[tuple[list[str], int]]) -> None:
    """Any names, in any order, repeated or not, give the sums that a dictionary gives; and read again, the same."""
    text = "".join(f"{';'.join(stack)} {count}\n" for stack, count in rows).encode()
    parsed = parse(text)
    again = render(parsed.folded)
    assert again.decode().splitlines() == plain(rows)
    assert (parsed.lines, parsed.bad) == (len(rows), 0)
    assert render(parse(again).folded) == again


@pytest.mark.parametrize("block", [1, 50, 1000])
@pytest.mark.parametrize("compared", [0, 16, 1024])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, block: int, compared: int) -> None:
    """Wherever the text is cut, and however much lines are compared, the result is the same."""
    pick = random.Random(block)
    rows = [([pick.choice("abcd") * pick.randint(1, 20) for _ in range(pick.randint(1, 9))], 3) for _ in range(300)]
    text = "".join(f"{';'.join(stack)} {count}\n" for stack, count in rows).encode()
    monkeypatch.setattr(foldedtext, "_BLOCK", block)
    monkeypatch.setattr(foldedtext, "_COMPARED", compared)
    assert render(parse(text).folded).decode().splitlines() == plain(rows)


def test_parts_add_up_to_the_whole() -> None:
    """Reading two texts and merging is reading them as one."""
    one, other = b"a;b 1\na;c 2\n", b"a;b 4\nd 8"
    assert render(parse(render(parse(one).folded) + render(parse(other).folded)).folded) == render(
        parse(one + other).folded
    )


def test_bad_lines_are_numbered_and_counted() -> None:
    """Each line that cannot be read says where and why; the others count."""
    text = b"a;b 1\nno count\n\n 7\na;b 2.5\nonly\na 1e3\r\na;b -3\na " + b"9" * 30 + b"\na;b 2\n"
    parsed = parse(text)
    assert render(parsed.folded) == b"a;b 3\n"
    assert (parsed.lines, parsed.bad) == (9, 7)
    assert parsed.faults == (
        Fault(2, "the count `count` is not a whole number"),
        Fault(4, "no stack before the count"),
        Fault(5, "the count `2.5` is not a whole number"),
        Fault(6, "no count after the stack"),
        Fault(7, "the count `1e3` is not a whole number"),
        Fault(8, "the count `-3` is not a whole number"),
        Fault(9, "the count `999999999999999999999999999999` is too large"),
    )


def test_long_lines_and_deep_stacks_are_refused_one_by_one() -> None:
    """A line beyond a bound is bad; the lines around it count."""
    deepest = ";".join("f" * MAX_FRAMES)
    text = f"a 1\n{'x' * MAX_LINE} 1\n{deepest} 2\n{deepest};f 4\n{deepest};f;g 4\nb 8\n".encode()
    parsed = parse(text)
    assert render(parsed.folded).decode() == f"a 1\nb 8\n{deepest} 2\n"
    assert [fault.line for fault in parsed.faults] == [2, 4, 5]
    assert parsed.faults[0].reason == "longer than 1,048,576 bytes"
    assert parsed.faults[1].reason == "more than 1,024 frames"


def test_faults_are_bounded() -> None:
    """A file of another kind is not repeated line by line; the number of bad lines is exact."""
    parsed = parse(b"what is this\n" * 1000)
    assert len(parsed.faults) == MAX_FAULTS
    assert parsed.bad == parsed.lines == 1000
    assert len(parsed.folded.trie) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", b""),
        (b"\n\n", b""),
        (b"a 0\n", b""),
        (b"a;b 1", b"a;b 1\n"),
        (b"a;b 1\r\na;c 2\r\n", b"a;b 1\na;c 2\n"),
        (b"a\t5\n", b"a 5\n"),
        (b"a;;b 1\n", b"a;[unknown];b 1\n"),
        (b"a;operator new(unsigned long) 12\n", b"a;operator new(unsigned long) 12\n"),
        (b"a;\xff\xfe 1\n", "a;�� 1\n".encode()),
        ("a;\u202eevil 1\n".encode(), "a;�evil 1\n".encode()),
        (b"a;b 1\na;b;c 2\na 3\n", b"a 3\na;b 1\na;b;c 2\n"),
    ],
)
def test_odd_texts(text: bytes, expected: bytes) -> None:
    """Empty texts, ends of lines, tabs, empty frames, bytes that are no UTF-8, marks that reorder."""
    assert render(parse(text).folded) == expected


def test_samples_without_a_period_have_no_time() -> None:
    """Text says samples only."""
    folded = parse(b"a;b 3\n").folded
    assert not folded.timed
    assert folded.value.tolist() == folded.count.tolist()
