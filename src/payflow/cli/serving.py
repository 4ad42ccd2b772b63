"""Uvicorn inside our own event loop, and ports that are free or clearly not."""

import asyncio
import contextlib
import errno
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn


class PortTaken(Exception):
    """Somebody else listens on the port."""

    def __init__(self, host: str, port: int, setting: str) -> None:
        super().__init__(f"Port {port} on {host} is in use. Stop what uses it, or choose another: {setting}={port + 1}")


class EmbeddedServer(uvicorn.Server):
    """A uvicorn server that leaves the process's signals to who runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_config(app: Any, host: str, port: int, *, factory: bool = False, **more: Any) -> uvicorn.Config:
    """What every server of ours has in common. Deflate costs two to three times the processor and memory of a socket."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        factory=factory,
        log_config=None,
        access_log=False,
        ws_per_message_deflate=False,
        ws_max_size=16 * 1024,
        timeout_graceful_shutdown=5,
        server_header=False,
        proxy_headers=False,  # the service reads X-Forwarded-For itself, and only from trusted_proxies
        lifespan="on",
        **more,
    )


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; port 0 takes any free one. PortTaken names the setting to change."""
    # asyncio turns Nagle's delay off only where the protocol is named; without that an answer may wait 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortTaken(host, port, setting) from None
        raise
    return listener


def serve(app: Any, host: str, port: int, setting: str, *, factory: bool = False) -> None:
    """Serve in this process until SIGTERM or SIGINT, which is a good end. PortTaken names the setting to change."""
    listener = bind(host, port, setting)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn puts its own in their place, and when all is shut down raises the signal again for these.
        signal.signal(number, _end)
    server = uvicorn.Server(server_config(app, host, port, factory=factory))
    server.run(sockets=[listener])
    if not server.started:
        sys.exit("payflow: the server did not start; its log says why")


def _end(_: int, __: object) -> None:
    sys.exit(0)


class Serving:
    """One app served on one socket, in a task."""

    def __init__(self, app: Any, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._server = EmbeddedServer(server_config(app, "", self.port))
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when requests are answered. RuntimeError when the app refused to start."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise RuntimeError("the server did not start; its log says why")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._listener.close()
