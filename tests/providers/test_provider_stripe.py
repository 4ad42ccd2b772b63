"""Stripe's adapter against objects in the shapes of docs.stripe.com/api (Checkout Sessions, errors, events, signatures)."""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from payflow.core.money import Money
from payflow.gateway.contract import ActionType, Cancels, NextAction, Operation, Verdict, WebhookRefused
from payflow.providers.stripe import Stripe, StripeCredentials
from tests import specs
from tests.providers.contract_suite import (
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
    on_real_sockets,
)
from tests.providers.contract_suite import closed_port as a_closed_port

PLAIN = {"secret_key": "sk_test_suite_key", "webhook_secret": "whsec_suite_one"}
CREDENTIALS = StripeCredentials.model_validate(PLAIN)
OTHER = StripeCredentials.model_validate({**PLAIN, "webhook_secret": "whsec_suite_two"})
EMPTY = StripeCredentials.model_construct(secret_key=SecretStr("sk_test_suite_key"), webhook_secret=SecretStr(""))

USD = Money(4_200, "USD")
SESSION_ID, INTENT_ID = "cs_test_b1Suite00000000000000000000", "pi_3Suite0000000000000000"
PAGE = f"https://checkout.stripe.com/c/pay/{SESSION_ID}"
ENDS_AT = NOW + timedelta(hours=1)
SESSIONS = "/v1/checkout/sessions"
METADATA = {"reference": REFERENCE, "transaction_id": "019c0000-0000-7000-8000-000000000001"}


def a_session(**changes: Any) -> dict[str, Any]:
    return {
        "id": SESSION_ID,
        "object": "checkout.session",
        "amount_subtotal": 4_200,
        "amount_total": 4_200,
        "client_reference_id": REFERENCE,
        "currency": "usd",
        "expires_at": int(ENDS_AT.timestamp()),
        "livemode": False,
        "metadata": METADATA,
        "mode": "payment",
        "payment_intent": None,
        "payment_status": "unpaid",
        "status": "open",
        "url": PAGE,
    } | changes


def an_intent(status: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": INTENT_ID,
        "object": "payment_intent",
        "amount": 4_200,
        "amount_received": 4_200 if status == "succeeded" else 0,
        "currency": "usd",
        "last_payment_error": None,
        "metadata": METADATA,
        "status": status,
    } | changes


def declined(code: str, decline_code: str | None = None) -> dict[str, Any]:
    return {"type": "card_error", "code": code, "message": "Words."} | (
        {"decline_code": decline_code} if decline_code else {}
    )


def complete(payment_status: str = "paid", intent: Any = None, **changes: Any) -> dict[str, Any]:
    return a_session(status="complete", payment_status=payment_status, url=None, payment_intent=intent, **changes)


def expired(payment_status: str = "unpaid") -> dict[str, Any]:
    return a_session(status="expired", payment_status=payment_status, url=None)


def error(status: int, kind: str, code: str | None = None, message: str = "Words.", **more: Any) -> Reply:
    fields = {"type": kind, "message": message, **({"code": code} if code else {}), **more}
    return Reply(status, {"error": fields})


def event(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "evt_1Suite",
        "object": "event",
        "api_version": "2025-09-30.clover",
        "created": int(NOW.timestamp()),
        "type": kind,
        "data": {"object": fields},
    }


BOTH = (SESSION_ID, INTENT_ID)
PAID_INTENT = an_intent("succeeded")
CARD = [
    ("insufficient_funds", "insufficient_funds"),
    ("generic_decline", "card_declined"),
    ("lost_card", "card_declined"),
    ("stolen_card", "card_declined"),
    ("fraudulent", "card_declined"),
    ("card_velocity_exceeded", "limit_exceeded"),
    ("withdrawal_count_limit_exceeded", "limit_exceeded"),
    ("incorrect_pin", "wrong_pin"),
    ("incorrect_cvc", "incorrect_card"),
    ("invalid_expiry_year", "incorrect_card"),
    ("expired_card", "expired_card"),
    ("authentication_required", "authentication_required"),
    ("processing_error", "provider_error"),
    ("a_reason_nobody_knows", "card_declined"),
]


