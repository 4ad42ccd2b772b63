import asyncio

import pytest

KEY = {"Authorization": "Bearer sk_test_simulator_stripe"}
SESSION = {
    "mode": "payment",
    "success_url": "https://shop.example/done?session={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://shop.example/cancelled",
    "client_reference_id": "order-1",
    "line_items[0][quantity]": "2",
    "line_items[0][price_data][currency]": "USD",
    "line_items[0][price_data][unit_amount]": "1500",
    "line_items[0][price_data][product_data][name]": "Tea",
    "payment_intent_data[metadata][reference]": "order-1",
}
INTENT = {"amount": "2000", "currency": "usd", "metadata[reference]": "order-1"}
PAID = {"confirm": "true", "payment_method": "pm_card_visa"}


async def post(client, path, form=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(f"/stripe/v1{path}", data=form or {}, headers=KEY | named)


async def get(client, path, **params):
    return (await client.get(f"/stripe/v1{path}", params=params, headers=KEY)).json()


async def test_a_session_is_open_and_has_no_payment_intent_yet(by_hand):
    session = (await post(by_hand, "/checkout/sessions", SESSION)).json()
    assert (session["object"], session["status"], session["payment_status"]) == ("checkout.session", "open", "unpaid")
    assert (session["amount_total"], session["currency"], session["payment_intent"]) == (3000, "usd", None)
    assert session["url"].endswith(f"/checkout/stripe/{session['id']}")


async def test_a_paid_session_tells_charge_intent_and_session_in_this_order(client):
    session = (await post(client, "/checkout/sessions", SESSION)).json()
    await client.receiver.wait(3)
    assert client.receiver.events == ["charge.succeeded", "payment_intent.succeeded", "checkout.session.completed"]
    told = client.receiver.bodies[2]
    assert (told["api_version"], told["livemode"]) == ("2025-09-30.clover", False)
    assert told["data"]["object"]["client_reference_id"] == "order-1"
    assert told["data"]["object"]["payment_status"] == "paid"
    intent = client.receiver.bodies[1]["data"]["object"]
    assert (intent["amount_received"], intent["metadata"]) == (3000, {"reference": "order-1"})
    shown = await get(client, f"/checkout/sessions/{session['id']}", **{"expand[]": "payment_intent.latest_charge"})
    assert (shown["status"], shown["url"]) == ("complete", None)
    assert shown["payment_intent"]["latest_charge"]["amount_captured"] == 3000


async def test_an_expired_session_cannot_be_paid_or_expired_again(by_hand):
    session = (await post(by_hand, "/checkout/sessions", SESSION)).json()
    expired = await post(by_hand, f"/checkout/sessions/{session['id']}/expire")
    assert (expired.json()["status"], expired.json()["url"]) == ("expired", None)
    again = await post(by_hand, f"/checkout/sessions/{session['id']}/expire")
    assert again.status_code == 400
    pay = await by_hand.post("/_control/charges/stripe/order-1/pay")
    assert pay.status_code == 409


async def test_a_session_expires_by_itself_when_its_time_is_over(start):
    now = [1_700_000_000.0]
    client = await start(automatic_customer=False, clock=lambda: now[0])
    session = (await post(client, "/checkout/sessions", SESSION)).json()
    now[0] = session["expires_at"] + 1.0
    assert (await get(client, f"/checkout/sessions/{session['id']}"))["status"] == "expired"
    await client.receiver.wait()
    assert client.receiver.events == ["checkout.session.expired"]


async def test_a_bank_debit_completes_the_session_before_it_is_paid(by_hand):
    session = (await post(by_hand, "/checkout/sessions", SESSION)).json()
    await by_hand.control("POST", "/charges/stripe/order-1/process")
    shown = await get(by_hand, f"/checkout/sessions/{session['id']}")
    assert (shown["status"], shown["payment_status"]) == ("complete", "unpaid")
    await by_hand.control("POST", "/charges/stripe/order-1/pay")
    assert by_hand.receiver.events[-1] == "checkout.session.async_payment_succeeded"
    assert (await get(by_hand, f"/checkout/sessions/{session['id']}"))["payment_status"] == "paid"


async def test_a_declined_session_stays_open_for_another_try(by_hand):
    session = (await post(by_hand, "/checkout/sessions", SESSION)).json()
    await by_hand.control("POST", "/charges/stripe/order-1/decline")
    assert by_hand.receiver.events == ["charge.failed", "payment_intent.payment_failed"]
    assert (await get(by_hand, f"/checkout/sessions/{session['id']}"))["status"] == "open"
    await by_hand.control("POST", "/charges/stripe/order-1/pay")
    assert (await get(by_hand, f"/checkout/sessions/{session['id']}"))["status"] == "complete"


async def test_create_and_confirm_succeeds_in_one_call(client):
    intent = (await post(client, "/payment_intents", INTENT | PAID)).json()
    assert (intent["status"], intent["amount_received"]) == ("succeeded", 2000)
    await client.receiver.wait(3)
    assert client.receiver.events == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]


