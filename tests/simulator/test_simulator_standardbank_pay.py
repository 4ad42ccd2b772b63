import hashlib
import hmac
import time

import httpx
import orjson
import pytest

API = "/standardbank_pay"
INITIATE = "/api/v1/payments/initiate"
SECRET = b"simulator_signing_secret"
ORDER = {
    "reference": "order-1",
    "amount_cents": 15_000,
    "currency": "LSL",
    "customer": {"msisdn": "26650123456"},
    "callback_url": "http://merchant.test/api/v1/webhooks/standardbank",
    "expires_in_seconds": 300,
}


def hexed(text):
    return hmac.new(SECRET, text, hashlib.sha256).hexdigest()


def signed(method, path, body=b"", *, at=None, request_id="request-1"):
    timestamp = int(time.time() if at is None else at)
    text = f"{timestamp}.{method}.{path}.{hashlib.sha256(body).hexdigest()}"
    return {
        "Authorization": "Bearer sbp_test_simulator",
        "X-SBP-Client-Id": "simulator",
        "X-SBP-Request-Id": request_id,
        "X-SBP-Timestamp": str(timestamp),
        "X-SBP-Signature": f"v1={hexed(text.encode())}",
    }


async def initiate(client, *, at=None, request_id="request-1", **changes):
    body = orjson.dumps(ORDER | changes)
    headers = signed("POST", INITIATE, body, at=at, request_id=request_id)
    return await client.post(API + INITIATE, content=body, headers=headers)


async def ask(client, identity, *, at=None):
    path = f"/api/v1/payments/{identity}/status"
    return await client.get(API + path, headers=signed("GET", path, at=at))


async def opened(client, **changes):
    response = await initiate(client, **changes)
    assert response.status_code == 201, response.text
    return response.json()["sbp_txn_ref"]


def kinds(client):
    return [body["event_type"] for body in client.receiver.bodies]


async def charges(client):
    return (await client.control("GET", "/charges?provider=standardbank_pay"))["charges"]


async def test_initiate_answers_with_a_page_and_a_waiting_payment(by_hand):
    response = await initiate(by_hand)
    body = response.json()
    assert response.status_code == 201
    assert body == {
        "sbp_txn_ref": body["sbp_txn_ref"],
        "processing_state": "AWAITING_CUSTOMER",
        "approval_url": f"http://127.0.0.1:8090/checkout/standardbank_pay/{body['sbp_txn_ref']}",
        "expires_in_seconds": 300,
        "meta": {"risk_score": "LOW"},
    }


async def test_the_status_tells_reference_amount_and_currency(by_hand):
    identity = await opened(by_hand)
    assert (await ask(by_hand, identity)).json() == {
        "sbp_txn_ref": identity,
        "reference": "order-1",
        "amount_cents": 15_000,
        "currency": "LSL",
        "processing_state": "AWAITING_CUSTOMER",
        "ledger_entry_id": None,
    }


async def test_a_settled_payment_is_told_to_the_orders_own_url_by_a_signed_webhook(client):
    identity = await opened(client)
    await client.receiver.wait()
    (request,), (body,) = client.receiver.requests, client.receiver.bodies
    assert str(request.url) == ORDER["callback_url"]
    timestamp = request.headers["x-sbp-timestamp"]
    assert abs(time.time() - int(timestamp)) < 5
    assert request.headers["x-sbp-signature"] == f"v1={hexed(timestamp.encode() + b'.' + request.content)}"
    status = (await ask(client, identity)).json()
    assert (status["processing_state"], status["ledger_entry_id"]) == ("SETTLED", body["details"]["ledger_entry_id"])
    assert body == {
        "event_id": body["event_id"],
        "event_type": "PAYMENT_SETTLED",
        "sbp_txn_ref": identity,
        "reference": "order-1",
        "amount_cents": 15_000,
        "currency": "LSL",
        "details": {"ledger_entry_id": status["ledger_entry_id"]},
    }


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"Authorization": "Bearer sbp_test_other"}, "Invalid API key"),
        ({"Authorization": ""}, "Invalid API key"),
        ({"X-SBP-Client-Id": "other"}, "Invalid API key"),
        ({"X-SBP-Signature": "v1=" + "0" * 64}, "Invalid signature"),
        ({"X-SBP-Signature": ""}, "Invalid signature"),
        ({"X-SBP-Timestamp": "1"}, "Invalid signature"),
    ],
)
async def test_a_request_that_is_not_proven_is_refused(client, changes, error):
    body = orjson.dumps(ORDER)
    response = await client.post(API + INITIATE, content=body, headers=signed("POST", INITIATE, body) | changes)
    assert (response.status_code, response.json()) == (401, {"error": error})
    assert await charges(client) == []


