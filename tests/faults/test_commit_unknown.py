"""PostgreSQL commits, and the connection dies before it can say so. Nobody guesses: the caller is told to try again, a repeat
is answered with what was written down, and no provider is asked twice."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.airtime.desk import AIRTIME, PURCHASE, phone
from tests.faults.lossy import LossyLine, lossy
from tests.house import PAYSTACK, House, Merchant, Urls, eventually, running_house
from tests.payments.conftest import Network
from tests.payouts.till import audit, body, fill, purse
from tests.webhooks.desk import MovableClock
from worker.timers import check_due

INTENT, OUTCOME, WEBHOOK = "INSERT INTO idempotency_keys", "UPDATE transactions t SET", "INSERT INTO webhook_events"


class Killed(BaseException):
    """What ends a process: nobody catches it."""


class Breakable(Network):
    """`after` runs when the provider has answered."""

    after: Callable[[httpx.Request], Awaitable[None]] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if self.after is not None:
            await self.after(request)
        return response


@dataclass
class Shop:
    house: House
    line: LossyLine
    clock: MovableClock
    ada: Merchant
    root: Merchant

    @property
    def network(self) -> Breakable:
        found = self.house.services.http._transport
        assert isinstance(found, Breakable)
        return found

    def lose(self, path: str, *, finished: bool) -> None:
        """The answer to the outcome (`finished`), or to the intent before it."""
        if finished:
            self.lose_the_outcome(path)
        else:
            self.line.lose(INTENT)

    def lose_the_outcome(self, path: str) -> None:
        """From the order on, the next move that is written is not heard of."""

        async def before(request: httpx.Request) -> None:
            if request.method == "POST" and request.url.path.endswith(path):
                self.line.lose(OUTCOME)

        self.network.before = before

    def die_once_answered(self, path: str) -> None:
        """The provider has taken the order, and nobody here will ever read its answer."""

        async def after(request: httpx.Request) -> None:
            if request.method == "POST" and request.url.path.endswith(path):
                self.network.after = None
                raise Killed

        self.network.after = after

    async def after_the_lease(self) -> None:
        self.clock.ahead += timedelta(seconds=self.house.settings.idempotency_lease_seconds + 1)

    async def orders(self, path: str) -> int:
        listed = (await self.house.simulator.get("/_control/requests")).json()["requests"]
        return sum(each["method"] == "POST" and each["path"].endswith(path) for each in listed)

    async def checked(self) -> None:
        """Books, events without a gap, and nothing taken that nobody gives back."""
        await audit(self.house)
        assert (await self.root.get("/books")).json()["breaks"] == []
        gaps = await self.house.rows(
            "SELECT t.id FROM transactions t JOIN events e ON e.transaction_id = t.id GROUP BY t.id"
            " HAVING count(*) <> t.version OR max(e.sequence) <> t.version"
        )
        assert gaps == []


@pytest.fixture(scope="module")
async def opened(urls: Urls) -> AsyncIterator[Shop]:
    clock = MovableClock()
    async with (
        lossy(urls.postgres) as (url, line),
        running_house(
            replace(urls, postgres=url),
            amqp_url="",
            clock=clock,
            transport=Breakable,
            timer_interval_seconds=3_600.0,
            withdrawal_approval_minor={"NGN": 10_000_000},
            simulator={"automatic_customer": False},
        ) as house,
    ):
        yield Shop(house, line, clock, await house.merchant(), await house.merchant(admin=True))


@pytest.fixture
async def shop(opened: Shop) -> AsyncIterator[Shop]:
    opened.network.before = None
    opened.ada, opened.root = await opened.house.merchant(), await opened.house.merchant(admin=True)
    yield opened
    await opened.checked()


async def answered(
    shop: Shop, ask: Callable[[], Awaitable[httpx.Response]], *, finished: bool, status: int = 201
) -> httpx.Response:
    """The first is told to try again; its repeat is answered with what there is, at once where the answer was written too."""
    lost = shop.line.lost
    first = await ask()
    assert (first.status_code, shop.line.lost) == (503, lost + 1), first.text
    if not finished:
        waits = await ask()
        assert (waits.status_code, waits.json().get("code")) == (409, "in_flight"), waits.text
        await shop.after_the_lease()
    again = await ask()
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (status, "true"), again.text
    return again


async def paid(shop: Shop, **changes: Any) -> dict[str, Any]:
    started = await shop.ada.pay("paystack", **changes)
    reference = (await shop.ada.payment(started["id"]))["attempts"][0]["reference"]
    await shop.house.act("paystack", reference, "pay")
    return await shop.house.until(shop.ada, started["id"], "completed")


async def test_the_intent_of_a_payment(shop: Shop) -> None:
    before = await shop.orders("/transaction/initialize")
    shop.line.lose(INTENT)
    again = await answered(shop, lambda: shop.ada.initialize(PAYSTACK, key="a"), finished=False)
    assert again.json()["status"] == "pending"
    assert await shop.orders("/transaction/initialize") == before


async def test_the_outcome_of_a_payment(shop: Shop) -> None:
    before = await shop.orders("/transaction/initialize")
    shop.lose_the_outcome("/transaction/initialize")
    again = await answered(shop, lambda: shop.ada.initialize(PAYSTACK, key="b"), finished=True)
    assert again.json()["status"] == "requires_action"
    assert await shop.orders("/transaction/initialize") == before + 1


async def test_the_webhook_of_a_payment(shop: Shop) -> None:
    started = await shop.ada.pay("paystack")
    reference = (await shop.ada.payment(started["id"]))["attempts"][0]["reference"]
    lost = shop.line.lost
    shop.line.lose(WEBHOOK)
    await shop.house.act("paystack", reference, "pay")
    await eventually(lambda: shop.line.lost > lost, what="the lost commit")
    payment = await shop.house.until(shop.ada, started["id"], "completed")

    async def worked_off() -> bool:
        return not await shop.house.rows("SELECT 1 FROM queue_messages")

    await eventually(worked_off, what="an empty spool")
    assert [event["type"] for event in payment["timeline"]].count("payment.completed") == 1


async def test_the_intent_of_a_refund(shop: Shop) -> None:
    payment, before = await paid(shop), await shop.orders("/refund")
    shop.line.lose(INTENT)

    async def ask() -> httpx.Response:
        return await shop.ada.post(f"/payments/{payment['id']}/refund", key="c", json={"amount": "100.00"})

    again = await answered(shop, ask, finished=False)
    assert (again.json()["status"], await shop.orders("/refund")) == ("pending", before)
    assert len((await shop.ada.payment(payment["id"]))["refunds"]) == 1


async def test_the_outcome_of_a_refund(shop: Shop) -> None:
    payment, before = await paid(shop), await shop.orders("/refund")
    shop.lose_the_outcome("/refund")

    async def ask() -> httpx.Response:
        return await shop.ada.post(f"/payments/{payment['id']}/refund", key="d", json={"amount": "100.00"})

    again = await answered(shop, ask, finished=True)
    assert (again.json()["status"], await shop.orders("/refund")) == ("processing", before + 1)


@pytest.mark.parametrize("finished", [False, True])
async def test_a_withdrawal(shop: Shop, finished: bool) -> None:
    await fill(shop.house, shop.ada, 1_000_000)
    before = await shop.orders("/transfer")
    shop.lose("/transfer", finished=finished)
    again = await answered(
        shop, lambda: shop.ada.post("/wallet/withdraw", key="e", json=body("paystack")), finished=finished
    )
    assert again.json()["status"] in (("pending",) if not finished else ("processing", "pending"))
    assert await shop.orders("/transfer") == before + finished
    assert await purse(shop.house, shop.ada) == (850_000, 150_000)
    # The timer asks, and what was never sent is not taken for failed by the clock.
    await check_due(shop.house.services)
    assert sum(await purse(shop.house, shop.ada)) == 1_000_000


@pytest.mark.parametrize("finished", [False, True])
async def test_an_approval(shop: Shop, finished: bool) -> None:
    await fill(shop.house, shop.ada, 20_000_000)
    asked = await shop.ada.post("/wallet/withdraw", key="f", json=body("paystack", amount="150000.00"))
    before = await shop.orders("/transfer")
    shop.lose("/transfer", finished=finished)

    async def ask() -> httpx.Response:
        path = f"/wallet/withdrawals/{asked.json()['id']}/approve"
        return await shop.root.post(path, key="g", json={"reason": "known"})

    again = await answered(shop, ask, finished=finished, status=200)
    assert again.json()["status"] in (("pending",) if not finished else ("processing", "pending"))
    assert await shop.orders("/transfer") == before + finished
    assert (await purse(shop.house, shop.ada))[1] == 15_000_000


@pytest.mark.parametrize("finished", [False, True])
async def test_a_purchase_of_airtime(shop: Shop, finished: bool) -> None:
    await fill(shop.house, shop.ada, 1_000_000)
    before = await shop.orders("/pay")
    shop.lose("/pay", finished=finished)
    wanted = {**AIRTIME, "phone": phone(70 + finished)}
    again = await answered(shop, lambda: shop.ada.post(PURCHASE, key="s", json=wanted), finished=finished)
    assert again.json()["status"] == ("processing" if finished else "pending")
    assert await shop.orders("/pay") == before + finished
    assert await purse(shop.house, shop.ada) == (950_000, 50_000)


async def test_a_rejection(shop: Shop) -> None:
    await fill(shop.house, shop.ada, 20_000_000)
    asked = await shop.ada.post("/wallet/withdraw", key="h", json=body("paystack", amount="150000.00"))
    shop.line.lose(INTENT)

    async def ask() -> httpx.Response:
        path = f"/wallet/withdrawals/{asked.json()['id']}/reject"
        return await shop.root.post(path, key="i", json={"reason": "unknown"})

    again = await answered(shop, ask, finished=True, status=200)
    assert again.json()["status"] == "cancelled"
    assert await purse(shop.house, shop.ada) == (20_000_000, 0)


async def test_a_decision_about_a_review(shop: Shop) -> None:
    started = await shop.ada.pay("paystack", amount="19.11")
    reference = (await shop.ada.payment(started["id"]))["attempts"][0]["reference"]
    await shop.house.act("paystack", reference, "pay")
    payment = await shop.house.until(shop.ada, started["id"], "under_review")
    shop.line.lose(INTENT)

    async def ask() -> httpx.Response:
        wanted = {"outcome": "completed", "reason": "agreed"}
        return await shop.root.post(f"/payments/{payment['id']}/resolve", key="j", json=wanted)

    again = await answered(shop, ask, finished=True, status=200)
    assert again.json()["status"] == "completed"


async def test_a_cancellation(shop: Shop) -> None:
    started = await shop.ada.pay("paystack")
    shop.line.lose(OUTCOME)
    first = await shop.ada.post(f"/payments/{started['id']}/cancel", json={})
    assert first.status_code == 503, first.text
    again = await shop.ada.post(f"/payments/{started['id']}/cancel", json={})
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")


@pytest.mark.parametrize("finished", [False, True])
async def test_an_otp(shop: Shop, finished: bool) -> None:
    payment = await shop.ada.pay("cpay", method="otp")
    before = await shop.orders("/confirm")
    shop.lose("/confirm", finished=finished)

    async def ask() -> httpx.Response:
        return await shop.ada.post(f"/payments/{payment['id']}/submit-otp", key="k", json={"otp": "123456"})

    again = await answered(shop, ask, finished=finished, status=200)
    assert again.json()["status"] == ("completed" if finished else "requires_action")
    assert await shop.orders("/confirm") == before + finished
    if not finished:
        # Nothing was passed on; after the lease the customer may try again.
        fresh = await shop.ada.post(f"/payments/{payment['id']}/submit-otp", key="l", json={"otp": "123456"})
        assert (fresh.status_code, fresh.json()["status"]) == (200, "completed"), fresh.text


# -- the provider has answered, and the process is gone ------------------------------------------------------------------------


async def replayed(shop: Shop, ask: Callable[[], Awaitable[httpx.Response]], status: int = 201) -> dict[str, Any]:
    with pytest.raises(Killed):
        await ask()
    assert (await ask()).status_code == 409
    await shop.after_the_lease()
    again = await ask()
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (status, "true"), again.text
    return dict(again.json())


async def test_killed_with_a_refund_on_its_way(shop: Shop) -> None:
    payment, before = await paid(shop), await shop.orders("/refund")
    shop.die_once_answered("/refund")

    async def ask() -> httpx.Response:
        return await shop.ada.post(f"/payments/{payment['id']}/refund", key="m", json={"amount": "100.00"})

    refund = await replayed(shop, ask)
    assert (refund["status"], await shop.orders("/refund")) == ("pending", before + 1)
    # What is under way counts: no second one takes the same money.
    rest = await shop.ada.post(f"/payments/{payment['id']}/refund", key="n", json={"amount": "4950.00"})
    assert (rest.status_code, rest.json()["code"]) == (409, "refund_exceeds_remaining")

    async def ended() -> bool:
        await shop.house.rows("UPDATE refunds SET next_check_at = now() WHERE next_check_at IS NOT NULL")
        await check_due(shop.house.services)
        whole = await shop.ada.payment(payment["id"])
        return bool(whole["status"] == "partially_refunded" and whole["refunded_minor"] == 10_000)

    await eventually(ended, what="the refund's end")
    assert await shop.orders("/refund") == before + 1


async def test_killed_with_an_approved_withdrawal_on_its_way(shop: Shop) -> None:
    await fill(shop.house, shop.ada, 20_000_000)
    asked = await shop.ada.post("/wallet/withdraw", key="o", json=body("paystack", amount="150000.00"))
    before = await shop.orders("/transfer")
    path = f"/wallet/withdrawals/{asked.json()['id']}"
    shop.die_once_answered("/transfer")

    async def ask() -> httpx.Response:
        return await shop.root.post(f"{path}/approve", key="p", json={"reason": "known"})

    assert (await replayed(shop, ask, 200))["status"] in ("pending", "completed")
    reference = (await shop.ada.get(path)).json()["attempts"][0]["reference"]
    await shop.house.act("paystack", reference, "pay")
    refused = await shop.root.post(f"{path}/reject", key="q", json={"reason": "too late"})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_awaiting_approval")

    async def ended() -> bool:
        await shop.house.rows("UPDATE transactions SET next_check_at = now() WHERE status IN ('pending', 'processing')")
        await check_due(shop.house.services)
        return bool((await shop.ada.get(path)).json()["status"] == "completed")

    await eventually(ended, what="the transfer's end")
    assert await shop.orders("/transfer") == before + 1
    assert await purse(shop.house, shop.ada) == (5_000_000, 0)


async def test_killed_with_an_otp_on_its_way(shop: Shop) -> None:
    payment = await shop.ada.pay("cpay", method="otp")
    before = await shop.orders("/confirm")
    shop.die_once_answered("/confirm")

    async def ask() -> httpx.Response:
        return await shop.ada.post(f"/payments/{payment['id']}/submit-otp", key="r", json={"otp": "123456"})

    await replayed(shop, ask, 200)
    await shop.house.rows("UPDATE transactions SET next_check_at = now() WHERE id = $1::text::uuid", payment["id"])
    await check_due(shop.house.services)
    assert (await shop.ada.payment(payment["id"]))["status"] == "completed"
    assert await shop.orders("/confirm") == before + 1
