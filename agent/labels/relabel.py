"""Prometheus' `relabel_configs`: rules that keep, drop and rewrite a set of labels. Pure.

Semantics are Prometheus' own (model/relabel/relabel.go), with three differences, all in docs/configuration.md: regular
expressions are Python's (`\\d`, `\\w`, `\\s` mean ASCII, as they do there), a value is cut at MAX_VALUE characters, and
`node` may not be a target, since the aggregator believes only the subject that a message came on.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MAX_VALUE = 1024
"""Characters of a label's value. Prometheus has no limit of its own, its hosted versions use 1,024 to 2,048. It also
bounds what a rule can be fed and can grow: rules multiply values, and whoever starts a process chooses its
arguments."""

RESERVED = "node"

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}")  # as long as one may be on the wire
_REFERENCE = r"\$(?:\{\w+\}|\w+)"
_NAME_TEMPLATE = re.compile(rf"(?:[a-zA-Z_]|{_REFERENCE})(?:\w|{_REFERENCE})*", re.ASCII)
_TEMPLATE_PART = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<braced>\w+)\}|(?P<bare>\w+))")
_POSIX_CLASS = re.compile(r"\[:\^?[a-z]+:\]")
# Control characters of ASCII and Latin-1, and lone surrogates (bytes that were not UTF-8, read with surrogateescape).
_UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Action(StrEnum):
    """What a rule does."""

    REPLACE = "replace"
    KEEP = "keep"
    DROP = "drop"
    KEEPEQUAL = "keepequal"
    DROPEQUAL = "dropequal"
    HASHMOD = "hashmod"
    LABELMAP = "labelmap"
    LABELKEEP = "labelkeep"
    LABELDROP = "labeldrop"
    LOWERCASE = "lowercase"
    UPPERCASE = "uppercase"


_NEED_TARGET = frozenset(
    {
        Action.REPLACE,
        Action.HASHMOD,
        Action.KEEPEQUAL,
        Action.DROPEQUAL,
        Action.LOWERCASE,
        Action.UPPERCASE,
    }
)
_ONLY_TARGET = frozenset({Action.KEEPEQUAL, Action.DROPEQUAL})
_ONLY_REGEX = frozenset({Action.LABELKEEP, Action.LABELDROP})

Template = tuple[str | int, ...]
"""Literal text and numbers of groups, in order."""


class RuleError(ValueError):
    """A rule cannot be: `key` is the part of it that is wrong, `hint` the way out or ""."""

    def __init__(self, key: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of `relabel_configs`, with Prometheus' defaults. Raises RuleError for what Prometheus refuses as
    well."""

    action: Action = Action.REPLACE
    source_labels: tuple[str, ...] = ()
    separator: str = ";"
    regex: str = "(.*)"
    target_label: str = ""
    replacement: str = "$1"
    modulus: int = 0
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)
    target: Template = field(init=False, repr=False, compare=False)
    value: Template = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_names(self)
        _check_fields(self)
        pattern = _compile(self.regex)
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "target", parse_template(self.target_label, pattern))
        object.__setattr__(self, "value", parse_template(self.replacement, pattern))


def relabel(rules: Sequence[Rule], labels: Mapping[str, str]) -> dict[str, str] | None:
    """`labels` after all rules in order, or None as soon as one drops them. No value of the result is empty."""
    result = {name: value for name, value in labels.items() if value}
    for rule in rules:
        if not _APPLY[rule.action](rule, result):
            return None
    return result


def clean(value: str) -> str:
    """`value` as a label may have it: UTF-8 can spell it, no control characters (U+FFFD instead), MAX_VALUE at most."""
    return _UNCLEAN.sub("\N{REPLACEMENT CHARACTER}", value[:MAX_VALUE])


def is_name(name: str) -> bool:
    """Whether a label may be called so: letters, digits and `_`, no digit first, 128 characters at most."""
    return _NAME.fullmatch(name) is not None


def parse_template(text: str, pattern: re.Pattern[str]) -> Template:
    """`text` with `$1`, `${1}`, `$name` and `${name}` taken apart as Go's `Regexp.Expand` does.

    The longest name counts (`$1x` is the group `1x`); a group that `pattern` has not is nothing; `$$` is `$`; a `$`
    that begins none of these stands for itself.
    """
    parts: list[str | int] = []
    end = 0
    for match in _TEMPLATE_PART.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        parts.append("$" if match["dollar"] else _group(match["braced"] or match["bare"], pattern))
    parts.append(text[end:])
    return tuple(part for part in parts if part != "")


def _group(name: str, pattern: re.Pattern[str]) -> str | int:
    if name in pattern.groupindex:
        return pattern.groupindex[name]
    number = int(name) if name.isascii() and name.isdecimal() and len(name) <= 8 else -1
    return number if 0 <= number <= pattern.groups and str(number) == name else ""


def _expand(template: Template, match: re.Match[str]) -> str:
    return "".join(part if isinstance(part, str) else match[part] or "" for part in template)


def _compile(regex: str) -> re.Pattern[str]:
    if _POSIX_CLASS.search(regex):
        raise RuleError("regex", f"`regex` has a POSIX class: `{regex[:80]}`", hint="write it out, such as [a-z]")
    try:
        with warnings.catch_warnings():
            # Python warns of syntax that will change its meaning: better refused than understood in two ways.
            warnings.simplefilter("error")
            return re.compile(regex, re.ASCII | re.DOTALL)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise RuleError("regex", f"`regex` does not compile: {error}: `{regex[:80]}`") from error


