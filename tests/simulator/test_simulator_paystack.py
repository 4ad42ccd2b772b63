import hashlib
import hmac

import pytest

KEY = {"Authorization": "Bearer sk_test_simulator_paystack"}
ORDER = {
    "email": "ada@example.com",
    "amount": 500_000,
    "reference": "order-1",
    "callback_url": "https://shop.example/back",
}


async def initialize(client, **changes):
    return await client.post("/paystack/transaction/initialize", json=ORDER | changes, headers=KEY)


async def verify(client, reference="order-1"):
    response = await client.get(f"/paystack/transaction/verify/{reference}", headers=KEY)
    return response.json()["data"]


async def test_initialize_answers_with_a_page_and_the_same_reference(by_hand):
    response = await initialize(by_hand)
    body = response.json()
    assert (response.status_code, body["status"], body["message"]) == (200, True, "Authorization URL created")
    assert body["data"]["reference"] == "order-1"
    assert body["data"]["authorization_url"].endswith(f"/checkout/paystack/{body['data']['access_code']}")


async def test_an_unpaid_checkout_verifies_as_abandoned(by_hand):
    await initialize(by_hand)
    data = await verify(by_hand)
    assert (data["status"], data["amount"], data["paid_at"], data["domain"]) == ("abandoned", 500_000, None, "test")


async def test_a_paid_checkout_is_told_by_a_webhook_signed_over_the_raw_body(client):
    await initialize(client, metadata={"order": 7})
    await client.receiver.wait()
    request = client.receiver.requests[0]
    expected = hmac.new(b"sk_test_simulator_paystack", request.content, hashlib.sha512).hexdigest()
    assert request.headers["x-paystack-signature"] == expected
    assert str(request.url) == "http://127.0.0.1:8000/api/v1/webhooks/paystack"
    body = client.receiver.bodies[0]
    assert body["event"] == "charge.success"
    data = body["data"]
    assert (data["reference"], data["amount"], data["currency"]) == ("order-1", 500_000, "NGN")
    assert (data["status"], data["requested_amount"], data["metadata"]) == ("success", 500_000, {"order": 7})
    assert data["id"] > 2**31
    assert data["fees"] == 17_500


async def test_verify_tells_success_after_the_payment(client):
    await initialize(client)
    await client.receiver.wait()
    data = await verify(client)
    assert (data["status"], data["gateway_response"], data["paid_at"] is None) == ("success", "Successful", False)


async def test_a_reference_is_taken_once_even_after_a_failure(client):
    await initialize(client, amount=1_901)
    again = await initialize(client)
    assert again.status_code == 400
    assert again.json()["code"] == "duplicate_reference"
    assert again.json()["message"] == "Duplicate Transaction Reference"


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer sk_test_other"}])
async def test_a_missing_or_wrong_key_is_401(client, header):
    response = await client.post("/paystack/transaction/initialize", json=ORDER, headers=header)
    assert response.status_code == 401
    assert response.json()["status"] is False
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_any_well_formed_test_key_is_taken_when_the_setting_says_so(start):
    client = await start(accept_any_test_key=True)
    for key, status in (("sk_test_other", 200), ("sk_live_other", 401)):
        header = {"Authorization": f"Bearer {key}"}
        response = await client.get("/paystack/transaction", headers=header)
        assert response.status_code == status


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"email": None}, "missing_params"),
        ({"email": "nobody"}, "missing_params"),
        ({"amount": None}, "missing_params"),
        ({"amount": 100.5}, "invalid_params"),
        ({"amount": 0}, "invalid_params"),
        ({"amount": -5}, "invalid_params"),
        ({"amount": True}, "invalid_params"),
        ({"currency": "EUR"}, "unsupported_currency"),
        ({"reference": "with space"}, "invalid_params"),
        ({"reference": "under_score"}, "invalid_params"),
        ({"callback_url": "javascript:alert(1)"}, "invalid_params"),
    ],
)
async def test_initialize_refuses_what_paystack_refuses(client, change, code):
    response = await initialize(client, **change)
    assert (response.status_code, response.json()["code"]) == (400, code)


