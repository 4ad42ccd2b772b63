from collections.abc import AsyncIterator
from typing import Any

import pytest

from payflow.infra.database import Database
from tests.house import Urls
from tests.services import create_database, drop_database
from tests.transactions.builders import USER


@pytest.fixture(scope="package")
async def database(urls: Urls) -> AsyncIterator[Database]:
    """A migrated database with one user. Tests roll back what they write, or write rows of their own."""
    url = await create_database(urls.postgres, template=urls.template)
    built = Database(url, pool_size=4)
    async with built.raw() as connection:
        await connection.execute(
            "INSERT INTO users (id, email, name, password_hash, role, created_at)"
            " VALUES ($1, 'ada@example.com', 'Ada', 'x', 'user', now())",
            USER,
        )
    yield built
    await built.close()
    await drop_database(urls.postgres, url)


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[Any]:
    """An asyncpg connection in a transaction that is rolled back."""
    async with database.raw() as raw:
        transaction = raw.transaction()
        await transaction.start()
        yield raw
        await transaction.rollback()
