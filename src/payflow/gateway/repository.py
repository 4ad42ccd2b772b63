"""Sealed credentials, and which providers are drained."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from payflow.infra.database import Database, RawConnection


class ProviderConfigRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, per_provider: int = 2) -> list[Mapping[str, Any]]:
        """The newest rows of every provider, newest first: (id, provider, key_id, sealed, created_at)."""
        async with self._database.raw() as connection:
            rows: list[Mapping[str, Any]] = await connection.fetch(
                """
                SELECT id, provider, key_id, sealed, created_at FROM (
                    SELECT *, row_number() OVER (PARTITION BY provider ORDER BY id DESC) AS place FROM provider_configs
                ) ranked WHERE place <= $1 ORDER BY provider, id DESC
                """,
                per_provider,
            )
        return rows

    async def add(
        self, connection: RawConnection, identity: UUID, provider: str, key_id: str, sealed: bytes, created_by: UUID
    ) -> None:
        await connection.execute(
            "INSERT INTO provider_configs (id, provider, key_id, sealed, created_by) VALUES ($1, $2, $3, $4, $5)",
            identity,
            provider,
            key_id,
            sealed,
            created_by,
        )


class ProviderStateRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def drained(self) -> list[str]:
        async with self._database.raw() as connection:
            rows = await connection.fetch("SELECT provider FROM provider_states WHERE drained")
        return [row["provider"] for row in rows]

    async def set(
        self, connection: RawConnection, provider: str, drained: bool, reason: str | None, changed_by: UUID
    ) -> None:
        await connection.execute(
            """
            INSERT INTO provider_states (provider, drained, reason, changed_by) VALUES ($1, $2, $3, $4)
            ON CONFLICT (provider) DO UPDATE SET drained = excluded.drained, reason = excluded.reason,
                changed_by = excluded.changed_by, changed_at = now()
            """,
            provider,
            drained,
            reason,
            changed_by,
        )
