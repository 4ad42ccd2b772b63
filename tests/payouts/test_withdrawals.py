"""Withdrawals over the API, at simulated providers that behave and misbehave: the right end each, nothing sent twice."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from payflow.events.types import Actor, Origin
from payflow.gateway.contract import Result, Verdict
from payflow.idempotency.repository import KeyScope
from payflow.payments.schemas import InitializePayment
from payflow.transactions.aggregate import Source
from payflow.transactions.lifecycle import Kind
from payflow.transactions.service import Answer
from tests.house import PAYSTACK, House, Merchant, Urls, eventually, running_house
from tests.openapi.document import as_documented
from tests.payouts.till import (
    WITHDRAWALS,
    attempt_of,
    audit,
    began,
    body,
    fill,
    purse,
    story,
    until,
    whole,
    withdraw,
)
from tests.webhooks.desk import MovableClock
from worker.timers import check_due

FULL = 1_000_000
SENT = {"paystack": 150_000, "flutterwave": 150_000, "moniepoint": 150_000, "mpesa": 50_000, "cpay": 15_000}
CURRENCY = {name: sent["currency"] for name, sent in WITHDRAWALS.items()}
PAYERS = tuple(WITHDRAWALS)
CODED = ("paystack", "moniepoint")


async def submissions_of(shop: House, provider: str, reference: str) -> int:
    return int((await shop.charges(provider, reference))["totals"]["submissions"])


async def asked_about(shop: House, ada: Merchant, withdrawal_id: str) -> dict[str, Any]:
    """Asked until it is completed; the answer itself may come by webhook (Daraja)."""

    async def completed() -> bool:
        await shop.services.checks.check(UUID(withdrawal_id))
        return bool((await whole(ada, withdrawal_id))["status"] == "completed")

    await eventually(completed, what="the completion")
    return await whole(ada, withdrawal_id)


@pytest.mark.parametrize("provider", PAYERS)
async def test_it_is_completed_by_webhook(shop: House, ada: Merchant, provider: str) -> None:
    started = await began(ada, provider)
    assert (started["kind"], started["provider"]) == ("withdrawal", provider)
    done = await until(ada, started["id"], "completed")
    assert story(done)[:2] == ["withdrawal.initiated", "wallet.held"]
    assert story(done)[-2:] == ["withdrawal.completed", "wallet.debited"]
    assert [attempt["operation"] for attempt in done["attempts"]] == ["payout"]
    assert await purse(shop, ada, CURRENCY[provider]) == (FULL - SENT[provider], 0)
    assert await submissions_of(shop, provider, done["attempts"][0]["reference"]) == 1


async def test_the_list_of_events_tells_a_withdrawal_in_its_order(shop: House, ada: Merchant) -> None:
    for _ in range(10):
        await until(ada, (await began(ada, "paystack", amount="1.00"))["id"], "completed")
    told: dict[str, list[int]] = {}
    for event in reversed((await ada.get("/events", params={"limit": 100})).json()["data"]):
        if event["transaction_id"]:
            told.setdefault(event["transaction_id"], []).append(event["sequence"])
    assert len(told) >= 10
    assert all(sequences == sorted(sequences) for sequences in told.values())


async def test_a_key_that_reads_payments_alone_sees_nothing_that_goes_out_of_a_wallet(
    shop: House, ada: Merchant
) -> None:
    started, payment = await began(ada), await ada.pay()
    await until(ada, started["id"], "completed")
    seen: dict[str, tuple[set[str], int, set[str]]] = {}
    for scopes in (["payments:read"], ["payments:read", "wallet:read"]):
        made = await ada.post("/auth/api-keys", json={"name": "a key", "scopes": scopes})
        key = shop.client(**{"x-api-key": made.json()["key"]})
        listed = {row["kind"] for row in (await key.get("/api/v1/transactions")).json()["data"]}
        one = await key.get(f"/api/v1/transactions/{started['reference']}")
        figures = {row["kind"] for row in (await key.get("/api/v1/metrics")).json()["transactions"]}
        seen[scopes[-1]] = (listed, one.status_code, figures)
        assert (await key.get(f"/api/v1/transactions/{payment['reference']}")).status_code == 200
    assert seen == {
        "payments:read": ({"payment"}, 403, {"payment"}),
        "wallet:read": ({"payment", "withdrawal"}, 200, {"payment", "withdrawal"}),
    }


@pytest.mark.parametrize("provider", PAYERS)
async def test_it_is_completed_by_a_query(shop: House, ada: Merchant, provider: str) -> None:
    await shop.outcome(provider, "query_only", operation="payout", times=1)
    started = await began(ada, provider)

    done = await asked_about(shop, ada, started["id"])
    assert done["paid_minor"] == SENT[provider]
    assert await purse(shop, ada, CURRENCY[provider]) == (FULL - SENT[provider], 0)


@pytest.mark.parametrize("provider", PAYERS)
async def test_declined_gives_the_money_back_to_the_wallet(shop: House, ada: Merchant, provider: str) -> None:
    await shop.outcome(provider, "decline", operation="payout", times=1)
    started = await began(ada, provider)
    failed = await until(ada, started["id"], "failed")
    assert failed["failure"]["code"]
    assert story(failed)[-2:] == ["withdrawal.failed", "wallet.released"]
    assert as_documented(failed["timeline"])
    assert await purse(shop, ada, CURRENCY[provider]) == (FULL, 0)


@pytest.mark.parametrize("provider", PAYERS)
async def test_refused_is_failed_with_its_reason_and_holds_nothing(shop: House, ada: Merchant, provider: str) -> None:
    await shop.outcome(provider, "refuse", operation="payout", times=1)
    answer = await withdraw(ada, provider)
    assert (answer.status_code, answer.json()["status"]) == (201, "failed"), answer.text
    assert answer.json()["failure"]["code"]
    assert answer.headers["location"] == f"/api/v1/wallet/withdrawals/{answer.json()['id']}"
    assert await purse(shop, ada, CURRENCY[provider]) == (FULL, 0)


@pytest.mark.parametrize("provider", PAYERS)
async def test_a_lost_answer_keeps_the_hold_until_it_is_known(shop: House, ada: Merchant, provider: str) -> None:
    real: Any = shop.services.registry.get(provider)
    pay_out = real.pay_out
    entered = asyncio.Event()

    async def lost(*arguments: Any) -> Result:
        await pay_out(*arguments)
        entered.set()
        return Result(Verdict.UNKNOWN, raw_status="ReadTimeout")

    await shop.outcome(provider, "query_only", operation="payout", times=1)
    real.pay_out = lost
    sent = body(provider)
    try:
        answer = await ada.post("/wallet/withdraw", key="lost", json=sent)
    finally:
        del real.pay_out
    assert entered.is_set()
    assert (answer.status_code, answer.json()["status"]) == (201, "processing")
    assert answer.json()["next_check_at"] is not None
    assert await purse(shop, ada, CURRENCY[provider]) == (FULL - SENT[provider], SENT[provider])
    done = await asked_about(shop, ada, answer.json()["id"])
    assert await purse(shop, ada, CURRENCY[provider]) == (FULL - SENT[provider], 0)
    assert await submissions_of(shop, provider, done["attempts"][0]["reference"]) == 1
    again = await ada.post("/wallet/withdraw", key="lost", json=sent)
    assert (again.content, again.headers["idempotent-replayed"]) == (answer.content, "true")


@pytest.mark.parametrize("provider", ["paystack", "flutterwave", "moniepoint"])
async def test_what_comes_back_later_is_the_owners_again(shop: House, ada: Merchant, provider: str) -> None:
    if provider == "flutterwave":
        # Its webhooks are hints: were it sent back before the first was looked into, it would only have failed.
        started = await began(ada, provider)
        done = await until(ada, started["id"], "completed")
        assert (await shop.act(provider, done["attempts"][0]["reference"], "reverse")).is_success
    else:
        await shop.outcome(provider, "late_failure", operation="payout", times=1)
        started = await began(ada, provider)
    back = await until(ada, started["id"], "reversed")
    assert story(back)[-2:] == ["withdrawal.reversed", "wallet.credited"]
    assert as_documented(back["timeline"])
    assert story(back).count("wallet.debited") == 1
    assert await purse(shop, ada) == (FULL, 0)


async def test_nothing_sent_is_502_and_holds_nothing(shop: House, ada: Merchant) -> None:
    network: Any = shop.services.http._transport

    async def gone(request: httpx.Request) -> None:
        raise httpx.ConnectError("refused", request=request)

    network.before = gone
    try:
        answer = await withdraw(ada, "flutterwave", key="gone")
    finally:
        network.before = None
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable"), answer.text
    failed = await whole(ada, answer.json()["transaction_id"])
    assert (failed["status"], failed["attempts"][0]["status"]) == ("failed", "not_sent")
    assert await purse(shop, ada) == (FULL, 0)
    again = await withdraw(ada, "flutterwave", key="gone")
    assert (again.status_code, again.content) == (502, answer.content)
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("provider", CODED)
async def test_the_merchants_code_is_passed_on_by_an_admin(shop: House, ada: Merchant, provider: str) -> None:
    admin = await shop.merchant(admin=True)
    await shop.outcome(provider, "needs_otp", operation="payout", times=1)
    started = await began(ada, provider)
    assert (started["status"], started["next_action"]["type"]) == ("requires_action", "otp")
    assert await purse(shop, ada) == (FULL - 150_000, 150_000)
    path = f"/wallet/withdrawals/{started['id']}/submit-otp"
    assert (await ada.post(path, key="mine", json={"otp": "123456"})).json()["code"] == "admin_only"
    wrong = await admin.post(path, key="wrong", json={"otp": "908172"})
    assert (wrong.status_code, wrong.json()["next_action"]["type"]) == (200, "otp"), wrong.text
    assert await purse(shop, ada) == (FULL - 150_000, 150_000)
    # Paystack names no answer to a wrong code, so that one is unknown: the transfer itself then tells what it waits for.
    await shop.services.checks.check(UUID(started["id"]))
    assert (await whole(ada, started["id"]))["status"] == "requires_action"
    right = await admin.post(path, key="right", json={"otp": "123456"})
    assert right.status_code == 200, right.text
    done = await until(ada, started["id"], "completed")
    assert story(done).count("wallet.debited") == 1
    assert await purse(shop, ada) == (FULL - 150_000, 0)
    late = await admin.post(path, key="late", json={"otp": "123456"})
    assert (late.status_code, late.json()["code"]) == (409, "nothing_to_submit")
    payment = await ada.pay("paystack")
    other = await admin.post(f"/wallet/withdrawals/{payment['id']}/submit-otp", key="k", json={"otp": "123456"})
    assert other.status_code == 404


async def test_what_waits_for_the_providers_own_approval_is_with_the_provider(shop: House, ada: Merchant) -> None:
    """Flutterwave's dashboard can ask for one. Nobody here can give it, and it is not `pending`: it was sent."""
    await shop.outcome("flutterwave", "needs_otp", operation="payout", times=1)
    started = await began(ada, "flutterwave")
    assert (started["status"], started["next_action"]) == ("processing", None)
    done = await until(ada, started["id"], "completed")
    assert story(done).count("wallet.debited") == 1


