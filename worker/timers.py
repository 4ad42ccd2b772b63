"""What happens by the clock: asking about open transactions, forgetting what is over, moving dead letters, gauges."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from prometheus_client import Gauge

from payflow.bootstrap import Services
from payflow.core.logging import get_logger
from payflow.core.runtime import heed_cancellation
from payflow.infra.database import DatabaseAway
from payflow.infra.queue.port import QueueAway
from payflow.webhooks.repository import BODY_RETENTION

log = get_logger(__name__)

CLAIM_LEASE = timedelta(seconds=120)
CHECKS_AT_ONCE = 10
HOUSEKEEPING_SECONDS = 600.0
DUPLICATES_SECONDS = 30.0


async def repeat(seconds: float, name: str, action: Callable[[], Awaitable[object]]) -> None:
    """Run `action` for ever, `seconds` apart. A failure is logged and does not end the loop."""
    while True:
        try:
            await action()
        except (DatabaseAway, QueueAway) as error:
            log.warning("timer.postponed", timer=name, error=str(error))
        except Exception:
            log.exception("timer.failed", timer=name)
        heed_cancellation()
        await asyncio.sleep(seconds)


async def check_due(services: Services) -> int:
    """Ask about every transaction, and every refund, whose time has come; how many were claimed."""
    settings, repository = services.settings, services.transactions.repository
    due = await repository.claim_due(services.clock(), settings.timer_batch, CLAIM_LEASE)
    refunds = await repository.claim_due_refunds(services.clock(), settings.timer_batch, CLAIM_LEASE)
    gate = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def check(transaction_id: UUID) -> None:
        async with gate:
            try:
                await services.checks.check_due(transaction_id)
            except Exception:
                # The claim's lease brings it again; one that fails must not keep the others from being asked.
                log.exception("timer.check_failed", transaction_id=str(transaction_id))

    async def check_refund(transaction_id: UUID, attempt_id: UUID) -> None:
        async with gate:
            try:
                await services.checks.check_refund_due(transaction_id, attempt_id)
            except Exception:
                log.exception("timer.check_failed", transaction_id=str(transaction_id))

    await asyncio.gather(*(check(transaction_id) for transaction_id in due), *(check_refund(*each) for each in refunds))
    return len(due) + len(refunds)


async def refund_duplicates(services: Services) -> int:
    """Where the setting says so: give second payments back."""
    if not services.settings.refund_duplicates:
        return 0
    return await services.refunds.refund_duplicates(services.settings.timer_batch)


async def check_books(services: Services, breaks: Gauge, checked_at: Gauge) -> None:
    """Check the books when it is time, whichever worker does it; each shows what was found last."""
    books = await services.books.check_due()
    if books is not None:
        breaks.set(books.breaks_found)
        checked_at.set(books.checked_at.timestamp())


async def housekeeping(services: Services) -> None:
    """Forget expired idempotency keys and old raw webhook bodies, in steps."""
    now = services.clock()
    await _until_few(lambda: services.idempotency_keys.delete_expired(now), 5_000)
    await services.identity.forget_expired_tokens()
    await _until_few(lambda: services.webhook_rows.delete_bodies(now - BODY_RETENTION), 2_000)


async def _until_few(step: Callable[[], Awaitable[int]], full: int) -> None:
    """Repeat a bounded delete while it finds as much as it may take at once."""
    for _ in range(1_000):
        if await step() < full:
            return
