"""PostgreSQL: one pool, used through SQLAlchemy for models and queries, and raw for the hot statements.

The hot paths (open an intent, record an outcome, settle) run on the asyncpg connection under SQLAlchemy's pool, because
the ORM costs several times the statement itself; `docs/performance.md` has the figures. Both ways share this pool.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import MetaData, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.util import greenlet_spawn

T = TypeVar("T")

RawConnection: TypeAlias = Any  # asyncpg ships no types; it is always an asyncpg.Connection

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)


class DatabaseAway(Exception):
    """PostgreSQL cannot be reached."""


class NotPostgres(ValueError):
    """DATABASE_URL must begin with postgresql:// (PostgreSQL is the only database)."""


# What a connection raises when the server is gone, stopping or starting.
_GONE = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    # A statement that meets the server's farewell on an idle connection, which is not closed yet.
    asyncpg.InternalClientError,
)
# A use of a closed connection, but also a wrong use of an open one.
AWAY = (*_GONE, asyncpg.InterfaceError)
_RETRYABLE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


def asyncpg_url(url: str) -> str:
    """`postgres://`, `postgresql://` and `postgresql+asyncpg://` name the same server; SQLAlchemy wants the last."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgres", "postgresql"):
        raise NotPostgres(NotPostgres.__doc__)
    return "postgresql+asyncpg://" + rest


class Database:
    def __init__(self, url: str, *, pool_size: int = 10, overflow: int = 10) -> None:
        self.url = asyncpg_url(url)
        self.engine: AsyncEngine = create_async_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=overflow,
            pool_timeout=10,
            pool_recycle=1800,
            hide_parameters=True,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args={
                "timeout": 5,
                "command_timeout": 30,
                "server_settings": {"timezone": "UTC", "jit": "off", "plan_cache_mode": "force_generic_plan"},
            },
        )

        # A new connection's failures come in the dialect's own wrapping, which no other class of SQLAlchemy covers.
        self._driver_error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        event.listen(self.engine.sync_engine, "connect", _set_codecs)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A SQLAlchemy connection in one transaction: committed at the end, rolled back on an exception.

        DatabaseAway when the server cannot be reached.
        """
        try:
            async with self.engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if error.connection_invalidated or _is_gone(error):
                raise DatabaseAway(str(error.orig)) from error
            raise
        except (PoolTimeout, *_GONE) as error:
            raise DatabaseAway(str(error)) from error

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[RawConnection]:
        """The asyncpg connection of a pooled connection, outside any transaction: each statement commits by itself.

        DatabaseAway when the server cannot be reached or goes while the block runs; what was under way is then unknown.
        """
        pooled, connection = await self._check_out()
        try:
            yield connection
        except AWAY as error:
            # Nothing but the database is awaited in such a block, so a timeout or a socket's error is its own. A wrong use
            # of the connection is an InterfaceError too, and stays what it is.
            if isinstance(error, asyncpg.InterfaceError) and not connection.is_closed():
                raise
            await greenlet_spawn(pooled.invalidate)
            raise DatabaseAway(str(error) or type(error).__name__) from error
        finally:
            if pooled.is_valid:
                if connection.is_closed() or connection.is_in_transaction():
                    await greenlet_spawn(pooled.invalidate)
                await greenlet_spawn(pooled.close)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[RawConnection]:
        """The raw connection inside one READ COMMITTED transaction."""
        async with self.raw() as connection, connection.transaction():
            yield connection

    async def in_transaction(self, work: Callable[[RawConnection], Awaitable[T]]) -> T:
        """Run `work` in a transaction, again after a deadlock or serialization error (at most five times).

        `work` must have no effect outside the database, since it may run more than once.
        """
        for attempt in range(5):
            try:
                async with self.transaction() as connection:
                    return await work(connection)
            except _RETRYABLE:
                if attempt == 4:
                    raise
                await asyncio.sleep(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311 - jitter, not a secret
        raise AssertionError("unreachable")

    async def _check_out(self) -> tuple[Any, RawConnection]:
        """A live pooled connection. One that the server closed while it lay in the pool is thrown away."""
        try:
            while True:
                pooled = await self.engine.raw_connection()
                connection = pooled.driver_connection
                assert connection is not None
                if not connection.is_closed():
                    return pooled, connection
                await greenlet_spawn(pooled.invalidate)
        except AWAY as error:
            raise DatabaseAway(str(error) or type(error).__name__) from error
        except (DBAPIError, self._driver_error, PoolTimeout) as error:
            raise DatabaseAway(str(error)) from error

    async def ping(self) -> None:
        """DatabaseAway when PostgreSQL does not answer."""
        async with self.raw() as connection:
            await connection.fetchval("SELECT 1", timeout=2)

    async def close(self) -> None:
        await self.engine.dispose()


def _is_gone(error: BaseException | None) -> bool:
    """Whether the driver's error behind SQLAlchemy's wrappings means that the server is gone."""
    while error is not None:
        if isinstance(error, _GONE):
            return True
        error = error.__cause__
    return False


def _set_codecs(connection: Any, _: Any) -> None:
    """asyncpg's own UUID is a subclass that orjson refuses; rows shall hold the standard library's."""
    connection.run_async(
        lambda driver: driver.set_type_codec(
            "uuid",
            schema="pg_catalog",
            encoder=lambda value: (value if isinstance(value, UUID) else UUID(value)).bytes,
            decoder=lambda raw: UUID(bytes=bytes(raw)),
            format="binary",
        )
    )


def plain_url(url: str) -> str:
    """The URL as asyncpg itself reads it (for LISTEN connections, which never come from the pool)."""
    return asyncpg_url(url).replace("postgresql+asyncpg://", "postgresql://", 1)


def dumps(value: object) -> str:
    """JSON text for a jsonb parameter of a raw statement."""
    return orjson.dumps(value).decode()


def loads(value: str | bytes | None) -> Any:
    """JSON that a raw statement gave as text. A jsonb column itself comes decoded: SQLAlchemy sets that codec."""
    return None if value is None else orjson.loads(value)
