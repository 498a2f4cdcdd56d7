"""Times and durations as people write them: `now`, `-15m`, RFC 3339, Unix numbers. Pure; the clock is passed in."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from fleetflame.errors import UsageError

SECOND_NS = 1_000_000_000
DEFAULT_FROM = "-15m"
DEFAULT_UNTIL = "now"

FORMS = "write `now`, `-15m`, `now-1h30m`, RFC 3339 as in `2026-01-31T09:30:00Z`, or Unix seconds"
DURATION_FORMS = "write a number and a unit, as in `30s`, `15m`, `1h30m`, `7d`; units are ms, s, m, h, d, w"

_UNITS = {
    "ms": SECOND_NS // 1000,
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS,
    "d": 86_400 * SECOND_NS,
    "w": 7 * 86_400 * SECOND_NS,
}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d|w)", re.ASCII)
_NUMBER = re.compile(r"\d{1,20}(\.\d{1,9})?", re.ASCII)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
MAX_NS = 253_402_300_800 * SECOND_NS
"""The year 10000: where RFC 3339 ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRange:
    """Nanoseconds since 1970, `from_ns` included, `until_ns` excluded. Raises UsageError if it is empty."""

    from_ns: int
    until_ns: int

    def __post_init__(self) -> None:
        if self.from_ns >= self.until_ns:
            raise UsageError(
                f"the time range is empty: from {format_time(self.from_ns)} until {format_time(self.until_ns)}",
                hint="the range starts before it ends",
            )

    @property
    def length_ns(self) -> int:
        return self.until_ns - self.from_ns


def parse_range(start: str, end: str, *, now_ns: int) -> TimeRange:
    """The range between two times, each "" for its default (the last 15 minutes). Raises UsageError."""
    return TimeRange(
        from_ns=parse_time(start or DEFAULT_FROM, now_ns=now_ns),
        until_ns=parse_time(end or DEFAULT_UNTIL, now_ns=now_ns),
    )


def parse_time(text: str, *, now_ns: int) -> int:
    """Nanoseconds since 1970 of the moment that `text` names. Raises UsageError that lists the accepted forms.

    A plain number is Unix time; its size says whether in seconds, milliseconds (from 1e11, the year 5138 in seconds),
    microseconds or nanoseconds, because the tools that produce such numbers disagree.
    """
    word = text.strip()
    if word.startswith(("now", "-", "+")):
        moment = _relative(word, now_ns)
    elif _NUMBER.fullmatch(word):
        moment = _unix(word)
    else:
        moment = _rfc3339(word)
    if not 0 <= moment < MAX_NS:
        raise UsageError(f"the time `{word[:80]}` is out of range", hint="times lie between 1970 and the year 9999")
    return moment


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration such as `90s` or `1h30m`. Raises UsageError for anything else, a sign included."""
    word = text.strip()
    at = total = 0
    while part := _PART.match(word, at):
        total += _scaled(part.group(1), _UNITS[part.group(2)])
        at = part.end()
    if at == 0 or at != len(word):
        raise UsageError(f"not a duration: `{word[:80]}`", hint=DURATION_FORMS)
    return total


def format_time(moment_ns: int) -> str:
    """RFC 3339 in UTC, with the fraction of a second only if there is one; `parse_time` reads it back exactly."""
    seconds, fraction = divmod(moment_ns, SECOND_NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{text}{digits}Z"


def format_duration(length_ns: int) -> str:
    """The duration in its largest units, exact to the millisecond: `1h30m`, `7d`, `0s`."""
    rest = length_ns // _UNITS["ms"] * _UNITS["ms"]
    text = ""
    for unit in ("d", "h", "m", "s", "ms"):
        number, rest = divmod(rest, _UNITS[unit])
        text += f"{number}{unit}" if number else ""
    return text or "0s"


def _relative(word: str, now_ns: int) -> int:
    offset = word.removeprefix("now").strip()
    if not offset:
        return now_ns
    if offset[0] not in "+-":
        raise UsageError(f"not a time: `{word[:80]}`", hint=FORMS)
    try:
        length = parse_duration(offset[1:])
    except UsageError:
        raise UsageError(f"not a time: `{word[:80]}`", hint=FORMS) from None
    return now_ns - length if offset[0] == "-" else now_ns + length


def _unix(word: str) -> int:
    whole = int(word.split(".")[0])
    scale = next((unit for limit, unit in _UNIX_SCALES if whole < limit), 1)
    return _scaled(word, scale)


_UNIX_SCALES = ((10**11, SECOND_NS), (10**14, SECOND_NS // 10**3), (10**17, SECOND_NS // 10**6))


def _scaled(number: str, unit_ns: int) -> int:
    """`number` units, in integers throughout: a float has not enough digits for nanoseconds since 1970."""
    whole, _, fraction = number.partition(".")
    return int(whole) * unit_ns + int(fraction.ljust(9, "0") or "0") * unit_ns // SECOND_NS


def _rfc3339(word: str) -> int:
    found = _RFC3339.fullmatch(word)
    if not found:
        raise UsageError(f"not a time: `{word[:80]}`", hint=_hint(word))
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError as error:
        raise UsageError(f"not a time: `{word}`: {error}", hint=FORMS) from None
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _ONE_SECOND
    return seconds * SECOND_NS + int((fraction or "").ljust(9, "0"))


_ONE_SECOND = datetime(1970, 1, 1, 0, 0, 1) - datetime(1970, 1, 1)


def _hint(word: str) -> str:
    if _PART.match(word):
        return f"for a moment in the past put a minus before it: `-{word[:40]}`"
    if re.match(r"\d{4}-\d\d-\d\d", word):
        return "a date needs a time and a zone, as in `2026-01-31T09:30:00Z` or `2026-01-31T09:30:00+01:00`"
    return FORMS
