"""A node of this room alone: uvicorn on a free port, its hub on a Redis, and a log to write to with or without publishing."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from payflow.core.errors import NotAuthenticated
from payflow.core.ids import new_reference, uuid7
from payflow.core.settings import Settings
from payflow.events.publisher import EventPublisher
from payflow.events.repository import EventRepository
from payflow.events.types import Event
from payflow.identity.principals import SCOPES_OF_ROLE, Principal
from payflow.infra.database import Database, dumps
from payflow.infra.redis import Redis
from payflow.realtime.endpoints import SocketsFirst, realtime_router, realtime_routes
from payflow.realtime.hub import Hub
from payflow.realtime.repository import RealtimeRepository
from payflow.realtime.service import RealtimeService
from payflow.transactions.client_tokens import ClientTokens
from payflow.web.application import install_web
from payflow.web.rate_limits import RateLimiter

CLIENT_TOKENS = ClientTokens(b"k" * 32, grace_seconds=3_600)
FINAL = {"completed", "failed", "cancelled", "expired"}


@dataclass
class MovableClock:
    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


class People:
    """Stands for the identity room: who holds which token, and what was revoked."""

    def __init__(self, clock: MovableClock) -> None:
        self._clock = clock
        self._tokens: dict[str, Principal] = {}
        self.revoked: set[UUID] = set()

    def token(self, user_id: UUID, **changes: Any) -> str:
        values: dict[str, Any] = {
            "id": user_id,
            "kind": "user",
            "role": "user",
            "scopes": SCOPES_OF_ROLE[changes.get("role", "user")],
            "credential_id": uuid7(),
            "expires_at": self._clock() + timedelta(minutes=15),
            **changes,
        }
        text = f"token-{uuid7()}"
        self._tokens[text] = Principal(**values)
        return text

    def revoke(self, token: str) -> None:
        self.revoked.add(self._tokens[token].credential_id)

    async def authenticate_token(self, text: str) -> Principal:
        principal = self._tokens.get(text)
        if principal is None or not await self.is_still_valid(principal):
            raise NotAuthenticated("No such token.", code="invalid_token")
        return principal

    async def authenticate(self, *, bearer: str | None = None, api_key: str | None = None) -> Principal:
        return await self.authenticate_token(bearer or api_key or "")

    async def is_still_valid(self, principal: Principal) -> bool:
        expired = principal.expires_at is not None and principal.expires_at <= self._clock()
        return not expired and principal.credential_id not in self.revoked


@dataclass
class Counts:
    """The metrics, as plain numbers."""

    open: dict[str, int] = field(default_factory=lambda: {"transaction": 0, "user": 0})
    frames: int = 0
    slow: int = 0
    from_log: int = 0

    def opened(self, kind: str) -> None:
        self.open[kind] += 1

    def closed(self, kind: str) -> None:
        self.open[kind] -= 1

    def sent(self, frames: int) -> None:
        self.frames += frames

    def slow_client(self) -> None:
        self.slow += 1

    def caught_up(self, events: int) -> None:
        self.from_log += events


class Log:
    """Writes what a payment would: the row and its event in one transaction, and the publication apart from them."""

    def __init__(self, database: Database, redis: Redis, prefix: str) -> None:
        self.database = database
        self.events = EventRepository(database)
        self.publisher = EventPublisher(redis, prefix)

    async def user(self) -> UUID:
        user_id = uuid7()
        async with self.database.raw() as connection:
            await connection.execute(
                """
                INSERT INTO users (id, email, name, password_hash, role, created_at)
                VALUES ($1, $2, 'Someone', '-', 'user', now())
                """,
                user_id,
                f"{user_id}@example.test",
            )
        return user_id

    async def transaction(self, user_id: UUID, next_action: Mapping[str, Any] | None = None) -> UUID:
        transaction_id = uuid7()
        async with self.database.transaction() as connection:
            await connection.execute(
                """
                INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, provider,
                    next_action, next_check_at)
                VALUES ($1, $2, 'payment', $3, 'pending', 1, 500000, 'NGN', 'paystack', $4, now() + interval '1 hour')
                """,
                transaction_id,
                user_id,
                new_reference("pft"),
                dumps(next_action) if next_action else None,
            )
            await self.events.add([self._event(transaction_id, user_id, 1, "pending", {})], connection)
        return transaction_id

    async def write(self, transaction_id: UUID, status: str | None = None, **data: Any) -> Event:
        """One more event, committed and told to nobody."""
        async with self.database.transaction() as connection:
            row = await connection.fetchrow(
                """
                UPDATE transactions SET version = version + 1, status = coalesce($2, status), last_cause = 'provider',
                    paid_minor = amount_minor, updated_at = now(), ended_at = CASE WHEN $3 THEN now() ELSE ended_at END
                WHERE id = $1 RETURNING user_id, version, status
                """,
                transaction_id,
                status,
                status in FINAL,
            )
            event = self._event(transaction_id, row["user_id"], row["version"], row["status"], data)
            await self.events.add([event], connection)
        return event

    async def tell(self, transaction_id: UUID, status: str | None = None, **data: Any) -> Event:
        """One more event, committed and published."""
        event = await self.write(transaction_id, status, **data)
        await self.publisher.publish([event])
        return event

    async def user_event(self, user_id: UUID, *, event_id: UUID | None = None, publish: bool = True) -> Event:
        event = Event(event_id or uuid7(), "user.logged_in", datetime.now(UTC), user_id, data={"session_id": "s"})
        await self.events.add([event])
        if publish:
            await self.publisher.publish([event])
        return event

    @staticmethod
    def _event(transaction_id: UUID, user_id: UUID, sequence: int, status: str, data: Mapping[str, Any]) -> Event:
        summary = {"reference": "pft", "amount": "5000.00", "amount_minor": 500_000, "currency": "NGN"}
        return Event(
            uuid7(),
            f"payment.{status}",
            datetime.now(UTC),
            UUID(int=user_id.int),
            transaction_id,
            sequence,
            status,
            {**summary, **data},
        )


@dataclass
class Node:
    settings: Settings
    service: RealtimeService
    hub: Hub
    people: People
    counts: Counts
    port: int
    http: httpx.AsyncClient

    def socket(self, path: str, token: str | None = None, **options: Any) -> connect:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= options.pop("headers", {})
        url = f"ws://127.0.0.1:{self.port}{path}"
        return connect(url, additional_headers=headers, compression=None, proxy=None, **options)

    async def ticket(self, token: str, channel: str) -> httpx.Response:
        return await self.http.post(
            "/api/v1/realtime/tickets", json={"channel": channel}, headers={"Authorization": f"Bearer {token}"}
        )


@contextlib.asynccontextmanager
async def running_node(
    settings: Settings,
    database: Database,
    redis: Redis,
    *,
    clock: MovableClock,
    people: Any = None,
    reads: RealtimeRepository | None = None,
    events: EventRepository | None = None,
    ping_seconds: float = 0.3,
) -> AsyncIterator[Node]:
    people = people or People(clock)
    reads, events, counts = reads or RealtimeRepository(database), events or EventRepository(database), Counts()
    hub = Hub(
        settings.redis_url,
        settings.redis_prefix,
        events,
        reads,
        settings,
        clock=clock,
        metrics=counts,
        ping_seconds=ping_seconds,
    )
    service = RealtimeService(
        hub,
        reads,
        events,
        people,
        CLIENT_TOKENS,
        redis,
        settings,
        clock=clock,
        metrics=counts,
        expiry_seconds=0.05,
        revocation_seconds=0.1,
    )
    app = FastAPI()
    install_web(app, settings, CollectorRegistry())
    limiter = RateLimiter(redis, settings, prefix=settings.redis_prefix)
    app.include_router(realtime_router(service, people, limiter), prefix="/api/v1")
    app.add_middleware(SocketsFirst, routes=realtime_routes(service))
    await service.start()
    config = uvicorn.Config(
        app,
        port=0,
        ws="auto",
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Not `serve`: it would take the process's signals, and look only every 0.1 s whether it should end.
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        try:
            yield Node(settings, service, hub, people, counts, port, http)
        finally:
            await service.close()
            await server.shutdown()


async def receive(socket: ClientConnection, seconds: float = 30.0) -> Any:
    async with asyncio.timeout(seconds):
        return orjson.loads(await socket.recv())


async def receive_until(socket: ClientConnection, sequence: int, seconds: float = 30.0) -> list[int]:
    """The sequences of all frames up to this one."""
    seen: list[int] = []
    async with asyncio.timeout(seconds):
        while not seen or seen[-1] < sequence:
            seen.append(orjson.loads(await socket.recv())["sequence"])
    return seen


async def nothing_comes(socket: ClientConnection, seconds: float = 0.25) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await socket.recv()
    except TimeoutError:
        return True
    return False


async def close_of(socket: ClientConnection, seconds: float = 30.0) -> tuple[int, str]:
    """The code and reason a socket is closed with, whatever it receives until then."""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code or 0, socket.close_reason or ""


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30.0) -> None:
    """Look every few milliseconds: what is waited for belongs to somebody else, who sends no signal."""
    async with asyncio.timeout(seconds):
        for _ in itertools.count():
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


def sequences(frames: Iterable[Mapping[str, Any]]) -> list[int]:
    return [frame["sequence"] for frame in frames]