async def test_an_answer_that_never_comes_is_put_before_a_person_with_the_hold_kept(urls: Urls) -> None:
    clock = MovableClock()
    month = 30 * 86_400  # a token that outlives the wait
    async with running_house(urls, amqp_url="", clock=clock, access_token_seconds=month) as house:
        admin = await house.merchant(admin=True)
        for outcome, left in (("completed", 850_000), ("failed", FULL)):
            ada = await house.merchant()
            await fill(house, ada, FULL)
            await house.outcome("paystack", "silent", operation="payout", times=1)
            started = await began(ada)
            path = f"/wallet/withdrawals/{started['id']}/resolve"
            decision = {"outcome": outcome, "reason": "The bank told us on the phone."}
            assert (await admin.post(path, key="early", json=decision)).json()["code"] == "not_under_review"
            clock.ahead += timedelta(days=3)
            await check_due(house.services)
            stands = await whole(ada, started["id"])
            assert stands["status"] == "under_review"
            assert await purse(house, ada) == (850_000, 150_000)
            assert (await ada.post(path, key="mine", json=decision)).status_code == 403
            decided = await admin.post(path, key="k", json=decision)
            assert (decided.status_code, decided.json()["status"]) == (200, outcome)
            assert (await admin.post(path, key="k", json=decision)).headers["idempotent-replayed"] == "true"
            assert await purse(house, ada) == (left, 0)
        await audit(house)


