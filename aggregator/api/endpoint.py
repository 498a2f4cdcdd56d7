"""One endpoint as data: path, parameters, what it answers. The router, the checks and OpenAPI are made from it."""

import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from aggregator.times import TimeRange, parse_range
from fleetflame.errors import UsageError

if TYPE_CHECKING:
    from aggregator.api.context import Context

MAX_PARAMS = 64
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """One query parameter. `default` "" means that it may be absent; `choices` are all its values if there are any."""

    name: str
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()
    repeated: bool = False
    required: bool = False
    example: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose parameters are all known ones."""

    context: "Context"
    request: Request
    values: Mapping[str, Sequence[str]]
    known: Mapping[str, Param]

    def text(self, name: str) -> str:
        """The parameter's value, its default if it is absent."""
        found = self.values.get(name)
        return found[0] if found else self.known[name].default

    def many(self, name: str) -> tuple[str, ...]:
        """All values of a repeatable parameter; commas separate several in one."""
        words = ",".join(self.values.get(name, ())).split(",")
        return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))

    def flag(self, name: str) -> bool:
        """A true or false parameter. Raises UsageError."""
        text = self.text(name).lower()
        if text not in _TRUE | _FALSE:
            raise UsageError(f"parameter `{name}` is `{text[:40]}`", hint="give true or false")
        return text in _TRUE

    def number(self, name: str, *, least: int, most: int) -> int:
        """A whole number. Raises UsageError if it is none or out of range."""
        text = self.text(name)
        if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
            raise UsageError(f"parameter `{name}` is `{text[:40]}`", hint=f"give a number from {least} to {most}")
        return int(text)

    def time(self, start: str = "from", end: str = "until") -> TimeRange:
        """The range between two parameters. Raises UsageError."""
        return parse_range(self.text(start), self.text(end), now_ns=self.context.clock())


Handler = Callable[[Asked], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method on one path. `answers` maps content types to what they hold; `body` says what a request carries."""

    path: str
    handler: Handler
    summary: str
    answers: Mapping[str, str]
    method: str = "GET"
    params: tuple[Param, ...] = ()
    body: str = ""


def read_params(endpoint: Endpoint, request: Request) -> dict[str, list[str]]:
    """The request's parameters by name. Raises UsageError for one that is unknown, missing, repeated or no choice."""
    known = {param.name: param for param in endpoint.params}
    pairs = request.query_params.multi_items()
    if len(pairs) > MAX_PARAMS:
        raise UsageError(f"{len(pairs)} parameters are too many", hint=f"give at most {MAX_PARAMS}")
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in known:
            raise UsageError(f"unknown parameter `{name[:80]}`", hint=_closest(name, known))
        values.setdefault(name, []).append(value)
    for name, param in known.items():
        _check(param, values.get(name, []))
    return values


def _check(param: Param, values: list[str]) -> None:
    if param.required and not any(values):
        raise UsageError(f"parameter `{param.name}` is missing", hint=param.help)
    if len(values) > 1 and not param.repeated:
        raise UsageError(f"parameter `{param.name}` is given {len(values)} times", hint="give it once")
    for value in values:
        if param.choices and value not in param.choices:
            raise UsageError(
                f"parameter `{param.name}` is `{value[:80]}`", hint="give one of " + ", ".join(param.choices)
            )


def _closest(name: str, known: Mapping[str, Any]) -> str:
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean `{near[0]}`?"
    return "known are " + ", ".join(known) if known else "there are no parameters here"
