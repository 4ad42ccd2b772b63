"""Pure ASGI middleware: request id, client address, access log, body limit, security headers.

Starlette's BaseHTTPMiddleware would be shorter to write and costs 400 µs a request; these cost a few each.
"""

import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address, ip_network

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from payflow.core.errors import TooLarge
from payflow.core.ids import uuid7
from payflow.core.logging import correlation_id
from payflow.web.paths import masked_path
from payflow.web.problems import BodyTooLarge, problem_response

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

AccessLog = Callable[[str, str, int, float, str, str], None]

# Polled every few seconds by machines; a line for each would bury the rest.
QUIET_PATHS = frozenset({"/health", "/health/ready", "/api/v1/health", "/api/v1/health/ready", "/metrics"})


def add_response_header(scope: Scope, name: str, value: str) -> None:
    """A header that goes on whatever answers this request, also an error raised later. RequestContext sends it."""
    scope.setdefault("state", {}).setdefault("response_headers", []).append(
        (name.lower().encode("latin-1"), value.encode("latin-1"))
    )


class RequestContext:
    """The outermost middleware. It sets, for HTTP requests and sockets alike,

    - `core.logging.correlation_id` and `state.request_id`: the caller's `Request-Id` if it looks like one, else a new id;
    - `state.client_address`: the peer, or what trusted proxies say in X-Forwarded-For;

    and it echoes `Request-Id`, adds the headers of `add_response_header` and writes one line to the access log.
    """

    def __init__(
        self, app: ASGIApp, *, trusted_proxies: Sequence[str] = (), access_log: AccessLog | None = None
    ) -> None:
        self.app = app
        self._client_address = client_address_reader(trusted_proxies)
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"request-id"), b"")
        request_id = given.decode() if _SANE_REQUEST_ID.fullmatch(given) else str(uuid7())
        state = scope["state"] = {
            **(scope.get("state") or {}),
            "request_id": request_id,
            "client_address": self._client_address(scope),
            "response_headers": [(b"request-id", request_id.encode())],
        }
        status = 500
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
                status = message.get("status", 101)
                message["headers"] = [*message.get("headers", ()), *state["response_headers"]]
            await send(message)

        token = correlation_id.set(request_id)
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            correlation_id.reset(token)
            if self._access_log is not None and (scope["path"] not in QUIET_PATHS or status >= 400):
                self._access_log(
                    scope.get("method", "WEBSOCKET"),
                    masked_path(scope["path"]),
                    status,
                    (time.perf_counter() - started) * 1000,
                    request_id,
                    state["client_address"],
                )


def write_access_line(method: str, path: str, status: int, milliseconds: float, request_id: str, client: str) -> None:
    """One JSON line on stderr, shaped like the log's. Written directly: the log's own pipeline costs ten times this.

    The path comes masked and the query string, where tickets travel, not at all; so nothing is left to redact.
    """
    line = orjson.dumps(
        {
            "event": "request",
            "method": method,
            "path": path,
            "status": status,
            "ms": round(milliseconds, 1),
            "client": client,
            "correlation_id": request_id,
            "level": "info",
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
    )
    sys.stderr.write(line.decode() + "\n")


def client_address_reader(trusted_proxies: Sequence[str]) -> Callable[[Scope], str]:
    """How to read a request's client address, given addresses or networks (`10.0.0.0/8`) of trusted proxies.

    X-Forwarded-For is read from the right, each entry having been written by the hop to its right; the first hop that
    is not trusted is the client. What stands further left is the client's own claim and counts for nothing.
    """
    networks = [ip_network(proxy, strict=False) for proxy in trusted_proxies]

    @lru_cache(maxsize=4096)
    def is_trusted(address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in networks)

    def client_address(scope: Scope) -> str:
        client = scope.get("client")
        # A socket of both families shows IPv4 peers as ::ffff:192.0.2.1.
        address: str = client[0].removeprefix("::ffff:") if client else "unknown"
        if not networks or not is_trusted(address):
            return address
        lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        hops = ",".join(lines).split(",") if lines else []
        while hops and is_trusted(address):
            hop = _without_port(hops.pop().strip())
            if hop is None:
                break
            address = hop
        return address

    return client_address


def _without_port(hop: str) -> str | None:
    """`192.0.2.1`, `192.0.2.1:5000`, `2001:db8::1` and `[2001:db8::1]:5000` as a bare address; None for anything else."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return str(ip_address(hop))
    except ValueError:
        return None


class BodyLimit:
    """413 for bodies over `max_bytes`: at once when the length is declared, else as soon as the count passes it."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if declared is not None and declared.isdigit():
            # The server takes no more bytes than were declared, so there is nothing to count.
            if int(declared[:20]) > self.max_bytes:
                await problem_response(scope, TooLarge())(scope, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_bytes:
                    raise BodyTooLarge
            return message

        await self.app(scope, counted_receive, send)


DEFAULT_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class SecurityHeaders:
    """`nosniff` and a referrer policy on every answer; on HTML a Content-Security-Policy, unless the page set its own."""

    def __init__(self, app: ASGIApp, *, page_policy: str = DEFAULT_PAGE_POLICY) -> None:
        self.app = app
        self._always = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
        self._page_policy = (b"content-security-policy", page_policy.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *self._always]
                kinds = dict(headers)
                if kinds.get(b"content-type", b"").startswith(b"text/html") and self._page_policy[0] not in kinds:
                    headers.append(self._page_policy)
                message["headers"] = headers
            await send(message)

        await self.app(scope, receive, send_with_headers)
