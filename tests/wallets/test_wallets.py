"""Wallets over the API: opened, funded, switched off, frozen; each user sees only his own."""

import asyncio
from typing import Any
from uuid import uuid4

from tests.house import PAYSTACK, STRIPE, House, Merchant
from tests.openapi.document import as_documented
from tests.wallets.conftest import fund, holds, start_funding, wallet_of


async def events_of(merchant: Merchant, type: str) -> list[dict[str, Any]]:
    answer = await merchant.get("/events", params={"type": type})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


async def test_registration_opens_a_wallet_in_the_default_currency(ada: Merchant) -> None:
    answer = await ada.get("/wallet")
    (wallet,) = answer.json()["data"]
    created = wallet.pop("created_at")
    assert created.endswith("Z")
    assert wallet == {
        "currency": "NGN",
        "available": "0.00",
        "available_minor": 0,
        "held": "0.00",
        "held_minor": 0,
        "status": "active",
        "status_reason": None,
    }


async def test_a_taken_address_opens_no_second_wallet(shop: House, ada: Merchant) -> None:
    body = {"email": ada.user["email"], "password": "correct horse battery", "name": "Somebody"}
    answer = await shop.client().post("/api/v1/auth/register", json=body)
    assert answer.status_code == 409
    rows = await shop.rows("SELECT count(*) AS n FROM wallets WHERE user_id = $1::uuid", ada.id)
    assert rows[0]["n"] == 1


async def test_a_funding_is_credited_once_and_told(shop: House, ada: Merchant) -> None:
    started = await start_funding(ada, amount="500.00")
    assert (started["kind"], started["status"]) == ("funding", "requires_action")
    assert started["client_token"].startswith("pf_client_")
    assert (await holds(ada))[0] == 0
    done = await shop.until(ada, started["id"], "completed")
    assert await holds(ada) == (50_000, 0, "active")
    assert [event["type"] for event in done["timeline"]].count("wallet.credited") == 1
    credited = next(event for event in done["timeline"] if event["type"] == "wallet.credited")
    assert credited["data"]["wallet_amount_minor"] == 50_000
    await ada.post(f"/payments/{started['id']}/verify")
    assert await holds(ada) == (50_000, 0, "active")


async def test_a_first_funding_in_another_currency_opens_its_wallet(shop: House, ada: Merchant) -> None:
    started = await start_funding(ada, "stripe")
    assert await holds(ada, "USD") == (0, 0, "active")
    await shop.until(ada, started["id"], "completed")
    listed = (await ada.get("/wallet")).json()["data"]
    assert [(wallet["currency"], wallet["available"]) for wallet in listed] == [("NGN", "0.00"), ("USD", "19.90")]