@pytest.mark.parametrize(
    ("card", "code", "decline_code"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
    ],
)
async def test_a_declined_card_is_402_and_the_intent_exists(client, card, code, decline_code):
    response = await post(client, "/payment_intents", INTENT | {"confirm": "true", "payment_method": card})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"], error["decline_code"]) == (
        402,
        "card_error",
        code,
        decline_code,
    )
    intent = await get(client, f"/payment_intents/{error['payment_intent']['id']}")
    assert (intent["status"], intent["last_payment_error"]["code"]) == ("requires_payment_method", code)


async def test_a_card_that_wants_authentication_redirects_to_the_banks_page(by_hand):
    form = INTENT | {
        "confirm": "true",
        "payment_method": "pm_card_authenticationRequired",
        "return_url": "https://a.example/b",
    }
    intent = (await post(by_hand, "/payment_intents", form)).json()
    assert (intent["status"], intent["next_action"]["type"]) == ("requires_action", "redirect_to_url")
    page = intent["next_action"]["redirect_to_url"]["url"].removeprefix("http://127.0.0.1:8090")
    back = await by_hand.post(page, data={"action": "pay"})
    assert back.status_code == 303
    assert f"payment_intent={intent['id']}" in back.headers["location"]
    assert "redirect_status=succeeded" in back.headers["location"]
    assert (await get(by_hand, f"/payment_intents/{intent['id']}"))["status"] == "succeeded"


async def test_manual_capture_takes_the_money_only_when_asked(client):
    intent = (await post(client, "/payment_intents", INTENT | PAID | {"capture_method": "manual"})).json()
    assert (intent["status"], intent["amount_capturable"], intent["amount_received"]) == ("requires_capture", 2000, 0)
    captured = await post(client, f"/payment_intents/{intent['id']}/capture", {"amount_to_capture": "1500"})
    assert (captured.json()["status"], captured.json()["amount_received"]) == ("succeeded", 1500)


async def test_a_created_intent_can_be_confirmed_later_and_only_once(by_hand):
    intent = (await post(by_hand, "/payment_intents", INTENT)).json()
    path = f"/payment_intents/{intent['id']}/confirm"
    assert intent["status"] == "requires_payment_method"
    assert (await post(by_hand, path)).json()["error"]["code"] == "payment_intent_unexpected_state"
    assert (await post(by_hand, path, {"payment_method": "pm_card_visa"})).json()["status"] == "succeeded"
    again = await post(by_hand, path, {"payment_method": "pm_card_visa"})
    assert again.json()["error"]["code"] == "payment_intent_unexpected_state"


