"""The house's walls: who may import whom."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Folder -> top-level packages of ours that its modules may import.
ALLOWED = {
    "bpf": {"bpf"},
    "proto/fleetflame": {"fleetflame"},
    "agent": {"agent", "bpf", "fleetflame"},
    "aggregator": {"aggregator", "fleetflame"},
    "cli": {"cli", "agent", "aggregator", "bpf", "fleetflame"},
}
OURS = {"agent", "aggregator", "bpf", "cli", "fleetflame", "tests", "bench"}

# Library -> the modules that may import it.
CONFINED = {
    "bcc": {"agent/loader.py"},
    "nats": {
        "agent/bus.py",
        "agent/publish.py",
        "agent/node.py",
        "aggregator/bus.py",
        "aggregator/heartbeats.py",
        "aggregator/ingest.py",
        "aggregator/symbols/lending.py",
    },
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def modules(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "_pb2" not in path.name]


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_package_imports_only_what_lies_below_it(folder: str) -> None:
    """Agent and aggregator meet in the contract alone, and the contract knows neither."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(folder)
        for name in imports(path)
        if name in OURS - ALLOWED[folder]
    ]
    assert not wrong


@pytest.mark.parametrize("library", CONFINED)
def test_a_library_stays_in_its_place(library: str) -> None:
    """bcc is for the loader; the bus is spoken to where messages enter and leave."""
    users = {
        str(path.relative_to(ROOT)) for folder in ALLOWED for path in modules(folder) if library in set(imports(path))
    }
    assert users <= CONFINED[library]


def test_the_contract_opens_nothing() -> None:
    """Pure: no file, socket, process or clock in proto/fleetflame."""
    forbidden = {"os", "socket", "subprocess", "asyncio", "threading", "pathlib", "time", "io"}
    users = [str(path) for path in modules("proto/fleetflame") if forbidden & set(imports(path))]
    assert not users


def test_unwind_tables_need_only_what_an_agent_has() -> None:
    """fleetflame.cfi is shared by both sides and run on strangers' files: arrays, decompression, its own errors."""
    allowed = {"collections", "dataclasses", "enum", "fleetflame", "numpy", "re", "struct", "sys", "typing"}
    allowed |= {"zlib", "zstandard"}
    found = {name for path in modules("proto/fleetflame/cfi") for name in imports(path)}
    assert found <= allowed


def test_unwind_tables_have_a_room() -> None:
    """ARCHITECTURE.md names each module of fleetflame.cfi."""
    plan = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    text = plan.partition("  cfi/")[2].partition("\naggregator/")[0]
    there = {path.stem for path in modules("proto/fleetflame/cfi")} - {"__init__"}
    assert not {name for name in there if not re.search(rf"\b{name}\b", text)}


@pytest.mark.parametrize("folder", ["agent", "aggregator"])
def test_every_module_has_a_room(folder: str) -> None:
    """ARCHITECTURE.md names each module and folder below its own, and none that is gone."""
    plan = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    room = re.split(r"^(?=\S)", plan, flags=re.MULTILINE)
    text = next(part for part in room if part.startswith(f"{folder}/"))
    there = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
    there |= {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert not {name for name in there if not re.search(rf"\b{name}\b", text)}
    headings = re.findall(r"^  ((?:\w+/?)(?:, \w+/?)*)", text, re.MULTILINE)
    assert not {name for heading in headings for name in re.findall(r"\w+", heading)} - there
