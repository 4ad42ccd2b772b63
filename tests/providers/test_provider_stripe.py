"""Stripe's adapter against objects in the shapes of docs.stripe.com/api (Checkout Sessions, errors, events, signatures)."""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from payflow.core.money import Money
from payflow.gateway.contract import (
    ActionType,
    Cancels,
    CollectOrder,
    NextAction,
    Operation,
    OrderNotAcceptable,
    Refunds,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRefused,
)
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
from tests.providers.verbs_suite import (
    REFUND_REFERENCE,
    Verb,
    VerbsContract,
    a_payment,
    a_refund,
    a_refund_query,
)

PLAIN = {"secret_key": "sk_test_suite_key", "webhook_secret": "whsec_suite_one"}
CREDENTIALS = StripeCredentials.model_validate(PLAIN)
OTHER = StripeCredentials.model_validate({**PLAIN, "webhook_secret": "whsec_suite_two"})
EMPTY = StripeCredentials.model_construct(secret_key=SecretStr("sk_test_suite_key"), webhook_secret=SecretStr(""))

USD = Money(4_200, "USD")
SESSION_ID, INTENT_ID = "cs_test_b1Suite00000000000000000000", "pi_3Suite0000000000000000"
CHARGE_ID, REFUND_ID = "ch_3Suite0000000000000000", "re_3Suite0000000000000000"
CLIENT_SECRET = f"{INTENT_ID}_secret_onlyForTheCustomer"
PAGE = f"https://checkout.stripe.com/c/pay/{SESSION_ID}"
ENDS_AT = NOW + timedelta(hours=1)
SESSIONS, INTENTS, REFUNDS = "/v1/checkout/sessions", "/v1/payment_intents", "/v1/refunds"
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


def a_new_intent(**changes: Any) -> dict[str, Any]:
    return an_intent("requires_payment_method", client_secret=CLIENT_SECRET, **changes)


def a_refund_object(status: str | None = "succeeded", **changes: Any) -> dict[str, Any]:
    return {
        "id": REFUND_ID,
        "object": "refund",
        "amount": 1_500,
        "charge": CHARGE_ID,
        "created": int(NOW.timestamp()),
        "currency": "usd",
        "metadata": {"reference": REFUND_REFERENCE},
        "payment_intent": INTENT_ID,
        "reason": None,
        "status": status,
    } | changes


def a_dispute(status: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": "dp_1Suite",
        "object": "dispute",
        "amount": 4_200,
        "charge": CHARGE_ID,
        "currency": "usd",
        "metadata": {},
        "payment_intent": INTENT_ID,
        "reason": "fraudulent",
        "status": status,
    } | changes


