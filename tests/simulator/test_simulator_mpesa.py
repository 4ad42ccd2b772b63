import asyncio
import base64

import pytest

from payflow.simulator import SimulatorSettings

SETTINGS = SimulatorSettings()
STAMP = "20210628092408"
# The published test vector: shortcode 174379, sandbox passkey, this timestamp.
PASSWORD = (
    "MTc0Mzc5YmZiMjc5ZjlhYTliZGJjZjE1OGU5N2RkNzFhNDY3Y2QyZTBjODkzMDU5YjEwZjc4ZTZiNzJhZGExZWQyYzkxOTIwMjEwNjI4MDkyNDA4"
)
PUSH = {
    "BusinessShortCode": 174379,
    "Password": PASSWORD,
    "Timestamp": STAMP,
    "TransactionType": "CustomerPayBillOnline",
    "Amount": 10,
    "PartyA": "254722000000",
    "PartyB": "174379",
    "PhoneNumber": "254722000000",
    "CallBackURL": "http://service.example/api/v1/webhooks/lipa/abcdef",
    "AccountReference": "order1",
    "TransactionDesc": "order",
}
TOKEN_URL = "/mpesa/oauth/v1/generate?grant_type=client_credentials"
CREDENTIALS = (SETTINGS.mpesa_consumer_key, SETTINGS.mpesa_consumer_secret)


async def bearer(client):
    response = await client.get(TOKEN_URL, auth=CREDENTIALS)
    return {"Authorization": f"Bearer {response.json()['access_token']}"}


async def push(client, header=None, **changes):
    header = header or await bearer(client)
    return await client.post("/mpesa/mpesa/stkpush/v1/processrequest", json=PUSH | changes, headers=header)


async def query(client, checkout_id, header=None):
    body = {name: PUSH[name] for name in ("BusinessShortCode", "Password", "Timestamp")}
    return await client.post(
        "/mpesa/mpesa/stkpushquery/v1/query",
        json=body | {"CheckoutRequestID": checkout_id},
        headers=header or await bearer(client),
    )


async def test_a_token_has_28_characters_and_its_life_as_text_or_number(client):
    body = (await client.get(TOKEN_URL, auth=CREDENTIALS)).json()
    assert (len(body["access_token"]), body["access_token"].isalnum(), body["expires_in"]) == (28, True, "3599")
    await client.control("POST", "/settings", mpesa_expires_in_as_text=False)
    assert (await client.get(TOKEN_URL, auth=CREDENTIALS)).json()["expires_in"] == 3599


async def test_token_refusals_have_their_codes_and_wrong_credentials_no_body(client):
    assert (await client.get(TOKEN_URL)).json()["errorCode"] == "400.008.01"
    response = await client.get("/mpesa/oauth/v1/generate?grant_type=password", auth=CREDENTIALS)
    assert response.json()["errorCode"] == "400.008.02"
    wrong = await client.get(TOKEN_URL, auth=("a", "b"))
    assert (wrong.status_code, wrong.content) == (400, b"")


async def test_an_expired_or_unknown_token_is_404_here(start):
    client = await start()
    response = await push(client, {"Authorization": "Bearer nonsense"})
    assert (response.status_code, response.json()["errorCode"]) == (404, "404.001.03")
    response = await push(client, {"Authorization": "Basic nonsense"})
    assert (response.status_code, response.json()["errorCode"]) == (404, "404.001.04")


async def test_a_new_token_ends_the_old_one_when_set(start):
    client = await start(mpesa_one_token_at_a_time=True)
    old = await bearer(client)
    await bearer(client)
    assert (await push(client, old)).status_code == 404


async def test_a_push_is_accepted_then_in_flight_then_called_back(client):
    header = await bearer(client)
    ack = (await push(client, header)).json()
    assert (ack["ResponseCode"], ack["CheckoutRequestID"][:6]) == ("0", "ws_CO_")
    assert ack["CheckoutRequestID"].endswith("722000000")
    in_flight = await query(client, ack["CheckoutRequestID"], header)
    assert (in_flight.status_code, in_flight.json()["ResultCode"]) == (200, "4999")
    await client.receiver.wait()
    request, body = client.receiver.requests[0], client.receiver.bodies[0]["Body"]["stkCallback"]
    assert str(request.url) == PUSH["CallBackURL"]
    assert request.headers["businessshortcode"] == "174379"
    assert (body["ResultCode"], body["CheckoutRequestID"]) == (0, ack["CheckoutRequestID"])
    items = {item["Name"]: item.get("Value") for item in body["CallbackMetadata"]["Item"]}
    assert (items["Amount"], items["PhoneNumber"], items["Balance"]) == (10, 254722000000, None)
    assert len(items["MpesaReceiptNumber"]) == 10
    assert b'{"Name":"Balance"}' in request.content
    assert b'"Value":10.00' in request.content
    done = (await query(client, ack["CheckoutRequestID"], header)).json()
    assert (done["ResultCode"], done["ResponseCode"]) == ("0", "0")


