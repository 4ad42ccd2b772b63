"""What keeps runs on one server apart: a database, a queue prefix and a key prefix per run."""

import secrets

import asyncpg
import redis.asyncio
from sqlalchemy.engine import make_url

from tests.services.probes import asyncpg_dsn


def unique_prefix(purpose: str = "test") -> str:
    """A name no other run uses, fit for queues, exchanges, Redis keys and database names."""
    return f"payflow_{purpose}_{secrets.token_hex(6)}"


async def create_database(admin_url: str, *, template: str | None = None) -> str:
    """Make an empty database (or a copy of `template`) and return its SQLAlchemy URL.

    A copy needs a template nobody is connected to, as PostgreSQL demands.
    """
    name = unique_prefix()
    clause = f' TEMPLATE "{template}"' if template else ""
    await _execute(admin_url, f'CREATE DATABASE "{name}"{clause}')
    url = make_url(admin_url).set(drivername="postgresql+asyncpg", database=name)
    return url.render_as_string(hide_password=False)


async def drop_database(admin_url: str, database_url: str) -> None:
    """Drop what `create_database` made, cutting whatever a failed test left connected."""
    name = make_url(database_url).database
    await _execute(admin_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def delete_keys(redis_url: str, prefix: str) -> int:
    """Remove a run's keys and return how many there were."""
    client = redis.asyncio.Redis.from_url(redis_url, protocol=2)
    try:
        keys = [key async for key in client.scan_iter(match=f"{prefix}*", count=500)]
        return int(await client.delete(*keys)) if keys else 0
    finally:
        await client.aclose()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(asyncpg_dsn(url))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
