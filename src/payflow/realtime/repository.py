"""What sockets read: how a transaction stands, and the parts of the log that nobody else asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from payflow.events.repository import COLUMNS, from_row
from payflow.events.types import Event
from payflow.infra.database import Database


@dataclass(frozen=True, slots=True)
class Watched:
    """A transaction as a snapshot tells it. `sequence` is that of its last event."""

    id: UUID
    user_id: UUID
    kind: str
    reference: str
    status: str
    sequence: int
    amount_minor: int
    currency: str
    provider: str | None
    next_action: Any
    checkout_url: str | None
    failure_code: str | None
    failure_message: str | None
    updated_at: datetime
    ended_at: datetime | None


class RealtimeRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def transaction(self, transaction_id: UUID) -> Watched | None:
        async with self._database.raw() as connection:
            row = await connection.fetchrow(
                """
                SELECT id, user_id, kind, reference, status, version AS sequence, amount_minor, currency, provider,
                    next_action, checkout_url, failure_code, failure_message, updated_at, ended_at
                FROM transactions WHERE id = $1
                """,
                transaction_id,
            )
        return None if row is None else Watched(**{**row, "next_action": row["next_action"]})

    async def wallet_movement(self, reference: str) -> UUID | None:
        """The transaction with this reference, if it is one that moves money of a wallet."""
        async with self._database.raw() as connection:
            found: UUID | None = await connection.fetchval(
                "SELECT id FROM transactions WHERE reference = $1 AND kind <> 'payment'", reference
            )
        return found

    async def ended_at(self, transaction_ids: Sequence[UUID]) -> dict[UUID, datetime | None]:
        """When each of these transactions ended, None for those that have not."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                "SELECT id, ended_at FROM transactions WHERE id = ANY($1::uuid[])", list(transaction_ids)
            )
        return {row["id"]: row["ended_at"] for row in rows}

    async def user_exists(self, user_id: UUID) -> bool:
        async with self._database.raw() as connection:
            return bool(await connection.fetchval("SELECT true FROM users WHERE id = $1", user_id))

    async def last_event_id(self, user_id: UUID) -> UUID | None:
        async with self._database.raw() as connection:
            found: UUID | None = await connection.fetchval(
                "SELECT id FROM events WHERE user_id = $1 ORDER BY id DESC LIMIT 1", user_id
            )
        return found

    async def of_user(self, user_id: UUID, *, after: UUID, limit: int) -> list[Event]:
        """The events of one user behind `after`, in order of their ids."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                f"SELECT {COLUMNS} FROM events WHERE user_id = $1 AND id > $2 ORDER BY id LIMIT $3",
                user_id,
                after,
                limit,
            )
        return [from_row(row) for row in rows]

    async def ids_of_users(self, users: Sequence[UUID], *, after: UUID, limit: int) -> list[tuple[UUID, UUID]]:
        """(user, event id) of all these users behind `after`, in order of the ids. Answered from the index alone."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                "SELECT user_id, id FROM events WHERE user_id = ANY($1::uuid[]) AND id > $2 ORDER BY id LIMIT $3",
                list(users),
                after,
                limit,
            )
        return [(row["user_id"], row["id"]) for row in rows]

    async def events(self, ids: Sequence[UUID]) -> list[Event]:
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                f"SELECT {COLUMNS} FROM events WHERE id = ANY($1::uuid[]) ORDER BY id", list(ids)
            )
        return [from_row(row) for row in rows]
