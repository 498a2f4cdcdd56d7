"""SVG: drawn without a script, inert whatever names say, and every sample in some width."""

import re
from xml.etree import ElementTree

import pytest

from aggregator.fold import Folded, fold
from aggregator.foldedtext import parse
from aggregator.render import svg
from aggregator.render.picture import Layout, Options
from tests.aggregator.render import golden
from tests.aggregator.render.samples import HOSTILE, every_kind, hostile

SVG = "{http://www.w3.org/2000/svg}"


def frames(data: bytes) -> list[tuple[str, str, float, float, int]]:
    """Name, words, x, true width and level of each frame."""
    chart = ElementTree.fromstring(data).find(f".//{SVG}g[@id='chart']")
    assert chart is not None
    found = []
    for level, group in enumerate(chart):
        for frame in group:
            title, rect = frame[0], frame[1]
            name, words = (title.text or "").split("\n")
            drawn = float(rect.get("width", ""))
            width = drawn + 1 if drawn >= 7 else drawn / 0.875
            found.append((name, words, float(rect.get("x", "")), width, level))
    return found


def text(*lines: str) -> Folded:
    """The profile of these lines."""
    return parse("\n".join(lines).encode()).folded


def test_the_picture_is_the_golden_one() -> None:
    """Markup without style and script is as it was when it was looked at."""
    data = svg.render(fold(every_kind()))
    body = re.sub(rb"(?s)<style>.*?</style>|<script>.*?</script>", b"", data)
    golden.check("every_kind.svg", body)


def test_widths_are_shares_and_children_lie_on_their_parent() -> None:
    """The whole is 1176 pixels of 1200; each child lies within its parent, siblings side by side."""
    data = svg.render(text("a;b 1", "a;c 2", "a 1", "d 4"))
    found = {name: (x, width, level) for name, _, x, width, level in frames(data)}
    assert found["all"] == (12, 1176, 0)
    assert found["a"] == (12, pytest.approx(588), 1)
    assert found["b"] == (12, pytest.approx(147), 2)
    assert found["c"] == (pytest.approx(159), pytest.approx(294), 2)
    assert found["d"] == (pytest.approx(600), pytest.approx(588), 1)


def test_tooltips_have_share_and_count() -> None:
    """Share, samples, and what is the frame's own; time where it is known."""
    words = {name: words for name, words, *_ in frames(svg.render(text("a;b 1", "a;c 2", "a 1", "d 4")))}
    assert words["a"] == "50.00%, 4 samples, 1 in itself"
    assert words["c"] == "25.00%, 2 samples, all in itself"
    timed = {name: words for name, words, *_ in frames(svg.render(fold(every_kind(by=("comm",)))))}
    assert timed["vfs_read_[k]"] == "20.00%, 20 samples, 200 ms, 0 in itself"


def test_narrow_frames_are_left_out_and_said_so() -> None:
    """Frames below a tenth of a pixel go, with all above them; their samples stay in the width below."""
    data = svg.render(text("a;wide 1000000", "a;narrow;above 1", "a;other 1"))
    names = [name for name, *_ in frames(data)]
    assert names == ["all", "a", "wide"]
    assert "3 narrow frames left out" in data.decode()
    assert "1,000,002 samples" in data.decode()
    assert len(frames(svg.render(text("a;wide 1000000", "a;narrow 1"), Options(min_width=0)))) == 4


def test_root_at_the_bottom_or_at_the_top() -> None:
    """A flame grows up, an icicle down."""

    def heights(layout: Layout) -> list[int]:
        data = svg.render(text("a;b;c 1"), Options(layout=layout))
        return [int(y) for y in re.findall(r'<g transform="translate\(0 (\d+)\)">', data.decode())]

    assert heights(Layout.FLAME) == sorted(heights(Layout.FLAME), reverse=True)
    assert heights(Layout.ICICLE) == sorted(heights(Layout.ICICLE))


def test_hostile_names_are_text() -> None:
    """Whatever a name holds, the file is well-formed, has our one script, no handlers, no links, no marks."""
    data = svg.render(fold(hostile()), Options(title=HOSTILE[0]))
    root = ElementTree.fromstring(data)
    scripts = [each for each in root.iter() if "script" in each.tag.lower()]
    assert [each.text for each in scripts] == [svg.script()]
    attributes = {name for each in root.iter() for name in each.attrib}
    assert not any(name.startswith("on") or "href" in name for name in attributes)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", data.decode())
    names = {name for name, *_ in frames(data)}
    assert HOSTILE[0] in names
    assert "a:b c  \ufffd\ufffd[31m" in names


def test_nothing_is_loaded_from_outside() -> None:
    """The only addresses are names of namespaces."""
    data = svg.render(fold(every_kind())).decode()
    assert set(re.findall(r"https?://[^\"' )]+", data)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xhtml",
    }
    assert "@import" not in data


def test_equal_profiles_are_equal_files() -> None:
    """The bytes depend on the samples only."""
    lines = ["a;b 1", "a;c 2", "d 4"]
    assert svg.render(text(*lines)) == svg.render(text(*reversed(lines)))


def test_an_empty_profile_is_a_picture_too() -> None:
    """Nothing sampled is said, not an error."""
    data = svg.render(text())
    assert [name for name, *_ in frames(data)] == ["all"]
    assert "0 samples" in data.decode()
