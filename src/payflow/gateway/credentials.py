"""Where an adapter's credentials come from: sealed, the database, or else the environment. Never shown again, never logged.

`CredentialsSource` is what the use cases see. A change in the database reaches every node within `REFRESH_SECONDS`. A row is
bound to its id, its provider and the key that sealed it: copied elsewhere, it opens nothing.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import orjson
from pydantic import BaseModel, SecretStr, ValidationError

from payflow.core.crypto import Keyring, SealBroken
from payflow.core.errors import Conflict
from payflow.core.ids import uuid7
from payflow.core.logging import get_logger
from payflow.gateway.contract import Provider
from payflow.gateway.repository import ProviderConfigRepository
from payflow.infra.database import DatabaseAway, RawConnection

log = get_logger(__name__)

REFRESH_SECONDS = 5.0
SEALING_PURPOSE = "provider-credentials"
UNNAMED_KEY = "k1"  # rows from before keys had ids


@dataclass(frozen=True, slots=True)
class CredentialSet:
    """The present credentials, and before them those that webhooks may still be signed with."""

    current: BaseModel = field(repr=False)
    previous: tuple[BaseModel, ...] = field(default=(), repr=False)

    @property
    def all(self) -> tuple[BaseModel, ...]:
        return (self.current, *self.previous)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a row holds. `alone` says that whatever came before, the environment too, proves nothing any more."""

    values: Mapping[str, Any] = field(repr=False)
    alone: bool = False


class Seals:
    """How a row of `provider_configs` is sealed."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    @property
    def key_id(self) -> str:
        """Of the key that seals."""
        return self._keys.current_id

    def seal(self, provider: str, identity: UUID, stored: Stored) -> bytes:
        plain = orjson.dumps({"values": stored.values, "alone": stored.alone})
        return self._keys.seal(plain, _context(provider, identity))

    def open(self, row: Mapping[str, Any]) -> Stored:
        """SealBroken when it was altered, copied from elsewhere, or sealed with a key that is not held."""
        context, sealed = _context(row["provider"], row["id"]), bytes(row["sealed"])
        if row["key_id"] == UNNAMED_KEY:
            return Stored(orjson.loads(self._keys.unseal_without_id(sealed, context)))
        return Stored(**orjson.loads(self._keys.unseal(row["key_id"], sealed, context)))


def _context(provider: str, identity: UUID) -> str:
    return f"provider_configs.sealed:{provider}:{identity}"


class CredentialsSource(Protocol):
    async def get(self, provider: str) -> CredentialSet | None:
        """None when the provider is not configured."""
        ...


def plain(credentials: BaseModel) -> dict[str, Any]:
    """The values with their secrets opened: only to be sealed."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in credentials.model_dump().items()
    }


