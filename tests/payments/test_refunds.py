"""Refunds over the API, at simulated providers that behave and misbehave: right end each, nothing given back twice."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from payflow.core.clock import utc_now
from payflow.core.ids import new_reference, uuid7
from payflow.core.money import Money
from payflow.gateway.contract import CollectOrder, Collects, Customer, Operation
from payflow.transactions.aggregate import Attempt
from tests.house import House, Merchant, Urls, eventually, running_house
from tests.payments.conftest import Network
from tests.services import delete_keys
from tests.webhooks.desk import MovableClock
from worker.timers import check_due, refund_duplicates

REFUNDERS = ("paystack", "stripe", "moniepoint", "flutterwave")
# Amounts whose part and rest choose no outcome of the simulator.
AMOUNT, PART, REST = "500.00", "200.00", "300.00"


@pytest.fixture(scope="module")
async def shop(urls: Urls) -> AsyncIterator[House]:
    simulator = {"hang_seconds": 0.02, "customer_delay_seconds": 0.05}
    async with running_house(
        urls,
        amqp_url="",
        simulator=simulator,
        transport=Network,
        check_min_interval_seconds=0.0,
        overtaken_delays_seconds=(0.2, 0.5),
        ladder_seconds=(0.5, 1.0, 1.0, 2.0, 5.0),
    ) as house:
        yield house


@pytest.fixture
async def ada(shop: House) -> Merchant:
    return await shop.merchant()


async def paid(shop: House, merchant: Merchant, provider: str = "paystack", amount: str = AMOUNT) -> dict[str, Any]:
    started = await merchant.pay(provider, amount=amount)
    return await shop.until(merchant, started["id"], "completed")


async def refund(
    merchant: Merchant, payment: dict[str, Any], amount: str | None = None, *, key: str | None = None, **more: Any
) -> httpx.Response:
    body = {**({"amount": amount} if amount else {}), **more}
    return await merchant.post(f"/payments/{payment['id']}/refund", key=key or str(uuid4()), json=body)


async def ended(merchant: Merchant, payment: dict[str, Any], refund_id: str) -> dict[str, Any]:
    """The refund once the provider has said how it ended."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update((await merchant.get(f"/payments/{payment['id']}/refunds/{refund_id}")).json())
        return found["status"] in ("completed", "failed")

    await eventually(there, seconds=30, what=lambda: f"the end of the refund, which is {found.get('status')}")
    return found


def story(payment: dict[str, Any]) -> list[str]:
    assert [event["sequence"] for event in payment["timeline"]] == list(range(1, payment["version"] + 1))
    return [event["type"] for event in payment["timeline"] if event["type"].startswith("refund.")]


async def books(shop: House, payment: dict[str, Any]) -> dict[str, int]:
    """What each account holds of one payment."""
    rows = await shop.rows(
        """
        SELECT a.code, sum(e.amount_minor)::bigint AS total FROM ledger_entries e
        JOIN ledger_journals j ON j.id = e.journal_id JOIN ledger_accounts a ON a.id = e.account_id
        WHERE j.transaction_id = $1::uuid GROUP BY a.code
        """,
        payment["id"],
    )
    assert sum(row["total"] for row in rows) == 0
    return {row["code"]: row["total"] for row in rows}


async def test_a_repeat_that_spells_the_payment_otherwise_is_still_a_repeat(shop: House, ada: Merchant) -> None:
    payment = await paid(shop, ada)
    first = await refund(ada, payment, "10.00", key="once")
    spelled = UUID(payment["id"])
    for other in (str(spelled).upper(), spelled.hex, f"urn:uuid:{spelled}"):
        again = await refund(ada, {"id": other}, "10.00", key="once")
        assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
        assert again.headers["idempotent-replayed"] == "true"
    assert len((await ada.payment(payment["id"]))["refunds"]) == 1