class TestStripeContract(SignedWebhooks, ProviderContract):
    adapter = Stripe
    credentials = CREDENTIALS
    secrets = ("sk_test_suite_key", "whsec_suite_one")
    bad_credentials: ClassVar = {"webhook_secret": "looks-wrong"}
    other_credentials = OTHER
    empty_credentials = EMPTY
    signature_header = "stripe-signature"
    amount = USD
    provider_references = BOTH
    collect_path = SESSIONS
    accepted = Reply(200, a_session())
    completed = Reply(200, complete(intent=PAID_INTENT))
    completed_money = (USD, USD)

    collect_cases = (
        Case(
            "accepted",
            accepted,
            Verdict.REQUIRES_ACTION,
            expected={
                "raw_status": "open unpaid",
                "reference": REFERENCE,
                "provider_references": (SESSION_ID,),
                "next_action": NextAction(ActionType.REDIRECT, url=PAGE, expires_at=ENDS_AT),
                "checkout_url": PAGE,
                "session_ends_at": ENDS_AT,
                "expirable": False,
            },
        ),
        Case(
            "accepted, older with a PaymentIntent",
            Reply(200, a_session(payment_intent=INTENT_ID)),
            Verdict.REQUIRES_ACTION,
            expected={"provider_references": BOTH},
        ),
        Case(
            "accepted without a page",
            Reply(200, a_session(url=None)),
            Verdict.UNKNOWN,
            expected={"provider_references": (SESSION_ID,)},
        ),
        Case("another object", Reply(200, an_intent("requires_payment_method")), Verdict.UNKNOWN),
        Case("invalid key", error(401, "invalid_request_error"), Verdict.REFUSED, "authentication_failed"),
        Case(
            "expired key",
            error(401, "invalid_request_error", "api_key_expired"),
            Verdict.REFUSED,
            "authentication_failed",
        ),
        Case("a key that may not", error(403, "invalid_request_error"), Verdict.REFUSED, "configuration_error"),
        Case(
            "missing parameter",
            error(400, "invalid_request_error", "parameter_missing"),
            Verdict.REFUSED,
            "invalid_request",
        ),
        Case(
            "invalid parameter without a code", error(400, "invalid_request_error"), Verdict.REFUSED, "invalid_request"
        ),
        Case(
            "too small", error(400, "invalid_request_error", "amount_too_small"), Verdict.REFUSED, "amount_not_accepted"
        ),
        Case(
            "method types of old",
            error(400, "invalid_request_error", "payment_method_types_no_longer_supported"),
            Verdict.REFUSED,
            "configuration_error",
        ),
        Case("too many", error(429, "invalid_request_error", "rate_limit"), Verdict.REFUSED, "rate_limited"),
        Case("a lock", error(429, "invalid_request_error", "lock_timeout"), Verdict.REFUSED, "rate_limited"),
        Case("too many, as a page", Reply(429, b"<html>slow down</html>"), Verdict.REFUSED, "rate_limited"),
        *(
            Case(
                f"declined: {code}",
                error(402, "card_error", "card_declined", decline_code=code),
                Verdict.DECLINED,
                failure,
            )
            for code, failure in CARD
        ),
        Case("a card's error under another status", error(400, "card_error", "card_declined"), Verdict.UNKNOWN),
        Case("402 that is no card's", error(402, "api_error"), Verdict.UNKNOWN),
        Case("same key, other parameters", error(400, "idempotency_error"), Verdict.UNKNOWN),
        Case("same key, still running", error(409, "idempotency_error", "idempotency_key_in_use"), Verdict.UNKNOWN),
        Case("conflict", error(409, "invalid_request_error", "lock_timeout"), Verdict.UNKNOWN),
        Case("not found", error(404, "invalid_request_error", "resource_missing"), Verdict.UNKNOWN),
        Case("a dependency failed", error(424, "api_error"), Verdict.UNKNOWN),
        Case("server error", error(500, "api_error"), Verdict.UNKNOWN),
        Case("an invented type", error(400, "invented_error", "parameter_missing"), Verdict.UNKNOWN),
    )
    fetch_cases = (
        Case(
            "paid",
            completed,
            Verdict.COMPLETED,
            expected={
                "raw_status": "complete paid",
                "reference": REFERENCE,
                "provider_references": BOTH,
                "requested": USD,
                "paid": USD,
                "fee": None,
                "next_action": None,
                "expirable": False,
            },
        ),
        Case(
            "paid, PaymentIntent not expanded",
            Reply(200, complete(intent=INTENT_ID)),
            Verdict.COMPLETED,
            expected={"requested": USD, "paid": None, "provider_references": BOTH},
        ),
        Case(
            "another amount received",
            Reply(200, complete(intent=an_intent("succeeded", amount_received=1))),
            Verdict.COMPLETED,
            expected={"requested": USD, "paid": Money(1, "USD")},
        ),
        Case(
            "another currency",
            Reply(200, complete(intent=PAID_INTENT, currency="eur")),
            Verdict.COMPLETED,
            expected={"requested": Money(4_200, "EUR")},
        ),
        Case(
            "nothing to pay",
            Reply(200, complete("no_payment_required", amount_total=0)),
            Verdict.COMPLETED,
            expected={"requested": Money(0, "USD"), "paid": None},
        ),
        Case("open", accepted, Verdict.REQUIRES_ACTION, expected={"expirable": False, "checkout_url": PAGE}),
        Case(
            "open after a decline",
            Reply(
                200,
                a_session(
                    payment_intent=an_intent("requires_payment_method", last_payment_error=declined("card_declined"))
                ),
            ),
            Verdict.REQUIRES_ACTION,
            expected={"expirable": False},
        ),
        Case("a debit on its way", Reply(200, complete("unpaid", an_intent("processing"))), Verdict.PROCESSING),
        Case(
            "a debit that failed",
            Reply(
                200,
                complete(
                    "unpaid",
                    an_intent(
                        "requires_payment_method", last_payment_error=declined("card_declined", "insufficient_funds")
                    ),
                ),
            ),
            Verdict.DECLINED,
            "insufficient_funds",
            {"session_open": False, "expirable": True},
        ),
        Case(
            "expired",
            Reply(200, expired()),
            Verdict.EXPIRED,
            "expired",
            {"expirable": True, "requested": None, "checkout_url": None},
        ),
        Case("expired, yet paid", Reply(200, expired("paid")), Verdict.UNKNOWN),
        Case("open, yet paid", Reply(200, a_session(payment_status="paid")), Verdict.UNKNOWN),
        Case("an invented status", Reply(200, a_session(status="dreaming")), Verdict.UNKNOWN),
        Case("an invented payment status", Reply(200, complete("promised")), Verdict.UNKNOWN),
        Case(
            "found by its PaymentIntent",
            Reply(200, {"object": "list", "data": [complete(intent=PAID_INTENT)]}),
            Verdict.COMPLETED,
        ),
        Case("no session of this PaymentIntent", Reply(200, {"object": "list", "data": []}), Verdict.UNKNOWN),
        Case(
            "missing",
            error(404, "invalid_request_error", "resource_missing"),
            Verdict.NOT_FOUND,
            expected={"expirable": False},
        ),
        Case("a wrong address", error(404, "invalid_request_error"), Verdict.UNKNOWN),
        Case("invalid key", error(401, "invalid_request_error"), Verdict.UNKNOWN),
        Case("too many", error(429, "invalid_request_error", "rate_limit"), Verdict.UNKNOWN),
        Case("server error", error(500, "api_error"), Verdict.UNKNOWN),
    )
    amount_cases = (
        AmountCase(Money(4_200, "USD"), 4_200),
        AmountCase(Money(500, "JPY"), 500),
        AmountCase(Money(5_130, "KWD"), 5_130),
        AmountCase(Money(700, "UGX"), 70_000),
        AmountCase(Money(5, "ISK"), 500),
        AmountCase(Money(12_300, "MGA"), 123),
        AmountCase(Money(99_999_999, "EUR"), 99_999_999),
    )
    refused_orders = (
        RefusedOrder("a currency it does not take", {"amount": Money(100, "KPW")}, "/currency"),
        RefusedOrder("a method it does not offer", {"method": "mobile_money"}, "/method"),
        RefusedOrder("a third decimal", {"amount": Money(5_131, "KWD")}, "/amount"),
        RefusedOrder("a part of an ariary", {"amount": Money(12_350, "MGA")}, "/amount"),
        RefusedOrder("nine digits", {"amount": Money(100_000_000, "USD")}, "/amount"),
        RefusedOrder("nine digits in its own unit", {"amount": Money(1_000_000, "UGX")}, "/amount"),
        RefusedOrder("nothing", {"amount": Money(0, "USD")}, "/amount"),
    )
    event_cases = (
        EventCase(
            "session completed",
            event("checkout.session.completed", complete(intent=INTENT_ID)),
            {
                "type": "checkout.session.completed",
                "operation": Operation.COLLECT,
                "dedupe_key": "evt_1Suite",
                "references": (REFERENCE,),
                "provider_references": BOTH,
            },
            {"verdict": Verdict.COMPLETED, "requested": USD, "paid": None, "reference": REFERENCE},
        ),
        EventCase(
            "session completed but unpaid",
            event("checkout.session.completed", complete("unpaid", INTENT_ID)),
            {},
            {"verdict": Verdict.PROCESSING, "requested": None},
        ),
        EventCase(
            "debit arrived",
            event("checkout.session.async_payment_succeeded", complete(intent=INTENT_ID)),
            {"provider_references": BOTH},
            {"verdict": Verdict.COMPLETED, "requested": USD},
        ),
        EventCase(
            "debit failed",
            event("checkout.session.async_payment_failed", complete("unpaid", INTENT_ID)),
            {"provider_references": BOTH},
            {"verdict": Verdict.DECLINED, "session_open": False, "provider_references": BOTH, "expirable": True},
            "card_declined",
        ),
        EventCase(
            "session expired",
            event("checkout.session.expired", expired()),
            {"provider_references": (SESSION_ID,)},
            {"verdict": Verdict.EXPIRED, "expirable": True},
            "expired",
        ),
        EventCase(
            "intent succeeded",
            event("payment_intent.succeeded", PAID_INTENT),
            {"references": (REFERENCE,), "provider_references": (INTENT_ID,), "dedupe_key": "evt_1Suite"},
            {"verdict": Verdict.COMPLETED, "requested": USD, "paid": USD, "reference": REFERENCE},
        ),
        EventCase(
            "intent succeeded with less",
            event("payment_intent.succeeded", an_intent("succeeded", amount_received=1)),
            {},
            {"requested": USD, "paid": Money(1, "USD")},
        ),
        EventCase(
            "intent declined",
            event(
                "payment_intent.payment_failed",
                an_intent(
                    "requires_payment_method", last_payment_error=declined("card_declined", "insufficient_funds")
                ),
            ),
            {"provider_references": (INTENT_ID,)},
            {"verdict": Verdict.DECLINED, "session_open": True, "expirable": False, "paid": None},
            "insufficient_funds",
        ),
        EventCase(
            "intent processing",
            event("payment_intent.processing", an_intent("processing")),
            {},
            {"verdict": Verdict.PROCESSING},
        ),
        EventCase(
            "intent waits for the customer",
            event("payment_intent.requires_action", an_intent("requires_action")),
            {},
            {"verdict": Verdict.REQUIRES_ACTION, "next_action": None},
        ),
        EventCase(
            "intent cancelled",
            event("payment_intent.canceled", an_intent("canceled", cancellation_reason="requested_by_customer")),
            {},
            {"verdict": Verdict.CANCELLED, "expirable": True},
            "customer_cancelled",
        ),
        EventCase(
            "intent ran out",
            event("payment_intent.canceled", an_intent("canceled", cancellation_reason="automatic")),
            {},
            {"verdict": Verdict.EXPIRED},
            "expired",
        ),
        EventCase(
            "an invented intent status",
            event("payment_intent.succeeded", an_intent("dreaming")),
            {},
            {"verdict": Verdict.UNKNOWN},
        ),
        EventCase(
            "intent created",
            event("payment_intent.created", an_intent("requires_payment_method")),
            {"references": (REFERENCE,)},
        ),
        EventCase(
            "charge refunded",
            event(
                "charge.refunded",
                {
                    "id": "ch_3Suite",
                    "object": "charge",
                    "payment_intent": INTENT_ID,
                    "amount_refunded": 500,
                    "metadata": METADATA,
                },
            ),
            {
                "operation": Operation.REFUND,
                "references": (REFERENCE,),
                "provider_references": ("ch_3Suite", INTENT_ID),
            },
        ),
        *(
            EventCase(
                f"refund.{word}",
                event(
                    f"refund.{word}",
                    {"id": "re_3Suite", "object": "refund", "payment_intent": INTENT_ID, "metadata": {}},
                ),
                {"operation": Operation.REFUND, "references": (), "provider_references": ("re_3Suite", INTENT_ID)},
            )
            for word in ("created", "updated", "failed")
        ),
        EventCase(
            "dispute",
            event(
                "charge.dispute.created",
                {"id": "dp_1Suite", "object": "dispute", "charge": "ch_3Suite", "payment_intent": INTENT_ID},
            ),
            {
                "operation": Operation.COLLECT,
                "provider_references": ("dp_1Suite", INTENT_ID),
                "dedupe_key": "evt_1Suite",
            },
        ),
        EventCase(
            "an event nobody knows",
            event("invented.event", {"id": "in_1", "object": "invented"}),
            {"provider_references": ("in_1",)},
        ),
    )

    def sent_amount(self, wire: Wire) -> int:
        return int(wire.form["line_items[0][price_data][unit_amount]"])

    def sign(self, body: bytes, credentials: StripeCredentials, at: datetime = NOW) -> Mapping[str, str]:  # type: ignore[override]
        seconds = int(at.timestamp())
        key = credentials.webhook_secret.get_secret_value().encode()
        signature = hmac.digest(key, f"{seconds}.".encode() + body, "sha256").hex()
        return {"stripe-signature": f"t={seconds},v1={signature}"}

    @pytest.mark.parametrize("seconds", [-301, 301, -86_400])
    def test_a_webhook_signed_too_long_ago_or_ahead_is_stale(self, seconds: int) -> None:
        headers = self.sign(self.body, CREDENTIALS, NOW + timedelta(seconds=seconds))
        assert self.refusal(self.body, headers, CREDENTIALS) == "stale"

    @pytest.mark.parametrize("seconds", [-300, 0, 300])
    def test_a_webhook_signed_within_five_minutes_is_believed(self, seconds: int) -> None:
        self.verify(self.body, self.sign(self.body, CREDENTIALS, NOW + timedelta(seconds=seconds)), CREDENTIALS)

    def test_another_time_than_the_signed_one_is_refused(self) -> None:
        header = self.sign(self.body, CREDENTIALS)["stripe-signature"]
        moved = header.replace(f"t={int(NOW.timestamp())}", f"t={int(NOW.timestamp()) + 1}")
        assert self.refusal(self.body, {"stripe-signature": moved}, CREDENTIALS) == "signature_mismatch"

    def test_only_the_live_scheme_counts(self) -> None:
        header = self.sign(self.body, CREDENTIALS)["stripe-signature"]
        assert (
            self.refusal(self.body, {"stripe-signature": header.replace("v1=", "v0=")}, CREDENTIALS) == "wrong_scheme"
        )


