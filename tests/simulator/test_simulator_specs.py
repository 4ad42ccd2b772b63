"""Every answer of the Paystack and Stripe halves fits the official documents, and the check notices what does not."""

import copy

import pytest

from tests import specs

PAYSTACK = {"Authorization": "Bearer sk_test_simulator_paystack"}
STRIPE = {"Authorization": "Bearer sk_test_simulator_stripe"}
ORDER = {"email": "ada@example.com", "amount": 500_000, "reference": "order-1"}
SESSION = {
    "success_url": "https://shop.example/done",
    "mode": "payment",
    "line_items[0][quantity]": "1",
    "line_items[0][price_data][currency]": "usd",
    "line_items[0][price_data][unit_amount]": "1500",
    "line_items[0][price_data][product_data][name]": "Tea",
    "client_reference_id": "order-1",
    "metadata[order]": "7",
}
INTENT = {"amount": "2000", "currency": "usd", "automatic_payment_methods[enabled]": "true"}


@pytest.fixture(scope="module")
def paystack():
    return specs.paystack()


@pytest.fixture(scope="module")
def stripe():
    return specs.stripe()


async def ask_paystack(client, spec, method, path, status=200, json=None, query=""):
    response = await client.request(method, f"/paystack{path}{query}", json=json, headers=PAYSTACK)
    assert response.status_code == status, response.text
    specs.validate_response(spec, method, path, status, response.json())
    return response.json()


async def ask_stripe(client, spec, method, path, form=None, status=200, query=""):
    response = await client.request(method, f"/stripe/v1{path}{query}", data=form, headers=STRIPE)
    assert response.status_code == status, response.text
    specs.validate_response(spec, method, f"/v1{path}", status, response.json())
    return response.json()


async def test_paystack_answers_around_an_unpaid_checkout_fit(by_hand, paystack):
    for metadata, reference in ((None, "order-1"), ({"order": {"id": 7}}, "order-2"), ("text", "order-3")):
        order = ORDER | {"reference": reference, "metadata": metadata}
        await ask_paystack(by_hand, paystack, "POST", "/transaction/initialize", json=order)
        data = (await ask_paystack(by_hand, paystack, "GET", f"/transaction/verify/{reference}"))["data"]
        await ask_paystack(by_hand, paystack, "GET", f"/transaction/{data['id']}")
        await ask_paystack(by_hand, paystack, "GET", f"/charge/{reference}")
    await ask_paystack(by_hand, paystack, "GET", "/transaction")


async def test_paystack_answers_around_a_paid_and_refunded_checkout_fit(client, paystack):
    await ask_paystack(client, paystack, "POST", "/transaction/initialize", json=ORDER | {"metadata": {"a": 1}})
    await client.receiver.wait()
    data = (await ask_paystack(client, paystack, "GET", "/transaction/verify/order-1"))["data"]
    await ask_paystack(client, paystack, "GET", f"/transaction/{data['id']}")
    await ask_paystack(client, paystack, "GET", "/charge/order-1")
    await ask_paystack(client, paystack, "GET", "/transaction", query="?perPage=1&page=1")
    refund = await ask_paystack(client, paystack, "POST", "/refund", json={"transaction": "order-1", "amount": 100})
    await ask_paystack(client, paystack, "GET", f"/refund/{refund['data']['id']}")
    await client.receiver.wait(4)
    await ask_paystack(client, paystack, "GET", f"/refund/{refund['data']['id']}")
    await ask_paystack(client, paystack, "GET", "/refund", query=f"?transaction={data['id']}")
    await ask_paystack(client, paystack, "POST", "/refund", json={"transaction": "order-1"})
    await ask_paystack(client, paystack, "POST", "/refund", 400, json={"transaction": "order-1"})


