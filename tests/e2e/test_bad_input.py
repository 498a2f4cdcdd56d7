"""What a user, a file or a node should not have sent: one line with a remedy, or a rejection that is counted.

Nothing here is a traceback, ends an aggregator, or costs anything that is stored.
"""

import asyncio
import json
import re
import struct
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nats
import pytest
import zstandard

from fleetflame import envelope, subjects, wire
from fleetflame.errors import RejectReason
from fleetflame.model import Batch
from tests.aggregator.storage.fleet import batch, labels
from tests.support.elf import BUILD_ID, ElfWriter, Sec, Seg, Sym, compressed, simple_elf
from tests.support.fleet import free_port
from tests.support.nats import NatsServer
from tests.support.services import PATIENCE_S, Aggregator, run, until

pytestmark = [pytest.mark.e2e, pytest.mark.nats]

NOW = int(time.time()) // 10 * 10 - 600


def is_one_line_with_a_remedy(stderr: str) -> bool:
    """`fleetflame: what (what to do)`."""
    return re.fullmatch(r"fleetflame: \S[^\n]* \([^\n]+\)\n", stderr) is not None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["agent", "--frequenzy", "99"], "no such option: `--frequenzy` (did you mean `--frequency`?)"),
        (["aggregator", "--xyzzy"], "no such option: `--xyzzy` (try `fleetflame aggregator --help`)"),
        (["quary", "cpu"], "no such command: `quary` (did you mean `query`?)"),
        (["agent", "--frequency", "10001"], "10001"),
        (["up", "--duration", "-1"], "-1"),
    ],
)
def test_an_unknown_option_is_said_with_what_was_meant(arguments: list[str], told: str) -> None:
    """Exit code 2, before anything is started."""
    done = run(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert is_one_line_with_a_remedy(done.stderr)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("frequency: 49\nrelabel_configs:\n- action: kepp\n", 3, "unknown action `kepp`"),
        ("relabel_configs:\n- action: labeldrop\n  regex: 'a('\n", 3, "`regex` does not compile"),
        ("relabel_configs:\n- source_labels: [comm\n  action: keep\n", 3, "expected"),
        ("relabel_configs:\n- {action: labeldrop, regex: x}\n- target_lable: x\n", 3, "unknown key `target_lable`"),
        ("relabel_config: []\n", 1, "unknown key `relabel_config`"),
    ],
)
def test_a_malformed_relabel_file_is_said_with_file_line_and_reason(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    """Before the kernel or the bus is touched."""
    path = tmp_path / "agent.yml"
    path.write_text(text)
    done = run("agent", "--config", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"fleetflame: {path}:{line}: ")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("server", "cause"),
    [
        ("http://127.0.0.1:1", "connection refused"),
        ("https://127.0.0.1:1", "connection refused"),
        ("http://clickhouse.invalid", "name or service not known|temporary failure in name resolution"),
        ("aggregator", "HTTP status 405"),
        ("aggregator over TLS", "ssl|tls"),
        ("bus", "."),
    ],
)
def test_a_clickhouse_that_is_not_there_is_said_before_anything_starts(
    bus: NatsServer, aggregator: Aggregator, server: str, cause: str
) -> None:
    """Or an address where something else listens; a password is not in the message."""
    tls = aggregator.url.replace("http:", "https:")
    place = {"aggregator": aggregator.url, "aggregator over TLS": tls, "bus": bus.url.replace("nats:", "http:")}
    url = place.get(server, server).replace("://", "://user:secret@")
    done = run("aggregator", "--http", f"127.0.0.1:{free_port()}", "--nats", bus.url, "--storage", url)
    assert done.returncode == 1
    assert re.search(f"no answer from ClickHouse: .*({cause})", done.stderr, re.IGNORECASE), done.stderr
    assert is_one_line_with_a_remedy(done.stderr)
    assert "secret" not in done.stderr
    assert "<" not in done.stderr


@pytest.mark.parametrize("verb", ["query", "top", "diff"])
@pytest.mark.parametrize(
    ("selector", "at"),
    [
        ("cpu{comm=}", "}"),
        ('cpu{comm="x" node="y"}', "node"),
        ('cpu{comm=~"a(b"}', '"a(b"'),
        ('cpu{comm="x"} tail', "tail"),
    ],
)
def test_a_malformed_selector_has_a_caret_at_the_error(
    aggregator: Aggregator, verb: str, selector: str, at: str
) -> None:
    """Below the selector as it was given."""
    arguments = [verb, selector, "cpu"] if verb == "diff" else [verb, selector]
    done = aggregator.run(*arguments, code=2)
    what, shown, caret, remedy = done.stderr.splitlines()
    assert what.startswith("fleetflame: malformed selector: ")
    assert shown.strip() == selector
    assert shown[caret.index("^") :].startswith(at)
    assert caret.strip() == "^"
    assert remedy.startswith("(")
    assert remedy.endswith(")")


