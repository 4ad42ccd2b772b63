"""A PaymentIntent from request to books: the secret reaches the merchant's client, and no log."""

import pytest

from tests.house import House, Merchant, eventually


async def test_an_sdk_pays_a_payment_intent(shop: House, ada: Merchant, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    started = await ada.pay("stripe", method="payment_intent")
    action = started["next_action"]
    assert (started["status"], action["type"], started["checkout_url"]) == ("requires_action", "sdk", None)
    secret = action["fields"]["client_secret"]
    paid = await shop.until(ada, started["id"], "completed")
    (attempt,) = paid["attempts"]
    intent_id, charge_id = attempt["provider_references"]
    assert secret.startswith(f"{intent_id}_secret_")
    assert charge_id.startswith("ch_")
    assert (paid["paid_minor"], paid["next_action"]) == (paid["amount_minor"], None)
    assert secret not in caplog.text


async def test_a_page_that_was_paid_teaches_what_a_refund_needs(shop: House, ada: Merchant) -> None:
    started = await ada.pay("stripe")
    paid = await shop.until(ada, started["id"], "completed")
    prefixes = {reference.partition("_")[0] for reference in paid["attempts"][0]["provider_references"]}
    assert {"cs", "pi"} <= prefixes


async def test_a_lost_payment_intent_asks_the_customer_after_all(shop: House, ada: Merchant) -> None:
    await shop.outcome("stripe", "server_error_after_charging", times=1, delay_seconds=60)
    started = await ada.pay("stripe", method="payment_intent")
    assert (started["status"], started["next_action"]) == ("processing", None)

    async def learnt() -> bool:
        payment = await ada.payment(started["id"])
        return bool(payment["attempts"][0]["provider_references"])

    await eventually(learnt, what="the event that names the PaymentIntent")
    answer = await ada.post(f"/payments/{started['id']}/verify", key=started["id"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "requires_action"
    assert answer.json()["next_action"]["fields"]["client_secret"]
