"""What each process remembers of the database, so that authenticating asks it at most once every few seconds.

The price is a delay: a logout, a disabled user or a revoked key is refused at once by the process that was told, and by
every other within FRESH_SECONDS and the time of one query.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from datetime import datetime, timedelta
from typing import Generic, TypeVar
from uuid import UUID

from payflow.core.clock import Clock
from payflow.infra.database import DatabaseAway

FRESH_SECONDS = 4.0
# For so long an old list is better than none: while PostgreSQL restarts, open sockets stay open.
_STALE_SECONDS = 60.0

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Revocations:
    """The families revoked and users disabled during the life of an access token: few, whatever the number of users.

    `load(since)` returns their ids. One load runs at a time and everybody waits for its answer.
    """

    def __init__(self, load: Callable[[datetime], Awaitable[set[UUID]]], clock: Clock, token_seconds: int) -> None:
        self._load = load
        self._clock = clock
        # A minute more, for clocks of other nodes.
        self._window = timedelta(seconds=token_seconds + 60)
        self._revoked: set[UUID] = set()
        self._loaded_at: datetime | None = None
        self._loading: asyncio.Task[None] | None = None

    async def contain(self, family_id: UUID, user_id: UUID) -> bool:
        """DatabaseAway when nothing was learnt for a minute."""
        loaded_at = self._loaded_at
        if loaded_at is None or (self._clock() - loaded_at).total_seconds() >= FRESH_SECONDS:
            await self._refresh()
        return family_id in self._revoked or user_id in self._revoked

    def add(self, revoked_id: UUID) -> None:
        """Effective at once in this process."""
        self._revoked.add(revoked_id)

    async def _refresh(self) -> None:
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._reload())
        try:
            # Shielded: a caller that goes away must not fail the others.
            await asyncio.shield(self._loading)
        except DatabaseAway:
            if self._loaded_at is None or (self._clock() - self._loaded_at).total_seconds() >= _STALE_SECONDS:
                raise

    async def _reload(self) -> None:
        now = self._clock()
        before = self._revoked
        # What is added while the query runs may be missing in its answer.
        self._revoked = set(before)
        loaded = await self._load(now - self._window)
        self._revoked = loaded | (self._revoked - before)
        self._loaded_at = now


class FreshCache(Generic[K, V]):
    """Values no older than FRESH_SECONDS; a missing one is loaded once, however many wait for it."""

    def __init__(self, clock: Clock, most: int = 10_000) -> None:
        self._clock = clock
        self._most = most
        self._values: dict[K, tuple[V, datetime]] = {}
        self._loading: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        found = self._values.get(key)
        if found is not None and (self._clock() - found[1]).total_seconds() < FRESH_SECONDS:
            return found[0]
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(key, load))
        return await asyncio.shield(task)

    def discard(self, key: K) -> None:
        self._values.pop(key, None)

    def forget(self, condition: Callable[[V], bool]) -> None:
        self._values = {key: entry for key, entry in self._values.items() if not condition(entry[0])}

    async def _load(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        now = self._clock()
        try:
            value = await load()
        finally:
            self._loading.pop(key, None)
        if len(self._values) >= self._most:
            self._values.clear()
        self._values[key] = (value, now)
        return value
