"""Each check against the real thing, and against what it should complain about."""

import json
import socket
import threading
from pathlib import Path

import pytest

from agent.privileges import CAPABILITIES, SYS_ADMIN
from cli import doctor
from cli.doctor import Finding, Outcome
from cli.main import run
from tests.support.nats import NatsServer

NONE, ALL = 0, (1 << 41) - 1
SAMPLING = 1 << 38 | 1 << 39


def by_name(findings: "list[Finding]") -> dict[str, Finding]:
    """Findings by check."""
    return {finding.check: finding for finding in findings}


def test_every_missing_capability_is_named_with_what_is_lost() -> None:
    """What samples is a failure, what names is a warning."""
    found = by_name(list(doctor.check_capabilities(NONE)))
    assert found.keys() == {each.name.lower() for each in CAPABILITIES}
    for each in CAPABILITIES:
        finding = found[each.name.lower()]
        assert finding.outcome is (Outcome.FAILED if each.needed else Outcome.WARNING)
        assert each.lost in finding.found
        assert each.name in finding.remedy


@pytest.mark.parametrize("held", [ALL, SAMPLING, 1 << SYS_ADMIN])
def test_sampling_needs_two_capabilities_or_sys_admin(held: int) -> None:
    """Container engines that do not know CAP_BPF get SYS_ADMIN."""
    found = by_name(list(doctor.check_capabilities(held)))
    assert found["cap_bpf"].outcome is Outcome.OK
    assert found["cap_perfmon"].outcome is Outcome.OK


def test_our_headers_are_found() -> None:
    """They are part of the package."""
    assert doctor.check_headers().outcome is Outcome.OK


def test_this_kernel_is_linux_with_bpf() -> None:
    """As on every machine that runs these tests."""
    assert doctor.check_kernel().outcome is Outcome.OK
    assert doctor.check_bpf().outcome is Outcome.OK
    assert doctor.check_tracefs().outcome is Outcome.NOTE


@pytest.mark.bpf
def test_the_program_is_proved_by_loading_it() -> None:
    """With the sizes that an agent would give it."""
    finding = doctor.check_program()
    assert finding.outcome is Outcome.OK, finding


def test_a_full_disk_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the nearest folder that exists."""
    assert doctor.check_disk(tmp_path / "not" / "yet").check == "disk"
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1 << 62)
    assert doctor.check_disk(tmp_path / "not" / "yet").outcome is Outcome.FAILED


@pytest.mark.nats
def test_a_bus_with_jetstream_is_good(nats_server: NatsServer) -> None:
    """By what the real server says of itself."""
    finding = doctor.check_nats(nats_server.url)
    assert finding.outcome is Outcome.OK
    assert "JetStream is on" in finding.found


@pytest.mark.parametrize(
    ("greeting", "outcome", "found"),
    [
        ({"jetstream": False, "max_payload": 1 << 20}, Outcome.FAILED, "JetStream is off"),
        ({"jetstream": True, "max_payload": 1000}, Outcome.FAILED, "1000 bytes at most"),
        ({"jetstream": True, "max_payload": 1 << 20, "auth_required": True}, Outcome.WARNING, "asks for credentials"),
    ],
)
def test_a_bus_that_will_not_do_is_told_why(greeting: dict[str, object], outcome: Outcome, found: str) -> None:
    """From the first line that a server sends."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"INFO " + json.dumps(greeting).encode() + b"\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        finding = doctor.check_nats(f"nats://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert finding.outcome is outcome
    assert found in finding.found


def test_an_absent_bus_and_server_are_failures(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and every finding in the JSON."""
    code = run(["doctor", "--json", "--nats", "nats://127.0.0.1:1", "--server", "http://127.0.0.1:1"])
    findings = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert code == 1
    assert findings["nats"]["outcome"] == "failed"
    assert findings["server"]["outcome"] == "failed"
    assert all(row["remedy"] for row in findings.values() if row["outcome"] in ("failed", "warning"))


@pytest.mark.parametrize("url", ["nats://[x", "nats://x:99999", ""])
def test_what_is_no_url_is_a_finding_and_no_crash(url: str) -> None:
    """With a remedy."""
    finding = doctor.check_nats(url)
    assert finding.outcome is Outcome.FAILED
    assert finding.remedy
