"""Buying airtime and data through the whole house."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from payflow.ledger import repository as ledger
from tests.airtime.conftest import Shop
from tests.airtime.desk import (
    AIRTIME,
    DATA,
    PURCHASE,
    balanced,
    bought,
    buy,
    fund,
    holds,
    phone,
    posted,
    purchase_of,
    rich,
    story,
    transactions_of,
    until,
    wallet,
)
from tests.house import House, Merchant, eventually
from tests.openapi.document import as_documented
from tests.webhooks.desk import encoded, send, steady, until_counted

FUNDED = 10_000_000
PAY = "/vtpass/pay"


async def outcome(house: House, name: str) -> None:
    await house.outcome("vtpass", name, operation="purchase", times=1)


async def sent(house: House) -> int:
    return len((await house.charges("vtpass"))["charges"])


async def nothing_happened(house: House, ada: Merchant) -> None:
    assert await transactions_of(house, ada) == 0
    assert await wallet(house, ada) == (FUNDED, 0)
    assert await sent(house) == 0


# What is bought


async def test_airtime_is_bought_from_the_wallet(house: House, ada: Merchant) -> None:
    answer = await buy(ada, customer_id="customer-7", metadata={"order": "1"})
    purchase = answer.json()

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/v1/airtime/purchases/{purchase['id']}"
    assert (purchase["kind"], purchase["status"], purchase["provider"]) == ("airtime", "completed", "vtpass")
    assert (purchase["amount"], purchase["amount_minor"], purchase["currency"]) == ("500.00", 50_000, "NGN")
    assert (purchase["service_id"], purchase["variation_code"]) == ("mtn", None)
    assert (purchase["phone"], purchase["description"]) == ("+2348030000001", "MTN Airtime VTU")
    assert (purchase["customer_id"], purchase["metadata"]) == ("customer-7", {"order": "1"})
    whole = await purchase_of(ada, purchase["id"])
    assert {name: whole[name] for name in purchase} == purchase
    assert story(whole) == ["airtime.initiated", "wallet.held", "airtime.completed", "wallet.debited"]
    assert as_documented(whole["timeline"])
    assert "+2348030000001" not in str(whole["timeline"])
    assert await wallet(house, ada) == (FUNDED - 50_000, 0)
    assert await holds(house, purchase["id"]) == ["captured"]
    (charge,) = (await house.charges("vtpass"))["charges"]
    assert (charge["submissions"], charge["money_taken_minor"]) == (1, 50_000)
    await balanced(house)


async def test_a_bundle_costs_what_the_provider_says(house: House, ada: Merchant) -> None:
    answer = await ada.post(PURCHASE, key=str(uuid4()), json=DATA)
    purchase = answer.json()

    assert (answer.status_code, purchase["status"], purchase["amount"]) == (201, "completed", "100.00")
    assert (purchase["service_id"], purchase["variation_code"]) == ("mtn-data", "mtn-10mb-100")
    assert purchase["description"] == "MTN Data: N100 100MB - 24 hrs"
    again = await ada.post(PURCHASE, key=str(uuid4()), json={**DATA, "amount": 100, "phone": phone(2)})
    assert (again.status_code, again.json()["amount_minor"]) == (201, 10_000)
    assert await wallet(house, ada) == (FUNDED - 20_000, 0)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({**AIRTIME, "service_id": "nobody"}, "/body/service_id"),
        ({**AIRTIME, "service_id": "foreign-airtime"}, "/body/service_id"),
        ({**AIRTIME, "service_id": "../pay"}, "/body/service_id"),
        ({**AIRTIME, "service_id": "mtn-data"}, "/body/variation_code"),
        ({**AIRTIME, "variation_code": "mtn-10mb-100"}, "/body/variation_code"),
        ({**DATA, "variation_code": "gone"}, "/body/variation_code"),
        ({**DATA, "amount": "99.99"}, "/body/amount"),
        ({name: value for name, value in AIRTIME.items() if name != "amount"}, "/body/amount"),
        ({**AIRTIME, "amount": "4"}, "/body/amount"),
        ({**AIRTIME, "amount": "500001"}, "/body/amount"),
        ({**AIRTIME, "amount": "500.50"}, "/body/amount"),
        ({**AIRTIME, "amount": "500.001"}, "/body/amount"),
        ({**AIRTIME, "currency": "KES"}, "/body/currency"),
        ({**AIRTIME, "phone": "+254708374149"}, "/body/phone"),
        ({**AIRTIME, "phone": "+2348030"}, "/body/phone"),
        ({**AIRTIME, "phone": "08030000001"}, "/body/phone"),
        ({name: value for name, value in AIRTIME.items() if name != "phone"}, "/body/phone"),
        ({**AIRTIME, "provider": "nobody"}, "/body/provider"),
        ({**AIRTIME, "provider": "paystack"}, "/body/provider"),
    ],
)
async def test_what_cannot_be_bought_so_is_refused_and_nothing_happens(
    window: tuple[House, Merchant], body: dict[str, Any], pointer: str
) -> None:
    house, ada = window
    answer = await ada.post(PURCHASE, key=str(uuid4()), json=body)

    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    await nothing_happened(house, ada)


async def test_a_key_is_demanded(window: tuple[House, Merchant]) -> None:
    house, ada = window
    answer = await ada.post(PURCHASE, json=AIRTIME)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")
    await nothing_happened(house, ada)


# The wallet


async def test_a_wallet_without_enough_buys_nothing_and_the_key_stays_free(house: House) -> None:
    poor, key = await house.merchant(), str(uuid4())
    answer = await buy(poor, key=key)
    assert (answer.status_code, answer.json()["code"]) == (409, "insufficient_funds")
    await fund(house, poor, 499)
    answer = await buy(poor, key=key)
    assert (answer.status_code, answer.json()["available_minor"]) == (409, 49_900)
    assert await transactions_of(house, poor) == 0
    assert await sent(house) == 0

    await fund(house, poor, 1)
    assert (await buy(poor, key=key)).status_code == 201
    assert await wallet(house, poor) == (0, 0)


@pytest.mark.parametrize(("status", "code"), [("frozen", "wallet_frozen"), ("inactive", "wallet_inactive")])
async def test_a_wallet_that_is_shut_pays_nothing(house: House, ada: Merchant, status: str, code: str) -> None:
    async with house.services.database.raw() as connection:
        await ledger.set_wallet_status(connection, UUID(ada.id), "NGN", status, None)
    answer = await buy(ada)
    assert (answer.status_code, answer.json()["code"]) == (409, code)
    await nothing_happened(house, ada)


async def test_of_a_hundred_purchases_at_once_a_wallet_pays_those_it_can(house: House) -> None:
    ada = await rich(house, 2_000)  # for twenty of a hundred naira
    answers = await asyncio.gather(*(buy(ada, amount=100, phone=phone(40_000_000 + n)) for n in range(100)))

    codes = [answer.status_code for answer in answers]
    assert (codes.count(201), codes.count(409)) == (20, 80)
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"insufficient_funds"}
    assert {answer.json()["status"] for answer in answers if answer.status_code == 201} == {"completed"}
    charges = (await house.charges("vtpass"))["charges"]
    assert [charge["money_taken_minor"] for charge in charges] == [10_000] * 20
    assert await transactions_of(house, ada) == 20
    assert await wallet(house, ada) == (0, 0)
    await balanced(house)


# Once


async def test_a_repeat_gives_the_same_answer_and_sends_nothing(house: House, ada: Merchant) -> None:
    key = str(uuid4())
    first = await buy(ada, key=key)
    again = await buy(ada, key=key)

    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    other = await buy(ada, key=key, amount="600")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await sent(house) == 1
    assert await wallet(house, ada) == (FUNDED - 50_000, 0)


async def test_fifty_requests_with_one_key_buy_once(house: House, ada: Merchant) -> None:
    key = str(uuid4())
    answers = await asyncio.gather(*(buy(ada, key=key) for _ in range(50)))

    assert {answer.status_code for answer in answers} <= {201, 409}
    ids = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(ids) == 1
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"in_flight"}
    (charge,) = (await house.charges("vtpass"))["charges"]
    assert charge["submissions"] == 1
    assert await transactions_of(house, ada) == 1
    assert await wallet(house, ada) == (FUNDED - 50_000, 0)


async def test_what_was_refused_today_is_still_answered_as_the_first_time(shop: Shop, ada: Merchant) -> None:
    """The provider takes nothing new any more, but this was not new."""
    key = str(uuid4())
    first = await buy(ada, key=key)
    admin = await shop.house.merchant(admin=True)
    assert (await admin.post("/providers/vtpass/drain", json={"drained": True})).status_code == 200

    async def drained() -> bool:
        return "vtpass" in await shop.house.services.registry.drained()

    await eventually(drained)
    assert (await buy(ada, key=key)).content == first.content
    named = await buy(ada, provider="vtpass", phone=phone(2))
    assert (named.status_code, named.json()["code"]) == (409, "provider_drained")
    unnamed = await buy(ada, phone=phone(2))
    assert (unnamed.status_code, unnamed.json()["code"]) == (422, "no_provider")
    assert await transactions_of(shop.house, ada) == 1


async def test_a_request_that_died_is_answered_with_what_stands_and_never_sent_again(shop: Shop, ada: Merchant) -> None:
    house, way, key = shop.house, shop.way, str(uuid4())
    await ada.get("/airtime/services")
    reached, lost = asyncio.Event(), asyncio.Event()

    async def lose(request: httpx.Request) -> None:
        if request.url.path == PAY:
            reached.set()
            await lost.wait()

    way.before = lose
    request = asyncio.create_task(buy(ada, key=key))
    await reached.wait()
    (row,) = await house.rows("SELECT id::text, status FROM transactions WHERE kind = 'airtime'")
    assert row["status"] == "pending"  # A is committed before the call
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    assert await wallet(house, ada) == (FUNDED - 50_000, 50_000)
    early = await buy(ada, key=key)
    assert (early.status_code, early.json()["code"]) == (409, "in_flight")

    way.before = None
    shop.clock.ahead = timedelta(seconds=61)
    late = await buy(ada, key=key)
    assert (late.status_code, late.json()["id"]) == (201, row["id"])
    assert (late.json()["status"], late.json()["phone"]) == ("pending", "+2348030000001")
    assert late.headers["idempotent-replayed"] == "true"
    assert await sent(house) == 0
    assert await holds(house, row["id"]) == ["held"]
    await balanced(house)


# What the provider says


async def test_what_could_not_be_sent_is_a_502_and_the_money_is_back(shop: Shop, ada: Merchant) -> None:
    house, way, key = shop.house, shop.way, str(uuid4())
    await ada.get("/airtime/services")

    async def no_way(request: httpx.Request) -> None:
        if request.url.path == PAY:
            raise httpx.ConnectError("no way there")

    way.before = no_way
    answer = await buy(ada, key=key)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (502, "provider_unavailable")
    assert answer.headers["content-type"] == "application/problem+json"
    purchase = await purchase_of(ada, problem["transaction_id"])
    assert (purchase["status"], purchase["failure"]["code"]) == ("failed", "provider_unreachable")
    assert story(purchase) == [
        "airtime.initiated",
        "wallet.held",
        "airtime.attempt_failed",
        "airtime.failed",
        "wallet.released",
    ]
    assert await wallet(house, ada) == (FUNDED, 0)

    way.before = None
    again = await buy(ada, key=key)
    assert (again.status_code, again.content) == (502, answer.content)
    assert await sent(house) == 0
    await balanced(house)


async def test_a_refusal_fails_and_releases(house: House, ada: Merchant) -> None:
    await outcome(house, "refuse")
    purchase = await bought(ada)
    assert (purchase["status"], purchase["failure"]["code"]) == ("failed", "provider_unfunded")
    assert await wallet(house, ada) == (FUNDED, 0)
    assert await holds(house, purchase["id"]) == ["released"]


async def test_a_lost_answer_is_found_by_asking_with_the_id_that_was_sent(house: House, ada: Merchant) -> None:
    await outcome(house, "dropped_after_charging")
    purchase = await bought(ada)
    assert purchase["status"] == "processing"
    assert purchase["next_check_at"] is not None
    assert await wallet(house, ada) == (FUNDED - 50_000, 50_000)

    answer = await ada.post(f"/airtime/purchases/{purchase['id']}/verify")
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.json()["attempts"][0]["receipt"]
    (charge,) = (await house.charges("vtpass"))["charges"]
    assert answer.json()["attempts"][0]["provider_references"][0] == charge["reference"]
    assert (charge["submissions"], charge["money_taken_minor"]) == (1, 50_000)
    assert await wallet(house, ada) == (FUNDED - 50_000, 0)
    await balanced(house)


async def test_the_time_that_a_request_id_is_made_of_is_kept_to_the_microsecond(house: House, ada: Merchant) -> None:
    """The order is made of what A wrote; a question, of what is read back."""
    await outcome(house, "silent")
    purchase = await bought(ada)
    found = await house.services.transactions.repository.get(UUID(purchase["id"]), None)
    assert found is not None
    query = found[1][0].query()
    assert query.created_at == datetime.fromisoformat(purchase["created_at"])
    assert query.created_at.microsecond != 0
    assert query.created_at.utcoffset() == timedelta()


async def test_the_timer_asks_about_what_nobody_knows(shop: Shop, ada: Merchant) -> None:
    await outcome(shop.house, "timeout_after_charging")
    purchase = await bought(ada)
    assert purchase["status"] == "processing"
    shop.clock.ahead = timedelta(seconds=31)
    await until(ada, purchase["id"], "completed")
    assert await wallet(shop.house, ada) == (FUNDED - 50_000, 0)


async def test_a_webhook_only_makes_us_ask(house: House, ada: Merchant) -> None:
    await outcome(house, "silent")
    purchase = await bought(ada)
    whole = await purchase_of(ada, purchase["id"])
    (charge,) = (await house.charges("vtpass"))["charges"]
    forged = {
        "type": "transaction-update",
        "data": {
            "code": "000",
            "content": {"transactions": {"status": "delivered", "amount": 500, "transactionId": "1"}},
            "requestId": charge["reference"],
            "amount": 500,
        },
    }
    answer = await send(house, "vtpass", encoded(forged))
    assert (answer.status_code, answer.content) == (200, b'{"response":"success"}')
    await until_counted(house, "vtpass", "retried")
    assert (await purchase_of(ada, purchase["id"]))["status"] == "processing"
    assert await wallet(house, ada) == (FUNDED - 50_000, 50_000)

    reference = whole["attempts"][0]["reference"]
    assert (await house.act("vtpass", reference, "pay")).is_success
    ended = await until(ada, purchase["id"], "completed")
    assert story(ended).count("wallet.debited") == 1
    assert await wallet(house, ada) == (FUNDED - 50_000, 0)


async def test_what_is_reversed_later_is_given_back_once(house: House, ada: Merchant) -> None:
    purchase = await bought(ada)
    assert purchase["status"] == "completed"
    reference = (await purchase_of(ada, purchase["id"]))["attempts"][0]["reference"]
    assert (await house.act("vtpass", reference, "reverse")).is_success
    ended = await until(ada, purchase["id"], "reversed")

    assert story(ended)[-2:] == ["airtime.reversed", "wallet.credited"]
    assert as_documented(ended["timeline"])
    assert await wallet(house, ada) == (FUNDED, 0)
    again = await ada.post(f"/airtime/purchases/{purchase['id']}/verify")
    assert (again.json()["status"], again.json()["version"]) == ("reversed", ended["version"])
    assert set(await posted(house, purchase["id"])) == {"held", "captured", "returned"}
    assert await wallet(house, ada) == (FUNDED, 0)
    await balanced(house)


async def test_verify_webhook_and_timer_at_once_take_the_money_once(shop: Shop, ada: Merchant) -> None:
    house = shop.house
    await outcome(house, "query_only")
    purchase = await bought(ada)
    reference = (await purchase_of(ada, purchase["id"]))["attempts"][0]["reference"]

    async def delivered() -> bool:
        return bool((await house.charges("vtpass"))["charges"][0]["status"] == "paid")

    await eventually(delivered)
    shop.clock.ahead = timedelta(seconds=61)  # the timer's turn, too
    (charge,) = (await house.charges("vtpass"))["charges"]
    hint = encoded({"type": "transaction-update", "data": {"requestId": charge["reference"], "code": "000"}})
    verify = f"/airtime/purchases/{purchase['id']}/verify"
    await asyncio.gather(*(ada.post(verify) for _ in range(5)), *(send(house, "vtpass", hint) for _ in range(5)))
    ended = await until(ada, purchase["id"], "completed")

    assert charge["reference"].endswith(reference)
    assert story(ended).count("airtime.completed") == story(ended).count("wallet.debited") == 1
    assert await wallet(house, ada) == (FUNDED - 50_000, 0)
    await balanced(house)


# People


async def in_doubt(shop: Shop, ada: Merchant) -> str:
    """A purchase that nobody could say anything of for two days."""
    await outcome(shop.house, "silent")
    purchase = await bought(ada)
    for ahead in (timedelta(hours=25), timedelta(hours=50)):
        shop.clock.ahead += ahead
        await steady(lambda: shop.house.rows("SELECT version, check_count FROM transactions ORDER BY id"))
    ended = await until(ada, purchase["id"], "under_review")
    assert await holds(shop.house, purchase["id"]) == ["held"]
    assert ended["next_check_at"] is None
    return str(purchase["id"])


@pytest.mark.parametrize(
    ("decision", "left", "hold"),
    [("completed", FUNDED - 50_000, "captured"), ("failed", FUNDED, "released"), ("reversed", FUNDED, "released")],
)
async def test_a_person_decides_what_nobody_knows(
    shop: Shop, ada: Merchant, decision: str, left: int, hold: str
) -> None:
    purchase_id, admin, key = await in_doubt(shop, ada), await shop.house.merchant(admin=True), str(uuid4())
    assert await wallet(shop.house, ada) == (FUNDED - 50_000, 50_000)
    path, body = f"/airtime/purchases/{purchase_id}/resolve", {"outcome": decision, "reason": "VTPass says so."}

    refused = await ada.post(path, key=str(uuid4()), json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "admin_only")
    answer = await admin.post(path, key=key, json=body)
    assert (answer.status_code, answer.json()["status"]) == (200, decision), answer.text
    again = await admin.post(path, key=key, json=body)
    assert (again.content, again.headers["idempotent-replayed"]) == (answer.content, "true")
    late = await admin.post(path, key=str(uuid4()), json=body)
    assert (late.status_code, late.json()["code"]) == (409, "not_under_review")
    assert await holds(shop.house, purchase_id) == [hold]
    assert await wallet(shop.house, ada) == (left, 0)
    await balanced(shop.house)


async def test_what_is_delivered_while_a_person_looks_stays_theirs_to_decide(shop: Shop, ada: Merchant) -> None:
    purchase_id = await in_doubt(shop, ada)
    version = (await purchase_of(ada, purchase_id))["version"]
    reference = (await purchase_of(ada, purchase_id))["attempts"][0]["reference"]
    assert (await shop.house.act("vtpass", reference, "pay")).is_success

    async def told() -> bool:
        return bool((await purchase_of(ada, purchase_id))["version"] > version)

    await eventually(told)
    purchase = await purchase_of(ada, purchase_id)
    assert (purchase["status"], purchase["timeline"][-1]["data"]["reason"]) == (
        "under_review",
        "paid_while_under_review",
    )
    assert await holds(shop.house, purchase_id) == ["held"]
    admin = await shop.house.merchant(admin=True)
    body = {"outcome": "completed", "reason": "It was delivered."}
    answer = await admin.post(f"/airtime/purchases/{purchase_id}/resolve", key=str(uuid4()), json=body)
    assert (answer.status_code, answer.json()["paid_minor"]) == (200, 50_000)
    assert await holds(shop.house, purchase_id) == ["captured"]
    assert await wallet(shop.house, ada) == (FUNDED - 50_000, 0)
    await balanced(shop.house)


async def test_others_do_not_see_a_purchase(house: House, ada: Merchant) -> None:
    purchase, eve = await bought(ada), await house.merchant()
    for path in (f"/airtime/purchases/{purchase['id']}", f"/airtime/purchases/{uuid4()}"):
        assert (await eve.get(path)).status_code == 404
        assert (await eve.post(f"{path}/verify")).status_code == 404
    assert (await eve.get("/airtime/purchases")).json()["data"] == []
    assert (await ada.get(f"/payments/{purchase['id']}")).status_code == 404
    payment = await ada.pay("paystack")
    assert (await ada.get(f"/airtime/purchases/{payment['id']}")).status_code == 404


async def test_purchases_are_listed_newest_first(house: House, ada: Merchant) -> None:
    ids = [(await bought(ada, phone=phone(number)))["id"] for number in range(3)]
    await ada.pay("paystack")
    page = (await ada.get("/airtime/purchases", params={"limit": 2})).json()
    assert [row["id"] for row in page["data"]] == ids[:0:-1]
    rest = (await ada.get("/airtime/purchases", params={"cursor": page["next_cursor"]})).json()
    assert [row["id"] for row in rest["data"]] == ids[:1]
    assert {row["kind"] for row in page["data"]} == {"airtime"}


async def test_an_api_key_needs_the_scope_of_wallets(house: House, ada: Merchant) -> None:
    made = await ada.post("/auth/api-keys", json={"name": "till", "scopes": ["payments:read", "payments:write"]})
    client = house.client(**{"x-api-key": made.json()["key"]})
    answer = await client.post(f"/api/v1{PURCHASE}", json=AIRTIME, headers={"idempotency-key": "1"})
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert (await client.get("/api/v1/airtime/purchases")).status_code == 403
    await nothing_happened(house, ada)
