"""One real conversation with each server: an open port alone proves neither the protocol nor that we are let in."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import redis.asyncio

from payflow.infra.queue.rabbitmq_link import connect

OLDEST_POSTGRES = 15
OLDEST_REDIS = 7
PROBE_SECONDS = 5.0

Answer = TypeVar("Answer")
Probe = Callable[[str], Coroutine[Any, Any, None]]


class ProbeFailed(Exception):
    """The server did not answer, refused us, or is too old."""


def asyncpg_dsn(url: str) -> str:
    """Drop SQLAlchemy's driver name, which asyncpg does not understand."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


async def probe_postgres(url: str) -> None:
    """Log in, and ask for the right to make a database per run."""
    try:
        connection = await asyncpg.connect(asyncpg_dsn(url), timeout=PROBE_SECONDS)
    except Exception as error:
        raise ProbeFailed(_words(error)) from error
    try:
        version = connection.get_server_version()
        may_create = await connection.fetchval(
            "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
        )
    finally:
        await connection.close(timeout=PROBE_SECONDS)
    if version.major < OLDEST_POSTGRES:
        raise ProbeFailed(f"PostgreSQL {version.major} is older than {OLDEST_POSTGRES}")
    if not may_create:
        raise ProbeFailed("the user may not create databases")


async def probe_redis(url: str) -> None:
    """PING, and read the version."""
    client = redis.asyncio.Redis.from_url(
        url, protocol=2, socket_timeout=PROBE_SECONDS, socket_connect_timeout=PROBE_SECONDS
    )
    try:
        await client.ping()
        version = str((await client.info("server"))["redis_version"])
    except Exception as error:
        raise ProbeFailed(_words(error)) from error
    finally:
        await client.aclose()
    if int(version.split(".")[0]) < OLDEST_REDIS:
        raise ProbeFailed(f"Redis {version} is older than {OLDEST_REDIS}")


async def probe_rabbitmq(url: str) -> None:
    """Log in and open a channel: the listener answers a moment before the virtual host does."""
    # A broker that is still booting resets the connection half way through the greeting, which aiormq reports through
    # its own tasks as well; the bare connect first keeps that rare.
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname or "127.0.0.1", parts.port or 5672)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            connection = await connect(url)
            try:
                await connection.channel()
            finally:
                await connection.close()
    except Exception as error:
        raise ProbeFailed(_words(error)) from error


def run_apart(make: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    """Run a coroutine to its end in a thread of its own, so that it works inside and outside a running event loop."""
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(asyncio.run(make()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="probe", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
