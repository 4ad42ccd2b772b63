"""The one HTTP client that every adapter speaks through: httpx's API over aiohttp's transport.

Its own pool makes httpx the largest cost of a payment (docs/performance.md). The transport has a trap: it maps every
`aiohttp.ClientConnectionError` to `httpx.ConnectTimeout`, also a server that hung up after it had read the request. Believing
that would be believing "nothing was sent" of a charge that may exist, so failures are told apart by aiohttp's own exception.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

MAX_ANSWER_BYTES = 1_048_576
USER_AGENT = "PayFlow/0.1"
DEFAULT_TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=5.0)

Observe = Callable[[str, str, str, float], None]
"""(provider, operation, outcome, seconds): outcome is the status class ("2xx") or not_sent, unknown."""


class NotSent(Exception):
    """No connection existed, so the provider cannot have acted."""


class OutcomeUnknown(Exception):
    """Something may have been sent, and no readable answer came."""


class Unreadable(Exception):
    """The answer is not the JSON object it should be."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object. Unreadable for HTML pages, truncated bodies, arrays and empty answers."""
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise Unreadable(f"HTTP {self.status} with a body that is not JSON") from None
        if not isinstance(value, dict):
            raise Unreadable(f"HTTP {self.status} with a body that is not a JSON object")
        return value


class ProviderHttp:
    """Sends one request and gives the whole answer, or says which of the two silences it was. Never retries.

    It speaks to an httpx transport directly: what `AsyncClient` adds (cookies, redirects, authentication, hooks) is wanted
    nowhere here, and costs as much again as the request itself (docs/performance.md).
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        *,
        timeout: httpx.Timeout = DEFAULT_TIMEOUT,
        observe: Observe | None = None,
    ) -> None:
        self._transport = transport
        self._timeout = timeout.as_dict()
        self._observe = observe or _ignore

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def send(
        self,
        provider: str,
        operation: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> Answer:
        """NotSent or OutcomeUnknown when no answer came. Any status is an answer, also a redirect (never followed)."""
        sent_headers = {"accept": "application/json", "user-agent": USER_AGENT, **(headers or {})}
        content: bytes | None = None
        if json is not None:
            content = orjson.dumps(json)
            sent_headers["content-type"] = "application/json"
        timeout = self._timeout if timeout_seconds is None else httpx.Timeout(timeout_seconds).as_dict()
        request = httpx.Request(
            method, url, headers=sent_headers, content=content, data=form, extensions={"timeout": timeout}
        )
        started = time.perf_counter()
        outcome = "unknown"
        try:
            response = await self._transport.handle_async_request(request)
            try:
                body = await _read(response)
            finally:
                await response.aclose()
            outcome = f"{response.status_code // 100}xx"
            return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, body)
        except httpx.HTTPError as error:
            if _never_connected(error):
                outcome = "not_sent"
                raise NotSent(type(error).__name__) from error
            raise OutcomeUnknown(type(error).__name__) from error
        except (httpx.StreamError, httpx.InvalidURL, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise OutcomeUnknown(type(error).__name__) from error
        finally:
            self._observe(provider, operation, outcome, time.perf_counter() - started)


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise OutcomeUnknown("the answer is larger than 1 MiB")
        parts.append(part)
    return b"".join(parts)


def _never_connected(error: httpx.HTTPError) -> bool:
    if isinstance(error, httpx.UnsupportedProtocol):
        return True
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError | TimeoutError):
        return isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL)
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _ignore(provider: str, operation: str, outcome: str, seconds: float) -> None:
    return None


def build_http(
    *, timeout_seconds: float, connect_timeout_seconds: float, connections: int, observe: Observe | None = None
) -> ProviderHttp:
    """One client for the process: no redirects, no proxy variables, no cookies."""

    def session() -> aiohttp.ClientSession:
        # Made on first use, because a session belongs to the running event loop.
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=20, ttl_dns_cache=60, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    tls = httpx.create_ssl_context(trust_env=False)
    return ProviderHttp(
        AiohttpTransport(client=session, trust_env=False),
        timeout=httpx.Timeout(timeout_seconds, connect=connect_timeout_seconds, pool=connect_timeout_seconds),
        observe=observe,
    )
