import pytest

from tests import specs

KEY = {"Authorization": "Bearer FLWSECK_TEST-simulator-X"}
ORDER = {
    "tx_ref": "order-1",
    "amount": "7500.50",
    "currency": "NGN",
    "redirect_url": "https://shop.example/back?cart=1",
    "customer": {"email": "ada@example.com", "name": "Ada Obi", "phonenumber": "08012345678"},
    "customizations": {"title": "Tea"},
    "meta": {"order": 7},
}


async def order(client, **changes):
    return await client.post("/flutterwave/payments", json=ORDER | changes, headers=KEY)


async def link_of(client, **changes):
    return (await order(client, **changes)).json()["data"]["link"]


async def ask(client, path):
    return await client.get(f"/flutterwave{path}", headers=KEY)


async def verify(client, reference="order-1"):
    response = await ask(client, f"/transactions/verify_by_reference?tx_ref={reference}")
    return response.json()["data"] if response.status_code == 200 else response.status_code


async def act(client, action, status=200):
    response = await client.post(f"/_control/charges/flutterwave/order-1/{action}")
    assert response.status_code == status, response.text


async def test_an_order_answers_with_a_page_and_nothing_else(by_hand):
    response = await order(by_hand)
    body = response.json()
    assert (response.status_code, body["status"], body["message"]) == (200, "success", "Hosted Link")
    assert list(body["data"]) == ["link"]
    assert "/checkout/flutterwave/flwlnk-01" in body["data"]["link"]


async def test_a_page_that_nobody_tried_has_no_transaction(by_hand):
    await order(by_hand)
    response = await ask(by_hand, "/transactions/verify_by_reference?tx_ref=order-1")
    assert (response.status_code, response.json()) == (
        400,
        {"status": "error", "message": "No transaction was found for this id", "data": None},
    )
    assert (await ask(by_hand, "/transactions/17/verify")).status_code == 400


async def test_a_payment_is_told_by_a_webhook_that_repeats_the_secret(client):
    await order(client)
    await client.receiver.wait()
    request = client.receiver.requests[0]
    assert request.headers["verif-hash"] == "simulator_flutterwave_hash"
    assert str(request.url) == "http://127.0.0.1:8000/api/v1/webhooks/flutterwave"
    body = client.receiver.bodies[0]
    assert (body["event"], body["event.type"]) == ("charge.completed", "CARD_TRANSACTION")
    data = body["data"]
    assert (data["tx_ref"], data["status"], data["currency"]) == ("order-1", "successful", "NGN")
    assert b'"amount":7500.5,' in request.content
    assert b'"app_fee":105,' in request.content
    assert (data["customer"]["phone_number"], data["card"]["country"]) == ("08012345678", "NG")
    assert data["id"] > 2**31


async def test_verify_and_list_tell_the_same_in_their_own_ways(client):
    await order(client)
    await client.receiver.wait()
    data = await verify(client)
    assert (data["status"], data["meta"], data["card"]["country"]) == ("successful", {"order": 7}, "NIGERIA NG")
    assert (data["amount"], data["charged_amount"], data["amount_settled"]) == (7500.5, 7500.5, 7395.5)
    assert (await ask(client, f"/transactions/{data['id']}/verify")).json()["data"] == data
    listed = (await ask(client, "/transactions?tx_ref=order-1&status=successful")).json()
    assert [row["id"] for row in listed["data"]] == [str(data["id"])]
    assert listed["meta"]["page_info"]["total"] == 1
    for query in ("?tx_ref=order-2", "?status=failed", "?currency=GHS"):
        assert (await ask(client, f"/transactions{query}")).json()["data"] == []


