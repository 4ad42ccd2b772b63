"""Who may open a socket, tickets for those who cannot send headers, and the end of sockets whose credential has ended."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Literal, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from prometheus_client import CollectorRegistry

from payflow.core.clock import Clock, rfc3339, utc_now
from payflow.core.errors import (
    Forbidden,
    Malformed,
    NotAuthenticated,
    NotFound,
    PayFlowError,
    RateLimited,
    Unavailable,
)
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.identity.principals import Principal
from payflow.infra.database import Database, DatabaseAway
from payflow.infra.redis import AWAY, Redis
from payflow.realtime.access import Access, authorise_transaction, authorise_user, token_expired
from payflow.realtime.connection import AuthTimeout, Receive, Send, Socket
from payflow.realtime.frames import Frame, error
from payflow.realtime.hub import Hub
from payflow.realtime.metrics import NoMetrics, PrometheusRealtimeMetrics, RealtimeMetrics
from payflow.realtime.repository import RealtimeRepository
from payflow.realtime.schemas import CloseCode, TicketContent
from payflow.realtime.streams import Stream, TransactionStream, UserStream
from payflow.transactions.client_tokens import PREFIX as CLIENT_TOKEN_MARK
from payflow.transactions.client_tokens import ClientTokens

log = get_logger(__name__)

ChannelKind = Literal["transaction", "user"]

_SOCKETS_PER_CLIENT_TOKEN = 50
_REDIS_SECONDS = 2.0
_CLOSE_SECONDS = 5.0
_A_TURN = 200


class Authenticator(Protocol):
    """What is asked of the identity room."""

    async def authenticate_token(self, text: str) -> Principal:
        """The holder of an access token or API key. NotAuthenticated."""

    async def is_still_valid(self, principal: Principal) -> bool: ...


@dataclass(frozen=True, slots=True)
class Channel:
    """What a socket watches; as text `transaction:<id>` or `user:<id>`."""

    kind: ChannelKind
    id: UUID

    @classmethod
    def parse(cls, text: str) -> "Channel":
        """NotFound for anything that names no channel."""
        kind, _, identifier = text.partition(":")
        try:
            parsed = UUID(identifier)
        except ValueError:
            raise NotFound from None
        match kind:
            case "transaction" | "user":
                return cls(kind, parsed)
        raise NotFound

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True, slots=True)
class Handshake:
    """What came with the request for a socket. `token` is of a header, never of a cookie."""

    channel: str
    address: str
    origin: str | None = None
    host: str | None = None
    token: str | None = None
    ticket: str | None = None
    after: str | None = None


class Parts(Protocol):
    """What `build_realtime` takes of the built services."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def metrics(self) -> CollectorRegistry: ...
    @property
    def database(self) -> Database: ...
    @property
    def redis(self) -> Redis: ...
    @property
    def events(self) -> EventRepository: ...
    @property
    def client_tokens(self) -> ClientTokens: ...
    @property
    def identity(self) -> Authenticator: ...