def event(kind: str, fields: dict[str, Any], previous: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "id": "evt_1Suite",
        "object": "event",
        "api_version": "2025-09-30.clover",
        "created": int(NOW.timestamp()),
        "type": kind,
        "data": {"object": fields} | ({"previous_attributes": previous} if previous else {}),
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
            "paid, with its charge",
            Reply(200, complete(intent=an_intent("succeeded", latest_charge=CHARGE_ID))),
            Verdict.COMPLETED,
            expected={"provider_references": (*BOTH, CHARGE_ID)},
        ),
        Case("a list", Reply(200, {"object": "list", "data": [complete(intent=PAID_INTENT)]}), Verdict.UNKNOWN),
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
            {"references": (REFERENCE,), "provider_references": (INTENT_ID,)},
            {"verdict": Verdict.ASKED, "provider_references": (INTENT_ID,), "next_action": None},
        ),
        EventCase(
            "intent authorised",
            event("payment_intent.amount_capturable_updated", an_intent("requires_capture")),
            {},
            {"verdict": Verdict.PROCESSING},
        ),
        EventCase(
            "intent succeeded, with its charge",
            event("payment_intent.succeeded", an_intent("succeeded", latest_charge=CHARGE_ID)),
            {"provider_references": (INTENT_ID, CHARGE_ID)},
            {"verdict": Verdict.COMPLETED, "provider_references": (INTENT_ID, CHARGE_ID)},
        ),
        EventCase(
            "charge refunded",
            event(
                "charge.refunded",
                {
                    "id": CHARGE_ID,
                    "object": "charge",
                    "payment_intent": INTENT_ID,
                    "amount_refunded": 500,
                    "metadata": METADATA,
                },
            ),
            {
                "operation": Operation.REFUND,
                "references": (),
                "provider_references": (),
                "payment_references": (REFERENCE, INTENT_ID, CHARGE_ID),
            },
        ),
        *(
            EventCase(
                kind,
                event(kind, a_refund_object(status)),
                {
                    "operation": Operation.REFUND,
                    "dedupe_key": "evt_1Suite",
                    "references": (REFUND_REFERENCE,),
                    "provider_references": (REFUND_ID,),
                    "payment_references": (INTENT_ID, CHARGE_ID),
                },
                {
                    "verdict": verdict,
                    "reference": REFUND_REFERENCE,
                    "requested": Money(1_500, "USD"),
                    "paid": None,
                    "provider_references": (REFUND_ID,),
                },
                failure,
            )
            for kind, status, verdict, failure in (
                ("refund.created", "pending", Verdict.PROCESSING, None),
                ("refund.updated", "succeeded", Verdict.COMPLETED, None),
                ("refund.failed", "failed", Verdict.DECLINED, "refund_failed"),
                ("charge.refund.updated", "canceled", Verdict.DECLINED, "refund_cancelled"),
            )
        ),
        EventCase(
            "a refund made on the dashboard",
            event("refund.created", a_refund_object(metadata={})),
            {"references": (), "provider_references": (REFUND_ID,), "payment_references": (INTENT_ID, CHARGE_ID)},
            {"verdict": Verdict.COMPLETED, "reference": None},
        ),
        EventCase(
            "a refund in a status nobody knows",
            event("refund.updated", a_refund_object("dreaming")),
            {},
            {"verdict": Verdict.UNKNOWN},
        ),
        *(
            EventCase(
                f"{kind}, {status}",
                event(f"charge.dispute.{kind}", a_dispute(status), previous),
                {
                    "operation": Operation.COLLECT,
                    "dedupe_key": "evt_1Suite",
                    "references": (),
                    "provider_references": (INTENT_ID, CHARGE_ID, "dp_1Suite"),
                },
                {
                    "verdict": verdict,
                    "raw_status": f"dispute {status} fraudulent",
                    "reference": None,
                    "requested": USD,
                    "paid": None,
                    "provider_references": (INTENT_ID, CHARGE_ID),
                },
            )
            for kind, status, previous, verdict in (
                ("created", "needs_response", None, Verdict.DISPUTED),
                ("updated", "needs_response", {"status": "warning_under_review"}, Verdict.DISPUTED),
                ("closed", "won", None, Verdict.DISPUTE_WON),
                ("closed", "lost", None, Verdict.REVERSED),
                ("closed", "prevented", None, Verdict.UNKNOWN),
            )
        ),
        EventCase(
            "a part of the payment lost",
            event("charge.dispute.closed", a_dispute("lost", amount=1_000)),
            {},
            {"verdict": Verdict.REVERSED, "requested": Money(1_000, "USD")},
        ),
        EventCase(
            "a dispute of a charge without an intent",
            event("charge.dispute.created", a_dispute("needs_response", payment_intent=None)),
            {"provider_references": (CHARGE_ID, "dp_1Suite")},
            {"verdict": Verdict.DISPUTED},
        ),
        *(
            EventCase(
                f"news of a dispute: {kind}, {status}",
                event(f"charge.dispute.{kind}", a_dispute(status), previous),
                {"operation": Operation.COLLECT, "provider_references": (INTENT_ID, CHARGE_ID, "dp_1Suite")},
            )
            for kind, status, previous in (
                ("created", "warning_needs_response", None),
                ("updated", "warning_under_review", {"status": "warning_needs_response"}),
                ("closed", "warning_closed", None),
                ("updated", "under_review", {"status": "needs_response"}),
                ("updated", "needs_response", None),
                ("funds_withdrawn", "needs_response", None),
                ("funds_reinstated", "won", None),
            )
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


async def test_a_session_whose_id_is_unknown_is_asked_for_by_its_payment_intent() -> None:
    wire = Wire(Reply(200, PAID_INTENT))
    result = await wire.build(Stripe).fetch(a_query(USD, INTENT_ID), CREDENTIALS)
    assert (result.verdict, result.reference, result.requested, result.paid) == (Verdict.COMPLETED, REFERENCE, USD, USD)
    assert (wire.requests[0].method, wire.requests[0].url.path) == ("GET", f"{INTENTS}/{INTENT_ID}")


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


@pytest.mark.parametrize(
    ("reason", "verdict"), [(None, Verdict.CANCELLED), ("automatic", Verdict.CANCELLED), ("expired", Verdict.CANCELLED)]
)
async def test_a_payment_intent_is_cancelled_as_such(reason: str | None, verdict: Verdict) -> None:
    wire = Wire(Reply(200, an_intent("canceled", cancellation_reason=reason)))
    result = await wire.build(Stripe).cancel(a_query(USD, INTENT_ID), CREDENTIALS)
    assert (result.verdict, result.failure and result.failure.code) == (verdict, "customer_cancelled")
    assert (result.expirable, result.reference, result.provider_references) == (True, REFERENCE, (INTENT_ID,))
    assert (wire.requests[0].method, wire.requests[0].url.path) == ("POST", f"{INTENTS}/{INTENT_ID}/cancel")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("succeeded", Verdict.COMPLETED),
        ("processing", Verdict.PROCESSING),
        ("canceled", Verdict.CANCELLED),
    ],
)
async def test_cancelling_too_late_tells_how_the_payment_intent_stands(status: str, verdict: Verdict) -> None:
    refusal = error(400, "invalid_request_error", "payment_intent_unexpected_state")
    wire = Wire(refusal, Reply(200, an_intent(status)))
    result = await wire.build(Stripe).cancel(a_query(USD, INTENT_ID), CREDENTIALS)
    assert result.verdict is verdict
    assert [request.method for request in wire.requests] == ["POST", "GET"]