async def test_a_canceled_intent_stays_canceled(by_hand):
    intent = (await post(by_hand, "/payment_intents", INTENT)).json()
    form = {"cancellation_reason": "requested_by_customer"}
    canceled = (await post(by_hand, f"/payment_intents/{intent['id']}/cancel", form)).json()
    assert (canceled["status"], canceled["cancellation_reason"]) == ("canceled", "requested_by_customer")
    again = await post(by_hand, f"/payment_intents/{intent['id']}/cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (400, "payment_intent_unexpected_state")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"colour": "red"}, "parameter_unknown", "colour"),
        ({"automatic_payment_methods[enable]": "true"}, "parameter_unknown", "automatic_payment_methods[enable]"),
        ({"amount": ""}, "parameter_missing", "amount"),
        ({"amount": "10.5"}, "parameter_invalid_integer", "amount"),
        ({"amount": "0"}, "parameter_invalid_integer", "amount"),
        ({"amount": "100000000"}, "amount_too_large", "amount"),
        ({"currency": ""}, "parameter_missing", "currency"),
        ({"payment_method": "pm_nobody"}, "resource_missing", "payment_method"),
    ],
)
async def test_an_invalid_parameter_is_named_and_nothing_is_charged(client, change, code, param):
    response = await post(client, "/payment_intents", INTENT | change)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_json_bodies_and_wrong_keys_are_refused(client):
    response = await client.post("/stripe/v1/payment_intents", json=INTENT, headers=KEY)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    response = await client.get("/stripe/v1/balance", headers={"Authorization": "Bearer sk_test_x"})
    assert response.status_code == 401
    response = await client.get("/stripe/v1/balance", auth=("sk_test_simulator_stripe", ""))
    assert response.status_code == 200


async def test_answers_carry_request_id_and_version(client):
    response = await client.get("/stripe/v1/balance", headers=KEY | {"Stripe-Version": "2025-03-31.basil"})
    assert response.headers["request-id"].startswith("req_")
    assert response.headers["stripe-version"] == "2025-03-31.basil"
    response = await client.get("/stripe/v1/balance", headers=KEY)
    assert response.headers["stripe-version"] == "2025-09-30.clover"


async def test_a_repeated_key_replays_the_first_answer_and_charges_once(client):
    first = await post(client, "/payment_intents", INTENT | PAID, Idempotency_Key="k1")
    second = await post(client, "/payment_intents", INTENT | PAID, Idempotency_Key="k1")
    assert second.content == first.content
    assert ("idempotent-replayed" in first.headers, second.headers["idempotent-replayed"]) == (False, "true")
    [row] = (await client.control("GET", "/charges?provider=stripe"))["charges"]
    assert (row["submissions"], row["charges"], row["money_taken_minor"]) == (2, 1, 2000)


async def test_a_key_with_other_parameters_is_an_idempotency_error(client):
    await post(client, "/payment_intents", INTENT, Idempotency_Key="k1")
    response = await post(client, "/payment_intents", INTENT | {"amount": "3000"}, Idempotency_Key="k1")
    assert (response.status_code, response.json()["error"]["type"]) == (400, "idempotency_error")


async def test_a_key_in_flight_is_409(start):
    client = await start(slow_seconds=1.5)
    await client.outcome("stripe", "slow", times=1)
    first = asyncio.create_task(post(client, "/payment_intents", INTENT, Idempotency_Key="k1"))
    await asyncio.sleep(0.1)
    second = await post(client, "/payment_intents", INTENT, Idempotency_Key="k1")
    assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert (await first).status_code == 200


async def test_a_stored_500_is_replayed_though_the_charge_exists(client):
    await client.outcome("stripe", "server_error_after_charging", times=1)
    first = await post(client, "/payment_intents", INTENT, Idempotency_Key="k1")
    second = await post(client, "/payment_intents", INTENT, Idempotency_Key="k1")
    assert (first.status_code, second.status_code) == (500, 500)
    assert first.headers["stripe-should-retry"] == "false"
    assert second.headers["idempotent-replayed"] == "true"
    [row] = (await client.control("GET", "/charges"))["charges"]
    assert row["charges"] == 1


async def test_a_refused_request_does_not_use_up_its_key(client):
    refused = await post(client, "/payment_intents", INTENT | {"amount": "x"}, Idempotency_Key="k1")
    accepted = await post(client, "/payment_intents", INTENT, Idempotency_Key="k1")
    assert (refused.status_code, accepted.status_code) == (400, 200)


