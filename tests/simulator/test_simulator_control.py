import ast
import asyncio
from pathlib import Path

import httpx
import pytest

import payflow.simulator

KEY = {"Authorization": "Bearer sk_test_simulator_paystack"}
BACK = "https://shop.example/back?cart=1"


async def initialize(client, **changes):
    body = {"email": "ada@example.com", "amount": 500_000, "reference": "order-1", "callback_url": BACK} | changes
    return (await client.post("/paystack/transaction/initialize", json=body, headers=KEY)).json()


async def test_every_submission_of_a_reference_is_counted(by_hand):
    await asyncio.gather(*(initialize(by_hand) for _ in range(5)))
    [row] = (await by_hand.control("GET", "/charges?provider=paystack&reference=order-1"))["charges"]
    assert (row["submissions"], row["charges"], row["money_taken_minor"], row["status"]) == (5, 1, 0, "pending")
    assert [item["result"] for item in row["attempts"]] == ["charged", *["duplicate"] * 4]


async def test_requests_are_logged_with_their_status_and_control_calls_are_not(client):
    await initialize(client)
    await client.get("/paystack/transaction/verify/order-1", headers=KEY)
    await client.get("/mpesa/oauth/v1/generate")
    log = await client.control("GET", "/requests")
    assert [(row["provider"], row["method"], row["path"], row["status"]) for row in log["requests"]] == [
        ("paystack", "POST", "/transaction/initialize", 200),
        ("paystack", "GET", "/transaction/verify/order-1", 200),
        ("mpesa", "GET", "/oauth/v1/generate", 400),
    ]
    assert (await client.control("GET", "/requests?provider=mpesa"))["count"] == 1


async def test_a_webhook_is_sent_again_until_it_is_accepted(client):
    client.receiver.answers = [500, 503]
    await initialize(client)
    await client.receiver.wait(3)
    await client.settled()
    [delivery] = (await client.control("GET", "/webhooks"))["webhooks"]
    assert (delivery["delivered"], delivery["attempts"], delivery["status_codes"]) == (True, 3, [500, 503, 200])


async def test_a_webhook_is_given_up_after_the_set_number_of_retries(start):
    client = await start(webhook_retries=1)
    client.receiver.answers = [500] * 5
    await initialize(client)
    await client.settled()
    answer = await client.control("GET", "/webhooks?reference=order-1")
    assert (len(client.receiver.requests), answer["pending"]) == (2, 1)


async def test_an_unreachable_receiver_is_written_down(start):
    client = await start(webhook_retries=0)

    async def refuse(request):
        raise httpx.ConnectError("refused")

    client._transport.app.state.simulation.webhooks.transport = httpx.MockTransport(refuse)
    await initialize(client)
    await client.settled()
    [delivery] = (await client.control("GET", "/webhooks"))["webhooks"]
    assert (delivery["status_codes"], delivery["tries"][0]["error"]) == ([None], "ConnectError: refused")


async def test_a_webhook_can_be_delivered_once_more(client):
    await initialize(client)
    await client.receiver.wait()
    await client.settled()
    [delivery] = (await client.control("GET", "/webhooks"))["webhooks"]
    again = await client.control("POST", f"/webhooks/{delivery['id']}/redeliver")
    assert again["attempts"] == 2
    assert client.receiver.requests[0].content == client.receiver.requests[1].content
    assert (await client.post("/_control/webhooks/nothing/redeliver")).status_code == 404


async def test_the_customer_can_be_played_and_the_webhook_was_tried_when_the_call_answers(by_hand):
    await initialize(by_hand)
    row = await by_hand.control("POST", "/charges/paystack/order-1/pay")
    assert (row["status"], row["money_taken_minor"]) == ("paid", 500_000)
    assert by_hand.receiver.events == ["charge.success"]


@pytest.mark.parametrize(("path", "status"), [("order-1/dance", 409), ("nothing/pay", 404)])
async def test_what_cannot_happen_is_refused(by_hand, path, status):
    await initialize(by_hand)
    assert (await by_hand.post(f"/_control/charges/paystack/{path}")).status_code == status
    assert (await by_hand.control("GET", "/charges"))["charges"][0]["status"] == "pending"


async def test_steering_by_hand_sends_the_automatic_customer_home(start):
    client = await start(customer_delay_seconds=0.05)
    await initialize(client)
    await client.control("POST", "/charges/paystack/order-1/decline")
    await asyncio.sleep(0.1)
    assert client.receiver.requests == []


async def test_a_webhook_under_way_arrives_though_somebody_takes_over(client):
    client.receiver.delay_seconds = 1.5
    await initialize(client)
    await asyncio.sleep(0.2)
    assert (await client.post("/_control/charges/paystack/order-1/pay")).status_code == 409
    await client.receiver.wait()
    assert client.receiver.events == ["charge.success"]


