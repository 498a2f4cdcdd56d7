"""Selectors: which samples a query is about, in the language of Prometheus.

    cpu{service="checkout", node=~"web-.*"}     a profile type and matchers, all of which must hold
    {service="checkout"}   service="checkout"   the type may be left out (cpu), and then the braces too
    cpu                    (nothing)            everything

As in Prometheus an absent label has the value "", regular expressions match the whole value, and `.` matches a line
break. Expressions are RE2's, which take time linear in the value, so that no query can stall the aggregator. Pure: text
in, values out; the store turns them into SQL.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NoReturn

import re2

from fleetflame.errors import UsageError

DEFAULT_TYPE = "cpu"
MAX_SELECTOR_CHARS = 16 * 1024
"""Longer ones are refused unread: a selector of 500 host names fits, a mistake does not cost anything."""
MAX_MATCHERS = 64
MAX_REGEX_MEMORY = 1 << 20
"""Bytes RE2 may use for one expression; an alternation of 1,000 host names needs a tenth of it."""


class MatchOp(StrEnum):
    """How a matcher compares."""

    EQ = "="
    NE = "!="
    RE = "=~"
    NRE = "!~"


REGEX_OPS = frozenset({MatchOp.RE, MatchOp.NRE})


@dataclass(frozen=True, slots=True, order=True)
class Matcher:
    """One condition on one label. Raises UsageError if `value` should be an expression that RE2 can run and is not."""

    name: str
    op: MatchOp
    value: str

    def __post_init__(self) -> None:
        if self.op in REGEX_OPS:
            _compile(self.value)

    def __str__(self) -> str:
        name = self.name if _NAME.fullmatch(self.name) else quote(self.name)
        return f"{name}{self.op.value}{quote(self.value)}"

    @property
    def pattern(self) -> str:
        """The expression for an engine that searches: anchored, `.` matching everything."""
        return f"^(?s:{self.value})$"

    def matches(self, value: str) -> bool:
        """Whether a label with `value` passes; "" stands for an absent label."""
        if self.op in REGEX_OPS:
            return (_compile(self.value).fullmatch(value) is not None) == (self.op is MatchOp.RE)
        return (self.value == value) == (self.op is MatchOp.EQ)


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """A profile type and the conditions that a series has to meet, all of them."""

    type: str = DEFAULT_TYPE
    matchers: tuple[Matcher, ...] = ()

    def __str__(self) -> str:
        inside = ", ".join(str(matcher) for matcher in self.matchers)
        return f"{self.type}{{{inside}}}" if inside else self.type

    def narrowed(self, *matchers: Matcher) -> "Selector":
        """This selector with more conditions."""
        return Selector(type=self.type, matchers=(*self.matchers, *matchers))


def parse_selector(text: str) -> Selector:
    """The selector that `text` spells; `parse_selector(str(selector)) == selector`.

    Raises UsageError that shows the text, a caret below the place of the error and what was expected there.
    """
    if len(text) > MAX_SELECTOR_CHARS:
        raise UsageError(
            f"the selector is {len(text)} characters long, {MAX_SELECTOR_CHARS} are allowed",
            hint="select by a label that the hosts or services have in common",
        )
    return _Parser(text).selector()


def quote(value: str) -> str:
    """`value` as a string of the selector language."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    escaped = escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f'"{escaped}"'


@lru_cache(maxsize=256)
def _compile(expression: str) -> "re2._Regexp":
    options = re2.Options()
    options.log_errors = False  # RE2 would write to our standard error
    options.dot_nl = True
    options.max_mem = MAX_REGEX_MEMORY
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        raise UsageError(
            f"not a regular expression: `{expression[:200]}`: {_reason(error)}",
            hint="the syntax is RE2's: no look-around, no back references",
        ) from None


def _reason(error: Exception) -> str:
    cause = error.args[0] if error.args else ""
    return cause.decode("utf-8", "replace") if isinstance(cause, bytes) else str(cause)