# PaymentIntents

SDK = NextAction(ActionType.SDK, fields={"client_secret": CLIENT_SECRET})


class TestStripePaymentIntentContract(ProviderContract):
    """The same adapter, where the merchant collects with Stripe.js or a mobile SDK."""

    adapter = Stripe
    credentials = CREDENTIALS
    secrets = ("sk_test_suite_key", "whsec_suite_one")
    bad_credentials: ClassVar = {"publishable_key": "sk_test_looks-wrong"}
    amount = USD
    provider_references = (INTENT_ID,)
    collect_path = INTENTS
    accepted = Reply(200, a_new_intent())
    completed = Reply(200, PAID_INTENT)
    completed_money = (USD, USD)

    collect_cases = (
        Case(
            "accepted",
            accepted,
            Verdict.REQUIRES_ACTION,
            expected={
                "raw_status": "requires_payment_method",
                "reference": REFERENCE,
                "provider_references": (INTENT_ID,),
                "next_action": SDK,
                "checkout_url": None,
                "requested": None,
                "expirable": False,
            },
        ),
        Case(
            "accepted without a secret",
            Reply(200, an_intent("requires_payment_method")),
            Verdict.UNKNOWN,
            expected={"provider_references": (INTENT_ID,)},
        ),
        Case("another object", Reply(200, a_session()), Verdict.UNKNOWN),
        Case("invalid key", error(401, "invalid_request_error"), Verdict.REFUSED, "authentication_failed"),
        Case(
            "too small", error(400, "invalid_request_error", "amount_too_small"), Verdict.REFUSED, "amount_not_accepted"
        ),
        Case("too many", error(429, "invalid_request_error", "rate_limit"), Verdict.REFUSED, "rate_limited"),
        Case("same key, other parameters", error(400, "idempotency_error"), Verdict.UNKNOWN),
        Case("server error", error(500, "api_error"), Verdict.UNKNOWN),
    )
    fetch_cases = (
        Case(
            "new",
            accepted,
            Verdict.REQUIRES_ACTION,
            expected={"next_action": SDK, "session_open": False, "expirable": False},
        ),
        Case(
            "confirmed by nobody yet",
            Reply(200, a_new_intent() | {"status": "requires_confirmation"}),
            Verdict.REQUIRES_ACTION,
        ),
        Case("at its bank", Reply(200, a_new_intent() | {"status": "requires_action"}), Verdict.REQUIRES_ACTION),
        Case(
            "declined, and may try again",
            Reply(200, a_new_intent(last_payment_error=declined("card_declined", "insufficient_funds"))),
            Verdict.DECLINED,
            "insufficient_funds",
            {"session_open": True, "expirable": False, "next_action": None},
        ),
        Case("on its way", Reply(200, an_intent("processing")), Verdict.PROCESSING),
        Case("authorised", Reply(200, an_intent("requires_capture")), Verdict.PROCESSING),
        Case(
            "paid",
            Reply(200, an_intent("succeeded", latest_charge=CHARGE_ID, client_secret=CLIENT_SECRET)),
            Verdict.COMPLETED,
            expected={
                "requested": USD,
                "paid": USD,
                "reference": REFERENCE,
                "provider_references": (INTENT_ID, CHARGE_ID),
                "next_action": None,
            },
        ),
        Case(
            "paid in part",
            Reply(200, an_intent("succeeded", amount_received=1)),
            Verdict.COMPLETED,
            expected={"requested": USD, "paid": Money(1, "USD")},
        ),
        Case(
            "cancelled",
            Reply(200, an_intent("canceled", cancellation_reason="requested_by_customer")),
            Verdict.CANCELLED,
            "customer_cancelled",
            {"expirable": True},
        ),
        Case(
            "ran out",
            Reply(200, an_intent("canceled", cancellation_reason="expired")),
            Verdict.EXPIRED,
            "expired",
            {"expirable": True},
        ),
        Case("an invented status", Reply(200, an_intent("dreaming")), Verdict.UNKNOWN),
        Case("missing", error(404, "invalid_request_error", "resource_missing"), Verdict.NOT_FOUND),
        Case("server error", error(500, "api_error"), Verdict.UNKNOWN),
    )
    amount_cases = TestStripeContract.amount_cases
    refused_orders = (
        RefusedOrder("a currency it does not take", {"amount": Money(100, "KPW")}, "/currency"),
        RefusedOrder("nine digits", {"amount": Money(100_000_000, "USD")}, "/amount"),
    )
    event_cases = (
        EventCase(
            "succeeded, as documented",
            {
                "id": "evt_3A",
                "object": "event",
                "api_version": "2025-09-30.clover",
                "created": 1721948530,
                "livemode": False,
                "pending_webhooks": 1,
                "request": {"id": "req_1", "idempotency_key": "k1"},
                "type": "payment_intent.succeeded",
                "data": {
                    "object": {
                        "id": "pi_3A",
                        "object": "payment_intent",
                        "amount": 2000,
                        "amount_capturable": 0,
                        "amount_received": 2000,
                        "capture_method": "automatic_async",
                        "client_secret": "pi_3A_secret_x",
                        "created": 1721948500,
                        "currency": "usd",
                        "last_payment_error": None,
                        "latest_charge": "ch_3A",
                        "livemode": False,
                        "metadata": {"reference": REFERENCE},
                        "next_action": None,
                        "payment_method": "pm_1A",
                        "payment_method_types": ["card"],
                        "status": "succeeded",
                    }
                },
            },
            {"dedupe_key": "evt_3A", "references": (REFERENCE,), "provider_references": ("pi_3A", "ch_3A")},
            {"verdict": Verdict.COMPLETED, "requested": Money(2000, "USD"), "paid": Money(2000, "USD")},
        ),
        EventCase(
            "waits for the bank, as documented",
            event(
                "payment_intent.requires_action",
                {
                    "id": "pi_3E",
                    "object": "payment_intent",
                    "amount": 2000,
                    "currency": "usd",
                    "client_secret": "pi_3E_secret_x",
                    "status": "requires_action",
                    "next_action": {
                        "type": "redirect_to_url",
                        "redirect_to_url": {"url": "https://hooks.stripe.com/x", "return_url": "https://shop/return"},
                    },
                },
            ),
            {"provider_references": ("pi_3E",)},
            {"verdict": Verdict.REQUIRES_ACTION, "next_action": None},
        ),
    )

    def order(self, **changes: Any) -> CollectOrder:
        return super().order(**{"method": "payment_intent", **changes})

    def sent_amount(self, wire: Wire) -> int:
        return int(wire.form["amount"])