class RealtimeService:
    """`start` and `close` do so with the hub too."""

    def __init__(
        self,
        hub: Hub,
        reads: RealtimeRepository,
        events: EventRepository,
        authenticator: Authenticator,
        client_tokens: ClientTokens,
        redis: Redis,
        settings: Settings,
        *,
        clock: Clock = utc_now,
        metrics: RealtimeMetrics | None = None,
        expiry_seconds: float = 1.0,
        revocation_seconds: float = 5.0,
    ) -> None:
        self.hub = hub
        self._reads = reads
        self._events = events
        self._authenticator = authenticator
        self._client_tokens = client_tokens
        self._redis = redis
        self._settings = settings
        self._clock = clock
        self._metrics = metrics or NoMetrics()
        self._expiry_seconds = expiry_seconds
        self._revocation_seconds = revocation_seconds
        self._origins = _origins(settings)
        self._sockets: set[Socket] = set()
        self._authenticated: set[Socket] = set()
        self._waiting_by_address: Counter[str] = Counter()
        self._open_by_key: Counter[str] = Counter()
        self._closing = False
        self._empty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.hub.start()
        self._task = asyncio.create_task(self._watch_credentials(), name="realtime-credentials")

    async def close(self) -> None:
        """Close every socket with 1012, so that its client connects to another node, then the hub."""
        self._closing = True
        for socket in self._sockets:
            socket.end(CloseCode.SHUTDOWN, "shutdown")
        if self._sockets:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._empty.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.hub.close()

    @property
    def ticket_seconds(self) -> int:
        return self._settings.ticket_seconds

    @property
    def sockets(self) -> int:
        return len(self._sockets)

    # Tickets

    async def issue_ticket(self, principal: Principal, channel_text: str) -> str:
        """A ticket for one socket of this channel, good for `settings.ticket_seconds`.

        NotFound for a channel that is not the principal's, Forbidden without its scope, Unavailable without Redis.
        """
        channel = Channel.parse(channel_text)
        access = Access(principal)
        match channel.kind:
            case "transaction":
                authorise_transaction(access, channel.id, await self._reads.transaction(channel.id))
            case "user":
                own = channel.id == principal.id
                authorise_user(access, channel.id, exists=own or await self._reads.user_exists(channel.id))
        ticket = secrets.token_urlsafe(32)
        content = TicketContent(channel=str(channel), principal=principal).model_dump_json()
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                await self._redis.set(self._ticket_key(ticket), content, ex=self._settings.ticket_seconds)
        except AWAY:
            raise Unavailable("Tickets cannot be made for the moment; send the credential instead.") from None
        return ticket

    async def _redeem(self, ticket: str, channel: Channel) -> Access:
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                content = await self._redis.getdel(self._ticket_key(ticket))
        except AWAY:
            raise Unavailable("Tickets cannot be read for the moment.") from None
        known = TicketContent.model_validate_json(content) if content else None
        if known is None or known.channel != str(channel):
            raise NotAuthenticated("The ticket is not valid.", code="invalid_ticket")
        if not await self._authenticator.is_still_valid(known.principal):
            raise token_expired()
        return Access(known.principal)

    def _ticket_key(self, ticket: str) -> str:
        # Hashed, so that who can read Redis can use no ticket.
        return f"{self._settings.redis_prefix}ticket:{sha256(ticket.encode()).hexdigest()}"

    # Sockets

    async def serve(self, handshake: Handshake, receive: Receive, send: Send) -> None:
        """One socket, from its handshake to its end."""
        if self._task is None:
            raise RuntimeError("The service was not started: nobody would notice a revoked credential.")
        socket = Socket(receive, send, self._settings.socket_queue_size, self._metrics)
        self._sockets.add(socket)
        if self._closing:
            socket.end(CloseCode.SHUTDOWN, "shutdown")
        admit = partial(self._admit, handshake)
        del handshake
        try:
            await socket.run(admit, self._renew)
        finally:
            self._forget(socket)

    async def _admit(self, handshake: Handshake, socket: Socket) -> Stream:
        self._check_origin(handshake)
        channel = Channel.parse(handshake.channel)
        stream = self._stream(channel, handshake.after)
        access = await self._authenticate(handshake, channel, socket)
        key = access.key()
        most = _SOCKETS_PER_CLIENT_TOKEN if access.is_customer else self._settings.sockets_per_user
        if self._open_by_key[key] >= most:
            raise RateLimited("Too many sockets.", code="too_many_sockets")
        self._open_by_key[key] += 1
        self._authenticated.add(socket)
        self._metrics.opened(channel.kind)
        socket.access, socket.kind = access, channel.kind
        return stream

    def _forget(self, socket: Socket) -> None:
        if socket.kind is not None:
            self._metrics.closed(socket.kind)
            self._authenticated.discard(socket)
            _count_down(self._open_by_key, socket.access.key())
        self._sockets.discard(socket)
        if self._closing and not self._sockets:
            self._empty.set()

    def _stream(self, channel: Channel, after: str | None) -> Stream:
        try:
            match channel.kind:
                case "transaction":
                    return TransactionStream(
                        self.hub, self._reads, self._events, channel.id, _sequence(after) if after else None
                    )
                case "user":
                    return UserStream(
                        self.hub, self._reads, self._clock, channel.id, _event_id(after) if after else None
                    )
        except ValueError:
            raise Malformed("`after` is the sequence, or on a user's channel the event_id, seen last.") from None

    def _check_origin(self, handshake: Handshake) -> None:
        """A browser says which page asks. Credentials are never ambient here, so this is the second lock, not the first."""
        origin = handshake.origin
        if origin is None or "*" in self._origins or origin.lower().rstrip("/") in self._origins:
            return
        if handshake.host is None or urlsplit(origin).netloc.lower() != handshake.host.lower():
            raise Forbidden("Pages of this origin may not open sockets.", code="origin_not_allowed")

    # Credentials

    async def _authenticate(self, handshake: Handshake, channel: Channel, socket: Socket) -> Access:
        if handshake.token is not None:
            return await self._access_by(handshake.token)
        if handshake.ticket is not None:
            return await self._redeem(handshake.ticket, channel)
        waiting = self._waiting_by_address
        if waiting[handshake.address] >= self._settings.sockets_unauthenticated_per_address:
            raise RateLimited("Too many sockets without a credential.", code="too_many_unauthenticated")
        waiting[handshake.address] += 1
        try:
            async with asyncio.timeout(self._settings.socket_auth_seconds):
                message = await socket.first_message()
        except TimeoutError:
            raise AuthTimeout from None
        finally:
            _count_down(waiting, handshake.address)
        token = message.get("token")
        if message.get("type") != "auth" or not isinstance(token, str):
            raise NotAuthenticated("The first message must be of type auth, with a token.")
        return await self._access_by(token)

    async def _access_by(self, token: str) -> Access:
        if not token.startswith(CLIENT_TOKEN_MARK):
            return Access(await self._authenticator.authenticate_token(token))
        transaction_id = self._client_tokens.read(token)
        watched = await self._reads.transaction(transaction_id) if transaction_id else None
        if watched is None:
            raise NotAuthenticated("The client token is not valid.", code="invalid_token")
        if not self._client_tokens.still_good(watched.ended_at, self._clock()):
            raise token_expired()
        return Access(None, watched.id, watched.ended_at)

    async def _renew(self, socket: Socket, token: str) -> Frame:
        """A later credential of the same holder takes the place of the first. A bad one changes nothing."""
        try:
            access = await self._access_by(token)
        except PayFlowError as problem:
            return error(problem.code, problem.detail)
        except DatabaseAway:
            return error("unavailable", "The credential cannot be checked for the moment.")
        if access.key() != socket.access.key():
            return error("other_holder", "A socket stays with whom it was opened for.")
        if access.principal is not None and not _covers(access.principal, socket.access.principal):
            return error("insufficient_scope", "The new credential allows less than the one before.")
        socket.access = access
        expires_at = rfc3339(access.expires_at) if access.expires_at else None
        return Frame.saying({"type": "authenticated", "expires_at": expires_at})

    async def _watch_credentials(self) -> None:
        loop = asyncio.get_running_loop()
        next_check = loop.time() + self._revocation_seconds
        while True:
            await asyncio.sleep(self._expiry_seconds)
            try:
                self._end_expired(self._clock())
                if loop.time() >= next_check:
                    next_check = loop.time() + self._revocation_seconds
                    await self._end_revoked()
            except (DatabaseAway, OSError, TimeoutError) as problem:
                # Who was let in stays in until somebody can say otherwise.
                log.warning("realtime.credentials_unchecked", error=type(problem).__name__)
            except Exception:
                log.exception("realtime.credential_check_failed")

    def _end_expired(self, now: datetime) -> None:
        for socket in self._authenticated:
            access = socket.access
            if access.is_customer:
                expired = not self._client_tokens.still_good(access.ended_at, now)
            else:
                expired = access.expires_at is not None and access.expires_at <= now
            if expired:
                socket.end(CloseCode.NOT_AUTHENTICATED, "token_expired")

    async def _end_revoked(self) -> None:
        """One question for each credential, however many sockets it opened."""
        by_principal: dict[Principal, list[Socket]] = {}
        by_transaction: dict[UUID, list[Socket]] = {}
        for socket in self._authenticated:
            if socket.access.principal is not None:
                by_principal.setdefault(socket.access.principal, []).append(socket)
            elif socket.access.transaction_id is not None:
                by_transaction.setdefault(socket.access.transaction_id, []).append(socket)
        if by_transaction:
            ends = await self._reads.ended_at(list(by_transaction))
            for transaction_id, sockets in by_transaction.items():
                for socket in sockets:
                    socket.access.ended_at = ends.get(transaction_id)
        for number, (principal, sockets) in enumerate(by_principal.items(), start=1):
            if not await self._authenticator.is_still_valid(principal):
                _end_those_of(principal, sockets)
            if number % _A_TURN == 0:
                await asyncio.sleep(0)


