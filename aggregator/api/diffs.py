"""Differences: two selectors, two times, or two builds, in one picture."""

import re

from starlette.responses import Response

from aggregator.api.answers import file_answer
from aggregator.api.endpoint import Asked, Param
from aggregator.api.guard import PICTURE_POLICY
from aggregator.api.profiles import BY, DOWNLOAD, FROM, KERNEL, QUERY, UNTIL, bounded, samples_header, while_connected
from aggregator.diff import compare
from aggregator.fold import fold
from aggregator.formats import DIFF_FORMS, Format
from aggregator.profile import Completeness, Profile
from aggregator.query import Question
from aggregator.selector import Matcher, MatchOp, Selector, parse_selector
from aggregator.times import TimeRange, format_time, parse_range
from fleetflame.errors import UsageError

BASELINE = Param(name="baseline", help="Selector of what to compare with; `query` if not given.")
BASELINE_FROM = Param(name="baseline_from", help="Start of the time range to compare with; `from` if not given.")
BASELINE_UNTIL = Param(name="baseline_until", help="End of the time range to compare with; `until` if not given.")
BASELINE_BUILD = Param(name="baseline_build", help="Build ID of executables to compare with, or its first digits.")
BUILD = Param(name="build", help="Build ID of executables, or its first digits.")
FORMAT = Param(name="format", help="What to make of it.", default="json", choices=tuple(DIFF_FORMS))

PARAMS = (
    BASELINE, BASELINE_FROM, BASELINE_UNTIL, BASELINE_BUILD,
    QUERY, FROM, UNTIL, BUILD, BY, KERNEL, FORMAT, DOWNLOAD,
)  # fmt: skip
ANSWERS = {
    kind: "format " + ", ".join(f"`{name}`" for name, form in DIFF_FORMS.items() if form.content_type == kind)
    for kind in sorted({form.content_type for form in DIFF_FORMS.values()})
}

_BUILD = re.compile(r"[0-9a-f]{4,128}")
WHOLE_BUILD_DIGITS = 40


async def diff(asked: Asked) -> Response:
    """What `query` has more and less than `baseline`. Refuses to compare a question with itself."""
    before, after = _questions(asked)
    form = DIFF_FORMS[Format(asked.text("format"))]
    limits, labels = asked.context.queries.limits, _labels(before, after)

    def render(old: Profile, new: Profile) -> tuple[bytes, str]:
        difference = compare(fold(old), fold(new), labels=labels)
        both = Completeness(
            whole=old.completeness.whole + new.completeness.whole,
            truncated=old.completeness.truncated + new.completeness.truncated,
            unsymbolized=old.completeness.unsymbolized + new.completeness.unsymbolized,
        )
        sides = f"before={old.completeness.total}, after={new.completeness.total}"
        return bounded(form.render(difference), limits), f"{samples_header(both)}, {sides}"

    asking = asked.context.queries.ask((before, after), render)
    body, samples = await while_connected(asked.request, asking)
    headers = {"fleetflame-samples": samples}
    if form.picture:
        headers["content-security-policy"] = PICTURE_POLICY
    name = f"{after.selector.type}-diff{form.suffix}" if asked.flag("download") else ""
    return await file_answer(asked.request, body, content_type=form.content_type, name=name, headers=headers)


def _questions(asked: Asked) -> tuple[Question, Question]:
    by, kernel, now = asked.many("by"), asked.flag("kernel"), asked.context.clock()
    query, start, end = asked.text("query"), asked.text("from"), asked.text("until")
    after = Question(
        selector=_of_build(parse_selector(query), asked.text("build")),
        time=parse_range(start, end, now_ns=now),
        by=by,
        kernel=kernel,
    )
    before = Question(
        selector=_of_build(parse_selector(asked.text("baseline") or query), asked.text("baseline_build")),
        time=parse_range(asked.text("baseline_from") or start, asked.text("baseline_until") or end, now_ns=now),
        by=by,
        kernel=kernel,
    )
    if before == after:
        raise UsageError(
            "both sides of the difference are the same",
            hint="give another selector as `baseline`, another time as `baseline_from`, or two builds",
        )
    return before, after


def _of_build(selector: Selector, build: str) -> Selector:
    """`selector` for one build of executables, by its ID or the first digits of it."""
    if not build:
        return selector
    text = build.lower()
    if not _BUILD.fullmatch(text):
        raise UsageError(f"not a build ID: `{build[:80]}`", hint="give four hex digits of it or more")
    if len(text) == WHOLE_BUILD_DIGITS:
        return selector.narrowed(Matcher("build", MatchOp.EQ, text))
    return selector.narrowed(Matcher("build", MatchOp.RE, f"{text}.*"))


def _labels(before: Question, after: Question) -> tuple[str, str]:
    """What to call the sides: by what they differ in."""
    if before.selector != after.selector:
        return str(before.selector), str(after.selector)
    return _span(before.time), _span(after.time)


def _span(time: TimeRange) -> str:
    return f"{format_time(time.from_ns)} to {format_time(time.until_ns)}"
