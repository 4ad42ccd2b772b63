"""The event log: appended, never changed, read in order; and told through Redis when Redis is there."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from payflow.core.ids import uuid7
from payflow.events.publisher import EventPublisher, transaction_channel, user_channel
from payflow.events.repository import EventRepository, first_id_at
from payflow.events.types import Actor, Event, Origin, frame
from payflow.infra.database import Database
from payflow.infra.redis import connect_redis
from tests.house import Urls
from tests.services import create_database, delete_keys, drop_database, unique_prefix

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
USER, OTHER = uuid7(), uuid7()


@pytest.fixture(scope="module")
async def database(urls: Urls) -> AsyncIterator[Database]:
    url = await create_database(urls.postgres, template=urls.template)
    built = Database(url, pool_size=4)
    async with built.raw() as raw:
        await raw.execute(
            "INSERT INTO users (id, email, name, password_hash, role, created_at)"
            " VALUES ($1, 'ada@example.com', 'Ada', 'x', 'user', now())",
            USER,
        )
    yield built
    await built.close()
    await drop_database(urls.postgres, url)


@pytest.fixture
def log(database: Database) -> EventRepository:
    return EventRepository(database)


def event(type: str = "user.logged_in", **changes: Any) -> Event:
    values: dict[str, Any] = {
        "user_id": USER,
        "data": {"how": "password"},
        "origin": Origin(Actor.USER, "10.0.0.1", "curl", "r1"),
    }
    return Event(uuid7(), type, NOW, **{**values, **changes})


async def transaction(database: Database) -> UUID:
    identity = uuid7()
    async with database.raw() as raw:
        await raw.execute(
            "INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, next_check_at)"
            " VALUES ($1, $2, 'payment', $3, 'pending', 1, 100, 'NGN', now())",
            identity,
            USER,
            identity.hex,
        )
    return identity


async def test_what_was_added_is_read_back_the_same(log: EventRepository) -> None:
    added = [event(), event("config.changed", user_id=None, origin=Origin())]
    await log.add(added)
    # Ids of one millisecond are in no order of their own.
    assert await log.page(None, None, None, 1) == sorted(added, key=lambda each: each.id, reverse=True)


async def test_an_event_added_in_a_transaction_goes_with_it(log: EventRepository, database: Database) -> None:
    lost = event("user.lost", user_id=OTHER)
    with pytest.raises(RuntimeError):
        async with database.transaction() as raw:
            await log.add([lost], raw)
            raise RuntimeError
    assert await log.page(OTHER, "user.lost", None, 5) == []


async def test_a_page_is_newest_first_filtered_and_one_longer(log: EventRepository) -> None:
    user = uuid7()
    added = [event(f"user.step_{'ab'[n % 2]}", user_id=user) for n in range(5)]
    added = [Event(first_id_at(NOW + timedelta(seconds=n)), each.type, NOW, user) for n, each in enumerate(added)]
    await log.add(added)
    assert await log.page(user, None, None, 2) == [added[4], added[3], added[2]]
    assert await log.page(user, None, added[3].id, 2) == [added[2], added[1], added[0]]
    assert await log.page(user, "user.step_b", None, 5) == [added[3], added[1]]
    assert await log.page(OTHER, None, None, 5) == []


async def test_a_history_is_read_in_order_from_a_place(log: EventRepository, database: Database) -> None:
    one, two = await transaction(database), await transaction(database)
    history = [event("payment.processing", transaction_id=one, sequence=n, status="processing") for n in (3, 1, 2)]
    await log.add([*history, event("payment.initiated", transaction_id=two, sequence=1, status="pending")])
    assert [each.sequence for each in await log.of_transaction(one)] == [1, 2, 3]
    assert [each.sequence for each in await log.of_transaction(one, after=1, limit=1)] == [2]
    async with database.raw() as raw:
        assert [each.sequence for each in await log.of_transaction(one, after=2, connection=raw)] == [3]
    found = await log.missing({one: 2, two: 0})
    assert {(each.transaction_id, each.sequence) for each in found} == {(one, 3), (two, 1)}
    assert await log.missing({}) == []


async def test_a_sequence_is_used_once(log: EventRepository, database: Database) -> None:
    one = await transaction(database)
    await log.add([event(transaction_id=one, sequence=1)])
    with pytest.raises(asyncpg.UniqueViolationError, match="uq_events_transaction_id"):
        await log.add([event(transaction_id=one, sequence=1)])


async def test_events_of_users_are_read_from_a_moment_on(log: EventRepository) -> None:
    user = uuid7()
    old, new = (Event(first_id_at(NOW + timedelta(days=n)), "user.seen", NOW, user) for n in (1, 2))
    await log.add([old, new])
    assert await log.of_users([user, OTHER], since=NOW + timedelta(days=1.5)) == [new]
    assert await log.of_users([user], since=NOW) == [old, new]


def test_a_time_begins_with_the_smallest_id_of_its_millisecond() -> None:
    assert first_id_at(NOW) <= uuid7() or datetime.now(UTC) < NOW
    assert first_id_at(NOW).int >> 80 == int(NOW.timestamp() * 1000)
    assert first_id_at(datetime(1960, 1, 1, tzinfo=UTC)) == UUID(int=0)


@pytest.mark.parametrize(
    "statement", ["UPDATE events SET type = 'a.b'", "DELETE FROM events", "TRUNCATE events CASCADE"]
)
async def test_the_log_is_append_only(log: EventRepository, database: Database, statement: str) -> None:
    kept = event(user_id=uuid7())
    await log.add([kept])
    async with database.raw() as raw:
        with pytest.raises(asyncpg.RestrictViolationError, match="events is append-only"):
            await raw.execute(statement)
    assert await log.page(kept.user_id, None, None, 5) == [kept]


def test_a_frame_is_what_sockets_send() -> None:
    one = event("payment.completed", transaction_id=uuid7(), sequence=3, status="completed")
    assert orjson.loads(frame(one)) == {
        "type": "payment.completed",
        "event_id": str(one.id),
        "transaction_id": str(one.transaction_id),
        "sequence": 3,
        "status": "completed",
        "data": {"how": "password"},
        "occurred_at": "2026-11-21T10:00:00.000000Z",
    }


async def test_events_are_told_to_their_transaction_and_their_user(redis_url: str) -> None:
    prefix, redis = unique_prefix("events") + ":", connect_redis(redis_url)
    try:
        one = event("payment.completed", transaction_id=uuid7(), sequence=2)
        nobodys = event("webhook.refused", user_id=None)
        assert one.transaction_id is not None
        channels = {transaction_channel(prefix, one.transaction_id), user_channel(prefix, USER)}
        async with redis.pubsub() as listening:
            await listening.subscribe(*channels)
            await EventPublisher(redis, prefix).publish([one, nobodys], [("kept", b"value", 60)])
            heard = {}
            while len(heard) < 2:
                message = await listening.get_message(ignore_subscribe_messages=True, timeout=5)
                if message is not None:
                    heard[message["channel"].decode()] = message["data"]
        assert heard == dict.fromkeys(channels, frame(one))
        assert await redis.get(prefix + "kept") == b"value"
        assert 0 < await redis.ttl(prefix + "kept") <= 60
        await EventPublisher(redis, prefix).publish([])
    finally:
        await redis.aclose()
        await redis.connection_pool.disconnect()
        await delete_keys(redis_url, prefix)


async def test_without_redis_a_publish_is_counted_and_never_raises() -> None:
    redis, lost = connect_redis("redis://127.0.0.1:1", timeout_seconds=0.2), list[int]()
    publisher = EventPublisher(redis, "p:", lost.append)
    await publisher.publish([event(), event()])
    await publisher.publish([event()])  # at once: it rests, and does not even try
    await EventPublisher(redis, "p:").publish([event()])
    assert lost == [2, 1]
    await redis.aclose()
    await redis.connection_pool.disconnect()
