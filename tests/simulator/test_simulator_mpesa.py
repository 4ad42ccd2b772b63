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
