import hashlib
import hmac
from datetime import UTC, datetime

import httpx
import pytest

from payflow.simulator import SimulatorSettings

SETTINGS = SimulatorSettings()
LOGIN = "/moniepoint/api/v1/auth/login"
INITIATE = "/moniepoint/api/v1/merchant/transactions/init-transaction"
OPEN_ACCOUNT = "/moniepoint/api/v1/merchant/bank-transfer/init-payment"
QUERY = "/moniepoint/api/v2/merchant/transactions/query"
CREDENTIALS = (SETTINGS.moniepoint_api_key, SETTINGS.moniepoint_secret_key)
ORDER = {
    "amount": 4_200.50,
    "customerEmail": "ada@example.com",
    "paymentReference": "order-1",
    "currencyCode": "NGN",
    "contractCode": SETTINGS.moniepoint_contract_code,
    "redirectUrl": "https://shop.example/back?cart=1",
}


async def bearer(client):
    response = await client.post(LOGIN, auth=CREDENTIALS)
    return {"Authorization": f"Bearer {response.json()['responseBody']['accessToken']}"}


async def initiate(client, **changes):
    return await client.post(INITIATE, json=ORDER | changes, headers=await bearer(client))


async def query(client, **names):
    response = await client.get(QUERY, params=names or {"paymentReference": "order-1"}, headers=await bearer(client))
    return response.json()["responseBody"] if response.status_code == 200 else response


async def test_a_token_is_given_for_the_right_keys_and_lives_an_hour(start):
    now = [datetime(2026, 3, 4, tzinfo=UTC).timestamp()]
    client = await start(clock=lambda: now[0])
    refused = await client.post(LOGIN)
    assert (refused.status_code, refused.json()["responseCode"]) == (401, 99)
    assert (await client.post(LOGIN, auth=("MK_TEST_X", "y"))).json()["responseMessage"] == "bad credentials"
    token = await bearer(client)
    now[0] += 3_601
    ended = await client.get(QUERY, params={"paymentReference": "x"}, headers=token)
    assert (ended.status_code, ended.json()["error"]) == (401, "invalid_token")


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer nobody"}])
async def test_without_a_token_nothing_is_told_or_charged(client, header):
    for answer in (await client.post(INITIATE, json=ORDER, headers=header), await client.get(QUERY, headers=header)):
        assert (answer.status_code, answer.json()["requestSuccessful"]) == (401, False)
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_initiate_answers_with_a_page_whose_address_holds_a_raw_pipe(by_hand):
    body = (await initiate(by_hand)).json()
    assert (body["requestSuccessful"], body["responseCode"]) == (True, "0")
    told = body["responseBody"]
    assert told["paymentReference"] == "order-1"
    assert told["transactionReference"].startswith("MNFY|17|")
    assert told["checkoutUrl"].endswith(f"/checkout/moniepoint/{told['transactionReference']}")


async def test_a_pending_payment_reads_nothing_by_either_reference(by_hand):
    reference = (await initiate(by_hand)).json()["responseBody"]["transactionReference"]
    by_ours = await query(by_hand)
    assert (by_ours["paymentStatus"], by_ours["amountPaid"], by_ours["totalPayable"]) == ("PENDING", "0.00", "0.00")
    assert await query(by_hand, transactionReference=reference) == by_ours
    path = "/moniepoint/api/v2/transactions/" + reference.replace("|", "%7C")
    assert (await by_hand.get(path, headers=await bearer(by_hand))).json()["responseBody"] == by_ours


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"amount": None}, 400, "malformed syntax"),
        ({"amount": 0}, 400, "malformed syntax"),
        ({"amount": -5}, 400, "malformed syntax"),
        ({"amount": 1.005}, 400, "malformed syntax"),
        ({"amount": True}, 400, "malformed syntax"),
        ({"customerEmail": "nobody"}, 400, "malformed syntax"),
        ({"paymentReference": None}, 400, "malformed syntax"),
        ({"paymentMethods": ["CHEQUE"]}, 400, "malformed syntax"),
        ({"redirectUrl": "javascript:alert(1)"}, 400, "malformed syntax"),
        ({"currencyCode": "USD"}, 400, "Unknown currency code supplied"),
        ({"contractCode": "1"}, 404, "Could not find specified contract"),
    ],
)
async def test_initiate_refuses_what_monnify_refuses(client, changes, status, message):
    answer = await initiate(client, **changes)
    assert (answer.status_code, answer.json()["requestSuccessful"]) == (status, False)
    assert message in answer.json()["responseMessage"]


