"""One socket, on raw ASGI: a bounded queue, one task that sends, and a handler that never stops receiving.

The handler must call `receive` all the time, because the server reads neither pongs nor closes while a message waits. The
sender is a task of its own, so that a client which stops reading holds up nobody: its queue runs full and it is closed.
Whoever wants to end the socket (a full queue, an expired credential, shutdown) says so with `end`, which wakes the handler.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson

from payflow.core.errors import (
    Forbidden,
    Malformed,
    NotAuthenticated,
    NotFound,
    PayFlowError,
    RateLimited,
    TooLarge,
    Unavailable,
)
from payflow.core.logging import get_logger
from payflow.infra.database import DatabaseAway
from payflow.realtime.access import Access
from payflow.realtime.frames import PONG, Frame, Message, error
from payflow.realtime.metrics import RealtimeMetrics
from payflow.realtime.schemas import CloseCode
from payflow.realtime.streams import Stream

log = get_logger(__name__)

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MOST_CHARACTERS = 8_192
MOST_MESSAGES = 30
MESSAGE_WINDOW_SECONDS = 10.0
# How long a client that does not read may keep us waiting: for a frame of its replay, and for the close itself.
_PATIENCE_SECONDS = 10.0


class AuthTimeout(NotAuthenticated):
    """No credential came in time."""

    code = "auth_timeout"


CLOSE_CODES: dict[type[Exception], CloseCode] = {
    AuthTimeout: CloseCode.AUTH_TIMEOUT,
    NotAuthenticated: CloseCode.NOT_AUTHENTICATED,
    NotFound: CloseCode.NOT_FOUND,
    Forbidden: CloseCode.FORBIDDEN,
    RateLimited: CloseCode.TOO_MANY,
    TooLarge: CloseCode.TOO_BIG,
    Malformed: CloseCode.MALFORMED,
    Unavailable: CloseCode.TRY_LATER,
    DatabaseAway: CloseCode.TRY_LATER,
    # A server's way to say that the client is gone (then nobody hears the code), or a statement that took too long.
    OSError: CloseCode.TRY_LATER,
}


class Disconnected(Exception):
    """The client has gone."""


Admit = Callable[["Socket"], Awaitable[Stream]]
Renew = Callable[["Socket", str], Awaitable[Frame]]


class Socket:
    """`access` is what its credential proved; `kind` the kind of channel, None until it was let in.

    Thousands of these lie idle, so one is little: slots, a list and not a deque, and no more coroutines than it needs.
    """

    __slots__ = (
        "_ending",
        "_interrupt",
        "_messages",
        "_messages_since",
        "_metrics",
        "_most",
        "_queue",
        "_receive",
        "_send",
        "_wake",
        "access",
        "kind",
    )

    def __init__(self, receive: Receive, send: Send, queue_size: int, metrics: RealtimeMetrics) -> None:
        self.access = Access()
        self.kind: str | None = None
        self._receive = receive
        self._send = send
        self._most = queue_size
        self._metrics = metrics
        self._queue: list[Frame] = []
        self._wake: asyncio.Future[None] | None = None
        self._interrupt: asyncio.Timeout | None = None
        self._ending: tuple[int, str] | None = None
        self._messages = 0
        self._messages_since = 0.0

    # The life of a socket

    async def run(self, admit: Admit, renew: Renew) -> None:
        """Accept, admit, answer messages until the client leaves or `end` is called, close.

        An error's kind decides the code of the close.
        """
        if (await self._receive())["type"] != "websocket.connect":
            return
        sender: asyncio.Task[None] | None = None
        try:
            # Accepted even when refused a moment later: to a browser a refused handshake says nothing at all.
            await self._send({"type": "websocket.accept"})
            async with asyncio.timeout(None) as self._interrupt:
                if self._ending is None:
                    sender = asyncio.create_task(self._follow(await admit(self)))
                    while (message := await self._receive())["type"] == "websocket.receive":
                        await self._answer(message, renew)
        except Disconnected:
            pass
        except Exception as problem:
            self._interrupt = None
            # After `end` this is the timeout's own error, and the reason is known already.
            self._end_because(problem)
        finally:
            self._interrupt = None
            if sender is not None:
                sender.cancel()
        if sender is not None:
            await asyncio.wait((sender,))
        if self._ending is not None:
            code, reason = self._ending
            # The client may be gone, or not read until our patience ends; then the server drops the connection.
            with suppress(OSError, RuntimeError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def end(self, code: int, reason: str) -> None:
        """Close soon; what is still queued is not sent. The first reason given counts."""
        if self._ending is None:
            self._ending = (code, reason)
            if self._interrupt is not None:
                self._interrupt.reschedule(asyncio.get_running_loop().time())

    def _end_because(self, problem: Exception) -> None:
        if self._ending is not None:
            return
        for kind in type(problem).__mro__:
            if kind in CLOSE_CODES:
                reason = problem.code if isinstance(problem, PayFlowError) else "unavailable"
                self.end(CLOSE_CODES[kind], reason)
                return
        log.error("realtime.socket_failed", exc_info=problem)
        self.end(CloseCode.FAILED, "internal_error")

    # Sending

    def deliver(self, frame: Frame) -> None:
        if len(self._queue) >= self._most:
            if self._ending is None:
                self._metrics.slow_client()
                self.end(CloseCode.SLOW_CLIENT, "slow_client")
            return
        self._queue.append(frame)
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    async def send(self, frame: Frame) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._send(frame.for_customer if self.access.is_customer else frame.whole)
        except TimeoutError:
            self._metrics.slow_client()
            self.end(CloseCode.SLOW_CLIENT, "slow_client")
            raise Disconnected from None
        self._metrics.sent(1)

    def skip_delivered(self, event_ids: set[str]) -> None:
        self._queue = [frame for frame in self._queue if frame.event_id not in event_ids]

    async def _follow(self, stream: Stream) -> None:
        """What the client missed, then whatever is delivered."""
        try:
            await stream.open(self)
            loop = asyncio.get_running_loop()
            send = self._send
            is_customer = self.access.is_customer
            while True:
                while self._queue:
                    frames, self._queue = self._queue, []
                    for frame in frames:
                        await send(frame.for_customer if is_customer else frame.whole)
                self._wake = loop.create_future()
                await self._wake
        except Disconnected:
            pass
        except Exception as problem:
            self._end_because(problem)
        finally:
            stream.close(self)

    # Receiving

    async def first_message(self) -> dict[str, Any]:
        """The first message of a client without a credential. Disconnected; Malformed; TooLarge."""
        message = await self._receive()
        if message["type"] != "websocket.receive":
            raise Disconnected
        return self._read(message)

    async def _answer(self, message: Message, renew: Renew) -> None:
        try:
            content = self._read(message)
        except Malformed as problem:
            self.deliver(error(problem.code, problem.detail))
            return
        match content.get("type"), content.get("token"):
            case "ping", _:
                self.deliver(PONG)
            case "auth", str() as token:
                self.deliver(await renew(self, token))
            case _:
                self.deliver(error("unknown_message", "Known are ping, and auth with a token."))

    def _read(self, message: Message) -> dict[str, Any]:
        """The message's JSON object. Malformed; TooLarge; RateLimited."""
        now = asyncio.get_running_loop().time()
        if now - self._messages_since > MESSAGE_WINDOW_SECONDS:
            self._messages_since, self._messages = now, 0
        self._messages += 1
        if self._messages > MOST_MESSAGES:
            raise RateLimited("Too many messages.", code="too_many_messages")
        text = message.get("text")
        if len(text or message.get("bytes") or "") > MOST_CHARACTERS:
            raise TooLarge("The message is too long.", code="message_too_long")
        try:
            content = orjson.loads(text or b"")
        except orjson.JSONDecodeError:
            content = None
        if not isinstance(content, dict):
            raise Malformed("Messages are JSON objects, in text frames.", code="malformed_message")
        return content
