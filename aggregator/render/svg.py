"""A flame graph as one SVG file.

It is drawn here, so that it shows without a script, in `<img>` and in print; where its script may run it answers to
pointer and keys. It loads nothing.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

import numpy as np

from aggregator.diff import SHARE_UNIT, Difference
from aggregator.fold import Folded
from aggregator.render import wording
from aggregator.render.palette import diff_fills, fills
from aggregator.render.picture import ROOT_NAME, Layout, Options, Picture, picture_of, picture_of_difference

ROW = 18
PAD = 12
# Advance of a character of the monospaced fonts named in svg.css at 11 px: 0.6 em or a little more.
CHAR = 6.65
_HEAD = 84
_FOOT = 34
_LEGEND_CHAR = 7.1
_KEYS = "flame graph: arrow keys move, Enter zooms, Escape resets, / searches"


def render(folded: Folded, options: Options = Options()) -> bytes:  # noqa: B008 - frozen
    """The flame graph of `folded` as UTF-8 SVG. Frames narrower than `options.min_width` pixels are left out."""
    total = int(folded.value.sum())
    limit = total * options.min_width / (options.width - 2 * PAD)
    return render_picture(picture_of(folded, options, limit=int(np.ceil(limit))), options.width)


def render_diff(difference: Difference, options: Options = Options()) -> bytes:  # noqa: B008 - frozen
    """The difference as UTF-8 SVG: red has a larger share than before, blue a smaller one."""
    limit = 2 * SHARE_UNIT * options.min_width / (options.width - 2 * PAD)
    return render_picture(picture_of_difference(difference, options, limit=int(np.ceil(limit))), options.width)


def render_picture(picture: Picture, width: int) -> bytes:
    """`picture`, `width` pixels wide until its script fits it to the window."""
    depth = len(picture.trie.levels) - 1
    height = _HEAD + depth * ROW + _FOOT
    flame = picture.layout is Layout.FLAME
    layout = json.dumps({"width": width, "pad": PAD, "char": CHAR, "row": ROW, "flame": flame})
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f" data-layout='{layout}'>",
        f"<title>{escape(picture.title)}</title>",
        f"<style>{style()}</style>",
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="hatched" width="6" height="6"/><path class="hatch" d="M0 0V6"/></pattern></defs>',
        '<rect class="bg" width="100%" height="100%"/>',
        *_head(picture),
        '<g id="body">',
        f'<g id="chart" role="application" aria-label="{_KEYS}">',
        *_Rows(picture=picture, width=width, height=height - _FOOT).levels(),
        "</g>",
        f'<text id="status" class="status" role="status" x="{PAD}" y="{height - 12}"></text>',
        "</g>",
        f"<script><![CDATA[{script()}]]></script>",
        "</svg>\n",
    ]
    return "\n".join(parts).encode()


@cache
def style() -> str:
    """The style sheet: fixed rules, then a fill for each class in both themes."""
    fixed = files(__package__).joinpath("assets/svg.css").read_text("utf-8")
    light = _fill_rules({**fills("light"), **diff_fills("light")})
    dark = _fill_rules({**fills("dark"), **diff_fills("dark")})
    return f"\n{fixed}{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


@cache
def script() -> str:
    """The script, as it stands in the file."""
    return files(__package__).joinpath("assets/svg.js").read_text("utf-8")


def source_hash(text: str) -> str:
    """The hash by which a policy names an inline script or style (CSP Level 3, section 8.4)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _fill_rules(colors: dict[str, str]) -> str:
    rules = [f".{name} rect, rect.{name} {{ fill: {color} }}\n" for name, color in colors.items()]
    hatched = f".hatched {{ fill: {colors['t0']} }}\n#chart .t0 rect, rect.t0 {{ fill: url(#hatch) }}\n"
    return "".join(rules) + hatched


