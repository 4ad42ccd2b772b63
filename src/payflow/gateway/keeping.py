"""What an operator does with stored credentials: seals them anew under the current key, and takes over the environment's.

Both can be broken off and run again: a row is sealed anew in a transaction of its own, or is as it was.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from payflow.core.clock import Clock
from payflow.core.crypto import SealBroken
from payflow.core.ids import uuid7
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.credentials import SealedCredentials, Seals
from payflow.gateway.repository import ProviderConfigRepository
from payflow.infra.database import Database, RawConnection


class Resealed(StrEnum):
    CURRENT = "is under the current key"
    DONE = "sealed anew"
    DUE = "would be sealed anew"
    CHANGED = "changed or deleted meanwhile"
    BROKEN = "cannot be opened with these keys"


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one row: `number` of `total`."""

    number: int
    total: int
    provider: str
    config_id: UUID
    key_id: str
    outcome: Resealed


class CredentialKeeping:
    def __init__(
        self,
        database: Database,
        configs: ProviderConfigRepository,
        credentials: SealedCredentials,
        seals: Seals,
        events: EventRepository,
        clock: Clock,
    ) -> None:
        self._database = database
        self._configs = configs
        self._credentials = credentials
        self._seals = seals
        self._events = events
        self._clock = clock

    @property
    def key_id(self) -> str:
        """Of the current key."""
        return self._seals.key_id

    async def reseal(self, *, dry_run: bool = False) -> AsyncIterator[Step]:
        """Seal every row under the current key, also those of providers that are not installed here."""
        rows = await self._configs.all()
        for number, row in enumerate(rows, start=1):
            outcome = await self._reseal(row, dry_run)
            yield Step(number, len(rows), row["provider"], row["id"], row["key_id"], outcome)

    async def _reseal(self, row: Mapping[str, Any], dry_run: bool) -> Resealed:
        try:
            stored = self._seals.open(row)
        except SealBroken:
            return Resealed.BROKEN
        if row["key_id"] == self.key_id:
            return Resealed.CURRENT
        if dry_run:
            return Resealed.DUE
        sealed = self._seals.seal(row["provider"], row["id"], stored)
        data = {"provider": row["provider"], "config_id": str(row["id"]), "key_id": self.key_id}

        async def work(connection: RawConnection) -> bool:
            replaced = await self._configs.replace(connection, row, self.key_id, sealed)
            if replaced:
                await self._events.add([self._changed(None, data)], connection)
            return replaced

        return Resealed.DONE if await self._database.in_transaction(work) else Resealed.CHANGED

    async def import_environment(self, by: UUID) -> Mapping[str, UUID | None]:
        """Store the environment's credentials of each provider that has none stored. By provider: the new row, or None
        where something was stored already, which is left alone."""
        return {name: await self._import(name, by) for name in sorted(self._credentials.environment)}

    async def _import(self, name: str, by: UUID) -> UUID | None:
        values = self._credentials.environment[name]
        data = {"provider": name, "fields": sorted(values.model_fields_set), "source": "environment"}

        async def work(connection: RawConnection) -> UUID | None:
            await self._configs.lock(connection, name)
            if await self._configs.of_provider(connection, name):
                return None
            identity = await self._credentials.add(connection, name, values, by)
            await self._events.add([self._changed(by, data)], connection)
            return identity

        imported = await self._database.in_transaction(work)
        self._credentials.forget()
        return imported

    def _changed(self, by: UUID | None, data: Mapping[str, Any]) -> Event:
        origin = Origin(Actor.SYSTEM if by is None else Actor.USER)
        return Event(uuid7(), "config.changed", self._clock(), user_id=by, data=data, origin=origin)
