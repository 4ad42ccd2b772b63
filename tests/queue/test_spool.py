"""What is the spool's alone: leases, notices, PostgreSQL away; and the fallback from one queue to the other."""

import asyncio
from collections.abc import AsyncIterator

import psutil
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, text

from payflow.infra.database import Base, Database
from payflow.infra.queue import models
from payflow.infra.queue.fallback import SpooledQueue
from payflow.infra.queue.port import Message, QueueAway
from payflow.infra.queue.rabbitmq import RabbitQueue
from payflow.infra.queue.spool import SpoolQueue
from tests.queue.harness import load_migration, message, migrate, refused
from tests.services import PrivatePostgres, services_are_required

TOPIC = "webhooks"
TABLES = {models.QueueMessageRow.__tablename__, models.DeadLetterRow.__tablename__}


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[PrivatePostgres]:
    if PrivatePostgres.installed() is None:
        if services_are_required():
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    private = PrivatePostgres()
    await asyncio.to_thread(private.start)
    database = Database(private.url)
    async with database.connection() as connection:
        await connection.run_sync(migrate, load_migration().upgrade)
    await database.close()
    yield private
    await asyncio.to_thread(private.close)


async def test_a_notice_wakes_a_consumer_long_before_its_poll(queue_database: Database) -> None:
    spool = SpoolQueue(queue_database, poll_seconds=60)
    async with spool.consume(TOPIC, prefetch=5) as consumer:
        waiting = asyncio.create_task(consumer.batch(5))
        await asyncio.sleep(0.3)
        await spool.publish(TOPIC, message())
        async with asyncio.timeout(30):
            await consumer.ack(await waiting)
    await spool.close()


async def test_a_claim_whose_caller_is_cancelled_is_not_left_to_its_lease(queue_database: Database) -> None:
    spool = SpoolQueue(queue_database, poll_seconds=0.05, lease_seconds=3600)
    async with spool.consume(TOPIC, prefetch=5) as consumer:
        for step in range(60):
            await spool.publish(TOPIC, message())
            taking = asyncio.create_task(consumer.batch(1))
            await asyncio.sleep(step * 0.0001)  # somewhere between asking and being answered
            taking.cancel()
            (outcome,) = await asyncio.gather(taking, return_exceptions=True)
            async with asyncio.timeout(30):
                await consumer.ack(outcome if isinstance(outcome, list) else await consumer.batch(1))
    await spool.close()


async def test_a_holder_whose_lease_ended_changes_nothing_any_more(queue_database: Database) -> None:
    spool = SpoolQueue(queue_database, poll_seconds=0.05, lease_seconds=3600)
    await spool.publish(TOPIC, message())
    async with spool.consume(TOPIC, prefetch=5) as stale, spool.consume(TOPIC, prefetch=5) as present:
        (old,) = await stale.batch(5)
        async with queue_database.raw() as connection:
            await connection.execute("UPDATE queue_messages SET locked_until = now()")
        async with asyncio.timeout(30):
            (new,) = await present.batch(5)
        assert new.redelivered is True
        await stale.ack([old])
        await stale.retry(old, 0, "stale")
        await stale.dead_letter(old, "stale")
        await stale.release(old)
        async with queue_database.raw() as connection:
            rows = await connection.fetch("SELECT attempts, reason, locked_until > now() AS held FROM queue_messages")
            dead = await connection.fetchval("SELECT count(*) FROM dead_letters")
        assert [tuple(row) for row in rows] == [(0, "", True)]
        assert dead == 0
        await present.ack([new])
    assert await spool.depth(TOPIC) == 0
    await spool.close()


async def test_postgresql_restarted_under_a_consumer_loses_nothing(server: PrivatePostgres) -> None:
    database = Database(server.url)
    spool = SpoolQueue(database, poll_seconds=0.2, lease_seconds=1, confirm_seconds=2)
    async with spool.consume(TOPIC, prefetch=5) as consumer:
        first = message()
        await spool.publish(TOPIC, first)
        (held,) = await consumer.batch(5)
        await asyncio.to_thread(server.kill)
        await refused(spool)
        await consumer.ack([held])  # lost on the way
        waiting = asyncio.create_task(consumer.batch(5))
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(30):
            (again,) = await waiting
        assert again.message == first
        assert again.redelivered is True
        await consumer.ack([again])
    await spool.close()
    await database.close()


async def test_a_frozen_postgresql_refuses_in_time(server: PrivatePostgres) -> None:
    database = Database(server.url)
    spool = SpoolQueue(database, confirm_seconds=1)
    await spool.ping()
    process = psutil.Process(server.pid)
    family = [process, *process.children(recursive=True)]
    for member in family:
        member.suspend()
    try:
        await refused(spool)
    finally:
        for member in family:
            member.resume()
    async with asyncio.timeout(30):
        await spool.publish(TOPIC, message())
    await spool.close()
    await database.close()


async def test_both_away_says_so() -> None:
    database = Database("postgresql://postgres@127.0.0.1:1/postgres")
    broker = RabbitQueue("amqp://127.0.0.1:1/", "away", delays_seconds=(1,))
    both = SpooledQueue(broker, SpoolQueue(database))
    await both.start()
    with pytest.raises(QueueAway):
        await both.publish(TOPIC, message())
    await both.close()
    await database.close()


async def test_the_spool_takes_what_the_primary_cannot_and_alone_it_is_the_queue(queue_database: Database) -> None:
    broker = RabbitQueue("amqp://127.0.0.1:1/", "away", delays_seconds=(1,))
    spool = SpoolQueue(queue_database)
    both = SpooledQueue(broker, spool)
    await both.start()
    assert await both.publish(TOPIC, message()) == "spool"
    assert await SpooledQueue(spool).publish(TOPIC, message()) == "spool"
    assert await spool.depth(TOPIC) == 2
    assert both.queues == (broker, spool)
    await both.close()


async def test_the_migration_and_the_models_agree(queue_database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_server_default": True,
                "include_object": lambda thing, name, kind, *_: kind != "table" or name in TABLES,
            },
        )
        return list(compare_metadata(context, Base.metadata))

    async with queue_database.connection() as connection:
        assert await connection.run_sync(differences) == []
        names = await connection.execute(
            text("SELECT conname FROM pg_constraint WHERE conrelid::regclass::text = ANY (:tables) AND contype <> 'n'"),
            {"tables": sorted(TABLES)},
        )
        declared = {str(constraint.name) for table in TABLES for constraint in Base.metadata.tables[table].constraints}
        assert {name for (name,) in names} == declared


async def test_the_migration_can_be_undone(server: PrivatePostgres) -> None:
    database = Database(server.url)
    migration = load_migration()
    async with database.connection() as connection:
        await connection.run_sync(migrate, migration.downgrade)
        left = await connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
        assert left == 0
        await connection.run_sync(migrate, migration.upgrade)
    await database.close()


async def test_a_model_writes_what_the_spool_reads(queue_database: Database) -> None:
    spool = SpoolQueue(queue_database)
    async with queue_database.connection() as connection:
        await connection.execute(
            insert(models.QueueMessageRow),
            {"topic": TOPIC, "message_id": "m1", "body": b"x", "headers": {"a": "b"}},
        )
    async with spool.consume(TOPIC, prefetch=1) as consumer:
        (delivery,) = await consumer.batch(1)
        assert delivery.message == Message("m1", b"x", {"a": "b"})
        await consumer.ack([delivery])
    await spool.close()
