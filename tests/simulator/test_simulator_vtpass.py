import time
from datetime import UTC, datetime

import pytest

from payflow.simulator import SimulatorSettings

SETTINGS = SimulatorSettings()
GET = {"api-key": SETTINGS.vtpass_api_key, "public-key": SETTINGS.vtpass_public_key}
POST = {"api-key": SETTINGS.vtpass_api_key, "secret-key": SETTINGS.vtpass_secret_key}
# Half past eleven at night in UTC: in Lagos it is the next day.
NIGHT = datetime(2026, 3, 4, 23, 30, tzinfo=UTC).timestamp()
TODAY = "202603050030"
WORDS = b'{"response": "success"}'  # what VTPass wants to read
ORDER = {"request_id": TODAY + "order1", "serviceID": "mtn", "amount": 500, "phone": "08031234567"}
BUNDLE = {
    "request_id": TODAY + "order2",
    "serviceID": "mtn-data",
    "billersCode": "08031234567",
    "variation_code": "mtn-10mb-100",
    "amount": 100,
    "phone": "08000000000",
}


@pytest.fixture
async def night(start):
    return await start(clock=lambda: NIGHT)


async def pay(client, order=ORDER, **changes):
    response = await client.post("/vtpass/pay", json=order | changes, headers=POST)
    assert response.status_code == 200, response.text
    return response.json()


async def requery(client, request_id=ORDER["request_id"]):
    response = await client.post("/vtpass/requery", json={"request_id": request_id}, headers=POST)
    return response.json() if response.status_code == 200 else response.status_code


def status(body):
    return body["code"], body["content"]["transactions"]["status"]


async def row(client, reference="order1"):
    [found] = (await client.control("GET", f"/charges?provider=vtpass&reference={reference}"))["charges"]
    return found


async def buying(client, outcome, **more):
    await client.outcome("vtpass", outcome, operation="purchase", **more)


async def test_airtime_is_delivered_at_once_and_told_by_no_webhook(night):
    body = await pay(night)
    assert status(body) == ("000", "delivered")
    assert (body["requestId"], body["amount"]) == (ORDER["request_id"], 500)
    transaction = body["content"]["transactions"]
    assert (transaction["amount"], transaction["commission"], transaction["total_amount"]) == (500, 17.5, 482.5)
    assert await requery(night) == body
    await night.settled()
    assert night.receiver.requests == []
    found = await row(night)
    assert (found["submissions"], found["refund_submissions"], found["charges"]) == (1, 0, 1)
    assert found["money_taken_minor"] == 50_000


async def test_the_price_of_a_bundle_goes_before_the_amount_sent(night):
    body = await pay(night, BUNDLE, amount=5)
    transaction = body["content"]["transactions"]
    assert (transaction["amount"], transaction["total_amount"]) == (100, 96)
    assert transaction["unique_element"] == "08031234567"
    del_amount = {name: value for name, value in BUNDLE.items() if name != "amount"}
    assert status(await pay(night, del_amount, request_id=TODAY + "order3")) == ("000", "delivered")


@pytest.mark.parametrize(
    "headers", [{}, GET, POST | {"secret-key": "SK_another"}, POST | {"api-key": "another"}, {"api-key": "x"}]
)
async def test_a_post_wants_the_secret_key(night, headers):
    for path in ("/vtpass/pay", "/vtpass/requery"):
        response = await night.post(path, json=ORDER, headers=headers)
        assert (response.status_code, response.json()["code"]) == (200, "087")
    assert (await night.control("GET", "/charges"))["charges"] == []


async def test_a_get_wants_the_public_key(night):
    for path in ("/service-categories", "/services?identifier=data", "/service-variations?serviceID=mtn-data"):
        assert (await night.get(f"/vtpass{path}", headers=POST)).json()["code"] == "087"
        assert (await night.get(f"/vtpass{path}", headers=GET)).json()["response_description"] == "000"


async def test_lookups_have_no_code_and_misspell(start):
    client = await start(vtpass_old_answers=True)
    services = (await client.get("/vtpass/services?identifier=airtime", headers=GET)).json()
    assert "code" not in services
    assert services["content"][0]["minimium_amount"] == "5"
    old = (await client.get("/vtpass/service-variations?serviceID=mtn-data", headers=GET)).json()["content"]
    await client.control("POST", "/settings", vtpass_old_answers=False)
    new = (await client.get("/vtpass/service-variations?serviceID=mtn-data", headers=GET)).json()["content"]
    assert old["varations"] == new["variations"]
    assert ("variations" in old, "varations" in new) == (False, False)


async def test_a_lookup_of_nothing_is_refused(night):
    services = await night.get("/vtpass/services?identifier=cars", headers=GET)
    variations = await night.get("/vtpass/service-variations?serviceID=mtn", headers=GET)
    assert (services.json()["code"], variations.json()["code"]) == ("011", "012")


