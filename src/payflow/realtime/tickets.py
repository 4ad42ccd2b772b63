"""One-use tickets: how a browser, which cannot send headers with a socket, brings its credential without putting it in a URL."""

import asyncio
import secrets
from hashlib import sha256

from payflow.core.errors import NotAuthenticated, Unavailable
from payflow.identity.principals import Principal
from payflow.infra.redis import AWAY, Redis
from payflow.realtime.handshake import Channel
from payflow.realtime.schemas import TicketContent

_REDIS_SECONDS = 2.0


class Tickets:
    def __init__(self, redis: Redis, prefix: str, seconds: int) -> None:
        self._redis = redis
        self._prefix = prefix + "ticket:"
        self.seconds = seconds

    async def issue(self, principal: Principal, channel: Channel) -> str:
        """Unavailable without Redis. Whether the channel is the principal's is the caller's to know."""
        ticket = secrets.token_urlsafe(32)
        content = TicketContent(channel=str(channel), principal=principal).model_dump_json()
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                await self._redis.set(self._key(ticket), content, ex=self.seconds)
        except AWAY:
            raise Unavailable("Tickets cannot be made for the moment; send the credential instead.") from None
        return ticket

    async def redeem(self, ticket: str, channel: Channel) -> Principal:
        """Who asked for it, when it is of this channel; used up in any case. NotAuthenticated; Unavailable."""
        try:
            async with asyncio.timeout(_REDIS_SECONDS):
                content = await self._redis.getdel(self._key(ticket))
        except AWAY:
            raise Unavailable("Tickets cannot be read for the moment.") from None
        known = TicketContent.model_validate_json(content) if content else None
        if known is None or known.channel != str(channel):
            raise NotAuthenticated("The ticket is not valid.", code="invalid_ticket")
        return known.principal

    def _key(self, ticket: str) -> str:
        # Hashed, so that who can read Redis can use no ticket.
        return self._prefix + sha256(ticket.encode()).hexdigest()