async def test_refunds_can_be_settled_and_failed_by_hand(start):
    client = await start(customer_delay_seconds=60)
    for reference, action, event in (("a", "refund_settle", "refund.processed"), ("b", "refund_fail", "refund.failed")):
        await initialize(client, reference=reference)
        await client.control("POST", f"/charges/paystack/{reference}/pay")
        await client.post("/paystack/refund", json={"transaction": reference}, headers=KEY)
        await client.control("POST", f"/charges/paystack/{reference}/{action}")
        assert client.receiver.events[-1] == event


async def test_webhooks_and_queries_can_be_switched_off(client):
    await client.control("POST", "/settings", deliver_webhooks=False, answer_queries=False)
    await initialize(client)
    await client.settled()
    assert client.receiver.requests == []
    assert (await client.get("/paystack/transaction/verify/order-1", headers=KEY)).status_code == 500
    await client.control("POST", "/settings", answer_queries=True)
    assert (await client.get("/paystack/transaction/verify/order-1", headers=KEY)).status_code == 200


async def test_the_webhook_address_can_be_changed(client):
    await client.control("POST", "/settings", paystack_webhook_url="http://node-2.example/hook")
    await initialize(client)
    await client.receiver.wait()
    assert str(client.receiver.requests[0].url) == "http://node-2.example/hook"


@pytest.mark.parametrize("values", [{"colour": "red"}, {"customer_delay_seconds": -1}, [1]])
async def test_a_wrong_setting_changes_nothing(client, values):
    before = await client.control("GET", "/settings")
    assert (await client.post("/_control/settings", json=values)).status_code == 422
    assert await client.control("GET", "/settings") == before


async def test_reset_forgets_everything(client):
    await initialize(client)
    await client.receiver.wait()
    await client.outcome("stripe", "decline")
    await client.control("POST", "/settings", customer_delay_seconds=9)
    await client.control("POST", "/reset")
    assert (await client.control("GET", "/charges"))["charges"] == []
    assert (await client.control("GET", "/outcomes"))["overrides"] == []
    assert (await client.control("GET", "/webhooks"))["webhooks"] == []
    assert (await client.control("GET", "/settings"))["customer_delay_seconds"] == 0.01
    assert (await client.get("/paystack/transaction/verify/order-1", headers=KEY)).status_code == 400


# The hosted page


async def page_of(client, **changes):
    answer = await initialize(client, **changes)
    return answer["data"]["authorization_url"].removeprefix("http://127.0.0.1:8090")


async def test_the_hosted_page_shows_the_payment_and_its_buttons(by_hand):
    response = await by_hand.get(await page_of(by_hand))
    assert response.status_code == 200
    for text in ('<html lang="en">', "order-1", "500000 NGN", 'value="pay"', 'value="decline"', 'value="abandon"'):
        assert text in response.text
    assert "http://" not in response.text
    assert "https://" not in response.text


async def test_paying_leads_back_with_the_reference_twice(by_hand):
    path = await page_of(by_hand)
    response = await by_hand.post(path, data={"action": "pay"})
    assert response.status_code == 303
    assert response.headers["location"] == f"{BACK}&trxref=order-1&reference=order-1"
    await by_hand.receiver.wait()
    assert by_hand.receiver.events == ["charge.success"]


async def test_a_declined_customer_may_try_again_on_the_same_page(by_hand):
    path = await page_of(by_hand)
    response = await by_hand.post(path, data={"action": "decline"})
    assert "declined" in response.text
    assert 'value="pay"' in response.text
    assert (await by_hand.post(path, data={"action": "pay"})).status_code == 303


async def test_abandoning_leads_to_the_merchants_cancel_address(by_hand):
    path = await page_of(by_hand, metadata={"cancel_action": "https://shop.example/cart"})
    response = await by_hand.post(path, data={"action": "abandon"})
    assert response.headers["location"] == "https://shop.example/cart"


async def test_a_page_escapes_what_it_shows_and_unknown_pages_are_404(by_hand):
    form = {
        "success_url": "https://shop.example/done?id={CHECKOUT_SESSION_ID}",
        "client_reference_id": "<script>",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "1500",
        "line_items[0][price_data][product_data][name]": "Tea",
    }
    header = {"Authorization": "Bearer sk_test_simulator_stripe"}
    session = (await by_hand.post("/stripe/v1/checkout/sessions", data=form, headers=header)).json()
    path = session["url"].removeprefix("http://127.0.0.1:8090")
    text = (await by_hand.get(path)).text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    paid = await by_hand.post(path, data={"action": "pay"})
    assert paid.headers["location"] == f"https://shop.example/done?id={session['id']}"
    assert (await by_hand.get("/checkout/stripe/nothing")).status_code == 404
    assert (await by_hand.get("/checkout/paystack/nothing")).status_code == 404


def test_the_simulator_imports_nothing_else_of_the_service():
    for path in Path(payflow.simulator.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith("payflow") or name.startswith("payflow.simulator"), (path.name, name)