async def test_each_try_is_a_transaction_of_its_own(by_hand):
    await order(by_hand)
    for action in ("insufficient_funds", "decline", "pay"):
        await act(by_hand, action)
    told = [(body["data"]["status"], body["data"]["processor_response"]) for body in by_hand.receiver.bodies]
    assert told == [
        ("failed", "Insufficient Funds"),
        ("failed", "Do Not Honour"),
        ("successful", "Approved by Financial Institution"),
    ]
    assert len({body["data"]["id"] for body in by_hand.receiver.bodies}) == 3
    assert (await verify(by_hand))["status"] == "successful"
    await by_hand.control("POST", "/settings", flutterwave_reference_answers="oldest")
    assert (await verify(by_hand))["processor_response"] == "Insufficient Funds"
    await act(by_hand, "pay", 409)


async def test_a_try_under_way_is_pending_and_becomes_paid_under_the_same_number(by_hand):
    await order(by_hand)
    await act(by_hand, "process")
    pending = await verify(by_hand)
    await act(by_hand, "pay")
    paid = await verify(by_hand)
    assert (pending["status"], paid["status"], pending["id"] == paid["id"]) == ("pending", "successful", True)


async def test_a_session_that_runs_out_fails_what_was_under_way(by_hand):
    await order(by_hand)
    await act(by_hand, "process")
    await act(by_hand, "expire")
    assert (await verify(by_hand))["status"] == "failed"
    await act(by_hand, "pay", 409)


async def disable(client, link):
    response = await client.post("/flutterwave/payments/link/disable", json={"link": link}, headers=KEY)
    return response.status_code, response.json()["message"]


async def test_a_page_is_closed_once_and_takes_nothing_afterwards(by_hand):
    link = await link_of(by_hand)
    assert await disable(by_hand, link) == (200, "Payment link has been disabled successfully")
    assert await disable(by_hand, link) == (400, "This payment link is currently inactive")
    assert await disable(by_hand, link + "x") == (404, "Payment link not found")
    assert await disable(by_hand, 7) == (404, "Payment link not found")
    await act(by_hand, "pay", 409)


async def test_a_tx_ref_is_taken_once(client):
    await order(client)
    again = await order(client)
    assert (again.status_code, again.json()["message"]) == (400, "Duplicate transaction reference")


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer FLWSECK_TEST-other-X"}])
async def test_a_missing_or_wrong_key_is_401(client, header):
    response = await client.post("/flutterwave/payments", json=ORDER, headers=header)
    assert (response.status_code, response.json()["status"]) == (401, "error")
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_any_well_formed_test_key_is_taken_when_the_setting_says_so(start):
    client = await start(accept_any_test_key=True)
    for key, status in (("FLWSECK_TEST-other-X", 200), ("FLWSECK-other-X", 401)):
        response = await client.get("/flutterwave/transactions", headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == status


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tx_ref": None}, "tx_ref is required"),
        ({"amount": ""}, "amount is required"),
        ({"redirect_url": None}, "redirect_url is required"),
        ({"customer": None}, "customer email is required"),
        ({"customer": {"email": ""}}, "customer email is required"),
        ({"amount": "0"}, "amount is invalid"),
        ({"amount": "-5"}, "amount is invalid"),
        ({"amount": "1.005"}, "amount is invalid"),
        ({"amount": True}, "amount is invalid"),
        ({"amount": "many"}, "amount is invalid"),
        ({"amount": "1.5", "currency": "UGX"}, "amount is invalid"),
        ({"tx_ref": "with space"}, "tx_ref is invalid"),
        ({"redirect_url": "javascript:alert(1)"}, "redirect_url must be a valid URL"),
        ({"currency": "JPY"}, "Merchant cannot perform transactions without approval."),
    ],
)
async def test_an_order_is_refused_with_a_message_alone(client, change, message):
    response = await order(client, **change)
    assert (response.status_code, response.json()) == (400, {"status": "error", "message": message, "data": None})


@pytest.mark.parametrize("body", [b"", b"[]", b"{"])
async def test_what_is_no_object_is_refused(client, body):
    assert (await client.post("/flutterwave/payments", content=body, headers=KEY)).status_code == 400


