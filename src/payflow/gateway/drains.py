"""Providers that an administrator has drained: they take no new orders, while what they have runs to its end.

Every process asks the database at most once every REFRESH_SECONDS, so a change reaches all nodes within that time. Without
the database what was known last goes on: an old list of drained providers is better than none.
"""

import asyncio
import time
from contextlib import suppress
from uuid import UUID

from payflow.gateway.repository import ProviderStateRepository
from payflow.infra.database import DatabaseAway, RawConnection

REFRESH_SECONDS = 5.0


class Drains:
    def __init__(self, repository: ProviderStateRepository) -> None:
        self._repository = repository
        self._names: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._first_read = asyncio.Lock()
        self._changes = 0

    async def names(self) -> frozenset[str]:
        if self._read_at == float("-inf"):
            # Who comes while nothing was read yet waits: "not read" must not pass for "nobody is drained".
            async with self._first_read:
                if self._read_at == float("-inf"):
                    changes = self._changes
                    with suppress(DatabaseAway):
                        self._names = frozenset(await self._repository.drained())
                        # What was changed while it was read is read again.
                        self._read_at = time.monotonic() if self._changes == changes else self._read_at
        elif time.monotonic() - self._read_at > REFRESH_SECONDS:
            # Set first: while one task reads, the others go on with what is known.
            self._read_at = time.monotonic()
            with suppress(DatabaseAway):
                self._names = frozenset(await self._repository.drained())
        return self._names

    async def set(
        self, connection: RawConnection, provider: str, drained: bool, reason: str | None, changed_by: UUID
    ) -> None:
        """In the caller's transaction; call `forget` after its commit."""
        await self._repository.set(connection, provider, drained, reason, changed_by)

    def forget(self) -> None:
        """Read again at the next use."""
        self._changes += 1
        self._read_at = float("-inf")
