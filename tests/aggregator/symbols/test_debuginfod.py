"""The debuginfod client against a real HTTP server on loopback."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from aggregator.symbols.debuginfod import MAX_FAILURES, PAUSE_SECONDS, Checked, Debuginfod, FetchLimits, is_public
from aggregator.symbols.faults import Fault, SymbolFileError
from fleetflame.buildid import BuildId

BUILD = BuildId(bytes(20))
PATH = f"/buildid/{BUILD}/debuginfo"

Answer = Callable[[str, asyncio.StreamWriter], object]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """A server that hands each request's path to `answer`; its URL."""

    handlers = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with contextlib.suppress(OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            result = answer(head.split()[1].decode(), writer)
            if asyncio.iscoroutine(result):
                await result
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        await asyncio.gather(*handlers)


def reply(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> Answer:
    """An answer that is the same for every path."""

    def answer(path: str, writer: asyncio.StreamWriter) -> None:
        size = len(body) if length is None else length
        head = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)

    return answer


async def fault_of(client: Debuginfod, target: Path) -> Fault:
    """The fault that a fetch ends with."""
    with pytest.raises(SymbolFileError) as caught:
        await client.fetch(BUILD, target)
    return caught.value.fault


async def test_a_file_is_fetched_by_its_build_id(tmp_path: Path) -> None:
    """At the path that the protocol has, from the first server that has it."""
    paths = []

    def answer(path: str, writer: asyncio.StreamWriter) -> None:
        paths.append(path)
        reply("200 OK", b"debug file")(path, writer)

    async with server(reply("404 Not Found")) as first, server(answer) as second:
        client = Debuginfod([first + "/", second])
        assert await client.fetch(BUILD, tmp_path / "f") == second + PATH
    assert (tmp_path / "f").read_bytes() == b"debug file"
    assert paths == [PATH]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (reply("404 Not Found"), Fault.NOT_FOUND),
        (reply("500 Oops"), Fault.REFUSED),
        (reply("206 Partial Content", b"x"), Fault.REFUSED),
        (reply("200 OK", b"x" * 2000), Fault.TOO_LARGE),
        (reply("200 OK", gzip.compress(bytes(100_000)), "Content-Encoding: gzip"), Fault.TOO_LARGE),
        (reply("200 OK", b"short", length=100), Fault.UNREACHABLE),
        (reply("302 Found", b"", "Location: file:///etc/passwd"), Fault.REFUSED),
        (reply("302 Found", b"", "Location: ftp://example.com/x"), Fault.REFUSED),
        (reply("302 Found", b"", f"Location: {PATH}"), Fault.REFUSED),
    ],
)
async def test_answers_that_are_not_accepted_have_typed_faults(answer: Answer, fault: Fault, tmp_path: Path) -> None:
    """Absent, broken, too large, cut short, leading elsewhere, leading nowhere."""
    async with server(answer) as url:
        assert await fault_of(Debuginfod([url], FetchLimits(size=1000)), tmp_path / "f") is fault


async def test_a_redirect_is_followed(tmp_path: Path) -> None:
    """Federated servers send one to where the file is."""
    async with (
        server(reply("200 OK", b"elsewhere")) as second,
        server(reply("302 Found", b"", f"Location: {second}/x")) as first,
    ):
        await Debuginfod([first]).fetch(BUILD, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"elsewhere"


async def test_a_server_that_drips_is_not_waited_for(tmp_path: Path) -> None:
    """Each byte comes in time, the file does not."""

    async def drip(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async with server(drip) as url:
        limits = FetchLimits(silent_seconds=1, total_seconds=0.3)
        assert await fault_of(Debuginfod([url], limits), tmp_path / "f") is Fault.TIME


async def test_a_silent_server_and_no_server_are_unreachable(tmp_path: Path) -> None:
    """Both may be back later."""

    async def silent(path: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)

    async with server(silent) as url:
        assert await fault_of(Debuginfod([url], FetchLimits(silent_seconds=0.1)), tmp_path / "f") is Fault.UNREACHABLE
    assert await fault_of(Debuginfod([url]), tmp_path / "f") is Fault.UNREACHABLE
    assert await fault_of(Debuginfod(["http://no-such-host.invalid"]), tmp_path / "f") is Fault.UNREACHABLE


async def test_a_server_that_is_away_is_left_alone_for_a_while(tmp_path: Path) -> None:
    """Three times in a row; then it is not even tried, until the pause is over. One that answers is not away."""
    now = 100.0
    async with server(reply("404 Not Found")) as up:
        client = Debuginfod(["http://127.0.0.1:1", up], clock=lambda: now)
        for _ in range(MAX_FAILURES + 2):
            assert await fault_of(client, tmp_path / "f") is Fault.UNREACHABLE
        assert client.outcomes == {Fault.UNREACHABLE: MAX_FAILURES, Fault.NOT_FOUND: MAX_FAILURES + 2}
        now += PAUSE_SECONDS
        await fault_of(client, tmp_path / "f")
        assert client.outcomes[Fault.UNREACHABLE] == MAX_FAILURES + 1


async def test_a_private_address_is_refused_for_a_public_server() -> None:
    """What a redirect of a server on the Internet must not reach, by address and by name."""
    for host in ("127.0.0.1", "localhost", "[::1]", "10.1.2.3", "169.254.169.254"):
        async with httpx.AsyncClient(transport=Checked(private_ok=False)) as client:
            with pytest.raises(SymbolFileError) as caught:
                await client.get(f"http://{host}:1/x")
            assert caught.value.fault is Fault.REFUSED


async def test_the_name_stays_in_the_request() -> None:
    """The connection goes to the address that was checked, the Host header says the name."""
    seen = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        reply("200 OK", b"x")("", writer)
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening, httpx.AsyncClient(transport=Checked(private_ok=True)) as client:
        port = listening.sockets[0].getsockname()[1]
        assert (await client.get(f"http://localhost:{port}/x")).text == "x"
    assert f"host: localhost:{port}" in seen[0]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("224.0.0.1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    """Not loopback, link-local, private, shared, reserved or multicast, nor one of those in disguise."""
    assert is_public(address) is public
