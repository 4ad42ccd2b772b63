"""Messages nobody could use: kept in PostgreSQL whichever queue they came from, listed, and replayed by a person.

The spool buries its dead here itself. RabbitMQ's arrive in a queue of its own, from which `drain_dead_letters` moves them:
acknowledged only after the commit, and stored once though they may come twice.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from payflow.core.errors import Conflict, Invalid, NotFound
from payflow.core.ids import uuid7
from payflow.core.logging import get_logger
from payflow.infra.database import Database, DatabaseAway, dumps, loads
from payflow.infra.queue.port import TOPICS, Consumer, Delivery, Message, Publisher, QueueAway, tidy_reason

log = get_logger(__name__)

_DRAIN_BATCH = 50
_DRAIN_PAUSE_SECONDS = 2.0

# As text, because whether a raw connection decodes jsonb depends on the codec SQLAlchemy has set on it.
_COLUMNS = "id, topic, message_id, body, headers::text AS headers, attempts, reason, dead_at, replayed_at, replayed_by"
# That it came again is kept, because it may be a replay that died before it was marked as one: see `replay`.
ONCE_MORE = "DO UPDATE SET dead_at = clock_timestamp()"
_INSERT = f"""
INSERT INTO dead_letters (id, topic, message_id, body, headers, attempts, reason)
SELECT DISTINCT ON (message_id) id, $2, message_id, body, headers::jsonb, attempts, reason
FROM unnest($1::uuid[], $3::text[], $4::bytea[], $5::text[], $6::int[], $7::text[])
    AS dead (id, message_id, body, headers, attempts, reason)
ON CONFLICT (topic, message_id) WHERE replayed_at IS NULL {ONCE_MORE}
"""
_LIST = f"""
SELECT {_COLUMNS} FROM dead_letters
WHERE ($1::text IS NULL OR topic = $1)
    AND ($2::uuid IS NULL OR id < $2)
    AND ($3::text IS NULL OR starts_with(reason, $3))
    AND ($4 OR replayed_at IS NULL)
    AND ($6::text IS NULL OR headers->>'provider' = $6)
ORDER BY id DESC LIMIT $5
"""
_MATCHING = f"""
SELECT {_COLUMNS} FROM dead_letters
WHERE topic = $1 AND replayed_at IS NULL AND dead_at < $2
    AND ($3::text IS NULL OR headers->>'provider' = $3)
    AND ($4::text IS NULL OR starts_with(reason, $4))
