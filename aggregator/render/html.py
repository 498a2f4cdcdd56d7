"""A flame graph as one HTML file, for profiles of any size: the tree is data, which the file's own script draws.

The file locks itself: its content security policy allows its own script and style, by hash, and nothing else, from
nowhere. Names travel as JSON, and become text of the page, never markup. Without a script the table of functions shows.
"""

import base64
import json
import zlib
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.diff import SHARE_UNIT, Difference
from aggregator.fold import Folded
from aggregator.render import wording
from aggregator.render.palette import INK, PALE_INK, color_class, diff_fills, fills
from aggregator.render.picture import (
    ROOT_CLASS,
    Layout,
    Options,
    Picture,
    difference_limit,
    picture_of,
    picture_of_difference,
    widest,
)
from aggregator.render.svg import source_hash
from aggregator.render.table import Changes, Top, changes, points, top
from aggregator.trie import Trie

U64 = NDArray[np.uint64]

TABLE_ROWS = 200
_ROOT_FILL = {"light": "#e6e9ee", "dark": "#2a2e36"}


def render(folded: Folded, options: Options = Options()) -> bytes:  # noqa: B008 - frozen
    """The flame graph of `folded` as UTF-8 HTML: its `options.max_frames` widest frames, and a table of functions."""
    limit = widest(folded.total_values(), options.max_frames)
    return render_page(picture_of(folded, options, limit=limit), _function_rows(top(folded, limit=TABLE_ROWS)))


def render_diff(difference: Difference, options: Options = Options()) -> bytes:  # noqa: B008 - frozen
    """The difference as UTF-8 HTML, with a table of the functions that changed most."""
    limit = difference_limit(difference, options.max_frames)
    picture = picture_of_difference(difference, options, limit=limit)
    return render_page(picture, _change_rows(changes(difference, limit=TABLE_ROWS)))


def render_page(picture: Picture, table: str) -> bytes:
    """The page of `picture`, with `table` for those who ask for it."""
    policy = (
        f"default-src 'none'; script-src '{source_hash(script())}'; style-src '{source_hash(style())}';"
        " base-uri 'none'; form-action 'none'"
    )
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in picture.facts)
    legend = "".join(
        f'<li><i data-color="{key.color}"></i>{escape(key.title)} <b>{escape(key.share)}</b></li>'
        for key in picture.legend
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(picture.title)}</title>
<style>{style()}</style>
</head>
<body>
<header>
<h1>{escape(picture.title)}</h1>
<div class="tools" role="toolbar" aria-label="flame graph">
<span id="result" role="status"></span>
<input id="search" type="search" placeholder="Search (regex)   /" aria-label="search frames by regular expression" \
spellcheck="false" autocomplete="off">
<button id="reset" type="button" disabled>Reset</button>
<button id="flip" type="button" aria-pressed="false">Root on top</button>
<button id="table" type="button" aria-pressed="false">Functions</button>
</div>
<ul class="facts">{facts}</ul>
<ul class="legend">{legend}</ul>
</header>
<main>
<div id="frame"><canvas id="canvas" tabindex="0" role="application" \
aria-label="flame graph: arrow keys move, Enter zooms, Backspace zooms out, Escape resets, slash searches, n finds the \
next match; the button Functions shows a table"></canvas><div id="spacer"></div></div>
<div id="functions" hidden>{table}</div>
</main>
<div id="status" role="status"></div>
<div id="tip" aria-hidden="true"></div>
<noscript><p>A script draws this, and none may run here. The format SVG needs none.</p></noscript>
<script id="data" type="application/json">{_data(picture)}</script>
<script>{script()}</script>
</body>
</html>
""".encode()


@cache
def style() -> str:
    """The style sheet, as it stands in the file."""
    return files(__package__).joinpath("assets/html.css").read_text("utf-8")


@cache
def script() -> str:
    """The script, as it stands in the file."""
    return files(__package__).joinpath("assets/html.js").read_text("utf-8")


def _data(picture: Picture) -> str:
    """The tree as JSON that is safe inside a script element: no `<` is left in it."""
    light, dark = ({**fills(theme), **diff_fills(theme), ROOT_CLASS: _ROOT_FILL[theme]} for theme in ("light", "dark"))
    names, item = _used(picture)
    document = {
        "names": names,
        "levels": picture.trie.levels.tolist(),
        "classes": picture.colors,
        "totals": [int(column[0]) for column in picture.counts],
        "timed": picture.timed,
        "unit": _unit(picture),
        "flame": picture.layout is Layout.FLAME,
        "diff": bool(picture.shares),
        "labels": picture.labels,
        "light": light,
        "dark": dark,
        "ink": {**INK, "pale": PALE_INK},
        "columns": base64.b64encode(zlib.compress(_columns(picture, item), 6)).decode(),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _used(picture: Picture) -> tuple[list[str], NDArray[np.int64]]:
    """The names that are left after frames were left out, and each node's."""
    used, item = np.unique(picture.trie.item, return_inverse=True)
    return [picture.names[name] for name in used.tolist()], item


