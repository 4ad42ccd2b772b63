"""A node is started and stopped as one: nothing may keep it, whenever the end comes."""

import asyncio

import pytest

from tests.house import Urls, running_house


@pytest.mark.parametrize("moments", range(8))
async def test_a_node_that_is_stopped_at_once_stops(urls: Urls, moments: int) -> None:
    """A cancellation that is lost while Redis is being connected must not be waited for for ever."""
    async with asyncio.timeout(30):
        async with running_house(urls, amqp_url="", worker=moments % 4 == 0):
            for _ in range(moments):
                await asyncio.sleep(0)
