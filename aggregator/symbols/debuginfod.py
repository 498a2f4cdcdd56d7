"""A client of debuginfod servers: GET URL/buildid/HEX/debuginfo.

A server is told by the operator, what it answers is not trusted: redirects lead only to http(s) and never to an address
that is private, unless the configured server itself has one; a name is resolved once and that address is used, so that
a second answer cannot differ from the one that was checked. Size and time are bounded, and a build ID says which file
was asked for, not that it is genuine: the note is checked by the intake.
"""

import asyncio
import ipaddress
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from aggregator.symbols.faults import Fault, SymbolFileError
from fleetflame.buildid import BuildId

log = logging.getLogger(__name__)

MAX_REDIRECTS = 5
MAX_FAILURES = 3
PAUSE_SECONDS = 300.0
"""How long a server is left alone that could not be reached so many times in a row."""
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """What one download may cost. The names of elfutils' variables for the same are DEBUGINFOD_MAXSIZE, _MAXTIME."""

    size: int = 2 << 30
    connect_seconds: float = 10.0
    silent_seconds: float = 30.0
    """Longest time without a byte. Servers that unpack a package first are silent for a while."""
    total_seconds: float = 300.0
    """Longest time in all: a server that drips is not waited for."""


@dataclass(slots=True)
class Debuginfod:
    """Asks each server in turn, the first one that has the build wins."""

    urls: Sequence[str]
    limits: FetchLimits = field(default_factory=FetchLimits)
    outcomes: Counter[str] = field(default_factory=Counter)
    clock: Callable[[], float] = time.monotonic
    _away: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Of each server: failures to reach it in a row, and when it may be asked again."""

    async def fetch(self, build_id: BuildId, target: Path) -> str:
        """Writes the debug file to `target` and returns the URL it came from. Raises SymbolFileError.

        NOT_FOUND means that every server said so; other faults that asking again later may help.
        """
        worst: SymbolFileError | None = None
        for base in self.urls:
            url = f"{base.rstrip('/')}/buildid/{build_id}/debuginfo"
            failures, again = self._away.get(base, (0, 0.0))
            if self.clock() < again:
                worst = SymbolFileError(Fault.UNREACHABLE, f"`{base}` could not be reached a moment ago")
                continue
            try:
                async with asyncio.timeout(self.limits.total_seconds):
                    await self._get(url, target)
            except SymbolFileError as error:
                self.outcomes[error.fault] += 1
                self._note(base, failures + 1 if error.fault is Fault.UNREACHABLE else 0)
                if error.fault is not Fault.NOT_FOUND:
                    log.warning("debuginfod failed", extra={"url": base, "error": error.message})
                    worst = error
            except TimeoutError:
                self.outcomes[Fault.TIME] += 1
                self._note(base, failures + 1)
                worst = SymbolFileError(Fault.TIME, f"`{base}` took longer than {self.limits.total_seconds:g} s")
            else:
                self.outcomes["found"] += 1
                self._note(base, 0)
                return url
        raise worst or SymbolFileError(Fault.NOT_FOUND, f"no debuginfod server has build {build_id}")

    def _note(self, base: str, failures: int) -> None:
        """Without a pause each of thousands of builds would wait for a server that is not there."""
        pause = PAUSE_SECONDS if failures >= MAX_FAILURES else 0.0
        self._away[base] = (failures, self.clock() + pause)

    async def _get(self, url: str, target: Path) -> None:
        at = url
        private_ok = await _is_private(url)
        timeout = httpx.Timeout(self.limits.silent_seconds, connect=self.limits.connect_seconds)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False, transport=Checked(private_ok)) as client:
            for _ in range(MAX_REDIRECTS + 1):
                try:
                    async with client.stream("GET", at, headers={"User-Agent": "fleetflame"}) as response:
                        if not response.is_redirect:
                            await self._save(response, target)
                            return
                        at = urljoin(at, response.headers["location"])
                        _check_scheme(at)
                except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                    detail = str(error) or type(error).__name__
                    raise SymbolFileError(Fault.UNREACHABLE, f"failed to fetch `{at}`: {detail}") from error
        raise SymbolFileError(Fault.REFUSED, f"`{url}` redirects more than {MAX_REDIRECTS} times")

    async def _save(self, response: httpx.Response, target: Path) -> None:
        if response.status_code == httpx.codes.NOT_FOUND:
            raise SymbolFileError(Fault.NOT_FOUND, "not found")
        if response.status_code != httpx.codes.OK:
            raise SymbolFileError(Fault.REFUSED, f"`{response.url}` answered {response.status_code}")
        written = 0
        with target.open("wb") as file:
            # A server may compress on the way: what is counted is what arrives unpacked.
            async for chunk in response.aiter_bytes(_CHUNK):
                written += len(chunk)
                if written > self.limits.size:
                    raise SymbolFileError(Fault.TOO_LARGE, f"more than {self.limits.size:,} bytes")
                await asyncio.to_thread(file.write, chunk)
        expected = response.headers.get("content-length", "")
        if expected.isdecimal() and "content-encoding" not in response.headers and int(expected) != written:
            raise SymbolFileError(Fault.UNREACHABLE, f"{written:,} of {expected} bytes arrived")


class Checked(httpx.AsyncBaseTransport):
    """Resolves a host itself, refuses private addresses unless told otherwise, and connects to what it checked."""

    def __init__(self, private_ok: bool) -> None:
        self._private_ok = private_ok
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response of the address that was checked. Raises SymbolFileError(REFUSED)."""
        host = request.url.host
        addresses = await _resolve(host)
        if not self._private_ok and any(not is_public(address) for address in addresses):
            raise SymbolFileError(Fault.REFUSED, f"`{host}` has a private address, and the server configured has not")
        extensions: dict[str, Any] = dict(request.extensions) | {"sni_hostname": host}
        # The Host header was set from the name before; only the connection goes to the address.
        url = request.url.copy_with(host=addresses[0])
        return await self._inner.handle_async_request(
            httpx.Request(request.method, url, headers=request.headers, stream=request.stream, extensions=extensions)
        )

    async def aclose(self) -> None:
        """Closes connections."""
        await self._inner.aclose()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open Internet: not loopback, link-local, private, shared or reserved."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global and not parsed.is_multicast


async def _resolve(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SymbolFileError(Fault.UNREACHABLE, f"failed to resolve `{host}`: {error}") from error
    return [str(entry[4][0]) for entry in found]


async def _is_private(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return any(not is_public(address) for address in await _resolve(host))


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise SymbolFileError(Fault.REFUSED, f"a redirect to `{url[:200]}`, which is not http or https")
