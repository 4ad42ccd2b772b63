"""Reading and adding sealed credentials."""

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
