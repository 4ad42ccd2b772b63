from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from tests.house import House, Merchant, Urls, running_house


class Network(httpx.AsyncBaseTransport):
    """The way to the simulator. What is addressed to 127.0.0.1 goes over real sockets; `before` runs before each call."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.real = httpx.AsyncHTTPTransport()
        self.before: Callable[[httpx.Request], Awaitable[None]] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.before is not None:
            await self.before(request)
        through = self.real if request.url.host == "127.0.0.1" else self.inner
        return await through.handle_async_request(request)

    async def aclose(self) -> None:
        await self.real.aclose()


@pytest.fixture(scope="package")
async def shop(urls: Urls) -> AsyncIterator[House]:
    """One house for all tests that need no state of their own: each has merchants of its own. Its queue is the spool."""
    simulator = {"hang_seconds": 0.02, "customer_delay_seconds": 0.15}
    async with running_house(urls, amqp_url="", simulator=simulator, transport=Network) as house:
        yield house


@pytest.fixture
async def ada(shop: House) -> Merchant:
    return await shop.merchant()
