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

    async def all(self) -> list[Mapping[str, Any]]:
        """Every row, the oldest first."""
        async with self._database.raw() as connection:
            rows: list[Mapping[str, Any]] = await connection.fetch(
                "SELECT id, provider, key_id, sealed FROM provider_configs ORDER BY id"
            )
        return rows

    async def of_provider(self, connection: RawConnection, provider: str) -> list[Mapping[str, Any]]:
        """A provider's rows, the newest first, kept from others until the transaction ends."""
        rows: list[Mapping[str, Any]] = await connection.fetch(
            "SELECT id, provider, key_id, sealed FROM provider_configs WHERE provider = $1 ORDER BY id DESC FOR UPDATE",
            provider,
        )
        return rows

    async def lock(self, connection: RawConnection, provider: str) -> None:
        """Who changes a provider's rows is alone with them until its transaction ends, also while there are none."""
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('provider_configs:' || $1, 0))", provider
        )

    async def replace(self, connection: RawConnection, row: Mapping[str, Any], key_id: str, sealed: bytes) -> bool:
        """Seal the row anew. False when it was changed or deleted since it was read."""
        done = await connection.execute(
            "UPDATE provider_configs SET key_id = $3, sealed = $4 WHERE id = $1 AND sealed = $2",
            row["id"],
            row["sealed"],
            key_id,
            sealed,
        )
        return bool(done == "UPDATE 1")

    async def delete_before(self, connection: RawConnection, provider: str, identity: UUID) -> int:
        """Delete a provider's rows older than this one; how many they were."""
        done: str = await connection.execute(
            "DELETE FROM provider_configs WHERE provider = $1 AND id < $2", provider, identity
        )
        return int(done.split()[-1])

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