_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TYPE = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_OP = re.compile(r"=~|!~|!=|=(?!=)")
_QUOTES = "\"'`"
_ESCAPE = re.compile(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|[abfnrtv\\\"']")
_SIMPLE_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class _Parser:
    """Reads one selector from left to right; `at` is where the next token begins."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def selector(self) -> Selector:
        self._skip_space()
        kind = DEFAULT_TYPE
        word = _TYPE.match(self.text, self.at)
        if word and not self._is_operator(word.end()):
            kind, self.at = word.group(), word.end()
            self._skip_space()
            if self.at == len(self.text):
                return Selector(type=kind)
            if self._peek() != "{":
                self._fail("`{` or the end of the selector")
        if self._peek() == "{":
            self.at += 1
            matchers = self._matchers(closing="}")
            self.at += 1
        else:
            matchers = self._matchers(closing="")
        self._skip_space()
        if self.at < len(self.text):
            self._fail("the end of the selector")
        return Selector(type=kind, matchers=matchers)

    def _is_operator(self, at: int) -> bool:
        blank = _SPACE.match(self.text, at)
        assert blank is not None, "the expression matches the empty string"
        return self.text[blank.end() : blank.end() + 1] in ("=", "!") and blank.end() < len(self.text)

    def _matchers(self, *, closing: str) -> tuple[Matcher, ...]:
        """Matchers up to `closing`, which is left unread; a comma may follow the last one."""
        found: list[Matcher] = []
        while True:
            self._skip_space()
            if self._peek() == closing:
                return tuple(found)
            if len(found) == MAX_MATCHERS:
                self._fail(f"at most {MAX_MATCHERS} matchers")
            found.append(self._matcher(closing))
            self._skip_space()
            if self._peek() == ",":
                self.at += 1
            elif self._peek() != closing:
                self._fail("`,` or `}`" if closing else "`,` or the end of the selector")

    def _matcher(self, closing: str) -> Matcher:
        name = self._label_name(closing)
        self._skip_space()
        op = _OP.match(self.text, self.at)
        if not op:
            self._fail("one of `=`, `!=`, `=~`, `!~`")
        self.at = op.end()
        self._skip_space()
        start = self.at
        if self._peek() not in _QUOTES or not self._peek():
            self._fail('a value in quotes, as in service="checkout"')
        value = self._string()
        try:
            return Matcher(name, MatchOp(op.group()), value)
        except UsageError as error:
            self._refuse(error.message, start, hint=error.hint)

    def _label_name(self, closing: str) -> str:
        start = self.at
        if self._peek() and self._peek() in _QUOTES:
            name = self._string()
            if not name:
                self._refuse("a label name cannot be empty", start)
            return name
        word = _NAME.match(self.text, self.at)
        if not word:
            self._fail("a label name or `}`" if closing else "a label name")
        self.at = word.end()
        return word.group()

    def _string(self) -> str:
        start = self.at
        mark = self.text[start]
        self.at += 1
        if mark == "`":
            end = self.text.find("`", self.at)
            if end < 0:
                self._refuse("the string that begins here has no closing '`'", start)
            value, self.at = self.text[self.at : end], end + 1
            return value
        parts: list[bytes] = []
        while self._peek() != mark:
            if not self._peek() or self._peek() == "\n":
                self._refuse(f"the string that begins here has no closing {mark}", start)
            parts.append(self._escape() if self._peek() == "\\" else self._plain(mark))
        self.at += 1
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            self._refuse("the escapes in the string that begins here are not UTF-8", start)

    def _plain(self, mark: str) -> bytes:
        start = self.at
        while self._peek() not in (mark, "\\", "\n", ""):
            self.at += 1
        return self.text[start : self.at].encode("utf-8", "surrogatepass")

    def _escape(self) -> bytes:
        found = _ESCAPE.match(self.text, self.at + 1)
        if not found:
            self._refuse(
                f"unknown escape `{self.text[self.at : self.at + 2]}`",
                self.at,
                hint="in an expression double the backslash, or quote it with '`'",
            )
        start, code = self.at, found.group()
        self.at = found.end()
        if code[0] in "uU":
            point = int(code[1:], 16)
            if point > 0x10FFFF or 0xD800 <= point < 0xE000:
                self._refuse(f"`\\{code}` is no character", start)
            return chr(point).encode()
        if code[0] == "x" or len(code) == 3:
            number = int(code[1:], 16) if code[0] == "x" else int(code, 8)
            if number > 0xFF:
                self._refuse(f"`\\{code}` is no byte", start)
            return bytes([number])
        return _SIMPLE_ESCAPES.get(code, code).encode()

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _skip_space(self) -> None:
        blank = _SPACE.match(self.text, self.at)
        assert blank is not None, "the expression matches the empty string"
        self.at = blank.end()

    def _fail(self, expected: str) -> NoReturn:
        found = f"`{self._peek()}`" if self._peek() else "the end"
        self._refuse(f"expected {expected}, found {found}", self.at)

    def _refuse(self, reason: str, at: int, *, hint: str = "") -> NoReturn:
        hint = hint or 'a selector looks like cpu{service="checkout", node=~"web-.*"}'
        raise UsageError(f"malformed selector: {reason}\n{_pointer(self.text, at)}", hint=hint)


def _pointer(text: str, at: int, *, width: int = 100) -> str:
    """Two lines: the text around `at`, and a caret below the character at `at`."""
    start = 0 if len(text) <= width else max(0, at - width // 2)
    excerpt = "".join(char if char.isprintable() else " " for char in text[start : start + width])
    before = "..." if start else ""
    after = "..." if start + width < len(text) else ""
    return f"  {before}{excerpt}{after}\n  {' ' * (len(before) + at - start)}^"
