import hashlib
import hmac
import re

import pytest

from payflow.simulator import SimulatorSettings

SETTINGS = SimulatorSettings()
HEADERS = {"Authorization": SETTINGS.cpay_api_key}
ORDER = {
    "extTransactionId": "order1",
    "clientCode": SETTINGS.cpay_client_code,
    "msisdn": "57012345",
    "otp": "",
    "amount": "100.00",
    "currency": "LSL",
    "shortDescription": "Order 1",
    "otpMedium": "sms",
    "additionalData": {},
    "redirectUrl": "http://service.example/api/v1/webhooks/cpay/abcdef",
}
PUSH = "/cpay/api/cpaypayments/paymentrequest/async/transactions"
PAYMENT = "/cpay/api/cpaypayments/payment"
CARD = PAYMENT + "?cardPayment=true&rememberMe=false"
CONFIRM = "/cpay/api/cpaypayments/confirm"


def checksum(body, secret=SETTINGS.cpay_secret):
    salt = "".join(str(body.get(name, "")) for name in ("extTransactionId", "clientCode", "amount", "msisdn", "otp"))
    return hmac.digest(secret.encode(), salt.encode(), hashlib.sha256).hex()


async def send(client, path, headers=HEADERS, **changes):
    body = ORDER | changes
    body.setdefault("checksum", checksum(body))
    return await client.post(path, json={"transactionRequest": body}, headers=headers)


async def status(client, reference="order1"):
    url = f"/cpay/api/cpaypayments/transaction-status?requestReference={reference}"
    return await client.get(url, headers=HEADERS)


def told(response):
    return response.json()["return"]


async def test_a_push_is_open_then_processed_and_called_back(client):
    response = await send(client, PUSH)
    assert response.status_code == 200
    assert (told(response)["StatusCode"], told(response)["PaymentRequestStatus"]) == ("200", "open")
    await client.receiver.wait()
    request, body = client.receiver.requests[0], client.receiver.bodies[0]
    assert str(request.url) == ORDER["redirectUrl"]
    assert not [name for name in request.headers if "signature" in name.lower()]
    assert (body["extTransactionId"], body["paymentRequestStatus"]) == ("order1", "processed")
    answer = told(await status(client))
    assert (answer["PaymentRequestStatus"], answer["ReasonCode"]) == ("processed", "paymentComplete")
    assert not {"amount", "currency"} & {name.lower() for name in answer}


async def test_the_envelope_can_be_the_documented_one(start):
    client = await start(cpay_camel_case=True)
    body = (await send(client, PUSH)).json()
    assert (body["statusCode"], body["paymentRequestStatus"]) == ("200", "open")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extTransactionId", ""),
        ("msisdn", "712345678"),
        ("amount", "100"),
        ("amount", "0.00"),
        ("amount", 100),
        ("currency", "ZAR"),
        ("shortDescription", "more than twenty characters"),
        ("otpMedium", "post"),
        ("redirectUrl", "ftp://service.example"),
        ("subscriptions", {}),
    ],
)
async def test_an_invalid_field_is_refused_and_nothing_is_charged(client, field, value):
    response = await send(client, PUSH, checksum="x", **{field: value})
    assert (response.status_code, told(response)["StatusCode"]) == (400, "400")
    assert field in told(response)["Description"]
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_a_body_without_its_wrapper_is_refused(client):
    for body in (ORDER, {"transactionRequest": [1]}, [], {"transactionRequest": ORDER, "more": 1}):
        assert (await client.post(PUSH, json=body, headers=HEADERS)).status_code == 400
    assert (await client.post(PUSH, content=b"{", headers=HEADERS)).status_code == 400


async def test_key_client_code_and_checksum_are_looked_at(client):
    assert (await send(client, PUSH, headers={})).status_code == 401
    assert (await send(client, PUSH, headers={"Authorization": f"Bearer {SETTINGS.cpay_api_key}"})).status_code == 401
    assert (await send(client, PUSH, clientCode="2")).status_code == 404
    for wrong in (checksum(ORDER, "another"), checksum(ORDER | {"amount": "100.01"}), checksum(ORDER).upper()):
        response = await send(client, PUSH, checksum=wrong)
        assert (response.status_code, told(response)["Description"]) == (400, "Transaction Checksum is invalid")


