"""Buses that are not there, full disks, killed processes: what lives on, and that the books say what did not."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nats
import pytest

from aggregator import bus as aggregator_bus
from fleetflame import subjects, wire
from tests.aggregator.storage.fleet import random_fleet
from tests.e2e.test_bad_input import publish
from tests.support.fleet import free_port, parse_folded
from tests.support.nats import NatsServer
from tests.support.services import PATIENCE_S, Aggregator, Service, agent, run, until

pytestmark = [pytest.mark.e2e, pytest.mark.nats, pytest.mark.timeout(180)]

Servers = Callable[[str], NatsServer]
ACK_WAIT_S = 2
"""What a killed aggregator had in hand is given to the next one after this long, and after a minute by default."""
KILLS = 4


def make_streams(url: str) -> None:
    """As an operator would who wants another time for acknowledgements than the default."""

    async def make() -> None:
        client = await nats.connect(url)
        await aggregator_bus.ensure_streams(client.jetstream())
        await aggregator_bus.batches(client.jetstream(), ack_wait_s=ACK_WAIT_S)
        await client.close()

    asyncio.run(asyncio.wait_for(make(), PATIENCE_S))


def settled(aggregator: Aggregator) -> bool:
    """Whether every sample that is known of is stored or lost for a reason that the node gives."""
    total = aggregator.status()["total"]
    return bool(total["balances"] and not total["in_flight"] and total["taken"] == total["stored"] + total["lost"])


@pytest.mark.bpf
def test_a_bus_that_is_not_there_is_waited_for_on_both_sides(nats_servers: Servers, tmp_path: Path) -> None:
    """Each says so once; what is stored can be asked for; samples taken meanwhile arrive when it comes."""
    server = nats_servers("")
    aggregator, node = Aggregator(tmp_path, server.url), agent(tmp_path, server.url, "early", "--frequency", "199")
    with contextlib.ExitStack() as running:
        running.push(aggregator.start())  # not entered: that waits until it is ready
        running.enter_context(node)
        node.until(lambda: any(entry["message"] == "sampling" for entry in node.messages()))
        aggregator.until(lambda: "no connection to NATS" in aggregator.ready()[1])
        assert aggregator.run("status").returncode == 0
        node.until(lambda: "no connection to NATS" in node.text)
        time.sleep(3)
        for service in (aggregator, node):
            said = [entry for entry in service.messages("warning") if entry["message"].startswith("no connection")]
            assert [entry["cause"] for entry in said] == ["connection refused"]
        server.start()
        aggregator.until_ready()
        aggregator.until(lambda: aggregator.node("early").get("stored", 0) > 0)
        first = aggregator.node("early")
        assert first["agent_starts"] == 1
        assert node.stop() == 0
        aggregator.until(lambda: settled(aggregator))


@pytest.mark.bpf
def test_a_bus_that_refuses_the_user_ends_both_sides(nats_servers: Servers, tmp_path: Path) -> None:
    """Trying again would not help: one line each, without the password."""
    server = nats_servers('authorization { user: "ff", password: "right" }')
    server.start()
    url = server.url.replace("nats://", "nats://ff:wrong@")
    store = ("--storage", str(tmp_path / "store"), "--http", f"127.0.0.1:{free_port()}")
    for arguments in (("agent", "--node", "x"), ("aggregator", *store)):
        done = run(*arguments, environment={"FLEETFLAME_NATS": url})
        assert done.returncode == 1
        told = done.stderr.splitlines()[-1]
        assert re.fullmatch(r"fleetflame: NATS at `\S+` refuses this user: .* \(check .*\)", told)
        assert "wrong" not in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB, which takes root to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(os.urandom(1 << 14))
    return filler


def test_a_full_disk_holds_batches_back_and_loses_none(
    nats_server: NatsServer, small_disk: Path, tmp_path: Path
) -> None:
    """Readiness says why; questions are answered; uploads are refused; when there is room it goes on by itself."""
    now = int(time.time()) // 10 * 10 - 3600
    fleet = random_fleet(7, windows=40, start=now)
    messages = [(subjects.batch(batch.node), wire.encode(batch)) for batch in fleet]
    before, after = (sum(batch.ledger.taken for batch in part) for part in (fleet[:60], fleet))
    with Aggregator(tmp_path, nats_server.url, storage=small_disk / "store") as aggregator:
        publish(nats_server.url, *messages[:60])
        aggregator.until(lambda: aggregator.status()["total"]["stored"] == before)
        span = ("--from", str(now), "--until", str(now + 3600))
        first = aggregator.run("query", "cpu", *span, "--format", "folded").stdout
        filler = fill(small_disk)
        publish(nats_server.url, *messages[60:])
        aggregator.until(lambda: re.search(r"no space left|not enough space", aggregator.ready()[1]) is not None)
        assert aggregator.run("query", "cpu", *span, "--format", "folded").stdout == first
        assert aggregator.status()["total"]["stored"] == before
        program = tmp_path / "program"
        program.write_bytes(bytes(1 << 20))
        refused = aggregator.run("symbols", "upload", "--force", str(program), code=1)
        assert "no space left on device (make room" in refused.stderr
        filler.unlink()
        aggregator.until(lambda: aggregator.status()["total"]["stored"] == after)
        aggregator.until_ready()
        assert settled(aggregator)
        assert parse_folded(aggregator.run("query", "cpu", *span, "--format", "folded").stdout).total() == after
        told = [
            entry["message"] for entry in aggregator.messages() if entry["message"] in ("cannot store", "storing again")
        ]
        assert told == ["cannot store", "storing again"] * (len(told) // 2), "said when it changes, not each time"
        assert aggregator.stop() == 0


def test_an_aggregator_killed_again_and_again_stores_everything_once(nats_server: NatsServer, tmp_path: Path) -> None:
    """Each time just after it stored something, with batches in hand that are stored, acknowledged or neither."""
    now = int(time.time()) // 10 * 10 - 7200
    fleet = random_fleet(8, nodes=5, windows=400, start=now)
    wanted = sum(batch.ledger.taken for batch in fleet)
    messages = [(subjects.batch(batch.node), wire.encode(batch)) for batch in fleet]
    make_streams(nats_server.url)
    aggregator = Aggregator(tmp_path, nats_server.url)

    def stored() -> int:
        return int(aggregator.get_json("/api/v1/status")["total"]["stored"])

    def interrupt(part: list[tuple[str, bytes]]) -> None:
        before = stored()
        publish(nats_server.url, *part)
        aggregator.until(lambda: stored() > before)
        aggregator.kill()
        aggregator.start()
        aggregator.until_ready()

    with aggregator:
        for first in range(KILLS):
            interrupt(messages[first::KILLS])
        aggregator.until(lambda: stored() >= wanted and settled(aggregator))
        assert stored() == wanted
        asked = ("query", "cpu", "--from", str(now), "--until", str(now + 7200), "--format", "folded")
        assert parse_folded(aggregator.run(*asked).stdout).total() == wanted


@pytest.mark.bpf
def test_the_books_balance_whoever_of_the_three_is_killed(nats_server: NatsServer, tmp_path: Path) -> None:
    """Aggregator, bus and agent in turn, while samples come: none is stored twice, and what cannot be known is said."""
    make_streams(nats_server.url)
    aggregator = Aggregator(tmp_path, nats_server.url)
    node = agent(tmp_path, nats_server.url, "real", "--frequency", "199")

    def grows() -> None:
        before = aggregator.node("real").get("stored", 0)
        aggregator.until(lambda: aggregator.node("real").get("stored", 0) > before)

    with aggregator, node:
        grows()
        aggregator.kill()
        aggregator.start()
        aggregator.until_ready()
        grows()
        nats_server.kill()
        node.until(lambda: "lost the connection to NATS" in node.text)
        nats_server.start()
        node.until(lambda: "connected to NATS again" in node.text)
        grows()
        node.kill()
        node.start()
        aggregator.until(lambda: aggregator.node("real")["agent_starts"] == 2)
        grows()
        release = os.uname().release
        aggregator.until(lambda: release in aggregator.run("nodes").stdout)
        assert node.stop() == 0
        aggregator.until(lambda: settled(aggregator))
        shown = aggregator.run("status")
        assert "1 agent started 2 times: what one had not sent when it was killed is in no count" in shown.stderr
        # The last batch may still be on its way: what is told of is settled without it.
        aggregator.until(lambda: _asked(aggregator) == aggregator.node("real")["stored"])
        assert node.messages("error") == []


def _asked(aggregator: Aggregator) -> int:
    asked = aggregator.run("query", 'cpu{node="real"}', "--from", "-1h", "--format", "folded")
    return parse_folded(asked.stdout).total()


@pytest.mark.bpf
def test_up_ends_with_an_error_when_a_part_of_it_is_killed(tmp_path: Path) -> None:
    """It names the part, ends the others, and the next start goes on with the data."""
    address = f"127.0.0.1:{free_port()}"
    with Service(tmp_path, "up", "--http", address, "--data", str(tmp_path / "data")) as up:
        up.until(lambda: f"queries need --server http://{address}" in up.text)
        session = str(os.getsid(up.pid))
        for line in members(session):
            if " aggregator " in line:
                os.kill(int(line.split()[0]), signal.SIGKILL)
        up.until(lambda: up.code is not None)
        assert up.code == 1
        assert "fleetflame: aggregator ended by signal 9 (its own messages are above)" in up.text
        assert "Traceback" not in up.text
        until(lambda: not members(session))
        up.start()
        up.until(lambda: up.text.count("page at") == 2)
        assert up.stop() == 0


def members(session: str) -> list[str]:
    """Processes of a session, with their command lines."""
    listing = subprocess.run(["ps", "-o", "pid=,args=", "-s", session], capture_output=True, text=True).stdout
    return [line for line in listing.splitlines() if line.strip()]
