"""The formats of a difference."""

import json
import re
from xml.etree import ElementTree

from aggregator.diff import Difference, compare
from aggregator.foldedtext import parse
from aggregator.render import html, svg, table
from aggregator.render import json as flamebearer
from aggregator.render.picture import Options
from aggregator.render.table import Order, changes
from tests.aggregator.render import golden
from tests.aggregator.render.test_html import tree

BEFORE = b"p;main;parse 60\np;main;copy 20\np;main;gone 20\n"
AFTER = b"p;main;parse 30\np;main;copy 40\np;main;new_[k] 130\n"


def difference() -> Difference:
    """Something that grew, shrank, vanished, came; with twice the samples."""
    return compare(parse(BEFORE).folded, parse(AFTER).folded, labels=("build <a>", "build <b>"))


def test_text_formats_are_the_golden_ones() -> None:
    """Table and flamebearer, as they were when they were looked at."""
    golden.check("difference.table.txt", table.render_diff(difference()))
    document = json.loads(flamebearer.render_diff(difference(), title="t"))
    golden.check("difference.json", (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def test_svg_is_the_golden_one() -> None:
    """Colours, widths and words of a difference."""
    data = svg.render_diff(difference())
    ElementTree.fromstring(data)
    golden.check("difference.svg", re.sub(rb"(?s)<style>.*?</style>|<script>.*?</script>", b"", data))


def test_red_is_more_and_blue_is_less() -> None:
    """What came is all red, what went all blue, what kept its share neither; widths are the sums of shares."""
    data = svg.render_diff(difference()).decode()
    frames = {
        name: (color, float(width))
        for color, name, width in re.findall(
            r'<g class="(\w+)"><title>(.*)\n.*</title><rect x="[^"]+" width="([^"]+)"', data
        )
    }
    assert frames["new_[k]"][0] == "d14"
    assert frames["gone"][0] == "d0"
    assert frames["copy"][0] == "d7"
    assert frames["main"][0] == "d7"
    assert frames["parse"][0] in {"d0", "d1", "d2"}
    # (60 % + 15 %) / 2 of 1176 pixels, less the pixel between frames.
    assert abs(frames["parse"][1] - (0.375 * 1176 - 1)) < 0.01


def test_the_table_is_sorted_by_change() -> None:
    """Greatest change first, whichever way; self or total."""
    made = changes(difference())
    assert [row.name for row in made.rows] == ["new_[k]", "parse", "gone", "copy", "main"]
    assert made.rows[0].self_before == 0
    assert [row.name for row in changes(difference(), limit=1, order=Order.TOTAL).rows] == ["new_[k]"]


def test_the_page_holds_both_sides() -> None:
    """Samples and shares of before and after, the table, and labels that are text."""
    page = html.render_diff(difference(), Options(max_frames=100))
    text = page.decode()
    assert "build &lt;a&gt; → build &lt;b&gt;" in text
    assert "<td>0%</td><td>65.00%</td>" in text
    (raw,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text)
    data = json.loads(raw)
    assert data["diff"] is True
    assert data["totals"] == [100, 200]
    assert data["labels"] == ["build <a>", "build <b>"]


def test_one_side_may_be_empty() -> None:
    """Compared with nothing, everything is new; nothing with nothing is a picture still."""
    empty = parse(b"").folded
    for before, after in ((empty, parse(AFTER).folded), (parse(BEFORE).folded, empty), (empty, empty)):
        made = compare(before, after)
        ElementTree.fromstring(svg.render_diff(made))
        html.render_diff(made)
        flamebearer.render_diff(made)
        table.render_diff(made)


def test_single_and_double_pages_decode_alike() -> None:
    """A difference only adds columns."""
    assert tree(html.render(parse(BEFORE).folded))["counts"] == [[100, 100, 100, 20, 20, 60]]