async def test_method_path_and_body_are_all_signed(client):
    body = orjson.dumps(ORDER)
    for headers in (
        signed("GET", INITIATE, body),
        signed("POST", "/api/v1/payments/other", body),
        signed("POST", INITIATE, body + b" "),
        signed("POST", API + INITIATE, body),
    ):
        assert (await client.post(API + INITIATE, content=body, headers=headers)).status_code == 401


@pytest.mark.parametrize(("seconds", "status"), [(-301, 401), (-299, 201), (299, 201), (301, 401)])
async def test_a_request_is_good_for_five_minutes(start, seconds, status):
    client = await start(clock=lambda: 2_000_000_000.0, automatic_customer=False)
    response = await initiate(client, at=2_000_000_000 + seconds)
    assert response.status_code == status
    assert status == 201 or response.json() == {"error": "Stale timestamp"}


async def test_the_same_request_twice_is_one_payment(by_hand):
    first, second = await initiate(by_hand), await initiate(by_hand)
    assert (second.status_code, second.json()) == (201, first.json())
    (row,) = await charges(by_hand)
    assert (row["submissions"], row["charges"]) == (2, 1)
    assert [item["result"] for item in row["attempts"]] == ["charged", "replayed"]


@pytest.mark.parametrize("changes", [{"request_id": "request-2"}, {"amount_cents": 15_001}])
async def test_a_reference_is_taken_once(by_hand, changes):
    await opened(by_hand)
    response = await initiate(by_hand, **changes)
    assert (response.status_code, response.json()) == (409, {"error": "Duplicate reference"})
    assert (await charges(by_hand))[0]["charges"] == 1


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"amount_cents": 0}, 400, "Invalid amount"),
        ({"amount_cents": "15000"}, 400, "Invalid amount"),
        ({"amount_cents": 150.5}, 400, "Invalid amount"),
        ({"amount_cents": True}, 400, "Invalid amount"),
        ({"amount_cents": 100_001}, 422, "Amount exceeds daily limit"),
        ({"currency": "NGN"}, 400, "Invalid currency"),
        ({"customer": {}}, 400, "Invalid customer"),
        ({"customer": {"msisdn": "+26650123456"}}, 400, "Invalid customer"),
        ({"customer": {"msisdn": "26650123456", "email": "nobody"}}, 400, "Invalid customer"),
        ({"reference": ""}, 400, "Invalid request"),
        ({"callback_url": "javascript:alert(1)"}, 400, "Invalid request"),
        ({"expires_in_seconds": 0}, 400, "Invalid request"),
    ],
)
async def test_an_order_that_is_not_right_is_refused(client, changes, status, error):
    response = await initiate(client, **changes)
    assert (response.status_code, response.json()) == (status, {"error": error})
    assert await charges(client) == []


async def test_an_unknown_payment_is_404(client):
    response = await ask(client, "sbp_nothing")
    assert (response.status_code, response.json()) == (404, {"error": "Payment not found"})


async def test_a_payment_that_nobody_approves_expires_by_the_clock(start):
    now = [2_000_000_000.0]
    client = await start(clock=lambda: now[0], automatic_customer=False)
    identity = await opened(client, at=now[0])
    now[0] += 299
    assert (await ask(client, identity, at=now[0])).json()["processing_state"] == "AWAITING_CUSTOMER"
    now[0] += 1
    assert (await ask(client, identity, at=now[0])).json()["processing_state"] == "EXPIRED"
    await client.receiver.wait()
    assert kinds(client) == ["PAYMENT_EXPIRED"]


@pytest.mark.parametrize(
    ("amount", "state", "events", "money"),
    [
        (1_901, "DECLINED", ["PAYMENT_DECLINED"], 0),
        (1_902, "DECLINED", ["PAYMENT_DECLINED"], 0),
        (1_903, "CANCELLED", ["PAYMENT_CANCELLED"], 0),
        (1_904, "EXPIRED", ["PAYMENT_EXPIRED"], 0),
        (1_905, "AWAITING_CUSTOMER", [], 0),
        (1_908, "SETTLED", ["PAYMENT_DECLINED", "PAYMENT_SETTLED"], 1_908),
        (1_909, "SETTLED", ["PAYMENT_SETTLED"] * 3, 1_909),
        (1_910, "SETTLED", ["PAYMENT_SETTLED", "PAYMENT_DECLINED"], 1_910),
        (1_911, "SETTLED", ["PAYMENT_SETTLED"], 956),
        (1_912, "SETTLED", ["PAYMENT_SETTLED"], 1_912),
        (1_913, "SETTLED", ["PAYMENT_SETTLED"], 1_913),
        (1_920, "SETTLED", ["PAYMENT_SETTLED"], 1_920),
        (1_922, "SETTLED", [], 1_922),
        (1_926, "SETTLED", ["PAYMENT_SETTLED"], 1_926),
        (1_927, "DECLINED", ["PAYMENT_DECLINED"], 0),
    ],
)
async def test_the_last_three_digits_choose_what_happens(client, amount, state, events, money):
    identity = await opened(client, amount_cents=amount)
    await client.settled()
    assert (await ask(client, identity)).json()["processing_state"] == state
    assert kinds(client) == events
    (row,) = await charges(client)
    assert (row["submissions"], row["charges"], row["money_taken_minor"]) == (1, 1, money)


