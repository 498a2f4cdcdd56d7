"""What an operator can ask an agent over HTTP: `/metrics`, `/healthz`, `/readyz`. Off by default."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from agent.instruments import CONTENT_TYPE
from agent.metrics import REGISTRY
from fleetflame.errors import FleetflameError, cause_of

_TIMEOUT_S = 5
_TEXT = "text/plain; charset=utf-8"


class Monitor:
    """Serves until closed. `trouble` says what keeps the agent from working, or nothing. Raises FleetflameError."""

    def __init__(self, listen: str, trouble: Callable[[], str]) -> None:
        host, _, port = listen.rpartition(":")
        try:
            self._server = ThreadingHTTPServer((host.strip("[]"), int(port)), _handler(trouble))
        except OSError as error:
            raise FleetflameError(
                f"failed to listen on `{listen}`: {cause_of(error)}",
                hint="choose another address with --metrics-listen",
            ) from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that is listened on, which differs from the one asked for if that was 0."""
        return self._server.server_address[1]

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _handler(trouble: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    def answer(path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE, REGISTRY.text().encode()
        if path == "/healthz":
            return 200, _TEXT, b"ok\n"
        if path == "/readyz":
            text = trouble()
            return (503 if text else 200), _TEXT, f"{text or 'ok'}\n".encode()
        return 404, _TEXT, b"there are /metrics, /healthz and /readyz\n"

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_GET(self) -> None:
            code, kind, body = answer(self.path.partition("?")[0])
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's
            """Says nothing: a scrape every 15 s is no event."""

    return Handler
