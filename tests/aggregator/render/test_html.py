"""HTML: the whole tree in it, locked to its own script, inert whatever names say."""

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fold import fold
from aggregator.foldedtext import parse
from aggregator.render import html
from aggregator.render.folded import render as as_text
from aggregator.render.html import varints
from aggregator.render.picture import Layout, Options
from aggregator.render.svg import source_hash
from tests.aggregator.render import golden
from tests.aggregator.render.samples import HOSTILE, every_kind, hostile


class _Elements(HTMLParser):
    """Elements with their attributes, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.raw.append((self._inside, data))
        self._inside = ""


def elements(page: bytes) -> _Elements:
    """The page as a parser sees it."""
    parser = _Elements()
    parser.feed(page.decode())
    return parser


def tree(page: bytes) -> dict[str, Any]:
    """The embedded tree with its columns as lists, decoded as the script does."""
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page.decode())
    data: dict[str, Any] = json.loads(text)
    raw = iter(zlib.decompress(base64.b64decode(data["columns"])))
    size = data["levels"][-1]

    def column() -> list[int]:
        values = []
        for _ in range(size):
            value = shift = 0
            while (byte := next(raw)) > 127:
                value |= (byte & 127) << shift
                shift += 7
            values.append(value | byte << shift)
        return values

    steps, item, color, gap, own = (column() for _ in range(5))
    counts = [column() for _ in data["totals"]]
    weight = [count * data["unit"] for count in counts[0]] if data["unit"] else column()
    assert next(raw, None) is None
    parent, start = [0], [0]
    for low, high in zip(data["levels"][1:-1], data["levels"][2:], strict=True):
        at = data["levels"][data["levels"].index(low) - 1]
        for node in range(low, high):
            at += steps[node]
            eldest = node == low or parent[node - 1] != at
            start.append(gap[node] + (start[at] if eldest else start[node - 1] + weight[node - 1]))
            parent.append(at)
    return {**data, "parent": parent, "item": item, "color": color, "start": start, "own": own, "counts": counts}


def stacks(page: bytes) -> list[str]:
    """The folded lines that a page holds."""
    data = tree(page)
    paths = [""]
    for node in range(1, len(data["parent"])):
        above = paths[data["parent"][node]]
        paths.append(f"{above};{data['names'][data['item'][node]]}" if above else data["names"][data["item"][node]])
    return sorted(f"{path} {own}" for path, own in zip(paths, data["own"], strict=True) if path and own)


def test_the_page_is_the_golden_one() -> None:
    """Markup without style and script is as it was when it was looked at."""
    page = html.render(fold(every_kind()))
    # Compressed bytes are another library version's to choose; what they hold is tested below.
    volatile = rb"""(?s)<style>.*?</style>|<script>.*?</script>|sha256-[^']+|(?<="columns":")[^"]+"""
    golden.check("every_kind.html", re.sub(volatile, b"", page))


@given(st.lists(st.tuples(st.lists(st.sampled_from("abc"), min_size=1, max_size=5), st.integers(1, 9)), max_size=12))
def test_the_page_holds_every_stack(rows: list[tuple[list[str], int]]) -> None:
    """What the script decodes is what was folded."""
    folded = parse("".join(f"{';'.join(stack)} {count}\n" for stack, count in rows).encode()).folded
    assert stacks(html.render(folded)) == as_text(folded).decode().splitlines()


def test_the_widest_frames_are_kept() -> None:
    """No more frames than allowed; places are as if all were there; what was left out is said."""
    text = "".join(f"a;f{n} {n}\n" for n in range(1, 21)) + "b 1000\n"
    page = html.render(parse(text.encode()).folded, Options(max_frames=6))
    data = tree(page)
    assert [data["names"][name] for name in data["item"]] == ["", "a", "b", "f18", "f19", "f20"]
    # f10 .. f17, then f1: names sort as text, so f18 begins after f1 and f10 to f17.
    assert data["start"][3] == 1 + sum(range(10, 18))
    assert data["counts"][0][1] == 210
    assert "17 narrow frames left out" in page.decode()


def test_the_policy_allows_this_script_only() -> None:
    """Style and script are named by hash, nothing is loaded, and there are no inline handlers or styles."""
    page = html.render(fold(every_kind()))
    seen = elements(page)
    policy = next(attrs["content"] for tag, attrs in seen.found if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    (_, style), (_, data), (_, script) = seen.raw
    assert json.loads(data)
    assert f"script-src '{source_hash(script)}'" in policy
    assert f"style-src '{source_hash(style)}'" in policy
    names = {name for _, attrs in seen.found for name in attrs}
    assert not names & {"style", "src", "href"}
    assert not any(name.startswith("on") for name in names)


def test_hostile_names_are_text() -> None:
    """Names do not add elements, and reach the page whole."""
    page = html.render(fold(hostile()), Options(title=HOSTILE[1]))
    plain = html.render(fold(every_kind()))
    assert {tag for tag, _ in elements(page).found} == {tag for tag, _ in elements(plain).found}
    assert len(elements(page).raw) == 3
    assert HOSTILE[0] in tree(page)["names"]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", page.decode())


def test_layout_and_completeness_are_told() -> None:
    """The script learns where the root is; the reader how whole the stacks are."""
    page = html.render(fold(every_kind()), Options(layout=Layout.ICICLE))
    assert tree(page)["flame"] is False
    assert "<li>77.00% whole</li><li>2.00% truncated</li>" in page.decode()


def test_an_empty_profile_is_a_page_too() -> None:
    """Nothing sampled is a root without width."""
    page = html.render(parse(b"").folded)
    assert tree(page)["parent"] == [0]
    assert "<li>0 samples</li>" in page.decode()


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300)))
def test_varints_are_protobufs(values: list[int]) -> None:
    """The encoding is the well-known one."""
    expected = bytearray()
    for value in values:
        rest = value
        while rest > 127:
            expected.append(rest & 127 | 128)
            rest >>= 7
        expected.append(rest)
    assert varints(np.array(values, np.uint64)) == bytes(expected)
