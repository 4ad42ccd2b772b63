"""One house for the wallet tests, and the property that holds after each of them: balances are the sums of their entries."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.house import BODIES, House, Merchant, Urls, running_house
from tests.payments.conftest import Network

UNBALANCED = """
    SELECT w.user_id, w.currency, w.available_minor, w.held_minor, coalesce(sums.available, 0) AS available,
        coalesce(sums.held, 0) AS held
    FROM wallets w FULL JOIN (
        SELECT a.user_id, a.currency, -sum(e.amount_minor) FILTER (WHERE a.code = 'wallet') AS available,
            -sum(e.amount_minor) FILTER (WHERE a.code = 'wallet_held') AS held
        FROM ledger_entries e JOIN ledger_accounts a ON a.id = e.account_id
        WHERE a.code IN ('wallet', 'wallet_held') GROUP BY a.user_id, a.currency
    ) sums ON sums.user_id = w.user_id AND sums.currency = w.currency
    WHERE w.available_minor IS DISTINCT FROM coalesce(sums.available, 0)
       OR w.held_minor IS DISTINCT FROM coalesce(sums.held, 0)
"""


@pytest.fixture(scope="package")
async def shop(urls: Urls) -> AsyncIterator[House]:
    simulator = {"hang_seconds": 0.02, "customer_delay_seconds": 0.05}
    async with running_house(
        urls, amqp_url="", simulator=simulator, transport=Network, socket_auth_seconds=2.0
    ) as house:
        yield house


@pytest.fixture
async def ada(shop: House) -> Merchant:
    return await shop.merchant()


@pytest.fixture(autouse=True)
async def balances_are_the_sums_of_entries(shop: House) -> AsyncIterator[None]:
    yield
    assert await shop.rows(UNBALANCED) == []
    open_holds = await shop.rows(
        """
        SELECT w.user_id FROM wallets w LEFT JOIN holds h
            ON h.user_id = w.user_id AND h.currency = w.currency AND h.status = 'held'
        GROUP BY w.user_id, w.currency, w.held_minor HAVING w.held_minor <> coalesce(sum(h.amount_minor), 0)
        """
    )
    assert open_holds == []


async def start_funding(merchant: Merchant, provider: str = "paystack", **changes: Any) -> dict[str, Any]:
    answer = await merchant.post("/wallet/fund", key=str(uuid4()), json={**BODIES[provider], **changes})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def fund(shop: House, merchant: Merchant, amount: str = "500.00", **changes: Any) -> dict[str, Any]:
    """A funding that was paid."""
    started = await start_funding(merchant, amount=amount, **changes)
    return await shop.until(merchant, started["id"], "completed")


async def wallet_of(merchant: Merchant, currency: str = "NGN") -> dict[str, Any]:
    answer = await merchant.get("/wallet")
    assert answer.status_code == 200, answer.text
    return next(dict(wallet) for wallet in answer.json()["data"] if wallet["currency"] == currency)


async def holds(merchant: Merchant, currency: str = "NGN") -> tuple[int, int, str]:
    """What it has available and held, and how it stands."""
    wallet = await wallet_of(merchant, currency)
    return wallet["available_minor"], wallet["held_minor"], wallet["status"]
