"""What a queue is: at-least-once, durable, confirmed. RabbitMQ and the spool in PostgreSQL are its two implementations.

Both promise the same: a published message is durable when `publish` returns; it is handed to one consumer at a time; a
consumer that dies gives it back (`redelivered`); one that is given back too often ends in the dead letters, not in a circle.
Order is not promised, and a message may come twice.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

WEBHOOKS = "webhooks"
DELIVERIES = "deliveries"
TOPICS = (WEBHOOKS, DELIVERIES)

DELIVERY_LIMIT_REASON = "delivery limit exceeded: its consumers died or gave it back too often"
_REASON_CHARACTERS = 1_000


def tidy_reason(reason: str) -> str:
    """A reason as both queues keep it: it may quote a foreign answer, so it is cut, and freed of what jsonb refuses."""
    return reason[:_REASON_CHARACTERS].replace("\x00", "").encode(errors="replace").decode()


class QueueAway(Exception):
    """The queue cannot be reached, is blocked or did not confirm in time: the message may or may not be in it."""


@dataclass(frozen=True, slots=True)
class Message:
    """`id` is a UUID as text (the AMQP message_id); `attempt` counts the delays (rungs) it has been through."""

    id: str
    body: bytes
    headers: Mapping[str, str]
    attempt: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A message in the hands of one consumer. `handle` belongs to the queue that gave it.

    `reason` is why it was delayed or given up the last time; empty on its first way.
    """

    message: Message
    redelivered: bool
    handle: Any = field(repr=False)
    reason: str = ""


class Consumer(Protocol):
    async def batch(self, limit: int) -> list[Delivery]:
        """Waits for at least one message, then takes what is already here up to `limit`; never waits to fill it."""
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these. An acknowledgement that is lost on the way means they come again."""
        ...

    async def retry(self, delivery: Delivery, delay_seconds: float, reason: str) -> None:
        """Comes again after `delay_seconds`, with `attempt` + 1. QueueAway: this consumer still holds it.

        RabbitMQ knows only the delays it was given: the next longer one is taken, beyond the last the last.
        """
        ...

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Durable in the dead letters, then gone from here. QueueAway: this consumer still holds it."""
        ...

    async def release(self, delivery: Delivery) -> None:
        """Back to the queue at once, as on shutdown. It will be `redelivered`."""
        ...


class Publisher(Protocol):
    """What a sender needs: a queue, or a queue with the spool behind it."""

    async def publish(self, topic: str, message: Message) -> object: ...


class Queue(Protocol):
    @property
    def name(self) -> str:
        """`rabbitmq` or `spool`."""
        ...

    async def start(self) -> None:
        """Never fails or waits because the server is away: the queue connects in the background."""
        ...

    async def close(self) -> None: ...

    async def publish(self, topic: str, message: Message) -> None:
        """Durable and confirmed when it returns. QueueAway."""
        ...

    def consume(self, topic: str, *, prefetch: int) -> AbstractAsyncContextManager[Consumer]:
        """A consumer that survives restarts of the server. What it holds at the end of the block goes back."""
        ...

    async def depth(self, topic: str) -> int:
        """Messages ready to be taken. QueueAway."""
        ...

    async def ping(self) -> None:
        """QueueAway."""
        ...
