"""Everything that moves the same money, at once and over two nodes, where PostgreSQL looks for deadlocks after a millisecond.

Whatever wins, no caller is told of a deadlock, histories have no gap, the books are clean, and nothing stays locked.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from payflow.bootstrap import build_services
from payflow.events.types import Origin
from payflow.gateway.contract import Result, Verdict
from payflow.main import create_app
from payflow.transactions.aggregate import Source
from payflow.transactions.service import Answer
from tests.house import API, CHEAP_PASSWORDS, PAYSTACK, House, Merchant, Urls, running_house
from tests.payouts.till import audit, body, fill
from worker.timers import check_due

APPROVAL = 5_000_000


class Two:
    """The house's own node, and another one of the same installation."""

    def __init__(self, house: House, other: httpx.AsyncClient) -> None:
        self.house, self._other = house, other

    def elsewhere(self, merchant: Merchant) -> Merchant:
        client = httpx.AsyncClient(transport=self._other._transport, base_url=API, timeout=60)
        client.headers["authorization"] = merchant.client.headers["authorization"]
        return Merchant(client, merchant.user, merchant.tokens)

    async def deadlocks(self) -> int:
        (row,) = await self.house.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(row["deadlocks"])


@pytest.fixture(scope="module")
async def two(urls: Urls) -> AsyncIterator[Two]:
    async with running_house(
        urls,
        amqp_url="",
        worker=False,
        timer_interval_seconds=3_600.0,
        database_pool_overflow=20,
        withdrawal_approval_minor={"NGN": APPROVAL},
        simulator={"automatic_customer": False, "webhook_backoff_seconds": 0.01},
    ) as house:
        (row,) = await house.rows("SELECT current_database() AS name")
        await house.rows(f"ALTER DATABASE \"{row['name']}\" SET deadlock_timeout = '1ms'")
        await house.services.database.engine.dispose()  # who connects from now on has it so
        assert await house.rows("SHOW deadlock_timeout") == [{"deadlock_timeout": "1ms"}]
        await house.worker.start()
        services = build_services(
            house.settings, transport=house.services.http._transport, password_cost=CHEAP_PASSWORDS
        )
        app = create_app(services)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=API) as client,
        ):
            yield Two(house, client)


async def answers(*asked: Awaitable[Any]) -> Counter[str]:
    """How often each was answered what; nothing but an answer of the API's own."""
    found: Counter[str] = Counter()
    for answer in await asyncio.gather(*asked):
        if isinstance(answer, httpx.Response):
            assert answer.status_code in (200, 201, 409), answer.text
            content = answer.json()
            found[str(content.get("code") or content.get("status"))] += 1
    return found


async def clean(two: Two, root: Merchant) -> None:
    await audit(two.house)
    books = (await root.get("/books")).json()
    assert books["breaks"] == [], books
    gaps = await two.house.rows(
        "SELECT t.id FROM transactions t JOIN events e ON e.transaction_id = t.id GROUP BY t.id"
        " HAVING count(*) <> t.version OR max(e.sequence) <> t.version"
    )
    assert gaps == []
    assert await two.house.rows("SELECT 1 FROM attempts WHERE submitting_until IS NOT NULL") == []
    assert await two.house.rows("SELECT key FROM idempotency_keys WHERE status_code IS NULL") == []
    assert await two.deadlocks() == 0


async def funded(two: Two, ada: Merchant, amount: str = "500.00") -> dict[str, Any]:
    wanted = {name: value for name, value in PAYSTACK.items() if name != "amount"}
    started = (await ada.post("/wallet/fund", key=str(uuid4()), json={**wanted, "amount": amount})).json()
    reference = (await ada.payment(started["id"]))["attempts"][0]["reference"]
    await two.house.act("paystack", reference, "pay")
    return await two.house.until(ada, started["id"], "completed")


def charged_back(two: Two, funding: dict[str, Any]) -> Awaitable[Any]:
    answer = Answer(UUID(funding["attempts"][0]["id"]), Result(Verdict.REVERSED), Source.WEBHOOK, Origin())
    return two.house.services.transactions.settle(answer)