async def test_a_reference_is_taken_once(client):
    await initiate(client, amount=19.01)
    again = await initiate(client)
    assert (again.status_code, again.json()["responseMessage"]) == (422, "Duplicate payment reference")


async def test_what_is_unknown_or_not_encoded_is_refused(client):
    missing = await query(client, paymentReference="nothing")
    assert missing.status_code == 404
    assert "Could not find transaction" in missing.json()["responseMessage"]
    assert (await query(client, page="1")).status_code == 400
    url = httpx.URL("http://simulator").copy_with(raw_path=QUERY.encode() + b"?transactionReference=MNFY|17")
    raw = await client.get(url, headers=await bearer(client))
    assert (raw.status_code, raw.headers["content-type"].partition(";")[0]) == (400, "text/html")


async def test_a_paid_checkout_is_told_by_a_webhook_signed_over_the_raw_body(client):
    await initiate(client, metaData={"order": 7})
    await client.receiver.wait()
    request = client.receiver.requests[0]
    expected = hmac.new(b"simulator_moniepoint_secret", request.content, hashlib.sha512).hexdigest()
    assert request.headers["monnify-signature"] == expected
    assert str(request.url) == "http://127.0.0.1:8000/api/v1/webhooks/moniepoint"
    assert b'"amountPaid":4200.50,' in request.content
    body = client.receiver.bodies[0]
    assert body["eventType"] == "SUCCESSFUL_TRANSACTION"
    data = body["eventData"]
    assert (data["paymentReference"], data["paymentStatus"], data["settlementAmount"]) == ("order-1", "PAID", "4190.50")
    assert (data["metaData"], data["currency"]) == ({"order": 7}, "NGN")
    told = await query(client)
    assert (told["paymentStatus"], told["amountPaid"], told["settlementAmount"]) == ("PAID", "4200.50", "4190.50")


async def test_webhooks_come_without_a_signature_when_the_setting_says_so(start):
    client = await start(moniepoint_sign_webhooks=False)
    await initiate(client)
    await client.receiver.wait()
    assert "monnify-signature" not in client.receiver.requests[0].headers


@pytest.mark.parametrize(
    ("amount", "status", "events"),
    [
        (19.01, "FAILED", []),
        (19.02, "FAILED", []),
        (19.03, "CANCELLED", []),
        (19.04, "EXPIRED", []),
        (19.05, "PENDING", []),
        (19.08, "PAID", ["SUCCESSFUL_TRANSACTION"]),
        (19.10, "PAID", ["SUCCESSFUL_TRANSACTION", "REJECTED_PAYMENT"]),
        (19.11, "PARTIALLY_PAID", ["SUCCESSFUL_TRANSACTION"]),
        (19.22, "PAID", []),
        (19.26, "PAID", ["SUCCESSFUL_TRANSACTION"]),
        (19.27, "FAILED", []),
    ],
)
async def test_the_last_three_digits_choose_what_happens(client, amount, status, events):
    await initiate(client, amount=amount)
    await client.settled()
    assert (await query(client))["paymentStatus"] == status
    assert [body["eventType"] for body in client.receiver.bodies] == events
    [row] = (await client.control("GET", "/charges?provider=moniepoint"))["charges"]
    assert (row["submissions"], row["charges"]) == (1, 1)


@pytest.mark.parametrize(("amount", "status"), [(19.15, 500), (19.17, 404), (19.18, 429), (19.19, 502)])
async def test_a_refused_call_leaves_no_charge(client, amount, status):
    assert (await initiate(client, amount=amount)).status_code == status
    assert (await query(client)).status_code == 404


