"""The formats of a profile, one row each: what it is called, how it travels, who makes it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from aggregator.diff import Difference
from aggregator.fold import fold
from aggregator.profile import Profile
from aggregator.render import folded, html, json, pprof, speedscope, svg, table


class Format(StrEnum):
    """What a profile can be rendered as."""

    TABLE = "table"
    FOLDED = "folded"
    SVG = "svg"
    HTML = "html"
    PPROF = "pprof"
    SPEEDSCOPE = "speedscope"
    JSON = "json"


Subject = TypeVar("Subject", Profile, Difference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(Generic[Subject]):
    """How one format is made and sent."""

    content_type: str
    suffix: str
    render: Callable[[Subject], bytes]
    picture: bool = False
    """It has scripts of its own and is shown in a sandbox."""


def _speedscope(profile: Profile) -> bytes:
    return speedscope.render(fold(profile), files=speedscope.source_lines(profile))


JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

FORMS: dict[Format, Form[Profile]] = {
    Format.TABLE: Form(content_type=TEXT, suffix=".txt", render=lambda profile: table.render(fold(profile))),
    Format.FOLDED: Form(content_type=TEXT, suffix=".folded.txt", render=lambda profile: folded.render(fold(profile))),
    Format.SVG: Form(
        content_type="image/svg+xml",
        suffix=".svg",
        render=lambda profile: svg.render(fold(profile)),
        picture=True,
    ),
    Format.HTML: Form(
        content_type="text/html; charset=utf-8",
        suffix=".html",
        render=lambda profile: html.render(fold(profile)),
        picture=True,
    ),
    Format.PPROF: Form(content_type="application/vnd.google.protobuf", suffix=".pb.gz", render=pprof.render),
    Format.SPEEDSCOPE: Form(content_type=JSON, suffix=".speedscope.json", render=_speedscope),
    Format.JSON: Form(content_type=JSON, suffix=".json", render=lambda profile: json.render(fold(profile))),
}

DIFF_FORMS: dict[Format, Form[Difference]] = {
    Format.TABLE: Form(content_type=TEXT, suffix=".txt", render=table.render_diff),
    Format.FOLDED: Form(content_type=TEXT, suffix=".folded.txt", render=folded.render_diff),
    Format.SVG: Form(content_type="image/svg+xml", suffix=".svg", render=svg.render_diff, picture=True),
    Format.HTML: Form(content_type="text/html; charset=utf-8", suffix=".html", render=html.render_diff, picture=True),
    Format.JSON: Form(content_type=JSON, suffix=".json", render=json.render_diff),
}