@pytest.mark.parametrize(
    ("request_id", "words"),
    [
        (None, "DOES NOT CONTAIN DATE"),
        ("", "DOES NOT CONTAIN DATE"),
        ("order1", "DOES NOT CONTAIN DATE"),
        ("20260305003", "DOES NOT CONTAIN DATE"),
        (TODAY + "order-1", "DOES NOT CONTAIN DATE"),
        ("202613050030order1", "NOT PROPER DATE FORMAT"),
        ("202603052530order1", "NOT PROPER DATE FORMAT"),
        ("202603042330order1", "DATE NOT TODAY'S DATE"),  # still yesterday, in UTC
    ],
)
async def test_a_request_id_begins_with_the_date_in_lagos(night, request_id, words):
    body = await pay(night, request_id=request_id)
    assert body["code"] == "085"
    assert words in body["response_description"]
    assert (await night.control("GET", "/charges"))["charges"] == []


async def test_a_request_id_is_good_once(night):
    await pay(night)
    assert (await pay(night))["code"] == "014"
    assert (await pay(night, serviceID="glo"))["code"] == "014"
    found = await row(night)
    assert (found["submissions"], found["charges"], found["money_taken_minor"]) == (3, 1, 50_000)


@pytest.mark.parametrize(
    ("order", "changes", "code"),
    [
        (ORDER, {"serviceID": "nothing"}, "012"),
        (ORDER, {"serviceID": 1}, "012"),
        (ORDER, {"serviceID": "foreign-airtime"}, "011"),
        (ORDER, {"amount": 4}, "013"),
        (ORDER, {"amount": 500_001}, "017"),
        (ORDER, {"amount": None}, "011"),
        (ORDER, {"amount": "much"}, "011"),
        (ORDER, {"amount": -5}, "011"),
        (ORDER, {"amount": True}, "011"),
        (ORDER, {"amount": 10.5}, "011"),
        (ORDER, {"phone": "+2348031234567"}, "011"),
        (ORDER, {"phone": "8031234567"}, "011"),
        (ORDER, {"phone": None}, "011"),
        (BUNDLE, {"variation_code": "mtn-nothing"}, "010"),
        (BUNDLE, {"variation_code": None}, "011"),
        (BUNDLE, {"billersCode": None}, "011"),
        (BUNDLE, {"billersCode": "12"}, "011"),
        (BUNDLE, {"phone": "12"}, "011"),
    ],
)
async def test_an_order_that_is_wrong_is_refused_and_nothing_is_bought(night, order, changes, code):
    assert (await pay(night, order, **changes))["code"] == code
    assert (await night.control("GET", "/charges"))["charges"] == []


async def test_a_body_that_is_no_object_is_refused(night):
    for content in (b"", b"{", b"[]", b"null"):
        assert (await night.post("/vtpass/pay", content=content, headers=POST)).json()["code"] == "011"


async def test_an_amount_may_be_text(night):
    assert (await pay(night, amount="500.00"))["amount"] == 500


async def test_the_same_purchase_within_the_time_is_refused_where_it_is_set(start):
    now = [NIGHT]
    client = await start(clock=lambda: now[0], vtpass_repeat_seconds=30)
    await pay(client)
    assert (await pay(client, request_id=TODAY + "order2"))["code"] == "019"
    assert (await pay(client, request_id=TODAY + "order2", phone="08031234568"))["code"] == "000"
    now[0] += 31
    assert (await pay(client, request_id=TODAY + "order3"))["code"] == "000"


async def test_an_unknown_id_is_015(night):
    assert (await requery(night, "202603050030nothing"))["code"] == "015"
    assert (await requery(night, 5))["code"] == "015"


async def test_what_is_pending_is_told_later_until_the_words_are_answered(night):
    await buying(night, "asynchronous")
    first = await pay(night)
    assert first["code"] == "099"
    assert status(await requery(night)) == ("000", "pending")
    await night.receiver.wait(2)  # 200 alone is not enough
    body = night.receiver.bodies[0]
    assert (body["type"], status(body["data"])) == ("transaction-update", ("000", "delivered"))
    assert body["data"]["response_description"] == "TRANSACTION DELIVERED"
    assert str(night.receiver.requests[0].url) == SETTINGS.vtpass_webhook_url
    assert not [name for name in night.receiver.requests[0].headers if "signature" in name.lower()]


async def test_a_webhook_answered_with_the_words_is_sent_once(night):
    night.receiver.words = WORDS
    await buying(night, "asynchronous")
    await pay(night)
    await night.settled()
    [sent] = (await night.control("GET", "/webhooks"))["webhooks"]
    assert (sent["attempts"], sent["delivered"]) == (1, True)


async def test_a_webhook_never_answered_with_the_words_is_given_up(night):
    await buying(night, "asynchronous")
    await pay(night)
    await night.settled()
    [sent] = (await night.control("GET", "/webhooks"))["webhooks"]
    assert (sent["attempts"], sent["delivered"]) == (6, False)