async def test_paystack_answers_around_a_transfer_fit(client, paystack):
    account = {"type": "nuban", "name": "Ada Obi", "account_number": "0000000000", "bank_code": "057"}
    recipient = await ask_paystack(client, paystack, "POST", "/transferrecipient", 201, json=account)
    order = {"source": "balance", "amount": 50_000, "recipient": recipient["data"]["recipient_code"]}
    reference = "transfer-0000000001"
    await ask_paystack(client, paystack, "POST", "/transfer", json=order | {"reference": reference})
    await client.receiver.wait()
    told = await ask_paystack(client, paystack, "GET", f"/transfer/verify/{reference}")
    assert told["data"]["status"] == "success"
    await ask_paystack(client, paystack, "GET", "/transfer/verify/nothing", 404)
    query = "?account_number=0000000000&bank_code=057"
    await ask_paystack(client, paystack, "GET", "/bank/resolve", query=query)


async def test_paystack_refusals_fit(client, paystack):
    await ask_paystack(client, paystack, "POST", "/transaction/initialize", json=ORDER)
    await ask_paystack(client, paystack, "POST", "/transaction/initialize", 400, json=ORDER)
    for change in ({"email": ""}, {"amount": "x"}, {"amount": 0}, {"currency": "EUR"}, {"reference": "a b"}):
        order = ORDER | {"reference": "order-2"} | change
        await ask_paystack(client, paystack, "POST", "/transaction/initialize", 400, json=order)
    for amount, status in ((1_915, 500), (1_916, 500), (1_917, 400), (1_918, 429)):
        order = ORDER | {"reference": f"order-{amount}", "amount": amount}
        await ask_paystack(client, paystack, "POST", "/transaction/initialize", status, json=order)
    await ask_paystack(client, paystack, "GET", "/transaction/verify/nothing", 400)
    await ask_paystack(client, paystack, "GET", "/transaction/1", 404)
    await ask_paystack(client, paystack, "GET", "/refund/1", 404)
    await ask_paystack(client, paystack, "POST", "/refund", 404, json={"transaction": "nothing"})
    for path in ("/transaction", "/refund", "/transaction/verify/order-1"):
        response = await client.get(f"/paystack{path}", headers={"Authorization": "Bearer sk_test_other"})
        specs.validate_response(paystack, "GET", path, response.status_code, response.json())


@pytest.mark.parametrize(
    "outcome", ["decline", "cancelled", "asynchronous", "wrong_amount", "wrong_currency", "fee_on_top"]
)
async def test_paystack_answers_fit_after_every_end(client, paystack, outcome):
    await client.outcome("paystack", outcome)
    await ask_paystack(client, paystack, "POST", "/transaction/initialize", json=ORDER)
    for action in ("process", "pay"):
        await client.post(f"/_control/charges/paystack/order-1/{action}")
        await ask_paystack(client, paystack, "GET", "/transaction/verify/order-1")
        await ask_paystack(client, paystack, "GET", "/charge/order-1")


async def test_stripe_answers_around_a_session_fit(client, stripe):
    for finish in ("expire", "pay"):
        session = await ask_stripe(client, stripe, "POST", "/checkout/sessions", SESSION)
        if finish == "expire":
            await ask_stripe(client, stripe, "POST", f"/checkout/sessions/{session['id']}/expire")
        else:
            await client.receiver.wait(4)
        query = "?expand[]=payment_intent.latest_charge"
        await ask_stripe(client, stripe, "GET", f"/checkout/sessions/{session['id']}", query=query)
    await ask_stripe(client, stripe, "GET", "/checkout/sessions", query="?limit=1&expand[]=data.payment_intent")
    await ask_stripe(client, stripe, "GET", "/balance")