async def test_the_whole_payment_intent_as_stripe_receives_it() -> None:
    wire = Wire(Reply(200, a_new_intent()))
    await wire.build(Stripe).collect(an_order(USD, method="payment_intent", return_url=None), CREDENTIALS)
    assert wire.form == {
        "amount": "4200",
        "currency": "usd",
        "automatic_payment_methods[enabled]": "true",
        "description": "Order 17",
        "metadata[reference]": REFERENCE,
        "metadata[transaction_id]": "019c0000-0000-7000-8000-000000000001",
    }
    assert wire.requests[0].headers["idempotency-key"] == REFERENCE
    assert wire.requests[0].headers["stripe-version"] == "2025-09-30.clover"


async def test_the_sdk_gets_the_publishable_key_where_there_is_one() -> None:
    credentials = StripeCredentials.model_validate({**PLAIN, "publishable_key": "pk_test_suite"})
    wire = Wire(Reply(200, a_new_intent()))
    result = await wire.build(Stripe).collect(an_order(USD, method="payment_intent"), credentials)
    assert result.next_action.fields == {"client_secret": CLIENT_SECRET, "publishable_key": "pk_test_suite"}


async def test_a_client_secret_is_for_the_customer_and_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    wire = Wire(Reply(200, a_new_intent()))
    adapter = wire.build(Stripe)
    result = await adapter.collect(an_order(USD, method="payment_intent"), CREDENTIALS)
    asked = await adapter.fetch(a_query(USD, INTENT_ID), CREDENTIALS)
    assert result.next_action.fields["client_secret"] == asked.next_action.fields["client_secret"] == CLIENT_SECRET
    assert CLIENT_SECRET not in caplog.text + repr(result) + repr(asked)
    told = (
        Wire()
        .build(Stripe)
        .translate(a_webhook(EventCase("", event("payment_intent.created", a_new_intent()), {}).content))
    )
    assert CLIENT_SECRET not in repr(told)
    assert not any(CLIENT_SECRET in str(request.url) for request in wire.requests)


