"""Full disks, processes that die, memory that is short: nothing stored is lost, nothing is half there."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.storage import Store, tables
from aggregator.storage.types import Fault, StorageOptions, StoreError
from fleetflame.errors import FleetflameError
from tests.aggregator.storage.conftest import OpenStore
from tests.aggregator.storage.fleet import DAY, PERIOD, accepted, as_sum, batch, brute_force, labels, random_fleet
from tests.aggregator.storage.test_store import ask

ROOT = Path(__file__).parents[3]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test leaves open: one engine that stays would be in the way of every later test."""
    with ExitStack() as open_things:
        yield open_things


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, which takes root to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room(small_disk: Path, stack: ExitStack) -> None:
    """The insert raises; what was stored can be queried; the same insert works after something was removed."""
    store = stack.enter_context(closing(Store(StorageOptions(location=str(small_disk / "store")))))
    fleet = random_fleet(1)
    first, second = [accepted(one) for one in fleet[:20]], [accepted(one) for one in fleet[20:]]
    store.insert(first)
    filler = small_disk / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(os.urandom(1 << 16))
            file.flush()
    with pytest.raises(StoreError) as raised:
        store.insert(second)
    assert raised.value.fault is Fault.FULL
    assert raised.value.hint
    assert as_sum(ask(store)) == brute_force(fleet[:20], ("comm",), DAY, DAY + 3600)
    filler.unlink()
    store.insert(second)
    assert {path.name for path in (small_disk / "store").iterdir()} == {"clickhouse", "engine.xml", "lock"}
    assert as_sum(ask(store)) == brute_force(fleet, ("comm",), DAY, DAY + 3600)


WRITER = """
    import sys
    from aggregator.storage import Store
    from aggregator.storage.types import StorageOptions
    from tests.aggregator.storage.fleet import accepted, batch, labels, DAY
    store = Store(StorageOptions(location=sys.argv[1]))
    for sequence in range(int(sys.argv[2]), 10**6):
        rows = [(labels(comm="x"), number, sequence) for number in range(5)]
        store.insert([accepted(batch(rows, sequence=sequence, time=DAY + sequence % 1000))])
        print(sequence, flush=True)
"""


def test_what_was_acknowledged_survives_being_killed(tmp_path: Path, stack: ExitStack) -> None:
    """Thrice in the middle of inserts: all of them are there, whole, and at most one that was not acknowledged."""
    location = str(tmp_path / "store")
    done = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), location, str(done + 1)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        for line in process.stdout:
            done = int(line)
            if done % 15 == 0:
                process.send_signal(signal.SIGKILL)
                break
        rest = process.communicate()[0].split()
        done = int(rest[-1]) if rest else done
    store = stack.enter_context(closing(Store(StorageOptions(location=location))))
    found = store.engine.query("SELECT batch, count() AS n FROM samples WHERE type = 'cpu' GROUP BY batch")
    assert done <= len(found) <= done + 3
    assert set(found["n"].tolist()) == {5}
    assert ask(store).value.sum() == ask(store).count.sum() * PERIOD


def test_a_query_beyond_the_memory_limit_is_refused_and_the_store_lives_on(tmp_path: Path, stack: ExitStack) -> None:
    """As an error that says what to do."""
    options = StorageOptions(location=str(tmp_path / "store"), memory_bytes=128 << 20)
    store = stack.enter_context(closing(Store(options)))
    store.insert([accepted(batch([(labels(comm="x"), 0, 1)]))])
    with pytest.raises(StoreError) as raised:
        store.engine.query("SELECT groupArray(number) AS a FROM numbers(100000000)")
    assert raised.value.fault is Fault.MEMORY
    assert ask(store).count.tolist() == [1]


def test_a_former_sort_key_is_told_and_changes_no_answer(
    open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine cannot change it: the table stays as it is, with what is in it, and goes on being used."""
    fleet = random_fleet(4)
    store = open_store()
    assert not caplog.records
    store.engine.command("DROP TABLE samples")
    former = replace(tables.SAMPLES, order_by="type, series, time, stack, batch")
    store.engine.command(tables.create(former))
    store.insert([accepted(one) for one in fleet[:20]])
    store.close()
    again = open_store()
    assert [(record.levelname, record.table) for record in caplog.records] == [("WARNING", "samples")]  # type: ignore[attr-defined]
    for _ in range(2):
        again.insert([accepted(one) for one in fleet])
        assert as_sum(ask(again)) == brute_force(fleet, ("comm",), DAY, DAY + 3600)
        again.upkeep(DAY + 4000)
    assert again.engine.query("SELECT count() AS n FROM fleet_hour")["n"][0] > 0


def test_data_of_a_newer_program_are_not_touched(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has both versions; what an older program wrote is migrated, step by step."""
    from aggregator.storage import schema

    open_store().close()
    steps = []
    three = {1: lambda engine: steps.append(1), 2: lambda engine: steps.append(2)}
    store = open_store()
    schema.ensure(store.engine, version=3, migrations=three)
    schema.ensure(store.engine, version=3, migrations=three)
    assert steps == [1, 2]
    store.close()
    with pytest.raises(FleetflameError, match="schema version 3, this program knows 1"):
        open_store()