ORDER BY id LIMIT $5
"""
_MARK = """
UPDATE dead_letters SET replayed_at = now(), replayed_by = $2 WHERE id = $1 AND replayed_at IS NULL RETURNING dead_at
"""
_ANEW = """
INSERT INTO dead_letters (id, topic, message_id, body, headers, attempts, reason, dead_at)
SELECT $2, topic, message_id, body, headers, attempts, reason, dead_at FROM dead_letters WHERE id = $1
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    id: UUID
    topic: str
    message: Message
    reason: str
    dead_at: datetime
    replayed_at: datetime | None
    replayed_by: str | None


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Newest first. `next_cursor` is None on the last page."""

    items: tuple[DeadLetter, ...]
    next_cursor: str | None


class DeadLetterSource(Protocol):
    """A queue whose dead letters lie outside PostgreSQL."""

    def consume_dead_letters(self, topic: str, *, prefetch: int) -> AbstractAsyncContextManager[Consumer]: ...


class DeadLetters:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, topic: str, message: Message, reason: str) -> None:
        """Stored once, however often it is added before it is replayed. DatabaseAway."""
        await self._insert(topic, [(message, reason)])

    async def add_deliveries(self, topic: str, deliveries: Sequence[Delivery]) -> None:
        """`add` for each, in one statement; the reason is the delivery's own."""
        await self._insert(topic, [(delivery.message, delivery.reason) for delivery in deliveries])

    async def list(
        self,
        topic: str | None = None,
        *,
        limit: int = 50,
        cursor: str | None = None,
        provider: str | None = None,
        reason: str | None = None,
        include_replayed: bool = False,
    ) -> DeadLetterPage:
        """`reason` keeps those whose reason begins so; no topic means all. Invalid when the cursor is none of ours."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(_LIST, topic, _cursor(cursor), reason, include_replayed, limit + 1, provider)
        items = tuple(_dead_letter(row) for row in rows[:limit])
        return DeadLetterPage(items, str(items[-1].id) if len(rows) > limit else None)

    async def get(self, dead_letter_id: UUID) -> DeadLetter:
        """NotFound."""
        async with self._database.raw() as connection:
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM dead_letters WHERE id = $1",
                dead_letter_id,
            )
        if row is None:
            raise NotFound("There is no such dead letter.")
        return _dead_letter(row)

    async def replay(self, dead_letter_id: UUID, queue: Publisher, by: str) -> Message:
        """Publish it anew, with attempt 0, then mark it replayed by `by`. NotFound, Conflict when it was, QueueAway.

        In this order a crash between the two leaves it listed, and a second replay sends it twice: consumers bear that,
        while a message marked but never sent would be lost. One that has died again by the time it is marked is listed anew.
        """
        dead = await self.get(dead_letter_id)
        if dead.replayed_at is not None:
            raise Conflict("This dead letter has already been replayed.", code="already_replayed")
        message = Message(dead.message.id, dead.message.body, dead.message.headers)
        await queue.publish(dead.topic, message)
        async with self._database.transaction() as connection:
            died_at = await connection.fetchval(_MARK, dead_letter_id, by)
            if died_at is None:
                raise Conflict("Somebody else has replayed this dead letter.", code="already_replayed")
            if died_at != dead.dead_at:
                await connection.execute(_ANEW, dead_letter_id, uuid7())
        return message

    async def matching(
        self, topic: str, dead_before: datetime, *, provider: str | None, reason: str | None, limit: int
    ) -> tuple[Sequence[DeadLetter], bool]:
        """Those that were not replayed, oldest first, and whether there are more. `reason` is how theirs begins."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(_MATCHING, topic, dead_before, provider, reason, limit + 1)
        return [_dead_letter(row) for row in rows[:limit]], len(rows) > limit

    async def replay_each(self, letters: Sequence[DeadLetter], queue: Publisher, by: str) -> Sequence[DeadLetter]:
        """`replay` one after another; gives those that were. What somebody else replays meanwhile is left out, and where the
        queue goes away the rest stays listed. QueueAway when it is away from the first on."""
        done: list[DeadLetter] = []
        for letter in letters:
            try:
                await self.replay(letter.id, queue, by)
            except Conflict:
                continue
            except QueueAway:
                if not done:
                    raise
                break
            done.append(letter)
        return done

    async def count(self, topic: str | None = None) -> int:
        """How many wait to be replayed."""
        async with self._database.raw() as connection:
            return int(
                await connection.fetchval(
                    "SELECT count(*) FROM dead_letters WHERE ($1::text IS NULL OR topic = $1) AND replayed_at IS NULL",
                    topic,
                )
            )

    async def _insert(self, topic: str, dead: Sequence[tuple[Message, str]]) -> None:
        async with self._database.raw() as connection:
            await connection.execute(
                _INSERT,
                [uuid7() for _ in dead],
                topic,
                [_without_nul(message.id) for message, _ in dead],
                [message.body for message, _ in dead],
                [_headers(message) for message, _ in dead],
                [message.attempt for message, _ in dead],
                [tidy_reason(reason) for _, reason in dead],
            )


async def drain_dead_letters(
    queue: DeadLetterSource, dead_letters: DeadLetters, topics: Sequence[str] = TOPICS
) -> None:
    """Move dead letters into the table until cancelled."""
    async with asyncio.TaskGroup() as group:
        for topic in topics:
            group.create_task(_drain(queue, dead_letters, topic))


async def _drain(queue: DeadLetterSource, dead_letters: DeadLetters, topic: str) -> None:
    async with queue.consume_dead_letters(topic, prefetch=2 * _DRAIN_BATCH) as consumer:
        while True:
            batch = await consumer.batch(_DRAIN_BATCH)
            await _store(consumer, dead_letters, topic, batch)


async def _store(consumer: Consumer, dead_letters: DeadLetters, topic: str, batch: Sequence[Delivery]) -> None:
    """Kept in hand while PostgreSQL is away: giving them back would only bring them again at once."""
    while True:
        try:
            await dead_letters.add_deliveries(topic, batch)
        except (DatabaseAway, OSError, asyncpg.PostgresError) as error:
            log.warning("queue.dead_letters_wait", topic=topic, waiting=len(batch), error=repr(error))
            await asyncio.sleep(_DRAIN_PAUSE_SECONDS)
        else:
            await consumer.ack(batch)
            log.warning("queue.dead_letters_stored", topic=topic, stored=len(batch))
            return


def _headers(message: Message) -> str:
    return dumps({_without_nul(name): _without_nul(value) for name, value in message.headers.items()})


def _without_nul(text: str) -> str:
    """PostgreSQL refuses NUL in text, and one foreign message with it would hold up all others for good."""
    return text.replace("\x00", "")


def _cursor(cursor: str | None) -> UUID | None:
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError:
        raise Invalid("The cursor is not one this list has given.") from None


def _dead_letter(row: Any) -> DeadLetter:
    return DeadLetter(
        id=UUID(int=row["id"].int),
        topic=row["topic"],
        message=Message(row["message_id"], row["body"], loads(row["headers"]), row["attempts"]),
        reason=row["reason"],
        dead_at=row["dead_at"],
        replayed_at=row["replayed_at"],
        replayed_by=row["replayed_by"],
    )