async def test_an_account_to_transfer_to_stays_the_same(by_hand):
    reference = (await initiate(by_hand)).json()["responseBody"]["transactionReference"]
    token = await bearer(by_hand)
    first, second = [
        (await by_hand.post(OPEN_ACCOUNT, json={"transactionReference": reference}, headers=token)).json()[
            "responseBody"
        ]
        for _ in range(2)
    ]
    assert first["accountNumber"] == second["accountNumber"]
    assert (first["totalPayable"], first["accountDurationSeconds"]) == (4_200.5, 2_400)
    missing = await by_hand.post(OPEN_ACCOUNT, json={"transactionReference": "MNFY|0"}, headers=token)
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("action", "status", "event"),
    [
        ("overpay", "OVERPAID", "SUCCESSFUL_TRANSACTION"),
        ("reject", "PENDING", "REJECTED_PAYMENT"),
        ("abandon", "ABANDONED", None),
        ("reverse", "REVERSED", None),
    ],
)
async def test_the_customer_can_be_played(by_hand, action, status, event):
    await initiate(by_hand)
    await by_hand.control("POST", f"/charges/moniepoint/order-1/{action}")
    assert (await query(by_hand))["paymentStatus"] == status
    assert [body["eventType"] for body in by_hand.receiver.bodies] == ([event] if event else [])


async def test_the_page_takes_the_answer_and_sends_the_customer_back(by_hand):
    page = "/checkout" + (await initiate(by_hand)).json()["responseBody"]["checkoutUrl"].split("/checkout")[1]
    assert "order-1" in (await by_hand.get(page)).text
    paid = await by_hand.post(page, data={"action": "pay"})
    assert (paid.status_code, paid.headers["location"]) == (
        303,
        "https://shop.example/back?cart=1&paymentReference=order-1",
    )
    assert (await query(by_hand))["paymentStatus"] == "PAID"
    assert (await by_hand.post(page, data={"action": "pay"})).status_code == 303
    assert (await by_hand.get("/checkout/moniepoint/nothing")).status_code == 404
    assert (await by_hand.post("/checkout/moniepoint/nothing")).status_code == 404


REFUND = "/moniepoint/api/v1/refunds/initiate-refund"
TRANSFER = "/moniepoint/api/v2/disbursements/single"
OTP = "/moniepoint/api/v2/disbursements/single/validate-otp"
SUMMARY = "/moniepoint/api/v2/disbursements/single/summary"
HOLDER = "/moniepoint/api/v1/disbursements/account/validate"
SENT = {
    "amount": 100,
    "reference": "out-1",
    "narration": "Withdrawal",
    "destinationBankCode": "058",
    "destinationAccountNumber": "0123456789",
    "destinationAccountName": "Ada Lovelace",
    "currency": "NGN",
    "sourceAccountNumber": SETTINGS.moniepoint_source_account_number,
}


async def post(client, path, body):
    return await client.post(path, json=body, headers=await bearer(client))


async def ask(client, path, **params):
    return await client.get(path, params=params, headers=await bearer(client))


async def paid(client, **changes):
    reference = (await initiate(client, **changes)).json()["responseBody"]["transactionReference"]
    await client.settled()
    return reference


async def refund(client, transaction_reference, **changes):
    body = {
        "transactionReference": transaction_reference,
        "refundReference": "refund-1",
        "refundAmount": 4_200.50,
        "refundReason": "Returned",
        "customerNote": "Refund",
    }
    return await post(client, REFUND, body | changes)