def test_a_known_signature_is_believed_at_its_time_only() -> None:
    # Computed with the official Python library's WebhookSignature.
    known = "d95c6b7477fbd7e9f90b1b0ef5f9c7ac25abca5382460e0d988c2b2a5b71b990"
    body = b'{"id":"evt_test_webhook","object":"event"}'
    credentials = StripeCredentials.model_validate({**PLAIN, "webhook_secret": "whsec_test_secret"})
    webhook = a_webhook(body, {"stripe-signature": f"t=1700000000,v1={'0' * 64},v1={known}"})
    Wire().build(Stripe, lambda: datetime.fromtimestamp(1_700_000_000, UTC)).verify_webhook(webhook, [credentials])
    with pytest.raises(WebhookRefused, match="stale"):
        Wire().build(Stripe, lambda: datetime.fromtimestamp(1_700_000_301, UTC)).verify_webhook(webhook, [credentials])


async def test_the_whole_order_as_stripe_receives_it() -> None:
    wire = Wire(Reply(200, a_session()))
    await wire.build(Stripe).collect(an_order(USD), CREDENTIALS)
    assert wire.form == {
        "mode": "payment",
        "client_reference_id": REFERENCE,
        "success_url": "https://shop.example/thanks",
        "cancel_url": "https://shop.example/thanks",
        "expires_at": str(int(ENDS_AT.timestamp())),
        "line_items[0][quantity]": "1",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "4200",
        "line_items[0][price_data][product_data][name]": "Order 17",
        "metadata[reference]": REFERENCE,
        "metadata[transaction_id]": "019c0000-0000-7000-8000-000000000001",
        "payment_intent_data[metadata][reference]": REFERENCE,
        "payment_intent_data[metadata][transaction_id]": "019c0000-0000-7000-8000-000000000001",
        "customer_email": "ada@customer.example",
    }
    headers = wire.requests[0].headers
    assert headers["authorization"] == "Bearer sk_test_suite_key"
    assert headers["idempotency-key"] == REFERENCE
    assert headers["stripe-version"] == "2025-09-30.clover"


