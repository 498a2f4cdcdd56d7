"""Relabelling: the same answers as Prometheus, and what is ours beyond it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.document import Value, parse_document
from agent.labels.relabel import MAX_VALUE, Action, Rule, RuleError, clean, is_name, parse_template, relabel
from agent.labels.rules import read_rules
from fleetflame.errors import UsageError

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "relabel" / "prometheus.json").read_text())
PROMETHEUS = {"job": "job", "__address__": "127.0.0.1:1"}
"""Labels that every target of Prometheus has besides the file's."""


def stated_difference(rules: list[dict[str, Any]]) -> bool:
    """Rules that 2.42 takes and we, like later versions, refuse: a case-changing rule with `$` in its target."""
    return any(
        "$" in rule.get("target_label", "") and rule.get("action") in ("lowercase", "uppercase") for rule in rules
    )


def read(rules: list[dict[str, Any]]) -> tuple[Rule, ...]:
    document = parse_document(yaml.safe_dump(rules), file="rules.yml")
    assert isinstance(document, Value)
    return read_rules(document)


def visible(labels: dict[str, str]) -> dict[str, str]:
    # Prometheus maps labels to the empty name and to names it would refuse in a file; we do not.
    return {
        name: value
        for name, value in labels.items()
        if is_name(name) and not name.startswith("__") and name not in ("job", "instance", "jobjob")
    }


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: json.dumps(case["rules"])[:150])
def test_rules_do_what_prometheus_does(case: dict[str, Any]) -> None:
    """Each case gives the labels that a real Prometheus gave, drops what it dropped, refuses what it refused."""
    if case["refused"] or stated_difference(case["rules"]):
        with pytest.raises(UsageError, match=r"^rules\.yml:\d+: \[0\]: "):
            read(case["rules"])
        return
    ours = relabel(read(case["rules"]), GOLDEN["labels"] | PROMETHEUS)
    if case["kept"] is None:
        assert ours is None
    else:
        assert ours is not None
        assert visible(ours) == visible(case["kept"])


def test_every_action_is_in_the_golden_cases() -> None:
    """An action added without asking Prometheus about it would go unnoticed."""
    asked = {rule.get("action", "replace").lower() for case in GOLDEN["cases"] for rule in case["rules"]}
    assert set(Action) <= asked


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("$1", "ab"),
        ("${1}c", "abc"),
        ("$1c", ""),
        ("$name-$1", "cd-ab"),
        ("$$1", "$1"),
        ("$", "$"),
        ("${", "${"),
        ("${}", "${}"),
        ("${1", "${1"),
        ("$-$1", "$-ab"),
        ("$0", "abcd"),
        ("$01", ""),
        ("$9", ""),
        ("$99999999999999999999", ""),
        ("${none}", ""),
    ],
)
def test_templates_expand_as_in_go(template: str, expected: str) -> None:
    """Go's rules for `$`: longest name, unknown groups are nothing, what is no reference stays."""
    pattern = re.compile("(?P<first>ab)(?P<name>cd)")
    match = pattern.fullmatch("abcd")
    assert match is not None
    parts = parse_template(template, pattern)
    assert "".join(part if isinstance(part, str) else match[part] for part in parts) == expected


@given(st.text(alphabet="$ab{}1_ x", max_size=12))
def test_any_template_can_be_parsed(template: str) -> None:
    """No text of `replacement` breaks a rule: what is no reference is literal."""
    rule = Rule(target_label="out", replacement=template, source_labels=("a",))
    assert relabel((rule,), {"a": "x"}) is not None


@given(
    st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), st.text(max_size=20), max_size=6),
    st.sampled_from([Action.REPLACE, Action.HASHMOD, Action.LOWERCASE, Action.UPPERCASE]),
    st.text(max_size=3),
)
def test_values_stay_fit_for_labels(labels: dict[str, str], action: Action, separator: str) -> None:
    """Whatever the values are, what a rule writes is UTF-8 without control characters, bounded and not empty."""
    rule = Rule(action=action, source_labels=tuple(labels), separator=separator, target_label="zz_out", modulus=7)
    result = relabel((rule,), labels)
    assert result is not None
    assert all(result.values())
    written = result.get("zz_out", "")
    assert written == clean(written)
    assert len(written.encode()) <= 4 * MAX_VALUE


def test_values_do_not_grow_without_bound() -> None:
    """Rules that double a value a thousand times end at the bound."""
    double = Rule(source_labels=("a", "a"), separator="", target_label="a")
    assert relabel((double,) * 1000, {"a": "x"}) == {"a": "x" * MAX_VALUE}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("a\nb\x00c\x7f\x9f", "a\ufffdb\ufffdc\ufffd\ufffd"),
        ("bad \udcff byte", "bad \ufffd byte"),
        ("x" * 2000, "x" * 1024),
    ],
)
def test_clean_replaces_what_labels_may_not_have(value: str, expected: str) -> None:
    """Control characters and bytes that were no UTF-8 show as U+FFFD; length is bounded."""
    assert clean(value) == expected


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        ({"target_label": "node"}, "target_label", "`node` cannot be a target"),
        ({"action": Action.HASHMOD, "target_label": "node", "modulus": 2}, "target_label", "`node` cannot be a target"),
        ({"target_label": "a", "regex": "[[:alpha:]]+"}, "regex", "POSIX class"),
        ({"target_label": "a", "regex": "[a[:digit:]]"}, "regex", "POSIX class"),
        ({"target_label": "a", "regex": "[[a]b]"}, "regex", "Possible nested set"),
        ({"target_label": "a", "regex": "\\pL"}, "regex", "does not compile"),
        ({"target_label": "a" * 129}, "target_label", "not a label name"),
    ],
)
def test_refused_beyond_prometheus(arguments: dict[str, Any], key: str, message: str) -> None:
    """What would mean something else here than in Prometheus is refused, with the key that is wrong."""
    with pytest.raises(RuleError, match=re.escape(message)) as caught:
        Rule(**arguments)
    assert caught.value.key == key


def test_node_may_be_compared() -> None:
    """Reading `node` is allowed, only writing it is not."""
    assert relabel((Rule(action=Action.DROPEQUAL, source_labels=("a",), target_label="node"),), {"a": "b"}) == {
        "a": "b"
    }
