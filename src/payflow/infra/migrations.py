"""Brings a database to the newest revision. `alembic/` holds the migrations and is no package: it would hide the library.

The library is imported where it is used: it takes 9 MB, which a process that serves or works never needs.
"""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import payflow
from payflow.infra.database import AWAY, DatabaseAway, asyncpg_url

if TYPE_CHECKING:
    from alembic.config import Config

_ONE_AT_A_TIME = 0x7061_7966_6C6F_77  # "payflow": the advisory lock that lets only one node migrate


def import_models() -> None:
    """Import every room's models, so that the metadata knows all tables."""
    for module in pkgutil.walk_packages(payflow.__path__, "payflow."):
        if module.name.endswith(".models"):
            importlib.import_module(module.name)


def alembic_config() -> "Config":
    """The folder lies beside `src` in a checkout and in the image."""
    for root in (Path(payflow.__file__).parents[2], Path.cwd()):
        if (root / "alembic.ini").is_file():
            config: Config = importlib.import_module("alembic.config").Config(str(root / "alembic.ini"))
            return config
    raise FileNotFoundError("alembic.ini was not found beside src/ nor in the present folder")


async def upgrade(database_url: str, revision: str = "head") -> None:
    """Run what is missing, under an advisory lock: two nodes that start together do not race."""
    await _run(database_url, lambda config: importlib.import_module("alembic.command").upgrade(config, revision))


async def downgrade(database_url: str, revision: str) -> None:
    await _run(database_url, lambda config: importlib.import_module("alembic.command").downgrade(config, revision))


async def _run(database_url: str, action: Callable[["Config"], None]) -> None:
    config = alembic_config()

    def migrate(connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ONE_AT_A_TIME})
        connection.commit()
        config.attributes["connection"] = connection
        try:
            action(config)
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ONE_AT_A_TIME})
            connection.commit()

    engine = create_async_engine(asyncpg_url(database_url), poolclass=NullPool)
    try:
        try:
            connection = await engine.connect()
        except (*AWAY, asyncpg.PostgresError) as error:
            raise DatabaseAway(f"PostgreSQL cannot be reached: {error}") from error
        try:
            await connection.run_sync(migrate)
        finally:
            await connection.close()
    finally:
        await engine.dispose()
