from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from payflow.core.ids import uuid7
from payflow.infra.database import Database
from tests.house import Urls
from tests.reconciliation.books import Books
from tests.services import create_database, drop_database


@pytest.fixture(scope="package")
async def database(urls: Urls) -> AsyncIterator[Database]:
    url = await create_database(urls.postgres, template=urls.template)
    built = Database(url, pool_size=4)
    yield built
    await built.close()
    await drop_database(urls.postgres, url)


@pytest.fixture(scope="package")
async def user_id(database: Database) -> UUID:
    """A merchant, who is also the administrator."""
    user_id = uuid7()
    async with database.raw() as raw:
        await raw.execute(
            "INSERT INTO users (id, email, name, password_hash, role, created_at)"
            " VALUES ($1, 'ada@example.com', 'Ada', 'x', 'admin', now())",
            user_id,
        )
    return user_id


@pytest.fixture
def books(database: Database, user_id: UUID) -> Books:
    """The books from now on."""
    return Books(database, user_id)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settlement.csv"