def _check_names(rule: Rule) -> None:
    for name in rule.source_labels:
        if not is_name(name):
            raise RuleError("source_labels", f"not a label name: `{name[:80]}`", hint="use letters, digits and `_`")
    if rule.action in _NEED_TARGET:
        _check_target(rule)
    if rule.action is Action.LABELMAP and not _NAME_TEMPLATE.fullmatch(rule.replacement):
        raise RuleError("replacement", f"`replacement` is no label name: `{rule.replacement[:80]}`")


def _check_target(rule: Rule) -> None:
    target = rule.target_label
    if not target:
        raise RuleError("action", f"action `{rule.action}` needs `target_label`")
    if target == RESERVED and rule.action not in _ONLY_TARGET:
        raise RuleError(
            "target_label",
            f"`{RESERVED}` cannot be a target",
            hint="name the node with the option --node or the key `node`",
        )
    with_references = rule.action is Action.REPLACE and "$" in target
    if not (_NAME_TEMPLATE if with_references else _NAME).fullmatch(target):
        raise RuleError("target_label", f"not a label name: `{target[:80]}`", hint="use letters, digits and `_`")


def _check_fields(rule: Rule) -> None:
    if rule.modulus < 0 or rule.modulus >= 1 << 64 or (rule.action is Action.HASHMOD and not rule.modulus):
        key = "modulus" if rule.modulus else "action"
        raise RuleError(key, "`modulus` must be a whole number from 1 to 2^64 - 1")
    changed = {name for name, default in _DEFAULTS.items() if getattr(rule, name) != default}
    allowed = set(_DEFAULTS)
    if rule.action in _ONLY_REGEX:
        allowed = {"regex"}
    elif rule.action in _ONLY_TARGET:
        allowed = {"source_labels", "target_label"}
    elif rule.action in (Action.LOWERCASE, Action.UPPERCASE):
        allowed.discard("replacement")
    for name in sorted(changed - allowed):
        raise RuleError(name, f"action `{rule.action}` does not take `{name}`", hint=f"it takes {_listed(allowed)}")


_DEFAULTS: dict[str, object] = {
    "source_labels": (),
    "separator": ";",
    "regex": "(.*)",
    "target_label": "",
    "replacement": "$1",
    "modulus": 0,
}


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _joined(rule: Rule, labels: dict[str, str]) -> str:
    return rule.separator.join([labels.get(name, "") for name in rule.source_labels])


def _set(labels: dict[str, str], name: str, value: str) -> None:
    if value:
        labels[name] = clean(value)
    else:
        labels.pop(name, None)


def _replace(rule: Rule, labels: dict[str, str]) -> bool:
    if match := rule.pattern.fullmatch(_joined(rule, labels)):
        target = _expand(rule.target, match)
        if is_name(target):
            _set(labels, target, _expand(rule.value, match))
    return True


def _keep(rule: Rule, labels: dict[str, str]) -> bool:
    return rule.pattern.fullmatch(_joined(rule, labels)) is not None


def _drop(rule: Rule, labels: dict[str, str]) -> bool:
    return not _keep(rule, labels)


def _keepequal(rule: Rule, labels: dict[str, str]) -> bool:
    return labels.get(rule.target_label, "") == _joined(rule, labels)


def _dropequal(rule: Rule, labels: dict[str, str]) -> bool:
    return not _keepequal(rule, labels)


def _hashmod(rule: Rule, labels: dict[str, str]) -> bool:
    digest = hashlib.md5(_joined(rule, labels).encode(errors="replace"), usedforsecurity=False).digest()
    _set(labels, rule.target_label, str(int.from_bytes(digest[8:], "big") % rule.modulus))
    return True


def _lowercase(rule: Rule, labels: dict[str, str]) -> bool:
    _set(labels, rule.target_label, _joined(rule, labels).lower())
    return True


def _uppercase(rule: Rule, labels: dict[str, str]) -> bool:
    _set(labels, rule.target_label, _joined(rule, labels).upper())
    return True


def _labelmap(rule: Rule, labels: dict[str, str]) -> bool:
    # By name, so that two labels mapped to one name give the same winner whatever order they were found in.
    for name, value in sorted(labels.items()):
        if match := rule.pattern.fullmatch(name):
            target = _expand(rule.value, match)
            if is_name(target):
                labels[target] = value
    return True


def _labelkeep(rule: Rule, labels: dict[str, str]) -> bool:
    for name in [name for name in labels if not rule.pattern.fullmatch(name)]:
        del labels[name]
    return True


def _labeldrop(rule: Rule, labels: dict[str, str]) -> bool:
    for name in [name for name in labels if rule.pattern.fullmatch(name)]:
        del labels[name]
    return True


_APPLY: dict[Action, Callable[[Rule, dict[str, str]], bool]] = {
    Action.REPLACE: _replace,
    Action.KEEP: _keep,
    Action.DROP: _drop,
    Action.KEEPEQUAL: _keepequal,
    Action.DROPEQUAL: _dropequal,
    Action.HASHMOD: _hashmod,
    Action.LABELMAP: _labelmap,
    Action.LABELKEEP: _labelkeep,
    Action.LABELDROP: _labeldrop,
    Action.LOWERCASE: _lowercase,
    Action.UPPERCASE: _uppercase,
}