@pytest.mark.parametrize(("amount", "status"), [(1_915, 500), (1_917, 422), (1_918, 429), (1_919, 502)])
async def test_a_refused_call_leaves_no_charge(client, amount, status):
    assert (await initiate(client, amount_cents=amount)).status_code == status
    (row,) = await charges(client)
    assert (row["submissions"], row["charges"]) == (1, 0)


async def test_another_amount_and_another_currency_are_told(client):
    await opened(client, amount_cents=1_911)
    await client.receiver.wait()
    await opened(client, amount_cents=1_912, reference="order-2", request_id="request-2")
    await client.receiver.wait(2)
    told = [(body["amount_cents"], body["currency"]) for body in client.receiver.bodies]
    assert told == [(956, "LSL"), (1_912, "ZAR")]


async def test_copies_of_a_webhook_carry_the_same_event_id(client):
    await opened(client, amount_cents=1_909)
    await client.receiver.wait(3)
    assert len({body["event_id"] for body in client.receiver.bodies}) == 1


async def test_a_bad_signature_is_made_with_another_secret(client):
    await opened(client, amount_cents=1_913)
    await client.receiver.wait()
    request = client.receiver.requests[0]
    text = request.headers["x-sbp-timestamp"].encode() + b"." + request.content
    assert request.headers["x-sbp-signature"] != f"v1={hexed(text)}"


async def test_a_settled_payment_can_be_reversed_and_no_other(by_hand):
    identity = await opened(by_hand)
    path = "/_control/charges/standardbank_pay/order-1"
    assert (await by_hand.post(f"{path}/reverse")).status_code == 409
    assert (await by_hand.post(f"{path}/nonsense")).status_code == 409
    await by_hand.control("POST", "/charges/standardbank_pay/order-1/pay")
    assert (await by_hand.post(f"{path}/pay")).status_code == 409
    await by_hand.control("POST", "/charges/standardbank_pay/order-1/reverse")
    assert kinds(by_hand) == ["PAYMENT_SETTLED", "PAYMENT_REVERSED"]
    assert (await ask(by_hand, identity)).json()["processing_state"] == "REVERSED"


async def test_a_lost_answer_leaves_a_payment_that_settles(serve):
    settings = await serve(customer_delay_seconds=0.01, deliver_webhooks=False)
    async with httpx.AsyncClient(base_url=settings.base_url, timeout=1.5) as client:
        with pytest.raises(httpx.ReadTimeout):
            await initiate(client, amount_cents=1_907)
        rows = (await client.get("/_control/charges")).json()["charges"]
        assert [(row["charges"], row["money_taken_minor"]) for row in rows] == [(1, 1_907)]


async def test_a_reset_forgets_the_payments(by_hand):
    identity = await opened(by_hand)
    await by_hand.control("POST", "/reset")
    assert (await ask(by_hand, identity)).status_code == 404
    assert (await initiate(by_hand)).status_code == 201


# The approval page


@pytest.mark.parametrize(
    ("action", "state", "word"),
    [("pay", "SETTLED", "Paid."), ("decline", "DECLINED", "Declined."), ("abandon", "CANCELLED", "Abandoned.")],
)
async def test_the_customer_answers_on_the_page_once(by_hand, action, state, word):
    identity = await opened(by_hand)
    path = f"/checkout/standardbank_pay/{identity}"
    shown = await by_hand.get(path)
    assert shown.status_code == 200
    for text in ("order-1", "15000 LSL", 'value="pay"', 'value="decline"', "No money moves."):
        assert text in shown.text
    answered = await by_hand.post(path, data={"action": action})
    assert (answered.status_code, word in answered.text) == (200, True)
    await by_hand.receiver.wait()
    again = await by_hand.post(path, data={"action": "pay"})
    assert "Nothing was changed" in again.text
    assert kinds(by_hand) == [f"PAYMENT_{state}"]


async def test_an_unknown_page_is_404_and_no_button_changes_nothing(by_hand):
    assert (await by_hand.get("/checkout/standardbank_pay/nothing")).status_code == 404
    assert (await by_hand.post("/checkout/standardbank_pay/nothing")).status_code == 404
    identity = await opened(by_hand)
    response = await by_hand.post(f"/checkout/standardbank_pay/{identity}", data={"action": "odd"})
    assert "Choose one of the buttons." in response.text
    assert kinds(by_hand) == []