def build_realtime(parts: Parts) -> RealtimeService:
    """The service with its hub, over services that are built already."""
    settings = parts.settings
    metrics = PrometheusRealtimeMetrics(parts.metrics)
    reads = RealtimeRepository(parts.database)
    hub = Hub(
        settings.redis_url,
        settings.redis_prefix,
        parts.events,
        reads,
        settings,
        clock=parts.clock,
        metrics=metrics,
    )
    return RealtimeService(
        hub,
        reads,
        parts.events,
        parts.identity,
        parts.client_tokens,
        parts.redis,
        settings,
        clock=parts.clock,
        metrics=metrics,
    )


def _end_those_of(principal: Principal, sockets: Sequence[Socket]) -> None:
    for socket in sockets:
        # It may have been renewed while the question was asked.
        if socket.access.principal == principal:
            socket.end(CloseCode.NOT_AUTHENTICATED, "token_revoked")


def _covers(new: Principal, old: Principal | None) -> bool:
    return old is None or (new.scopes >= old.scopes and (new.is_admin or not old.is_admin))


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


def _sequence(text: str) -> int:
    """ValueError also for numbers that the column cannot hold."""
    number = int(text)
    if not 0 <= number < 2**31:
        raise ValueError(text)
    return number


def _event_id(text: str) -> UUID:
    """ValueError unless it is a UUIDv7, whose time says where the log is read from."""
    event_id = UUID(text)
    if event_id.version != 7:
        raise ValueError(text)
    return event_id


def _origins(settings: Settings) -> frozenset[str]:
    own = urlsplit(settings.public_url)
    listed = (*settings.cors_origins, *settings.allowed_origins, f"{own.scheme}://{own.netloc}")
    return frozenset(origin.lower().rstrip("/") for origin in listed)