# Refunds

PART = Money(1_500, "USD")
PAID = a_payment(USD, SESSION_ID, INTENT_ID, CHARGE_ID)
REFUSED = [
    ("charge_already_refunded", "already_refunded"),
    ("charge_disputed", "payment_disputed"),
    ("refund_disputed_payment", "payment_disputed"),
    ("charge_not_refundable", "not_refundable"),
    ("balance_insufficient", "insufficient_balance"),
    ("parameter_invalid_integer", "invalid_request"),
]
FAILED = [
    ("lost_or_stolen_card", "refund_failed"),
    ("expired_or_canceled_card", "refund_failed"),
    ("charge_for_pending_refund_disputed", "payment_disputed"),
    ("insufficient_funds", "insufficient_balance"),
    ("merchant_request", "refund_cancelled"),
    ("unknown", "refund_failed"),
    ("a_reason_nobody_knows", "refund_failed"),
]
STANDS = (
    Case(
        "succeeded",
        Reply(200, a_refund_object()),
        Verdict.COMPLETED,
        expected={"requested": PART, "paid": None, "reference": REFUND_REFERENCE, "provider_references": (REFUND_ID,)},
    ),
    Case("pending", Reply(200, a_refund_object("pending")), Verdict.PROCESSING, expected={"requested": PART}),
    Case("waits for somebody", Reply(200, a_refund_object("requires_action")), Verdict.REQUIRES_ACTION),
    Case("canceled", Reply(200, a_refund_object("canceled")), Verdict.DECLINED, "refund_cancelled"),
    *(
        Case(
            f"failed: {reason}", Reply(200, a_refund_object("failed", failure_reason=reason)), Verdict.DECLINED, failure
        )
        for reason, failure in FAILED
    ),
    Case("failed without a reason", Reply(200, a_refund_object("failed")), Verdict.DECLINED, "refund_failed"),
    Case("an invented status", Reply(200, a_refund_object("dreaming")), Verdict.UNKNOWN),
    Case("no status", Reply(200, a_refund_object(None)), Verdict.UNKNOWN),
    Case("another object", Reply(200, PAID_INTENT), Verdict.UNKNOWN),
)


