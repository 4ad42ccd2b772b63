"""The queue in PostgreSQL: what takes the messages while RabbitMQ is away, and the only queue of embedded mode.

A consumer claims rows with SKIP LOCKED and a lease that it renews while it lives; the rows of a consumer that died come
back when the lease ends. Only the holder whom the present count of `deliveries` names can acknowledge: one that was given
up changes nothing any more.

NOTIFY wakes the consumers, with a poll behind it for delayed rows and lost notices. A notice goes out after the insert, one
for all that were published meanwhile: inside its transaction it would make all commits queue up behind one lock, and 100
publishers at once were no faster than one (measured: 1,600 a second against 4,300).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from payflow.core.ids import uuid7
from payflow.core.logging import get_logger
from payflow.infra.database import AWAY, Database, DatabaseAway, dumps, loads, plain_url
from payflow.infra.queue.dead_letters import ONCE_MORE
from payflow.infra.queue.port import (
    DELIVERY_LIMIT_REASON,
    Delivery,
    Message,
    QueueAway,
    tidy_reason,
)

log = get_logger(__name__)

_CHANNEL = "payflow_queue"  # the payload is the topic
_RECONNECT_SECONDS = 1.0
_FAILED = (DatabaseAway, OSError, asyncpg.PostgresError)  # a timeout is an OSError

_PUBLISH = "INSERT INTO queue_messages (topic, message_id, body, headers, attempts) VALUES ($1, $2, $3, $4, $5)"
_NOTIFY = f"SELECT pg_notify('{_CHANNEL}', topic) FROM unnest($1::text[]) AS topic"
_CLAIM = """
UPDATE queue_messages SET locked_until = now() + make_interval(secs => $3), deliveries = deliveries + 1
WHERE id = ANY (ARRAY (
    SELECT id FROM queue_messages
    WHERE topic = $1 AND available_at <= now() AND (locked_until IS NULL OR locked_until <= now())
    ORDER BY available_at LIMIT $2 FOR UPDATE SKIP LOCKED
))
RETURNING id, deliveries, message_id, body, headers::text AS headers, attempts, reason
"""
_HELD = "unnest($1::bigint[], $2::int[]) AS held (id, deliveries)"
_MATCH = "message.id = held.id AND message.deliveries = held.deliveries"
_ACK = f"DELETE FROM queue_messages message USING {_HELD} WHERE {_MATCH}"
_RENEW = f"""
UPDATE queue_messages message SET locked_until = now() + make_interval(secs => $3) FROM {_HELD} WHERE {_MATCH}
"""
_RELEASE = f"""
WITH freed AS (
    UPDATE queue_messages message SET locked_until = NULL FROM {_HELD} WHERE {_MATCH} RETURNING topic
)
SELECT pg_notify('{_CHANNEL}', topic) FROM (SELECT DISTINCT topic FROM freed) AS topics
"""
# A retry is a new row, as on RabbitMQ it is a new message: its deliveries begin at none, and the old holder has no hold.
_RETRY = f"""
WITH gone AS (DELETE FROM queue_messages message USING {_HELD} WHERE {_MATCH} RETURNING message.*)
INSERT INTO queue_messages (topic, message_id, body, headers, attempts, reason, available_at, created_at)
SELECT topic, message_id, body, headers, attempts + 1, $4::text, now() + make_interval(secs => $3), created_at FROM gone
"""
_BURY = f"""
WITH gone AS (DELETE FROM queue_messages message USING {_HELD} WHERE {_MATCH} RETURNING message.*)
INSERT INTO dead_letters (id, topic, message_id, body, headers, attempts, reason)
SELECT $3::uuid, topic, message_id, body, headers, attempts, $4::text FROM gone
ON CONFLICT (topic, message_id) WHERE replayed_at IS NULL {ONCE_MORE}
"""
_DEPTH = """
SELECT count(*) FROM queue_messages
WHERE topic = $1 AND available_at <= now() AND (locked_until IS NULL OR locked_until <= now())
"""

_Hold = tuple[int, int]  # row id and its count of deliveries


class SpoolQueue:
    """As RabbitMQ counts it, `delivery_limit` is how often a message may come back: the delivery after that buries it."""

    name = "spool"

    def __init__(
        self,
        database: Database,
        *,
        poll_seconds: float = 1.0,
        lease_seconds: float = 60.0,
        delivery_limit: int = 20,
        confirm_seconds: float = 5.0,
    ) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._lease_seconds = lease_seconds
        self._delivery_limit = delivery_limit
        self._confirm_seconds = confirm_seconds
        self._wakers: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._unnoticed: set[str] = set()
        self._noticing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Nothing to do yet: publishing uses the pool, and only a consumer needs to listen."""

    async def close(self) -> None:
        if self._noticing is not None:
            await self._noticing
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._listening = None

    async def publish(self, topic: str, message: Message) -> None:
        await self._run(_PUBLISH, topic, message.id, message.body, dumps(dict(message.headers)), message.attempt)
        self._unnoticed.add(topic)
        if self._noticing is None:
            self._noticing = asyncio.create_task(self._notify(), name="spool-notify")

    async def depth(self, topic: str) -> int:
        return int((await self._run(_DEPTH, topic))[0][0])

    async def ping(self) -> None:
        await self._run("SELECT 1")

    @asynccontextmanager
    async def consume(self, topic: str, *, prefetch: int) -> AsyncIterator["SpoolConsumer"]:
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="spool-listen")
        consumer = SpoolConsumer(
            self._run, topic, prefetch, self._poll_seconds, self._lease_seconds, self._delivery_limit
        )
        wakers = self._wakers.setdefault(topic, set())
        wakers.add(consumer.woken)
        renewing = asyncio.create_task(consumer.keep_leases(), name="spool-leases")
        try:
            yield consumer
        finally:
            wakers.discard(consumer.woken)
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await consumer.give_back()

    async def _run(self, statement: str, *values: object) -> list[Any]:
        """One statement that commits by itself. QueueAway: it may have taken effect or not."""
        try:
            async with asyncio.timeout(self._confirm_seconds), self._database.raw() as connection:
                rows: list[Any] = await connection.fetch(statement, *values)
                return rows
        except _FAILED as error:
            raise QueueAway(f"PostgreSQL: {error!r}") from error

    async def _notify(self) -> None:
        try:
            while self._unnoticed:
                topics = list(self._unnoticed)
                self._unnoticed.clear()
                await self._run(_NOTIFY, topics)
        except QueueAway as error:
            log.warning("queue.notice_lost", error=str(error))  # the poll finds the messages
        finally:
            self._noticing = None

    async def _listen(self) -> None:
        """Hold a connection of its own that hears NOTIFY, for as long as this queue is open."""
        while True:
            lost = asyncio.Event()
            try:
                connection = await asyncpg.connect(plain_url(self._database.url), timeout=self._confirm_seconds)
            except (*AWAY, asyncpg.PostgresError) as error:
                log.warning("queue.spool_not_listening", error=repr(error))
            else:
                try:
                    connection.add_termination_listener(lambda _, lost=lost: lost.set())
                    await connection.add_listener(_CHANNEL, self._on_notice)
                    self._wake_all()  # for what came while nobody listened
                    await lost.wait()
                except (*AWAY, asyncpg.PostgresError) as error:
                    log.warning("queue.spool_not_listening", error=repr(error))
                finally:
                    connection.terminate()
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _on_notice(self, _connection: object, _process: int, _channel: str, topic: str) -> None:
        for woken in self._wakers.get(topic, ()):
            woken.set()

    def _wake_all(self) -> None:
        for wakers in self._wakers.values():
            for woken in wakers:
                woken.set()