@pytest.mark.parametrize(
    ("outcome", "answer", "last", "webhooks", "money"),
    [
        ("success", "000", ("000", "delivered"), 0, 50_000),
        ("decline", "016", ("016", "failed"), 0, 0),
        ("silent", "099", ("000", "pending"), 0, 0),
        ("duplicate", "099", ("000", "delivered"), 3, 50_000),
        ("wrong_amount", "000", ("000", "delivered"), 0, 50_000),
        ("webhook_only", "099", 500, 1, 50_000),
        ("query_only", "099", ("000", "delivered"), 0, 50_000),
        ("asynchronous", "099", ("000", "delivered"), 1, 50_000),
        ("asynchronous_failure", "099", ("016", "failed"), 1, 0),
        ("late_failure", "000", ("040", "reversed"), 1, 0),
    ],
)
async def test_the_outcome_decides_what_is_answered_and_told(night, outcome, answer, last, webhooks, money):
    night.receiver.words = WORDS
    await buying(night, outcome)
    assert (await pay(night))["code"] == answer
    await night.settled()
    found = await requery(night)
    assert (found if last == 500 else status(found)) == last
    assert len(night.receiver.requests) == webhooks
    assert (await row(night))["money_taken_minor"] == money


@pytest.mark.parametrize(
    ("outcome", "answer", "code"),
    [("server_error", 500, "083"), ("refuse", 200, "018"), ("rate_limited", 429, None), ("html_error", 502, None)],
)
async def test_an_outcome_that_charges_nothing_leaves_nothing(night, outcome, answer, code):
    await buying(night, outcome)
    response = await night.post("/vtpass/pay", json=ORDER, headers=POST)
    assert response.status_code == answer
    assert code is None or response.json()["code"] == code
    assert (await requery(night))["code"] == "015"
    [found] = (await night.control("GET", "/charges"))["charges"]
    assert (found["submissions"], found["charges"]) == (1, 0)


async def test_a_server_error_after_charging_is_found_by_a_requery(night):
    await buying(night, "server_error_after_charging")
    assert (await night.post("/vtpass/pay", json=ORDER, headers=POST)).status_code == 500
    assert status(await requery(night)) == ("000", "delivered")


async def test_what_goes_back_to_the_wallet_is_net_outside_and_whole_inside(night):
    await buying(night, "late_failure")
    await pay(night)
    await night.receiver.wait()
    data = night.receiver.bodies[0]["data"]
    assert (data["code"], data["amount"], data["content"]["transactions"]["amount"]) == ("040", 482.5, 500)


async def test_whole_naira_choose_the_outcome_and_so_do_the_sandboxs_numbers(night):
    assert (await pay(night, amount=1_901))["code"] == "016"
    assert (await pay(night, request_id=TODAY + "order2", amount=1_926))["code"] == "099"
    # Not an outcome of a purchase: it succeeds.
    assert (await pay(night, request_id=TODAY + "order3", amount=1_903))["code"] == "000"
    pending = await pay(night, request_id=TODAY + "order4", phone="201000000000")
    assert pending["code"] == "099"
    odd = await night.post(
        "/vtpass/pay", json=ORDER | {"request_id": TODAY + "order5", "phone": "500000000000"}, headers=POST
    )
    assert odd.status_code == 502


async def test_older_answers_are_flat_and_hold_amounts_as_text(start):
    client = await start(clock=lambda: NIGHT, vtpass_old_answers=True)
    flat = await pay(client)
    assert ("content" in flat, flat["amount"], flat["code"]) == (False, "500.00", "000")
    asked = await requery(client)
    assert asked["content"]["transactions"]["total_amount"] == "482.50"
    assert status(await pay(client, BUNDLE)) == ("000", "delivered")


async def test_by_hand_nothing_is_delivered_until_somebody_says_so(by_hand):
    today = f"{datetime.fromtimestamp(time.time() + 3_600, UTC):%Y%m%d}0000order1"
    assert (await pay(by_hand, request_id=today))["code"] == "099"
    act = "/_control/charges/vtpass/order1"
    for action in ("dance", "reverse"):
        assert (await by_hand.post(f"{act}/{action}")).status_code == 409
    assert (await by_hand.post(f"{act}/pay")).status_code == 200
    assert (await by_hand.post(f"{act}/decline")).status_code == 409
    assert (await by_hand.post(f"{act}/reverse")).status_code == 200
    assert (await by_hand.post(f"{act}/reverse")).status_code == 409
    assert [status(body["data"]) for body in by_hand.receiver.bodies][:2] == [
        ("000", "delivered"),
        ("040", "reversed"),
    ]


@pytest.mark.parametrize(
    ("provider", "outcome", "operation"),
    [("vtpass", "success", "collect"), ("vtpass", "cancelled", "collect"), ("vtpass", "success", "refund"),
     ("paystack", "success", "purchase"), ("stripe", "asynchronous", "purchase")],
)  # fmt: skip
async def test_only_who_sells_airtime_has_outcomes_of_purchases(client, provider, outcome, operation):
    wanted = {"provider": provider, "outcome": outcome, "operation": operation}
    assert (await client.post("/_control/outcomes", json=wanted)).status_code == 422
    rows = (await client.control("GET", "/outcomes"))["outcomes"]
    offered = {row["outcome"] for row in rows if "vtpass" in row["providers"]}
    assert "decline" in offered
    assert "cancelled" not in offered