def listed(*rows: dict[str, Any], has_more: bool = False) -> Reply:
    return Reply(200, {"object": "list", "data": list(rows), "has_more": has_more, "url": REFUNDS})


ELSEWHERE = a_refund_object(id="re_elsewhere", metadata={})
LONG_AGO = {"created_at": NOW - timedelta(hours=1)}


class TestStripeVerbs(VerbsContract):
    adapter = Stripe
    credentials = CREDENTIALS
    secrets = ("sk_test_suite_key", "whsec_suite_one")
    verbs = (
        Verb(
            "refund",
            (a_refund(PART, PAID),),
            accepted=Reply(200, a_refund_object()),
            path=REFUNDS,
            money=PART,
            cases=(
                *STANDS,
                *(
                    Case(f"refused: {code}", error(400, "invalid_request_error", code), Verdict.REFUSED, failure)
                    for code, failure in REFUSED
                ),
                Case(
                    "more than is left",
                    error(
                        400,
                        "invalid_request_error",
                        message="Refund amount ($60.00) is greater than unrefunded amount on charge ($42.00)",
                    ),
                    Verdict.REFUSED,
                    "amount_exceeds_payment",
                ),
                Case(
                    "of a payment of another account",
                    error(404, "invalid_request_error", "resource_missing"),
                    Verdict.REFUSED,
                    "configuration_error",
                ),
                Case("a wrong address", error(404, "invalid_request_error"), Verdict.UNKNOWN),
                Case("a card's error", error(402, "card_error", "card_declined"), Verdict.UNKNOWN),
                Case("invalid key", error(401, "invalid_request_error"), Verdict.REFUSED, "authentication_failed"),
                Case("too many", error(429, "invalid_request_error", "rate_limit"), Verdict.REFUSED, "rate_limited"),
                Case("same key, other parameters", error(400, "idempotency_error"), Verdict.UNKNOWN),
                Case(
                    "same key, still running",
                    error(409, "idempotency_error", "idempotency_key_in_use"),
                    Verdict.UNKNOWN,
                ),
                Case("server error", error(500, "api_error"), Verdict.UNKNOWN),
                Case(
                    "a server error that says the same",
                    error(500, "invalid_request_error", "charge_already_refunded"),
                    Verdict.UNKNOWN,
                ),
            ),
        ),
        Verb(
            "fetch_refund",
            (a_refund_query(PART, PAID, REFUND_ID),),
            accepted=Reply(200, a_refund_object()),
            path=f"{REFUNDS}/{REFUND_ID}",
            method="GET",
            asks=True,
            money=PART,
            cases=(
                *STANDS,
                Case("missing", error(404, "invalid_request_error", "resource_missing"), Verdict.UNKNOWN),
                Case("invalid key", error(401, "invalid_request_error"), Verdict.UNKNOWN),
                Case("server error", error(500, "api_error"), Verdict.UNKNOWN),
            ),
        ),
        Verb(
            "fetch_refund",
            (a_refund_query(PART, PAID, **LONG_AGO),),
            accepted=listed(ELSEWHERE, a_refund_object()),
            path=REFUNDS,
            method="GET",
            asks=True,
            money=PART,
            label="fetch_refund by our reference",
            cases=(
                Case(
                    "found by its metadata",
                    listed(ELSEWHERE, a_refund_object("pending"), a_refund_object(id="re_other", metadata={})),
                    Verdict.PROCESSING,
                    expected={"provider_references": (REFUND_ID,)},
                ),
                Case("one of the same amount that does not name us", listed(ELSEWHERE), Verdict.NOT_FOUND),
                Case("none", listed(), Verdict.NOT_FOUND),
                Case("not on this page", listed(ELSEWHERE, has_more=True), Verdict.UNKNOWN),
                Case("another list", Reply(200, {"object": "list", "data": ["re_1"]}), Verdict.UNKNOWN),
                Case("missing", error(404, "invalid_request_error", "resource_missing"), Verdict.UNKNOWN),
                Case("server error", error(500, "api_error"), Verdict.UNKNOWN),
            ),
        ),
        Verb(
            "fetch_refund",
            (a_refund_query(PART, PAID),),
            accepted=listed(a_refund_object()),
            path=REFUNDS,
            method="GET",
            asks=True,
            money=PART,
            label="fetch_refund of an order just sent",
            cases=(
                Case("found", listed(a_refund_object()), Verdict.COMPLETED),
                Case("not listed yet", listed(), Verdict.UNKNOWN),
            ),
        ),
    )


