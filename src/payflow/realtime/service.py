"""Sockets from the handshake to the end: who is let in, how many, and that none outlives its credential or the node."""

import asyncio
import re
from collections import Counter
from contextlib import suppress
from functools import partial
from uuid import UUID

from payflow.core.clock import Clock, utc_now
from payflow.core.errors import Malformed, NotAuthenticated, NotFound, RateLimited
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.identity.principals import Principal
from payflow.infra.database import DatabaseAway
from payflow.infra.redis import Redis
from payflow.realtime.access import Access, authorise_transaction, authorise_user
from payflow.realtime.connection import AuthTimeout, Receive, Send, Socket
from payflow.realtime.credentials import Authenticator, Credentials
from payflow.realtime.handshake import WALLET, Channel, Handshake, Origins
from payflow.realtime.hub import Hub
from payflow.realtime.metrics import NoMetrics, RealtimeMetrics
from payflow.realtime.repository import RealtimeRepository
from payflow.realtime.schemas import CloseCode
from payflow.realtime.streams import Stream, TransactionStream, UserStream
from payflow.realtime.tickets import Tickets
from payflow.transactions.client_tokens import ClientTokens

log = get_logger(__name__)

_SOCKETS_PER_CLIENT_TOKEN = 50
_CLOSE_SECONDS = 5.0
_REFERENCE = re.compile(r"[a-z0-9]{16,50}")


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
        self._credentials = Credentials(authenticator, client_tokens, reads, clock)
        self._tickets = Tickets(redis, settings.redis_prefix, settings.ticket_seconds)
        self._settings = settings
        self._clock = clock
        self._metrics = metrics or NoMetrics()
        self._expiry_seconds = expiry_seconds
        self._revocation_seconds = revocation_seconds
        self._origins = Origins(settings)
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
        return self._tickets.seconds

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
        return await self._tickets.issue(principal, channel)

    # Sockets

    async def serve(self, handshake: Handshake, receive: Receive, send: Send) -> None:
        """One socket, from its handshake to its end."""
        if self._task is None:
            raise RuntimeError("The service was not started: nobody would notice a revoked credential.")
        socket = Socket(receive, send, self._settings.socket_queue_size, self._metrics)
        self._sockets.add(socket)
        if self._closing:
            socket.end(CloseCode.SHUTDOWN, "shutdown")
        try:
            await socket.run(partial(self._admit, handshake), self._credentials.renew)
        finally:
            self._forget(socket)

    async def _admit(self, handshake: Handshake, socket: Socket) -> Stream:
        self._origins.check(handshake)
        if handshake.channel == WALLET:
            after = handshake.after_sequence()
            self._count(socket, await self._authenticate(handshake, None, socket), WALLET)
            transaction_id = await self._named(socket)
            return TransactionStream(self.hub, self._reads, self._events, transaction_id, after)
        channel = Channel.parse(handshake.channel)
        stream = self._stream(channel, handshake)
        self._count(socket, await self._authenticate(handshake, channel, socket), channel.kind)
        return stream

    def _count(self, socket: Socket, access: Access, kind: str) -> None:
        """RateLimited."""
        key = access.key()
        most = _SOCKETS_PER_CLIENT_TOKEN if access.is_customer else self._settings.sockets_per_user
        if self._open_by_key[key] >= most:
            raise RateLimited("Too many sockets.", code="too_many_sockets")
        self._open_by_key[key] += 1
        self._authenticated.add(socket)
        self._metrics.opened(kind)
        socket.access, socket.kind = access, kind

    async def _named(self, socket: Socket) -> UUID:
        """The transaction that the first message after the credential names: one that moves money of a wallet. Whose it is,
        the stream looks at before it sends anything. AuthTimeout; Malformed; NotFound for a payment too."""
        try:
            async with asyncio.timeout(self._settings.socket_auth_seconds):
                message = await socket.first_message()
        except TimeoutError:
            raise AuthTimeout("No tx_ref came in time.") from None
        reference = message.get("tx_ref")
        if not isinstance(reference, str):
            raise Malformed('Name a transaction: {"tx_ref": its reference}.', code="tx_ref_missing")
        found = await self._reads.wallet_movement(reference) if _REFERENCE.fullmatch(reference) else None
        if found is None:
            raise NotFound("There is no such transaction.")
        return found

    def _forget(self, socket: Socket) -> None:
        if socket.kind is not None:
            self._metrics.closed(socket.kind)
            self._authenticated.discard(socket)
            _count_down(self._open_by_key, socket.access.key())
        self._sockets.discard(socket)
        if self._closing and not self._sockets:
            self._empty.set()

    def _stream(self, channel: Channel, handshake: Handshake) -> Stream:
        match channel.kind:
            case "transaction":
                after = handshake.after_sequence()
                return TransactionStream(self.hub, self._reads, self._events, channel.id, after)
            case "user":
                return UserStream(self.hub, self._reads, self._clock, channel.id, handshake.after_event())

    # Credentials

    async def _authenticate(self, handshake: Handshake, channel: Channel | None, socket: Socket) -> Access:
        if handshake.token is not None:
            return await self._credentials.access(handshake.token)
        if handshake.ticket is not None:
            if channel is None:
                # Tickets are made for a channel that is known, and this one is named later.
                raise NotAuthenticated("This socket takes no ticket.", code="invalid_ticket")
            return await self._credentials.access_of(await self._tickets.redeem(handshake.ticket, channel))
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
        return await self._credentials.access(token)

    async def _watch_credentials(self) -> None:
        loop = asyncio.get_running_loop()
        next_check = loop.time() + self._revocation_seconds
        while True:
            await asyncio.sleep(self._expiry_seconds)
            try:
                self._credentials.end_expired(self._authenticated)
                if loop.time() >= next_check:
                    next_check = loop.time() + self._revocation_seconds
                    await self._credentials.end_revoked(self._authenticated)
            except (DatabaseAway, OSError, TimeoutError) as problem:
                # Who was let in stays in until somebody can say otherwise.
                log.warning("realtime.credentials_unchecked", error=type(problem).__name__)
            except Exception:
                log.exception("realtime.credential_check_failed")


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
