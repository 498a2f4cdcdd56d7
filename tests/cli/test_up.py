"""What `up` refuses before it starts anything, and the bus that it starts."""

import socket
import stat
import time
from pathlib import Path

import pytest

from cli.localbus import find_bus
from cli.main import run
from cli.supervise import Supervisor


def test_a_data_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two stores on one folder would be one too many."""
    import os

    from cli.up import _lock

    lock = _lock(tmp_path)
    assert run(["up", "--data", str(tmp_path)]) == 1
    assert f"process {os.getpid()} runs `fleetflame up` on it" in capsys.readouterr().err
    os.close(lock)
    os.close(_lock(tmp_path))


def test_a_port_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything runs, and with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert run(["up", "--data", str(tmp_path), "--http", address]) == 1
    shown = capsys.readouterr().err
    assert f"failed to listen on `{address}`: address already in use" in shown
    assert "--http" in shown


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason."""
    (tmp_path / "file").write_text("")
    assert run(["up", "--data", str(tmp_path / "file" / "data")]) == 1
    assert "failed to use the data folder" in capsys.readouterr().err


@pytest.mark.nats
def test_the_bus_listens_on_loopback_for_those_who_know_its_password(tmp_path: Path) -> None:
    """On a port of its own choice; the URL with the password is for this user only."""
    bus = find_bus(tmp_path / "bus")
    with Supervisor(lambda *_: None) as supervisor:
        supervisor.start(bus.command())
        deadline = time.monotonic() + 30
        while (url := bus.url()) is None:
            assert time.monotonic() < deadline, bus.log_tail()
            supervisor.wait(0.05)
        assert url.startswith("nats://fleetflame:")
        assert url.rpartition("@")[2].startswith("127.0.0.1:")
        assert bus.url_file.read_text().strip() == url
        for file in (bus.url_file, tmp_path / "bus" / "nats.conf"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "sync_interval: always" in (tmp_path / "bus" / "nats.conf").read_text()
    assert "Server Exiting" in bus.log.read_text()