async def test_an_order_without_a_return_url_takes_the_default() -> None:
    wire = Wire(Reply(200, a_session()))
    credentials = StripeCredentials.model_validate({**PLAIN, "default_return_url": "https://pay.example/done"})
    await wire.build(Stripe).collect(an_order(USD, return_url=None), credentials)
    assert (wire.form["success_url"], wire.form["cancel_url"]) == (
        "https://pay.example/done",
        "https://pay.example/done",
    )


async def test_an_order_with_no_return_url_at_all_is_refused_before_it_is_sent() -> None:
    wire = Wire(Reply(200, a_session()))
    adapter = wire.build(Stripe)
    result = await adapter.collect(an_order(USD, return_url=None), CREDENTIALS)
    assert (result.verdict, result.failure.code, wire.requests) == (Verdict.REFUSED, "return_url_required", [])


# Asking


async def test_a_session_is_asked_for_together_with_its_payment_intent() -> None:
    wire = Wire(Reply(200, complete(intent=PAID_INTENT)))
    await wire.build(Stripe).fetch(a_query(USD, SESSION_ID), CREDENTIALS)
    assert (wire.requests[0].method, wire.requests[0].url.path) == ("GET", f"{SESSIONS}/{SESSION_ID}")
    assert dict(wire.requests[0].url.params) == {"expand[]": "payment_intent"}


