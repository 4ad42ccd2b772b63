"""A connection to RabbitMQ that is kept up in the background.

aio-pika's robust connection is not used: while it reconnects a publish waits, and ours must fail at once so that the
spool can take the message. Here everybody asks the link what is there now. Channels are aiormq's own: aio-pika's cost more
per message, and each one opened leaves a callback on the connection for good.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq import Channel
from yarl import URL

from payflow.core.logging import get_logger
from payflow.core.runtime import heed_cancellation

log = get_logger(__name__)

Connect = Callable[[str], Awaitable[AbstractConnection]]

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0
PAUSE_SECONDS = 0.2
_PREPARE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 2.0
_HEARTBEAT_SECONDS = 15  # the broker gives a vanished worker's messages to others after two of these


async def connect(url: str) -> AbstractConnection:
    """A plain aio-pika connection, not a robust one."""
    connection = aio_pika.Connection(URL(url))
    try:
        await connection.connect(timeout=CONNECT_SECONDS)
    except BaseException:
        # One that never came up would be closed when it is collected, which may be where no event loop runs.
        await connection.close()
        raise
    return connection


class Link:
    """A connection that is kept up in the background. `connection` is None while there is none that is prepared."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[AbstractConnection]],
        prepare: Callable[[AbstractConnection], Awaitable[None]],
    ) -> None:
        self._connect = connect
        self._prepare = prepare
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._look = asyncio.Event()
        self._trouble = ""
        self.connection: AbstractConnection | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="rabbitmq-link")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def up(self) -> AbstractConnection:
        while self.connection is None:
            await self._up.wait()
        return self.connection

    def look_again(self) -> None:
        """Something ended or is missing: see what, and prepare or connect anew."""
        self._look.set()

    async def _keep(self) -> None:
        pause = PAUSE_SECONDS
        while True:
            try:
                await self._connect_once()
                pause = PAUSE_SECONDS
                self._tell("RabbitMQ ended the connection.")
            except BaseException as error:
                raise_if_ours(error)
                self._tell(repr(error))
            heed_cancellation()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _connect_once(self) -> None:
        """Returns when a connection that was up has ended; raises when it did not come up."""
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await self._connect()
        transport = connection.transport
        assert transport is not None
        raw = transport.connection
        raw.closing.add_done_callback(lambda _: self._look.set())
        try:
            while not raw.is_closed:
                self._look.clear()
                await self._prepare_or_fail(connection, raw.closing)
                self.connection = connection
                self._trouble = ""
                self._up.set()
                heed_cancellation()
                await self._look.wait()
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self.connection = None
            self._up.clear()
            with suppress(Exception):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()

    async def _prepare_or_fail(self, connection: AbstractConnection, closing: asyncio.Future[Any]) -> None:
        """Not every question to a connection that ends meanwhile is told so; nobody should wait for its answer."""
        preparing = asyncio.ensure_future(self._prepare(connection))
        try:
            either: set[asyncio.Future[Any]] = {preparing, closing}
            await asyncio.wait(either, timeout=_PREPARE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not preparing.done():
                raise ConnectionError("RabbitMQ did not answer the declarations.")
            await preparing
        finally:
            preparing.cancel()
            closing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)

    def _tell(self, trouble: str) -> None:
        """Once, and not at every attempt of an outage."""
        if trouble != self._trouble:
            log.warning("queue.not_connected", error=trouble)
        self._trouble = trouble


def raise_if_ours(error: BaseException) -> None:
    """Go on after everything but being cancelled; aiormq raises CancelledError for connections that end, too."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError):
        if task is None or task.cancelling():
            raise error
    elif not isinstance(error, Exception):
        raise error


async def open_channel(connection: AbstractConnection, **options: bool) -> Channel:
    transport = connection.transport
    if transport is None:
        raise ConnectionError("The connection is closed.")
    return cast(Channel, await transport.connection.channel(**options))


@asynccontextmanager
async def short_channel(connection: AbstractConnection) -> AsyncIterator[Channel]:
    """A channel for a few questions."""
    channel = await open_channel(connection, publisher_confirms=False)
    try:
        yield channel
    finally:
        with suppress(Exception):
            await channel.close()


def named(url: str, name: str) -> str:
    """The URL with a name for the broker's list of connections and a short heartbeat, unless it says otherwise."""
    defaults = {"name": name, "heartbeat": str(_HEARTBEAT_SECONDS)}
    return str(URL(url).update_query({**defaults, **URL(url).query}))