async def test_stripe_answers_around_an_intent_and_its_refund_fit(by_hand, stripe):
    intent = await ask_stripe(by_hand, stripe, "POST", "/payment_intents", INTENT)
    path = f"/payment_intents/{intent['id']}"
    await ask_stripe(by_hand, stripe, "GET", path)
    declined = await ask_stripe(
        by_hand, stripe, "POST", f"{path}/confirm", {"payment_method": "pm_card_chargeDeclined"}, 402
    )
    await ask_stripe(by_hand, stripe, "GET", f"/charges/{declined['error']['charge']}")
    form = {"payment_method": "pm_card_authenticationRequired", "return_url": "https://a.example/b"}
    await ask_stripe(by_hand, stripe, "POST", f"{path}/confirm", form)
    form = {"payment_method": "pm_card_refundFail", "expand[]": "latest_charge"}
    await ask_stripe(by_hand, stripe, "POST", f"{path}/confirm", form)
    refund = await ask_stripe(by_hand, stripe, "POST", "/refunds", {"payment_intent": intent["id"], "metadata[a]": "1"})
    await by_hand.receiver.wait(9)
    query = "?expand[]=charge&expand[]=payment_intent"
    await ask_stripe(by_hand, stripe, "GET", f"/refunds/{refund['id']}", query=query)
    await ask_stripe(by_hand, stripe, "GET", "/refunds")
    await ask_stripe(by_hand, stripe, "GET", "/payment_intents")
    events = await ask_stripe(by_hand, stripe, "GET", "/events", query="?limit=100")
    await ask_stripe(by_hand, stripe, "GET", f"/events/{events['data'][0]['id']}")


async def test_stripe_answers_around_capture_and_cancel_fit(by_hand, stripe):
    form = INTENT | {"capture_method": "manual", "confirm": "true", "payment_method": "pm_card_visa"}
    for verb in ("capture", "cancel"):
        intent = await ask_stripe(by_hand, stripe, "POST", "/payment_intents", form)
        await ask_stripe(by_hand, stripe, "POST", f"/payment_intents/{intent['id']}/{verb}")


async def test_stripe_refusals_fit(client, stripe):
    for amount, status in (("x", 400), ("1915", 500), ("1916", 500), ("1917", 400), ("1918", 429)):
        await ask_stripe(client, stripe, "POST", "/payment_intents", INTENT | {"amount": amount}, status)
    await ask_stripe(client, stripe, "POST", "/payment_intents", INTENT | {"colour": "red"}, 400)
    await ask_stripe(client, stripe, "GET", "/payment_intents/pi_x", status=404)
    await ask_stripe(client, stripe, "GET", "/refunds/re_x", status=404)
    response = await client.get("/stripe/v1/balance")
    specs.validate_response(stripe, "GET", "/v1/balance", response.status_code, response.json())


async def test_the_objects_inside_stripe_events_fit(client, stripe):
    await ask_stripe(client, stripe, "POST", "/checkout/sessions", SESSION)
    await client.outcome("stripe", "decline", times=1)
    await ask_stripe(
        client, stripe, "POST", "/payment_intents", INTENT | {"confirm": "true", "payment_method": "pm_card_visa"}, 402
    )
    await client.receiver.wait(6)
    form = INTENT | {"confirm": "true", "payment_method": "pm_card_createDispute", "metadata[reference]": "order-2"}
    await ask_stripe(client, stripe, "POST", "/payment_intents", form)
    await client.settled()
    await client.control("POST", "/charges/stripe/order-2/dispute_win")
    assert client.receiver.events[-1] == "charge.dispute.funds_reinstated"
    for body in client.receiver.bodies:
        specs.validate_object(stripe, "event", body)
        specs.validate_object(stripe, body["data"]["object"]["object"], body["data"]["object"])


# The check itself


