"""Example Pay against the contract that every provider keeps, and a payment with its simulator."""

import hashlib
import hmac
import json
from typing import Any, ClassVar

import example_pay_simulator
import httpx
from example_pay import ExamplePay, ExamplePayCredentials
from pydantic import SecretStr

from payflow.core.money import Money
from payflow.gateway.contract import ActionType, Customer, NextAction, Trust, Verdict
from payflow.gateway.http import ProviderHttp
from tests.providers.conftest import pytest_generate_tests  # noqa: F401 - spreads the tables over the tests
from tests.providers.contract_suite import (
    CALLBACK_URL,
    NOW,
    REFERENCE,
    AmountCase,
    Case,
    EventCase,
    ProviderContract,
    RefusedOrder,
    Reply,
    SignedWebhooks,
    Wire,
    a_query,
    a_webhook,
    an_order,
)

KEY, SECRET = "sk_test_0123456789abcdef", "a-webhook-secret-of-the-suite"
CREDENTIALS = ExamplePayCredentials.model_validate({"secret_key": KEY, "webhook_secret": SECRET})
NGN = Money(150_000, "NGN")
CHARGE = {"id": "ch_1", "reference": REFERENCE, "status": "pending", "amount": 150_000, "currency": "NGN"}
PAGE = "https://pay.example/ch_1"
ACCEPTED = Reply(201, {**CHARGE, "checkout_url": PAGE})


def secret_of(value: str) -> ExamplePayCredentials:
    """The same credentials with another webhook secret; an empty one cannot be set, but must prove nothing."""
    return CREDENTIALS.model_copy(update={"webhook_secret": SecretStr(value)})


def asked(**changes: Any) -> Reply:
    return Reply(200, CHARGE | changes)


def event(kind: str = "charge.updated", **changes: Any) -> dict[str, Any]:
    return {"id": "ev_1", "type": kind, "charge": CHARGE | changes}


class TestExamplePay(SignedWebhooks, ProviderContract):
    adapter = ExamplePay
    credentials = CREDENTIALS
    other_credentials = secret_of("another-webhook-secret")
    empty_credentials = secret_of("")
    secrets = (KEY, SECRET)
    bad_credentials: ClassVar = {"secret_key": "looks-wrong"}
    signature_header = "x-signature"
    amount = NGN
    provider_references = ("ch_1",)
    collect_path = "/charges"
    accepted = ACCEPTED
    completed = asked(status="paid")
    completed_money = (NGN, NGN)

    collect_cases = (
        Case(
            "accepted",
            ACCEPTED,
            Verdict.REQUIRES_ACTION,
            expected={
                "provider_references": ("ch_1",),
                "next_action": NextAction(ActionType.REDIRECT, url=PAGE),
                "checkout_url": PAGE,
            },
        ),
        Case("no page", Reply(201, CHARGE), Verdict.UNKNOWN),
        Case("paid at once", Reply(201, {**CHARGE, "checkout_url": PAGE, "status": "paid"}), Verdict.UNKNOWN),
        Case("invalid", Reply(400, {"error": "invalid_request"}), Verdict.REFUSED, "invalid_request"),
        Case("wrong key", Reply(401, {"error": "invalid_key"}), Verdict.REFUSED, "authentication_failed"),
        Case("a listed word under another status", Reply(500, {"error": "invalid_request"}), Verdict.UNKNOWN),
        Case("a reference twice", Reply(409, {"error": "duplicate_reference"}), Verdict.UNKNOWN),
        Case("an unlisted word", Reply(400, {"error": "nobody_knows"}), Verdict.UNKNOWN),
    )
    fetch_cases = (
        Case("paid", asked(status="paid"), Verdict.COMPLETED, expected={"requested": NGN, "paid": NGN}),
        Case("pending", asked(), Verdict.REQUIRES_ACTION, expected={"paid": None, "expirable": True}),
        Case("failed", asked(status="failed"), Verdict.DECLINED, "declined", expected={"expirable": True}),
        Case("an unlisted status", asked(status="asleep"), Verdict.UNKNOWN, expected={"expirable": False}),
        Case("not found", Reply(404, {"error": "not_found"}), Verdict.NOT_FOUND),
        Case("wrong key", Reply(401, {"error": "invalid_key"}), Verdict.UNKNOWN),
    )
    amount_cases = (AmountCase(NGN, 150_000), AmountCase(Money(100, "KES"), 100))
    refused_orders = (
        RefusedOrder("another currency", {"amount": Money(100, "USD")}, "/currency"),
        RefusedOrder("nobody to write to", {"customer": Customer()}, "/customer/email"),
    )
    event_cases = (
        EventCase(
            "paid",
            event(status="paid"),
            {"trust": Trust.SIGNED, "dedupe_key": "ev_1", "references": (REFERENCE,), "provider_references": ("ch_1",)},
            {"verdict": Verdict.COMPLETED, "requested": NGN, "paid": NGN},
        ),
        EventCase("failed", event(status="failed"), {}, {"verdict": Verdict.DECLINED}, "declined"),
        EventCase("another type", event("payout.updated"), {"references": (REFERENCE,)}),
    )

    def sent_amount(self, wire: Wire) -> int:
        return int(wire.json["amount"])

    def sign(self, body: bytes, credentials: Any) -> dict[str, str]:
        secret = credentials.webhook_secret.get_secret_value()
        return {"x-signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


async def test_a_payment_with_the_simulator() -> None:
    told: list[httpx.Request] = []

    def hear(request: httpx.Request) -> httpx.Response:
        told.append(request)
        return httpx.Response(200)

    provider = example_pay_simulator.ExamplePay(httpx.MockTransport(hear))
    transport = httpx.ASGITransport(app=example_pay_simulator.create_app(provider))
    adapter = ExamplePay(ProviderHttp(transport), "http://simulator.test", lambda: NOW)
    keys = {"secret_key": example_pay_simulator.SECRET_KEY, "webhook_secret": example_pay_simulator.WEBHOOK_SECRET}
    credentials = ExamplePayCredentials.model_validate(keys)

    opened = await adapter.collect(an_order(NGN), credentials)
    assert opened.verdict is Verdict.REQUIRES_ACTION
    assert (await adapter.collect(an_order(NGN), credentials)).verdict is Verdict.UNKNOWN  # the reference is taken
    async with httpx.AsyncClient(transport=transport) as customer:
        assert opened.checkout_url is not None
        assert (await customer.post(opened.checkout_url)).status_code == 200

    (request,) = told
    webhook = a_webhook(request.content, dict(request.headers))
    assert str(request.url) == CALLBACK_URL
    adapter.verify_webhook(webhook, [credentials])
    (paid,) = adapter.translate(webhook)
    answer = await adapter.fetch(a_query(NGN), credentials)
    assert paid.result == answer
    assert (answer.verdict, answer.paid, answer.reference) == (Verdict.COMPLETED, NGN, REFERENCE)
    assert json.loads(request.content)["charge"]["id"] == opened.provider_references[0]
