"""What a token is good for, now and while a socket lasts."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from payflow.core.clock import Clock, rfc3339
from payflow.core.errors import NotAuthenticated, PayFlowError
from payflow.identity.principals import Principal
from payflow.infra.database import DatabaseAway
from payflow.realtime.access import Access, token_expired
from payflow.realtime.connection import Socket
from payflow.realtime.frames import Frame, error
from payflow.realtime.repository import RealtimeRepository
from payflow.realtime.schemas import CloseCode
from payflow.transactions.client_tokens import PREFIX as CLIENT_TOKEN_MARK
from payflow.transactions.client_tokens import ClientTokens

_A_TURN = 200


class Authenticator(Protocol):
    """What is asked of the identity room."""

    async def authenticate_token(self, text: str) -> Principal:
        """The holder of an access token or API key. NotAuthenticated."""

    async def is_still_valid(self, principal: Principal) -> bool: ...


class Credentials:
    def __init__(
        self, authenticator: Authenticator, client_tokens: ClientTokens, reads: RealtimeRepository, clock: Clock
    ) -> None:
        self._authenticator = authenticator
        self._client_tokens = client_tokens
        self._reads = reads
        self._clock = clock

    async def access(self, token: str) -> Access:
        """By an access token, an API key or a transaction's client token. NotAuthenticated."""
        if not token.startswith(CLIENT_TOKEN_MARK):
            return Access(await self._authenticator.authenticate_token(token))
        transaction_id = self._client_tokens.read(token)
        watched = await self._reads.transaction(transaction_id) if transaction_id else None
        if watched is None:
            raise NotAuthenticated("The client token is not valid.", code="invalid_token")
        if not self._client_tokens.still_good(watched.ended_at, self._clock()):
            raise token_expired()
        return Access(None, watched.id, watched.ended_at)

    async def access_of(self, principal: Principal) -> Access:
        """By a ticket that the principal asked for a moment ago. NotAuthenticated."""
        if not await self._authenticator.is_still_valid(principal):
            raise token_expired()
        return Access(principal)

    async def renew(self, socket: Socket, token: str) -> Frame:
        """A later credential of the same holder takes the place of the first. A bad one changes nothing."""
        try:
            access = await self.access(token)
        except PayFlowError as problem:
            return error(problem.code, problem.detail)
        except (DatabaseAway, TimeoutError):
            return error("unavailable", "The credential cannot be checked for the moment.")
        if access.key() != socket.access.key():
            return error("other_holder", "A socket stays with whom it was opened for.")
        if access.principal is not None and not _covers(access.principal, socket.access.principal):
            return error("insufficient_scope", "The new credential allows less than the one before.")
        socket.access = access
        expires_at = rfc3339(access.expires_at) if access.expires_at else None
        return Frame.saying({"type": "authenticated", "expires_at": expires_at})

    def end_expired(self, sockets: Iterable[Socket]) -> None:
        now = self._clock()
        for socket in sockets:
            if self._has_expired(socket.access, now):
                socket.end(CloseCode.NOT_AUTHENTICATED, "token_expired")

    def _has_expired(self, access: Access, now: datetime) -> bool:
        if access.is_customer:
            return not self._client_tokens.still_good(access.ended_at, now)
        return access.expires_at is not None and access.expires_at <= now

    async def end_revoked(self, sockets: Iterable[Socket]) -> None:
        """One question for each credential, however many sockets it opened; one query for all client tokens."""
        by_principal: dict[Principal, list[Socket]] = {}
        by_transaction: dict[UUID, list[Socket]] = {}
        for socket in sockets:
            if socket.access.principal is not None:
                by_principal.setdefault(socket.access.principal, []).append(socket)
            elif socket.access.transaction_id is not None:
                by_transaction.setdefault(socket.access.transaction_id, []).append(socket)
        if by_transaction:
            ends = await self._reads.ended_at(list(by_transaction))
            for transaction_id, watching in by_transaction.items():
                for socket in watching:
                    socket.access.ended_at = ends.get(transaction_id)
        for number, (principal, opened) in enumerate(by_principal.items(), start=1):
            if not await self._authenticator.is_still_valid(principal):
                _end_those_of(principal, opened)
            if number % _A_TURN == 0:
                await asyncio.sleep(0)


def _end_those_of(principal: Principal, sockets: Sequence[Socket]) -> None:
    for socket in sockets:
        # It may have been renewed while the question was asked.
        if socket.access.principal == principal:
            socket.end(CloseCode.NOT_AUTHENTICATED, "token_revoked")


def _covers(new: Principal, old: Principal | None) -> bool:
    return old is None or (new.scopes >= old.scopes and (new.is_admin or not old.is_admin))
