"""What a merchant meets: starting, reading, listing, verifying, cancelling; and an admin who decides."""

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.house import BODIES, PAYSTACK, STRIPE, House, Merchant, Urls, eventually, running_house
from tests.payments.conftest import Network

NOWHERE = "http://127.0.0.1:1"  # a real port that refuses


def network(house: House) -> Network:
    transport = house.services.http._transport
    assert isinstance(transport, Network)
    return transport


async def books(house: House, payment_id: str) -> dict[str, int]:
    """Sums by account of what this payment posted."""
    rows = await house.rows(
        """
        SELECT a.code, sum(e.amount_minor)::bigint AS amount FROM ledger_entries e
        JOIN ledger_accounts a ON a.id = e.account_id JOIN ledger_journals j ON j.id = e.journal_id
        WHERE j.transaction_id = $1::text::uuid GROUP BY a.code HAVING sum(e.amount_minor) <> 0
        """,
        payment_id,
    )
    return {row["code"]: row["amount"] for row in rows}


def told(payment: dict[str, Any]) -> list[str]:
    assert [event["sequence"] for event in payment["timeline"]] == list(range(1, payment["version"] + 1))
    return [event["type"] for event in payment["timeline"]]


async def by_hand(house: House, merchant: Merchant, provider: str = "paystack", **changes: Any) -> dict[str, Any]:
    """A payment whose customer does nothing by itself (outcome `silent`)."""
    endings = {"paystack": "5009.05", "stripe": "19.05", "mpesa": "1905"}
    return await merchant.pay(provider, **{"amount": endings[provider], **changes})


async def attempt_reference(merchant: Merchant, payment: dict[str, Any]) -> str:
    return str((await merchant.payment(payment["id"]))["attempts"][-1]["reference"])


# -- start --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["paystack", "mpesa", "stripe"])
async def test_a_payment_starts_with_what_the_customer_must_do(shop: House, ada: Merchant, provider: str) -> None:
    answer = await ada.initialize({**BODIES[provider], "customer_id": "c-7", "metadata": {"order": 1}})
    payment = answer.json()
    assert answer.headers["location"] == f"/api/v1/payments/{payment['id']}"
    assert "idempotent-replayed" not in answer.headers
    assert (payment["status"], payment["version"], payment["kind"]) == ("requires_action", 2, "payment")
    assert (payment["provider"], payment["customer_id"], payment["metadata"]) == (provider, "c-7", {"order": 1})
    if provider == "mpesa":
        assert payment["next_action"]["display_text"] == "Enter your M-Pesa PIN on your phone to pay KES 250."
        assert payment["checkout_url"] is None
    else:
        assert payment["next_action"]["url"] == payment["checkout_url"]
    assert payment["next_check_at"] > payment["created_at"]
    assert payment["expires_at"] > payment["next_check_at"]


async def test_without_a_provider_the_first_that_fits_is_taken(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False, provider_order=("mpesa", "stripe", "paystack")) as house:
        ada = await house.merchant()
        body = {name: value for name, value in STRIPE.items() if name != "provider"}
        payment = (await ada.initialize(body)).json()
        assert payment["provider"] == "stripe"
        attempt = (await ada.payment(payment["id"]))["attempts"][0]
        assert attempt["routing"]["reason"] == "fits; number 2 in the order"


async def test_a_provider_without_credentials_is_not_configured(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False, provider_credentials={}) as house:
        ada = await house.merchant()
        answer = await ada.initialize(PAYSTACK)
        assert (answer.status_code, answer.json()["code"]) == (422, "provider_not_configured")
        routed = await ada.initialize({name: value for name, value in PAYSTACK.items() if name != "provider"})
        assert (routed.status_code, routed.json()["code"]) == (422, "no_provider")
        assert await house.rows("SELECT id FROM transactions") == []


async def test_many_first_requests_at_once_find_the_credentials(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False) as house:
        ada = await house.merchant()
        answers = await asyncio.gather(*(ada.initialize(PAYSTACK) for _ in range(10)))
        assert [answer.status_code for answer in answers] == [201] * 10


