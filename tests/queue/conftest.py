"""Both queues over real servers. A test that takes `bench` runs once for each and sees only what both promise."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from payflow.infra.database import Database
from payflow.infra.queue.dead_letters import DeadLetters, drain_dead_letters
from tests.queue.harness import Bench, load_migration, make_spool, migrate, open_rabbit
from tests.services import create_database, drop_database


@pytest.fixture(scope="session")
async def queue_database_url(postgres_url: str) -> AsyncIterator[str]:
    url = await create_database(postgres_url)
    database = Database(url)
    async with database.connection() as connection:
        await connection.run_sync(migrate, load_migration().upgrade)
    await database.close()
    yield url
    await drop_database(postgres_url, url)


@pytest.fixture
async def queue_database(queue_database_url: str) -> AsyncIterator[Database]:
    database = Database(queue_database_url)
    async with database.connection() as connection:
        await connection.execute(text("TRUNCATE queue_messages, dead_letters"))
    yield database
    await database.close()


@pytest.fixture(params=["rabbitmq", "spool"])
async def bench(request: pytest.FixtureRequest, queue_database: Database) -> AsyncIterator[Bench]:
    dead_letters = DeadLetters(queue_database)
    dying = [str(Path(__file__).with_name("dying_consumer.py")), request.param]
    if request.param == "spool":
        spool = make_spool(queue_database)
        await spool.start()
        yield Bench(spool, dead_letters, [*dying, queue_database.url])
        await spool.close()
        return
    url = request.getfixturevalue("amqp_url")
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(open_rabbit(url))
        draining = asyncio.create_task(drain_dead_letters(queue, dead_letters))
        yield Bench(queue, dead_letters, [*dying, url, queue.prefix])
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