async def test_in_flight_can_be_the_older_500(start):
    client = await start(automatic_customer=False, mpesa_in_flight_answer="500.001.1001")
    ack = (await push(client)).json()
    response = await query(client, ack["CheckoutRequestID"])
    assert (response.status_code, response.json()["errorCode"]) == (500, "500.001.1001")
    assert response.json()["errorMessage"] == "The transaction is being processed"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("BusinessShortCode", "abc"),
        ("Password", ""),
        ("Timestamp", "20211345000000"),
        ("TransactionType", "Pay"),
        ("Amount", "0"),
        ("Amount", "10.5"),
        ("Amount", 250_001),
        ("PartyA", "0722000000"),
        ("PartyB", "1"),
        ("PhoneNumber", "+254722000000"),
        ("CallBackURL", "ftp://service.example"),
        ("CallBackURL", "http://service.example/webhooks/mpesa/abc"),
        ("CallBackURL", "http://Service.example/lipa"),
        ("AccountReference", "thirteen chars"),
        ("TransactionDesc", "more than thirteen"),
    ],
)
async def test_an_invalid_field_is_named_and_nothing_is_charged(client, field, value):
    response = await push(client, **{field: value})
    assert response.status_code == 400
    assert response.json()["errorCode"] == "400.002.02"
    assert response.json()["errorMessage"] == f"Bad Request - Invalid {field}"
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_a_form_body_is_called_an_invalid_shortcode(client):
    response = await client.post("/mpesa/mpesa/stkpush/v1/processrequest", data=PUSH, headers=await bearer(client))
    assert response.json()["errorMessage"] == "Bad Request - Invalid BusinessShortCode"


async def test_the_password_must_fit_shortcode_passkey_and_timestamp(client):
    wrong = base64.b64encode(f"174379{SETTINGS.mpesa_passkey}20210628092409".encode()).decode()
    response = await push(client, Password=wrong)
    assert (response.status_code, response.json()["errorCode"]) == (500, "500.001.1001")
    assert response.json()["errorMessage"] == "[MerchantValidate] - Wrong credentials"


async def test_a_busy_subscriber_is_locked_when_set(start):
    client = await start(automatic_customer=False, mpesa_lock_subscriber=True)
    assert (await push(client)).status_code == 200
    response = await push(client)
    assert response.status_code == 500
    assert "Unable to lock subscriber" in response.json()["errorMessage"]


async def test_too_many_requests_meet_the_spike_arrest_when_set(start):
    client = await start(mpesa_requests_per_minute=1)
    assert (await client.get(TOKEN_URL, auth=CREDENTIALS)).status_code == 200
    response = await client.get(TOKEN_URL, auth=CREDENTIALS)
    assert response.status_code == 429
    assert response.json()["fault"]["detail"]["errorcode"] == "policies.ratelimit.SpikeArrestViolation"


async def test_an_unknown_checkout_id_does_not_exist(client):
    response = await query(client, "ws_CO_1")
    assert (response.status_code, response.json()["errorMessage"]) == (500, "The transaction does not Exist")


@pytest.mark.parametrize(
    ("outcome", "code"), [("decline", 2001), ("insufficient_funds", 1), ("cancelled", 1032), ("expired", 1037)]
)
async def test_a_failure_is_a_number_in_the_callback_and_text_in_the_query(client, outcome, code):
    await client.outcome("mpesa", outcome, times=1)
    ack = (await push(client)).json()
    await client.receiver.wait()
    told = client.receiver.bodies[0]["Body"]["stkCallback"]
    assert told["ResultCode"] == code
    assert "CallbackMetadata" not in told
    assert (await query(client, ack["CheckoutRequestID"])).json()["ResultCode"] == str(code)


async def test_amount_and_phone_choose_the_outcome(client):
    await push(client, Amount=1903)
    await push(client, PhoneNumber="254700000902", PartyA="254700000902")
    await client.receiver.wait(2)
    assert sorted(client.receiver.events) == ["1", "1032"]


