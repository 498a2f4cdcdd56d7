"""The agent's configuration file: what it may say, and what is said of what it may not."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import MIB, RANGES, AgentConfig, LogLevel, Unwind
from agent.configfile import LABEL_KEYS, READERS, parse_config, read_config
from agent.document import MAX_BYTES
from agent.facts import ProcessFacts
from agent.labels.cgroup import parse_cgroup
from agent.labels.config import LabelConfig
from agent.labels.engine import Container
from agent.labels.meta import meta_labels
from agent.labels.relabel import Action, Rule
from agent.labels.rules import RULE_KEYS
from fleetflame.buildid import BuildId
from fleetflame.errors import UsageError

DOCS = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def test_every_key_is_read() -> None:
    """One value for each key, each other than the default."""
    text = """
nats: [nats://a:4222, "tls://user:secret@b"]
node: web-1
frequency: 99
window: 5
counts_entries: 1024
stack_entries: 2048
id_stack_entries: 512
process_entries: 4096
unwind: frame-pointers
unwind_rows: 100000
java_maps: false
java_map_interval: 120
java_maps_per_minute: 3
thread_label: true
pid_label: yes
queue_bytes: 64 MiB
log_level: Warning
metrics_listen: "[::1]:9464"
container_sockets: []
kubernetes_logs: /host/logs
relabel_configs:
- {source_labels: [service], regex: (.*)-canary, target_label: service}
- action: drop
  source_labels: [unit]
  regex: cron.service
"""
    config = parse_config(text)
    assert config == AgentConfig(
        nats=("nats://a:4222", "tls://user:secret@b"),
        node="web-1",
        frequency=99,
        window=5,
        counts_entries=1024,
        stack_entries=2048,
        id_stack_entries=512,
        process_entries=4096,
        unwind=Unwind.FRAME_POINTERS,
        unwind_rows=100_000,
        java_maps=False,
        java_map_interval=120,
        java_maps_per_minute=3,
        thread_label=True,
        queue_bytes=64 * MIB,
        log_level=LogLevel.WARNING,
        metrics_listen="[::1]:9464",
        labels=LabelConfig(
            pid_label=True,
            container_sockets=(),
            kubernetes_logs="/host/logs",
            relabel_configs=(
                Rule(source_labels=("service",), regex="(.*)-canary", target_label="service"),
                Rule(action=Action.DROP, source_labels=("unit",), regex="cron.service"),
            ),
        ),
    )
    assert set(READERS) == set(re.findall(r"^(\w+):", text, re.MULTILINE))


def test_every_setting_has_a_key() -> None:
    """A field that no file can set would be a default in disguise."""
    fields = {field.name for field in dataclasses.fields(AgentConfig)} - {"labels"}
    assert set(READERS) == fields | {field.name for field in dataclasses.fields(LabelConfig)}
    assert set(LABEL_KEYS) == {field.name for field in dataclasses.fields(LabelConfig)}


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n...\n", "{}\n"])
def test_empty_file_gives_the_defaults(text: str) -> None:
    """A file that says nothing changes nothing."""
    assert parse_config(text) == AgentConfig()


def test_one_server_needs_no_list() -> None:
    """`nats: URL` is what most files say."""
    assert parse_config("nats: nats://bus:4222").nats == ("nats://bus:4222",)


def test_numbers_as_text_are_text() -> None:
    """A regex, a name or a replacement may look like a number or a boolean, as in Prometheus."""
    config = parse_config("node: 17\nrelabel_configs: [{regex: 8080, replacement: true, target_label: a}]")
    assert config.node == "17"
    assert config.labels.relabel_configs == (Rule(regex="8080", replacement="true", target_label="a"),)


BAD = {
    "unknown key": ("node: a\n\nfrequncy: 9\n", "c.yml:3: unknown key `frequncy`", "did you mean `frequency`?"),
    "key far from all": ("colour: red\n", "c.yml:1: unknown key `colour`", "known keys: container_sockets, "),
    "key that is a list": ("? [a]\n: b\n", "c.yml:1: unknown key ``", "known keys"),
    "repeated key": ("node: a\nwindow: 3\nnode: b\n", "c.yml:3: key `node` is there twice", ""),
    "below": ("frequency: 0\n", "c.yml:1: `frequency` must be 1 to 10000, not `0`", ""),
    "above": ("frequency: 10001\n", "c.yml:1: `frequency` must be 1 to 10000, not `10001`", ""),
    "no number": ("node: a\nfrequency: fast\n", "c.yml:2: `frequency` must be a whole number, not `fast`", ""),
    "fraction": ("window: 1.5\n", "c.yml:1: `window` must be a whole number, not `1.5`", ""),
    "boolean for a number": ("window: true\n", "c.yml:1: `window` must be a whole number, not `true`", ""),
    "tagged and empty": ("window: !!int ''\n", "c.yml:1: `window` must be a whole number, not ``", ""),
    "tagged": ("window: !!int x\n", "c.yml:1: `window` must be a whole number, not `x`", ""),
    "too many digits": (f"window: {'9' * 5000}\n", "c.yml:1: `window` must be a whole number, not `999", ""),
    "null": ("node:\n", "c.yml:1: `node` must be a string, not nothing", ""),
    "list for a string": ("node: [a]\n", "c.yml:1: `node` must be a string, not a list", ""),
    "string for a boolean": ("pid_label: maybe\n", "c.yml:1: `pid_label` must be true or false, not `maybe`", ""),
    "tagged boolean": ("pid_label: !!bool maybe\n", "c.yml:1: `pid_label` must be true or false", ""),
    "map for a list": ("nats: {a: b}\n", "c.yml:1: `nats` must be a list, not keys and values", ""),
    "no server": ("nats: []\n", "c.yml:1: `nats` must name a server", "such as nats://127.0.0.1:4222"),
    "wrong scheme": ("nats: http://a:1\n", "c.yml:1: not a NATS URL: `http://a:1`", "such as"),
    "bad port": ("nats: nats://a:99999\n", "c.yml:1: not a NATS URL", "such as"),
    "node name": ("node: a b\n", "c.yml:1: not a node name: `a b`", "use letters"),
    "size": ("queue_bytes: 32 MB\n", "c.yml:1: `queue_bytes` must be a size, not `32 MB`", "such as 32MiB"),
    "small size": ("queue_bytes: 1KiB\n", "c.yml:1: `queue_bytes` must be 1048576 to 1099511627776, not `1024`", ""),
    "level": ("log_level: loud\n", "c.yml:1: unknown log level `loud`", "one of debug, info, warning, error"),
    "address": ("metrics_listen: 9464\n", "c.yml:1: not an address to listen on: `9464`", "such as 127.0.0.1:9464"),
    "port": ("metrics_listen: a:70000\n", "c.yml:1: not an address to listen on: `a:70000`", ""),
    "relative socket": (
        "container_sockets:\n- a\n",
        "c.yml:2: container_sockets[0]: not an absolute path: `a`",
        "",
    ),
    "relative folder": ("kubernetes_logs: logs\n", "c.yml:1: not an absolute path: `logs`", ""),
    "unknown action": (
        "relabel_configs:\n- action: keep\n  source_labels: [a]\n- source_labels: [a]\n  action: keeep\n",
        "c.yml:5: relabel_configs[1]: unknown action `keeep`",
        "one of replace, keep, drop, keepequal, dropequal, hashmod, labelmap, labelkeep, labeldrop, lowercase, upper",
    ),
    "regex": (
        "relabel_configs:\n- target_label: a\n  regex: '(a'\n",
        "c.yml:3: relabel_configs[0]: `regex` does not compile: missing ), unterminated subpattern at position 0: `(a`",
        "",
    ),
    "rule's key": (
        "relabel_configs:\n- target: a\n",
        "c.yml:2: relabel_configs[0]: unknown key `target`",
        "did you mean",
    ),
    "no target": (
        "relabel_configs:\n- regex: a\n",
        "c.yml:2: relabel_configs[0]: action `replace` needs `target_label`",
        "",
    ),
    "node as target": (
        "relabel_configs:\n- regex: a\n  target_label: node\n",
        "c.yml:3: relabel_configs[0]: `node` cannot be a target",
        "name the node with",
    ),
    "label name": (
        "relabel_configs:\n- {target_label: a, source_labels: [a, b-c]}\n",
        "c.yml:2: relabel_configs[0]: not a label name: `b-c`",
        "use letters",
    ),
    "rules that are no list": ("relabel_configs:\n  action: keep\n", "c.yml:2: `relabel_configs` must be a list", ""),
    "rule that is no map": ("relabel_configs:\n- keep\n", "c.yml:2: relabel_configs[0]: must be keys and values", ""),
    "too many rules": (f"relabel_configs: [{'{action: keep}, ' * 1001}]\n", "c.yml:1: 1001 rules, more than 1000", ""),
    "list at the top": ("- a\n", "c.yml:1: must be keys and values, not a list", ""),
    "two documents": ("node: a\n---\nnode: b\n", "c.yml:2: but found another document", ""),
    "bad indent": ("node: a\n  window: 3\n", "c.yml:2: mapping values are not allowed here", ""),
    "open quote": ('node: "a\n\n', "c.yml:3: found unexpected end of stream", ""),
    "tab": ("node:\n\t- a\n", "c.yml:2: found character '\\t' that cannot start any token", ""),
    "control character": ("node: a\nwindow: \x01\n", "c.yml:2: special characters are not allowed", ""),
    "nesting": ("[" * 5000, "c.yml: nested too deeply", ""),
    "merge key": ("a: &a {node: x}\n", "c.yml:1: unknown key `a`", ""),
    "python tag": ("node: !!python/object/apply:os.system [id]\n", "c.yml:1: `node` must be a string", ""),
}


@pytest.mark.parametrize(("text", "message", "hint"), BAD.values(), ids=BAD.keys())
def test_mistakes_are_told_with_file_line_and_reason(text: str, message: str, hint: str) -> None:
    """One message that begins with where the mistake is, and a hint where there is a way out."""
    with pytest.raises(UsageError) as caught:
        parse_config(text, file="c.yml")
    assert caught.value.message.startswith(message)
    assert caught.value.hint.startswith(hint)
    assert "\n" not in caught.value.message


def test_password_is_not_shown() -> None:
    """A server's URL that is wrong is repeated without what stands before its host."""
    with pytest.raises(UsageError) as caught:
        AgentConfig(nats=("nts://user:secret@bus:4222",))
    assert caught.value.message == "not a NATS URL: `bus:4222`"


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("bound", [0, 1])
def test_bounds_of_numbers_are_allowed(name: str, bound: int) -> None:
    """The ends of a range belong to it; what lies beyond is refused by the constructor as well."""
    value = RANGES[name][bound]
    values: dict[str, Any] = {name: value}
    assert getattr(AgentConfig(**values), name) == value
    values[name] = value + (1 if bound else -1)
    with pytest.raises(UsageError, match=f"`{name}` must be"):
        AgentConfig(**values)


def test_file_is_named_as_given(tmp_path: Path) -> None:
    """A file is read as UTF-8, with or without a byte order mark, and mistakes name its path."""
    path = tmp_path / "agent.yml"
    path.write_bytes(b"\xef\xbb\xbfnode: a\n")
    assert read_config(path).node == "a"
    path.write_bytes(b"node: a\nwindow: x\n")
    with pytest.raises(UsageError, match=re.escape(f"{path}:2: `window` must be")):
        read_config(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Missing, a folder, too large, not UTF-8: each with its reason."""
    missing, large, latin = tmp_path / "none", tmp_path / "large", tmp_path / "latin"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    latin.write_bytes(b"# ok\nnode: caf\xe9\n")
    for path, reason in [
        (missing, f"failed to open `{missing}`: no such file or directory"),
        (tmp_path, f"failed to open `{tmp_path}`: is a directory"),
        (large, f"`{large}` is larger than 1048576 bytes"),
        (latin, f"{latin}:2: not UTF-8: byte 0xe9"),
    ]:
        with pytest.raises(UsageError) as caught:
            read_config(path)
        assert caught.value.message == reason


@given(st.text(alphabet="node:windfrqucy -[]{}&*a\n\t'\"1!?|>%@#\x00\ud800", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No file raises anything but UsageError."""
    try:
        parse_config(text)
    except UsageError as error:
        assert "\n" not in error.message


def test_docs_have_every_key_with_its_default() -> None:
    """A key's row in docs/configuration.md has the default that the dataclass has."""
    defaults = AgentConfig(node="this-host")
    shown = {
        "nats": defaults.nats[0],
        "node": "the host name",
        **{name: "automatic" for name in RANGES if name.endswith("_entries")},
        "queue_bytes": f"{defaults.queue_bytes // MIB}MiB",
        "thread_label": "false",
        "pid_label": "false",
        "java_maps": "true",
        "metrics_listen": "none",
        "relabel_configs": "none",
        "container_sockets": ", ".join(defaults.labels.container_sockets),
    }
    for key in READERS:
        default = shown.get(key) or str(getattr(defaults, key, "") or getattr(defaults.labels, key, ""))
        row = next((line for line in DOCS.splitlines() if line.startswith(f"| `{key}` |")), "")
        assert default in row.replace("`", ""), key
        if key in RANGES and key != "queue_bytes":
            assert "{} to {}".format(*RANGES[key]) in row.replace(",", ""), key


def test_docs_have_every_rule_key_action_and_meta_label() -> None:
    """What rules can say and see is documented."""
    facts = ProcessFacts(tgid=1, comm="c", exe="/e", build_id=BuildId(b"b"), uid=0, cmdline=("e",), pid_namespace=1)
    place = parse_cgroup(f"0::/kubepods.slice/kubepods-pod{'a' * 32}.slice/crio-{'b' * 64}.scope\n")
    container = Container(name="n", image="i", pod="p", namespace="ns", pod_container="pc")
    for name in (*RULE_KEYS, *Action, *meta_labels(facts, place, container), "__meta_container_label_NAME"):
        assert f"`{name}`" in DOCS, name


def test_examples_in_the_docs_are_valid() -> None:
    """Every YAML block of docs/configuration.md is a whole file that the agent takes."""
    examples = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    assert len(examples) >= 5
    for example in examples:
        parse_config(example)