@pytest.mark.parametrize(("outcome", "left"), [("completed", 850_000), ("failed", FULL)])
async def test_a_late_success_after_a_failure_debits_nothing_until_a_person_decides(
    shop: House, ada: Merchant, outcome: str, left: int
) -> None:
    admin = await shop.merchant(admin=True)
    started = await failed_then_sent(shop, ada)
    late = await whole(ada, started["id"])
    assert (late["status"], late["attempts"][0]["status"]) == ("under_review", "under_review")
    assert await purse(shop, ada) == (FULL, 0)
    decision = {"outcome": outcome, "reason": "Asked the provider."}
    decided = await admin.post(f"/wallet/withdrawals/{started['id']}/resolve", key="k", json=decision)
    assert decided.json()["status"] == outcome
    assert await purse(shop, ada) == (left, 0)


async def test_what_went_out_after_all_and_is_no_longer_there_is_owed(shop: House, ada: Merchant) -> None:
    admin = await shop.merchant(admin=True)
    started = await failed_then_sent(shop, ada)
    second = await began(ada, amount="9500.00")
    await until(ada, second["id"], "completed")
    decision = {"outcome": "completed", "reason": "It did arrive."}
    await admin.post(f"/wallet/withdrawals/{started['id']}/resolve", key="k", json=decision)
    assert await purse(shop, ada) == (0, 0)
    assert await owed(shop, ada) == 100_000
    assert (await withdraw(ada, amount="1.00")).json()["code"] == "wallet_frozen"
    # It comes back after all: the wallet gets what it had paid, and the debt ends.
    attempt = (await whole(ada, started["id"]))["attempts"][0]
    back = Result(Verdict.REVERSED, reference=attempt["reference"])
    for _ in range(2):
        await shop.services.transactions.settle(
            Answer(UUID(attempt["id"]), back, Source.WEBHOOK, Origin(Actor.PROVIDER))
        )
    stands = await whole(ada, started["id"])
    told = [
        event["data"].get("wallet_amount_minor") for event in stands["timeline"] if event["type"].startswith("wallet.")
    ]
    assert (stands["status"], story(stands)[-2:]) == ("reversed", ["withdrawal.reversed", "wallet.credited"])
    assert told[-3:] == [50_000, None, 50_000]  # debited, frozen, credited
    assert (await purse(shop, ada), await owed(shop, ada)) == ((50_000, 0), 0)
    await audit(shop)


