"""The formats of a profile, one row each: what it is called, how it travels, who makes it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from aggregator.fold import fold
from aggregator.profile import Profile
from aggregator.render import folded


class Format(StrEnum):
    """What a profile can be rendered as."""

    TABLE = "table"
    FOLDED = "folded"
    SVG = "svg"
    HTML = "html"
    PPROF = "pprof"
    SPEEDSCOPE = "speedscope"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one format is made and sent."""

    content_type: str
    suffix: str
    render: Callable[[Profile], bytes]
    picture: bool = False
    """It has scripts of its own and is shown in a sandbox."""


FORMS: dict[Format, Form] = {
    Format.FOLDED: Form(
        content_type="text/plain; charset=utf-8",
        suffix=".folded.txt",
        render=lambda profile: folded.render(fold(profile)),
    ),
}
