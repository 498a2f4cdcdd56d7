"""The committed protobuf code is what the pinned generator makes of wire.proto."""

import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).parents[2] / "proto" / "fleetflame"


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    """`make proto` would change nothing."""
    pytest.importorskip("grpc_tools", reason="the generator is in the dev group")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={tmp_path}"]
    subprocess.run([*command, f"--pyi_out={tmp_path}", str(PROTO / "wire.proto")], check=True)
    for name in ("wire_pb2.py", "wire_pb2.pyi"):
        assert (tmp_path / name).read_text() == (PROTO / name).read_text(), "run `make proto`"
