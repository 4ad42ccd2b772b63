"""Where an adapter's credentials come from: the environment, or, sealed, the database. Never shown again, never logged.

`CredentialsSource` is what the use cases see. A change in the database reaches every node within `REFRESH_SECONDS`.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import orjson
from pydantic import BaseModel, SecretStr

from payflow.core.crypto import SealBroken, derive_key, seal, unseal
from payflow.core.ids import uuid7
from payflow.core.logging import get_logger
from payflow.gateway.contract import Provider
from payflow.gateway.repository import ProviderConfigRepository
from payflow.infra.database import DatabaseAway, RawConnection

log = get_logger(__name__)

REFRESH_SECONDS = 5.0
KEY_ID = "k1"


@dataclass(frozen=True, slots=True)
class CredentialSet:
    """The present credentials, and before them those that webhooks may still be signed with."""

    current: BaseModel
    previous: tuple[BaseModel, ...] = ()

    @property
    def all(self) -> tuple[BaseModel, ...]:
        return (self.current, *self.previous)


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
        secret: str,
    ) -> None:
        self._repository = repository
        self._providers = providers
        self._key = derive_key(secret, "provider-credentials")
        self._environment = {
            name: providers[name].CredentialsModel.model_validate(
                {field: value.get_secret_value() for field, value in values.items()}
            )
            for name, values in environment.items()
            if name in providers and any(value.get_secret_value() for value in values.values())
        }
        self._known: dict[str, CredentialSet] | None = None
        self._read_at = float("-inf")
        self._first_read = asyncio.Lock()

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
        identity = uuid7()
        sealed = seal(self._key, orjson.dumps(plain(credentials)), self._context(provider, identity))
        await self._repository.add(connection, identity, provider, KEY_ID, sealed, created_by)
        return identity

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
        found: dict[str, list[BaseModel]] = {}
        for row in rows:
            opened = self._open(row)
            if opened is not None:
                found.setdefault(row["provider"], []).append(opened)
        for name, value in self._environment.items():
            found.setdefault(name, []).append(value)
        self._known = {name: CredentialSet(values[0], tuple(values[1:])) for name, values in found.items()}

    def _open(self, row: Mapping[str, Any]) -> BaseModel | None:
        provider = self._providers.get(row["provider"])
        if provider is None:
            return None
        try:
            values = unseal(self._key, bytes(row["sealed"]), self._context(row["provider"], row["id"]))
        except SealBroken:
            log.error("credentials.seal_broken", provider=row["provider"], config_id=str(row["id"]))
            return None
        return provider.CredentialsModel.model_validate(orjson.loads(values))

    def _context(self, provider: str, identity: UUID) -> str:
        return f"provider_configs.sealed:{provider}:{identity}"
