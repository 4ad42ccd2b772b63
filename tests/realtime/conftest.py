"""A database, a key prefix and a node for each test that asks; what differs between nodes is their settings."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from payflow.core.settings import Settings
from payflow.infra.database import Database
from payflow.infra.migrations import upgrade
from payflow.infra.redis import Redis, connect_redis
from tests.realtime.harness import Log, MovableClock, Node, running_node
from tests.services import create_database, delete_keys, drop_database, unique_prefix


@pytest.fixture(scope="session")
async def database(postgres_url: str) -> AsyncIterator[Database]:
    url = await create_database(postgres_url)
    await upgrade(url)
    database = Database(url)
    yield database
    await database.close()
    await drop_database(postgres_url, url)


@pytest.fixture(scope="session")
async def prefix(redis_url: str) -> AsyncIterator[str]:
    prefix = unique_prefix("realtime") + ":"
    yield prefix
    await delete_keys(redis_url, prefix)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect_redis(redis_url)
    yield client
    await client.aclose()
    await client.connection_pool.disconnect()


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def log(database: Database, redis: Redis, prefix: str) -> Log:
    return Log(database, redis, prefix)


MakeNode = Callable[..., Any]


@pytest.fixture
async def make_node(
    database: Database, redis: Redis, redis_url: str, prefix: str, clock: MovableClock
) -> AsyncIterator[MakeNode]:
    async with AsyncExitStack() as stack:

        async def make(*, own_redis: Redis | None = None, parts: dict[str, Any] | None = None, **changes: Any) -> Node:
            values = {
                "environment": "test",
                "redis_url": redis_url,
                "redis_prefix": prefix,
                "public_url": "https://pay.example",
                # Long, so that only tests which shorten it are helped by the log.
                "socket_catch_up_seconds": 60.0,
                **changes,
            }
            settings = Settings(_env_file=None, **values)
            node = running_node(settings, database, own_redis or redis, clock=clock, **(parts or {}))
            return await stack.enter_async_context(node)

        yield make


@pytest.fixture
async def node(make_node: MakeNode) -> Node:
    made: Node = await make_node()
    return made
