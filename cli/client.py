"""Speaks to an aggregator's HTTP API. Only the standard library: an HTTP package costs 150 ms at each start of a query.

The only file here that opens connections to an aggregator. Errors of the API come back as what they are, with its
message and hint; a malformed query is a usage error again.
"""

import base64
import http.client
import json
import socket
import ssl
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Self
from urllib.parse import quote, unquote, urlencode, urlsplit

from fleetflame.errors import FleetflameError, UsageError

Params = Sequence[tuple[str, str]]

CHUNK_BYTES = 1 << 16
MAX_ERROR_BYTES = 1 << 16
START_HINT = "start one with `fleetflame up`, or name another with --server"


class Client:
    """One aggregator. Raises UsageError if `server` is no HTTP URL; connects when the first question is asked."""

    def __init__(self, server: str, *, timeout_s: float) -> None:
        try:
            parts = urlsplit(server if "://" in server else f"http://{server}")
            self._port = parts.port
        except ValueError:
            raise UsageError(f"not a server URL: `{server}`", hint="write http://HOST:PORT") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"not a server URL: `{server}`", hint="write http://HOST:PORT")
        self.server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._host = parts.hostname
        self._secure = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"Accept-Encoding": "gzip", "User-Agent": "fleetflame"}
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._connection: http.client.HTTPConnection | None = None
        self.headers: Mapping[str, str] = {}
        """Headers of the last answer, by lower-case name."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection if there is one."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def get_json(self, path: str, params: Params = ()) -> Any:
        """The decoded JSON answer. Raises FleetflameError."""
        return json.loads(self.get(path, params))

    def get(self, path: str, params: Params = ()) -> bytes:
        """The whole answer. Raises FleetflameError."""
        return b"".join(self.stream(path, params))

    def stream(self, path: str, params: Params = ()) -> Iterator[bytes]:
        """The answer in pieces, uncompressed. Raises FleetflameError."""
        with self._translated():
            response = self._send("GET", path, params)
            self.headers = {name.lower(): value for name, value in response.getheaders()}
            inflate = zlib.decompressobj(wbits=31) if response.headers.get("Content-Encoding") == "gzip" else None
            while chunk := response.read(CHUNK_BYTES):
                yield inflate.decompress(chunk) if inflate else chunk
            if inflate:
                yield inflate.flush()
            if response.length:
                # http.client counts what is left and says nothing.
                raise http.client.IncompleteRead(b"", response.length)

    def send(self, path: str, params: Params, body: IO[bytes] | Iterable[bytes], *, size: int | None = None) -> Any:
        """The decoded JSON answer to a POST of `body`, chunked unless `size` is its length. Raises FleetflameError."""
        with self._translated():
            return json.loads(self._send("POST", path, params, body=body, size=size).read())

    def _send(
        self, method: str, path: str, params: Params, *, body: Iterable[bytes] | None = None, size: int | None = None
    ) -> http.client.HTTPResponse:
        target = f"{self._prefix}{quote(path)}{'?' + urlencode(list(params)) if params else ''}"
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
            headers |= {"Content-Length": str(size)} if size is not None else {"Transfer-Encoding": "chunked"}
        connection = self._connect()
        try:
            connection.request(
                method, target, body=body, headers=headers, encode_chunked=body is not None and size is None
            )
        except (BrokenPipeError, ConnectionResetError):
            # The server may refuse a body by answering before it is sent whole; the answer says why.
            if body is None:
                raise
        response = connection.getresponse()
        if response.status >= 400:
            raise self._refusal(response)
        return response

    def _connect(self) -> http.client.HTTPConnection:
        self.close()
        if self._secure:
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        return self._connection

    def _refusal(self, response: http.client.HTTPResponse) -> FleetflameError:
        text = response.read(MAX_ERROR_BYTES)
        try:
            error = json.loads(text)["error"]
            message, hint = str(error["message"]), str(error.get("hint") or "")
        except (ValueError, KeyError, TypeError):
            message = f"`{self.server}` is no aggregator: it answered {response.status} {response.reason}"
            hint = "check --server"
        return UsageError(message, hint=hint) if response.status == 400 else FleetflameError(message, hint=hint)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise FleetflameError(
                f"failed to query `{self.server}`: no answer within {self._timeout_s:g} s",
                hint="narrow the time range, or raise --timeout",
            ) from None
        except ConnectionRefusedError:
            raise FleetflameError(f"failed to reach `{self.server}`: connection refused", hint=START_HINT) from None
        except socket.gaierror as error:
            raise FleetflameError(
                f"failed to reach `{self.server}`: {(error.strerror or 'unknown host').lower()}", hint="check --server"
            ) from None
        except (OSError, http.client.HTTPException, zlib.error, ValueError) as error:
            cause = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
            raise FleetflameError(f"failed to query `{self.server}`: {cause}", hint="check --server") from None
