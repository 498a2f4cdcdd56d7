"""The queue of wanted builds: what it says of itself. What it does is tested with the service around it."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from fleetflame.buildid import BuildId
from tests.aggregator.symbols.test_service import BUILD, FILE, service, write
from tests.support.elf import Sym, simple_elf


async def test_a_burst_of_builds_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A program with a hundred libraries is not a hundred lines; who wants those asks for debug messages."""
    data = simple_elf([Sym(name="f", value=0x1000, size=16)])
    write(tmp_path / f"debug/.build-id/00/{str(BUILD)[2:]}.debug", data)
    others = [replace(FILE, build_id=BuildId(bytes([number] * 20))) for number in range(1, 6)]
    async with service(tmp_path, debug_dirs=(str(tmp_path / "debug"),)) as made:
        with caplog.at_level(logging.INFO):
            for mapping in (FILE, *others):
                made.want(mapping, "web-1")
            await made.fetcher.idle()
    told = [record.__dict__ for record in caplog.records if record.name.startswith("aggregator.symbols")]
    assert [(each["builds_named"], each["builds_without"]) for each in told] == [(1, 5)]