def elf_with(**header: int) -> bytes:
    """A file whose ELF header lies."""
    writer = ElfWriter(segments=[Seg(offset=0x1000, vaddr=0x1000, filesz=0x1000)], header=header)
    return bytes(writer.text().note(BUILD_ID).symbols([Sym(name="f", value=0x1000, size=16)]))


def elf_with_section(section: Sec) -> bytes:
    """A file one of whose sections lies."""
    writer = ElfWriter().text().note(BUILD_ID).symbols([Sym(name="f", value=0x1000, size=16)])
    return bytes(writer.add(section))


WHOLE = simple_elf([Sym(name="work", value=0x1000, size=64)], build_id=b"whole")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"#!/bin/sh\n", "not an ELF file", id="script"),
        pytest.param(WHOLE[:40], "the ELF header ends after 40 bytes", id="header-cut"),
        pytest.param(WHOLE[: len(WHOLE) // 2], "of a", id="half"),
        pytest.param(WHOLE[:-1], "of a", id="one-byte-short"),
        pytest.param(elf_with(shnum=0xFFFE), "section headers", id="65534-sections"),
        pytest.param(elf_with(shoff=1 << 62), "section headers", id="sections-beyond-the-universe"),
        pytest.param(elf_with(shentsize=0), "section headers of 0 bytes", id="entries-of-nothing"),
        pytest.param(elf_with(phnum=0xFFFF), "program headers", id="65535-segments"),
        pytest.param(elf_with_section(Sec(name=".x", size=1 << 63)), "`.x` ends at byte", id="section-of-8-EiB"),
        pytest.param(
            elf_with_section(Sec(name=".debug_info", data=compressed(b"", 1 << 50), flags=0x800)),
            "inflate to",
            id="debug-info-of-a-PiB",
        ),
        pytest.param(b"\x7fELF\x01\x01\x01" + WHOLE[7:], "not 64-bit", id="32-bit"),
    ],
)
def test_a_broken_elf_file_is_refused_by_name(aggregator: Aggregator, tmp_path: Path, data: bytes, told: str) -> None:
    """With what is wrong with it; the aggregator goes on."""
    path = tmp_path / "broken.debug"
    path.write_bytes(data)
    done = aggregator.run("symbols", "upload", "--force", str(path), code=1)
    assert f"`{path}`" in done.stderr
    assert told in done.stderr
    assert is_one_line_with_a_remedy(done.stderr)
    assert aggregator.ready() == (True, "")


def test_a_sound_elf_file_is_taken_after_all_the_broken_ones(aggregator: Aggregator, tmp_path: Path) -> None:
    """And none of them stands in the list."""
    path = tmp_path / "whole.debug"
    path.write_bytes(WHOLE)
    assert "\ttaken\t" in aggregator.run("symbols", "upload", "--force", str(path)).stdout
    listed = json.loads(aggregator.run("symbols", "list", "--json").stdout)["symbols"]
    assert [row["build_id"] for row in listed] == [b"whole".hex()]


NODE = "evil.example"
GOOD = batch([(labels(comm="good"), 0, 5)], time=NOW, node=NODE)


def of_version(version: int) -> bytes:
    """A batch in a version that is not ours."""
    raw = envelope.unwrap(wire.encode(GOOD))
    assert raw[:2] == struct.pack("BB", envelope.VERSION_FIELD << 3, subjects.WIRE_VERSION)
    return envelope.wrap(struct.pack("BB", envelope.VERSION_FIELD << 3, version) + raw[2:])


def bomb() -> bytes:
    """Half a GiB of zeroes in 16 KiB."""
    return zstandard.ZstdCompressor(level=19).compress(bytes(512 << 20))


