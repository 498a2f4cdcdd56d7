"""A stand-in for a container engine: a real Unix socket that answers as it is told, one connection at a time."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Answer = Callable[[str], bytes | None]
"""Target of the request -> the bytes to send; None: send nothing and hold the connection until the engine stops."""


class Engine:
    """What was asked of a running stand-in."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.requests: list[str] = []


@contextlib.contextmanager
def running(path: Path, answer: Answer) -> Iterator[Engine]:
    """An engine on `path` for the time of the context."""
    engine = Engine(path)
    held: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                request = _read_request(connection)
                engine.requests.append(request)
                target = request.split(" ")[1] if " " in request else ""
                if (data := answer(target)) is None:
                    held.append(connection)
                    continue
                # The client hangs up on what it does not want to read to the end.
                with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield engine
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def trickling(path: Path, seconds: float) -> None:
    """Serve one connection a byte at a time for so long, then hang up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        connection, _ = listener.accept()
        end = time.monotonic() + seconds
        with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < end:
                connection.sendall(b"H")
                time.sleep(0.01)


def http(body: bytes, *, status: str = "200 OK") -> bytes:
    """A whole answer as engines send it to an HTTP/1.0 client."""
    head = f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def described(name: str = "", image: str = "", labels: dict[str, str] | None = None) -> bytes:
    """The answer that describes a container, with some of the keys that nobody reads."""
    description: dict[str, Any] = {
        "Id": "ignored",
        "Name": f"/{name}",
        "State": {"Status": "running", "Pid": 1},
        "Image": "sha256:0",
        "Config": {"Hostname": "h", "Image": image, "Labels": labels or {}},
    }
    return http(json.dumps(description).encode())


NOT_FOUND = http(b'{"message":"No such container: x"}', status="404 Not Found")


def _read_request(connection: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data and (chunk := connection.recv(4096)):
        data += chunk
    return data.decode()