async def test_a_key_that_was_forgotten_still_names_its_refund(shop: House, ada: Merchant) -> None:
    """A refund remembers its request for good: what was given back once is never given back again by a late repeat."""
    payment = await paid(shop, ada)
    first = await refund(ada, payment, "10.00", key="late")
    await shop.rows("UPDATE idempotency_keys SET expires_at = now() - interval '1 second' WHERE key = 'late'")
    assert await shop.services.idempotency_keys.delete_expired(utc_now()) == 1
    await delete_keys(shop.settings.redis_url, shop.settings.redis_prefix + "idem:")
    again = await refund(ada, payment, "10.00", key="late")
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"]), again.text
    assert again.headers["idempotent-replayed"] == "true"
    assert len((await ada.payment(payment["id"]))["refunds"]) == 1


@pytest.mark.parametrize("provider", REFUNDERS)
async def test_a_part_and_then_the_rest(shop: House, ada: Merchant, provider: str) -> None:
    payment = await paid(shop, ada, provider)
    part = await refund(ada, payment, PART, reason="One of two came broken")
    assert part.status_code == 201, part.text
    assert (part.json()["amount"], part.json()["reason"]) == (PART, "One of two came broken")
    assert part.headers["location"].endswith(f"/payments/{payment['id']}/refunds/{part.json()['id']}")
    await ended(ada, payment, part.json()["id"])
    stands = await ada.payment(payment["id"])
    assert (stands["status"], stands["refunded_minor"]) == ("partially_refunded", 20_000)

    rest = await refund(ada, payment)
    assert (rest.status_code, rest.json()["amount"]) == (201, REST)
    assert (await ended(ada, payment, rest.json()["id"]))["status"] == "completed"
    done = await ada.payment(payment["id"])
    assert (done["status"], done["refunded_minor"]) == ("refunded", 50_000)
    assert story(done) == ["refund.processing", "refund.completed"] * 2
    assert [attempt["operation"] for attempt in done["attempts"]] == ["collect", "refund", "refund"]
    assert (await books(shop, payment))["sales"] == 0
    again = await refund(ada, payment, "1.00")
    assert (again.status_code, again.json()["code"]) == (409, "already_refunded")


async def test_more_than_is_left_is_refused_and_says_how_much_is(shop: House, ada: Merchant) -> None:
    payment = await paid(shop, ada)
    assert (await refund(ada, payment, PART)).status_code == 201
    more = await refund(ada, payment, "300.01")
    assert (more.status_code, more.json()["code"], more.json()["refundable_minor"]) == (
        409,
        "refund_exceeds_remaining",
        30_000,
    )
    listed = (await ada.get(f"/payments/{payment['id']}/refunds")).json()
    assert (len(listed["data"]), listed["refundable_minor"]) == (1, 30_000)


