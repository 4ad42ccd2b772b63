"""Collaborators that kill their own process at one point. SIGKILL leaves no time for anything: no `finally`, no flush."""

import os
import signal
from collections.abc import Sequence

import httpx

from payflow.events.publisher import EventPublisher
from payflow.events.types import Event


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Orders of money out: Paystack's transfer (its recipient is made by another POST before), and VTPass' purchase.
MONEY_OUT = ("/transfer", "/pay")


class DiesBeforeSending(httpx.AsyncBaseTransport):
    """The order is written down and its money held; not a byte of it leaves."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and request.url.path.endswith(self._paths):
            die()
        return await self._inner.handle_async_request(request)


class DiesOnceAnswered(httpx.AsyncBaseTransport):
    """The provider has taken the order and its answer has arrived; nobody here will ever read it. Without paths it is the
    first POST: Daraja's token is fetched by GET before."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths or ("",)
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if request.method == "POST" and request.url.path.endswith(self._paths):
            await response.aread()
            die()
        return response


class DiesBeforePublishing(EventPublisher):
    """`publish` is called after the commit."""

    async def publish(self, events: Sequence[Event], cached: Sequence[tuple[str, bytes, int]] = ()) -> None:
        if events:
            die()


class DiesAfterPublishing(EventPublisher):
    async def publish(self, events: Sequence[Event], cached: Sequence[tuple[str, bytes, int]] = ()) -> None:
        await super().publish(events, cached)
        if events:
            die()


class NeverPublishes(EventPublisher):
    """Redis is there, but every message is lost."""

    async def publish(self, events: Sequence[Event], cached: Sequence[tuple[str, bytes, int]] = ()) -> None:
        pass
