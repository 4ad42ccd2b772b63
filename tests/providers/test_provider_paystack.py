"""Paystack's adapter against replies in the shapes of paystack.com/docs (transactions, verify payments, webhooks, errors)."""

import hmac
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from payflow.core.money import Money
from payflow.gateway.contract import ActionType, Customer, NextAction, Operation, Verdict, WebhookRefused
from payflow.providers.paystack import Paystack, PaystackCredentials
from tests import specs
from tests.providers.contract_suite import (
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

CREDENTIALS = PaystackCredentials.model_validate({"secret_key": "sk_test_suite_one"})
OTHER = PaystackCredentials.model_validate({"secret_key": "sk_test_suite_two"})
EMPTY = PaystackCredentials.model_construct(secret_key=type(CREDENTIALS.secret_key)(""))

NGN = Money(500_000, "NGN")
PAGE = "https://checkout.paystack.com/8b1d0f6c2a7e"
ACCEPTED = {
    "status": True,
    "message": "Authorization URL created",
    "data": {"authorization_url": PAGE, "access_code": "8b1d0f6c2a7e", "reference": REFERENCE},
}


def a_transaction(**changes: Any) -> dict[str, Any]:
    return {
        "id": 5_210_447_301,
        "domain": "test",
        "status": "success",
        "reference": REFERENCE,
        "receipt_number": None,
        "amount": 507_614,
        "message": None,
        "gateway_response": "Successful",
        "paid_at": "2026-03-04T09:31:02.000Z",
        "channel": "card",
        "currency": "NGN",
        "metadata": {"transaction_id": "019c0000-0000-7000-8000-000000000001"},
        "fees": 7_614,
        "requested_amount": 500_000,
    } | changes


def verified(**changes: Any) -> Reply:
    return Reply(200, {"status": True, "message": "Verification successful", "data": a_transaction(**changes)})


def refusal(status: int, message: str, code: str | None = None) -> Reply:
    more = {"type": "validation_error", "code": code, "meta": {"nextStep": "Read the documentation"}} if code else {}
    return Reply(status, {"status": False, "message": message, **more})


def event(name: str, data: Any) -> dict[str, Any]:
    return {"event": name, "data": data}


REFUND = {
    "status": "processed",
    "transaction_reference": REFERENCE,
    "refund_reference": "881207734",
    "amount": "5000",
    "currency": "NGN",
    "processor": "mpgs_zen",
}
METADATA: tuple[Any, ...] = ("", 0, None, {}, '{"a":1}')
PAID = {"verdict": Verdict.COMPLETED, "requested": NGN, "paid": Money(507_614, "NGN"), "fee": Money(7_614, "NGN")}


class TestPaystackContract(SignedWebhooks, ProviderContract):
    adapter = Paystack
    credentials = CREDENTIALS
    secrets = ("sk_test_suite_one",)
    bad_credentials: ClassVar = {"secret_key": "looks-wrong"}
    other_credentials = OTHER
    empty_credentials = EMPTY
    signature_header = "x-paystack-signature"
    amount = NGN
    provider_references = ("5210447301",)
    collect_path = "/transaction/initialize"
    accepted = Reply(200, ACCEPTED)
    completed = verified()
    completed_money = (NGN, Money(507_614, "NGN"))

    collect_cases = (
        Case(
            "accepted",
            accepted,
            Verdict.REQUIRES_ACTION,
            expected={
                "reference": REFERENCE,
                "provider_references": (),
                "next_action": NextAction(ActionType.REDIRECT, url=PAGE),
                "checkout_url": PAGE,
            },
        ),
        Case("accepted without a page", Reply(200, {**ACCEPTED, "data": {"reference": REFERENCE}}), Verdict.UNKNOWN),
        Case(
            "accepted with a page that is no address",
            Reply(200, {**ACCEPTED, "data": {**ACCEPTED["data"], "authorization_url": "javascript:alert(1)"}}),  # type: ignore[dict-item]
            Verdict.UNKNOWN,
        ),
        Case(
            "duplicate reference",
            refusal(400, "Duplicate Transaction Reference", "duplicate_reference"),
            Verdict.UNKNOWN,
            expected={"raw_status": "400 duplicate_reference", "expirable": False},
        ),
        Case("duplicate, older shape", refusal(400, "Duplicate Transaction Reference"), Verdict.UNKNOWN),
        Case(
            "duplicate under another code",
            refusal(400, "Duplicate Transaction Reference", "invalid_params"),
            Verdict.UNKNOWN,
        ),
        Case("invalid key", refusal(401, "Invalid key"), Verdict.REFUSED, "authentication_failed"),
        Case("no key", refusal(401, "No Authorization Header was found"), Verdict.REFUSED, "authentication_failed"),
        Case("invalid parameters", refusal(400, "Odd", "invalid_params"), Verdict.REFUSED, "invalid_request"),
        Case("missing parameters", refusal(400, "Odd", "missing_params"), Verdict.REFUSED, "invalid_request"),
        Case("invalid amount", refusal(400, "Invalid Amount Sent"), Verdict.REFUSED, "invalid_request"),
        Case(
            "currency of another account",
            refusal(400, "Currency not supported by merchant", "unsupported_currency"),
            Verdict.REFUSED,
            "unsupported_currency",
        ),
        Case("too many", refusal(429, "Too many requests"), Verdict.REFUSED, "rate_limited"),
        Case("too many, as a page", Reply(429, b"<html>slow down</html>"), Verdict.REFUSED, "rate_limited"),
        Case("unlisted code", refusal(400, "Odd", "invented_code"), Verdict.UNKNOWN),
        Case("unlisted message", refusal(400, "A sentence nobody knows."), Verdict.UNKNOWN),
        Case("known code under an unlisted status", refusal(422, "Odd", "invalid_params"), Verdict.UNKNOWN),
        Case("200 that says no beside a page", Reply(200, {**ACCEPTED, "status": False}), Verdict.UNKNOWN),
        Case("200 that says no", refusal(200, "Odd", "invalid_params"), Verdict.UNKNOWN),
        Case("server error", refusal(500, "An error occurred", "unknown"), Verdict.UNKNOWN),
    )
    fetch_cases = (
        Case(
            "success",
            completed,
            Verdict.COMPLETED,
            expected={
                "raw_status": "success",
                "reference": REFERENCE,
                "provider_references": ("5210447301",),
                "requested": NGN,
                "paid": Money(507_614, "NGN"),
                "fee": Money(7_614, "NGN"),
                "expirable": False,
                "amount_bound": False,
            },
        ),
        Case("success without fees", verified(fees=None), Verdict.COMPLETED, expected={"fee": None}),
        Case(
            "success of an older shape",
            Reply(
                200,
                {
                    "status": True,
                    "data": {k: v for k, v in a_transaction().items() if k not in ("requested_amount", "fees")},
                },
            ),
            Verdict.COMPLETED,
            expected={"requested": None, "paid": Money(507_614, "NGN"), "fee": None},
        ),
        Case(
            "another amount", verified(requested_amount=1), Verdict.COMPLETED, expected={"requested": Money(1, "NGN")}
        ),
        Case(
            "another currency",
            verified(currency="USD"),
            Verdict.COMPLETED,
            expected={"requested": Money(500_000, "USD")},
        ),
        Case("more than there is", verified(amount=10**16), Verdict.UNKNOWN),
        Case("no currency", verified(currency="???"), Verdict.UNKNOWN),
        Case(
            "another reference",
            verified(reference="someone-elses"),
            Verdict.COMPLETED,
            expected={"reference": "someone-elses"},
        ),
        Case(
            "hundredths of a franc",
            verified(currency="XOF", amount=150_000, requested_amount=150_000, fees=2_500),
            Verdict.COMPLETED,
            expected={"requested": Money(1_500, "XOF"), "paid": Money(1_500, "XOF"), "fee": Money(25, "XOF")},
        ),
        Case(
            "half a franc",
            verified(currency="XOF", amount=150_050, requested_amount=150_050, fees=None),
            Verdict.UNKNOWN,
        ),
        Case(
            "abandoned",
            verified(status="abandoned", fees=None, gateway_response="The transaction was not completed"),
            Verdict.REQUIRES_ACTION,
            expected={"expirable": True, "paid": None, "session_open": False, "next_action": None},
        ),
        *(
            Case(
                word, verified(status=word, fees=None), Verdict.PROCESSING, expected={"expirable": False, "paid": None}
            )
            for word in ("ongoing", "pending", "processing", "queued")
        ),
        Case(
            "failed",
            verified(status="failed", gateway_response="Declined", fees=None),
            Verdict.DECLINED,
            "declined",
            expected={"session_open": True, "expirable": True, "paid": None},
        ),
        Case(
            "failed for lack of money",
            verified(status="failed", gateway_response="Insufficient Funds"),
            Verdict.DECLINED,
            "insufficient_funds",
        ),
        Case(
            "reversed", verified(status="reversed"), Verdict.REVERSED, expected={"requested": NGN, "expirable": False}
        ),
        Case(
            "an invented status",
            verified(status="sleeping"),
            Verdict.UNKNOWN,
            expected={"raw_status": "sleeping", "paid": None, "expirable": False},
        ),
        Case("the envelope's word is not the payment's", verified(status=True), Verdict.UNKNOWN),
        Case(
            "not found, as observed",
            refusal(400, "Transaction reference not found.", "transaction_not_found"),
            Verdict.NOT_FOUND,
            expected={"expirable": True},
        ),
        Case(
            "not found, older",
            refusal(400, "Transaction reference not found"),
            Verdict.NOT_FOUND,
            expected={"expirable": True},
        ),
        Case(
            "not found, as documented",
            refusal(404, "Entity not found"),
            Verdict.NOT_FOUND,
            expected={"expirable": True},
        ),
        Case("a wrong address", refusal(404, "Cannot GET /transaction"), Verdict.UNKNOWN),
        Case("invalid key", refusal(401, "Invalid key"), Verdict.UNKNOWN, expected={"raw_status": "401 Invalid key"}),
        Case("too many", refusal(429, "Too many requests"), Verdict.UNKNOWN),
        Case("server error", refusal(500, "An error occurred", "unknown"), Verdict.UNKNOWN),
    )
    amount_cases = (
        AmountCase(Money(500_000, "NGN"), 500_000),
        AmountCase(Money(1, "GHS"), 1),
        AmountCase(Money(1_500, "XOF"), 150_000),
        AmountCase(Money(200, "USD"), 200),
    )
    refused_orders = (
        RefusedOrder("a currency it does not take", {"amount": Money(100, "EUR")}, "/currency"),
        RefusedOrder("a method it does not offer", {"method": "cheque"}, "/method"),
        RefusedOrder("no email address", {"customer": Customer(phone="+2348012345678")}, "/customer/email"),
    )
    event_cases = (
        EventCase(
            "charge.success",
            event("charge.success", a_transaction()),
            {
                "type": "charge.success",
                "operation": Operation.COLLECT,
                "dedupe_key": "charge.success:5210447301",
                "references": (REFERENCE,),
                "provider_references": ("5210447301",),
            },
            PAID,
        ),
        EventCase(
            "charge.success of an older shape",
            event(
                "charge.success",
                {
                    "id": 302_962,
                    "status": "success",
                    "reference": "old17",
                    "amount": 10_000,
                    "currency": "NGN",
                    "fees": None,
                    "metadata": 0,
                },
            ),
            {"dedupe_key": "charge.success:302962", "references": ("old17",)},
            {"verdict": Verdict.COMPLETED, "requested": None, "paid": Money(10_000, "NGN"), "fee": None},
        ),
        *(
            EventCase(f"metadata {metadata!r}", event("charge.success", a_transaction(metadata=metadata)), {}, PAID)
            for metadata in METADATA
        ),
        EventCase(
            "charge.success that is none",
            event("charge.success", a_transaction(status="failed")),
            {},
            {"verdict": Verdict.DECLINED},
            "declined",
        ),
        *(
            EventCase(
                f"refund.{word}",
                event(f"refund.{word}", {**REFUND, "status": word}),
                {"operation": Operation.REFUND, "dedupe_key": None, "references": (REFERENCE,)},
            )
            for word in ("pending", "processing", "processed", "failed", "needs-attention")
        ),
        EventCase(
            "charge.dispute.create",
            event(
                "charge.dispute.create",
                {
                    "id": 2_867,
                    "status": "awaiting-merchant-feedback",
                    "transaction": {"id": 5_210_447_301, "reference": REFERENCE},
                },
            ),
            {"dedupe_key": "charge.dispute.create:2867", "references": (REFERENCE,)},
        ),
        EventCase(
            "charge.dispute.remind",
            event("charge.dispute.remind", {"id": 2_867, "transaction_reference": REFERENCE}),
            {"dedupe_key": None, "references": (REFERENCE,)},
        ),
        EventCase(
            "transfer.success",
            event("transfer.success", {"id": 77, "reference": "payout-17", "transfer_code": "TRF_1"}),
            {"operation": Operation.PAYOUT, "references": ("payout-17",), "dedupe_key": None},
        ),
        EventCase(
            "an event nobody knows",
            event("invented.event", {"id": 1}),
            {"type": "invented.event", "references": (), "dedupe_key": None},
        ),
        EventCase(
            "an event with a list", event("subscription.expiring_cards", [{"brand": "visa"}]), {"references": ()}
        ),
    )

    def sent_amount(self, wire: Wire) -> int:
        amount: int = wire.json["amount"]
        return amount

    def sign(self, body: bytes, credentials: PaystackCredentials) -> Mapping[str, str]:  # type: ignore[override]
        key = credentials.secret_key.get_secret_value().encode()
        return {"x-paystack-signature": hmac.digest(key, body, "sha512").hex()}


async def test_the_whole_order_as_paystack_receives_it() -> None:
    wire = Wire(Reply(200, ACCEPTED))
    await wire.build(Paystack).collect(an_order(NGN, method="mobile_money"), CREDENTIALS)
    assert wire.json == {
        "reference": REFERENCE,
        "amount": 500_000,
        "currency": "NGN",
        "email": "ada@customer.example",
        "metadata": {"transaction_id": "019c0000-0000-7000-8000-000000000001"},
        "channels": ["mobile_money"],
        "callback_url": "https://shop.example/thanks",
    }
    assert wire.requests[0].headers["authorization"] == "Bearer sk_test_suite_one"
    assert wire.requests[0].headers["content-type"] == "application/json"


async def test_what_the_order_leaves_open_is_left_to_paystack() -> None:
    wire = Wire(Reply(200, ACCEPTED))
    await wire.build(Paystack).collect(an_order(NGN, return_url=None), CREDENTIALS)
    assert set(wire.json) == {"reference", "amount", "currency", "email", "metadata"}


async def test_a_query_asks_by_our_reference() -> None:
    wire = Wire(verified())
    await wire.build(Paystack).fetch(a_query(NGN), CREDENTIALS)
    assert wire.requests[0].method == "GET"
    assert wire.requests[0].url.raw_path == f"/transaction/verify/{REFERENCE}".encode()


def test_the_signature_is_hmac_sha512_of_the_body_under_the_secret_key() -> None:
    # RFC 4231, test case 2: the published answer of HMAC-SHA-512 for this key and text.
    credentials = PaystackCredentials.model_construct(secret_key=type(CREDENTIALS.secret_key)("Jefe"))
    known = (
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    )
    adapter, body = Wire().build(Paystack), b"what do ya want for nothing?"
    adapter.verify_webhook(a_webhook(body, {"x-paystack-signature": known}), [credentials])
    with pytest.raises(WebhookRefused):
        adapter.verify_webhook(a_webhook(body, {"x-paystack-signature": known[:-1] + "6"}), [credentials])


def test_the_addresses_that_paystack_publishes_are_declared() -> None:
    assert Paystack.declaration.webhook_sources == {"52.31.139.75", "52.49.173.169", "52.214.14.220"}
    assert Paystack.declaration.webhook_answer == b"{}"
    assert not Paystack.declaration.webhook_token


async def test_every_request_fits_the_official_document() -> None:
    spec = specs.paystack()
    orders: list[dict[str, Any]] = [{}, {"return_url": None}]
    for changes in orders + [{"method": method} for method in Paystack.declaration.methods]:
        wire = Wire(Reply(200, ACCEPTED))
        await wire.build(Paystack).collect(an_order(NGN, **changes), CREDENTIALS)
        specs.validate_request(spec, "POST", "/transaction/initialize", "application/json", body=wire.json)
    specs.validate_request(spec, "GET", f"/transaction/verify/{REFERENCE}")


@pytest.mark.parametrize(
    ("name", "renamed"), [("email", "mail"), ("callback_url", "callbackUrl"), ("channels", "channel")]
)
async def test_the_same_check_rejects_a_renamed_field(name: str, renamed: str) -> None:
    wire = Wire(Reply(200, ACCEPTED))
    await wire.build(Paystack).collect(an_order(NGN, method="card"), CREDENTIALS)
    body = {renamed if key == name else key: value for key, value in wire.json.items()}
    with pytest.raises(specs.SpecViolation):
        specs.validate_request(specs.paystack(), "POST", "/transaction/initialize", "application/json", body=body)
