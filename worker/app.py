"""A worker process: its loops, its metrics, and an orderly end."""

import asyncio
import contextlib
import signal

from prometheus_client import Gauge, start_http_server

from payflow.bootstrap import Services
from payflow.core.logging import get_logger
from payflow.infra.queue.dead_letters import drain_dead_letters
from payflow.infra.queue.port import TOPICS, QueueAway
from payflow.infra.queue.rabbitmq import RabbitQueue
from worker.consumers import WebhookConsumer
from worker.timers import (
    DUPLICATES_SECONDS,
    HOUSEKEEPING_SECONDS,
    check_books,
    check_due,
    housekeeping,
    refund_duplicates,
    repeat,
)

log = get_logger(__name__)


class Worker:
    """`start` and `stop` for who runs it beside other things; `run` for a process of its own."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks: list[asyncio.Task[None]] = []
        self._depth = Gauge(
            "payflow_queue_depth", "Messages ready to be taken.", ["queue", "topic"], registry=services.metrics
        )
        self._breaks = Gauge(
            "payflow_books_breaks", "What the last check of the books found to disagree.", registry=services.metrics
        )
        self._checked = Gauge(
            "payflow_books_checked_timestamp_seconds", "When the books were last checked.", registry=services.metrics
        )
        self._dead = Gauge("payflow_dead_letters", "Dead letters that wait for a person.", registry=services.metrics)

    async def start(self) -> None:
        services, settings = self._services, self._services.settings
        await services.start()
        for queue in services.queue.queues:
            consumer = WebhookConsumer(
                queue, services.webhooks, prefetch=settings.queue_prefetch, batch=settings.queue_batch
            )
            self._spawn(f"consume {queue.name}", consumer.run())
            if isinstance(queue, RabbitQueue):
                self._spawn("drain dead letters", drain_dead_letters(queue, services.dead_letters))
        duplicates = repeat(DUPLICATES_SECONDS, "refund_duplicates", lambda: refund_duplicates(services))
        self._spawn("refund duplicates", duplicates)
        self._spawn("check due", repeat(settings.timer_interval_seconds, "check_due", lambda: check_due(services)))
        self._spawn("housekeeping", repeat(HOUSEKEEPING_SECONDS, "housekeeping", lambda: housekeeping(services)))
        self._spawn("books", repeat(min(60.0, settings.books_check_seconds), "books", self._check_books))
        self._spawn("gauges", repeat(5.0, "gauges", self._measure))
        log.info("worker.started", queues=[queue.name for queue in services.queue.queues])

    async def stop(self) -> None:
        """Messages that are being worked on go back to the queue; their work is safe to do again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        port = self._services.settings.worker_metrics_port
        server = start_http_server(port, self._services.settings.host, self._services.metrics) if port else None
        await self.start()
        await self._until(ended)
        log.info("worker.stopping")
        await self.stop()
        if server is not None:
            server[0].shutdown()
            server[0].server_close()
        await self._services.close()

    def failed(self) -> list[asyncio.Task[None]]:
        """Loops that ended by themselves; none should."""
        return [task for task in self._tasks if task.done()]

    async def _until(self, ended: asyncio.Event) -> None:
        """RuntimeError when one of the loops ended by itself: a worker that does half its work must not look healthy."""
        waiting = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self.failed() and not ended.is_set():
            name = self.failed()[0].get_name()
            await self.stop()
            await self._services.close()
            raise RuntimeError(f"the loop {name!r} of the worker ended")

    def _spawn(self, name: str, work: object) -> None:
        assert asyncio.iscoroutine(work)
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _check_books(self) -> None:
        await check_books(self._services, self._breaks, self._checked)

    async def _measure(self) -> None:
        for queue in self._services.queue.queues:
            for topic in TOPICS:
                with contextlib.suppress(QueueAway):
                    self._depth.labels(queue.name, topic).set(await queue.depth(topic))
        self._dead.set(await self._services.dead_letters.count())