@pytest.mark.parametrize(("amount", "minor"), [(7500, 750_000), (7500.5, 750_050), ("7500", 750_000)])
async def test_an_amount_is_a_number_or_text(by_hand, amount, minor):
    assert (await order(by_hand, amount=amount)).status_code == 200
    [row] = (await by_hand.control("GET", "/charges"))["charges"]
    assert row["items"][0]["amount_minor"] == minor


@pytest.mark.parametrize(
    ("amount", "answer", "last_status", "events", "money"),
    [
        ("19.01", 200, "failed", 1, 0),
        ("19.03", 200, 400, 0, 0),
        ("19.04", 200, 400, 0, 0),
        ("19.05", 200, 400, 0, 0),
        ("19.06", 200, 503, 0, 0),
        ("19.08", 200, "successful", 2, 1_908),
        ("19.09", 200, "successful", 3, 1_909),
        ("19.10", 200, "successful", 2, 1_910),
        ("19.11", 200, "successful", 1, 956),
        ("19.12", 200, "successful", 1, 1_912),
        ("19.13", 200, "successful", 1, 1_913),
        ("19.15", 503, 400, 0, 0),
        ("19.16", 503, "successful", 1, 1_916),
        ("19.17", 400, 400, 0, 0),
        ("19.18", 429, 400, 0, 0),
        ("19.19", 502, 400, 0, 0),
        ("19.20", 200, "successful", 1, 1_920),
        ("19.21", 200, 503, 1, 1_921),
        ("19.22", 200, "successful", 0, 1_922),
        ("19.24", 200, "successful", 1, 1_950),
        ("19.26", 200, "successful", 1, 1_926),
        ("19.27", 200, "failed", 1, 0),
    ],
)
async def test_the_last_three_digits_choose_what_happens(client, amount, answer, last_status, events, money):
    assert (await order(client, amount=amount)).status_code == answer
    await client.settled()
    data = await verify(client)
    assert (data["status"] if isinstance(data, dict) else data) == last_status
    assert len(client.receiver.requests) == events
    [row] = (await client.control("GET", "/charges"))["charges"]
    assert (row["submissions"], row["money_taken_minor"]) == (1, money)


async def test_a_forged_webhook_brings_another_secret(client):
    await order(client, amount="19.13")
    await client.receiver.wait()
    assert client.receiver.requests[0].headers["verif-hash"] == "simulator_flutterwave_hash_another"


# The hosted page


async def page_of(client, **changes):
    return (await link_of(client, **changes)).partition("8090")[2]


async def test_the_page_sends_the_customer_home_with_the_transaction(by_hand):
    path = await page_of(by_hand)
    assert "Flutterwave checkout" in (await by_hand.get(path)).text
    response = await by_hand.post(path, data={"action": "pay"})
    await by_hand.receiver.wait()
    identity = by_hand.receiver.bodies[0]["data"]["id"]
    home = f"https://shop.example/back?cart=1&status=successful&tx_ref=order-1&transaction_id={identity}"
    assert (response.status_code, response.headers["location"]) == (303, home)


async def test_a_declined_customer_stays_on_the_page_and_one_who_leaves_does_not(by_hand):
    path = await page_of(by_hand)
    declined = await by_hand.post(path, data={"action": "decline"})
    assert (declined.status_code, "You may try again." in declined.text) == (200, True)
    left = await by_hand.post(path, data={"action": "abandon"})
    assert left.headers["location"] == "https://shop.example/back?cart=1&status=cancelled&tx_ref=order-1"
    assert (await by_hand.post(path, data={"action": "pay"})).status_code == 303
    assert (await by_hand.get("/checkout/flutterwave/nothing")).status_code == 404
    assert (await by_hand.post("/checkout/flutterwave/nothing", data={"action": "pay"})).status_code == 404


def known_parts(spec, method, path, status, body):
    """The description lists a part of what is answered; the rest is left out before it is compared."""
    template, operation, _ = specs.find(spec, method, path)
    schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]["properties"]
    assert set(body) <= {*schema, "data"}, template
    inner = schema.get("data", {}).get("properties")
    return body | ({"data": {key: body["data"][key] for key in inner}} if inner and body["data"] else {})


