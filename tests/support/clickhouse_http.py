"""A small server that speaks ClickHouse's HTTP interface, with the embedded engine behind it, for tests without one.

What it understands is what `clickhouse-connect` says: POST with the statement in the body or in `query`, `param_*` for
server-side parameters, `database`, `default_format`, settings as further parameters, `Content-Encoding` of bodies,
`enable_http_compression` with `Accept-Encoding` for answers, `X-ClickHouse-*` headers, errors as text with their number
in a header. It runs in a process of its own, since a process can have one engine only:

    python -m tests.support.clickhouse_http FOLDER      prints its port, serves until its standard input ends
"""

import gzip
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame  # type: ignore[import-untyped]
import zstandard

TRANSPORT = frozenset(
    {"query", "database", "default_format", "compress", "decompress", "session_id", "session_timeout", "session_check"}
    | {"query_id", "quota_key", "wait_end_of_query", "client_protocol_version", "role", "buffer_size", "user"}
    | {"send_progress_in_http_headers", "http_headers_progress_interval_ms", "enable_http_compression", "password"}
)
"""Parameters that are the interface's own; every other one is a setting."""

INSERT = re.compile(r"\s*(INSERT\s+INTO\s+.*?)\s+FORMAT\s+(\w+)\s*$", re.IGNORECASE | re.DOTALL)
FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
CODE = re.compile(r"Code:\s*(\d+)")
UNKNOWN_DATABASE = 81

DECODERS: Mapping[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    "gzip": gzip.decompress,
}
ENCODERS: Mapping[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4.frame.compress,
    "gzip": gzip.compress,
}


def run(folder: str, parameters: Mapping[str, str], body: bytes) -> tuple[bytes, str]:
    """The answer to one request and the name of its format."""
    sql = parameters.get("query", "")
    data = body
    if not sql:
        head, separator, rest = body.partition(b"\n")
        # An insert in the body has its data after the first line; anything else is a statement as a whole.
        inline = separator and INSERT.match(head.decode("utf-8", "replace"))
        sql, data = (head.decode(), rest) if inline else (body.decode(), b"")
    connection = chdb.connect(folder)
    try:
        connection.query(f"USE `{parameters.get('database') or 'default'}`", "TSV")
        for name, value in parameters.items():
            if name not in TRANSPORT and not name.startswith("param_"):
                escaped = value.replace("\\", "\\\\").replace("'", "\\'")
                connection.query(f"SET {name} = '{escaped}'", "TSV")
        insert = INSERT.match(sql)
        if insert:
            with tempfile.NamedTemporaryFile(suffix=".block") as file:
                file.write(data)
                file.flush()
                connection.query(f"{insert[1]} FROM INFILE '{file.name}' FORMAT {insert[2]}", "TSV")
            return b"", ""
        asked = FORMAT.search(sql)
        name = asked[1] if asked else parameters.get("default_format", "TabSeparated")
        bound = {key[6:]: value for key, value in parameters.items() if key.startswith("param_")}
        return connection.query(sql, name, params=bound).bytes() or b"", name
    finally:
        connection.close()


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    folder = ""

    def do_GET(self) -> None:
        self._answer(200, b"Ok.\n", {})

    def do_POST(self) -> None:
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self._body()
        body = DECODERS.get(self.headers.get("Content-Encoding", ""), bytes)(body)
        try:
            answer, name = run(self.folder, parameters, body)
        except RuntimeError as error:
            text = str(error)[str(error).find("Code: ") :]
            code = CODE.search(text)
            number = int(code[1]) if code else 1002
            status = 404 if number == UNKNOWN_DATABASE else 500
            self._answer(status, text.encode(), {"X-ClickHouse-Exception-Code": str(number)})
            return
        headers = {"X-ClickHouse-Timezone": "UTC", "X-ClickHouse-Summary": '{"read_rows":"0"}'}
        if name:
            headers["X-ClickHouse-Format"] = name
        accepted = self.headers.get("Accept-Encoding", "")
        encoding = next((kind for kind in ENCODERS if kind in accepted), "")
        if encoding and parameters.get("enable_http_compression") == "1":
            answer = ENCODERS[encoding](answer)
            headers["Content-Encoding"] = encoding
        self._answer(200, answer, headers)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class says so)
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class ClickHouseHttp:
    """The server as a child process, for `with`: `url` is where it listens, without a database."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = ""

    def __enter__(self) -> "ClickHouseHttp":
        command = [sys.executable, "-m", "tests.support.clickhouse_http", str(self._folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        assert port, "the test server did not start"
        self.url = f"http://default@127.0.0.1:{port}"
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate("", timeout=30)


def main() -> None:
    """Serves the folder in argv until standard input ends."""
    folder = sys.argv[1]
    # Held open: the engine stays up between requests.
    engine = chdb.connect(folder)
    Handler.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    server.shutdown()
    engine.close()


if __name__ == "__main__":
    main()
