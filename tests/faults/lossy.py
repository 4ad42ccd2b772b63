"""A way to PostgreSQL that breaks at one moment: the server has committed, and its word of that is lost.

    async with lossy(urls.postgres) as (url, line):
        line.lose("INSERT INTO refunds")     # the next database transaction in which this is executed

It reads the messages of both directions (the protocol's version 3): statements are known by the name they were prepared
under, and a transaction's end by "ready for query, idle", which the server sends after the commit.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

SSL_REQUEST = 80877103


class LossyLine:
    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._wanted: str | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0

    def lose(self, text: str) -> None:
        """What becomes of the next database transaction that executes a statement with this text nobody will hear."""
        self._wanted = text

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(8)
        if int.from_bytes(head[4:]) == SSL_REQUEST:
            writer.write(b"N")
            head = await reader.readexactly(8)
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        far_writer.write(head + await reader.readexactly(int.from_bytes(head[:4]) - 8))
        self._open |= {writer, far_writer}
        said = _Said()
        there = asyncio.create_task(self._forth(reader, far_writer, said))
        self._tasks.add(there)
        try:
            await self._back(far_reader, writer, said)
        finally:
            there.cancel()
            for each in (writer, far_writer):
                each.close()
            self._open -= {writer, far_writer}
            self._tasks.discard(there)

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: "_Said") -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                kind, message = await _message(reader)
                said.hear(kind, message[5:])
                writer.write(message)
                await writer.drain()
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: "_Said") -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                kind, message = await _message(reader)
                if kind == b"Z" and message[5:] == b"I":
                    executed, said.executed = said.executed, []
                    if self._wanted is not None and any(self._wanted in text for text in executed):
                        self._wanted = None
                        self.lost += 1
                        return
                writer.write(message)
                await writer.drain()

    def close(self) -> None:
        for writer in self._open:
            writer.close()
        for task in self._tasks:
            task.cancel()


class _Said:
    """What a client has prepared, and executed since the last transaction's end."""

    def __init__(self) -> None:
        self.prepared: dict[bytes, str] = {}
        self.executed: list[str] = []

    def hear(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self.prepared[name] = text.decode()
        elif kind == b"B":
            self.executed.append(self.prepared[body.split(b"\0", 2)[1]])
        elif kind == b"Q":
            self.executed.append(body.rstrip(b"\0").decode())


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


@asynccontextmanager
async def lossy(url: str) -> AsyncIterator[tuple[str, LossyLine]]:
    """The URL of the way, and the way."""
    parts = urlsplit(url)
    line = LossyLine(parts.hostname or "127.0.0.1", parts.port or 5432)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = parts.netloc.rpartition("@")[0]
    netloc = f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}"
    try:
        yield urlunsplit(parts._replace(netloc=netloc)), line
    finally:
        server.close()
        line.close()