async def test_a_session_whose_id_is_unknown_is_found_by_its_payment_intent() -> None:
    wire = Wire(Reply(200, {"object": "list", "data": [complete(intent=PAID_INTENT)]}))
    result = await wire.build(Stripe).fetch(a_query(USD, INTENT_ID), CREDENTIALS)
    assert (result.verdict, result.provider_references) == (Verdict.COMPLETED, BOTH)
    assert dict(wire.requests[0].url.params) == {"payment_intent": INTENT_ID, "expand[]": "data.payment_intent"}


async def test_nothing_is_asked_or_sent_again_about_an_order_whose_answer_was_lost() -> None:
    wire = Wire(Reply(200, complete()))
    for verb in ("fetch", "cancel"):
        result = await getattr(wire.build(Stripe), verb)(a_query(USD), CREDENTIALS)
        assert (result.verdict, wire.requests) == (Verdict.UNKNOWN, [])


# Cancelling

NOT_OPEN = error(
    400,
    "invalid_request_error",
    message='Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of `complete`.',
)


async def test_cancelling_expires_the_session() -> None:
    wire = Wire(Reply(200, expired()))
    adapter = wire.build(Stripe)
    assert isinstance(adapter, Cancels)
    result = await adapter.cancel(a_query(USD, *BOTH), CREDENTIALS)
    assert (result.verdict, result.failure and result.failure.code, result.expirable) == (
        Verdict.CANCELLED,
        "customer_cancelled",
        True,
    )
    assert (result.reference, result.provider_references) == (REFERENCE, (SESSION_ID,))
    assert (wire.requests[0].method, wire.requests[0].url.path) == ("POST", f"{SESSIONS}/{SESSION_ID}/expire")


