"""Flamebearer JSON: Pyroscope's shape, nothing left out."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aggregator.fold import fold
from aggregator.foldedtext import parse
from aggregator.render import json as flamebearer
from aggregator.render.folded import render as as_text
from tests.aggregator.render import golden
from tests.aggregator.render.samples import every_kind, hostile


def test_the_document_is_the_golden_one() -> None:
    """Names, levels, metadata and completeness."""
    pretty = json.dumps(json.loads(flamebearer.render(fold(every_kind()))), indent=1, ensure_ascii=False) + "\n"
    golden.check("every_kind.json", pretty.encode())


def test_levels_are_as_pyroscope_writes_them() -> None:
    """Delta to the node before, total, self, name: the example of Pyroscope's own tests, names in our order."""
    document = json.loads(flamebearer.render(parse(b"a;b 1\na;c 2\n").folded))["flamebearer"]
    assert document == {
        "names": ["total", "a", "b", "c"],
        "levels": [[0, 3, 0, 0], [0, 3, 0, 1], [0, 1, 1, 2, 0, 2, 2, 3]],
        "numTicks": 3,
        "maxSelf": 2,
    }


def stacks(document: dict[str, Any]) -> list[str]:
    """Folded lines from a flamebearer, as a viewer would find parents: by position."""
    names, levels = document["names"], document["levels"]
    above: list[tuple[int, int, str]] = []
    lines = []
    for depth, flat in enumerate(levels):
        at, here = 0, []
        for gap, total, own, name in zip(*(flat[n::4] for n in range(4)), strict=True):
            start = at + gap
            at = start + total
            path = names[name] if depth == 1 else ""
            if depth > 1:
                parent = next(p for low, high, p in above if low <= start < high)
                path = f"{parent};{names[name]}"
            here.append((start, at, path))
            if own and depth:
                lines.append(f"{path} {own}")
        above = here
    return sorted(lines)


@given(st.lists(st.tuples(st.lists(st.sampled_from("abc"), min_size=1, max_size=5), st.integers(1, 9)), max_size=12))
def test_a_viewer_finds_every_stack(rows: list[tuple[list[str], int]]) -> None:
    """Positions alone give all stacks and samples back."""
    folded = parse("".join(f"{';'.join(stack)} {count}\n" for stack, count in rows).encode()).folded
    document = json.loads(flamebearer.render(folded))["flamebearer"]
    assert stacks(document) == as_text(folded).decode().splitlines()


def test_completeness_and_time_are_fields() -> None:
    """What the picture says in words, programs read as numbers."""
    document = json.loads(flamebearer.render(fold(every_kind())))
    assert document["fleetflame"]["completeness"] == {"samples": 100, "whole": 77, "truncated": 2, "unsymbolized": 21}
    assert document["fleetflame"]["value_ns"] == 10**9
    assert document["metadata"]["sampleRate"] == 100


def test_hostile_names_are_strings() -> None:
    """The document is valid JSON and UTF-8."""
    assert json.loads(flamebearer.render(fold(hostile())))["flamebearer"]["numTicks"] == 60
