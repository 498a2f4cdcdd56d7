"""The agent's configuration in a YAML file, each complaint with its line.

Apart from `config` because most agents have no such file, and reading one takes 1 MB for YAML.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agent.config import MIB, AgentConfig, LogLevel, Unwind, check_listen, check_range, check_servers
from agent.document import Value, parse_document, read_document
from agent.labels.config import LabelConfig
from agent.labels.rules import read_rules
from fleetflame.errors import UsageError
from fleetflame.subjects import check_node

_SIZE = re.compile(r"([0-9]{1,15}) ?(B|KiB|MiB|GiB)?")
_UNITS = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": MIB, "GiB": 1 << 30}

Read = TypeVar("Read")


def read_config(path: Path) -> AgentConfig:
    """The configuration in a YAML file. Raises UsageError: file, line, reason."""
    return _build(read_document(path))


def parse_config(text: str, *, file: str = "config.yml") -> AgentConfig:
    """The configuration that `text` spells; `file` is what messages call it. Raises UsageError: file, line, reason."""
    return _build(parse_document(text, file=file))


def _build(document: Value | None) -> AgentConfig:
    if document is None:
        return AgentConfig()
    given = {name: READERS[name](value) for name, value in document.fields(READERS).items()}
    labels = replace(LabelConfig(), **{name: given.pop(name) for name in LABEL_KEYS if name in given})
    return AgentConfig(labels=labels, **given)


def _text_checked(check: Callable[[str], str]) -> Callable[[Value], str]:
    return lambda value: _located(value, check, value.text())


def _number(value: Value) -> int:
    return _located(value, partial(check_range, value.key), value.integer())


def _size(value: Value) -> int:
    match = _SIZE.fullmatch(value.text())
    if not match:
        raise value.error(f"`{value.key}` must be a size, not `{value.text()[:80]}`", hint="such as 32MiB or 33554432")
    return _located(value, partial(check_range, value.key), int(match[1]) * _UNITS[match[2]])


def _servers(value: Value) -> tuple[str, ...]:
    return _located(value, check_servers, _texts(value))


def _texts(value: Value) -> tuple[str, ...]:
    return tuple(entry.text() for entry in value.one_or_more())


def _sockets(value: Value) -> tuple[str, ...]:
    return tuple(_path(entry) for entry in value.entries())


def _path(value: Value) -> str:
    path = value.text()
    if (path and not path.startswith("/")) or "\0" in path:
        raise value.error(f"not an absolute path: `{path[:80]}`")
    return path


def _level(value: Value) -> LogLevel:
    try:
        return LogLevel(value.text().lower())
    except ValueError:
        raise value.error(f"unknown log level `{value.text()[:80]}`", hint="one of " + ", ".join(LogLevel)) from None


def _unwind(value: Value) -> Unwind:
    try:
        return Unwind(value.text())
    except ValueError:
        raise value.error(f"unknown way to unwind `{value.text()[:80]}`", hint="one of " + ", ".join(Unwind)) from None


def _located(value: Value, check: Callable[[Read], Read], read: Read) -> Read:
    """What `check` returns of what was read; its complaint, which knows no file, gets this value's file and line."""
    try:
        return check(read)
    except UsageError as error:
        raise value.error(error.message, hint=error.hint) from error


LABEL_KEYS = ("relabel_configs", "pid_label", "container_sockets", "kubernetes_logs")
"""Keys that are fields of LabelConfig; all others are fields of AgentConfig."""

READERS: dict[str, Callable[[Value], Any]] = {
    "nats": _servers,
    "node": _text_checked(check_node),
    "frequency": _number,
    "window": _number,
    "counts_entries": _number,
    "stack_entries": _number,
    "id_stack_entries": _number,
    "process_entries": _number,
    "unwind": _unwind,
    "unwind_rows": _number,
    "thread_label": Value.boolean,
    "pid_label": Value.boolean,
    "java_maps": Value.boolean,
    "java_map_interval": _number,
    "java_maps_per_minute": _number,
    "queue_bytes": _size,
    "log_level": _level,
    "metrics_listen": _text_checked(check_listen),
    "container_sockets": _sockets,
    "kubernetes_logs": _path,
    "relabel_configs": read_rules,
}
"""How each key of the file is read."""