async def owed(shop: House, merchant: Merchant) -> int:
    rows = await shop.rows(
        """
        SELECT coalesce(sum(e.amount_minor), 0)::bigint AS minor
        FROM ledger_entries e JOIN ledger_accounts a ON a.id = e.account_id
        WHERE a.user_id = $1::uuid AND a.code = 'receivable'
        """,
        merchant.id,
    )
    return int(rows[0]["minor"])


async def failed_then_sent(shop: House, ada: Merchant) -> dict[str, Any]:
    """Declined, and reported as sent all the same."""
    await shop.outcome("flutterwave", "decline", operation="payout", times=1)
    started = await began(ada, "flutterwave")
    failed = await until(ada, started["id"], "failed")
    assert await purse(shop, ada) == (FULL, 0)
    provider: Any = shop.services.registry.get("flutterwave")
    attempt = failed["attempts"][0]
    found = await shop.services.transactions.repository.find_attempt(None, attempt["reference"])
    assert found is not None
    told = Result(Verdict.COMPLETED, reference=attempt["reference"], requested=found[1].amount)

    async def sent_after_all(*_: Any) -> Result:
        return told

    provider.fetch_payout = sent_after_all
    try:
        await shop.services.checks.check(UUID(started["id"]))
    finally:
        del provider.fetch_payout
    return started


