"""Consuming from RabbitMQ: a subscription that outlives its channels."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from aio_pika.abc import AbstractConnection
from aiormq import Channel
from aiormq.abc import DeliveredMessage

from payflow.core.logging import get_logger
from payflow.core.runtime import heed_cancellation
from payflow.infra.queue.port import Delivery, Message
from payflow.infra.queue.rabbitmq_link import (
    CLOSE_SECONDS,
    CONNECT_SECONDS,
    PAUSE_SECONDS,
    Link,
    open_channel,
    raise_if_ours,
)
from payflow.infra.queue.rabbitmq_message import from_delivered

log = get_logger(__name__)

_CONSUMER_TAG = "payflow"  # a channel has one consumer, and tags are the channel's own


class RabbitConsumer:
    """One subscription, renewed on a new channel whenever the old one ends; then all it held comes again."""

    def __init__(
        self,
        link: Link,
        send: Callable[[str, Message, str], Awaitable[None]],
        delay_key: Callable[[str, float], str],
        topic: str,
        queue_name: str,
        prefetch: int,
    ) -> None:
        self._link = link
        self._send = send
        self._delay_key = delay_key
        self._topic = topic
        self._queue_name = queue_name
        self._prefetch = max(1, prefetch)
        self._local: deque[Delivery] = deque()
        self._arrived = asyncio.Event()

    async def batch(self, limit: int) -> list[Delivery]:
        while not self._local:
            self._arrived.clear()
            await self._arrived.wait()
        return [self._local.popleft() for _ in range(min(limit, len(self._local)))]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        by_session: dict[_Session, set[int]] = {}
        for delivery in deliveries:
            session, tag = delivery.handle
            by_session.setdefault(session, set()).add(tag)
        for session, tags in by_session.items():
            await session.ack(tags)

    async def retry(self, delivery: Delivery, delay_seconds: float, reason: str) -> None:
        if not self._holds(delivery):
            return
        message = delivery.message
        again = Message(message.id, message.body, message.headers, message.attempt + 1)
        await self._send(self._delay_key(self._topic, delay_seconds), again, reason)
        await self.ack([delivery])

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        if self._holds(delivery):
            await self._send(f"{self._topic}.dead", delivery.message, reason)
            await self.ack([delivery])

    async def release(self, delivery: Delivery) -> None:
        session, tag = delivery.handle
        await session.release(tag)

    async def keep(self) -> None:
        """Subscribe, again and again, until cancelled; then give back what is held."""
        while True:
            try:
                connection = await self._link.up()
                await self._subscribe(connection)
            except BaseException as error:
                raise_if_ours(error)
                log.warning("queue.subscription_lost", queue=self._queue_name, error=repr(error))
            heed_cancellation()
            self._link.look_again()  # perhaps the queue itself is gone
            await asyncio.sleep(PAUSE_SECONDS)

    def _holds(self, delivery: Delivery) -> bool:
        """Not after its channel has ended: the message is with the broker and comes again, a copy would be one too many."""
        session, tag = delivery.handle
        return bool(session.holds(tag))

    async def _subscribe(self, connection: AbstractConnection) -> None:
        ended = asyncio.Event()
        async with asyncio.timeout(CONNECT_SECONDS):
            channel = await open_channel(connection, publisher_confirms=False)
        channel.closing.add_done_callback(lambda _: ended.set())
        channel.on_consumer_cancel_callbacks.add(lambda _: ended.set())
        session = _Session(channel)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await channel.basic_qos(prefetch_count=self._prefetch)
                await channel.basic_consume(
                    self._queue_name, partial(self._on_message, session), consumer_tag=_CONSUMER_TAG
                )
            heed_cancellation()
            await ended.wait()
        finally:
            self._local = deque(delivery for delivery in self._local if delivery.handle[0] is not session)
            with suppress(Exception):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await session.end()

    async def _on_message(self, session: "_Session", delivered: DeliveredMessage) -> None:
        if session.ending:
            return
        message, reason = from_delivered(delivered)
        tag = delivered.delivery_tag or 0
        session.unacked[tag] = None
        self._local.append(Delivery(message, bool(delivered.redelivered), (session, tag), reason))
        self._arrived.set()


class _Session:
    """A consumer's channel and the tags it has not acknowledged, in order. Tags mean nothing on any other channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.unacked: dict[int, None] = {}
        self.ending = False

    def holds(self, tag: int) -> bool:
        return tag in self.unacked and not self._channel.is_closed

    async def ack(self, tags: set[int]) -> None:
        """One frame for the tags that are the oldest without a gap, one for each of the others."""
        oldest = 0
        for tag in self.unacked:
            if tag not in tags:
                break
            oldest = tag
        try:
            if oldest:
                await self._channel.basic_ack(oldest, multiple=True, wait=False)
            for tag in tags:
                if tag > oldest and tag in self.unacked:
                    await self._channel.basic_ack(tag, wait=False)
        except Exception as error:  # whatever aiormq raises for a channel that has ended: the messages come again
            log.warning("queue.ack_lost", messages=len(tags), error=repr(error))
        for tag in tags:
            self.unacked.pop(tag, None)

    async def release(self, tag: int) -> None:
        if tag in self.unacked:
            del self.unacked[tag]
            with suppress(Exception):
                await self._channel.basic_nack(tag, requeue=True, wait=False)

    async def end(self) -> None:
        """Give everything back before the channel closes: newer brokers count a closed channel as a failed delivery, not this."""
        self.ending = True
        if self._channel.is_closed:
            return
        await self._channel.basic_cancel(_CONSUMER_TAG)
        if self.unacked:
            await self._channel.basic_nack(0, multiple=True, requeue=True)
        await self._channel.close()
