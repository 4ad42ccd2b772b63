"""RabbitMQ, 3.10 to 4.x: quorum queues, publisher confirms, a delay queue per rung.

    {prefix} (topic exchange) ── webhooks ──────────────► {prefix}.webhooks ── delivery limit ──► {prefix}.webhooks.dead
                              ── webhooks.delay.60000ms ► {prefix}.webhooks.delay.60000ms ── expired ──► {prefix}.webhooks

Publishing and consuming have a connection each, because a broker short of memory stops reading from those that publish,
and acknowledgements are what relieves it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, NoReturn

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError, PublishError
from aiormq import Channel

from payflow.core.logging import get_logger
from payflow.infra.queue.port import TOPICS, Message, QueueAway
from payflow.infra.queue.rabbitmq_consumer import RabbitConsumer
from payflow.infra.queue.rabbitmq_link import Connect, Link, connect, named, open_channel, short_channel
from payflow.infra.queue.rabbitmq_message import to_properties

log = get_logger(__name__)

_NO_DELIVERY_LIMIT = 1_000_000_000  # 4.x limits to 20 unless told otherwise; -1 means none there, and is refused by 3.x


class RabbitQueue:
    """`delays_seconds` are the rungs a message may wait on; `delivery_limit` is how often it may come back unacknowledged."""

    name = "rabbitmq"

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        delays_seconds: Sequence[float],
        confirm_seconds: float = 2.0,
        delivery_limit: int = 20,
        connect: Connect = connect,
    ) -> None:
        self.prefix = prefix
        self._delays_ms = sorted({max(1, round(seconds * 1000)) for seconds in delays_seconds})
        self._confirm_seconds = confirm_seconds
        self._delivery_limit = delivery_limit
        self._publishing = Link(partial(connect, named(url, f"{prefix} publish")), self._open_publisher)
        self._consuming = Link(partial(connect, named(url, f"{prefix} consume")), self._declare)
        self._channel: Channel | None = None
        self._waiting: set[asyncio.Timeout] = set()
        self._doubtful_until = 0.0

    async def start(self) -> None:
        self._publishing.start()

    async def close(self) -> None:
        self._channel = None
        await asyncio.gather(self._publishing.close(), self._consuming.close())

    async def publish(self, topic: str, message: Message) -> None:
        await self.send(topic, message)

    async def send(self, routing_key: str, message: Message, reason: str = "") -> None:
        """Publish to one of the exchange's keys and wait for the confirm. QueueAway."""
        channel = self._channel
        if channel is None or channel.is_closed:
            raise QueueAway("RabbitMQ is not connected.")
        if self._doubtful_until:
            self._pass_by_or_probe()
        properties = to_properties(message, reason)
        try:
            async with asyncio.timeout(self._confirm_seconds) as patience:
                self._waiting.add(patience)
                try:
                    await channel.connection.ready()  # waits while the broker has us blocked
                    await channel.basic_publish(
                        message.body,
                        exchange=self.prefix,
                        routing_key=routing_key,
                        properties=properties,
                        mandatory=True,
                        wait=False,
                    )
                finally:
                    self._waiting.discard(patience)
        except BaseException as error:
            if isinstance(error, TimeoutError) and not channel.is_closed:
                self._doubtful_until = asyncio.get_running_loop().time() + self._confirm_seconds
            self._translate(error)
        self._doubtful_until = 0.0

    def consume(self, topic: str, *, prefetch: int) -> AbstractAsyncContextManager[RabbitConsumer]:
        return self._consume(topic, topic, prefetch)

    def consume_dead_letters(self, topic: str, *, prefetch: int) -> AbstractAsyncContextManager[RabbitConsumer]:
        """The messages of `topic` that were given up, each with its reason."""
        return self._consume(topic, f"{topic}.dead", prefetch)

    async def depth(self, topic: str) -> int:
        async with self._asking() as channel:
            answer = await channel.queue_declare(f"{self.prefix}.{topic}", passive=True)
            return answer.message_count or 0

    async def ping(self) -> None:
        async with self._asking():
            pass

    @property
    def queue_names(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}.{key}" for key, _ in self._topology())

    def delay_key(self, topic: str, delay_seconds: float) -> str:
        """The routing key of the delay queue for that delay: the next longer one, beyond the last the last."""
        wanted = round(delay_seconds * 1000)
        if not self._delays_ms:
            raise ValueError("This queue was given no delays.")
        delay = next((delay for delay in self._delays_ms if delay >= wanted), self._delays_ms[-1])
        return f"{topic}.delay.{delay}ms"

    @asynccontextmanager
    async def _consume(self, topic: str, key: str, prefetch: int) -> AsyncIterator[RabbitConsumer]:
        self._consuming.start()
        consumer = RabbitConsumer(self._consuming, self.send, self.delay_key, topic, f"{self.prefix}.{key}", prefetch)
        task = asyncio.create_task(consumer.keep(), name=f"consume-{key}")
        try:
            yield consumer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Channel]:
        """A channel for one question. QueueAway when there is no answer in time."""
        connection = self._publishing.connection
        if connection is None:
            raise QueueAway("RabbitMQ is not connected.")
        try:
            async with asyncio.timeout(self._confirm_seconds), short_channel(connection) as channel:
                yield channel
        except BaseException as error:
            self._translate(error)

    def _pass_by_or_probe(self) -> None:
        """After a missed confirm one publish at a time finds out whether the broker is back; the others don't wait for it."""
        now = asyncio.get_running_loop().time()
        if now < self._doubtful_until:
            raise QueueAway("RabbitMQ has lately not confirmed.")
        self._doubtful_until = now + self._confirm_seconds

    def _translate(self, error: BaseException) -> NoReturn:
        if isinstance(error, asyncio.CancelledError):
            # aiormq ends what waits on a closing connection with CancelledError, though nobody cancelled this task.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise error
            raise QueueAway("The connection to RabbitMQ was closed.") from error
        if not isinstance(error, Exception) or isinstance(error, QueueAway):
            raise error
        if isinstance(error, PublishError):
            self._publishing.look_again()  # somebody deleted a queue: declare it anew
            raise QueueAway("RabbitMQ has no queue for this message.") from error
        if isinstance(error, DeliveryError):
            raise QueueAway("RabbitMQ refused the message.") from error
        if isinstance(error, TimeoutError):
            raise QueueAway(f"RabbitMQ did not answer within {self._confirm_seconds} s.") from error
        # aiormq has a dozen more for a channel or connection that ends, down to a bare Exception.
        raise QueueAway(f"RabbitMQ: {error!r}") from error

    async def _open_publisher(self, connection: AbstractConnection) -> None:
        await self._declare(connection)
        if self._channel is None or self._channel.is_closed:
            # Without on_return_raises an unroutable message is answered like a stored one.
            channel = await open_channel(connection, publisher_confirms=True, on_return_raises=True)
            channel.closing.add_done_callback(self._on_channel_ended)
            self._channel = channel
            self._doubtful_until = 0.0

    def _on_channel_ended(self, _: object) -> None:
        """aiormq fails those that await a confirm, but lets those wait for ever that have not come to write."""
        now = asyncio.get_running_loop().time()
        for patience in self._waiting:
            patience.reschedule(now)
        self._publishing.look_again()

    async def _declare(self, connection: AbstractConnection) -> None:
        for key, arguments in self._topology():
            try:
                await self._declare_queue(connection, key, arguments)
            except ChannelPreconditionFailed as error:
                # The queue is there with other arguments (the setting has changed since). RabbitMQ can't change them
                # and deleting would lose messages, so the old ones go on until an operator sets a policy.
                log.warning("queue.declared_otherwise", queue=f"{self.prefix}.{key}", error=str(error))
                await self._declare_queue(connection, key, None)

    async def _declare_queue(self, connection: AbstractConnection, key: str, arguments: dict[str, Any] | None) -> None:
        name = f"{self.prefix}.{key}"
        async with short_channel(connection) as channel:
            await channel.exchange_declare(self.prefix, exchange_type="topic", durable=True)
            await channel.queue_declare(name, durable=True, passive=arguments is None, arguments=arguments)
            await channel.queue_bind(name, self.prefix, key)

    def _topology(self) -> list[tuple[str, dict[str, Any]]]:
        """Routing key (the queue's name without the prefix) and arguments of every queue, targets before sources."""
        queues: list[tuple[str, dict[str, Any]]] = []
        for topic in TOPICS:
            queues += [
                (f"{topic}.dead", {"x-queue-type": "quorum", "x-delivery-limit": _NO_DELIVERY_LIMIT}),
                (topic, {**self._dead_letters_to(f"{topic}.dead"), "x-delivery-limit": self._delivery_limit}),
            ]
            for delay in self._delays_ms:
                queues.append((f"{topic}.delay.{delay}ms", {**self._dead_letters_to(topic), "x-message-ttl": delay}))
        return queues

    def _dead_letters_to(self, key: str) -> dict[str, Any]:
        """At-least-once: without it RabbitMQ moves messages unconfirmed and can lose them; it demands reject-publish."""
        return {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": self.prefix,
            "x-dead-letter-routing-key": key,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
