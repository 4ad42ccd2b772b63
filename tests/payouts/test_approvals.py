"""Above a threshold somebody else lets a withdrawal go; limits of what leaves a wallet in a day."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.house import House, Merchant, Urls, eventually, running_house
from tests.openapi.document import as_documented
from tests.payouts.till import attempt_of, audit, began, fill, purse, story, until, whole, withdraw
from tests.webhooks.desk import MovableClock
from worker.timers import check_due

FULL = 1_000_000
REASON = {"reason": "Checked against the invoice."}
LARGE = "2000.00"


@pytest.fixture(scope="module")
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture(scope="module")
async def bank(urls: Urls, clock: MovableClock) -> AsyncIterator[House]:
    """From 2,000.00 NGN on somebody approves; at most 3 withdrawals and 5,000.00 NGN a day."""
    async with running_house(
        urls,
        amqp_url="",
        clock=clock,
        simulator={"customer_delay_seconds": 0.05},
        access_token_seconds=400 * 86_400,
        withdrawals_per_day=3,
        withdrawal_daily_minor={"NGN": 500_000},
        withdrawal_approval_minor={"NGN": 200_000},
    ) as house:
        yield house


@pytest.fixture
async def shop(bank: House) -> AsyncIterator[House]:
    yield bank
    await bank.simulator.delete("/_control/outcomes")
    await audit(bank)


@pytest.fixture
async def ada(shop: House) -> Merchant:
    merchant = await shop.merchant()
    await fill(shop, merchant, FULL)
    return merchant


@pytest.fixture
async def admin(shop: House) -> Merchant:
    return await shop.merchant(admin=True)


async def sent(shop: House, merchant: Merchant, withdrawal_id: str) -> int:
    charges = await shop.charges("paystack", await attempt_of(merchant, withdrawal_id))
    return int(charges["totals"]["submissions"])


async def asked_about(shop: House, reference: str) -> bool:
    listed = (await shop.simulator.get("/_control/requests", params={"provider": "paystack"})).json()["requests"]
    return any(request["path"].endswith(f"/transfer/verify/{reference}") for request in listed)


async def test_below_the_threshold_nobody_is_asked(shop: House, ada: Merchant) -> None:
    started = await began(ada, amount="1999.99")
    assert (await until(ada, started["id"], "completed"))["approval"] is None


async def test_at_the_threshold_it_waits_and_an_admin_sends_it(shop: House, ada: Merchant, admin: Merchant) -> None:
    started = await began(ada, amount=LARGE, key="large")
    assert started["status"] == "pending"
    assert await purse(shop, ada) == (800_000, 200_000)
    assert await sent(shop, ada, started["id"]) == 0
    waiting = await whole(ada, started["id"])
    assert waiting["approval"]["decision"] is None
    assert started["next_check_at"] is waiting["next_check_at"] is None
    assert story(waiting) == ["withdrawal.initiated", "wallet.held"]
    assert (await withdraw(ada, amount=LARGE, key="large")).json() == started
    path = f"/wallet/withdrawals/{started['id']}/approve"
    assert (await ada.post(path, key="k", json=REASON)).json()["code"] == "admin_only"
    approved = await admin.post(path, key="k", json=REASON)
    assert approved.status_code == 200, approved.text
    done = await until(ada, started["id"], "completed")
    assert story(done)[:3] == ["withdrawal.initiated", "wallet.held", "withdrawal.approved"]
    assert as_documented(done["timeline"])
    assert (done["approval"]["decision"], done["approval"]["reason"]) == ("approved", REASON["reason"])
    assert await purse(shop, ada) == (800_000, 0)
    again = await admin.post(path, key="k", json=REASON)
    assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (200, approved.content, "true")
    assert (await admin.post(path, key="k2", json=REASON)).json()["code"] == "not_awaiting_approval"
    assert await sent(shop, ada, started["id"]) == 1


async def test_rejected_is_cancelled_and_the_owner_has_the_money(shop: House, ada: Merchant, admin: Merchant) -> None:
    started = await began(ada, amount=LARGE)
    path = f"/wallet/withdrawals/{started['id']}"
    rejected = await admin.post(f"{path}/reject", key="k", json=REASON)
    assert (rejected.status_code, rejected.json()["status"]) == (200, "cancelled")
    stands = await whole(ada, started["id"])
    assert story(stands)[2:] == ["withdrawal.cancelled", "wallet.released"]
    assert stands["timeline"][2]["data"]["reason"] == REASON["reason"]
    assert as_documented(stands["timeline"])
    assert await purse(shop, ada) == (FULL, 0)
    assert (await admin.post(f"{path}/approve", key="k", json=REASON)).json()["code"] == "not_awaiting_approval"
    again = await admin.post(f"{path}/reject", key="k", json=REASON)
    assert (again.content, again.headers["idempotent-replayed"]) == (rejected.content, "true")
    assert await sent(shop, ada, started["id"]) == 0


async def test_who_asks_does_not_approve(shop: House, admin: Merchant) -> None:
    await fill(shop, admin, FULL)
    started = await began(admin, amount=LARGE)
    path = f"/wallet/withdrawals/{started['id']}"
    for word in ("approve", "reject"):
        answer = await admin.post(f"{path}/{word}", key="k", json=REASON)
        assert (answer.status_code, answer.json()["code"]) == (403, "own_withdrawal")
    assert (await whole(admin, started["id"]))["status"] == "pending"
    other = await shop.merchant(admin=True)
    assert (await other.post(f"{path}/approve", key="k", json=REASON)).status_code == 200
    await until(admin, started["id"], "completed")


async def test_who_asked_does_not_resolve_what_took_a_second_person(
    shop: House, admin: Merchant, clock: MovableClock
) -> None:
    await fill(shop, admin, FULL)
    other = await shop.merchant(admin=True)
    await shop.outcome("paystack", "silent", operation="payout", times=2)
    large, small = await began(admin, amount=LARGE), await began(admin)
    await other.post(f"/wallet/withdrawals/{large['id']}/approve", key="k", json=REASON)
    clock.ahead += timedelta(days=3)
    await check_due(shop.services)
    decision = {"outcome": "failed", "reason": "Never came."}
    own = await admin.post(f"/wallet/withdrawals/{large['id']}/resolve", key="k", json=decision)
    assert (own.status_code, own.json()["code"]) == (403, "own_withdrawal")
    assert (await whole(admin, large["id"]))["status"] == "under_review"
    for who, started in ((other, large), (admin, small)):  # the small one needed nobody else
        decided = await who.post(f"/wallet/withdrawals/{started['id']}/resolve", key="k", json=decision)
        assert (decided.status_code, decided.json()["status"]) == (200, "failed")
    assert await purse(shop, admin) == (FULL, 0)


async def test_who_owns_the_wallet_does_not_say_that_money_came_to_it(shop: House, admin: Merchant) -> None:
    """From the same amount on: or one person could fill a wallet by a word, and empty it in small parts."""
    other = await shop.merchant(admin=True)
    asked = {"amount": "1999.99", "currency": "NGN", "provider": "paystack", "customer": {"email": "ada@example.com"}}
    small, large = [await funding_to_look_at(shop, admin, {**asked, "amount": text}) for text in ("1999.00", LARGE)]
    decision = {"outcome": "completed", "reason": "Seen on the statement."}
    own = await admin.post(f"/payments/{large}/resolve", key="k", json=decision)
    assert (own.status_code, own.json()["code"]) == (403, "own_wallet")
    assert (await admin.payment(large))["status"] == "under_review"
    assert await purse(shop, admin) == (0, 0)
    for who, funding in ((other, large), (admin, small)):
        decided = await who.post(f"/payments/{funding}/resolve", key="k", json=decision)
        assert (decided.status_code, decided.json()["status"]) == (200, "completed")


async def test_what_was_paid_counts_beside_what_was_asked(shop: House, admin: Merchant) -> None:
    asked = {"amount": "10.00", "currency": "NGN", "provider": "paystack", "customer": {"email": "ada@example.com"}}
    funding = await funding_to_look_at(shop, admin, asked)
    async with shop.services.database.transaction() as connection:
        await connection.execute(
            "UPDATE attempts SET paid_minor = $2 WHERE transaction_id = $1", UUID(funding), 200_000
        )
    own = await admin.post(f"/payments/{funding}/resolve", key="k", json={"outcome": "failed", "reason": "Never came."})
    assert (own.status_code, own.json()["code"]) == (403, "own_wallet")


async def test_who_owns_the_wallet_does_not_say_that_its_refund_never_went(
    shop: House, admin: Merchant, clock: MovableClock
) -> None:
    other = await shop.merchant(admin=True)
    asked = {"amount": LARGE, "currency": "NGN", "provider": "paystack", "customer": {"email": "ada@example.com"}}
    funding = (await admin.post("/wallet/fund", key="k", json=asked)).json()["id"]
    await shop.until(admin, funding, "completed")
    await shop.outcome("paystack", "silent", operation="refund", times=1)
    refund = (await admin.post(f"/payments/{funding}/refund", key="k", json={})).json()["id"]
    clock.ahead += timedelta(days=15)
    await check_due(shop.services)
    decision, path = {"outcome": "failed", "reason": "Never came."}, f"/payments/{funding}/refunds/{refund}/resolve"
    own = await admin.post(path, key="k", json=decision)
    assert (own.status_code, own.json()["code"]) == (403, "own_wallet")
    assert await purse(shop, admin) == (0, 200_000)
    decided = await other.post(path, key="k", json=decision)
    assert (decided.status_code, decided.json()["status"]) == (200, "failed")
    assert await purse(shop, admin) == (200_000, 0)


async def funding_to_look_at(shop: House, merchant: Merchant, asked: dict[str, Any]) -> str:
    await shop.outcome("paystack", "wrong_amount", times=1)
    started = await merchant.post("/wallet/fund", key=uuid4().hex, json=asked)
    assert started.status_code == 201, started.text
    return str((await shop.until(merchant, started.json()["id"], "under_review"))["id"])


async def test_of_two_admins_at_once_one_wins(shop: House, ada: Merchant, admin: Merchant) -> None:
    second = await shop.merchant(admin=True)
    for number, words in enumerate([("approve", "approve"), ("approve", "reject")]):
        started = await began(ada, amount=LARGE)
        path = f"/wallet/withdrawals/{started['id']}"
        answers = await asyncio.gather(
            *(
                who.post(f"{path}/{word}", key=f"k{number}", json=REASON)
                for who, word in zip((admin, second), words, strict=True)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        loser = next(answer for answer in answers if answer.status_code == 409)
        assert loser.json()["code"] == "not_awaiting_approval"
        await until(ada, started["id"], "completed", "cancelled")
        assert await sent(shop, ada, started["id"]) <= 1


async def test_the_owner_cancels_only_while_it_waits(shop: House, ada: Merchant, admin: Merchant) -> None:
    started = await began(ada, amount=LARGE)
    path = f"/wallet/withdrawals/{started['id']}"
    assert (await admin.post(f"{path}/cancel")).status_code == 404
    for _ in range(2):
        cancelled = await ada.post(f"{path}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert await purse(shop, ada) == (FULL, 0)
    assert (await admin.post(f"{path}/approve", key="k", json=REASON)).json()["code"] == "not_awaiting_approval"
    await shop.outcome("paystack", "silent", operation="payout", times=2)
    for amount in ("100.00", LARGE):
        other = await began(ada, amount=amount)
        await admin.post(f"/wallet/withdrawals/{other['id']}/approve", key="k", json=REASON)
        refused = await ada.post(f"/wallet/withdrawals/{other['id']}/cancel")
        assert (refused.status_code, refused.json()["code"]) == (409, "not_cancellable")
    assert await purse(shop, ada) == (790_000, 210_000)


async def test_cancel_and_approve_at_once_end_one_way(shop: House, ada: Merchant, admin: Merchant) -> None:
    for number in range(3):
        started = await began(ada, amount=LARGE)
        path = f"/wallet/withdrawals/{started['id']}"
        cancelled, approved = await asyncio.gather(
            ada.post(f"{path}/cancel"), admin.post(f"{path}/approve", key=f"k{number}", json=REASON)
        )
        assert sorted([cancelled.status_code, approved.status_code]) == [200, 409]
        ended = await until(ada, started["id"], "completed", "cancelled")
        assert (ended["status"] == "cancelled") == (cancelled.status_code == 200)
        if ended["status"] == "completed":
            break


async def test_the_timer_leaves_alone_what_nobody_approved(
    shop: House, ada: Merchant, admin: Merchant, clock: MovableClock
) -> None:
    started = await began(ada, amount=LARGE)
    reference = await attempt_of(ada, started["id"])
    clock.ahead += timedelta(days=60)
    await check_due(shop.services)
    assert not await asked_about(shop, reference)
    assert (await whole(ada, started["id"]))["status"] == "pending"
    assert await purse(shop, ada) == (800_000, 200_000)
    await shop.outcome("paystack", "silent", operation="payout", times=1)
    await admin.post(f"/wallet/withdrawals/{started['id']}/approve", key="k", json=REASON)
    assert (await whole(ada, started["id"]))["status"] == "processing"
    clock.ahead += timedelta(days=3)
    await check_due(shop.services)
    assert (await whole(ada, started["id"]))["status"] == "under_review"
    assert await asked_about(shop, reference)
    await admin.post(
        f"/wallet/withdrawals/{started['id']}/resolve", key="k", json={"outcome": "failed", "reason": "Never came."}
    )
    assert await purse(shop, ada) == (FULL, 0)


async def test_a_hint_asks_nobody_about_what_nobody_approved(
    shop: House, ada: Merchant, admin: Merchant, clock: MovableClock
) -> None:
    """Flutterwave's webhooks are proved by a word that is the same for all: who knows it can name any reference."""
    started = await began(ada, "flutterwave", amount=LARGE)
    reference = await attempt_of(ada, started["id"])
    told = {"id": 33286, "currency": "NGN", "amount": 2000, "status": "FAILED", "reference": reference}
    settings = shop.simulator_settings

    async def hinted() -> None:
        answer = await shop.client().post(
            "/api/v1/webhooks/flutterwave",
            json={"event": "transfer.completed", "data": told},
            headers={"verif-hash": settings.flutterwave_secret_hash},
        )
        assert answer.status_code == 200

        async def taken() -> bool:
            return not await shop.rows("SELECT id FROM queue_messages")

        await eventually(taken)

    async def asked() -> list[str]:
        listed = (await shop.simulator.get("/_control/requests", params={"provider": "flutterwave"})).json()
        return [request["path"] for request in listed["requests"]]

    before = await asked()
    await hinted()
    clock.ahead += timedelta(days=60)
    await check_due(shop.services)
    assert (await whole(ada, started["id"]))["status"] == "pending"
    await admin.post(f"/wallet/withdrawals/{started['id']}/reject", key="k", json=REASON)
    await hinted()
    assert await asked() == before
    assert await purse(shop, ada) == (FULL, 0)


