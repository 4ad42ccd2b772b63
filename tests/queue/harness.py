"""What the tests of the queues share besides fixtures."""

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import aio_pika
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection

from payflow.infra.database import Database
from payflow.infra.queue.dead_letters import DeadLetter, DeadLetters
from payflow.infra.queue.port import Consumer, Delivery, Message, Queue, QueueAway
from payflow.infra.queue.rabbitmq import RabbitQueue
from payflow.infra.queue.spool import SpoolQueue
from tests.queue.constants import CONFIRM_SECONDS, DELIVERY_LIMIT, LEASE_SECONDS, LONG, POLL_SECONDS, SHORT
from tests.services import (
    unique_prefix,
)

MIGRATION = Path(__file__).parents[2] / "alembic/versions/0002_queue.py"


def message(body: bytes = b"{}", **headers: str) -> Message:
    return Message(str(uuid4()), body, headers or {"provider": "paystack"})


def load_migration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("queue_migration", MIGRATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def migrate(connection: Connection, step: Callable[[], None]) -> None:
    with Operations.context(MigrationContext.configure(connection)):
        step()


def make_spool(database: Database) -> SpoolQueue:
    return SpoolQueue(database, poll_seconds=POLL_SECONDS, lease_seconds=LEASE_SECONDS, delivery_limit=DELIVERY_LIMIT)


def make_rabbit(url: str, prefix: str, delays: Sequence[float] = (SHORT, LONG)) -> RabbitQueue:
    return RabbitQueue(
        url, prefix, delays_seconds=delays, confirm_seconds=CONFIRM_SECONDS, delivery_limit=DELIVERY_LIMIT
    )


async def refused(queue: Queue) -> None:
    async with asyncio.timeout(30):
        with pytest.raises(QueueAway):
            await queue.publish("webhooks", message())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_reachable(queue: Queue) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await queue.ping()
                return
            except Exception:
                await asyncio.sleep(0.05)


async def delete_queues(url: str, queue: RabbitQueue, prefix: str) -> None:
    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        for name in queue.queue_names:
            await channel.queue_delete(name)
        await channel.exchange_delete(prefix)


@asynccontextmanager
async def open_rabbit(url: str) -> AsyncIterator[RabbitQueue]:
    prefix = unique_prefix("queue")
    queue = make_rabbit(url, prefix)
    await queue.start()
    await until_reachable(queue)
    yield queue
    await queue.close()
    await delete_queues(url, queue, prefix)


@dataclass
class Bench:
    """A queue under test, and what a test of either kind needs around it."""

    queue: Queue
    dead_letters: DeadLetters
    dying_consumer: list[str]

    async def take(self, consumer: Consumer, count: int, seconds: float = 30.0) -> list[Delivery]:
        """Batches until there are `count`."""
        taken: list[Delivery] = []
        async with asyncio.timeout(seconds):
            while len(taken) < count:
                taken += await consumer.batch(count - len(taken))
        return taken

    async def quiet(self, consumer: Consumer, seconds: float = 0.3) -> bool:
        """Whether nothing arrives for a while."""
        try:
            async with asyncio.timeout(seconds):
                await consumer.batch(1)
        except TimeoutError:
            return True
        return False

    async def depth_becomes(self, topic: str, expected: int, seconds: float = 30.0) -> None:
        """RabbitMQ counts with some delay."""
        async with asyncio.timeout(seconds):
            while await self.queue.depth(topic) != expected:  # noqa: ASYNC110 - the server has no event to wait for
                await asyncio.sleep(0.05)

    async def dead(self, topic: str, count: int = 1, seconds: float = 30.0) -> list[DeadLetter]:
        async with asyncio.timeout(seconds):
            while await self.dead_letters.count(topic) < count:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        return list((await self.dead_letters.list(topic, limit=100)).items)

    async def take_and_die(self, topic: str, count: int = 1) -> None:
        """A process takes messages and is killed before it acknowledges any."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, *self.dying_consumer, topic, str(count), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"taken\n"
        process.kill()
        await process.wait()