async def test_an_answer_lost_on_the_way_is_replayed(start):
    client = await start(hang_seconds=0)
    await client.outcome("stripe", "timeout_after_charging", times=1)
    lost = await post(client, "/checkout/sessions", SESSION, Idempotency_Key="k1")
    again = await post(client, "/checkout/sessions", SESSION, Idempotency_Key="k1")
    assert (lost.status_code, again.status_code) == (500, 200)
    assert again.json()["object"] == "checkout.session"
    [row] = (await client.control("GET", "/charges"))["charges"]
    assert row["charges"] == 1


async def test_a_refund_succeeds_at_once_and_is_told(client):
    intent = (await post(client, "/payment_intents", INTENT | PAID)).json()
    await client.receiver.wait(3)
    refund = (await post(client, "/refunds", {"payment_intent": intent["id"], "amount": "500"})).json()
    assert (refund["status"], refund["amount"], refund["payment_intent"]) == ("succeeded", 500, intent["id"])
    await client.receiver.wait(5)
    assert client.receiver.events[3:] == ["refund.created", "charge.refunded"]
    charge = client.receiver.bodies[4]["data"]
    assert (charge["object"]["amount_refunded"], charge["object"]["refunded"]) == (500, False)
    assert charge["previous_attributes"] == {"amount_refunded": 0}
    listed = await get(client, "/refunds", payment_intent=intent["id"])
    assert [row["id"] for row in listed["data"]] == [refund["id"]]


async def test_more_than_is_left_cannot_be_refunded(client):
    intent = (await post(client, "/payment_intents", INTENT | PAID)).json()
    over = await post(client, "/refunds", {"payment_intent": intent["id"], "amount": "2001"})
    assert over.status_code == 400
    await post(client, "/refunds", {"payment_intent": intent["id"]})
    again = await post(client, "/refunds", {"payment_intent": intent["id"]})
    assert again.json()["error"]["code"] == "charge_already_refunded"


@pytest.mark.parametrize(
    ("card", "first", "event", "last"),
    [
        ("pm_card_pendingRefund", "pending", "refund.updated", "succeeded"),
        ("pm_card_refundFail", "succeeded", "refund.failed", "failed"),
    ],
)
async def test_a_refund_may_settle_or_fail_later(client, card, first, event, last):
    intent = (await post(client, "/payment_intents", INTENT | {"confirm": "true", "payment_method": card})).json()
    await client.receiver.wait(3)
    refund = (await post(client, "/refunds", {"payment_intent": intent["id"]})).json()
    assert refund["status"] == first
    await client.receiver.wait(7)
    assert client.receiver.events[5:] == [event, "charge.refund.updated"]
    assert (await get(client, f"/refunds/{refund['id']}"))["status"] == last


async def test_events_are_listed_newest_first_and_by_type(client):
    await post(client, "/payment_intents", INTENT | PAID)
    await client.receiver.wait(3)
    await asyncio.sleep(0)
    events = await get(client, "/events", limit="2", delivery_success="true")
    assert [event["type"] for event in events["data"]] == ["payment_intent.succeeded", "charge.succeeded"]
    assert (events["has_more"], events["data"][0]["pending_webhooks"]) == (True, 0)
    [only] = (await get(client, "/events", type="payment_intent.created"))["data"]
    assert (await get(client, f"/events/{only['id']}"))["id"] == only["id"]


