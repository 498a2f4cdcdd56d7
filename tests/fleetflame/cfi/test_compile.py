"""Files of this machine: each row is what readelf says it is."""

from pathlib import Path

import pytest

from fleetflame.cfi import compile_table
from tests.support.readelf import compare, listing

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
FILES = {
    "libc": LIBRARIES / "libc.so.6",
    "loader": LIBRARIES / "ld-linux-x86-64.so.2",
    "libstdc++": LIBRARIES / "libstdc++.so.6",
    "libpython": LIBRARIES / "libpython3.11.so.1.0",
    "libcrypto": LIBRARIES / "libcrypto.so.3",
    "sort": Path("/usr/bin/sort"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_the_one_that_readelf_prints(name: str) -> None:
    """Expressions among them: they are recognised, or counted as what they lack."""
    path = FILES[name].resolve()
    if not path.exists():
        pytest.skip(f"no {path} here")
    table = compile_table(path.read_bytes())
    result = compare(table, listing(path))
    assert result.compared > 1000
    assert not result.differing
    assert result.stray == 0
    assert sum(table.dropped.values()) <= 10
