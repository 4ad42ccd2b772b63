"""The queue a sender is given: the broker, and the spool while the broker is away.

A publish that was not confirmed may have arrived all the same; the message then lies in both and comes twice, which
consumers bear. None is lost. Both queues must be consumed.
"""

from payflow.core.logging import get_logger
from payflow.infra.queue.port import Message, Queue, QueueAway

log = get_logger(__name__)


class SpooledQueue:
    """`backup` is None where the spool itself is the queue (embedded mode)."""

    def __init__(self, primary: Queue, backup: Queue | None = None) -> None:
        self.primary = primary
        self.backup = backup

    @property
    def queues(self) -> tuple[Queue, ...]:
        """Every queue that may hold a message, for consumers and for metrics."""
        return (self.primary,) if self.backup is None else (self.primary, self.backup)

    async def start(self) -> None:
        for queue in self.queues:
            await queue.start()

    async def close(self) -> None:
        for queue in self.queues:
            await queue.close()

    async def publish(self, topic: str, message: Message) -> str:
        """The name of the queue that took it, for the metric. QueueAway when both are away."""
        try:
            await self.primary.publish(topic, message)
        except QueueAway as error:
            if self.backup is None:
                raise
            log.info("queue.spooled", topic=topic, message_id=message.id, error=str(error))
            await self.backup.publish(topic, message)
            return self.backup.name
        return self.primary.name
