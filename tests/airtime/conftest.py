from collections.abc import AsyncIterator

import pytest

from tests.airtime.desk import Way, rich
from tests.house import House, Merchant, Urls, running_house
from tests.webhooks.desk import Impatient, MovableClock


class Shop:
    """A house with its clock and its way to the provider in hand."""

    def __init__(self, house: House, clock: MovableClock, way: Way) -> None:
        self.house = house
        self.clock = clock
        self.way = way


@pytest.fixture
async def shop(urls: Urls) -> AsyncIterator[Shop]:
    """A house of one test, whose queue is the spool."""
    clock, ways = MovableClock(), []

    def way(inner: object) -> Way:
        ways.append(Way(Impatient(inner, 1.0)))  # type: ignore[arg-type]
        return ways[0]

    simulator = {"slow_seconds": 0.3, "customer_delay_seconds": 0.1}
    async with running_house(
        urls, amqp_url="", clock=clock, transport=way, simulator=simulator, access_token_seconds=10_000_000
    ) as house:
        yield Shop(house, clock, ways[0])


@pytest.fixture
def house(shop: Shop) -> House:
    return shop.house


@pytest.fixture(scope="module")
async def window(urls: Urls) -> AsyncIterator[tuple[House, Merchant]]:
    """A house with a rich merchant for all tests that buy nothing."""
    async with running_house(urls, amqp_url="") as house:
        yield house, await rich(house)


@pytest.fixture
async def ada(house: House) -> Merchant:
    return await rich(house)
