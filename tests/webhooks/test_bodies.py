"""Raw bodies, kept by two workers that have the same messages."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from payflow.core.clock import utc_now
from payflow.core.ids import uuid7
from payflow.infra.database import Database
from payflow.webhooks.repository import Body, keep
from tests.house import Urls, eventually, migrated_database


@pytest.fixture
async def database(urls: Urls) -> AsyncIterator[Database]:
    async with migrated_database(urls) as built:
        yield built


async def test_two_workers_with_the_same_messages_in_another_order_do_not_block_each_other(database: Database) -> None:
    first, middle, last = (Body(uuid7(), "paystack", b"{}", utc_now()) for _ in range(3))

    async def work(*bodies: Body) -> None:
        async with database.raw() as raw:
            await keep(raw, bodies)

    async def waiting() -> int:
        async with database.raw() as raw:
            return int(
                await raw.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )

    async def both() -> bool:
        return await waiting() == 2

    async with database.raw() as raw:
        # Both have begun, and both wait for the one in the middle.
        holding = raw.transaction()
        await holding.start()
        await keep(raw, [middle])
        workers = [asyncio.create_task(work(first, middle, last)), asyncio.create_task(work(last, middle, first))]
        await eventually(both, what="both workers at a lock")
        await holding.rollback()
    await asyncio.gather(*workers)
    async with database.raw() as raw:
        assert await raw.fetchval("SELECT count(*) FROM webhook_bodies") == 3
