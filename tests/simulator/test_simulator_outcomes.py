import asyncio
import re

import httpx
import pytest

import payflow.simulator
from payflow.simulator import SimulatorNotAllowed, SimulatorSettings, create_simulator

PAYSTACK = {"Authorization": "Bearer sk_test_simulator_paystack"}
STRIPE = {"Authorization": "Bearer sk_test_simulator_stripe"}


async def initialize(client, amount=500_000, reference="order-1"):
    body = {"email": "ada@example.com", "amount": amount, "reference": reference}
    return await client.post("/paystack/transaction/initialize", json=body, headers=PAYSTACK)


async def status(client, reference="order-1"):
    response = await client.get(f"/paystack/transaction/verify/{reference}", headers=PAYSTACK)
    return response.json()["data"]["status"] if response.status_code == 200 else response.status_code


async def charge(client, reference="order-1"):
    [row] = (await client.control("GET", f"/charges?reference={reference}"))["charges"]
    return row


def test_it_refuses_to_run_in_production(monkeypatch):
    monkeypatch.setenv("PAYFLOW_ENVIRONMENT", "production")
    with pytest.raises(SimulatorNotAllowed):
        create_simulator(SimulatorSettings())
    monkeypatch.setenv("PAYFLOW_ENVIRONMENT", "development")
    create_simulator(SimulatorSettings())


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("PAYFLOW_SIMULATOR_PORT", "9999")
    monkeypatch.setenv("PAYFLOW_SIMULATOR_PUBLIC_URL", "https://simulator.example/")
    settings = SimulatorSettings()
    assert (settings.port, settings.base_url) == (9999, "https://simulator.example")


async def test_the_documented_table_is_the_one_it_works_by(client):
    rows = (await client.control("GET", "/outcomes"))["outcomes"]
    documented = re.findall(r"^(9\d\d)\s+(\w+)", payflow.simulator.__doc__, re.MULTILINE)
    assert documented == [(str(row["amount_ends_with"]), row["outcome"]) for row in rows if row["amount_ends_with"]]


async def test_an_ordinary_amount_succeeds(client):
    await initialize(client)
    await client.receiver.wait()
    assert await status(client) == "success"


@pytest.mark.parametrize(
    ("amount", "answer", "last_status", "events", "money"),
    [
        (1_901, 200, "failed", [], 0),
        (1_902, 200, "failed", [], 0),
        (1_903, 200, "abandoned", [], 0),
        (1_904, 200, "abandoned", [], 0),
        (1_905, 200, "abandoned", [], 0),
        (1_906, 200, 500, [], 0),
        (1_908, 200, "success", ["charge.success"], 1_908),
        (1_909, 200, "success", ["charge.success"] * 3, 1_909),
        (1_910, 200, "success", ["charge.success", "charge.failed"], 1_910),
        (1_911, 200, "success", ["charge.success"], 956),
        (1_912, 200, "success", ["charge.success"], 1_912),
        (1_913, 200, "success", ["charge.success"], 1_913),
        (1_916, 500, "success", ["charge.success"], 1_916),
        (1_920, 200, "success", ["charge.success"], 1_920),
        (1_921, 200, 500, ["charge.success"], 1_921),
        (1_922, 200, "success", [], 1_922),
        (1_924, 200, "success", ["charge.success"], 1_952),
        (1_926, 200, "success", ["charge.success"], 1_926),
        (1_927, 200, "failed", [], 0),
    ],
)
async def test_the_last_three_digits_choose_what_happens(client, amount, answer, last_status, events, money):
    assert (await initialize(client, amount)).status_code == answer
    await client.settled()
    assert await status(client) == last_status
    assert client.receiver.events == events
    row = await charge(client)
    assert (row["submissions"], row["charges"], row["money_taken_minor"]) == (1, 1, money)


@pytest.mark.parametrize(("amount", "answer"), [(1_915, 500), (1_917, 400), (1_918, 429), (1_919, 502)])
async def test_a_refused_call_leaves_no_charge(client, amount, answer):
    response = await initialize(client, amount)
    assert response.status_code == answer
    assert response.headers["content-type"].startswith("text/html" if answer == 502 else "application/json")
    row = await charge(client)
    assert (row["submissions"], row["charges"], row["attempts"][0]["result"]) == (1, 0, "refused")
    assert await status(client) == 400


