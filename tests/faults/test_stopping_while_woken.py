"""A worker that is told to stop in the very moment in which a message wakes it must stop, and not wait for the next one."""

import asyncio
from typing import Any

import pytest

from payflow.infra.queue.spool import SpoolConsumer


async def empty(*_: Any) -> list[Any]:
    """PostgreSQL with nothing in the queue."""
    return []


@pytest.mark.parametrize("steps_between", range(5))
async def test_a_consumer_woken_and_cancelled_at_once_ends(steps_between: int) -> None:
    consumer = SpoolConsumer(empty, "webhooks", 10, 60.0, 60.0, 20)
    waiting = asyncio.create_task(consumer.batch(10))
    await asyncio.sleep(0.01)
    consumer.woken.set()
    for _ in range(steps_between):
        await asyncio.sleep(0)
    waiting.cancel()
    done, _ = await asyncio.wait([waiting], timeout=1)
    # So that a failure leaves nothing behind.
    waiting.cancel()
    assert done == {waiting}
    assert waiting.cancelled()