class SealedCredentials:
    """Database first, then environment. Fails over to what it knew when the database is away."""

    def __init__(
        self,
        repository: ProviderConfigRepository,
        providers: Mapping[str, Provider],
        environment: Mapping[str, Mapping[str, SecretStr]],
        *,
        keys: Keyring,
    ) -> None:
        self._repository = repository
        self._providers = providers
        self._seals = Seals(keys)
        self._environment = {
            name: providers[name].CredentialsModel.model_validate(
                {field: value.get_secret_value() for field, value in values.items()}
            )
            for name, values in environment.items()
            if name in providers and any(value.get_secret_value() for value in values.values())
        }
        self._known: dict[str, CredentialSet] | None = None
        self._opened: dict[UUID, BaseModel] = {}  # what rows held when they could be opened last
        self._read_at = float("-inf")
        self._first_read = asyncio.Lock()

    @property
    def environment(self) -> Mapping[str, BaseModel]:
        """Those that came from the settings, by provider."""
        return dict(self._environment)

    async def get(self, provider: str) -> CredentialSet | None:
        if self._known is None:
            # Who comes while nothing was read yet waits: "not read" must not pass for "not configured".
            async with self._first_read:
                if self._known is None:
                    await self._refresh()
        elif time.monotonic() - self._read_at > REFRESH_SECONDS:
            await self._refresh()
        return (self._known or {}).get(provider)

    async def add(self, connection: RawConnection, provider: str, credentials: BaseModel, created_by: UUID) -> UUID:
        """Seal and store new credentials in the caller's transaction; call `forget` after its commit."""
        # The id is made under the lock: the newest id counts, so it must be that of the last change.
        await self._repository.lock(connection, provider)
        identity = uuid7()
        sealed = self._seals.seal(provider, identity, Stored(plain(credentials)))
        await self._repository.add(connection, identity, provider, self._seals.key_id, sealed, created_by)
        return identity

    async def retire(self, connection: RawConnection, provider: str) -> int:
        """From now on only the present credentials prove a webhook: the stored ones before them are deleted, those of the
        environment no longer count. How many these were. In the caller's transaction; call `forget` after its commit.
        """
        await self._repository.lock(connection, provider)
        rows = await self._repository.of_provider(connection, provider)
        if not rows:
            return 0  # those of the environment are the present ones
        try:
            stored = self._seals.open(rows[0])
        except SealBroken:
            raise Conflict("The newest credentials cannot be opened with the keys of this installation.") from None
        from_environment = provider in self._environment and not stored.alone and len(rows) == 1
        identity = rows[0]["id"]
        sealed = self._seals.seal(provider, identity, Stored(stored.values, alone=True))
        await self._repository.replace(connection, rows[0], self._seals.key_id, sealed)
        return await self._repository.delete_before(connection, provider, identity) + int(from_environment)

    def forget(self) -> None:
        """Read again at the next use."""
        self._read_at = float("-inf")

    async def _refresh(self) -> None:
        # Set first: while one task reads, the others go on with what is known.
        self._read_at = time.monotonic()
        try:
            rows = await self._repository.newest()
        except DatabaseAway:
            if self._known is None:
                self._known = {name: CredentialSet(value) for name, value in self._environment.items()}
            return
        by_provider: dict[str, list[Mapping[str, Any]]] = {name: [] for name in self._environment}
        for row in rows:
            by_provider.setdefault(row["provider"], []).append(row)
        found = {name: self._read(name, own) for name, own in by_provider.items() if name in self._providers}
        self._known = {name: CredentialSet(models[0], tuple(models[1:])) for name, models in found.items() if models}

    def _read(self, name: str, rows: Sequence[Mapping[str, Any]]) -> list[BaseModel]:
        """The present credentials and those before them: one row more, or, behind a single row, the environment. What a row
        that cannot be opened says of the environment is not known: it may have been retired, and then must not come back."""
        models: list[BaseModel] = []
        alone = environment_retired = False
        for row in rows:
            if alone:
                break
            try:
                model, alone = self._open(row)
            except SealBroken:
                log.error("credentials.seal_broken", provider=row["provider"], config_id=str(row["id"]))
                # Sealed anew under a key that this node is not given yet: what it holds is the same.
                model, environment_retired = self._opened.get(row["id"]), True
            if model is not None:
                models.append(model)
                self._opened[row["id"]] = model
        environment = self._environment.get(name)
        retired = alone or environment_retired
        if environment is not None and not retired and (not models or len(rows) == 1):
            models.append(environment)
        return models

    def _open(self, row: Mapping[str, Any]) -> tuple[BaseModel | None, bool]:
        """What the row holds, and whether that stands alone. SealBroken when it is not what this installation sealed. None,
        and a line in the log, for what the adapter of today does not take. One bad row must not keep the other providers
        from their credentials."""
        stored = self._seals.open(row)
        try:
            return self._providers[row["provider"]].CredentialsModel.model_validate(stored.values), stored.alone
        except ValidationError:
            log.error("credentials.not_accepted", provider=row["provider"], config_id=str(row["id"]))
            return None, stored.alone
