"""Rate limits per principal and group, per address before authentication, counted in Redis.

The algorithm is the sliding-window counter of the `limits` library, in a script of our own that also returns what the
headers need. `limits` takes two calls for that (237 µs of processor time alone, 118 with twenty in flight); the script
takes one, shared by all hits that come meanwhile (120 alone, under 50 from eight in flight). When Redis is away, the same
arithmetic runs on this process's memory, and a metric says so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha1
from ipaddress import IPv6Network
from math import ceil
from typing import Literal, Protocol, TypeVar

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter
from redis.exceptions import NoScriptError
from slowapi import Limiter

from payflow.core.errors import RateLimited
from payflow.core.logging import get_logger
from payflow.infra.redis import AWAY, Redis
from payflow.web.middleware import add_response_header

log = get_logger(__name__)

Group = Literal["read", "write", "login"]
POLICY_NAMES: dict[Group, str] = {"read": "reads", "write": "writes", "login": "logins"}
WINDOW_SECONDS = 60

F = TypeVar("F", bound=Callable[..., Awaitable[object]])

# One hash per counter: window number, hits in it, hits in the one before. Redis's own clock decides the window, so that
# nodes with different clocks agree. A refused hit is not counted. Takes any number of counters, and answers with three
# numbers for each and, last, how far the window is.
_SCRIPT = b"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window = 60000
local number = math.floor(now / window)
local elapsed = now - number * window
local reply = {}
for position, key in ipairs(KEYS) do
  local limit, cost = tonumber(ARGV[2 * position - 1]), tonumber(ARGV[2 * position])
  local stored = redis.call('HMGET', key, 'n', 'c', 'p')
  local stored_number = tonumber(stored[1])
  local current, previous = 0, 0
  if stored_number == number then
    current = tonumber(stored[2])
    previous = tonumber(stored[3])
  elseif stored_number == number - 1 then
    previous = tonumber(stored[2])
  end
  local allowed = 0
  if previous * (window - elapsed) / window + current + cost <= limit then
    allowed = 1
    current = current + cost
    redis.call('HSET', key, 'n', number, 'c', current, 'p', previous)
    redis.call('PEXPIRE', key, window * 2)
  end
  reply[#reply + 1] = allowed
  reply[#reply + 1] = current
  reply[#reply + 1] = previous
end
reply[#reply + 1] = elapsed
return reply
"""
_MOST_AT_ONCE = 200
_SCRIPT_SHA = sha1(_SCRIPT, usedforsecurity=False).hexdigest()


class Limits(Protocol):
    """The settings that say how much is allowed."""

    @property
    def reads_per_minute(self) -> int: ...
    @property
    def writes_per_minute(self) -> int: ...
    @property
    def logins_per_minute(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LimitState:
    """`reset_seconds`: to the end of the window, or, when refused, until the same hit would be taken."""

    allowed: bool
    limit: int
    remaining: int
    reset_seconds: int


@dataclass(slots=True)
class _Hit:
    key: str
    limit: int
    cost: int
    answer: asyncio.Future[LimitState]


class RateLimiter:
    """One call to Redis is under way at a time, on one connection, and carries every hit that came meanwhile: under load
    that costs a third of a call each, and hits never queue for the pool's connections."""

    def __init__(
        self,
        redis: Redis,
        limits: Limits,
        *,
        prefix: str = "payflow:",
        registry: CollectorRegistry | None = None,
        back_off_seconds: float = 3.0,
        timeout_seconds: float = 0.5,
    ) -> None:
        self.limits = limits
        self._redis = redis
        # The braces keep all counters in one slot of a Redis Cluster, as a script over several keys needs.
        self._prefix = prefix + "{limit}:"
        self._back_off_seconds = back_off_seconds
        self._timeout_seconds = timeout_seconds
        self._away_until: float | None = None
        self._memory = _MemoryCounters()
        self._pending: list[_Hit] = []
        self._sending: asyncio.Task[None] | None = None
        self._fallbacks = Counter(
            "payflow_rate_limiter_fallback",
            "Hits counted in this process's memory because Redis was away.",
            registry=registry or CollectorRegistry(),
        )

    def per_minute(self, group: Group) -> int:
        match group:
            case "read":
                return self.limits.reads_per_minute
            case "write":
                return self.limits.writes_per_minute
            case "login":
                return self.limits.logins_per_minute

    async def hit(self, scope: str, key: str, limit_per_minute: int, cost: int = 1) -> LimitState:
        """Count `cost` against `key` within `scope`. Never raises: without Redis the count is this process's own."""
        if self._away_until is None or time.monotonic() >= self._away_until:
            if self._away_until is not None:
                # This hit alone asks whether Redis is back; the others do not wait for the answer.
                self._away_until = time.monotonic() + self._back_off_seconds
            try:
                state = await self._hit_redis(f"{self._prefix}{scope}:{key}", limit_per_minute, cost)
            except AWAY as error:
                if self._away_until is None:
                    log.warning("rate_limiter.redis_away", error=type(error).__name__)
                self._away_until = time.monotonic() + self._back_off_seconds
            else:
                self._away_until = None
                return state
        self._fallbacks.inc()
        return self._memory.hit(f"{scope}:{key}", limit_per_minute, cost)

    async def _hit_redis(self, key: str, limit: int, cost: int) -> LimitState:
        hit = _Hit(key, limit, cost, asyncio.get_running_loop().create_future())
        self._pending.append(hit)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_pending())
        return await hit.answer

    async def _send_pending(self) -> None:
        try:
            while self._pending:
                hits, self._pending = self._pending[:_MOST_AT_ONCE], self._pending[_MOST_AT_ONCE:]
                try:
                    async with asyncio.timeout(self._timeout_seconds):
                        reply = await self._run_script(hits)
                except Exception as error:
                    for hit in hits:
                        if not hit.answer.done():
                            hit.answer.set_exception(error)
                else:
                    _deliver(hits, reply)
        finally:
            self._sending = None

    async def _run_script(self, hits: list[_Hit]) -> list[int]:
        run: Callable[..., Awaitable[list[int]]] = self._redis.execute_command
        arguments = [hit.key for hit in hits] + [number for hit in hits for number in (hit.limit, hit.cost)]
        try:
            return await run("EVALSHA", _SCRIPT_SHA, len(hits), *arguments)
        except NoScriptError:
            return await run("EVAL", _SCRIPT, len(hits), *arguments)


