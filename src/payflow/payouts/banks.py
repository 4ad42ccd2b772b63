"""Where money can be sent to, and whose account it is: questions that move nothing."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import orjson

from payflow.core.errors import FieldError, Invalid, Unavailable
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.gateway.contract import AccountHolder, Destination, LookupFailed
from payflow.gateway.registry import Registry
from payflow.infra.redis import AWAY, Redis

log = get_logger(__name__)

KEPT_SECONDS = 86_400
RETRY_SECONDS = 10

T = TypeVar("T")


class Banks:
    def __init__(self, registry: Registry, redis: Redis, settings: Settings) -> None:
        self._registry = registry
        self._redis = redis
        self._prefix = settings.redis_prefix
        self._seconds = settings.provider_timeout_seconds * 2  # a list may come in pages

    async def list(self, currency: str, named: str | None) -> dict[str, Any]:
        """The body of `BankList`, from the cache for a day. Invalid when nobody lists this currency; Unavailable."""
        lister = await self._registry.bank_lister(currency, named)
        key = f"{self._prefix}banks:{lister.name}:{currency}"
        rows = await self._cached(key)
        if rows is None:
            found = await self._asked(
                lister.name, lister.lists.banks(currency, lister.credentials.current), "/query/currency"
            )
            rows = [{"code": bank.code, "name": bank.name, "type": bank.type.value} for bank in found]
            if rows:
                await self._keep(key, rows)
        return {"provider": lister.name, "currency": currency, "data": rows}

    async def holder(self, destination: Destination, currency: str, named: str | None) -> tuple[str, AccountHolder]:
        """Who is asked, and what they say. Invalid with the provider's reason; Unavailable."""
        lister = await self._registry.bank_lister(currency, named)
        question = lister.lists.resolve_account(destination, lister.credentials.current)
        return lister.name, await self._asked(lister.name, question, "/body/account_number")

    async def _asked(self, provider: str, question: Awaitable[T], pointer: str) -> T:
        try:
            async with asyncio.timeout(self._seconds):
                return await question
        except LookupFailed as error:
            if error.failure is not None:
                reason = error.failure.message
                raise Invalid(reason, code="lookup_failed", errors=[FieldError(pointer, reason)]) from None
        except TimeoutError:
            pass
        except Exception:
            log.exception("lookup.adapter_failed", provider=provider)
        raise Unavailable(
            "The provider gives no answer at the moment.", code="provider_unavailable", retry_after=RETRY_SECONDS
        )

    async def _cached(self, key: str) -> Sequence[dict[str, Any]] | None:
        try:
            value: bytes | None = await self._redis.get(key)  # type: ignore[assignment]
        except AWAY:
            return None
        rows: Sequence[dict[str, Any]] | None = None if value is None else orjson.loads(value)
        return rows

    async def _keep(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        try:
            await self._redis.set(key, orjson.dumps(rows), ex=KEPT_SECONDS)
        except AWAY:
            log.warning("banks.not_kept", key=key)