async def test_a_frozen_wallet_lets_nothing_go_though_it_was_asked_for_before(
    shop: House, ada: Merchant, admin: Merchant
) -> None:
    started = await began(ada, amount=LARGE)
    await shop.rows("UPDATE wallets SET status = 'frozen' WHERE user_id = $1::uuid RETURNING id", ada.id)
    path = f"/wallet/withdrawals/{started['id']}"
    answer = await admin.post(f"{path}/approve", key="k", json=REASON)
    assert (answer.status_code, answer.json()["code"]) == (409, "wallet_frozen")
    assert (await whole(ada, started["id"]))["approval"]["decision"] is None
    assert await sent(shop, ada, started["id"]) == 0
    assert (await admin.post(f"{path}/reject", key="k", json=REASON)).json()["status"] == "cancelled"


async def test_how_many_a_day(shop: House, ada: Merchant, clock: MovableClock) -> None:
    await shop.outcome("paystack", "refuse", operation="payout", times=1)
    assert (await began(ada, amount="1.00"))["status"] == "failed"  # what failed does not count
    for _ in range(3):
        await until(ada, (await began(ada, amount="1.00"))["id"], "completed")
    over = await withdraw(ada, amount="1.00", key="over")
    assert (over.status_code, over.json()["code"]) == (409, "withdrawal_limit")
    clock.ahead += timedelta(hours=25)
    assert (await withdraw(ada, amount="1.00", key="over")).status_code == 201


async def test_how_much_a_day_and_what_is_left_is_told(shop: House, ada: Merchant) -> None:
    held = await began(ada, amount="4000.00")  # waits for approval, and counts
    over = await withdraw(ada, amount="1000.01")
    assert (over.status_code, over.json()["code"], over.json()["left_minor"]) == (409, "withdrawal_limit", 100_000)
    await ada.post(f"/wallet/withdrawals/{held['id']}/cancel")
    assert (await withdraw(ada, amount="1000.01")).status_code == 201


async def test_many_at_once_count_each_other(shop: House, ada: Merchant) -> None:
    answers = await asyncio.gather(*(withdraw(ada, amount="1.00") for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 7
    codes = {answer.json()["code"] for answer in answers if answer.status_code == 409}
    assert codes == {"withdrawal_limit"}