async def test_a_refund_begins_pending_and_ends_with_a_signed_webhook(client):
    reference = await paid(client)
    told = (await refund(client, reference)).json()["responseBody"]
    assert (told["refundStatus"], told["refundType"], told["refundAmount"]) == ("PENDING", "FULL_REFUND", 4_200.5)
    await client.receiver.wait(2)
    request, body = client.receiver.requests[1], client.receiver.bodies[1]
    expected = hmac.new(b"simulator_moniepoint_secret", request.content, hashlib.sha512).hexdigest()
    assert request.headers["monnify-signature"] == expected
    assert body["eventType"] == "SUCCESSFUL_REFUND"
    assert b'"refundAmount":4200.50' in request.content
    fetched = (await ask(client, "/moniepoint/api/v1/refunds/refund-1")).json()["responseBody"]
    assert (fetched["refundStatus"], fetched["refundReference"]) == ("COMPLETED", "refund-1")
    row = (await client.control("GET", "/charges?provider=moniepoint"))["charges"][0]
    assert (row["refunded_minor"], row["refund_submissions"]) == (420_050, 1)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"transactionReference": "MNFY|0"}, 404, "R1"),
        ({"refundAmount": 4_200.51}, 400, "R3"),
        ({"refundAmount": 99.99}, 400, "R4"),
        ({"refundReason": "x" * 65}, 400, "R8"),
        ({"customerNote": "x" * 17}, 400, "R8"),
        ({"customerNote": None}, 400, "99"),
        ({"refundReference": None}, 400, "99"),
        ({"refundAmount": "much"}, 400, "99"),
    ],
)
async def test_a_refund_is_refused_by_the_code_of_its_table(client, changes, status, code):
    answer = await refund(client, await paid(client), **changes)
    assert (answer.status_code, answer.json()["responseCode"]) == (status, code)
    row = (await client.control("GET", "/charges?provider=moniepoint"))["charges"][0]
    assert row["refunded_minor"] == 0


async def test_what_was_not_paid_paid_by_card_or_refunded_before_is_not_refunded(client):
    unpaid = await paid(client, paymentReference="order-2", amount=19.05)
    card = await paid(client, paymentReference="order-3", paymentMethods=["CARD"])
    reference = await paid(client)
    answers = [await refund(client, unpaid, refundAmount=19.05), await refund(client, card)]
    answers += [await refund(client, reference, refundReference=name) for name in ("refund-1", "refund-1", "refund-2")]
    assert [answer.json()["responseCode"] for answer in answers] == ["R1", "R2", "0", "R9", "R12"]
    missing = await ask(client, "/moniepoint/api/v1/refunds/nothing")
    assert (missing.status_code, missing.json()["responseCode"]) == (404, "R7")


async def test_a_refund_can_be_steered_by_hand(start):
    client = await start(customer_delay_seconds=60)
    reference = (await initiate(client)).json()["responseBody"]["transactionReference"]
    await client.control("POST", "/charges/moniepoint/order-1/pay")
    await refund(client, reference)
    await client.control("POST", "/charges/moniepoint/order-1/refund_fail")
    fetched = (await ask(client, "/moniepoint/api/v1/refunds/refund-1")).json()["responseBody"]
    assert fetched["refundStatus"] == "FAILED"
    assert client.receiver.bodies[-1]["eventType"] == "FAILED_REFUND"
    assert (await client.post("/_control/charges/moniepoint/order-1/refund_settle")).status_code == 409


async def test_a_transfer_succeeds_at_once_and_its_webhook_follows(client):
    told = (await post(client, TRANSFER, SENT)).json()["responseBody"]
    assert (told["status"], told["totalFee"], "transactionReference" in told) == ("SUCCESS", 10, False)
    await client.receiver.wait()
    body = client.receiver.bodies[0]
    assert (body["eventType"], body["eventData"]["reference"]) == ("SUCCESSFUL_DISBURSEMENT", "out-1")
    summary = (await ask(client, SUMMARY, reference="out-1")).json()["responseBody"]
    assert (summary["status"], summary["fee"], summary["currency"]) == ("SUCCESS", 10, "NGN")
    assert summary["transactionReference"] == body["eventData"]["transactionReference"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"destinationAccountNumber": "0000000000"}, "D03"),
        ({"destinationAccountNumber": "123"}, "D03"),
        ({"destinationBankCode": "999"}, "D03"),
        ({"destinationAccountName": None}, "D01"),
        ({"sourceAccountNumber": "1"}, "99"),
        ({"currency": "USD"}, "99"),
        ({"narration": None}, "99"),
        ({"reference": None}, "99"),
        ({"amount": 0}, "99"),
    ],
)
async def test_a_transfer_is_refused_by_the_code_of_its_table(client, changes, code):
    answer = await post(client, TRANSFER, SENT | changes)
    assert (answer.json()["requestSuccessful"], answer.json()["responseCode"]) == (False, code)
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_a_reference_is_sent_once_and_the_same_transfer_not_within_two_minutes(start):
    now = [datetime(2026, 3, 4, tzinfo=UTC).timestamp()]
    client = await start(clock=lambda: now[0])
    codes = []
    for changes in ({}, {}, {"reference": "out-2"}, {"reference": "out-3", "amount": 200}):
        codes.append((await post(client, TRANSFER, SENT | changes)).json()["responseCode"])
    now[0] += 121
    codes.append((await post(client, TRANSFER, SENT | {"reference": "out-4"})).json()["responseCode"])
    assert codes == ["0", "D05", "D07", "0", "0"]


