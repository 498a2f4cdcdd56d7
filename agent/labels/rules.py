"""`relabel_configs` read from a file, with its lines."""

from typing import Any

from agent.document import Value
from agent.labels.relabel import Action, Rule, RuleError

MAX_RULES = 1000
"""More is a mistake of whatever generated the file: every rule runs for every process."""

_TEXTS = ("separator", "regex", "target_label", "replacement")
RULE_KEYS = ("action", "source_labels", *_TEXTS, "modulus")


def read_rules(value: Value) -> tuple[Rule, ...]:
    """The rules of a list in a file. Raises UsageError with the line of what is wrong."""
    entries = value.entries()
    if len(entries) > MAX_RULES:
        raise value.error(f"{len(entries)} rules, more than {MAX_RULES}")
    return tuple(_read_rule(entry) for entry in entries)


def _read_rule(value: Value) -> Rule:
    given = value.fields(RULE_KEYS)
    arguments: dict[str, Any] = {name: given[name].text() for name in _TEXTS if name in given}
    if "action" in given:
        arguments["action"] = _read_action(given["action"])
    if "source_labels" in given:
        arguments["source_labels"] = tuple(entry.text() for entry in given["source_labels"].entries())
    if "modulus" in given:
        arguments["modulus"] = given["modulus"].integer()
    try:
        return Rule(**arguments)
    except RuleError as error:
        raise given.get(error.key, value).error(str(error), hint=error.hint) from error


def _read_action(value: Value) -> Action:
    name = value.text()
    try:
        return Action(name.lower())  # Prometheus takes either case
    except ValueError:
        raise value.error(f"unknown action `{name[:80]}`", hint="one of " + ", ".join(Action)) from None
