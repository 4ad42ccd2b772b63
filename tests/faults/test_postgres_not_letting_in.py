"""A server that answers and lets nobody in, as PostgreSQL does while it starts or stops, is away like one that is not there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from payflow.infra.database import Database, DatabaseAway
from payflow.infra.queue.port import WEBHOOKS, Message, QueueAway
from payflow.infra.queue.spool import SpoolQueue

SSL_REQUEST_BYTES = 8


@asynccontextmanager
async def refusing_server(sqlstate: str) -> AsyncIterator[Database]:
    """Answers each startup message with a FATAL error of this SQLSTATE."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            length = int.from_bytes(await reader.readexactly(4), "big")
            await reader.readexactly(length - 4)
            if length == SSL_REQUEST_BYTES:
                writer.write(b"N")
                length = int.from_bytes(await reader.readexactly(4), "big")
                await reader.readexactly(length - 4)
            fields = b"SFATAL\0VFATAL\0C" + sqlstate.encode() + b"\0Mthe database system is busy\0\0"
            writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    database = Database(f"postgresql://postgres@127.0.0.1:{port}/postgres")
    try:
        yield database
    finally:
        await database.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("sqlstate", ["57P03", "57P01", "57P02", "53300"])
async def test_a_server_that_starts_stops_or_is_full_is_away(sqlstate: str) -> None:
    async with refusing_server(sqlstate) as database:
        with pytest.raises(DatabaseAway, match="the database system is busy"):
            await database.ping()
        with pytest.raises(DatabaseAway, match="the database system is busy"):
            async with database.connection() as connection:
                await connection.execute(text("SELECT 1"))


async def test_the_spool_is_away_with_it() -> None:
    async with refusing_server("57P03") as database:
        with pytest.raises(QueueAway):
            await SpoolQueue(database).publish(WEBHOOKS, Message("0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50", b"{}", {}))