@pytest.mark.parametrize("provider", ["paystack", "mpesa", "stripe"])
async def test_where_nothing_could_be_sent_the_answer_is_502_and_stays_so(urls: Urls, provider: str) -> None:
    bases = dict.fromkeys(BODIES, NOWHERE)
    async with running_house(urls, amqp_url="", worker=False, transport=Network, provider_base_urls=bases) as house:
        ada, key = await house.merchant(), str(uuid4())
        answer = await ada.initialize(BODIES[provider], key=key)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (502, "provider_unavailable")
        assert answer.headers["content-type"] == "application/problem+json"
        payment = await ada.payment(problem["transaction_id"])
        assert (payment["status"], payment["failure"]["code"]) == ("failed", "provider_unreachable")
        assert payment["attempts"][0]["status"] == "not_sent"
        assert told(payment) == ["payment.initiated", "payment.attempt_failed", "payment.failed"]
        again = await ada.initialize(BODIES[provider], key=key)
        assert (again.status_code, again.content) == (502, answer.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["content-type"] == "application/problem+json"
        assert len(await house.rows("SELECT id FROM attempts")) == 1


ROUTED = {**STRIPE, "provider": None}


async def test_another_provider_is_tried_when_nothing_was_sent(urls: Urls) -> None:
    bases = {"paystack": NOWHERE, "stripe": "http://simulator.example/stripe"}
    async with running_house(
        urls, amqp_url="", transport=Network, provider_base_urls=bases, provider_order=("paystack", "stripe")
    ) as house:
        ada, key = await house.merchant(), str(uuid4())
        payment = (await ada.initialize(ROUTED, key=key)).json()
        assert (payment["status"], payment["provider"]) == ("requires_action", "stripe")
        paid = await house.until(ada, payment["id"], "completed")
        assert [(each["number"], each["provider"], each["status"]) for each in paid["attempts"]] == [
            (1, "paystack", "not_sent"),
            (2, "stripe", "succeeded"),
        ]
        assert told(paid) == [
            "payment.initiated",
            "payment.attempt_failed",
            "payment.requires_action",
            "payment.completed",
        ]
        assert (await ada.initialize(ROUTED, key=key)).json()["id"] == payment["id"]
        # Its end follows the provider that has it, not the one that was tried first (Paystack: 24 hours).
        span = datetime.fromisoformat(payment["expires_at"]) - datetime.fromisoformat(payment["created_at"])
        assert span < timedelta(hours=2)


async def test_another_provider_is_tried_after_a_listed_refusal(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False, provider_order=("paystack", "stripe")) as house:
        ada = await house.merchant()
        await house.outcome("paystack", "refuse")
        payment = (await ada.initialize(ROUTED)).json()
        assert (payment["status"], payment["provider"]) == ("requires_action", "stripe")
        attempts = (await ada.payment(payment["id"]))["attempts"]
        assert [each["status"] for each in attempts] == ["refused", "requires_action"]


@pytest.mark.parametrize(
    "outcome", ["server_error", "server_error_after_charging", "html_error", "dropped_after_charging"]
)
async def test_no_other_provider_is_tried_once_something_may_have_been_sent(urls: Urls, outcome: str) -> None:
    async with running_house(urls, amqp_url="", worker=False, provider_order=("paystack", "stripe")) as house:
        ada = await house.merchant()
        await house.outcome("paystack", outcome)
        payment = (await ada.initialize(ROUTED)).json()
        assert (payment["status"], payment["provider"]) == ("processing", "paystack")
        assert len((await ada.payment(payment["id"]))["attempts"]) == 1
        assert (await house.charges("stripe"))["totals"]["submissions"] == 0


async def test_all_providers_refuse(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False, provider_order=("paystack", "stripe")) as house:
        ada = await house.merchant()
        await house.outcome("all", "refuse")
        answer = await ada.initialize(ROUTED)
        assert (answer.status_code, answer.json()["status"]) == (201, "failed")
        assert answer.json()["failure"]["code"]
        attempts = (await ada.payment(answer.json()["id"]))["attempts"]
        assert [each["provider"] for each in attempts][:2] == ["paystack", "stripe"]
        assert {each["status"] for each in attempts} == {"refused"}


async def test_who_gives_up_during_the_first_call_is_not_charged_by_a_second_provider(urls: Urls) -> None:
    async with running_house(
        urls, amqp_url="", worker=False, transport=Network, provider_order=("paystack", "stripe")
    ) as house:
        ada = await house.merchant()

        async def give_up(request: httpx.Request) -> None:
            network(house).before = None
            (row,) = await house.rows("SELECT id FROM transactions")
            assert (await ada.post(f"/payments/{row['id']}/cancel")).status_code == 200
            raise httpx.ConnectError("refused")

        network(house).before = give_up
        key = str(uuid4())
        answer = await ada.initialize(ROUTED, key=key)
        assert (answer.status_code, answer.json()["status"]) == (201, "cancelled")
        assert (await house.charges("stripe"))["totals"]["submissions"] == 0
        again = await ada.initialize(ROUTED, key=key)
        assert (again.json()["status"], again.headers["idempotent-replayed"]) == ("cancelled", "true")


@pytest.mark.parametrize("provider", ["paystack", "mpesa", "stripe"])
async def test_a_refusal_is_a_failed_payment_with_its_reason(shop: House, ada: Merchant, provider: str) -> None:
    endings = {"paystack": "5009.17", "mpesa": "1917", "stripe": "19.17"}
    answer = await ada.initialize({**BODIES[provider], "amount": endings[provider]})
    assert (answer.status_code, answer.json()["status"]) == (201, "failed")
    assert answer.json()["failure"]["code"] not in ("", "provider_unreachable")
    assert "client_token" in answer.json()
    assert told(await ada.payment(answer.json()["id"])) == [
        "payment.initiated",
        "payment.attempt_failed",
        "payment.failed",
    ]


@pytest.mark.parametrize(("provider", "amount"), [("mpesa", "1901"), ("mpesa", "1902"), ("stripe", "19.02")])
async def test_a_decline_of_the_customer_ends_the_attempt(
    shop: House, ada: Merchant, provider: str, amount: str
) -> None:
    payment = await ada.pay(provider, amount=amount)

    async def declined() -> bool:
        return bool((await ada.payment(payment["id"]))["attempts"][0]["status"] == "declined")

    await eventually(declined)
    now = await ada.payment(payment["id"])
    # A hosted page lives on after a decline; a prompt on the handset does not.
    assert now["status"] == ("failed" if provider == "mpesa" else "requires_action")
    assert now["attempts"][0]["failure"]["code"]
    assert await books(shop, payment["id"]) == {}


@pytest.mark.parametrize(
    ("provider", "amount"),
    [
        ("paystack", "5009.07"),
        ("paystack", "5009.16"),
        ("paystack", "5009.23"),
        ("mpesa", "1907"),
        ("mpesa", "1916"),
        ("mpesa", "1923"),
        ("stripe", "19.07"),
        ("stripe", "19.16"),
        ("stripe", "19.23"),
    ],
)
async def test_a_lost_answer_is_processing_never_sent_again_and_settled_later(
    shop: House, ada: Merchant, provider: str, amount: str
) -> None:
    answer = await ada.initialize({**BODIES[provider], "amount": amount})
    payment = answer.json()
    assert (answer.status_code, payment["status"], payment["failure"]) == (201, "processing", None)
    assert payment["next_check_at"] is not None
    paid = await shop.until(ada, payment["id"], "completed", "under_review")
    assert len(paid["attempts"]) == 1
    if provider != "mpesa":  # Daraja's query needs an id that only the lost answer held; it does not know our reference
        assert paid["status"] == "completed"
        assert (await books(shop, payment["id"]))["sales"] == -payment["amount_minor"]
        assert (await shop.charges(provider, paid["attempts"][0]["reference"]))["totals"]["submissions"] == 1


async def test_the_timer_settles_what_no_webhook_tells(urls: Urls) -> None:
    async with running_house(
        urls, amqp_url="", check_schedule_seconds=(0.2,), simulator={"customer_delay_seconds": 0.0}
    ) as house:
        ada = await house.merchant()
        payment = await ada.pay(amount="5009.22")  # query_only
        await house.rows("UPDATE transactions SET next_check_at = now()")
        paid = await house.until(ada, payment["id"], "completed")
        assert paid["timeline"][-1]["actor"] == "provider"
        assert (await books(house, payment["id"]))["sales"] == -500_922
        assert (await house.charges("paystack"))["totals"]["submissions"] == 1


# -- read ---------------------------------------------------------------------------------------------------------------


async def test_a_payment_is_read_with_an_etag(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada)
    path = f"/payments/{payment['id']}"
    first = await ada.get(path)
    tag = first.headers["etag"]
    same = await ada.get(path, headers={"if-none-match": tag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert (await ada.get(path, headers={"if-none-match": f'"odd", W/{tag}'})).status_code == 304
    assert (await ada.get(path, headers={"if-none-match": '"odd"'})).status_code == 200
    assert (await ada.post(f"{path}/cancel")).status_code == 200
    changed = await ada.get(path, headers={"if-none-match": tag})
    assert (changed.status_code, changed.json()["status"]) == (200, "cancelled")


async def test_a_timeline_tells_who_did_what(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada)
    assert (await ada.post(f"/payments/{payment['id']}/cancel")).status_code == 200
    detail = await ada.payment(payment["id"])
    assert [(event["type"], event["actor"], event["status"]) for event in detail["timeline"]] == [
        ("payment.initiated", "user", "pending"),
        ("payment.requires_action", "provider", "requires_action"),
        ("payment.cancelled", "user", "cancelled"),
    ]
    assert "ada@example.com" not in json.dumps(detail["timeline"])
    assert detail["refunds"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/payments/{id}"),
        ("POST", "/payments/{id}/verify"),
        ("POST", "/payments/{id}/cancel"),
        ("GET", "/transactions/{reference}"),
    ],
)
async def test_what_belongs_to_others_is_not_found(shop: House, ada: Merchant, method: str, path: str) -> None:
    payment = await by_hand(shop, ada)
    stranger = await shop.merchant()
    url = "/api/v1" + path.format(**payment)
    answer = await stranger.client.request(method, url)
    unknown = await stranger.client.request(method, "/api/v1" + path.format(id=uuid4(), reference="pay" + "0" * 26))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["detail"] == unknown.json()["detail"]
    assert (await ada.payment(payment["id"]))["status"] == "requires_action"
    admin = await shop.merchant(admin=True)
    assert (await admin.client.request(method, url)).status_code == 200


async def test_a_transaction_is_read_by_its_reference(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada)
    answer = await ada.get(f"/transactions/{payment['reference']}")
    assert answer.json() == await ada.payment(payment["id"])
    assert (await ada.get("/transactions/No-Reference")).status_code == 422


async def test_lists_filter_and_page(shop: House, ada: Merchant) -> None:
    payments = [
        await by_hand(shop, ada),
        await by_hand(shop, ada, customer_id="c-1"),
        await by_hand(shop, ada, "stripe", customer_id="c-1"),
        await by_hand(shop, ada, "mpesa"),
    ]
    await ada.post(f"/payments/{payments[0]['id']}/cancel")
    newest = [payment["id"] for payment in payments[::-1]]

    async def listed(where: str = "/payments", **params: Any) -> list[str]:
        answer = await ada.get(where, params=params)
        assert answer.status_code == 200, answer.text
        return [row["id"] for row in answer.json()["data"]]

    assert await listed() == await listed("/transactions") == newest
    assert await listed(provider="stripe") == [payments[2]["id"]]
    assert await listed(status="cancelled") == [payments[0]["id"]]
    assert await listed(customer_id="c-1") == [payments[2]["id"], payments[1]["id"]]
    assert await listed(customer_id="c-1", provider="paystack") == [payments[1]["id"]]
    assert await listed(currency="KES") == [payments[3]["id"]]
    assert await listed(created_from=payments[2]["created_at"]) == newest[:2]
    assert await listed(created_to=payments[2]["created_at"]) == newest[2:]
    assert await listed(page=2, limit=3) == newest[3:]
    assert await listed(page=3, limit=3) == []

    page = await ada.get("/payments", params={"limit": 3, "provider": "paystack", "page": 1})
    assert page.json()["has_more"] is False
    page = await ada.get("/payments", params={"limit": 2, "page": 1})
    assert (page.json()["page"], page.json()["limit"], page.json()["has_more"]) == (1, 2, True)
    links = dict(reversed(link.split("; ")) for link in page.headers["link"].split(", "))
    assert links['rel="first"'] == "</api/v1/payments?limit=2>"
    rest = await ada.client.get(links['rel="next"'].strip("<>"))
    assert [row["id"] for row in rest.json()["data"]] == newest[2:]
    assert (rest.json()["has_more"], rest.json()["next_cursor"]) == (False, None)
    assert 'rel="next"' not in rest.headers["link"]


async def test_nobody_lists_what_belongs_to_others(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada)
    stranger = await shop.merchant()
    assert (await stranger.get("/payments")).json()["data"] == []
    assert (await stranger.get("/transactions")).json()["data"] == []
    assert (await stranger.get("/metrics")).json() == {"transactions": []}
    events = (await stranger.get("/events")).json()["data"]
    assert not [event for event in events if event["type"].startswith("payment.")]
    admin = await shop.merchant(admin=True)
    assert (await admin.get("/payments", params={"limit": 1})).json()["data"][0]["id"] == payment["id"]


@pytest.mark.parametrize(
    "params",
    [
        {"page": 0}, {"page": -1}, {"page": 10_001}, {"limit": 0}, {"limit": 101}, {"limit": "x"}, {"status": "paid"},
        {"provider": "Pay"}, {"currency": "ngn"}, {"created_from": "yesterday"}, {"created_from": "2026-11-21T10:00:00"},
        {"cursor": "x"}, {"customer_id": ""}, {"surprise": 1},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/payments", "/transactions"])
async def test_a_list_refuses_what_it_does_not_know(ada: Merchant, path: str, params: dict[str, Any]) -> None:
    answer = await ada.get(path, params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_events_are_listed_and_filtered(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada)
    await ada.post(f"/payments/{payment['id']}/cancel")
    found = (await ada.get("/events", params={"type": "payment.cancelled"})).json()
    assert [event["transaction_id"] for event in found["data"]] == [payment["id"]]
    assert (found["has_more"], found["next_cursor"]) == (False, None)
    first = (await ada.get("/events", params={"limit": 2})).json()
    assert first["has_more"] is True
    rest = (await ada.get("/events", params={"cursor": first["next_cursor"]})).json()
    ids = [event["id"] for event in [*first["data"], *rest["data"]]]
    assert len(ids) == len(set(ids))
    assert {"payment.initiated", "payment.requires_action"} <= {event["type"] for event in first["data"] + rest["data"]}
    for params in ({"limit": 0}, {"type": "x"}, {"cursor": "x"}):
        assert (await ada.get("/events", params=params)).status_code == 422


async def test_figures_count_and_sum(shop: House, ada: Merchant) -> None:
    paid = await ada.pay("stripe")
    await shop.until(ada, paid["id"], "completed")
    await by_hand(shop, ada)
    figures = (await ada.get("/metrics")).json()["transactions"]
    assert figures == [
        {"kind": "payment", "status": "completed", "currency": "USD", "count": 1, "paid": "19.90", "paid_minor": 1_990},
        {
            "kind": "payment",
            "status": "requires_action",
            "currency": "NGN",
            "count": 1,
            "paid": "0.00",
            "paid_minor": 0,
        },
    ]


# -- verify and cancel --------------------------------------------------------------------------------------------------


async def test_verify_asks_the_provider_now(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada, "stripe")
    waiting = await ada.post(f"/payments/{payment['id']}/verify")
    assert (waiting.status_code, waiting.json()["status"]) == (200, "requires_action")
    await shop.simulate(deliver_webhooks=False)
    try:
        assert (await shop.act("stripe", await attempt_reference(ada, payment), "pay")).is_success
        paid = await ada.post(f"/payments/{payment['id']}/verify")
    finally:
        await shop.simulate(deliver_webhooks=True)
    assert paid.json()["status"] == "completed"
    assert paid.json()["timeline"][-1]["actor"] == "user"
    assert (await books(shop, payment["id"]))["sales"] == -payment["amount_minor"]


async def test_verify_of_what_has_ended_changes_nothing(shop: House, ada: Merchant) -> None:
    payment = await ada.pay("stripe")
    paid = await shop.until(ada, payment["id"], "completed")
    again = await ada.post(f"/payments/{payment['id']}/verify")
    assert again.json()["version"] == paid["version"]


@pytest.mark.parametrize("provider", ["paystack", "mpesa", "stripe"])
async def test_cancelling_is_final_and_the_same_twice(shop: House, ada: Merchant, provider: str) -> None:
    payment = await by_hand(shop, ada, provider)
    first = await ada.post(f"/payments/{payment['id']}/cancel")
    # Stripe's own news that we ended its session may come before our word.
    ended = {"cancelled", "expired"} if provider == "stripe" else {"cancelled"}
    assert first.status_code == 200
    assert first.json()["status"] in ended
    assert (first.json()["next_action"], first.json()["next_check_at"]) == (None, None)
    assert first.json()["attempts"][0]["status"] == first.json()["status"]
    again = await ada.post(f"/payments/{payment['id']}/cancel")
    assert (again.status_code, again.json()["version"]) == (200, first.json()["version"])


async def session_status(shop: House, ada: Merchant, payment: dict[str, Any]) -> str:
    charges = await shop.charges("stripe", await attempt_reference(ada, payment))
    return str(charges["charges"][0]["status"])


async def test_cancelling_ends_stripes_session(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada, "stripe")
    assert (await ada.post(f"/payments/{payment['id']}/cancel")).json()["status"] in ("cancelled", "expired")
    assert await session_status(shop, ada, payment) == "expired"


async def test_cancelling_after_a_decline_ends_the_session_that_lives_on(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada, "stripe")
    reference = await attempt_reference(ada, payment)
    assert (await shop.act("stripe", reference, "decline")).is_success

    async def declined() -> bool:
        return bool((await ada.payment(payment["id"]))["attempts"][0]["status"] == "declined")

    await eventually(declined)
    cancelled = await ada.post(f"/payments/{payment['id']}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] in ("cancelled", "failed")
    assert await session_status(shop, ada, payment) == "expired"


async def test_cancelling_what_was_paid_meanwhile_tells_so(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada, "stripe")
    await shop.simulate(deliver_webhooks=False)
    try:
        await shop.act("stripe", await attempt_reference(ada, payment), "pay")
        answer = await ada.post(f"/payments/{payment['id']}/cancel")
    finally:
        await shop.simulate(deliver_webhooks=True)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_cancellable")
    assert (await ada.payment(payment["id"]))["status"] == "completed"


async def test_what_was_cancelled_and_paid_all_the_same_is_a_late_success(shop: House, ada: Merchant) -> None:
    payment = await by_hand(shop, ada)
    await ada.post(f"/payments/{payment['id']}/cancel")
    await shop.act("paystack", await attempt_reference(ada, payment), "pay")
    paid = await shop.until(ada, payment["id"], "completed")
    assert paid["timeline"][-1]["data"]["late"] is True
    assert (await books(shop, payment["id"]))["sales"] == -payment["amount_minor"]


@pytest.mark.parametrize(
    ("provider", "amount", "status"),
    [
        ("stripe", "19.90", "completed"),
        ("mpesa", "1901", "failed"),
        ("mpesa", "1904", "expired"),
        ("paystack", "5009.11", "under_review"),
    ],
)
async def test_what_has_ended_cannot_be_cancelled(
    shop: House, ada: Merchant, provider: str, amount: str, status: str
) -> None:
    payment = await ada.pay(provider, amount=amount)
    ended = await shop.until(ada, payment["id"], status)
    answer = await ada.post(f"/payments/{payment['id']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_cancellable")
    assert answer.json()["detail"] == f"A payment that is {status} can no longer be cancelled."
    assert (await ada.payment(payment["id"]))["version"] == ended["version"]


async def test_what_nobody_can_say_cannot_be_cancelled(shop: House, ada: Merchant) -> None:
    payment = (await ada.initialize({**PAYSTACK, "amount": "5009.15"})).json()
    assert payment["status"] == "processing"
    answer = await ada.post(f"/payments/{payment['id']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_cancellable")


# -- review -------------------------------------------------------------------------------------------------------------


async def reviewed(shop: House, ada: Merchant) -> dict[str, Any]:
    """Somebody paid another amount."""
    payment = await ada.pay(amount="5009.11")
    under_review = await shop.until(ada, payment["id"], "under_review")
    received = under_review["attempts"][0]["paid_minor"]
    assert received != under_review["amount_minor"]
    assert await books(shop, payment["id"]) == {"provider_clearing:paystack": received, "suspense": -received}
    return under_review


REASON = "The bank confirmed it by phone."


@pytest.mark.parametrize("outcome", ["completed", "failed", "refunded", "reversed"])
async def test_an_admin_decides_a_review_once(shop: House, ada: Merchant, outcome: str) -> None:
    payment = await reviewed(shop, ada)
    received = payment["attempts"][0]["paid_minor"]
    admin, key, path = await shop.merchant(admin=True), str(uuid4()), f"/payments/{payment['id']}/resolve"
    body = {"outcome": outcome, "reason": REASON}
    answer = await admin.post(path, key=key, json=body)
    assert (answer.status_code, answer.json()["status"]) == (200, outcome)
    assert await books(shop, payment["id"]) == {
        "completed": {"provider_clearing:paystack": received, "sales": -received},
        "failed": {"provider_clearing:paystack": received, "suspense": -received},
    }.get(outcome, {})
    decided = await ada.payment(payment["id"])
    assert (decided["timeline"][-1]["data"]["reason"], decided["timeline"][-1]["actor"]) == (REASON, "user")

    again = await admin.post(path, key=key, json=body)
    assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (200, answer.content, "true")
    other = await admin.post(path, key=key, json={**body, "reason": "Another one."})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    late = await admin.post(path, key=str(uuid4()), json=body)
    assert (late.status_code, late.json()["code"]) == (409, "not_under_review")
    assert (await ada.payment(payment["id"]))["version"] == decided["version"]


async def test_an_admin_says_how_much_came_in_all(shop: House, ada: Merchant) -> None:
    payment, admin = await reviewed(shop, ada), await shop.merchant(admin=True)
    path, body = f"/payments/{payment['id']}/resolve", {"outcome": "completed", "reason": REASON}
    wrong = await admin.post(path, key=str(uuid4()), json={**body, "received": "1.001"})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/body/received")
    body = {**body, "received": payment["amount"], "attempt_reference": payment["attempts"][0]["reference"]}
    answer = await admin.post(path, key=str(uuid4()), json=body)
    assert (answer.status_code, answer.json()["paid_minor"]) == (200, payment["amount_minor"])
    posted = {"provider_clearing:paystack": payment["amount_minor"], "sales": -payment["amount_minor"]}
    assert await books(shop, payment["id"]) == posted
    checked = await admin.client.get("/api/v1/books", params={"fresh": "true"})
    assert checked.json()["breaks"] == []


async def test_only_an_admin_decides_and_only_with_a_reason(shop: House, ada: Merchant) -> None:
    payment = await reviewed(shop, ada)
    path, body = f"/payments/{payment['id']}/resolve", {"outcome": "completed", "reason": REASON}
    assert (await ada.post(path, key="k", json=body)).status_code == 403
    admin = await shop.merchant(admin=True)
    for wrong in (
        {"outcome": "completed"},
        {**body, "reason": "ok"},
        {**body, "outcome": "pending"},
        {**body, "more": 1},
    ):
        assert (await admin.post(path, key=str(uuid4()), json=wrong)).status_code == 422
    assert (await admin.post(path, json=body)).status_code == 400
    assert (await admin.post(f"/payments/{uuid4()}/resolve", key=str(uuid4()), json=body)).status_code == 404
    assert (await ada.payment(payment["id"]))["version"] == payment["version"]


async def test_a_key_whose_decision_was_refused_may_be_used_again(shop: House, ada: Merchant) -> None:
    payment, admin = await by_hand(shop, ada), await shop.merchant(admin=True)
    body, key = {"outcome": "failed", "reason": REASON}, str(uuid4())
    refused = await admin.post(f"/payments/{payment['id']}/resolve", key=key, json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_under_review")
    await shop.rows(
        "UPDATE transactions SET status = 'under_review', last_cause = 'timer', version = version + 1 WHERE id = $1::text::uuid",
        payment["id"],
    )
    await shop.rows(
        "INSERT INTO events (id, transaction_id, user_id, sequence, type, status, actor) SELECT gen_random_uuid(), id, user_id,"
        " version, 'payment.under_review', status, 'system' FROM transactions WHERE id = $1::text::uuid",
        payment["id"],
    )
    assert (await admin.post(f"/payments/{payment['id']}/resolve", key=key, json=body)).status_code == 200


async def test_money_in_another_currency_cannot_be_completed(shop: House, ada: Merchant) -> None:
    payment = await ada.pay(amount="5009.12")  # wrong_currency
    under_review = await shop.until(ada, payment["id"], "under_review")
    admin = await shop.merchant(admin=True)
    answer = await admin.post(
        f"/payments/{payment['id']}/resolve", key=str(uuid4()), json={"outcome": "completed", "reason": REASON}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "currency_mismatch")
    assert (await ada.payment(payment["id"]))["version"] == under_review["version"]