async def test_a_renamed_missing_or_retyped_field_of_an_answer_is_rejected(client, paystack, stripe):
    await ask_paystack(client, paystack, "POST", "/transaction/initialize", json=ORDER)
    verified = await ask_paystack(client, paystack, "GET", "/transaction/verify/order-1")
    session = await ask_stripe(client, stripe, "POST", "/checkout/sessions", SESSION)

    def reject(spec, path, body, change):
        changed = copy.deepcopy(body)
        change(changed)
        with pytest.raises(specs.SpecViolation):
            specs.validate_response(spec, "GET", path, 200, changed)

    verify, retrieve = "/transaction/verify/order-1", f"/v1/checkout/sessions/{session['id']}"
    reject(paystack, verify, verified, lambda body: body["data"].update(ammount=body["data"].pop("amount")))
    reject(paystack, verify, verified, lambda body: body["data"].pop("amount"))
    reject(paystack, verify, verified, lambda body: body["data"].update(amount="500000"))
    reject(paystack, verify, verified, lambda body: body["data"].update(extra=1))
    reject(paystack, verify, verified, lambda body: body.update(status="true"))
    reject(stripe, retrieve, session, lambda body: body.update(total=body.pop("amount_total")))
    reject(stripe, retrieve, session, lambda body: body.update(status="done"))
    reject(stripe, retrieve, session, lambda body: body.pop("payment_status"))


async def test_an_undocumented_status_or_path_is_rejected(paystack, stripe):
    with pytest.raises(specs.SpecViolation):
        specs.validate_response(paystack, "GET", "/transaction/verify/a", 418, {"status": False, "message": "teapot"})
    with pytest.raises(specs.SpecViolation):
        specs.validate_response(stripe, "GET", "/v1/payment_intent/pi_1", 200, {})


@pytest.mark.parametrize(
    "change",
    [{"ammount": 5}, {"amount": "x"}, {"email": None}, {"currency": "EUR"}, {"channels": "card"}, {"metadata": 5}],
)
def test_a_wrong_paystack_request_is_rejected(paystack, change):
    path, kind = "/transaction/initialize", "application/json"
    specs.validate_request(paystack, "POST", path, kind, body=ORDER)
    with pytest.raises(specs.SpecViolation):
        specs.validate_request(paystack, "POST", path, kind, body=ORDER | change)
    with pytest.raises(specs.SpecViolation):
        specs.validate_request(paystack, "POST", path, "text/plain", body=ORDER)


@pytest.mark.parametrize(
    "change",
    [
        {"success": "https://shop.example"},
        {"line_items[0][price_data][unitamount]": "5"},
        {"line_items[0][quantity]": "many"},
        {"expires_at": "tomorrow"},
        {"mode": "gift"},
    ],
)
def test_a_wrong_stripe_request_is_rejected(stripe, change):
    path = "/v1/checkout/sessions"
    specs.validate_request(stripe, "POST", path, specs.FORM, body=SESSION)
    specs.validate_request(stripe, "POST", path, specs.FORM, body="success_url=https%3A%2F%2Fa.example&mode=payment")
    with pytest.raises(specs.SpecViolation):
        specs.validate_request(stripe, "POST", path, specs.FORM, body=SESSION | change)


def test_query_parameters_are_checked_too(paystack, stripe):
    specs.validate_request(paystack, "GET", "/transaction", params={"page": "1", "status": "success"})
    specs.validate_request(stripe, "GET", "/v1/refunds", params={"payment_intent": "pi_1", "limit": "3"})
    for spec, path, params in (
        (paystack, "/transaction", {"status": "paid"}),
        (paystack, "/transaction", {"pages": "1"}),
        (stripe, "/v1/refunds", {"intent": "pi_1"}),
        (stripe, "/v1/refunds", {"limit": "all"}),
    ):
        with pytest.raises(specs.SpecViolation):
            specs.validate_request(spec, "GET", path, params=params)


def test_schemas_made_of_several_parts_are_checked_as_one(paystack):
    transfer = {"source": "balance", "amount": 1000, "recipient": "RCP_1", "reference": "a-transfer-of-ours"}
    specs.validate_request(paystack, "POST", "/transfer", "application/json", body=transfer)
    with pytest.raises(specs.SpecViolation):
        specs.validate_request(paystack, "POST", "/transfer", "application/json", body=transfer | {"reciever": "RCP_1"})


def test_a_missing_document_is_an_error_once_the_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PAYFLOW_SPECS_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        specs.paystack()
    with pytest.raises(FileNotFoundError):
        specs.stripe()
