"""From a queue to the service method, and the message's end: acknowledged, delayed on the ladder, or a dead letter.

One loop per queue. Up to `batch` messages are worked on together; they are acknowledged only after the commit and after
their events were published, so a worker that dies at any point leaves them to the next. One batch follows the other, which
under load makes them large and cheap; only one that is slow goes on beside the next.
"""

import asyncio
from collections.abc import Sequence

from payflow.core.logging import get_logger
from payflow.core.runtime import heed_cancellation
from payflow.infra.database import DatabaseAway
from payflow.infra.queue.port import WEBHOOKS, Consumer, Delivery, Message, Queue, QueueAway
from payflow.webhooks.processing import Disposition, Ending, WebhookProcessor

log = get_logger(__name__)

AWAY_PAUSE_SECONDS = 1.0
BATCHES_AT_ONCE = 4
PATIENCE_SECONDS = 0.05


class WebhookConsumer:
    def __init__(self, queue: Queue, processor: WebhookProcessor, *, prefetch: int, batch: int) -> None:
        self._queue = queue
        self._processor = processor
        self._prefetch = prefetch
        self._batch = batch

    async def run(self) -> None:
        """Consume until cancelled; whatever goes wrong with one batch, the loop goes on."""
        while True:
            try:
                async with self._queue.consume(WEBHOOKS, prefetch=self._prefetch) as consumer:
                    await self._consume(consumer)
            except (QueueAway, DatabaseAway) as error:
                log.warning("worker.queue_away", queue=self._queue.name, error=str(error))
            except Exception:
                log.exception("worker.loop_failed", queue=self._queue.name)
            heed_cancellation()
            await asyncio.sleep(AWAY_PAUSE_SECONDS)

    async def _consume(self, consumer: Consumer) -> None:
        """Work on batch after batch. One that takes long, because a provider is asked, is left behind with its own messages
        while the next begins, so that a slow provider delays no other's payments."""
        working: set[asyncio.Task[None]] = set()
        try:
            while True:
                deliveries = await consumer.batch(self._batch)
                task = asyncio.create_task(self._work(consumer, deliveries), name="batch of webhooks")
                working.add(task)
                full = len(working) >= BATCHES_AT_ONCE
                done, working = await asyncio.wait(
                    working, timeout=None if full else PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for ended in done:
                    ended.result()
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _process(self, messages: Sequence[Message]) -> list[Disposition]:
        """A batch that meets no database is kept in hand: giving it back would only bring it again at once, until it has
        come too often, and the ladder would make it late."""
        while True:
            try:
                return await self._processor.process(messages)
            except DatabaseAway as error:
                log.warning("worker.database_away", queue=self._queue.name, waiting=len(messages), error=str(error))
            except Exception as error:
                log.exception("worker.batch_failed", queue=self._queue.name, size=len(messages))
                return [self._processor.postponed(message, error) for message in messages]
            await asyncio.sleep(AWAY_PAUSE_SECONDS)

    async def _work(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> None:
        dispositions = await self._process([delivery.message for delivery in deliveries])
        ended = list(zip(deliveries, dispositions, strict=True))
        # First what is done: should the queue go away below, all that is left comes again.
        if done := [delivery for delivery, disposition in ended if disposition.ending is Ending.DONE]:
            await consumer.ack(done)
        for delivery, disposition in ended:
            if disposition.ending is Ending.DEAD:
                await consumer.dead_letter(delivery, disposition.reason)
            elif disposition.ending is Ending.RETRY:
                await consumer.retry(delivery, disposition.delay_seconds or 0.0, disposition.reason)
