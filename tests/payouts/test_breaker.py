"""Transfers count for a provider's breaker, and while it is open nothing is held for it, or sent to it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from payflow.gateway.contract import PaysOut
from tests.gateway.test_routing import SETTINGS as ROUTING
from tests.gateway.test_routing import expire, line, shown
from tests.house import PAYSTACK, House, Merchant, Urls, eventually, running_house
from tests.payouts.till import attempt_of, audit, began, body, fill, purse, whole, withdraw
from tests.webhooks.desk import MovableClock
from worker.timers import check_due

FULL = 1_000_000
SETTINGS: dict[str, Any] = {
    **ROUTING,
    "provider_order": ("paystack", "flutterwave"),
    "withdrawal_approval_minor": {"NGN": 200_000},
    "access_token_seconds": 86_400,
}
LARGE = "2000.00"
REASON = {"reason": "Checked against the invoice."}


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def shop(urls: Urls, clock: MovableClock) -> AsyncIterator[House]:
    async with running_house(urls, amqp_url="", worker=False, clock=clock, **SETTINGS) as house:
        house.services.breakers._timeout_seconds = 30  # a busy machine is no Redis that is away
        yield house
        await audit(house)


@pytest.fixture
async def ada(shop: House) -> Merchant:
    merchant = await shop.merchant()
    await fill(shop, merchant, FULL)
    return merchant


async def silence(shop: House, ada: Merchant, provider: str) -> None:
    """Transfers for which there is no line, until the breaker opens."""
    line(shop).cut = {provider}
    while (await shown(ada, provider))["breaker"]["state"] == "closed":
        assert (await withdraw(ada, provider)).status_code == 502
        await shop.services.breakers.settled()
    line(shop).cut = set()
    assert (await shown(ada, provider))["breaker"]["state"] == "open"


async def unnamed(merchant: Merchant) -> httpx.Response:
    return await merchant.post("/wallet/withdraw", key=str(uuid4()), json={**body(), "provider": None})


async def withdrawals_of(shop: House, merchant: Merchant) -> int:
    rows = await shop.rows("SELECT id FROM transactions WHERE user_id = $1::uuid AND kind = 'withdrawal'", merchant.id)
    return len(rows)


def is_refused(answer: httpx.Response) -> bool:
    told = (answer.status_code, answer.json()["code"], answer.headers.get("retry-after"))
    return told == (503, "provider_unavailable", "5")


async def test_silent_transfers_open_it_and_the_next_is_refused_with_nothing_held(shop: House, ada: Merchant) -> None:
    await silence(shop, ada, "flutterwave")
    health = (await shown(ada, "flutterwave"))["health"]
    assert (health["calls"], health["success_rate"]) == (3, 0.0)
    begun = line(shop).begun("flutterwave")

    assert is_refused(await withdraw(ada, "flutterwave", key="again"))
    assert await purse(shop, ada) == (FULL, 0)
    assert await withdrawals_of(shop, ada) == 3
    assert line(shop).begun("flutterwave") == begun

    await expire(shop, "flutterwave")
    sent = await withdraw(ada, "flutterwave", key="again")
    assert (sent.status_code, sent.json()["status"]) == (201, "processing"), sent.text
    (attempt,) = (await whole(ada, sent.json()["id"]))["attempts"]
    assert attempt["routing"] == {"reason": "named by the caller; probe of its breaker"}
    await shop.services.breakers.settled()
    assert (await shown(ada, "flutterwave"))["breaker"]["state"] == "closed"


async def test_declines_and_refusals_open_nothing(shop: House, ada: Merchant) -> None:
    await shop.outcome("flutterwave", "refuse", operation="payout")
    for _ in range(4):
        assert (await began(ada, "flutterwave"))["status"] == "failed"
    await shop.services.breakers.settled()
    now = await shown(ada, "flutterwave")
    assert (now["breaker"]["state"], now["health"]["calls"], now["health"]["success_rate"]) == ("closed", 4, 1.0)


async def test_who_names_no_provider_is_sent_by_the_next(shop: House, ada: Merchant) -> None:
    await silence(shop, ada, "paystack")
    started = (await unnamed(ada)).json()
    assert started["provider"] == "flutterwave"
    (attempt,) = (await whole(ada, started["id"]))["attempts"]
    assert attempt["routing"] == {
        "reason": "the first in order that can send it",
        "considered": [{"provider": "paystack", "outcome": "skipped", "why": "breaker open"}],
    }


async def test_silent_payments_keep_transfers_away_too(shop: House, ada: Merchant) -> None:
    line(shop).cut = {"paystack"}
    for _ in range(3):
        assert (await ada.initialize(PAYSTACK)).status_code == 502
        await shop.services.breakers.settled()
    line(shop).cut = set()
    assert is_refused(await withdraw(ada))
    assert (await purse(shop, ada), await withdrawals_of(shop, ada)) == ((FULL, 0), 0)


async def test_when_all_rest_nobody_is_probed_before_its_time(shop: House, ada: Merchant) -> None:
    registry = shop.services.registry
    able = [name for name in registry.names if await registry.credentials(name) and _sends_naira(shop, name)]
    assert set(able) == {"paystack", "flutterwave", "moniepoint"}
    for name in able:
        await silence(shop, ada, name)
    begun = len(line(shop).calls)
    assert is_refused(await unnamed(ada))
    assert len(line(shop).calls) == begun
    assert await purse(shop, ada) == (FULL, 0)


def _sends_naira(shop: House, name: str) -> bool:
    provider = shop.services.registry.get(name)
    return isinstance(provider, PaysOut) and "NGN" in provider.declaration.currencies


async def test_in_half_open_one_is_the_probe_and_the_others_are_refused(shop: House, ada: Merchant) -> None:
    await silence(shop, ada, "flutterwave")
    await expire(shop, "flutterwave")
    wire = line(shop)
    before, wire.held["flutterwave"] = wire.begun("flutterwave"), asyncio.Event()
    probe = asyncio.create_task(withdraw(ada, "flutterwave"))
    await eventually(lambda: wire.begun("flutterwave") == before + 1)
    assert all(is_refused(answer) for answer in await asyncio.gather(*(withdraw(ada, "flutterwave") for _ in range(5))))
    wire.held.pop("flutterwave").set()
    assert (await probe).status_code == 201
    assert await purse(shop, ada) == (FULL - 150_000, 150_000)
    await shop.services.breakers.settled()
    assert (await withdraw(ada, "flutterwave")).status_code == 201


async def test_a_probe_that_is_not_sent_is_given_back(shop: House, ada: Merchant) -> None:
    await silence(shop, ada, "flutterwave")
    await expire(shop, "flutterwave")
    poor = await shop.merchant()
    assert (await withdraw(poor, "flutterwave")).json()["code"] == "insufficient_funds"
    assert (await withdraw(ada, "flutterwave")).status_code == 201


async def test_an_unknown_end_is_asked_for_while_the_breaker_is_open(
    shop: House, ada: Merchant, clock: MovableClock
) -> None:
    await shop.outcome("flutterwave", "server_error_after_charging", operation="payout", times=1)
    unknown = await withdraw(ada, "flutterwave", key="unknown")
    assert unknown.json()["status"] == "processing"
    await silence(shop, ada, "flutterwave")
    assert await purse(shop, ada) == (FULL - 150_000, 150_000)
    # The key stands for its first answer, and the provider is asked as ever.
    again = await withdraw(ada, "flutterwave", key="unknown")
    assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (201, unknown.content, "true")
    reference = await attempt_of(ada, unknown.json()["id"])

    async def paid() -> bool:
        charges = (await shop.charges("flutterwave", reference))["charges"]
        return [charge["status"] for charge in charges] == ["paid"]

    await eventually(paid, what="the transfer at the provider")
    clock.ahead += timedelta(minutes=10)
    await check_due(shop.services)
    assert (await whole(ada, unknown.json()["id"]))["status"] == "completed"
    assert await purse(shop, ada) == (FULL - 150_000, 0)
    assert (await shown(ada, "flutterwave"))["breaker"]["state"] == "open"


async def test_what_waits_for_approval_is_taken_and_let_go_once_the_provider_answers(
    shop: House, ada: Merchant
) -> None:
    admin = await shop.merchant(admin=True)
    await silence(shop, ada, "flutterwave")
    waiting = await began(ada, "flutterwave", amount=LARGE)
    assert waiting["status"] == "pending"
    path = f"/wallet/withdrawals/{waiting['id']}/approve"
    assert is_refused(await admin.post(path, key="k", json=REASON))
    stands = await whole(ada, waiting["id"])
    assert (stands["version"], stands["approval"]["decision"]) == (waiting["version"], None)
    await expire(shop, "flutterwave")
    approved = await admin.post(path, key="k", json=REASON)
    assert (approved.status_code, approved.json()["status"]) == (200, "processing")
    await shop.services.breakers.settled()
    assert (await shown(ada, "flutterwave"))["breaker"]["state"] == "closed"


async def test_a_decision_that_comes_too_late_gives_the_probe_back(shop: House, ada: Merchant) -> None:
    admin = await shop.merchant(admin=True)
    waiting = await began(ada, "flutterwave", amount=LARGE)
    assert (await ada.post(f"/wallet/withdrawals/{waiting['id']}/cancel")).json()["status"] == "cancelled"
    await silence(shop, ada, "flutterwave")
    await expire(shop, "flutterwave")
    late = await admin.post(f"/wallet/withdrawals/{waiting['id']}/approve", key="k", json=REASON)
    assert late.status_code == 409
    assert (await withdraw(ada, "flutterwave")).status_code == 201
