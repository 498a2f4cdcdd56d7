"""What every request passes before a handler sees it: who may ask, how much may be sent, what browsers may do.

Plain ASGI, so that bodies and answers stream through.
"""

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aggregator.api.answers import ApiError, error_answer
from aggregator.config import LOOPBACK_NAMES

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
PICTURE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts allow-downloads"
)
"""For flame graphs, whose scripts are inside them. The sandbox gives them an origin of their own: whatever a symbol's
name could smuggle in cannot read the API."""

_ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Guard:
    """Checks the Host and the Origin, and adds security headers. `hosts` empty: every host name is served."""

    app: ASGIApp
    hosts: Collection[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers it with a refusal."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_ALWAYS, "content-security-policy": PAGE_POLICY}.items():
                    headers.setdefault(name, value)
            await send(message)

        if refusal := self._refusal(scope):
            await error_answer(refusal)(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Any page that a user opens can make the browser ask a server on loopback: by a host name that resolves to it
        (DNS rebinding), and by posting without reading the answer."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts and host_name(host) not in self.hosts:
            return ApiError(
                421, "wrong_host", f"this server is not `{host[:80]}`", hint="allow the name with --allow-host"
            )
        origin = headers.get("origin", "")
        if scope["method"] not in _SAFE_METHODS and origin and urlsplit(origin).netloc != host:
            return ApiError(403, "cross_site", f"a page of `{origin[:80]}` may not change anything here")
        return None


def hosts_to_serve(*, loopback: bool, allowed: Collection[str]) -> frozenset[str]:
    """The host names that are answered; none: all of them."""
    if not loopback and not allowed:
        return frozenset()
    return LOOPBACK_NAMES | {name.lower() for name in allowed}


def host_name(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower().rstrip(".")