async def test_the_whole_refund_as_stripe_receives_it() -> None:
    wire = Wire(Reply(200, a_refund_object()))
    adapter = wire.build(Stripe)
    assert isinstance(adapter, Refunds)
    order = a_refund(PART, PAID)
    adapter.check_refund(order)
    await adapter.refund(order, CREDENTIALS)
    assert wire.form == {
        "payment_intent": INTENT_ID,
        "amount": "1500",
        "metadata[reference]": REFUND_REFERENCE,
        "metadata[transaction_id]": "019c0000-0000-7000-8000-000000000001",
        "metadata[reason]": "Returned goods",
    }
    assert wire.requests[0].headers["idempotency-key"] == REFUND_REFERENCE
    assert wire.requests[0].headers["stripe-version"] == "2025-09-30.clover"


async def test_the_whole_payment_is_given_back_by_its_amount_too() -> None:
    wire = Wire(Reply(200, a_refund_object(amount=70_000, currency="ugx")))
    amount = Money(700, "UGX")
    order = a_refund(amount, a_payment(amount, CHARGE_ID), reason=None)
    assert order.whole
    result = await wire.build(Stripe).refund(order, CREDENTIALS)
    assert (wire.form["amount"], wire.form["charge"]) == ("70000", CHARGE_ID)
    assert {"payment_intent", "metadata[reason]"} & set(wire.form) == set()
    assert result.requested == amount


@pytest.mark.parametrize(
    ("amount", "references", "pointer"),
    [
        (USD, (SESSION_ID,), ""),
        (USD, (), ""),
        (Money(5_131, "KWD"), (INTENT_ID,), "/amount"),
        (Money(12_350, "MGA"), (INTENT_ID,), "/amount"),
    ],
)
def test_a_refund_that_cannot_be_asked_for_points_at_the_reason(
    amount: Money, references: tuple[str, ...], pointer: str
) -> None:
    with pytest.raises(OrderNotAcceptable) as refusal:
        Wire().build(Stripe).check_refund(a_refund(amount, a_payment(amount, *references)))
    assert refusal.value.pointer == pointer


async def test_nothing_is_sent_about_a_payment_that_stripe_has_not_named() -> None:
    wire = Wire(Reply(200, a_refund_object()))
    adapter, payment = wire.build(Stripe), a_payment(USD, SESSION_ID)
    refused = await adapter.refund(a_refund(USD, payment), CREDENTIALS)
    assert (refused.verdict, refused.failure.code) == (Verdict.REFUSED, "payment_unknown")
    assert (await adapter.fetch_refund(a_refund_query(USD, payment), CREDENTIALS)).verdict is Verdict.UNKNOWN
    assert wire.requests == []


async def test_a_payments_refunds_are_listed_whole() -> None:
    wire = Wire(listed(a_refund_object()))
    await wire.build(Stripe).fetch_refund(a_refund_query(PART, PAID), CREDENTIALS)
    assert parameters(wire) == {"payment_intent": INTENT_ID, "limit": "100"}


@pytest.mark.parametrize("fields", [a_refund_object(amount=None), a_refund_object(object="charge")])
def test_a_refund_event_without_a_refund_is_malformed(fields: dict[str, Any]) -> None:
    body = EventCase("", event("refund.updated", fields), {}).content
    with pytest.raises(WebhookMalformed):
        Wire().build(Stripe).translate(a_webhook(body))