def _deliver(hits: list[_Hit], reply: list[int]) -> None:
    elapsed = reply[-1] / 1000
    for position, hit in enumerate(hits):
        allowed, current, previous = reply[3 * position : 3 * position + 3]
        if not hit.answer.done():  # The request may have gone away.
            hit.answer.set_result(_state(bool(allowed), hit.limit, hit.cost, current, previous, elapsed))


class _MemoryCounters:
    """The script's arithmetic in this process. Counters of the window before the last are dropped when one begins."""

    def __init__(self) -> None:
        self._number = 0
        self._current: dict[str, int] = {}
        self._previous: dict[str, int] = {}

    def hit(self, key: str, limit: int, cost: int) -> LimitState:
        number, elapsed = divmod(time.time(), WINDOW_SECONDS)
        if number != self._number:
            self._previous = self._current if number == self._number + 1 else {}
            self._current = {}
            self._number = int(number)
        current, previous = self._current.get(key, 0), self._previous.get(key, 0)
        allowed = previous * (WINDOW_SECONDS - elapsed) / WINDOW_SECONDS + current + cost <= limit
        if allowed:
            current += cost
            self._current[key] = current
        return _state(allowed, limit, cost, current, previous, elapsed)


def _state(allowed: bool, limit: int, cost: int, current: int, previous: int, elapsed: float) -> LimitState:
    left = WINDOW_SECONDS - elapsed
    used = previous * left / WINDOW_SECONDS + current
    wait = left
    if not allowed:
        if current + cost <= limit:
            # The window before weighs less every moment; this is when it has become light enough.
            wait = WINDOW_SECONDS * (1 - (limit - current - cost) / previous) - elapsed
        else:
            wait = left + WINDOW_SECONDS * (1 - max(0, limit - cost) / current)
    return LimitState(allowed, limit, max(0, int(limit - used)), max(1, ceil(wait)))


def rate_limit(limiter: RateLimiter, group: Group) -> Callable[[Request], Awaitable[None]]:
    """A dependency that counts the request and raises RateLimited; its headers go on every answer, errors too.

    The count is the principal's once the identity room has set `request.state.principal`, else the address's. So it
    stands behind the dependency that authenticates: `dependencies=[Depends(principal), Depends(limited)]`.
    """

    async def limited(request: Request) -> None:
        await enforce(limiter, group, request)

    return limited


async def enforce(limiter: RateLimiter, group: Group, request: Request, *, key: str | None = None) -> None:
    """Count the request in `group`, for `key`, the principal or the address. RateLimited when there were too many."""
    limit = limiter.per_minute(group)
    state = await limiter.hit(group, key or counting_key(request), limit)
    name = POLICY_NAMES[group]
    add_response_header(request.scope, "RateLimit-Policy", f'"{name}";q={limit};w={WINDOW_SECONDS}')
    add_response_header(request.scope, "RateLimit", f'"{name}";r={state.remaining};t={state.reset_seconds}')
    if not state.allowed:
        raise RateLimited(
            f"At most {limit} {name} a minute; try again in {state.reset_seconds} s.", retry_after=state.reset_seconds
        )


def counting_key(request: Request) -> str:
    principal = getattr(request.state, "principal", None)
    return str(principal.key()) if principal is not None else address_key(request)


def address_key(request: Request) -> str:
    """The client's address, as `household` counts it."""
    state = request.scope.get("state") or {}
    return household(state.get("client_address") or (request.client.host if request.client else "unknown"))


def household(address: str) -> str:
    """The address; of an IPv6 address its /64, because one household has all of that."""
    if ":" in address:
        try:
            return str(IPv6Network((address.partition("%")[0], 64), strict=False))
        except ValueError:
            return address
    return address


def per_process_limiter() -> Limiter:
    """slowapi, where it is sound: a decorator on a few unauthenticated endpoints, counting in memory.

    A second layer under `rate_limit`, which holds whatever becomes of Redis. slowapi's Redis storage blocks the event
    loop and its middleware skips included routers, so it is used for nothing else. One per application.
    """

    def by_address(request: Request) -> str:  # slowapi passes the request only to a parameter of this name.
        return address_key(request)

    return Limiter(key_func=by_address, storage_uri="memory://", headers_enabled=False)


def limited_in_process(limiter: Limiter, per_minute: int) -> Callable[[F], F]:
    """Decorates an endpoint that has a parameter `request: Request`. Counts are kept per function name and address."""
    decorator: Callable[[F], F] = limiter.limit(f"{per_minute}/minute")
    return decorator