@pytest.mark.parametrize(
    ("session", "verdict"),
    [
        (complete(intent=PAID_INTENT), Verdict.COMPLETED),
        (complete("unpaid", an_intent("processing")), Verdict.PROCESSING),
        (expired(), Verdict.EXPIRED),
    ],
    ids=["paid", "on its way", "expired"],
)
async def test_cancelling_too_late_tells_how_the_session_ended(session: dict[str, Any], verdict: Verdict) -> None:
    wire = Wire(NOT_OPEN, Reply(200, session))
    result = await wire.build(Stripe).cancel(a_query(USD, SESSION_ID), CREDENTIALS)
    assert result.verdict is verdict
    assert [request.method for request in wire.requests] == ["POST", "GET"]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (error(401, "invalid_request_error"), Verdict.UNKNOWN),
        (error(400, "invalid_request_error"), Verdict.UNKNOWN),
        (error(404, "invalid_request_error", "resource_missing"), Verdict.NOT_FOUND),
        (error(429, "invalid_request_error", "rate_limit"), Verdict.UNKNOWN),
        (error(500, "api_error"), Verdict.UNKNOWN),
        (Reply(502, b"<html>"), Verdict.UNKNOWN),
        (Reply(200, b"{"), Verdict.UNKNOWN),
        (Reply(200, a_session()), Verdict.REQUIRES_ACTION),
        (OSError("broken pipe"), Verdict.UNKNOWN),
    ],
)
async def test_a_cancellation_that_is_not_confirmed_cancels_nothing(reply: Reply | Exception, verdict: Verdict) -> None:
    wire = Wire(reply)
    result = await wire.build(Stripe).cancel(a_query(USD, SESSION_ID), CREDENTIALS)
    assert (result.verdict, result.expirable, len(wire.requests)) == (verdict, False, 1)


