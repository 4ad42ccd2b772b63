"""Reading the log, and writing the events that belong to no transaction (those of a transaction are written with its move)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from payflow.events.types import Actor, Event, Origin
from payflow.infra.database import Database, RawConnection, dumps

COLUMNS = "id, transaction_id, user_id, sequence, type, status, data, actor, ip_address, user_agent, correlation_id, created_at"

# $1..$12 are arrays, one element an event. Composed into the statements that move transactions.
INSERT_MANY = f"""
    INSERT INTO events ({COLUMNS})
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::text[], $7::jsonb[],
                         $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[])
"""


def parameters(events: Sequence[Event]) -> list[list[Any]]:
    """The twelve arrays of `INSERT_MANY`."""
    return [
        [event.id for event in events],
        [event.transaction_id for event in events],
        [event.user_id for event in events],
        [event.sequence for event in events],
        [event.type for event in events],
        [event.status for event in events],
        [dumps(event.data) for event in events],
        [event.origin.actor.value for event in events],
        [event.origin.ip_address for event in events],
        [event.origin.user_agent for event in events],
        [event.origin.correlation_id for event in events],
        [event.created_at for event in events],
    ]


def from_row(row: Mapping[str, Any]) -> Event:
    return Event(
        id=row["id"],
        type=row["type"],
        created_at=row["created_at"],
        user_id=row["user_id"],
        transaction_id=row["transaction_id"],
        sequence=row["sequence"],
        status=row["status"],
        data=row["data"],
        origin=Origin(Actor(row["actor"]), row["ip_address"], row["user_agent"], row["correlation_id"]),
    )


class EventRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, events: Sequence[Event], connection: RawConnection | None = None) -> None:
        """Append events, in the caller's transaction when a connection is given."""
        if connection is not None:
            await connection.execute(INSERT_MANY, *parameters(events))
            return
        async with self._database.raw() as own:
            await own.execute(INSERT_MANY, *parameters(events))

    async def of_transaction(
        self, transaction_id: UUID, *, after: int = 0, limit: int = 1_000, connection: RawConnection | None = None
    ) -> list[Event]:
        """The history of one transaction in order of `sequence`, from the one after `after`."""
        query = f"SELECT {COLUMNS} FROM events WHERE transaction_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3"
        if connection is not None:
            return [from_row(row) for row in await connection.fetch(query, transaction_id, after, limit)]
        async with self._database.raw() as own:
            return [from_row(row) for row in await own.fetch(query, transaction_id, after, limit)]

    async def page(self, user_id: UUID | None, type: str | None, before: UUID | None, limit: int) -> list[Event]:
        """Newest first, one more than `limit` to know whether more follow. `user_id` None: everybody's."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                f"""
                SELECT {COLUMNS} FROM events
                WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR type = $2)
                  AND ($3::uuid IS NULL OR id < $3)
                ORDER BY id DESC LIMIT $4
                """,
                user_id,
                type,
                before,
                limit + 1,
            )
        return [from_row(row) for row in rows]

    async def missing(self, seen: Mapping[UUID, int], *, limit: int = 5_000) -> list[Event]:
        """For many transactions at once: every event after the sequence last seen of each. One query."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                f"""
                SELECT {", ".join("e." + column.strip() for column in COLUMNS.split(","))}
                FROM unnest($1::uuid[], $2::int[]) AS seen (transaction_id, sequence)
                JOIN events e ON e.transaction_id = seen.transaction_id AND e.sequence > seen.sequence
                ORDER BY e.transaction_id, e.sequence LIMIT $3
                """,
                list(seen.keys()),
                list(seen.values()),
                limit,
            )
        return [from_row(row) for row in rows]

    async def of_users(self, users: Sequence[UUID], *, since: datetime, limit: int = 5_000) -> list[Event]:
        """Every event of these users since a moment, oldest first (ids are time-ordered)."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                f"""
                SELECT {COLUMNS} FROM events
                WHERE user_id = ANY($1::uuid[]) AND id >= $2::uuid ORDER BY id LIMIT $3
                """,
                list(users),
                first_id_at(since),
                limit,
            )
        return [from_row(row) for row in rows]


def first_id_at(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a millisecond: where a time begins in the log."""
    return UUID(int=max(int(moment.timestamp() * 1000), 0) << 80)