async def test_paid_and_requested_differ_when_another_amount_is_paid(client):
    await initialize(client, 1_911)
    await client.receiver.wait()
    data = client.receiver.bodies[0]["data"]
    assert (data["requested_amount"], data["amount"]) == (1_911, 956)


async def test_another_currency_is_in_the_webhook_and_in_the_query(client):
    await initialize(client, 1_912)
    await client.receiver.wait()
    assert client.receiver.bodies[0]["data"]["currency"] == "USD"


async def test_stripe_tells_the_final_event_before_the_older_ones(client):
    form = {"amount": "1910", "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
    await client.post("/stripe/v1/payment_intents", data=form, headers=STRIPE)
    await client.receiver.wait(5)
    assert client.receiver.events == [
        "payment_intent.succeeded",
        "charge.succeeded",
        "payment_intent.processing",
        "payment_intent.payment_failed",
        "payment_intent.created",
    ]


async def test_a_late_success_follows_a_decline_of_a_confirmed_intent(client):
    form = {"amount": "1908", "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
    response = await client.post("/stripe/v1/payment_intents", data=form, headers=STRIPE)
    assert response.status_code == 402
    await client.receiver.wait(5)
    assert client.receiver.events[-1] == "payment_intent.succeeded"


async def test_copies_of_a_stripe_webhook_carry_the_same_event_id(client):
    await client.post("/stripe/v1/payment_intents", data={"amount": "1909", "currency": "usd"}, headers=STRIPE)
    await client.receiver.wait(3)
    assert len({body["id"] for body in client.receiver.bodies[:3]}) == 1


async def test_a_slow_answer_takes_its_time(start):
    client = await start(slow_seconds=0.05)
    began = asyncio.get_running_loop().time()
    assert (await initialize(client, 1_914)).status_code == 200
    assert asyncio.get_running_loop().time() - began >= 0.05


async def test_an_override_counts_down_before_the_default_and_the_default_before_the_amount(client):
    await client.outcome("paystack", "decline")
    await client.outcome("paystack", "server_error", times=2)
    answers = [(await initialize(client, 1_918, f"order-{number}")).status_code for number in range(3)]
    assert answers == [500, 500, 200]
    await client.control("DELETE", "/outcomes")
    assert (await initialize(client, 1_918, "order-9")).status_code == 429


async def test_an_override_for_all_reaches_those_that_know_the_outcome(client):
    await client.outcome("all", "wrong_currency", times=1)
    overrides = (await client.control("GET", "/outcomes"))["overrides"]
    assert [row["provider"] for row in overrides] == [
        "paystack",
        "stripe",
        "standardbank_pay",
        "moniepoint",
        "flutterwave",
    ]


async def test_an_override_can_set_the_customers_delay(client):
    await client.control("POST", "/settings", customer_delay_seconds=60)
    await client.outcome("paystack", "success", times=1, delay_seconds=0)
    await initialize(client)
    await client.receiver.wait()
    assert await status(client) == "success"


@pytest.mark.parametrize(
    "wrong",
    [
        {"provider": "paystack", "outcome": "nonsense"},
        {"provider": "nobody", "outcome": "success"},
        {"provider": "all", "outcome": "nonsense"},
        {"provider": "mpesa", "outcome": "bad_signature"},
        {"provider": "paystack", "outcome": "success", "times": 0},
        {"provider": "paystack", "outcome": "cancelled", "operation": "refund"},
        {"provider": "paystack", "outcome": "success", "colour": "red"},
    ],
)
async def test_an_unknown_outcome_is_refused(client, wrong):
    assert (await client.post("/_control/outcomes", json=wrong)).status_code == 422
    assert (await client.control("GET", "/outcomes"))["overrides"] == []


@pytest.mark.parametrize(("amount", "error"), [(1_907, httpx.ReadTimeout), (1_923, httpx.RemoteProtocolError)])
async def test_a_lost_answer_leaves_a_charge_that_succeeds(serve, amount, error):
    settings = await serve(customer_delay_seconds=0.01, deliver_webhooks=False)
    async with httpx.AsyncClient(base_url=settings.base_url, timeout=1.5) as client:
        with pytest.raises(error):
            await initialize(client, amount)
        async with asyncio.timeout(30):
            while await status(client) != "success":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        rows = (await client.get("/_control/charges")).json()["charges"]
        assert [(row["charges"], row["money_taken_minor"]) for row in rows] == [(1, amount)]
