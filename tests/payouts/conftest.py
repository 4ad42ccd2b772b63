from collections.abc import AsyncIterator

import pytest

from tests.house import House, Merchant, Urls, running_house
from tests.payments.conftest import Network
from tests.payouts.till import audit, fill


@pytest.fixture(scope="package")
async def common_shop(urls: Urls) -> AsyncIterator[House]:
    """One house for all tests that need no state of their own: each has merchants of its own. Its queue is the spool."""
    simulator = {"hang_seconds": 0.02, "customer_delay_seconds": 0.05}
    async with running_house(urls, amqp_url="", simulator=simulator, transport=Network) as house:
        yield house


@pytest.fixture
async def shop(common_shop: House) -> AsyncIterator[House]:
    yield common_shop
    await common_shop.simulator.delete("/_control/outcomes")
    await audit(common_shop)


@pytest.fixture
async def ada(shop: House) -> Merchant:
    """With 10,000.00 of each currency."""
    merchant = await shop.merchant()
    for currency in ("NGN", "KES", "LSL"):
        await fill(shop, merchant, 1_000_000, currency)
    return merchant