@pytest.mark.parametrize("round_", range(2))
async def test_one_wallet(two: Two, round_: int) -> None:
    ada, root = await two.house.merchant(), await two.house.merchant(admin=True)
    there = two.elsewhere(ada)
    fundings = [await funded(two, ada) for _ in range(4)]
    await fill(two.house, ada, 40_000_000)
    large = [
        (await ada.post("/wallet/withdraw", key=str(uuid4()), json=body("paystack", amount="50000.00"))).json()
        for _ in range(3)
    ]
    sent = [(await ada.post("/wallet/withdraw", key=str(uuid4()), json=body("paystack"))).json() for _ in range(3)]
    references = [
        (await ada.get(f"/wallet/withdrawals/{each['id']}")).json()["attempts"][0]["reference"] for each in sent
    ]
    same = str(uuid4())
    frozen = {"currency": "NGN", "reason": "looked at"}
    await answers(
        *(who.post("/wallet/withdraw", key=same, json=body("paystack")) for who in (ada, there) * 10),
        *(who.post("/wallet/withdraw", key=str(uuid4()), json=body("paystack")) for who in (ada, there) * 3),
        *(ada.post(f"/payments/{each['id']}/refund", key=str(uuid4()), json={}) for each in fundings),
        *(there.post(f"/payments/{each['id']}/refund", key=str(uuid4()), json={"amount": "1.00"}) for each in fundings),
        *(charged_back(two, each) for each in fundings[:2]),
        *(two.house.act("paystack", each, "pay") for each in references),
        *(
            root.post(f"/wallet/withdrawals/{each['id']}/approve", key="a", json={"reason": "looked at"})
            for each in large
        ),
        *(
            root.post(f"/wallet/withdrawals/{each['id']}/reject", key="r", json={"reason": "looked at"})
            for each in large
        ),
        *(there.post(f"/wallet/withdrawals/{each['id']}/cancel", json={}) for each in large),
        *(ada.post("/wallet/toggle-activity", json={"active": active, "currency": "NGN"}) for active in (False, True)),
        *(root.post(f"/wallet/{ada.id}/freeze", json={**frozen, "frozen": on}) for on in (True, False)),
        check_due(two.house.services),
        check_due(two.house.services),
    )
    await clean(two, root)
    assert len(await two.house.rows("SELECT 1 FROM idempotency_keys WHERE key = $1", same)) <= 1


@pytest.mark.parametrize("round_", range(2))
async def test_one_payment(two: Two, round_: int) -> None:
    ada, root = await two.house.merchant(), await two.house.merchant(admin=True)
    there, key = two.elsewhere(ada), str(uuid4())
    before = (await two.house.charges("paystack"))["totals"]["submissions"]
    started = await answers(*(who.initialize(PAYSTACK, key=key) for who in (ada, there) * 10))
    assert set(started) <= {"requires_action", "in_flight"}
    assert (await two.house.charges("paystack"))["totals"]["submissions"] == before + 1
    payment = (await ada.initialize(PAYSTACK, key=key)).json()
    reference = (await ada.payment(payment["id"]))["attempts"][0]["reference"]
    await answers(
        two.house.act("paystack", reference, "pay"),
        *(who.post(f"/payments/{payment['id']}/verify", json={}) for who in (ada, there) * 3),
        *(who.post(f"/payments/{payment['id']}/cancel", json={}) for who in (ada, there) * 2),
        *(
            root.post(
                f"/payments/{payment['id']}/resolve", key=str(n), json={"outcome": "failed", "reason": "looked at"}
            )
            for n in range(3)
        ),
        check_due(two.house.services),
    )
    whole = await two.house.until(ada, payment["id"], "completed")
    assert [event["type"] for event in whole["timeline"]].count("payment.completed") == 1
    await answers(
        charged_back(two, whole),
        *(who.post(f"/payments/{payment['id']}/refund", key=key, json={}) for who in (ada, there) * 10),
        *(who.post(f"/payments/{payment['id']}/verify", json={}) for who in (ada, there) * 3),
        check_due(two.house.services),
    )
    assert len((await ada.payment(payment["id"]))["refunds"]) <= 1
    await clean(two, root)