async def test_a_transfer_waits_for_its_code(client):
    told = (await post(client, TRANSFER, SENT | {"amount": 119.29})).json()["responseBody"]
    assert told["status"] == "PENDING_AUTHORIZATION"
    assert (await client.post("/_control/charges/moniepoint/out-1/pay")).status_code == 409
    assert (await post(client, OTP, {"reference": "out-1", "authorizationCode": "0"})).status_code == 400
    assert (await post(client, OTP, {"reference": "out-9", "authorizationCode": "123456"})).status_code == 404
    right = (await post(client, OTP, {"reference": "out-1", "authorizationCode": "123456"})).json()["responseBody"]
    assert (right["status"], "comment" in right) == ("SUCCESS", False)
    await client.receiver.wait()
    assert (await post(client, OTP, {"reference": "out-1", "authorizationCode": "123456"})).status_code == 400


@pytest.mark.parametrize(
    ("amount", "status", "events"),
    [
        (119.01, "FAILED", ["FAILED_DISBURSEMENT"]),
        (119.05, "PENDING", []),
        (119.09, "SUCCESS", ["SUCCESSFUL_DISBURSEMENT"] * 3),
        (119.22, "SUCCESS", []),
        (119.28, "REVERSED", ["SUCCESSFUL_DISBURSEMENT", "REVERSED_DISBURSEMENT"]),
    ],
)
async def test_the_amount_chooses_what_becomes_of_a_transfer(client, amount, status, events):
    await post(client, TRANSFER, SENT | {"amount": amount})
    await client.settled()
    assert (await ask(client, SUMMARY, reference="out-1")).json()["responseBody"]["status"] == status
    assert [body["eventType"] for body in client.receiver.bodies] == events


async def test_banks_and_holders_are_told_to_those_with_a_token(client):
    banks = (await ask(client, "/moniepoint/api/v1/banks")).json()["responseBody"]
    assert {"GTBank", "Sterling bank"} <= {row["name"] for row in banks}
    holder = (await ask(client, HOLDER, accountNumber="0123456789", bankCode="058")).json()["responseBody"]
    assert holder == {"accountNumber": "0123456789", "accountName": "SIMULATED HOLDER", "bankCode": "058"}
    missing = await ask(client, HOLDER, accountNumber="0000000000", bankCode="058")
    assert missing.json()["responseMessage"] == "Invalid account details"
    for path in ("/moniepoint/api/v1/banks", HOLDER, SUMMARY, "/moniepoint/api/v1/refunds/x"):
        assert (await client.get(path)).status_code == 401
    for path in (REFUND, TRANSFER, OTP):
        assert (await client.post(path, json={})).status_code == 401


# Cards by their number

CHARGE = "/moniepoint/api/v1/merchant/cards/charge"
AUTHORISE = "/moniepoint/api/v1/merchant/cards/otp/authorize"
DEVICE = {
    "httpBrowserLanguage": "en-US",
    "httpBrowserJavaEnabled": False,
    "httpBrowserJavaScriptEnabled": True,
    "httpBrowserColorDepth": 24,
    "httpBrowserScreenHeight": 1203,
    "httpBrowserScreenWidth": 2138,
    "httpBrowserTimeDifference": "",
    "userAgentBrowserValue": "Mozilla/5.0",
}


