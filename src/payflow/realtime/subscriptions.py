"""One connection to Redis that is subscribed to exactly the channels wanted at the moment, for as long as it can be.

redis-py's own PubSub reconnects inside its calls and keeps books of its own; here what is wanted is a set, a writer makes
the server's subscriptions equal to it, and a new connection starts again from the whole set. A server that is silent
without closing the connection is found out by PING, since nothing else would ever tell.
"""

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from payflow.core.logging import get_logger
from payflow.infra.redis import RedisConnectionError

log = get_logger(__name__)

_FIRST_WAIT_SECONDS = 0.1
_CHANNELS_A_COMMAND = 1_000


class Subscriptions:
    """`on_message(channel, payload)` must not block. `on_ready` is called whenever everything wanted is subscribed
    on a fresh connection: what was published before that is lost, and somebody has to look for it elsewhere."""

    def __init__(
        self,
        redis_url: str,
        on_message: Callable[[bytes, bytes], None],
        on_ready: Callable[[], None],
        *,
        ping_seconds: float = 2.0,
        timeout_seconds: float = 2.0,
        longest_wait_seconds: float = 2.0,
        burst: int = 32,
    ) -> None:
        # RESP2 with hiredis is the cheapest to read. No retries of the library's own: `_run` is the one that retries.
        self._pool: Any = ConnectionPool.from_url(
            redis_url,
            protocol=2,
            decode_responses=False,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self._on_message = on_message
        self._on_ready = on_ready
        self._ping_seconds = ping_seconds
        self._timeout_seconds = timeout_seconds
        self._burst = burst
        self._longest_wait_seconds = longest_wait_seconds
        self._wanted: set[bytes] = set()
        self._changed: set[bytes] = set()
        self._wake = asyncio.Event()
        self._confirmed: set[bytes] = set()
        self._unanswered: dict[bytes, int] = {}
        self._waiters: dict[bytes, asyncio.Future[bool]] = {}
        self._heard = False
        self._ready = False
        self._connected = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether everything wanted when the connection was made has been subscribed on it."""
        return self._ready

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="realtime-subscriptions")

    async def close(self) -> None:
        if self._task is not None:
            # Python 3.11 may lose a cancellation that meets the end of a wait (`asyncio.wait_for`, used while connecting).
            # Lost once, it would be waited for for ever: so it is said again.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait((self._task,), timeout=0.2)
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def want(self, channel: bytes) -> None:
        self._wanted.add(channel)
        self._note(channel)

    def unwant(self, channel: bytes) -> None:
        self._wanted.discard(channel)
        self._note(channel)
        waiter = self._waiters.pop(channel, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(False)

    def _note(self, channel: bytes) -> None:
        self._changed.add(channel)
        self._wake.set()

    async def subscribed(self, channel: bytes, timeout_seconds: float) -> bool:
        """Wait until the server has confirmed the channel; False at once while there is no server, else in time."""
        if channel in self._confirmed:
            return True
        if not self._connected:
            return False
        waiter = self._waiters.get(channel)
        if waiter is None:
            waiter = self._waiters[channel] = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait((waiter,), timeout=timeout_seconds)
        return bool(done) and waiter.result()

    async def _run(self) -> None:
        wait = _FIRST_WAIT_SECONDS
        told = False
        while True:
            connection: Any = self._pool.make_connection()
            try:
                async with asyncio.timeout(3 * self._timeout_seconds):
                    await connection.connect()
                self._connected = True
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._read(connection))
                    group.create_task(self._write(connection))
            except Exception as error:
                if self._ready or not told:
                    log.warning("realtime.redis_away", error=_name(error))
                    told = True
                if self._ready:
                    wait = _FIRST_WAIT_SECONDS
            finally:
                self._forget_connection()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            wait = min(2 * wait, self._longest_wait_seconds)

    async def _read(self, connection: Any) -> None:
        received = 0
        while True:
            answer = await connection.read_response(timeout=math.inf)
            self._heard = True
            kind = answer[0] if isinstance(answer, list) else b"pong"
            if kind == b"message":
                self._on_message(answer[1], answer[2])
                received += 1
                # Redis may have delivered hundreds at once. The sockets' senders get their turn now and then, or their
                # queues would overflow though their clients are quick; seldom, since what a sender finds queued
                # together also leaves in one system call.
                if received % self._burst == 0:
                    await asyncio.sleep(0)
            elif kind == b"subscribe":
                self._confirm(answer[1])
            elif kind == b"pong" and not self._ready:
                # Answers come in order, and this PING was sent behind all the first subscriptions.
                self._ready = True
                log.info("realtime.redis_subscribed", channels=len(self._confirmed))
                self._on_ready()

    async def _write(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        subscribed: set[bytes] = set()
        self._changed = set(self._wanted)
        self._heard = True
        next_ping = loop.time()
        while True:
            changed, self._changed = self._changed, set()
            self._wake.clear()
            new = [channel for channel in changed if channel in self._wanted and channel not in subscribed]
            old = [channel for channel in changed if channel not in self._wanted and channel in subscribed]
            for channel in new:
                self._unanswered[channel] = self._unanswered.get(channel, 0) + 1
            self._confirmed.difference_update(old)
            for command, channels in (("SUBSCRIBE", new), ("UNSUBSCRIBE", old)):
                for start in range(0, len(channels), _CHANNELS_A_COMMAND):
                    batch = channels[start : start + _CHANNELS_A_COMMAND]
                    await connection.send_command(command, *batch, check_health=False)
            subscribed.update(new)
            subscribed.difference_update(old)
            if loop.time() >= next_ping:
                if not self._heard:
                    raise RedisConnectionError("Redis does not answer.")
                self._heard = False
                await connection.send_command("PING", check_health=False)
                next_ping = loop.time() + self._ping_seconds
            try:
                async with asyncio.timeout_at(next_ping):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _confirm(self, channel: bytes) -> None:
        left = self._unanswered.pop(channel, 1) - 1
        if left > 0:
            # Subscribed, unsubscribed and subscribed again in one breath: only the last answer counts.
            self._unanswered[channel] = left
            return
        self._confirmed.add(channel)
        waiter = self._waiters.pop(channel, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def _forget_connection(self) -> None:
        self._connected = False
        self._ready = False
        self._confirmed.clear()
        self._unanswered.clear()
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if not waiter.done():
                waiter.set_result(False)


def _name(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
