"""What happens by the clock: asking about open transactions, forgetting what is over, moving dead letters, gauges."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

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
    """Ask about every transaction whose time has come; how many were claimed."""
    settings = services.settings
    due = await services.transactions.repository.claim_due(services.clock(), settings.timer_batch, CLAIM_LEASE)
    gate = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def check(transaction_id: UUID) -> None:
        async with gate:
            try:
                await services.checks.check_due(transaction_id)
            except Exception:
                # The claim's lease brings it again; one that fails must not keep the others from being asked.
                log.exception("timer.check_failed", transaction_id=str(transaction_id))

    await asyncio.gather(*(check(transaction_id) for transaction_id in due))
    return len(due)


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