async def test_a_cancellation_that_was_not_sent_cancels_nothing() -> None:
    async with on_real_sockets(Stripe, f"http://127.0.0.1:{a_closed_port()}") as adapter:
        assert (await adapter.cancel(a_query(USD, SESSION_ID), CREDENTIALS)).verdict is Verdict.UNKNOWN


# The official document


def parameters(wire: Wire) -> dict[str, str]:
    return dict(wire.requests[-1].url.params)


async def test_every_request_fits_the_official_document() -> None:
    spec = specs.stripe()
    for amount in (USD, Money(500, "JPY"), Money(5_130, "KWD")):
        wire = Wire(Reply(200, a_session()))
        await wire.build(Stripe).collect(an_order(amount), CREDENTIALS)
        sent = wire.requests[0]
        specs.validate_request(spec, "POST", sent.url.path, sent.headers["content-type"], body=sent.content)
    for references in (BOTH, (INTENT_ID,)):
        wire = Wire(Reply(200, complete()))
        await wire.build(Stripe).fetch(a_query(USD, *references), CREDENTIALS)
        specs.validate_request(spec, "GET", wire.requests[0].url.path, params=parameters(wire))
    wire = Wire(Reply(200, expired()))
    await wire.build(Stripe).cancel(a_query(USD, SESSION_ID), CREDENTIALS)
    specs.validate_request(spec, "POST", wire.requests[0].url.path)


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("client_reference_id", "reference_id"),
        ("line_items[0][price_data][unit_amount]", "line_items[0][price_data][amount]"),
        ("payment_intent_data[metadata][reference]", "payment_intent_data[meta][reference]"),
        ("success_url", "return_to"),
    ],
)
async def test_the_same_check_rejects_a_renamed_field(name: str, renamed: str) -> None:
    spec = specs.stripe()
    wire = Wire(Reply(200, a_session()))
    await wire.build(Stripe).collect(an_order(USD), CREDENTIALS)
    form = {renamed if key == name else key: value for key, value in wire.form.items()}
    with pytest.raises(specs.SpecViolation):
        specs.validate_request(spec, "POST", SESSIONS, "application/x-www-form-urlencoded", body=form)