@pytest.mark.parametrize(
    ("kind", "fields", "verdict"),
    [
        (
            "refund.updated",
            {
                "id": "re_3A",
                "object": "refund",
                "amount": 500,
                "balance_transaction": "txn_3A",
                "charge": "ch_3A",
                "created": 1721948700,
                "currency": "usd",
                "destination_details": {"card": {"reference": "123", "type": "refund"}, "type": "card"},
                "metadata": {},
                "payment_intent": "pi_3A",
                "reason": "requested_by_customer",
                "status": "succeeded",
            },
            Verdict.COMPLETED,
        ),
        (
            "refund.failed",
            {
                "id": "re_3B",
                "object": "refund",
                "amount": 500,
                "charge": "ch_3A",
                "payment_intent": "pi_3A",
                "currency": "usd",
                "failure_balance_transaction": "txn_3B",
                "failure_reason": "expired_or_canceled_card",
                "status": "failed",
            },
            Verdict.DECLINED,
        ),
        (
            "charge.dispute.created",
            {
                "id": "dp_1A",
                "object": "dispute",
                "amount": 1000,
                "charge": "ch_3A",
                "created": 1721948800,
                "currency": "usd",
                "evidence_details": {"due_by": 1723679999, "has_evidence": False, "past_due": False},
                "is_charge_refundable": True,
                "livemode": False,
                "metadata": {},
                "payment_intent": "pi_3A",
                "reason": "fraudulent",
                "status": "needs_response",
            },
            Verdict.DISPUTED,
        ),
    ],
)
def test_documented_examples_are_found_by_their_payment(kind: str, fields: dict[str, Any], verdict: Verdict) -> None:
    (told,) = Wire().build(Stripe).translate(a_webhook(EventCase("", event(kind, fields), {}).content))
    assert (told.trust, told.references, told.result.verdict) == (Trust.SIGNED, (), verdict)
    assert {"pi_3A", "ch_3A"} <= {*told.provider_references, *told.payment_references}


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
    for references in (BOTH, (INTENT_ID,)):
        wire = Wire(Reply(200, expired()))
        await wire.build(Stripe).cancel(a_query(USD, *references), CREDENTIALS)
        specs.validate_request(spec, "POST", wire.requests[0].url.path)


async def test_payment_intents_and_refunds_fit_the_official_document() -> None:
    spec = specs.stripe()
    for amount in (USD, Money(500, "JPY"), Money(5_130, "KWD")):
        wire = Wire(Reply(200, a_new_intent()))
        await wire.build(Stripe).collect(an_order(amount, method="payment_intent"), CREDENTIALS)
        sent = wire.requests[0]
        specs.validate_request(spec, "POST", sent.url.path, sent.headers["content-type"], body=sent.content)
    for payment in (PAID, a_payment(USD, CHARGE_ID)):
        wire = Wire(Reply(200, a_refund_object()))
        await wire.build(Stripe).refund(a_refund(PART, payment), CREDENTIALS)
        sent = wire.requests[0]
        specs.validate_request(spec, "POST", sent.url.path, sent.headers["content-type"], body=sent.content)
        for query in (a_refund_query(PART, payment), a_refund_query(PART, payment, REFUND_ID)):
            wire = Wire(listed())
            await wire.build(Stripe).fetch_refund(query, CREDENTIALS)
            specs.validate_request(spec, "GET", wire.requests[0].url.path, params=parameters(wire))


@pytest.mark.parametrize(
    ("name", "renamed"),
    [("payment_intent", "intent"), ("amount", "value"), ("metadata[reference]", "meta[reference]")],
)
async def test_the_same_check_rejects_a_renamed_field_of_a_refund(name: str, renamed: str) -> None:
    wire = Wire(Reply(200, a_refund_object()))
    await wire.build(Stripe).refund(a_refund(PART, PAID), CREDENTIALS)
    form = {renamed if key == name else key: value for key, value in wire.form.items()}
    with pytest.raises(specs.SpecViolation):
        specs.validate_request(specs.stripe(), "POST", REFUNDS, "application/x-www-form-urlencoded", body=form)


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
