"""Money that goes back: a funding's refund holds it on the wallet first, and a chargeback takes what is there."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from payflow.core.ids import uuid7
from payflow.ledger import repository as ledger
from payflow.ledger.journals import Journal, Line
from payflow.ledger.repository import Accounts
from tests.house import STRIPE, House, Merchant, eventually
from tests.wallets.conftest import fund, holds, wallet_of


async def refund(merchant: Merchant, funding: dict[str, Any], amount: str | None = None) -> httpx.Response:
    body = {"amount": amount} if amount else {}
    return await merchant.post(f"/payments/{funding['id']}/refund", key=str(uuid4()), json=body)


async def spend(shop: House, merchant: Merchant, minor: int, currency: str = "NGN") -> None:
    """Money leaves the wallet, as it does when a withdrawal was sent."""
    lines = [
        Line("wallet", UUID(merchant.id), currency, minor),
        Line("provider_clearing:paystack", None, currency, -minor),
    ]
    journal = Journal("spent", "test", uuid7(), None, lines)
    async with shop.services.database.transaction() as raw:
        await Accounts().open(raw, [journal])
        first, second = ledger.parameters([journal])
        await raw.execute(ledger.INSERT_JOURNALS, *first)
        await raw.execute(ledger.INSERT_ENTRIES, *second)


async def receivable(shop: House, merchant: Merchant) -> int:
    rows = await shop.rows(
        """
        SELECT coalesce(sum(e.amount_minor), 0)::bigint AS owed FROM ledger_entries e
        JOIN ledger_accounts a ON a.id = e.account_id WHERE a.code = 'receivable' AND a.user_id = $1::uuid
        """,
        merchant.id,
    )
    return int(rows[0]["owed"])


def story(transaction: dict[str, Any]) -> list[str]:
    assert [event["sequence"] for event in transaction["timeline"]] == list(range(1, transaction["version"] + 1))
    return [event["type"] for event in transaction["timeline"] if event["type"].startswith(("refund.", "wallet."))]


async def kinds(merchant: Merchant) -> list[tuple[str, int, int]]:
    """The statement, oldest first: type, amount, balance."""
    entries = (await merchant.get("/wallet/statement")).json()["data"]
    return [(entry["type"], entry["amount_minor"], entry["balance_minor"]) for entry in reversed(entries)]


async def in_flight(shop: House, merchant: Merchant, amount: str = "200.00") -> tuple[dict[str, Any], dict[str, Any]]:
    """A funding, and a refund of it whose provider says nothing yet."""
    funding = await fund(shop, merchant)
    await shop.outcome("paystack", "silent", operation="refund", times=1)
    answer = await refund(merchant, funding, amount)
    assert (answer.status_code, answer.json()["status"]) == (201, "processing")
    return funding, dict(answer.json())


async def act(shop: House, merchant: Merchant, funding: dict[str, Any], action: str, status: str) -> dict[str, Any]:
    """The provider ends the refund; gives the funding once we know."""
    answer = await shop.act("paystack", funding["attempts"][0]["reference"], action)
    assert answer.is_success, answer.text
    stands: dict[str, Any] = {}

    async def ended() -> bool:
        await merchant.post(f"/payments/{funding['id']}/verify")
        stands.update(await merchant.payment(funding["id"]))
        return bool(stands["refunds"][0]["status"] == status)

    await eventually(ended, seconds=30)
    return stands


async def test_a_refund_in_flight_holds_its_amount(shop: House, ada: Merchant) -> None:
    await in_flight(shop, ada)
    assert await holds(ada) == (30_000, 20_000, "active")
    assert await kinds(ada) == [("funding", 50_000, 50_000), ("hold", -20_000, 30_000)]


async def test_a_completed_refund_captures_what_it_held(shop: House, ada: Merchant) -> None:
    funding, _ = await in_flight(shop, ada)
    stands = await act(shop, ada, funding, "refund_settle", "completed")
    assert (stands["status"], stands["refunded_minor"]) == ("partially_refunded", 20_000)
    assert await holds(ada) == (30_000, 0, "active")
    assert story(stands) == [
        "wallet.credited",
        "refund.processing",
        "wallet.held",
        "wallet.debited",
        "refund.completed",
    ]


async def test_a_failed_refund_releases_what_it_held(shop: House, ada: Merchant) -> None:
    funding, _ = await in_flight(shop, ada)
    stands = await act(shop, ada, funding, "refund_fail", "failed")
    assert (stands["status"], stands["refunded_minor"]) == ("completed", 0)
    assert await holds(ada) == (50_000, 0, "active")
    assert await kinds(ada) == [
        ("funding", 50_000, 50_000),
        ("hold", -20_000, 30_000),
        ("hold_released", 20_000, 50_000),
    ]
    assert story(stands)[-2:] in (["wallet.released", "refund.failed"], ["refund.failed", "wallet.released"])


async def test_what_was_spent_cannot_be_given_back(shop: House, ada: Merchant) -> None:
    funding = await fund(shop, ada)
    await spend(shop, ada, 40_000)
    before = (await ada.payment(funding["id"]))["version"]
    refused = await refund(ada, funding)
    assert (refused.status_code, refused.json()["code"]) == (409, "insufficient_funds")
    stands = await ada.payment(funding["id"])
    assert (stands["refunds"], stands["version"]) == ([], before)
    assert await holds(ada) == (10_000, 0, "active")
    assert (await refund(ada, funding, "100.00")).status_code == 201


async def test_refunds_of_several_fundings_at_once_give_back_no_more_than_there_is(shop: House, ada: Merchant) -> None:
    fundings = [await fund(shop, ada) for _ in range(4)]
    await spend(shop, ada, 110_000)
    await shop.outcome("paystack", "silent", operation="refund", times=4)
    answers = await asyncio.gather(*(refund(ada, funding) for funding in fundings))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert await holds(ada) == (40_000, 50_000, "active")
    await shop.outcome("paystack", "success", operation="refund")


@pytest.mark.parametrize("spent", [50_000, 35_000])
async def test_a_chargeback_of_spent_money_is_owed_and_freezes_the_wallet(
    shop: House, ada: Merchant, spent: int
) -> None:
    funding = await fund(shop, ada)
    await spend(shop, ada, spent)
    reference = funding["attempts"][0]["reference"]
    assert (await shop.act("paystack", reference, "dispute_accept")).is_success
    stands = await shop.until(ada, funding["id"], "reversed")
    assert await holds(ada) == (0, 0, "frozen")
    assert await receivable(shop, ada) == spent
    assert (await wallet_of(ada))["status_reason"] == "taken_back"
    taken = [] if spent == 50_000 else ["wallet.debited"]
    assert story(stands) == ["wallet.credited", *taken, "wallet.frozen"]
    refused = await ada.post("/wallet/toggle-activity", json={"currency": "NGN", "active": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "wallet_frozen")


async def test_a_chargeback_of_money_that_is_there_takes_it_and_freezes_nothing(shop: House, ada: Merchant) -> None:
    funding = await fund(shop, ada)
    assert (await shop.act("paystack", funding["attempts"][0]["reference"], "dispute_accept")).is_success
    stands = await shop.until(ada, funding["id"], "reversed")
    assert story(stands) == ["wallet.credited", "wallet.debited"]
    assert await holds(ada) == (0, 0, "active")
    assert await receivable(shop, ada) == 0
    assert await kinds(ada) == [("funding", 50_000, 50_000), ("chargeback", -50_000, 0)]


async def test_a_refund_made_at_the_provider_of_spent_money_is_owed_too(shop: House, ada: Merchant) -> None:
    """It went whatever the wallet holds: what is there is taken, the rest is owed."""
    funding = await fund(shop, ada, provider="stripe", currency="USD", customer=STRIPE["customer"])
    await spend(shop, ada, 45_000, "USD")
    intent = next(word for word in funding["attempts"][0]["provider_references"] if word.startswith("pi_"))
    made = await shop.simulator.post(
        "/stripe/v1/refunds",
        data={"payment_intent": intent, "amount": "12345"},
        headers={"authorization": f"Bearer {shop.simulator_settings.stripe_secret_key}"},
    )
    assert made.is_success, made.text

    async def told() -> bool:
        return bool((await ada.payment(funding["id"]))["refunded_minor"] == 12_345)

    await eventually(told, seconds=30)
    assert await holds(ada, "USD") == (0, 0, "frozen")
    assert await receivable(shop, ada) == 7_345
    assert (await wallet_of(ada, "USD"))["status_reason"] == "refunded_elsewhere"
    assert (await holds(ada))[2] == "active"  # the wallet in naira has nothing to do with it
    # It fails late, as Stripe's may: the debt ends with what it began with.
    failing = await shop.simulator.post(f"/_control/charges/stripe/{funding['attempts'][0]['reference']}/refund_fail")
    assert failing.is_success, failing.text

    async def failed() -> bool:
        return bool((await ada.payment(funding["id"]))["refunded_minor"] == 0)

    await eventually(failed, seconds=30)
    assert await holds(ada, "USD") == (5_000, 0, "frozen")
    assert await receivable(shop, ada) == 0
    assert story(await ada.payment(funding["id"]))[-2:] == ["wallet.credited", "refund.failed"]


async def test_nothing_goes_back_out_of_a_wallet_that_is_not_active(shop: House, ada: Merchant) -> None:
    funding = await fund(shop, ada)
    admin = await shop.merchant(admin=True)
    await ada.post("/wallet/toggle-activity", json={"currency": "NGN", "active": False})
    off = await refund(ada, funding)
    assert (off.status_code, off.json()["code"]) == (409, "wallet_inactive")
    await admin.post(f"/wallet/{ada.id}/freeze", json={"currency": "NGN", "frozen": True, "reason": "Under enquiry."})
    for caller in (ada, admin):
        frozen = await refund(caller, funding)
        assert (frozen.status_code, frozen.json()["code"]) == (409, "wallet_frozen")
    assert (await ada.payment(funding["id"]))["refunds"] == []
    await admin.post(f"/wallet/{ada.id}/freeze", json={"currency": "NGN", "frozen": False, "reason": "All is well."})
    assert (await refund(ada, funding)).status_code == 201


async def test_a_refund_in_flight_ends_in_a_frozen_wallet_too(shop: House, ada: Merchant) -> None:
    funding, _ = await in_flight(shop, ada)
    admin = await shop.merchant(admin=True)
    await admin.post(f"/wallet/{ada.id}/freeze", json={"currency": "NGN", "frozen": True, "reason": "Under enquiry."})
    await act(shop, ada, funding, "refund_settle", "completed")
    assert await holds(ada) == (30_000, 0, "frozen")


async def test_two_chargebacks_at_once_of_one_wallet(shop: House, ada: Merchant) -> None:
    """Their webhooks may come to the worker in one batch."""
    fundings = [await fund(shop, ada) for _ in range(4)]
    await spend(shop, ada, 150_000)
    references = [funding["attempts"][0]["reference"] for funding in fundings]
    answers = await asyncio.gather(*(shop.act("paystack", reference, "dispute_accept") for reference in references))
    assert all(answer.is_success for answer in answers)
    for funding in fundings:
        await shop.until(ada, funding["id"], "reversed", seconds=30)
    assert await holds(ada) == (0, 0, "frozen")
    assert await receivable(shop, ada) == 150_000


async def test_a_key_for_payments_alone_takes_nothing_out_of_a_wallet(shop: House, ada: Merchant) -> None:
    funding = await fund(shop, ada)
    made = await ada.post("/auth/api-keys", json={"name": "payments", "scopes": ["payments:read", "payments:write"]})
    key = shop.client(**{"x-api-key": made.json()["key"], "idempotency-key": "k"})
    refused = await key.post(f"/api/v1/payments/{funding['id']}/refund", json={})
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert (await ada.payment(funding["id"]))["refunds"] == []
    sale = await ada.pay()
    await shop.until(ada, sale["id"], "completed")
    assert (await key.post(f"/api/v1/payments/{sale['id']}/refund", json={})).status_code == 201


@pytest.mark.parametrize(("action", "held_then"), [("refund_settle", 0), ("refund_fail", 20_000)])
async def test_a_dispute_is_lost_while_a_refund_is_in_flight(
    shop: House, ada: Merchant, action: str, held_then: int
) -> None:
    """What was lost is taken at once, and what is held for the refund is not there to be taken."""
    funding, _ = await in_flight(shop, ada)
    reference = funding["attempts"][0]["reference"]
    await shop.act("paystack", reference, "dispute")
    await shop.until(ada, funding["id"], "under_review", seconds=30)
    await shop.act("paystack", reference, "dispute_accept")
    await shop.until(ada, funding["id"], "reversed", seconds=30)
    assert await holds(ada) == (0, 20_000, "frozen")
    assert await receivable(shop, ada) == 20_000
    await act(shop, ada, funding, action, "completed" if action == "refund_settle" else "failed")
    assert await holds(ada) == (held_then, 0, "frozen")
    admin = await shop.merchant(admin=True)
    breaks = (await admin.get("/books", params={"fresh": "true"})).json()["breaks"]
    # What tests spend past the services is posted for nothing that there is.
    assert [each for each in breaks if not each["expected"].startswith("test ")] == []