async def test_its_answers_fit_the_description(client):
    spec = specs.flutterwave()
    await order(client)
    await client.receiver.wait()
    identity = (await verify(client))["id"]
    asked = (
        ("/transactions/verify_by_reference", "?tx_ref=order-1", 200),
        (f"/transactions/{identity}/verify", "", 200),
        ("/transactions/verify_by_reference", "?tx_ref=nothing", 400),
        ("/transactions/17/verify", "", 400),
    )
    for path, query, status in asked:
        response = await ask(client, path + query)
        assert response.status_code == status
        body = known_parts(spec, "GET", path, status, response.json())
        specs.validate_response(spec, "GET", path, status, body)


# Direct charges, refunds, transfers

CHARGE = {"tx_ref": "order-1", "amount": "7500.50", "currency": "NGN", "email": "ada@example.com"}
TRANSFER = {
    "account_bank": "044", "account_number": "0690000040", "amount": 5500.5, "currency": "NGN", "reference": "order-1",
}  # fmt: skip


async def send(client, path, **body):
    return await client.post(f"/flutterwave{path}", json=body, headers=KEY)


async def charge(client, kind, **changes):
    return await send(client, f"/charges?type={kind}", **(CHARGE | changes))


async def test_each_direct_charge_answers_in_its_own_shape(by_hand):
    otp = (await charge(by_hand, "debit_ng_account", account_bank="044", account_number="0690000031")).json()
    assert (otp["meta"]["authorization"]["mode"], otp["data"]["status"]) == ("otp", "pending")
    ussd = (await charge(by_hand, "ussd", tx_ref="order-2", account_bank="058")).json()
    assert ussd["meta"]["authorization"] == {"mode": "ussd", "note": f"*566*002*{ussd['data']['id']}#"}
    account = (await charge(by_hand, "bank_transfer", tx_ref="order-3")).json()
    assert ("data" in account, account["meta"]["authorization"]["transfer_amount"]) == (False, "7500.50")
    prompt = (await charge(by_hand, "mpesa", tx_ref="order-4", currency="KES", phone_number="254712345678")).json()
    assert ("meta" in prompt, prompt["data"]["payment_type"]) == (False, "mpesa")
    wallet = {"currency": "GHS", "phone_number": "233542773934", "network": "MTN"}
    page = (await charge(by_hand, "mobile_money_ghana", tx_ref="order-5", **wallet)).json()
    assert "data" not in page
    path = page["meta"]["authorization"]["redirect"].partition("8090")[2]
    assert (await by_hand.post(path, data={"action": "decline"})).status_code == 200
    assert (await verify(by_hand, "order-5"))["status"] == "failed"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("card", {}, "client is required"),
        ("mpesa", {"currency": "NGN", "phone_number": "254712345678"}, "currency is invalid"),
        ("mpesa", {"currency": "KES"}, "phone_number is required"),
        ("ussd", {}, "account_bank is required"),
        ("bank_transfer", {"email": ""}, "email is required"),
        ("bank_transfer", {"amount": "0"}, "amount is invalid"),
    ],
)
async def test_a_direct_charge_is_refused_with_a_message_alone(client, kind, changes, message):
    response = await charge(client, kind, **changes)
    assert (response.status_code, response.json()) == (400, {"status": "error", "message": message, "data": None})
    assert (await client.control("GET", "/charges"))["charges"] == []