async def test_a_status_needs_the_key_and_a_known_id(client):
    assert (await client.get("/cpay/api/cpaypayments/transaction-status")).status_code == 401
    assert (await status(client, "nothing")).status_code == 404


async def test_an_id_is_used_once(client):
    await send(client, PUSH)
    response = await send(client, PUSH)
    assert response.status_code == 400
    row = (await client.control("GET", "/charges?reference=order1"))["charges"][0]
    assert (row["submissions"], row["charges"]) == (2, 1)


async def test_a_card_link_is_400_with_202_in_it_and_leads_to_a_page(by_hand):
    response = await send(by_hand, CARD)
    assert (response.status_code, told(response)["StatusCode"]) == (400, "202")
    path = response.headers["RedirectUrl"].removeprefix(SETTINGS.base_url)
    assert (await by_hand.get(path)).status_code == 200
    assert "paid" in (await by_hand.post(path, data={"action": "pay"})).text
    assert told(await status(by_hand))["PaymentRequestStatus"] == "processed"
    assert "already paid" in (await by_hand.post(path, data={"action": "decline"})).text
    assert (await by_hand.get("/cpay/card/nothing")).status_code == 404
    assert (await by_hand.post("/cpay/card/nothing", data={"action": "pay"})).status_code == 404


async def test_a_card_link_can_be_an_html_page(start):
    client = await start(automatic_customer=False, cpay_card_as_page=True)
    response = await send(client, CARD)
    assert response.status_code == 202
    assert re.search(r'<iframe [^>]*src="http://[^"]+/cpay/card/', response.text)


async def test_an_otp_payment_waits_for_its_otp_and_calls_nobody_back(client):
    sent = await send(client, PAYMENT)
    assert (sent.status_code, told(sent)["ReasonCode"], told(sent)["CPayTransactionId"]) == (200, "otpSent", None)
    waiting = told(await status(client))
    assert (waiting["PaymentRequestStatus"], waiting["ReasonCode"]) == ("OTPSEND", "paymentIncomplete")
    wrong = await send(client, CONFIRM, otp="000000")
    assert (wrong.status_code, told(wrong)["ReasonCode"]) == (422, "invalidPassword")
    right = await send(client, CONFIRM, otp="123456")
    assert (right.status_code, told(right)["ReasonCode"]) == (200, "paymentSuccessful")
    assert (await send(client, CONFIRM, otp="123456")).status_code == 422
    await client.settled()
    assert client.receiver.requests == []
    row = (await client.control("GET", "/charges?reference=order1"))["charges"][0]
    assert (row["charges"], row["money_taken_minor"]) == (1, 10_000)


async def test_the_right_otp_can_be_changed(client):
    await client.control("POST", "/settings", cpay_otp="777")
    await send(client, PAYMENT)
    assert (await send(client, CONFIRM, otp="123456")).status_code == 422
    assert (await send(client, CONFIRM, otp="777")).status_code == 200


async def test_a_confirmation_signs_the_otp_too_and_must_fit_its_order(client):
    await send(client, PAYMENT)
    assert told(await send(client, CONFIRM, otp="123456", checksum=checksum(ORDER)))["Description"].startswith(
        "Transaction Checksum"
    )
    assert (await send(client, CONFIRM, otp="123456", amount="1.00")).status_code == 404
    assert (await send(client, CONFIRM, otp="123456", msisdn="57012346")).status_code == 404
    assert (await send(client, CONFIRM, otp="123456", extTransactionId="order2")).status_code == 404
    assert (await send(client, CONFIRM, otp="")).status_code == 400
    assert (await send(client, CONFIRM, headers={}, otp="123456")).status_code == 401


@pytest.mark.parametrize(
    ("outcome", "answer"), [("decline", 422), ("silent", 424), ("server_error_after_charging", 500)]
)
async def test_what_the_outcome_is_shows_at_the_confirmation(client, outcome, answer):
    await client.outcome("cpay", outcome, times=1)
    assert (await send(client, PAYMENT)).status_code == 200
    assert (await send(client, CONFIRM, otp="123456")).status_code == answer