async def test_ten_at_once_give_back_no_more_than_was_paid(shop: House, ada: Merchant) -> None:
    payment = await paid(shop, ada, "stripe")
    answers = await asyncio.gather(*(refund(ada, payment, PART) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [409] * 8
    for answer in answers:
        if answer.status_code == 201:
            await ended(ada, payment, answer.json()["id"])
    done = await ada.payment(payment["id"])
    assert done["refunded_minor"] == 40_000
    assert (await books(shop, payment))["sales"] == -10_000


async def test_the_same_key_gives_one_refund_and_the_same_answer(shop: House, ada: Merchant) -> None:
    payment = await paid(shop, ada, "stripe")
    answers = await asyncio.gather(*(refund(ada, payment, PART, key="back-1") for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    first = next(answer for answer in answers if answer.status_code == 201)
    again = await refund(ada, payment, PART, key="back-1")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json() == first.json()
    assert len((await ada.payment(payment["id"]))["refunds"]) == 1
    other = await refund(ada, payment, REST, key="back-1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_an_answer_stands_though_nothing_is_left(shop: House, ada: Merchant) -> None:
    payment = await paid(shop, ada, "stripe")
    first = await refund(ada, payment, key="all")
    await ended(ada, payment, first.json()["id"])
    again = await refund(ada, payment, key="all")
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])


@pytest.mark.parametrize(("provider", "word"), [("cpay", "C-Pay"), ("standardbank_pay", "Standard Bank")])
async def test_a_provider_without_refunds_names_the_alternative(
    shop: House, ada: Merchant, provider: str, word: str
) -> None:
    payment = await paid(shop, ada, provider, "150.00")
    answer = await refund(ada, payment)
    assert (answer.status_code, answer.json()["code"]) == (409, "refund_unsupported")
    alternative = shop.services.registry.declaration(provider).refund_alternative
    assert alternative
    assert alternative in answer.json()["detail"]
    assert word in answer.json()["detail"]


async def test_only_what_was_paid_can_be_given_back_and_only_by_its_owner(shop: House, ada: Merchant) -> None:
    await shop.outcome("paystack", "silent", times=1)
    waiting = await ada.pay(amount=AMOUNT)
    early = await refund(ada, waiting)
    assert (early.status_code, early.json()["code"]) == (409, "not_refundable")
    payment = await paid(shop, ada)
    bert = await shop.merchant()
    assert (await refund(bert, payment)).status_code == 404
    assert (await bert.get(f"/payments/{payment['id']}/refunds")).status_code == 404
    assert (await ada.get(f"/payments/{payment['id']}/refunds/{uuid4()}")).status_code == 404
    missing = await ada.post(f"/payments/{payment['id']}/refund", json={})
    assert (missing.status_code, missing.json()["code"]) == (400, "idempotency_key_missing")


@pytest.mark.parametrize("amount", ["0", "-1", "1.001", 1e400, "abc", True])
async def test_bad_amounts_are_refused(shop: House, ada: Merchant, amount: Any) -> None:
    payment_id = uuid4()
    body = b'{"amount": 1e400}' if amount == 1e400 else None
    sent = {"content": body, "headers": {"content-type": "application/json"}} if body else {"json": {"amount": amount}}
    answer = await ada.post(f"/payments/{payment_id}/refund", key="k", **sent)  # type: ignore[arg-type]
    assert answer.status_code in (404, 422)
    if answer.status_code == 404:  # a well-formed number, that no currency of an unknown payment can refuse
        assert amount == "1.001"


@pytest.mark.parametrize("provider", ["paystack", "stripe", "moniepoint", "flutterwave"])
async def test_a_refused_refund_fails_and_the_money_can_be_asked_for_again(
    shop: House, ada: Merchant, provider: str
) -> None:
    payment = await paid(shop, ada, provider)
    await shop.outcome(provider, "refuse", operation="refund", times=1)
    refused = await refund(ada, payment, PART)
    assert refused.status_code == 201
    if refused.json()["status"] == "failed":
        assert refused.json()["failure"]["code"]
        again = await refund(ada, payment)
        assert (again.status_code, again.json()["amount"]) == (201, AMOUNT)
    else:
        # Words that no document lists are unknown: the money stays counted until somebody knows.
        assert refused.json()["status"] == "processing"
        assert (await refund(ada, payment)).json()["amount"] == REST


@pytest.mark.parametrize("provider", REFUNDERS)
@pytest.mark.parametrize("outcome", ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"])
async def test_a_lost_answer_is_found_again_and_never_sent_twice(
    shop: House, ada: Merchant, provider: str, outcome: str
) -> None:
    payment = await paid(shop, ada, provider)
    await shop.outcome(provider, outcome, operation="refund", times=1)
    answer = await refund(ada, payment, PART)
    assert answer.status_code == 201
    assert answer.json()["status"] in ("processing", "completed")  # a webhook may have overtaken the silence
    await ada.post(f"/payments/{payment['id']}/verify")
    done = await ended(ada, payment, answer.json()["id"])
    assert done["status"] == "completed"
    stands = await ada.payment(payment["id"])
    assert (stands["status"], stands["refunded_minor"]) == ("partially_refunded", 20_000)
    assert len(stands["refunds"]) == 1


@pytest.mark.parametrize("provider", ["paystack", "stripe"])
async def test_a_refund_that_fails_late_is_the_merchants_money_again(shop: House, ada: Merchant, provider: str) -> None:
    payment = await paid(shop, ada, provider)
    await shop.outcome(provider, "late_failure", operation="refund", times=1)
    answer = await refund(ada, payment, PART)
    assert answer.status_code == 201

    async def failed() -> bool:
        await ada.post(f"/payments/{payment['id']}/verify")
        return story(await ada.payment(payment["id"]))[-1:] == ["refund.failed"]

    await eventually(failed, seconds=30)
    stands = await ada.payment(payment["id"])
    assert (stands["status"], stands["refunded_minor"]) == ("completed", 0)
    assert (await books(shop, payment))["sales"] == -50_000


async def test_a_provider_out_of_reach_fails_the_refund_with_502(shop: House, ada: Merchant) -> None:
    payment = await paid(shop, ada)

    async def unreachable(request: httpx.Request) -> None:
        if "/refund" in request.url.path:
            raise httpx.ConnectError("no route to the provider", request=request)

    network = shop.services.http
    transport = network._transport if hasattr(network, "_transport") else None
    assert isinstance(transport, Network)
    transport.before = unreachable
    try:
        answer = await refund(ada, payment, key="away")
    finally:
        transport.before = None
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable")
    stands = await ada.payment(payment["id"])
    assert [entry["status"] for entry in stands["refunds"]] == ["failed"]
    assert answer.json()["refund_id"] == stands["refunds"][0]["id"]
    again = await refund(ada, payment, key="away")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (502, "true")
    assert (await refund(ada, payment, key="back")).status_code == 201


async def test_a_refund_made_in_the_providers_dashboard_comes_into_the_books(shop: House, ada: Merchant) -> None:
    payment = await paid(shop, ada, "stripe")
    intent = next(word for word in payment["attempts"][0]["provider_references"] if word.startswith("pi_"))
    secret = shop.simulator_settings.stripe_secret_key
    made = await shop.simulator.post(
        "/stripe/v1/refunds",
        data={"payment_intent": intent, "amount": "12345"},
        headers={
            "authorization": f"Bearer {secret.get_secret_value() if hasattr(secret, 'get_secret_value') else secret}"
        },
    )
    assert made.is_success, made.text

    async def told() -> bool:
        return (await ada.payment(payment["id"]))["refunded_minor"] == 12_345

    await eventually(told, seconds=30)
    stands = await ada.payment(payment["id"])
    assert stands["status"] == "partially_refunded"
    assert stands["attempts"][-1]["routing"]["reason"] == "made at the provider, not here"
    assert (await books(shop, payment))["sales"] == -37_655


async def paid_twice(shop: House, merchant: Merchant) -> tuple[dict[str, Any], str]:
    """A payment whose customer also paid on a second page: the payment, and the second attempt's reference."""
    payment = await paid(shop, merchant)
    services, now = shop.services, shop.services.clock()
    second = Attempt(
        id=uuid7(),
        transaction_id=UUID(payment["id"]),
        user_id=UUID(merchant.id),
        number=2,
        operation=Operation.COLLECT,
        provider="paystack",
        reference=new_reference("att"),
        amount=Money(50_000, "NGN"),
        created_at=now,
        updated_at=now,
    )
    await services.transactions.add_attempt(second)
    provider, credentials = services.registry.get("paystack"), await services.registry.credentials("paystack")
    assert isinstance(provider, Collects)
    assert credentials is not None
    customer = Customer(email="ada@example.com")
    order = CollectOrder(second.reference, second.transaction_id, second.amount, customer, callback_url="")
    await provider.collect(order, credentials.current)

    async def detected() -> bool:
        timeline = (await merchant.payment(payment["id"]))["timeline"]
        return timeline[-1]["type"] == "payment.duplicate_detected"

    await eventually(detected)
    assert (await books(shop, payment))["suspense"] == -50_000
    return payment, second.reference


async def test_a_second_payment_goes_back_from_suspense_as_a_whole(shop: House, ada: Merchant) -> None:
    payment, second = await paid_twice(shop, ada)
    part = await refund(ada, payment, PART, attempt_reference=second)
    assert (part.status_code, part.json()["code"]) == (409, "not_refundable")
    first = await refund(ada, payment, attempt_reference=payment["attempts"][0]["reference"])
    assert (first.status_code, first.json()["code"]) == (409, "not_refundable")
    none = await refund(ada, payment, attempt_reference=new_reference("att"))
    assert none.status_code == 422

    answer = await refund(ada, payment, attempt_reference=second)
    assert answer.status_code == 201, answer.text
    assert (await ended(ada, payment, answer.json()["id"]))["status"] == "completed"
    stands = await ada.payment(payment["id"])
    assert (stands["status"], stands["refunded_minor"], stands["attempts"][1]["status"]) == ("completed", 0, "reversed")
    assert {"suspense": 0, "sales": -50_000}.items() <= (await books(shop, payment)).items()
    again = await refund(ada, payment, attempt_reference=second)
    assert (again.status_code, again.json()["code"]) == (409, "already_refunded")
    whole = await refund(ada, payment)
    assert (whole.status_code, whole.json()["amount"]) == (201, AMOUNT)


@pytest.mark.parametrize(("amount", "other"), [("5009.11", "NGN"), ("5009.12", "USD")])
async def test_what_was_rejected_in_review_goes_back_from_suspense(
    shop: House, ada: Merchant, amount: str, other: str
) -> None:
    """Another amount, or another currency, was paid."""
    payment = await shop.until(ada, (await ada.pay(amount=amount))["id"], "under_review")
    came = payment["attempts"][0]
    assert came["paid_currency"] == other
    early = await refund(ada, payment, attempt_reference=came["reference"])
    assert (early.status_code, early.json()["code"]) == (409, "not_refundable")
    admin = await shop.merchant(admin=True)
    decision = {"outcome": "failed", "reason": "Not what was ordered."}
    assert (await admin.post(f"/payments/{payment['id']}/resolve", key=str(uuid4()), json=decision)).status_code == 200
    answer = await refund(ada, payment, attempt_reference=came["reference"])
    assert answer.status_code == 201, answer.text
    assert (answer.json()["amount_minor"], answer.json()["currency"]) == (came["paid_minor"], other)
    assert (await ended(ada, payment, answer.json()["id"]))["status"] == "completed"
    stands = await ada.payment(payment["id"])
    assert (stands["status"], stands["refunded_minor"], stands["attempts"][0]["status"]) == ("failed", 0, "reversed")
    assert not any((await books(shop, payment)).values())
    assert (await admin.get("/books", params={"fresh": "true"})).json()["breaks"] == []
    again = await refund(ada, payment, attempt_reference=came["reference"])
    assert (again.status_code, again.json()["code"]) == (409, "already_refunded")


async def test_second_payments_go_back_by_themselves_only_where_the_setting_says_so(urls: Urls) -> None:
    simulator = {"customer_delay_seconds": 0.05}
    for wanted in (False, True):
        async with running_house(urls, amqp_url="", simulator=simulator, refund_duplicates=wanted) as house:
            ada = await house.merchant()
            payment, _ = await paid_twice(house, ada)
            tried = await asyncio.gather(*(refund_duplicates(house.services) for _ in range(3)))
            stands = await ada.payment(payment["id"])
            assert len(stands["refunds"]) == int(wanted)
            assert any(tried) is wanted
            if wanted:
                await ended(ada, payment, stands["refunds"][0]["id"])
                assert (await books(house, payment))["suspense"] == 0
                assert await refund_duplicates(house.services) == 0


async def test_one_that_cannot_go_back_is_not_in_the_way_of_others(urls: Urls) -> None:
    simulator = {"customer_delay_seconds": 0.05}
    async with running_house(urls, amqp_url="", simulator=simulator, refund_duplicates=True, timer_batch=1) as house:
        ada = await house.merchant()
        _, stays = await paid_twice(house, ada)
        await house.rows("UPDATE attempts SET provider = 'cpay' WHERE reference = $1", stays)
        payment, _ = await paid_twice(house, ada)
        for _ in range(3):
            await refund_duplicates(house.services)
        assert len((await ada.payment(payment["id"]))["refunds"]) == 1


class Dying(httpx.AsyncBaseTransport):
    """The process ends, as far as this request goes, when the provider has taken the refund and before anybody knows."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        if request.method == "POST" and request.url.path.endswith("/refunds"):
            raise asyncio.CancelledError
        return response


async def test_a_crash_before_the_answer_leaves_a_refund_that_the_timer_brings_to_its_end(urls: Urls) -> None:
    clock = MovableClock()
    simulator = {"customer_delay_seconds": 0.05}
    async with running_house(
        urls, amqp_url="", clock=clock, simulator=simulator, worker=False, transport=Dying
    ) as house:
        ada = await house.merchant()
        started = await ada.pay("stripe", amount=AMOUNT)

        async def is_paid() -> bool:
            await ada.post(f"/payments/{started['id']}/verify")
            return (await ada.payment(started["id"]))["status"] == "completed"

        await eventually(is_paid)
        with pytest.raises(asyncio.CancelledError):
            await refund(ada, started, PART, key="crash")
        assert (await ada.payment(started["id"]))["refunds"][0]["status"] == "pending"
        early = await refund(ada, started, PART, key="crash")
        assert (early.status_code, early.json()["code"]) == (409, "in_flight")
        clock.ahead += timedelta(minutes=5)
        await check_due(house.services)
        stands = await ada.payment(started["id"])
        assert (stands["status"], len(stands["refunds"])) == ("partially_refunded", 1)
        again = await refund(ada, started, PART, key="crash")
        assert (again.status_code, again.json()["status"]) == (201, "completed")
        assert len((await ada.payment(started["id"]))["refunds"]) == 1


async def test_what_nobody_answers_is_reviewed_and_an_admin_decides(urls: Urls) -> None:
    clock = MovableClock()
    simulator = {"customer_delay_seconds": 0.05}
    month = 30 * 86_400  # a token that outlives the wait
    async with running_house(urls, amqp_url="", clock=clock, simulator=simulator, access_token_seconds=month) as house:
        ada, admin = await house.merchant(), await house.merchant(admin=True)
        payment = await paid(house, ada)
        await house.outcome("paystack", "silent", operation="refund", times=1)
        answer = await refund(ada, payment)
        refund_id = answer.json()["id"]
        path = f"/payments/{payment['id']}/refunds/{refund_id}/resolve"
        body = {"outcome": "completed", "reason": "The bank says that it arrived."}
        assert (await admin.post(path, key="early", json=body)).json()["code"] == "not_under_review"
        clock.ahead += timedelta(days=15)
        await check_due(house.services)
        stands = await ada.payment(payment["id"])
        assert stands["refunds"][0]["status"] == "under_review"
        assert (await ada.post(path, key="k", json=body)).status_code == 403
        decided = await admin.post(path, key="k", json=body)
        assert (decided.status_code, decided.json()["status"]) == (200, "completed")
        assert (await admin.post(path, key="k", json=body)).headers["idempotent-replayed"] == "true"
        assert (await ada.payment(payment["id"]))["status"] == "refunded"