def flipped(data: bytes) -> bytes:
    """One bit is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


BAD: dict[RejectReason, list[Callable[[], bytes]]] = {
    RejectReason.COMPRESSION: [
        lambda: b"",
        lambda: b"not zstd at all",
        lambda: wire.encode(GOOD)[:-9],
        lambda: flipped(wire.encode(GOOD)),
    ],
    RejectReason.TOO_LARGE: [bomb],
    RejectReason.PROTOBUF: [lambda: envelope.wrap(b"\xff" * 100)],
    RejectReason.STRUCTURE: [lambda: wire.encode(replace(GOOD, period_ns=0))],
    RejectReason.VERSION: [lambda: of_version(2), lambda: of_version(127)],
    RejectReason.NODE: [lambda: wire.encode(replace(GOOD, node="somebody-else"))],
    RejectReason.FUTURE: [lambda: wire.encode(replace(GOOD, window_start_ns=(int(time.time()) + 3600) * 10**9))],
    RejectReason.TOO_OLD: [lambda: wire.encode(replace(GOOD, window_start_ns=(NOW - 40 * 86_400) * 10**9))],
    RejectReason.LEDGER: [lambda: wire.encode(replace(GOOD, ledger=replace(GOOD.ledger, taken=6)))],
}


def publish(url: str, *messages: tuple[str, bytes]) -> None:
    """Each message on its subject, as any client of the bus could."""

    async def send() -> None:
        client = await nats.connect(url)
        for subject, data in messages:
            await client.jetstream().publish(subject, data)
        await client.close()

    asyncio.run(asyncio.wait_for(send(), PATIENCE_S))


def metric(aggregator: Aggregator, name: str) -> float:
    """The value of one series on /metrics, 0 if it is not there."""
    with urllib.request.urlopen(f"{aggregator.url}/metrics", timeout=10) as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_batches_that_cannot_be_accepted_are_counted_by_reason(bus: NatsServer, aggregator: Aggregator) -> None:
    """On /metrics and in `status`; they are set aside as they came, and the next batch is stored as ever."""
    assert set(BAD) == set(RejectReason)
    pid, subject = aggregator.pid, subjects.batch(NODE)
    bad = [make() for makes in BAD.values() for make in makes]
    publish(bus.url, *((subject, data) for data in bad), (subject, wire.encode(GOOD)))
    until(lambda: aggregator.node(NODE).get("stored") == 5)
    wanted = {reason.value: len(makes) for reason, makes in BAD.items()}
    until(lambda: aggregator.node(NODE)["rejected_messages_by_reason"] == wanted)
    for reason, count in wanted.items():
        assert metric(aggregator, f'fleetflame_aggregator_rejected_total{{reason="{reason}"}}') >= count
    shown = aggregator.run("status")
    for reason, count in wanted.items():
        assert f"{reason} {count}" in shown.stderr
    assert NODE in shown.stderr
    assert aggregator.code is None
    assert aggregator.pid == pid
    assert aggregator.ready() == (True, "")


def test_what_was_set_aside_can_be_looked_at(bus: NatsServer, aggregator: Aggregator) -> None:
    """The raw message with its reason, in a stream of its own."""
    publish(bus.url, (subjects.batch("aside"), b"look at me"))
    until(lambda: aggregator.node("aside") != {})

    async def look() -> tuple[bytes, dict[str, str]]:
        client = await nats.connect(bus.url)
        found = await client.jetstream().get_last_msg(subjects.DEAD_STREAM, subjects.rejected("aside"))
        await client.close()
        return found.data or b"", dict(found.headers or {})

    data, headers = asyncio.run(asyncio.wait_for(look(), PATIENCE_S))
    assert data == b"look at me"
    assert headers["Fleetflame-Reason"] == RejectReason.COMPRESSION.value
    assert "not a zstd frame" in headers["Fleetflame-Detail"]


def test_a_batch_is_stored_once_however_often_it_is_published(bus: NatsServer, aggregator: Aggregator) -> None:
    """Replayed by whoever recorded it, long after the server's window for duplicates."""
    once: Batch = replace(GOOD, node="replayed")
    later = replace(once, sequence=2, ledger=replace(once.ledger, taken_in_epoch=10))
    subject = subjects.batch("replayed")
    publish(bus.url, *[(subject, wire.encode(once))] * 3, (subject, wire.encode(later)), (subject, wire.encode(once)))
    until(lambda: aggregator.node("replayed").get("stored", 0) >= 10)
    publish(bus.url, (subjects.batch("marker"), wire.encode(replace(GOOD, node="marker"))))
    until(lambda: aggregator.node("marker") != {})
    account = aggregator.node("replayed")
    assert account["stored"] == account["taken"] == 10
    assert account["balances"]
