"""Access tokens that a provider gives for a key and a secret: one token and one renewal at a time for each such pair.

A new token may end the older one, and a renewal for each call that waits would end them in turn.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from payflow.core.clock import Clock
from payflow.gateway.contract import Failure, Verdict
from payflow.gateway.reading import UNREACHABLE


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    renew_at: datetime


class NoToken(Exception):
    """No token was given, so the call that needs one was not made: refused where the provider said why, else not sent."""

    def __init__(self, failure: Failure, status: str) -> None:
        self.verdict = Verdict.NOT_SENT if failure is UNREACHABLE else Verdict.REFUSED
        self.failure = failure
        self.status = status
        super().__init__(status)


class TokenCache:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens: dict[str, Token] = {}
        self._renewals: dict[str, asyncio.Lock] = {}

    async def get(
        self, key: str, secret: str, renew: Callable[[], Awaitable[Token]], refused: str | None = None
    ) -> str:
        """The token of the pair; a new one when it has ended or is the one that was refused. Raises what `renew` raises.

        Who waited for a renewal takes what it brought.
        """
        pair = hashlib.sha256(f"{key}\0{secret}".encode()).hexdigest()
        async with self._renewals.setdefault(pair, asyncio.Lock()):
            token = self._tokens.get(pair)
            if token is None or token.value == refused or token.renew_at <= self._clock():
                token = self._tokens[pair] = await renew()
            return token.value


def basic(key: str, secret: str) -> dict[str, str]:
    """The header of HTTP's Basic scheme (RFC 7617)."""
    return {"authorization": f"Basic {base64.b64encode(f'{key}:{secret}'.encode()).decode()}"}
