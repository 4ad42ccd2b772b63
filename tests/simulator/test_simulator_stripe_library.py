"""The official library drives the simulator over a real socket and verifies what it signs."""

from itertools import count

import pytest
import stripe

LINE = {"quantity": 1, "price_data": {"currency": "usd", "unit_amount": 1500, "product_data": {"name": "Tea"}}}
SESSION = {"mode": "payment", "success_url": "https://shop.example/done", "line_items": [LINE]}
SECRET = "whsec_simulator"

# The library hands httpx its form in a way that httpx has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
async def library(serve):
    settings = await serve(automatic_customer=False, deliver_webhooks=False)
    http = stripe.HTTPXClient(allow_sync_methods=True)
    yield stripe.StripeClient(
        settings.stripe_secret_key,
        http_client=http,
        base_addresses={"api": f"{settings.base_url}/stripe"},
        stripe_version=settings.stripe_api_version,
        max_network_retries=0,
    )
    http.close()
    await http.close_async()


async def test_the_library_takes_a_session_through_its_life(library):
    created = await library.v1.checkout.sessions.create_async(SESSION | {"client_reference_id": "order-1"})
    found = await library.v1.checkout.sessions.retrieve_async(created.id)
    assert (found.status, found.payment_status, found.amount_total) == ("open", "unpaid", 1500)
    expired = await library.v1.checkout.sessions.expire_async(created.id)
    assert expired.status == "expired"
    with pytest.raises(stripe.InvalidRequestError):
        await library.v1.checkout.sessions.expire_async(created.id)
    listed = await library.v1.checkout.sessions.list_async()
    assert [row.id for row in listed.data] == [created.id]


async def test_the_library_takes_an_intent_through_its_life(library):
    form = {"amount": 2000, "currency": "usd", "automatic_payment_methods": {"enabled": True}}
    intent = await library.v1.payment_intents.create_async(form)
    assert intent.status == "requires_payment_method"
    paid = await library.v1.payment_intents.confirm_async(
        intent.id, {"payment_method": "pm_card_visa", "expand": ["latest_charge"]}
    )
    assert (paid.status, paid.latest_charge.paid) == ("succeeded", True)
    refund = await library.v1.refunds.create_async({"payment_intent": intent.id, "reason": "requested_by_customer"})
    assert (refund.status, refund.amount) == ("succeeded", 2000)
    assert (await library.v1.balance.retrieve_async()).available[0].amount == 0
    assert [event.type for event in (await library.v1.events.list_async({"limit": 3})).data][
        -1
    ] == "payment_intent.succeeded"


async def test_the_library_raises_the_error_that_belongs_to_each_answer(library):
    declined = {"amount": 2000, "currency": "usd", "confirm": True, "payment_method": "pm_card_chargeDeclined"}
    with pytest.raises(stripe.CardError) as card:
        await library.v1.payment_intents.create_async(declined)
    assert (card.value.code, card.value.http_status) == ("card_declined", 402)
    with pytest.raises(stripe.InvalidRequestError):
        await library.v1.payment_intents.retrieve_async("pi_nothing")
    await library.v1.payment_intents.create_async({"amount": 1, "currency": "usd"}, {"idempotency_key": "k"})
    with pytest.raises(stripe.IdempotencyError):
        await library.v1.payment_intents.create_async({"amount": 2, "currency": "usd"}, {"idempotency_key": "k"})
    with pytest.raises(stripe.RateLimitError):
        await library.v1.payment_intents.create_async({"amount": 1_918, "currency": "usd"})
    with pytest.raises(stripe.APIError):
        await library.v1.payment_intents.create_async({"amount": 1_915, "currency": "usd"})


async def test_the_library_verifies_what_the_simulator_signs(client):
    await client.post(
        "/stripe/v1/payment_intents",
        data={"amount": "2000", "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"},
        headers={"Authorization": "Bearer sk_test_simulator_stripe"},
    )
    await client.receiver.wait(3)
    for request in client.receiver.requests:
        event = stripe.Webhook.construct_event(request.content, request.headers["stripe-signature"], SECRET)
        assert event.api_version == "2025-09-30.clover"
    assert event.type == "payment_intent.succeeded"


async def test_the_library_refuses_an_altered_body_and_the_badly_signed_one(client):
    await client.outcome("stripe", "bad_signature")
    await client.post(
        "/stripe/v1/payment_intents",
        data={"amount": "2000", "currency": "usd"},
        headers={"Authorization": "Bearer sk_test_simulator_stripe"},
    )
    await client.receiver.wait()
    request = client.receiver.requests[0]
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(request.content, request.headers["stripe-signature"], SECRET)


async def test_each_try_is_signed_with_its_own_time(start):
    moments = count(1_700_000_000)
    client = await start(automatic_customer=False, clock=lambda: float(next(moments)))
    client.receiver.answers = [500, 503]
    await client.post(
        "/stripe/v1/payment_intents",
        data={"amount": "2000", "currency": "usd"},
        headers={"Authorization": "Bearer sk_test_simulator_stripe"},
    )
    await client.receiver.wait(3)
    headers = [request.headers["stripe-signature"] for request in client.receiver.requests]
    assert len({header.partition(",")[0] for header in headers}) == 3
    [body] = {request.content for request in client.receiver.requests}
    for header in headers:
        assert stripe.WebhookSignature.verify_header(body.decode(), header, SECRET, tolerance=None)