@pytest.mark.parametrize("amount", ["500000", 500_000.0])
async def test_an_amount_may_be_text_or_end_in_point_zero(by_hand, amount):
    assert (await initialize(by_hand, amount=amount)).status_code == 200
    assert (await verify(by_hand))["amount"] == 500_000


async def test_a_form_body_is_taken_too(by_hand):
    form = {name: str(value) for name, value in ORDER.items()}
    response = await by_hand.post("/paystack/transaction/initialize", data=form, headers=KEY)
    assert response.json()["data"]["reference"] == "order-1"


async def test_an_unknown_reference_is_400_or_404_as_set(client):
    url = "/paystack/transaction/verify/nothing"
    response = await client.get(url, headers=KEY)
    assert (response.status_code, response.json()["code"]) == (400, "transaction_not_found")
    await client.control("POST", "/settings", paystack_unknown_reference_status=404)
    assert (await client.get(url, headers=KEY)).status_code == 404


async def test_a_refund_goes_through_its_states_and_tells_each(client):
    await initialize(client)
    await client.receiver.wait()
    response = await client.post("/paystack/refund", json={"transaction": "order-1", "amount": 20_000}, headers=KEY)
    data = response.json()["data"]
    assert (data["status"], data["amount"], data["fully_deducted"]) == ("pending", 20_000, False)
    await client.receiver.wait(4)
    assert client.receiver.events[1:] == ["refund.pending", "refund.processing", "refund.processed"]
    told = client.receiver.bodies[-1]["data"]
    assert (told["amount"], told["transaction_reference"], "id" in told) == ("20000", "order-1", False)
    fetched = (await client.get(f"/paystack/refund/{data['id']}", headers=KEY)).json()["data"]
    assert (fetched["status"], fetched["transaction"]) == ("processed", data["transaction"]["id"])
    assert (await verify(client))["status"] == "success"


async def test_a_fully_refunded_transaction_is_reversed_and_refused_again(client):
    await initialize(client)
    await client.receiver.wait()
    await client.post("/paystack/refund", json={"transaction": "order-1"}, headers=KEY)
    await client.receiver.wait(4)
    assert (await verify(client))["status"] == "reversed"
    again = await client.post("/paystack/refund", json={"transaction": "order-1"}, headers=KEY)
    assert (again.status_code, again.json()["code"]) == (400, "transaction_reversed")


async def test_refunds_under_way_count_against_what_is_left(client):
    await initialize(client)
    await client.receiver.wait()
    first = await client.post("/paystack/refund", json={"transaction": "order-1", "amount": 400_000}, headers=KEY)
    second = await client.post("/paystack/refund", json={"transaction": "order-1", "amount": 200_000}, headers=KEY)
    assert (first.status_code, second.status_code) == (200, 400)


async def test_an_unpaid_transaction_cannot_be_refunded(by_hand):
    await initialize(by_hand)
    response = await by_hand.post("/paystack/refund", json={"transaction": "order-1"}, headers=KEY)
    assert response.status_code == 400
    assert (await by_hand.get("/paystack/refund", headers=KEY)).json()["data"] == []


@pytest.mark.parametrize(
    ("outcome", "event", "amount"),
    [("decline", "refund.failed", 500_000), ("needs_attention", "refund.needs-attention", 500_000)],
)
async def test_a_refund_can_go_wrong(client, outcome, event, amount):
    await initialize(client)
    await client.receiver.wait()
    await client.outcome("paystack", outcome, operation="refund")
    await client.post("/paystack/refund", json={"transaction": "order-1"}, headers=KEY)
    await client.receiver.wait(4)
    assert client.receiver.events[-1] == event
    assert client.receiver.bodies[-1]["data"]["amount"] == amount