async def charge(client, number="4111111111111111", order=None, **changes):
    reference = (await initiate(client, **(order or {}))).json()["responseBody"]["transactionReference"]
    card = {"number": number, "expiryMonth": "12", "expiryYear": "2027", "pin": "1234", "cvv": "123"}
    body = {"transactionReference": reference, "collectionChannel": "API_NOTIFICATION", "card": card}
    return await post(client, CHARGE, body | {"deviceInformation": DEVICE} | changes)


async def test_a_card_is_charged_at_once_and_its_webhook_follows(by_hand):
    told = (await charge(by_hand)).json()["responseBody"]
    assert (told["status"], told["paymentReference"], told["authorizedAmount"]) == ("SUCCESS", "order-1", 4_200.5)
    await by_hand.receiver.wait()
    assert by_hand.receiver.bodies[0]["eventType"] == "SUCCESSFUL_TRANSACTION"
    assert (await query(by_hand))["paymentStatus"] == "PAID"
    again = {"transactionReference": told["transactionReference"], "deviceInformation": DEVICE}
    card = {"number": "4111111111111111", "expiryMonth": "12", "expiryYear": "2027", "cvv": "123"}
    answer = await post(by_hand, CHARGE, again | {"card": card})
    assert (answer.json()["responseCode"], answer.json()["responseMessage"]) == ("100", "Payment already exists")


@pytest.mark.parametrize(
    ("amount", "status"), [(19.01, "FAILED"), (19.02, "FAILED"), (19.05, "BANK_AUTHORIZATION_REQUIRED")]
)
async def test_what_the_bank_makes_of_a_card_follows_the_amount(by_hand, amount, status):
    assert (await charge(by_hand, order={"amount": amount})).json()["responseBody"]["status"] == status


async def test_a_card_that_asks_for_an_otp(by_hand):
    told = (await charge(by_hand, "5060995994247093")).json()["responseBody"]
    assert told["status"] == "OTP_AUTHORIZATION_REQUIRED"
    body = {"transactionReference": told["transactionReference"], "tokenId": told["otpData"]["id"], "token": "123456"}
    for wrong in ({"token": "1"}, {"tokenId": "1"}, {"transactionReference": "MNFY|0"}):
        answer = await post(by_hand, AUTHORISE, body | wrong)
        assert (answer.status_code in (400, 404), answer.json()["requestSuccessful"]) == (True, False)
    assert (await query(by_hand))["paymentStatus"] == "PENDING"
    given = (await post(by_hand, AUTHORISE, body)).json()["responseBody"]
    assert (given["paymentStatus"], given["amountPaid"], given["currencyPaid"]) == ("SUCCESSFUL", 4_200.5, "NGN")
    assert (await post(by_hand, AUTHORISE, body)).json()["responseMessage"].startswith("No Card Payment found")


async def test_a_card_with_3ds_sends_the_customer_to_a_page(by_hand):
    told = (await charge(by_hand, "4000000000000002")).json()["responseBody"]
    assert told["status"] == "MPGS_3DS_AUTHORIZATION_REQUIRED"
    page = await by_hand.get(told["secure3dData"]["redirectUrl"].replace("|", "%7C"))
    assert (page.status_code, "order-1" in page.text) == (200, True)


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        ("4111111111111110", {}, "Invalid card number"),
        ("5555555555554444", {}, "Merchant has not been configured for bin"),
        ("4111111111111111", {"deviceInformation": None}, "malformed syntax"),
        ("4111111111111111", {"deviceInformation": DEVICE | {"httpBrowserColorDepth": "24"}}, "malformed syntax"),
        ("41", {}, "malformed syntax"),
        ("4111111111111111", {"transactionReference": "MNFY|0"}, "Could not find transaction"),
    ],
)
async def test_a_card_is_refused_as_monnify_refuses_it(by_hand, number, changes, message):
    answer = await charge(by_hand, number, **changes)
    assert (answer.status_code in (400, 404), message in answer.json()["responseMessage"]) == (True, True)
    assert (await query(by_hand))["paymentStatus"] == "PENDING"


async def test_whoever_charges_a_card_does_not_act_on_the_page(start):
    client = await start(customer_delay_seconds=60)
    assert (await charge(client, "5060995994247093")).status_code == 200
    await client.settled()
    assert (await query(client))["paymentStatus"] == "PENDING"