async def test_a_funding_needs_its_key_and_is_started_once(ada: Merchant) -> None:
    missing = await ada.post("/wallet/fund", json=PAYSTACK)
    assert (missing.status_code, missing.json()["code"]) == (400, "idempotency_key_missing")
    first = await ada.post("/wallet/fund", key="fund-1", json=PAYSTACK)
    again = await ada.post("/wallet/fund", key="fund-1", json=PAYSTACK)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert first.headers["location"] == f"/api/v1/payments/{first.json()['id']}"
    other = await ada.post("/wallet/fund", key="fund-1", json={**PAYSTACK, "amount": "1.00"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_refused_funding_opens_no_wallet(ada: Merchant) -> None:
    answer = await ada.post("/wallet/fund", key=str(uuid4()), json={**PAYSTACK, "currency": "JPY"})
    assert answer.status_code == 422, answer.text
    assert [wallet["currency"] for wallet in (await ada.get("/wallet")).json()["data"]] == ["NGN"]


async def test_a_funding_is_no_payment_in_the_lists_and_its_money_no_sale(shop: House, ada: Merchant) -> None:
    funding = await fund(shop, ada)
    assert (await ada.get("/payments")).json()["data"] == []
    assert [each["id"] for each in (await ada.get("/transactions")).json()["data"]] == [funding["id"]]
    codes = await shop.rows("SELECT code FROM ledger_accounts WHERE user_id = $1::uuid ORDER BY code", ada.id)
    assert "sales" not in [row["code"] for row in codes]


async def test_twenty_fundings_at_once_all_arrive(shop: House, ada: Merchant) -> None:
    await asyncio.gather(*(fund(shop, ada, "10.00") for _ in range(20)))
    assert await holds(ada) == (20_000, 0, "active")


async def test_its_owner_switches_a_wallet_off_and_on(shop: House, ada: Merchant) -> None:
    off = await ada.post("/wallet/toggle-activity", json={"currency": "NGN", "active": False})
    assert (off.status_code, off.json()["status"]) == (200, "inactive")
    again = await ada.post("/wallet/toggle-activity", json={"currency": "NGN", "active": False})
    assert (again.status_code, again.json()["status"]) == (200, "inactive")
    await fund(shop, ada)  # money may still come in
    assert await holds(ada) == (50_000, 0, "inactive")
    on = await ada.post("/wallet/toggle-activity", json={"currency": "NGN", "active": True})
    assert on.json()["status"] == "active"
    told = [*await events_of(ada, "wallet.inactive"), *await events_of(ada, "wallet.active")]
    assert [event["type"] for event in told] == ["wallet.inactive", "wallet.active"]
    assert as_documented(told)


async def test_a_wallet_that_is_not_there_cannot_be_switched(ada: Merchant) -> None:
    answer = await ada.post("/wallet/toggle-activity", json={"currency": "KES", "active": False})
    assert (answer.status_code, answer.json()["code"]) == (404, "wallet_not_found")


async def test_a_frozen_wallet_takes_no_funding_and_is_not_switched_on_by_its_owner(shop: House, ada: Merchant) -> None:
    admin = await shop.merchant(admin=True)
    before = await ada.post("/wallet/fund", key="before", json=PAYSTACK)
    body = {"currency": "NGN", "frozen": True, "reason": "Reported as stolen."}
    frozen = await admin.post(f"/wallet/{ada.id}/freeze", json=body)
    assert (frozen.status_code, frozen.json()["status"]) == (200, "frozen")
    assert (await wallet_of(ada))["status_reason"] == "Reported as stolen."
    for active in (True, False):
        answer = await ada.post("/wallet/toggle-activity", json={"currency": "NGN", "active": active})
        assert (answer.status_code, answer.json()["code"]) == (409, "wallet_frozen")
    refused = await ada.post("/wallet/fund", key=str(uuid4()), json=PAYSTACK)
    assert (refused.status_code, refused.json()["code"]) == (409, "wallet_frozen")
    # A key that was used stands for its first answer, and money under way is not turned away.
    again = await ada.post("/wallet/fund", key="before", json=PAYSTACK)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    await shop.until(ada, before.json()["id"], "completed")
    assert await holds(ada) == (500_000, 0, "frozen")
    # Wallets in other currencies are not touched by it.
    await start_funding(ada, "stripe")


async def test_freezing_is_told_to_the_owner_and_kept_with_who_and_why(shop: House, ada: Merchant) -> None:
    admin = await shop.merchant(admin=True)
    body = {"currency": "NGN", "frozen": True, "reason": "Reported as stolen."}
    for _ in range(2):  # the same again changes nothing
        await admin.post(f"/wallet/{ada.id}/freeze", json=body)
    thawed = await admin.post(f"/wallet/{ada.id}/freeze", json={**body, "frozen": False, "reason": "Found again."})
    assert (thawed.json()["status"], thawed.json()["status_reason"]) == ("active", None)
    (frozen,) = await events_of(ada, "wallet.frozen")
    (unfrozen,) = await events_of(ada, "wallet.unfrozen")
    assert frozen["transaction_id"] is None
    told = {"currency": "NGN", "status": "frozen", "reason": "Reported as stolen.", "by": admin.id}
    assert frozen["data"] == told
    assert unfrozen["data"] == {**told, "status": "active", "reason": "Found again."}
    assert as_documented([frozen, unfrozen])


async def test_only_admins_freeze(shop: House, ada: Merchant) -> None:
    body = {"currency": "NGN", "frozen": True, "reason": "Reported as stolen."}
    answer = await ada.post(f"/wallet/{ada.id}/freeze", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "admin_only")
    admin = await shop.merchant(admin=True)
    nobody = await admin.post(f"/wallet/{uuid4()}/freeze", json=body)
    assert (nobody.status_code, nobody.json()["code"]) == (404, "wallet_not_found")
    assert (await wallet_of(ada))["status"] == "active"


async def test_a_key_without_the_scope_sees_and_moves_nothing(shop: House, ada: Merchant) -> None:
    made = await ada.post("/auth/api-keys", json={"name": "payments", "scopes": ["payments:read", "payments:write"]})
    client = shop.client(**{"x-api-key": made.json()["key"], "idempotency-key": "k"})
    for answer in (
        await client.get("/api/v1/wallet"),
        await client.get("/api/v1/wallet/statement"),
        await client.post("/api/v1/wallet/fund", json=STRIPE),
        await client.post("/api/v1/wallet/toggle-activity", json={"currency": "NGN", "active": False}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), answer.text