async def transfer(client, **changes):
    account = {"type": "nuban", "name": "Ada Obi", "account_number": "0000000000", "bank_code": "057"}
    created = await client.post("/paystack/transferrecipient", json=account, headers=KEY)
    code = created.json()["data"]["recipient_code"]
    body = {"source": "balance", "amount": 50_000, "recipient": code, "reference": "transfer-0000000001"} | changes
    return await client.post("/paystack/transfer", json=body, headers=KEY)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"reference": "too-short"}, "invalid_params"),
        ({"reference": "With-Capitals-000"}, "invalid_params"),
        ({"recipient": "RCP_nobody"}, "invalid_transfer_recipient"),
        ({"currency": "GHS"}, "invalid_transfer_recipient"),
        ({"amount": 0}, "invalid_params"),
        ({"source": "pocket"}, "invalid_params"),
    ],
)
async def test_a_transfer_is_refused_as_paystack_refuses_it(client, change, code):
    response = await transfer(client, **change)
    assert (response.status_code, response.json()["code"]) == (400, code)
    assert client.receiver.requests == []


async def test_a_transfers_reference_is_taken_once_even_after_a_failure(client):
    await transfer(client, amount=1_901)
    again = await transfer(client)
    assert (again.status_code, again.json()["message"]) == (400, "Duplicate Transfer Reference")
    await client.settled()
    assert client.receiver.events == ["transfer.failed"]
    told = client.receiver.bodies[0]["data"]
    assert ("created_at" in told, "createdAt" in told, told["integration"]["is_live"]) == (True, False, False)


async def test_the_same_account_is_the_same_recipient(client):
    account = {"type": "nuban", "name": "Ada Obi", "account_number": "0000000000", "bank_code": "057"}
    codes = set()
    for _ in range(2):
        response = await client.post("/paystack/transferrecipient", json=account, headers=KEY)
        assert response.status_code == 201
        codes.add(response.json()["data"]["recipient_code"])
    assert len(codes) == 1


async def test_banks_are_paged_by_a_cursor(client):
    url, cursor, found = "/paystack/bank?currency=GHS&use_cursor=true&perPage=3", "", []
    while cursor is not None:
        body = (await client.get(f"{url}&next={cursor}", headers=KEY)).json()
        found.append([row["code"] for row in body["data"]])
        cursor = body["meta"]["next"]
    assert found == [["040100", "MTN", "ATL"], ["VOD"]]


@pytest.mark.parametrize(
    "method", [{}, {"ussd": {"type": "1"}}, {"bank": {"code": "057"}}, {"bank": {}, "ussd": {"type": "737"}}]
)
async def test_a_direct_charge_needs_one_method_that_is_whole(client, method):
    response = await client.post("/paystack/charge", json=ORDER | method, headers=KEY)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_params")
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_a_step_of_no_direct_charge_is_refused(client):
    await initialize(client)
    response = await client.post(
        "/paystack/charge/submit_otp", json={"otp": "123456", "reference": "order-1"}, headers=KEY
    )
    assert (response.status_code, response.json()["message"]) == (400, "Transaction reference is invalid")


async def test_refunds_and_transactions_are_listed_newest_first_in_pages(client):
    for number in range(3):
        await initialize(client, reference=f"order-{number}")
    await client.receiver.wait(3)
    listed = (await client.get("/paystack/transaction?perPage=2&page=1", headers=KEY)).json()
    assert [row["reference"] for row in listed["data"]] == ["order-2", "order-1"]
    assert (listed["meta"]["total"], listed["meta"]["pageCount"]) == (3, 2)
    for reference in ("order-1", "order-2"):
        await client.post("/paystack/refund", json={"transaction": reference}, headers=KEY)
    number = (await verify(client, "order-1"))["id"]
    refunds = (await client.get(f"/paystack/refund?transaction={number}", headers=KEY)).json()["data"]
    assert [row["transaction_reference"] for row in refunds] == ["order-1"]


async def test_a_declined_payment_is_asked_for_and_never_told(client):
    await initialize(client, amount=1_901)
    await client.settled()
    assert (await verify(client))["status"] == "failed"
    assert client.receiver.requests == []