async def test_a_crash_after_the_hold_keeps_it_and_sends_nothing_again(urls: Urls) -> None:
    clock = MovableClock()
    async with running_house(urls, amqp_url="", clock=clock, worker=False) as house:
        ada = await house.merchant()
        await fill(house, ada, FULL)
        provider: Any = house.services.registry.get("flutterwave")
        pay_out = provider.pay_out

        async def dies(*arguments: Any) -> Result:
            await pay_out(*arguments)
            raise asyncio.CancelledError

        provider.pay_out = dies
        with pytest.raises(asyncio.CancelledError):
            await withdraw(ada, "flutterwave", key="crash")
        del provider.pay_out
        listed = (await ada.get("/wallet/withdrawals")).json()["data"]
        assert [row["status"] for row in listed] == ["pending"]
        assert await purse(house, ada) == (850_000, 150_000)
        early = await withdraw(ada, "flutterwave", key="crash")
        assert (early.status_code, early.json()["code"]) == (409, "in_flight")
        clock.ahead += timedelta(minutes=5)
        again = await withdraw(ada, "flutterwave", key="crash")
        assert (again.status_code, again.json()["id"]) == (201, listed[0]["id"])

        async def paid() -> bool:
            return [charge["status"] for charge in (await house.charges("flutterwave"))["charges"]] == ["paid"]

        await eventually(paid, what="the transfer at the provider")
        await check_due(house.services)
        done = await whole(ada, listed[0]["id"])
        assert done["status"] == "completed"
        assert (await house.charges("flutterwave"))["totals"]["submissions"] == 1
        await audit(house)


async def test_the_destination_is_shown_with_its_last_four_digits_only(shop: House, ada: Merchant) -> None:
    started = await began(ada)
    answer = await ada.get(f"/wallet/withdrawals/{started['id']}")
    assert answer.json()["destination"] == {
        "type": "bank_account",
        "account_name": "Ada Obi",
        "bank_code": "057",
        "account_number": "******6789",
        "phone": None,
    }
    assert "0123456789" not in answer.text
    assert answer.json()["approval"] is None
    phone = await began(ada, "mpesa")
    shown = (await whole(ada, phone["id"]))["destination"]
    assert shown["phone"] == "*********4149"
    told = await shop.rows("SELECT data::text FROM events WHERE transaction_id = $1::uuid", started["id"])
    assert not any("0123456789" in row["data"] for row in told)


async def test_others_see_nothing_of_it(shop: House, ada: Merchant) -> None:
    started = await began(ada)
    bob = await shop.merchant()
    path = f"/wallet/withdrawals/{started['id']}"
    assert (await bob.get(path)).status_code == 404
    assert (await bob.post(f"{path}/cancel")).status_code == 404
    assert (await bob.get("/wallet/withdrawals")).json()["data"] == []
    assert (await ada.get(f"/payments/{started['id']}")).status_code == 404
    payment = await ada.pay("paystack")
    assert (await ada.get(f"/wallet/withdrawals/{payment['id']}")).status_code == 404
    listed = (await ada.get("/wallet/withdrawals")).json()["data"]
    assert [row["id"] for row in listed] == [started["id"]]


@pytest.mark.parametrize(
    ("provider", "changes", "pointer"),
    [
        ("cpay", {"destination": WITHDRAWALS["paystack"]["destination"]}, "/body/destination/type"),
        ("mpesa", {"destination": {"type": "mobile_money", "phone": "+2348012345678"}}, "/body/destination/phone"),
        ("paystack", {"currency": "LSL"}, "/body/currency"),
        ("stripe", {}, "/body/provider"),
        ("nobody", {}, "/body/provider"),
    ],
)
async def test_what_a_named_provider_cannot_send_is_refused_with_the_field(
    shop: House, ada: Merchant, provider: str, changes: dict[str, Any], pointer: str
) -> None:
    wanted = WITHDRAWALS.get(provider, WITHDRAWALS["paystack"])
    sent = {**wanted, **changes, "provider": provider}
    answer = await ada.post("/wallet/withdraw", key="k", json=sent)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer), answer.text
    assert (await ada.get("/wallet/withdrawals")).json()["data"] == []


