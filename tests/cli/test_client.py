"""The client against a real HTTP server: answers, refusals, and servers that are not there."""

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cli.client import Client
from fleetflame.errors import FleetflameError, UsageError


class Script(BaseHTTPRequestHandler):
    """Answers by the path; `seen` holds what came."""

    seen: list[tuple[str, dict[str, str], bytes]]

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """One response."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """By the last part of the path."""
        self.seen.append((self.path, dict(self.headers), b""))
        error = {"error": {"code": "x", "message": "failed to look", "hint": "look again"}}
        match self.path.partition("?")[0].rsplit("/", 1)[-1]:
            case "packed":
                self.answer(200, gzip.compress(b'{"packed":1}'), content_encoding="gzip", fleetflame_samples="total=1")
            case "refused":
                self.answer(422, json.dumps(error).encode())
            case "malformed":
                self.answer(400, json.dumps(error).encode())
            case "foreign":
                self.answer(502, b"<html>bad gateway</html>")
            case "slow":
                threading.Event().wait(3)
            case "cut":
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort")
            case _:
                self.answer(200, b'{"plain":1}')

    def do_POST(self) -> None:
        """Tells what came; refuses /refused before it has read the body."""
        if self.path.endswith("refused"):
            self.answer(413, b'{"error":{"code":"too_large","message":"too large","hint":""}}', connection="close")
            self.close_connection = True
            return
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.path, dict(self.headers), body))
        self.answer(200, json.dumps({"got": len(body)}).encode())


@pytest.fixture
def server() -> Iterator[str]:
    """URL of a scripted server."""
    Script.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Script) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_parameters_are_quoted_and_answers_unpacked(server: str) -> None:
    """Values of any kind arrive as they are; headers can be read afterwards."""
    with Client(server, timeout_s=10) as client:
        assert client.get_json("/packed", [("query", 'cpu{a="ü &"}'), ("by", "a"), ("by", "b")]) == {"packed": 1}
        assert client.headers["fleetflame-samples"] == "total=1"
    assert Script.seen[0][0] == "/packed?query=cpu%7Ba%3D%22%C3%BC+%26%22%7D&by=a&by=b"


def test_a_path_and_credentials_in_the_url_are_used(server: str) -> None:
    """Behind a proxy that asks for a password."""
    with Client(server.replace("http://", "http://me:p%40ss@") + "/flames/", timeout_s=10) as client:
        client.get("/api")
        assert "p@ss" not in client.server
        assert "p%40ss" not in client.server
    path, headers, _ = Script.seen[0]
    assert path == "/flames/api"
    assert headers["Authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.parametrize("size", [None, 6])
def test_bodies_are_streamed_with_or_without_a_size(server: str, size: int | None) -> None:
    """Standard input has none."""
    with Client(server, timeout_s=10) as client:
        assert client.send("/import", [("label", "a=b")], iter([b"abc", b"def"]), size=size) == {"got": 6}
    assert Script.seen[0][2] == b"abcdef"


@pytest.mark.parametrize(("path", "kind"), [("/refused", FleetflameError), ("/malformed", UsageError)])
def test_an_error_of_the_api_comes_back_as_itself(server: str, path: str, kind: type[FleetflameError]) -> None:
    """With its hint; a malformed question is wrong usage."""
    with Client(server, timeout_s=10) as client, pytest.raises(FleetflameError, match="failed to look") as caught:
        client.get(path)
    assert type(caught.value) is kind
    assert caught.value.hint == "look again"


def test_a_body_that_is_refused_unread_gives_the_servers_reason(server: str) -> None:
    """Not a broken pipe."""
    with Client(server, timeout_s=10) as client, pytest.raises(FleetflameError, match="too large"):
        client.send("/refused", [], iter([b"x" * (1 << 20)] * 16), size=16 << 20)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/foreign", "is no aggregator: it answered 502"),
        ("/cut", "failed to query"),
        ("/slow", "no answer within 0.5 s"),
    ],
)
def test_other_servers_and_broken_answers_are_named(server: str, path: str, message: str) -> None:
    """In one line, with what to check."""
    with Client(server, timeout_s=0.5) as client, pytest.raises(FleetflameError, match=message) as caught:
        client.get(path)
    assert caught.value.hint


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "http://x:99999"])
def test_what_is_no_url_is_wrong_usage(url: str) -> None:
    """Before anything is connected."""
    with pytest.raises(UsageError, match="not a server URL"):
        Client(url, timeout_s=1)


def test_a_name_that_does_not_resolve_is_told() -> None:
    """By the reserved domain that never does."""
    with (
        Client("http://fleet.invalid", timeout_s=10) as client,
        pytest.raises(FleetflameError, match="failed to reach"),
    ):
        client.get("/x")
