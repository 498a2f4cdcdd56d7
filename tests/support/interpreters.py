"""The CPythons of this machine, one of each kind, and how to ask them.

The one that runs the tests, the distribution's, all of pyenv's; and those that FLEETFLAME_TEST_PYTHONS names, separated
by colons, for versions that are nowhere else. One in a root of its own is written ROOT//PATH, and started by chroot.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SUPPORTED = range(8, 15)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`command` starts it; `files` are what may hold it, the program first."""

    minor: int
    command: tuple[str, ...]
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"3.{self.minor}-{self.files[0].parent.parent.name or 'usr'}"

    def run(self, source: str) -> str:
        """What a program prints. Raises CalledProcessError."""
        return subprocess.run(
            [*self.command, "-I", "-S", "-"], input=source, capture_output=True, text=True, check=True, timeout=60
        ).stdout


@cache
def interpreters() -> tuple[Interpreter, ...]:
    """Those of supported versions, oldest first."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    programs = [*sorted(home.glob("versions/*/bin/python3")), Path("/usr/bin/python3")]
    named = [part for part in os.environ.get("FLEETFLAME_TEST_PYTHONS", "").split(":") if part]
    commands = [("", str(program)) for program in programs if program.exists()]
    commands += [(root, f"/{path}") for root, _, path in (part.rpartition("//") for part in named)]
    found = [interpreter for root, path in commands if (interpreter := _ask(root, path))]
    return tuple(sorted(found, key=lambda one: (one.minor, one.command)))


def _ask(root: str, path: str) -> Interpreter | None:
    command = ("chroot", root, path) if root else (path,)
    source = "import sys, sysconfig; print(sys.version_info[1], sysconfig.get_config_var('LDLIBRARY'), sys.base_prefix)"
    try:
        printed = subprocess.run([*command, "-I", "-c", source], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    minor, library, prefix = re.fullmatch(r"(\d+) (\S+) (\S+)\n", printed).groups()  # type: ignore[union-attr]
    files = (Path(root + path).resolve() if not root else Path(root + path), Path(f"{root}{prefix}/lib/{library}"))
    if int(minor) not in _SUPPORTED:
        return None
    return Interpreter(int(minor), command, tuple(file for file in files if file.exists()))