async def test_without_a_name_the_first_that_can_send_it_does(shop: House, ada: Merchant) -> None:
    sent = {name: value for name, value in body("cpay").items() if name != "provider"}
    answer = await ada.post("/wallet/withdraw", key="k", json=sent)
    assert (answer.status_code, answer.json()["provider"]) == (201, "cpay"), answer.text
    nobody = await ada.post("/wallet/withdraw", key="k2", json={**sent, "currency": "NGN"})
    assert (nobody.status_code, nobody.json()["code"]) == (422, "no_provider")
    assert (await ada.get("/wallet/withdrawals")).json()["data"][0]["id"] == answer.json()["id"]


async def test_a_drained_provider_sends_nothing_new(shop: House, ada: Merchant) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/drain", json={"drained": True})
    try:
        answer = await withdraw(ada)
        assert (answer.status_code, answer.json()["code"]) == (409, "provider_drained")
        sent = {name: value for name, value in body("flutterwave").items() if name != "provider"}
        other = await ada.post("/wallet/withdraw", key="k", json=sent)
        assert other.json()["provider"] != "paystack"
    finally:
        await admin.post("/providers/paystack/drain", json={"drained": False})


async def test_more_than_is_there_is_refused_and_leaves_nothing(shop: House, ada: Merchant) -> None:
    answer = await withdraw(ada, amount="10000.01", key="more")
    assert (answer.status_code, answer.json()["code"], answer.json()["available_minor"]) == (
        409,
        "insufficient_funds",
        FULL,
    )
    poor = await shop.merchant()
    assert (await withdraw(poor)).json()["code"] == "insufficient_funds"
    assert (await ada.get("/wallet/withdrawals")).json()["data"] == []
    assert (await withdraw(ada, amount="10000.00", key="more")).status_code == 201  # the key was not used up


async def test_a_key_stands_for_its_first_answer(shop: House, ada: Merchant) -> None:
    answers = await asyncio.gather(*(withdraw(ada, key="once") for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"in_flight"}
    first = next(answer for answer in answers if answer.status_code == 201)
    again = await withdraw(ada, key="once")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    other = await withdraw(ada, key="once", amount="1.00")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (await ada.post("/wallet/withdraw", json=body())).json()["code"] == "idempotency_key_missing"
    assert len((await ada.get("/wallet/withdrawals")).json()["data"]) == 1
    assert await submissions_of(shop, "paystack", await attempt_of(ada, first.json()["id"])) == 1


async def test_what_was_funded_can_be_withdrawn(shop: House) -> None:
    ada = await shop.merchant()
    funding = await fund(shop, ada)
    await shop.until(ada, funding, "completed")
    assert await purse(shop, ada) == (500_000, 0)
    started = await began(ada, amount="5000.00")
    await until(ada, started["id"], "completed")
    assert await purse(shop, ada) == (0, 0)


async def fund(shop: House, merchant: Merchant) -> str:
    reply = await shop.services.payments.initialize(
        UUID(merchant.id),
        InitializePayment.model_validate(PAYSTACK),
        KeyScope(merchant.id, "POST", "/fund", "k"),
        Origin(),
        instance="/fund",
        kind=Kind.FUNDING,
    )
    return str(reply.transaction_id)


async def test_an_adapter_that_breaks_is_unknown(shop: House, ada: Merchant) -> None:
    provider: Any = shop.services.registry.get("cpay")

    async def breaks(*_: Any) -> Result:
        raise RuntimeError("a mistake of ours")

    provider.pay_out = breaks
    try:
        answer = await withdraw(ada, "cpay")
    finally:
        del provider.pay_out
    assert (answer.status_code, answer.json()["status"]) == (201, "processing")
    assert await purse(shop, ada, "LSL") == (FULL - 15_000, 15_000)
