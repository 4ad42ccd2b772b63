"""The statement that begins the work on a batch of webhooks: remember what is new, keep the bodies, lock the transactions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from payflow.infra.database import Database, RawConnection
from payflow.transactions.aggregate import Unit
from payflow.transactions.repository import lock_sql, units_from


@dataclass(frozen=True, slots=True)
class Seen:
    """One event of a webhook. Without a dedupe key it is not remembered: each time it is worked on anew."""

    provider: str
    dedupe_key: str | None
    type: str
    message_id: UUID
    attempt_id: UUID | None
    reference: str | None
    news_only: bool
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Body:
    message_id: UUID
    provider: str
    body: bytes
    received_at: datetime


def _keep_sql(first: int) -> str:
    """Raw bodies, each once; the four arrays are parameters from `first` on, in the same order for everyone: who brings a
    message again may meet who is still working on it."""
    arrays = zip(range(first, first + 4), ("uuid", "text", "bytea", "timestamptz"), strict=True)
    return f"""
        INSERT INTO webhook_bodies (message_id, provider, body, received_at)
        SELECT * FROM unnest({", ".join(f"${number}::{kind}[]" for number, kind in arrays)}) ON CONFLICT DO NOTHING
    """


# An event that belongs to no attempt (yet) is not remembered, so that its retry is not taken for a duplicate.
# The lock waits for the insert (its count is asked for first): keys before transactions, the same order for everyone.
_BEGIN = f"""
    WITH fresh AS (
        INSERT INTO webhook_events (provider, dedupe_key, type, message_id, transaction_id, outcome, received_at, processed_at)
        SELECT u.provider, u.dedupe_key, u.type, u.message_id, a.transaction_id,
               CASE WHEN u.news_only THEN 'ignored' ELSE 'settled' END, u.received_at, $15
        FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::text[], $7::bool[], $8::timestamptz[])
             AS u (provider, dedupe_key, type, message_id, attempt_id, reference, news_only, received_at)
        LEFT JOIN attempts a ON a.id = u.attempt_id OR (u.attempt_id IS NULL AND a.reference = u.reference)
        WHERE u.news_only OR a.id IS NOT NULL
        ORDER BY u.provider, u.dedupe_key
        ON CONFLICT DO NOTHING RETURNING provider, dedupe_key
    ), kept AS (
        {_keep_sql(9)}
    ), locked AS (
        {lock_sql(13, 14, "(SELECT count(*) FROM fresh) >= 0")}
    )
    SELECT locked.*, (SELECT array_agg(provider || ' ' || dedupe_key) FROM fresh) AS fresh_keys
    FROM (SELECT 1) one LEFT JOIN locked ON true
"""


def _body_columns(bodies: Sequence[Body]) -> list[list[Any]]:
    bodies = sorted(bodies, key=lambda body: body.message_id)
    return [
        [body.message_id for body in bodies],
        [body.provider for body in bodies],
        [body.body for body in bodies],
        [body.received_at for body in bodies],
    ]


async def keep(connection: RawConnection, bodies: Sequence[Body]) -> None:
    """Keep raw bodies of messages that are not worked on by `begin`."""
    await connection.execute(_keep_sql(1), *_body_columns(bodies))


async def begin(
    connection: RawConnection, seen: Sequence[Seen], bodies: Sequence[Body], now: datetime
) -> tuple[dict[UUID, Unit], set[tuple[str, str]]]:
    """Lock the transactions of these events. Gives them by id, and the (provider, dedupe key) that were new."""
    keyed = [event for event in seen if event.dedupe_key is not None]
    rows = await connection.fetch(
        _BEGIN,
        [event.provider for event in keyed],
        [event.dedupe_key for event in keyed],
        [event.type for event in keyed],
        [event.message_id for event in keyed],
        [event.attempt_id for event in keyed],
        [event.reference for event in keyed],
        [event.news_only for event in keyed],
        [event.received_at for event in keyed],
        *_body_columns(bodies),
        [event.attempt_id for event in seen if event.attempt_id is not None],
        [event.reference for event in seen if event.attempt_id is None and event.reference is not None],
        now,
    )
    fresh: set[tuple[str, str]] = set()
    for key in rows[0]["fresh_keys"] or ():
        provider, _, dedupe_key = key.partition(" ")
        fresh.add((provider, dedupe_key))
    return units_from([row for row in rows if row["id"] is not None]), fresh


async def remember(connection: RawConnection, seen: Seen, now: datetime) -> bool:
    """Remember one event in the caller's transaction; False when it is remembered already. Who comes second waits."""
    fresh = await connection.fetchval(
        """
        INSERT INTO webhook_events (provider, dedupe_key, type, message_id, outcome, received_at, processed_at)
        VALUES ($1, $2, $3, $4, 'settled', $5, $6) ON CONFLICT DO NOTHING RETURNING true
        """,
        seen.provider,
        seen.dedupe_key,
        seen.type,
        seen.message_id,
        seen.received_at,
        now,
    )
    return fresh is not None


async def remember_transaction(connection: RawConnection, seen: Seen, transaction_id: UUID) -> None:
    """What the remembered event led to, once that is written."""
    await connection.execute(
        "UPDATE webhook_events SET transaction_id = $3 WHERE provider = $1 AND dedupe_key = $2",
        seen.provider,
        seen.dedupe_key,
        transaction_id,
    )


class WebhookRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete_bodies(self, before: datetime, limit: int = 2_000) -> int:
        """Forget raw bodies whose time is over; how many went."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                """
                DELETE FROM webhook_bodies WHERE message_id IN (
                    SELECT message_id FROM webhook_bodies WHERE received_at < $1 LIMIT $2) RETURNING 1
                """,
                before,
                limit,
            )
        return len(rows)


BODY_RETENTION = timedelta(days=90)