def _head(picture: Picture) -> list[str]:
    """Title, facts and legend."""
    facts = "".join(
        f"<tspan>{escape(fact)}{'  ·  ' if more else ''}</tspan>"
        for more, fact in zip(range(len(picture.facts) - 1, -1, -1), picture.facts, strict=True)
    )
    parts = [
        f'<text class="title" x="{PAD}" y="30" data-full="{escape(picture.title)}">{escape(picture.title)}</text>',
        f'<text class="fact" x="{PAD}" y="51" xml:space="preserve">{facts}</text>',
    ]
    x = float(PAD)
    for key in picture.legend:
        label = f"{key.title} {key.share}".strip()
        parts.append(
            f'<g class="key" transform="translate({x:g} 61)"><rect class="swatch {key.color}" width="11" height="11"/>'
            f'<text x="16" y="10">{escape(label)}</text></g>'
        )
        x += 16 + _LEGEND_CHAR * len(label) + 18
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The frames of a picture, level by level."""

    picture: Picture
    width: int
    height: int
    """Where the chart ends."""

    def levels(self) -> list[str]:
        """A group for each level, the root's first."""
        picture = self.picture
        scale = (self.width - 2 * PAD) / max(picture.total, 1)
        x = (PAD + picture.start * scale).tolist()
        wide = (picture.weight * scale).tolist()
        words = [text.replace("<", "&lt;").replace(">", "&gt;") for text in tooltips(picture)]
        names = [escape(name) for name in picture.names]
        names[0] = ROOT_NAME
        items = picture.trie.item.tolist()
        color = [picture.colors[number] for number in picture.color.tolist()]
        bounds = picture.trie.levels.tolist()
        groups = []
        for depth in range(len(bounds) - 1):
            flame = picture.layout is Layout.FLAME
            y = self.height - (depth + 1) * ROW if flame else _HEAD + depth * ROW
            frames = [
                f'<g class="{color[i]}"><title>{names[items[i]]}\n{words[i]}</title>'
                f'<rect x="{x[i]:.8g}" width="{wide[i] - min(1.0, wide[i] / 8):.6g}" height="{ROW - 1}"/>'
                f"{self._text(items[i], names[items[i]], x[i], wide[i])}</g>"
                for i in range(bounds[depth], bounds[depth + 1])
            ]
            groups.append(f'<g transform="translate(0 {y})">\n' + "\n".join(frames) + "\n</g>")
        return groups

    def _text(self, item: int, escaped: str, x: float, wide: float) -> str:
        """The part of the name that fits, if any."""
        room = int((wide - 8) / CHAR)
        if room < 2:
            return ""
        name = self.picture.names[item] or ROOT_NAME
        if len(name) > room:
            shown = name[: room - 1] + "…"
            # What is as it was when escaped has nothing to escape in any part.
            escaped = shown if len(escaped) == len(name) else escape(shown, quote=False)
        return f'<text x="{x + 4:.6g}" y="{ROW - 6}">{escaped}</text>'


def tooltips(picture: Picture) -> list[str]:
    """What is said of each frame besides its name: share, samples, time, and what is its own; or how these changed."""
    if picture.shares:
        return _changes(picture)
    total = picture.total
    weights, counts, own = picture.weight.tolist(), picture.counts[0].tolist(), picture.own.tolist()
    words = []
    for weight, count, self_count in zip(weights, counts, own, strict=True):
        text = f"{wording.share(weight, total)}, {wording.samples(count)}"
        if picture.timed:
            text += f", {wording.duration(weight)}"
        words.append(f"{text}, {self_count:,} in itself" if self_count != count else f"{text}, all in itself")
    return words


def _changes(picture: Picture) -> list[str]:
    rows = zip(*(column.tolist() for column in (*picture.shares, *picture.counts)), strict=True)
    words = []
    for one, other, count_before, count_after in rows:
        before, after = wording.share(one, SHARE_UNIT), wording.share(other, SHARE_UNIT)
        points = 100 * (other - one) / SHARE_UNIT
        words.append(f"{before} → {after} ({points:+.2f} points), {count_before:,} → {count_after:,} samples")
    return words