async def test_a_callback_is_sent_once_whatever_the_answer(client):
    client.receiver.answers = [500]
    await push(client)
    await asyncio.sleep(0.1)
    assert len(client.receiver.requests) == 1


async def test_the_customer_can_be_played_with_any_result_code(by_hand):
    ack = (await push(by_hand)).json()
    await by_hand.control("POST", f"/charges/mpesa/{ack['CheckoutRequestID']}/code_1019")
    assert by_hand.receiver.events == ["1019"]


async def test_the_callback_can_come_before_the_answer(client):
    await client.outcome("mpesa", "callback_before_ack")
    ack = (await push(client)).json()
    assert client.receiver.bodies[0]["Body"]["stkCallback"]["CheckoutRequestID"] == ack["CheckoutRequestID"]


# Payouts, reversals, status, C2B

ADDRESS = "http://service.example/api/v1/webhooks/lipa/abcdef"
COMMON = {
    "SecurityCredential": SETTINGS.mpesa_security_credential,
    "Remarks": "remarked",
    "QueueTimeOutURL": ADDRESS,
    "ResultURL": ADDRESS,
}
B2C = COMMON | {
    "OriginatorConversationID": "600997_Test_32et3241ed8yu",
    "InitiatorName": "testapi",
    "CommandID": "BusinessPayment",
    "Amount": "10",
    "PartyA": "174379",
    "PartyB": "254705912645",
    "Occassion": "ChristmasPay",
}
REVERSAL = COMMON | {
    "Initiator": "testapi",
    "CommandID": "TransactionReversal",
    "TransactionID": "PDU91HIVIT",
    "Amount": "200",
    "ReceiverParty": "174379",
    "RecieverIdentifierType": "11",
}
STATUS = COMMON | {
    "Initiator": "testapi",
    "CommandID": "TransactionStatusQuery",
    "OriginalConversationID": "600997_Test_32et3241ed8yu",
    "PartyA": "174379",
    "IdentifierType": "4",
}
REGISTRATION = {
    "ShortCode": "174379",
    "ResponseType": "Completed",
    "ConfirmationURL": ADDRESS,
    "ValidationURL": ADDRESS,
}
ALONE = {
    "ShortCode": 174379,
    "CommandID": "CustomerPayBillOnline",
    "Amount": 1,
    "Msisdn": 254708374149,
    "BillRefNumber": "invoice",
}
PATHS = {
    "b2c": ("/mpesa/mpesa/b2c/v3/paymentrequest", B2C),
    "reversal": ("/mpesa/mpesa/reversal/v1/request", REVERSAL),
    "status": ("/mpesa/mpesa/transactionstatus/v1/query", STATUS),
    "register": ("/mpesa/mpesa/c2b/v2/registerurl", REGISTRATION),
    "alone": ("/mpesa/mpesa/c2b/v2/simulate", ALONE),
}


async def call(client, kind, header=None, **changes):
    path, body = PATHS[kind]
    return await client.post(path, json=body | changes, headers=header or await bearer(client))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("b2c", "OriginatorConversationID", ""),
        ("b2c", "InitiatorName", "other"),
        ("b2c", "SecurityCredential", "c2hvcnQ="),
        ("b2c", "SecurityCredential", "not base64 %"),
        ("b2c", "CommandID", "BusinessPayBill"),
        ("b2c", "Amount", "9"),
        ("b2c", "Amount", "10.5"),
        ("b2c", "PartyA", "600000"),
        ("b2c", "PartyB", "0705912645"),
        ("b2c", "Remarks", "x"),
        ("b2c", "QueueTimeOutURL", "http://service.example/mpesa"),
        ("b2c", "ResultURL", "http://service.example/query"),
        ("b2c", "Occassion", "x" * 101),
        ("reversal", "Initiator", None),
        ("reversal", "CommandID", "BusinessPayment"),
        ("reversal", "TransactionID", ""),
        ("reversal", "ReceiverParty", "600000"),
        ("reversal", "RecieverIdentifierType", "4"),
        ("status", "OriginalConversationID", ""),
        ("status", "IdentifierType", "3"),
        ("register", "ResponseType", "completed"),
        ("register", "ConfirmationURL", "http://service.example/mpesa"),
        ("register", "ValidationURL", "ftp://service.example"),
        ("alone", "Msisdn", "0708374149"),
        ("alone", "BillRefNumber", "x" * 21),
    ],
)
async def test_an_invalid_field_of_any_order_is_named_and_nothing_moves(client, kind, field, value):
    response = await call(client, kind, **{field: value})
    named = "TransactionID" if field == "OriginalConversationID" and kind == "status" else field
    assert (response.status_code, response.json()["errorCode"]) == (400, "400.002.02")
    assert response.json()["errorMessage"] == f"Bad Request - Invalid {named}"
    await client.settled()
    assert client.receiver.requests == []
    assert (await client.control("GET", "/charges"))["charges"] == []


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("b2c", 401, "401.002.01"),
        ("reversal", 404, "404.001.03"),
        ("status", 400, "400.003.01"),
        ("register", 400, "400.003.01"),
    ],
)
async def test_each_product_says_in_its_own_way_that_a_token_is_invalid(client, kind, status, code):
    response = await call(client, kind, {"Authorization": "Bearer nonsense"})
    assert (response.status_code, response.json()["errorCode"]) == (status, code)