class SpoolConsumer:
    def __init__(
        self,
        run: Callable[..., Any],
        topic: str,
        prefetch: int,
        poll_seconds: float,
        lease_seconds: float,
        delivery_limit: int,
    ) -> None:
        self._run = run
        self._topic = topic
        self._prefetch = max(1, prefetch)
        self._poll_seconds = poll_seconds
        self._lease_seconds = lease_seconds
        self._delivery_limit = delivery_limit
        self._held: set[_Hold] = set()
        self._local: deque[Delivery] = deque()
        self._claiming: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self.woken = asyncio.Event()

    async def batch(self, limit: int) -> list[Delivery]:
        async with self._one_at_a_time:
            while not self._local:
                self.woken.clear()
                room = min(limit, self._prefetch - len(self._held))
                if room > 0 or self._claiming is not None:
                    await self._claim(room)
                if not self._local:
                    # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the waking.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._poll_seconds):
                            await self.woken.wait()
            return [self._local.popleft() for _ in range(min(limit, len(self._local)))]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        holds = [delivery.handle for delivery in deliveries]
        try:
            await self._run(_ACK, *_columns(holds))
        except QueueAway as error:
            log.warning("queue.ack_lost", topic=self._topic, messages=len(holds), error=str(error))
        self._let_go(holds)

    async def retry(self, delivery: Delivery, delay_seconds: float, reason: str) -> None:
        await self._run(_RETRY, *_columns([delivery.handle]), float(delay_seconds), tidy_reason(reason))
        self._let_go([delivery.handle])

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        await self._run(_BURY, *_columns([delivery.handle]), uuid7(), tidy_reason(reason))
        self._let_go([delivery.handle])

    async def release(self, delivery: Delivery) -> None:
        self._let_go([delivery.handle])
        with suppress(QueueAway):  # then it comes back when its lease ends
            await self._run(_RELEASE, *_columns([delivery.handle]))

    async def keep_leases(self) -> None:
        """Renew until cancelled: a lease ends with its process, not with the patience of a slow provider."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            if self._held:
                try:
                    await self._run(_RENEW, *_columns(self._held), self._lease_seconds)
                except QueueAway as error:
                    log.warning("queue.leases_not_renewed", topic=self._topic, error=str(error))

    async def give_back(self) -> None:
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)
        if self._held:
            with suppress(QueueAway):
                await self._run(_RELEASE, *_columns(self._held))
            self._held.clear()
        self._local.clear()

    async def _claim(self, room: int) -> None:
        """Claim into `_local`. A caller that is cancelled leaves the claim running, else its rows would wait for the lease."""
        if self._claiming is None:
            self._claiming = asyncio.create_task(self._claim_now(room), name="spool-claim")
        try:
            await asyncio.shield(self._claiming)
        finally:
            if self._claiming.done():
                self._claiming = None

    async def _claim_now(self, room: int) -> None:
        try:
            rows = await self._run(_CLAIM, self._topic, room, self._lease_seconds)
        except QueueAway as error:
            log.warning("queue.spool_not_read", topic=self._topic, error=str(error))
            return
        for row in rows:
            hold = (row["id"], row["deliveries"])
            if row["deliveries"] > self._delivery_limit + 1:
                with suppress(QueueAway):  # then the next who claims it buries it
                    await self._run(_BURY, *_columns([hold]), uuid7(), DELIVERY_LIMIT_REASON)
                continue
            self._held.add(hold)
            message = Message(row["message_id"], row["body"], loads(row["headers"]), row["attempts"])
            self._local.append(Delivery(message, row["deliveries"] > 1, hold, row["reason"]))

    def _let_go(self, holds: Sequence[_Hold]) -> None:
        self._held.difference_update(holds)
        self.woken.set()


def _columns(holds: "Sequence[_Hold] | set[_Hold]") -> tuple[list[int], list[int]]:
    return [row_id for row_id, _ in holds], [deliveries for _, deliveries in holds]