async def test_lists_are_walked_with_cursors(by_hand):
    ids = [(await post(by_hand, "/payment_intents", INTENT)).json()["id"] for _ in range(3)]
    page = await get(by_hand, "/payment_intents", limit="2")
    assert ([row["id"] for row in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    rest = await get(by_hand, "/payment_intents", starting_after=ids[1])
    assert ([row["id"] for row in rest["data"]], rest["has_more"]) == ([ids[0]], False)


async def test_an_unknown_object_or_url_is_404(client):
    response = await client.get("/stripe/v1/payment_intents/pi_x", headers=KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "resource_missing")
    response = await client.get("/stripe/v1/nothing", headers=KEY)
    assert (response.status_code, response.json()["error"]["type"]) == (404, "invalid_request_error")


async def test_the_balance_is_what_was_taken_less_refunds(client):
    intent = (await post(client, "/payment_intents", INTENT | PAID)).json()
    await post(client, "/refunds", {"payment_intent": intent["id"], "amount": "500"})
    balance = await get(client, "/balance")
    assert balance["available"] == [{"amount": 1500, "currency": "usd", "source_types": {"card": 1500}}]


async def pay(client, card="pm_card_visa"):
    return (await post(client, "/payment_intents", INTENT | {"confirm": "true", "payment_method": card})).json()


@pytest.mark.parametrize(("action", "status", "balance"), [("dispute_win", "won", 2000), ("dispute_lose", "lost", 0)])
async def test_a_dispute_withholds_the_money_until_it_is_decided(by_hand, action, status, balance):
    intent = await pay(by_hand)
    await by_hand.control("POST", "/charges/stripe/order-1/dispute")
    [dispute] = (await get(by_hand, "/disputes", payment_intent=intent["id"]))["data"]
    assert (dispute["status"], dispute["amount"], dispute["charge"]) == (
        "needs_response",
        2000,
        intent["latest_charge"],
    )
    assert (await get(by_hand, "/balance"))["available"][0]["amount"] == 0
    refused = await post(by_hand, "/refunds", {"payment_intent": intent["id"]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "charge_disputed")
    await by_hand.control("POST", f"/charges/stripe/order-1/{action}")
    assert (await get(by_hand, f"/disputes/{dispute['id']}"))["status"] == status
    assert (await get(by_hand, "/balance"))["available"][0]["amount"] == balance
    told = [kind for kind in by_hand.receiver.events if kind.startswith("charge.dispute")]
    assert told[:3] == ["charge.dispute.created", "charge.dispute.funds_withdrawn", "charge.dispute.closed"]
    assert told[3:] == (["charge.dispute.funds_reinstated"] if status == "won" else [])


@pytest.mark.parametrize(
    ("card", "status"),
    [("pm_card_createDispute", "needs_response"), ("pm_card_createDisputeInquiry", "warning_needs_response")],
)
async def test_a_test_card_is_disputed_by_itself(client, card, status):
    intent = await pay(client, card)
    assert intent["status"] == "succeeded"
    await client.settled()
    [dispute] = (await get(client, "/disputes", charge=intent["latest_charge"]))["data"]
    assert dispute["status"] == status
    closed = (await post(client, f"/disputes/{dispute['id']}/close")).json()
    assert closed["status"] == ("lost" if status == "needs_response" else "warning_closed")
    assert (await post(client, f"/disputes/{dispute['id']}/close")).status_code == 400


async def test_nothing_that_was_not_paid_is_disputed(by_hand):
    await post(by_hand, "/payment_intents", INTENT)
    for action in ("dispute", "dispute_win"):
        assert (await by_hand.post(f"/_control/charges/stripe/order-1/{action}")).status_code == 409


async def test_a_refund_has_an_outcome_of_its_own(client):
    intent = await pay(client)
    await client.receiver.wait(3)
    await client.outcome("stripe", "query_only", times=1, operation="refund")
    refund = (await post(client, "/refunds", {"payment_intent": intent["id"], "amount": "500"})).json()
    await client.settled()
    assert (refund["status"], len(client.receiver.events)) == ("succeeded", 3)
    await client.outcome("stripe", "duplicate", times=1, operation="refund")
    await post(client, "/refunds", {"payment_intent": intent["id"], "amount": "500"})
    await client.settled()
    assert client.receiver.events.count("refund.created") == 3


async def test_a_refund_that_waits_can_be_canceled_and_one_that_succeeded_cannot(by_hand):
    intent = await pay(by_hand)
    await by_hand.outcome("stripe", "silent", times=1, operation="refund")
    refund = (await post(by_hand, "/refunds", {"payment_intent": intent["id"]})).json()
    assert (await post(by_hand, f"/refunds/{refund['id']}/cancel")).status_code == 400
    await by_hand.control("POST", "/charges/stripe/order-1/refund_needs_attention")
    assert (await post(by_hand, f"/refunds/{refund['id']}/cancel")).json()["status"] == "canceled"
    again = await post(by_hand, "/refunds", {"payment_intent": intent["id"]})
    assert again.json()["amount"] == 2000
    assert (await by_hand.post("/_control/charges/stripe/order-1/refund_cancel")).status_code == 409