async def test_a_payout_is_acknowledged_and_its_result_told_once(client):
    ack = (await call(client, "b2c")).json()
    assert (ack["OriginatorConversationID"], ack["ResponseCode"]) == (B2C["OriginatorConversationID"], "0")
    await client.receiver.wait()
    told = client.receiver.bodies[0]["Result"]
    assert (told["ResultType"], told["ResultCode"], told["ConversationID"]) == (0, 0, ack["ConversationID"])
    values = {item["Key"]: item.get("Value") for item in told["ResultParameters"]["ResultParameter"]}
    assert (values["TransactionAmount"], values["TransactionReceipt"]) == (10, told["TransactionID"])
    assert "b2cresults" in told["ReferenceData"]["ReferenceItem"]["Value"]
    await client.settled()
    assert len(client.receiver.requests) == 1


async def test_a_conversation_id_is_taken_once(client):
    assert (await call(client, "b2c")).status_code == 200
    response = await call(client, "b2c")
    assert (response.status_code, response.json()["errorCode"]) == (500, "500.002.1001")
    assert response.json()["errorMessage"] == "Duplicate OriginatorConversationID."
    await client.settled()
    assert len(client.receiver.requests) == 1


@pytest.mark.parametrize("code", ["2006", "SFC_IC0003"])
async def test_a_payout_can_end_with_any_code_and_a_failure_has_no_parameters(by_hand, code):
    await call(by_hand, "b2c")
    await by_hand.control("POST", f"/charges/mpesa/{B2C['OriginatorConversationID']}/code_{code}")
    told = by_hand.receiver.bodies[0]["Result"]
    assert (str(told["ResultCode"]), "ResultParameters" in told) == (code, False)


async def test_the_status_of_what_is_unknown_is_a_question_that_failed(client):
    ack = (await call(client, "status")).json()
    assert ack["ResponseCode"] == "0"
    await client.receiver.wait()
    told = client.receiver.bodies[0]["Result"]
    assert (told["ResultCode"], told["OriginatorConversationID"]) == (25, ack["OriginatorConversationID"])
    assert "ResultParameters" not in told


async def test_a_reversal_of_an_unknown_receipt_fails_with_a_word(client):
    await call(client, "reversal")
    await client.receiver.wait()
    assert client.receiver.bodies[0]["Result"]["ResultCode"] == "R000002"


async def test_a_confirmation_is_flat_text_with_the_phone_masked(client):
    await call(client, "register")
    await call(client, "alone")
    await client.receiver.wait()
    told = client.receiver.bodies[0]
    assert all(isinstance(value, str) for value in told.values())
    assert (told["TransAmount"], told["BillRefNumber"], told["MSISDN"]) == ("1.00", "invoice", "2547 ***** 149")
    assert told["OrgAccountBalance"]


async def test_nobody_is_told_of_a_payment_before_urls_are_registered(client):
    await call(client, "alone")
    await client.settled()
    assert client.receiver.requests == []


@pytest.mark.parametrize(("silence", "told"), [("Completed", 2), ("Cancelled", 1)])
async def test_without_an_answer_to_a_validation_the_response_type_holds(start, silence, told):
    client = await start(mpesa_external_validation=True)
    await call(client, "register", ResponseType=silence)
    await call(client, "alone")
    await client.settled()
    assert [bool(body["OrgAccountBalance"]) for body in client.receiver.bodies] == [False, True][:told]