async def test_a_code_is_taken_once_and_only_where_one_is_asked_for(client):
    account = {"account_bank": "044", "account_number": "0690000031"}
    flw_ref = (await charge(client, "debit_ng_account", **account)).json()["data"]["flw_ref"]
    await client.settled()
    assert (await verify(client))["status"] == "pending"
    for otp, status in (("5548", 400), ("12345", 200), ("12345", 400)):
        response = await send(client, "/validate-charge", otp=otp, flw_ref=flw_ref, type="account")
        assert response.status_code == status
    await client.receiver.wait()
    [body] = client.receiver.bodies
    assert (body["data"]["status"], body["event.type"]) == ("successful", "ACCOUNT_TRANSACTION")
    other = (await charge(client, "ussd", tx_ref="order-2", account_bank="058")).json()["data"]["flw_ref"]
    for name in (other, "nothing"):
        response = await send(client, "/validate-charge", otp="12345", flw_ref=name, type="account")
        assert (response.status_code, response.json()["message"]) == (400, "Transaction not found")


async def test_a_tx_ref_is_taken_once_by_page_and_charge_together(client):
    await order(client)
    response = await charge(client, "ussd", account_bank="058")
    assert (response.status_code, response.json()["message"]) == (400, "Duplicate transaction reference")


async def refund(client, identity, **body):
    return await send(client, f"/transactions/{identity}/refund", **body)


async def test_only_what_was_paid_is_refunded_and_no_more_than_that(by_hand):
    await order(by_hand)
    assert (await refund(by_hand, 17, amount=1)).json()["message"] == "No transaction was found for this id"
    await act(by_hand, "decline")
    failed = by_hand.receiver.bodies[0]["data"]["id"]
    assert (await refund(by_hand, failed, amount=1)).status_code == 400
    await act(by_hand, "pay")
    identity = (await verify(by_hand))["id"]
    begun = (await refund(by_hand, identity, amount=500.5, comments="Tea was cold")).json()["data"]
    assert (begun["tx_id"], begun["amount_refunded"], begun["status"]) == (identity, 500.5, "completed")
    for amount, status in ((7000.01, 400), (0, 400), ("odd", 400), ("7000", 200), (0.01, 400)):
        assert (await refund(by_hand, identity, amount=amount)).status_code == status
    assert (await refund(by_hand, identity)).json()["message"] == "Transaction has been refunded already"


async def test_a_refund_is_told_without_an_envelope_and_may_be_steered_by_hand(by_hand):
    await order(by_hand)
    await act(by_hand, "pay")
    identity = (await verify(by_hand))["id"]
    await by_hand.outcome("flutterwave", "silent", operation="refund")
    begun = (await refund(by_hand, identity)).json()["data"]
    await act(by_hand, "refund_settle")
    told = by_hand.receiver.bodies[-1]
    assert (told["id"], told["TransactionId"], told["status"]) == (begun["id"], identity, "completed-mpgs")
    assert (told["AmountRefunded"], "event" in told) == (7500.5, False)
    assert (await ask(by_hand, f"/refunds/{begun['id']}")).json()["data"]["status"] == "completed-mpgs"
    await act(by_hand, "refund_fail", 409)
    assert (await ask(by_hand, "/refunds/17")).status_code == 400


async def test_refunds_are_listed_by_day_and_page(start):
    client = await start(automatic_customer=False, clock=lambda: 1_772_616_615.0)  # 2026-03-04
    await order(client)
    await act(client, "pay")
    identity = (await verify(client))["id"]
    for _ in range(11):
        await refund(client, identity, amount=1)
    body = (await ask(client, "/refunds?from=2026-03-04&to=2026-03-04&page=2")).json()
    assert (len(body["data"]), body["meta"]["page_info"]) == (1, {"total": 11, "current_page": 2, "total_pages": 2})
    for days in ("from=2026-03-05", "to=2026-03-03"):
        assert (await ask(client, f"/refunds?{days}")).json()["data"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"account_bank": ""}, "account_bank is required"),
        ({"account_number": None}, "account_number is required"),
        ({"amount": None}, "amount is required"),
        ({"amount": 0.005}, "amount is invalid"),
        ({"currency": "JPY"}, "currency is invalid"),
        ({"account_number": "0690000036"}, "Payout was made to a blacklisted account number"),
    ],
)
async def test_a_transfer_is_refused_with_a_message_alone(client, changes, message):
    response = await send(client, "/transfers", **(TRANSFER | changes))
    assert (response.status_code, response.json()["message"]) == (400, message)
    assert (await ask(client, "/transfers")).json()["data"] == []