@pytest.mark.parametrize(
    ("amount", "word"),
    [("19.01", "denied"), ("19.02", "denied"), ("19.03", "canceled"), ("19.04", "expired"), ("19.08", "denied")],
)
async def test_the_amount_chooses_the_outcome(client, amount, word):
    await send(client, PUSH, amount=amount)
    await client.receiver.wait()
    assert client.receiver.bodies[0]["paymentRequestStatus"] == word


async def test_a_callback_is_sent_again_until_it_is_taken(client):
    client.receiver.answers = [500, 500]
    await send(client, PUSH)
    await client.receiver.wait(3)


async def test_a_paid_order_can_only_be_reversed(by_hand):
    await send(by_hand, PUSH)
    assert (await by_hand.post("/_control/charges/cpay/order1/dance")).status_code == 409
    await by_hand.control("POST", "/charges/cpay/order1/pay")
    assert (await by_hand.post("/_control/charges/cpay/order1/cancel")).status_code == 409
    await by_hand.control("POST", "/charges/cpay/order1/reverse")
    assert told(await status(by_hand))["PaymentRequestStatus"] == "reversed"


TOP_UP = "/cpay/api/disbursements/wallet-topup-advance"
MPESA = {"destinationOperator": "mpesa", "destinationWalletNumber": "57012345"}
KYC = {"additionalData": {"recipientKyc": {"fullName": "Thabo Mokoena"}}}


async def top_up(client, headers=HEADERS, params=MPESA, **changes):
    body = {name: value for name, value in ORDER.items() if name not in ("otp", "otpMedium")} | KYC | changes
    body.setdefault("checksum", checksum(body))
    wrapped = {"transactionRequest": {"transactionRequest": body}}
    return await client.post(TOP_UP, params=params, json=wrapped, headers=headers)


async def test_money_sent_is_accepted_then_processed_and_called_back(client):
    answer = told(await top_up(client))
    assert (answer["StatusCode"], answer["PaymentRequestStatus"]) == ("0000", "ACCEPTED")
    assert answer["CPayTransactionId"].startswith("cp")
    await client.receiver.wait()
    assert client.receiver.bodies[0]["extTransactionId"] == "order1"
    assert told(await status(client))["PaymentRequestStatus"] == "processed"
    row = (await client.control("GET", "/charges?reference=order1"))["charges"][0]
    assert (row["charges"], row["status"], row["money_taken_minor"]) == (1, "paid", 0)
    again = await top_up(client)
    assert (again.status_code, told(again)["ReasonCode"]) == (400, "duplicateTransaction")


@pytest.mark.parametrize(
    ("params", "changes", "field"),
    [
        ({**MPESA, "destinationOperator": "bank"}, {}, "destinationOperator"),
        ({**MPESA, "destinationWalletNumber": "+26657012345"}, {}, "destinationWalletNumber"),
        ({}, {}, "destinationWalletNumber"),
        (MPESA, {"additionalData": {}}, "recipientKyc"),
        (MPESA, {"currency": "ZAR"}, "currency"),
        (MPESA, {"amount": "1"}, "amount"),
        (MPESA, {"checksum": "x"}, "Checksum"),
    ],
)
async def test_money_is_sent_only_by_a_whole_order(client, params, changes, field):
    response = await top_up(client, params=params, **changes)
    assert response.status_code == 400
    assert field in told(response)["Description"]
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_an_order_to_send_money_is_wrapped_twice_and_needs_the_key(client):
    body = ORDER | KYC
    for wrong in (body, {"transactionRequest": body}, {"transactionRequest": {"transactionRequest": [1]}}):
        assert (await client.post(TOP_UP, params=MPESA, json=wrong, headers=HEADERS)).status_code == 400
    assert (await top_up(client, headers={})).status_code == 401


@pytest.mark.parametrize(
    ("amount", "words"),
    [("19.01", ["denied"]), ("19.28", ["processed", "reversed"]), ("19.09", ["processed"] * 3)],
)
async def test_the_amount_chooses_what_becomes_of_money_sent(client, amount, words):
    await top_up(client, amount=amount)
    await client.settled()
    assert [body["paymentRequestStatus"] for body in client.receiver.bodies] == words
    assert told(await status(client))["PaymentRequestStatus"] == words[-1]
