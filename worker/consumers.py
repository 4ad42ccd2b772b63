"""From a queue to the service method, and the message's end: acknowledged, delayed on the ladder, or a dead letter.

One loop per queue. Up to `batch` messages are worked on together; they are acknowledged only after the commit and after
their events were published, so a worker that dies at any point leaves them to the next.
"""

import asyncio
from collections.abc import Sequence

from payflow.core.logging import get_logger
from payflow.infra.database import DatabaseAway
from payflow.infra.queue.port import WEBHOOKS, Consumer, Delivery, Queue, QueueAway
from payflow.webhooks.processing import Disposition, Ending, WebhookProcessor

log = get_logger(__name__)

AWAY_PAUSE_SECONDS = 1.0


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
                    while True:
                        await self._work(consumer, await consumer.batch(self._batch))
            except (QueueAway, DatabaseAway) as error:
                log.warning("worker.queue_away", queue=self._queue.name, error=str(error))
                await asyncio.sleep(AWAY_PAUSE_SECONDS)

    async def _work(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> None:
        try:
            dispositions = await self._processor.process([delivery.message for delivery in deliveries])
        except Exception as error:
            log.exception("worker.batch_failed", queue=self._queue.name, size=len(deliveries))
            dispositions = [Disposition(Ending.RETRY, f"{type(error).__name__}", 60.0) for _ in deliveries]
        done = []
        for delivery, disposition in zip(deliveries, dispositions, strict=True):
            if disposition.ending is Ending.DONE:
                done.append(delivery)
            elif disposition.ending is Ending.DEAD:
                await consumer.dead_letter(delivery, disposition.reason)
            else:
                await consumer.retry(delivery, disposition.delay_seconds or 60.0, disposition.reason)
        if done:
            await consumer.ack(done)
