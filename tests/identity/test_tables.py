from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData

from payflow.identity.models import ApiKey, RefreshToken, TokenFamily, User
from payflow.infra.database import Database
from tests.identity.conftest import Account, run_migration

NOW = datetime(2026, 11, 21, tzinfo=UTC)
USER = "INSERT INTO users (id, email, name, password_hash, role, created_at) VALUES ($1, $2, $3, 'x', $4, $5)"
KEY = (
    "INSERT INTO api_keys (id, user_id, name, prefix, secret_digest, scopes, created_at) VALUES ($1,$2,$3,$4,$5,$6,$7)"
)


async def test_the_models_describe_what_the_migration_makes(database: Database) -> None:
    tables = [model.__table__ for model in (User, ApiKey, TokenFamily, RefreshToken)]

    def difference(connection: Connection) -> list:
        metadata = MetaData(naming_convention=User.metadata.naming_convention)
        for table in tables:
            table.to_metadata(metadata)
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    def checks(connection: Connection) -> set[str]:
        query = "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conname LIKE 'ck_%'"
        return {row[0] for row in connection.exec_driver_sql(query)}

    async with database.connection() as connection:
        assert await connection.run_sync(difference) == []
        named = {str(item.name) for table in tables for item in table.constraints if str(item.name).startswith("ck_")}
        assert await connection.run_sync(checks) == named


async def test_the_migration_can_be_taken_back(database: Database) -> None:
    def back_and_forth(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE SCHEMA other")
        connection.exec_driver_sql("SET LOCAL search_path = other")
        run_migration(connection, "upgrade")
        run_migration(connection, "downgrade")
        left = connection.exec_driver_sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'other'").scalar()
        assert left == 0
        connection.exec_driver_sql("DROP SCHEMA other")

    async with database.connection() as connection:
        await connection.run_sync(back_and_forth)


@pytest.mark.parametrize(
    ("email", "name", "role"),
    [
        ("nobody", "A", "user"),
        ("@x", "A", "user"),
        ("a" * 320 + "@x", "A", "user"),
        ("a@b", "", "user"),
        ("a@b", "x" * 101, "user"),
        ("a@b", "A", "root"),
    ],
)
async def test_the_database_refuses_a_user_that_breaks_a_rule(
    database: Database, email: str, name: str, role: str
) -> None:
    async with database.raw() as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(USER, uuid4(), email, name, role, NOW)


async def test_the_database_refuses_one_address_in_two_spellings(database: Database, account: Account) -> None:
    async with database.raw() as connection:
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(USER, uuid4(), account.email.upper(), "A", "user", NOW)


@pytest.mark.parametrize(
    ("name", "prefix", "digest", "scopes"),
    [
        ("", "0123456789ab", b"x" * 32, ["payments:read"]),
        ("A", "0123456789AB", b"x" * 32, ["payments:read"]),
        ("A", "0123456789ab", b"x" * 31, ["payments:read"]),
        ("A", "0123456789ab", b"x" * 32, ["everything"]),
        ("A", "0123456789ab", b"x" * 32, []),
    ],
)
async def test_the_database_refuses_a_key_that_breaks_a_rule(
    database: Database, account: Account, name: str, prefix: str, digest: bytes, scopes: list[str]
) -> None:
    async with database.raw() as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(KEY, uuid4(), account.id, name, prefix, digest, scopes, NOW)


async def test_the_database_refuses_a_key_of_nobody(database: Database) -> None:
    async with database.raw() as connection:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await connection.execute(KEY, uuid4(), UUID(int=1), "A", "0123456789ab", b"x" * 32, ["payments:read"], NOW)
