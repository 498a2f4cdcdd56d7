"""A YAML file whose every value knows its line, so that each complaint says where.

Pure but for `read_document`. Values are taken apart by type on request; an unknown or repeated key is an error, because
the alternative is a setting that silently does nothing. Values are never constructed as Python objects by tag.
"""

import difflib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from fleetflame.errors import UsageError, cause_of

MAX_BYTES = 1 << 20
"""A configuration is written by people; a larger file is another file."""

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value of a file: `place` says which for people, such as `relabel_configs[1]`, and is "" at the top level."""

    node: yaml.Node
    file: str
    place: str = ""
    key: str = ""

    def error(self, message: str, *, hint: str = "") -> UsageError:
        """An error that begins with where this value stands: ``config.yml:12: relabel_configs[1]: message``."""
        where = f"{self.file}:{self.node.start_mark.line + 1}: "
        return UsageError(where + (f"{self.place}: " if self.place else "") + message, hint=hint)

    def fields(self, known: Collection[str]) -> dict[str, "Value"]:
        """The values of a mapping by key. Raises UsageError for another type, an unknown or a repeated key."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self._mistyped("keys and values")
        found: dict[str, Value] = {}
        for key_node, node in self.node.value:
            at = replace(self, node=key_node)
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            if key not in known:
                raise at.error(f"unknown key `{key[:80]}`", hint=_suggest(key, known))
            if key in found:
                raise at.error(f"key `{key}` is there twice")
            found[key] = replace(self, node=node, key=key)
        return found

    def entries(self) -> list["Value"]:
        """The values of a list. Raises UsageError for another type."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self._mistyped("a list")
        inside = f"{self.place}.{self.key}" if self.place else self.key
        return [
            replace(self, node=node, place=f"{inside}[{index}]", key="") for index, node in enumerate(self.node.value)
        ]

    def one_or_more(self) -> list["Value"]:
        """The values of a list, or the one value that stands in place of a list of one."""
        return [self] if isinstance(self.node, yaml.ScalarNode) else self.entries()

    def text(self) -> str:
        """A string; numbers and booleans as they are written. Raises UsageError for anything else, null included."""
        if not isinstance(self.node, yaml.ScalarNode) or _is_null(self.node):
            raise self._mistyped("a string")
        return str(self.node.value)

    def integer(self) -> int:
        """A whole number. Raises UsageError for anything else."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.tag == _TAG + "int":
            try:
                return int(yaml.constructor.SafeConstructor().construct_yaml_int(self.node))
            except (ValueError, IndexError):  # tagged by hand, empty even, or more digits than Python converts
                pass
        raise self._mistyped("a whole number")

    def boolean(self) -> bool:
        """true or false, in YAML 1.1's spellings. Raises UsageError for anything else."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.tag == _TAG + "bool":
            word = self.node.value.lower()
            if word in yaml.constructor.SafeConstructor.bool_values:
                return yaml.constructor.SafeConstructor.bool_values[word]
        raise self._mistyped("true or false")

    def _mistyped(self, wanted: str) -> UsageError:
        if isinstance(self.node, yaml.SequenceNode):
            given = "a list"
        elif isinstance(self.node, yaml.MappingNode):
            given = "keys and values"
        else:
            given = "nothing" if _is_null(self.node) else f"`{' '.join(str(self.node.value).split())[:80]}`"
        return self.error(
            f"`{self.key}` must be {wanted}, not {given}" if self.key else f"must be {wanted}, not {given}"
        )


def read_document(path: Path) -> Value | None:
    """The document in a file, None if there is nothing in it. Raises UsageError: cannot be read, or is not YAML."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        cause = cause_of(error)
        raise UsageError(f"failed to open `{path}`: {cause}", hint="check --config") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"`{path}` is larger than {MAX_BYTES} bytes", hint="is it the configuration file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}") from error
    return parse_document(text, file=str(path))


def parse_document(text: str, *, file: str) -> Value | None:
    """The document that `text` is, None if there is nothing in it; `file` is what messages call it.

    Raises UsageError with the line if it is no YAML, or more than one document.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        raise UsageError(f"{where}: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{file}:{line}: {error.reason}") from error
    except RecursionError as error:
        raise UsageError(f"{file}: nested too deeply") from error
    return None if node is None or _is_null(node) else Value(node=node, file=file)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"


def _suggest(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean `{close[0]}`?" if close else "known keys: " + ", ".join(sorted(known))
