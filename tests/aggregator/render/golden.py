"""Golden files: what a format looked like when somebody looked at it."""

import os
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "data" / "render"
BLESS = "FLEETFLAME_BLESS"


def check(name: str, content: bytes) -> None:
    """`content` is what tests/data/render/`name` holds; with FLEETFLAME_BLESS=1 it becomes that."""
    path = FOLDER / name
    if os.environ.get(BLESS) == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert path.exists(), f"no golden file {path}: run again with {BLESS}=1 and look at it"
    assert content == path.read_bytes(), f"{path} differs: if that is meant, run with {BLESS}=1 and look at it"
