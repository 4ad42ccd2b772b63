"""What can be bought, asked of the providers once an hour.

Answers are kept in Redis beyond their hour: where a provider cannot be asked, its last good answer is better than none. So
is the last one that this process has heard, where Redis is away too. A price that has changed meanwhile costs nobody
anything: a purchase whose amount is told differently is put before a person.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from pydantic import TypeAdapter, ValidationError

from payflow.core.clock import Clock
from payflow.core.errors import NotFound, Unavailable
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.gateway.contract import (
    AirtimeService,
    AirtimeVariation,
    Credentials,
    Declaration,
    LookupFailed,
    SellsAirtime,
    ServiceCategory,
)
from payflow.infra.redis import AWAY, Redis

log = get_logger(__name__)

FRESH = timedelta(hours=1)
KEPT_SECONDS = 7 * 86_400
SILENT = timedelta(seconds=10)  # how long a provider that could not be asked is left alone

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seller:
    """A configured provider that sells airtime."""

    name: str
    declaration: Declaration
    sells: SellsAirtime
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """An answer and when it was given."""

    asked_at: datetime
    items: list[T]


_SERVICES = TypeAdapter(Kept[AirtimeService])
_VARIATIONS = TypeAdapter(Kept[AirtimeVariation])


def no_such_service() -> NotFound:
    return NotFound("There is no such service.", code="unknown_service")


class Catalogue:
    def __init__(self, redis: Redis, clock: Clock, settings: Settings) -> None:
        self._redis = redis
        self._clock = clock
        self._prefix = settings.redis_prefix
        self._heard: dict[str, Kept[Any]] = {}
        self._silent_until: dict[str, datetime] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def services(self, seller: Seller, category: ServiceCategory) -> Sequence[AirtimeService]:
        """Unavailable."""
        key = f"{seller.name}:services:{category.value}"
        return await self._get(key, _SERVICES, lambda: seller.sells.services(category, seller.credentials))

    async def service(self, seller: Seller, service_id: str) -> AirtimeService | None:
        """One service of any category. Unavailable where it is in none that could be read, and not all could."""
        unread: Unavailable | None = None
        for category in ServiceCategory:
            try:
                services = await self.services(seller, category)
            except Unavailable as error:
                unread = error
                continue
            for service in services:
                if service.id == service_id:
                    return service
        if unread is not None:
            raise unread
        return None

    async def variations(self, seller: Seller, service_id: str) -> Sequence[AirtimeVariation]:
        """NotFound where the provider says so, Unavailable. The provider is asked of services alone that it has named:
        whoever makes names up cannot make us ask."""
        if await self.service(seller, service_id) is None:
            raise no_such_service()
        key = f"{seller.name}:variations:{service_id}"
        return await self._get(key, _VARIATIONS, lambda: seller.sells.variations(service_id, seller.credentials))

    async def _get(
        self, key: str, adapter: TypeAdapter[Kept[T]], ask: Callable[[], Awaitable[Sequence[T]]]
    ) -> Sequence[T]:
        kept = await self._kept(key, adapter)
        if kept is not None and self._clock() < kept.asked_at + FRESH:
            return kept.items
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            return await self._asked(key, adapter, ask)

    async def _asked(
        self, key: str, adapter: TypeAdapter[Kept[T]], ask: Callable[[], Awaitable[Sequence[T]]]
    ) -> Sequence[T]:
        """One question at a time: who waited finds the answer that the one before it got."""
        now = self._clock()
        kept = await self._kept(key, adapter)
        if kept is not None and now < kept.asked_at + FRESH:
            return kept.items
        if now >= self._silent_until.get(key, now):
            try:
                fresh = Kept(now, list(await ask()))
            except LookupFailed as error:
                if error.failure is not None and error.failure.code == "unknown_service":
                    raise no_such_service() from None
                self._silent_until[key] = now + SILENT
                log.warning("airtime.lookup_failed", key=key, failure=error.failure.code if error.failure else None)
            except Exception:
                self._silent_until[key] = now + SILENT
                log.exception("airtime.adapter_failed", key=key)
            else:
                await self._keep(key, adapter, fresh)
                return fresh.items
        last = kept or self._heard.get(key)
        if last is None:
            raise Unavailable(
                "The provider cannot say at the moment what it sells.",
                code="catalogue_unavailable",
                retry_after=int(SILENT.total_seconds()),
            )
        return last.items

    async def _kept(self, key: str, adapter: TypeAdapter[Kept[T]]) -> Kept[T] | None:
        try:
            value: bytes | None = await self._redis.get(self._key(key))  # type: ignore[assignment]
        except AWAY:
            return None
        if value is None:
            return None
        try:
            return adapter.validate_json(value)
        except ValidationError:  # of another version of ours
            return None

    async def _keep(self, key: str, adapter: TypeAdapter[Kept[T]], fresh: Kept[T]) -> None:
        self._silent_until.pop(key, None)
        self._heard[key] = fresh
        try:
            await self._redis.set(self._key(key), adapter.dump_json(fresh), ex=KEPT_SECONDS)
        except AWAY as error:
            log.warning("airtime.not_kept", key=key, error=type(error).__name__)

    def _key(self, key: str) -> str:
        return f"{self._prefix}airtime:{key}"