def _columns(picture: Picture, item: NDArray[np.int64]) -> bytes:
    """Parents as steps, names, colours, gaps, own samples, samples; widths unless a multiple of samples; shares."""
    columns: list[NDArray[Any]] = [_parent_steps(picture.trie), item, picture.color, _gaps(picture), picture.own]
    columns += picture.counts
    if not _unit(picture):
        columns.append(picture.weight)
    # Ten millionths are finer than two digits after the point of a per cent.
    columns += [column // np.uint64(SHARE_UNIT // 10**7) for column in picture.shares]
    return b"".join(varints(column.astype(np.uint64)) for column in columns)


def _unit(picture: Picture) -> int:
    """The width of one sample, if all have the same; else 0."""
    if len(picture.counts) != 1 or not picture.total:
        return 0
    unit = picture.total // int(picture.counts[0][0])
    return unit if np.array_equal(picture.counts[0] * np.uint64(unit), picture.weight) else 0


def _gaps(picture: Picture) -> U64:
    """How far each node begins after its elder sibling's end, or after its parent's beginning if it is the eldest."""
    trie = picture.trie
    end = picture.start + picture.weight
    gap = picture.start.copy()
    eldest = np.ones(len(trie), bool)
    eldest[2:] = trie.parent[2:] != trie.parent[1:-1]
    gap[1:] -= np.where(eldest[1:], picture.start[trie.parent[1:]], end[:-1])
    return gap


def _parent_steps(trie: Trie) -> NDArray[np.int64]:
    """Each node's parent less that of the node before it on its level; the first's less the first parent there is."""
    steps = np.zeros(len(trie), np.int64)
    steps[1:] = trie.parent[1:] - trie.parent[:-1]
    first = trie.levels[1:-1]
    steps[first] = trie.parent[first] - trie.levels[:-2]
    return steps


def varints(values: U64) -> bytes:
    """`values` one after the other, low seven bits first, the high bit set on all bytes of a value but its last."""
    if not len(values):
        return b""
    bits = np.zeros(len(values), np.int64)
    rest = values.copy()
    while rest.any():
        bits += rest > 0
        rest >>= np.uint64(7)
    length = np.maximum(bits, 1)
    end = np.cumsum(length)
    result = np.empty(int(end[-1]), np.uint8)
    place, rest, left = end - length, values.copy(), length.copy()
    active = np.arange(len(values))
    while len(active):
        more = left[active] > 1
        low = (rest[active] & np.uint64(127)).astype(np.uint8)
        result[place[active]] = low | (more.astype(np.uint8) << 7)
        rest[active] >>= np.uint64(7)
        place[active] += 1
        left[active] -= 1
        active = active[more]
    return result.tobytes()


def _function_rows(table: Top) -> str:
    """The table of functions, sorted by their own samples."""
    rows = "".join(
        f"<tr>{_cells(row.self_value, row.self_count, table.value)}"
        f"{_cells(row.total_value, row.total_count, table.value)}"
        f'<td class="name"><i data-color="{color_class(row.name, row.kind)}"></i>'
        f'<button type="button">{escape(row.name)}</button></td></tr>\n'
        for row in table.rows
    )
    caption = f"{len(table.rows):,} of {table.functions:,} functions, by samples in the function itself"
    return (
        f"<table><caption>{caption}</caption><thead><tr>"
        '<th scope="col" aria-sort="descending"><button type="button">Self</button></th><th scope="col">samples</th>'
        '<th scope="col"><button type="button">Total</button></th><th scope="col">samples</th>'
        f'<th scope="col" class="name">Function</th></tr></thead><tbody>\n{rows}</tbody></table>'
    )


def _change_rows(table: Changes) -> str:
    """The table of functions whose own share changed most."""
    rows = "".join(
        f"<tr><td>{wording.share(row.self_before, SHARE_UNIT)}</td><td>{wording.share(row.self_after, SHARE_UNIT)}</td>"
        f'<td data-n="{abs(row.self_after - row.self_before)}">{points(row.self_before, row.self_after)}</td>'
        f'<td data-n="{abs(row.total_after - row.total_before)}">{points(row.total_before, row.total_after)}</td>'
        f'<td class="name"><i data-color="{color_class(row.name, row.kind)}"></i>'
        f'<button type="button">{escape(row.name)}</button></td></tr>\n'
        for row in table.rows
    )
    heads = (f"Self, {table.labels[0]}", f"Self, {table.labels[1]}")
    return (
        f"<table><caption>{len(table.rows):,} of {table.functions:,} functions, by the change of their own share, in"
        f' points</caption><thead><tr><th scope="col">{escape(heads[0])}</th><th scope="col">{escape(heads[1])}</th>'
        '<th scope="col" aria-sort="descending"><button type="button">Self</button></th>'
        '<th scope="col"><button type="button">Total</button></th>'
        f'<th scope="col" class="name">Function</th></tr></thead><tbody>\n{rows}</tbody></table>'
    )


def _cells(value: int, count: int, whole: int) -> str:
    return f'<td data-n="{value}">{wording.share(value, whole)}</td><td>{count:,}</td>'