async def test_a_transfer_is_queued_told_and_listed(by_hand):
    queued = (await send(by_hand, "/transfers", **TRANSFER)).json()
    assert (queued["message"], queued["data"]["status"]) == ("Transfer Queued Successfully", "NEW")
    again = await send(by_hand, "/transfers", **TRANSFER)
    assert (again.status_code, again.json()["message"]) == (400, "Transfer with reference already exists")
    await act(by_hand, "pay")
    body = by_hand.receiver.bodies[-1]
    assert (body["event"], body["event.type"], body["data"]["status"]) == (
        "transfer.completed", "Transfer", "SUCCESSFUL",
    )  # fmt: skip
    assert (body["data"]["fullname"], "full_name" in body["data"]) == ("Alexis Sanchez", False)
    assert (await ask(by_hand, f"/transfers/{queued['data']['id']}")).json()["data"]["amount"] == 5500.5
    for query, count in (("reference=order-1", 1), ("reference=order-2", 0), ("status=FAILED", 0)):
        assert len((await ask(by_hand, f"/transfers?{query}")).json()["data"]) == count
    await act(by_hand, "decline", 409)


async def test_a_transfer_abroad_without_a_name_fails_after_it_was_queued(client):
    wallet = {"account_bank": "MPS", "account_number": "254712345678", "currency": "KES"}
    assert (await send(client, "/transfers", **(TRANSFER | wallet))).status_code == 200
    await client.receiver.wait()
    data = client.receiver.bodies[0]["data"]
    assert (data["status"], data["complete_message"]) == ("FAILED", "beneficiary_name is required")


async def test_a_transfer_waits_for_its_approval(by_hand):
    await by_hand.outcome("flutterwave", "needs_otp", operation="payout")
    row = (await send(by_hand, "/transfers", **TRANSFER)).json()["data"]
    assert (row["requires_approval"], row["is_approved"]) == (1, 0)
    await act(by_hand, "pay", 409)
    await act(by_hand, "otp")
    await act(by_hand, "pay")


async def test_banks_and_accounts_are_looked_up(client):
    assert (await ask(client, "/banks/NG")).json()["data"][0] == {"id": 1, "code": "044", "name": "Access Bank"}
    assert (await ask(client, "/banks/XX")).status_code == 400
    known = await send(client, "/accounts/resolve", account_number="0690000032", account_bank="044")
    assert known.json()["data"] == {"account_number": "0690000032", "account_name": "Pastor Bright"}
    for account in ({"account_number": "0690000032", "account_bank": "999"}, {"account_number": "1"}):
        assert (await send(client, "/accounts/resolve", **account)).status_code == 400


async def test_the_answers_to_charges_and_lookups_fit_the_description(by_hand):
    spec = specs.flutterwave()
    account = {"account_bank": "044", "account_number": "0690000031"}
    charged = await charge(by_hand, "debit_ng_account", **account)
    flw_ref = charged.json()["data"]["flw_ref"]
    validated = await send(by_hand, "/validate-charge", otp="12345", flw_ref=flw_ref, type="account")
    resolved = await send(by_hand, "/accounts/resolve", account_number="0690000032", account_bank="044")
    schema = specs.resolve(spec, {"$ref": "#/components/schemas/ChargeResponse"})["properties"]["data"]["properties"]
    for path, response in (("/charges", charged), ("/validate-charge", validated)):
        body = response.json()
        body["data"] = {key: value for key, value in body["data"].items() if key in schema}
        assert set(body["data"]) == set(schema)
        specs.validate_response(spec, "POST", path, 200, body)
    specs.validate_response(spec, "POST", "/accounts/resolve", 200, resolved.json())
