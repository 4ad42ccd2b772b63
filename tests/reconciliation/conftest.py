from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from payflow.core.ids import uuid7
from payflow.infra.database import Database
from tests.house import Urls, migrated_database
from tests.reconciliation.books import Books


@pytest.fixture(scope="package")
async def database(urls: Urls) -> AsyncIterator[Database]:
    async with migrated_database(urls) as built:
        yield built


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
