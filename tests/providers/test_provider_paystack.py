"""Paystack's adapter against replies in the shapes of paystack.com/docs (transactions, verify payments, webhooks, errors)."""

import dataclasses
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from payflow.core.money import Money
from payflow.gateway.contract import (
    AccountHolder,
    ActionType,
    Bank,
    CollectOrder,
    Customer,
    Destination,
    DestinationType,
    LookupFailed,
    NextAction,
    Operation,
    OrderNotAcceptable,
    PaymentDetails,
    Query,
    Submission,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRefused,
)
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
from tests.providers.verbs_suite import (
    PAYMENT_REFERENCE,
    REFUND_REFERENCE,
    Verb,
    VerbsContract,
    a_payment,
    a_payout,
    a_payout_query,
    a_refund,
    a_refund_query,
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


REFUND_EVENT = {
    "status": "processed",
    "transaction_reference": REFERENCE,
    "refund_reference": "881207734",
    "amount": "5000",
    "currency": "NGN",
    "processor": "mpgs_zen",
}


def a_refund_row(**changes: Any) -> dict[str, Any]:
    return {
        "id": 3_018_284,
        "transaction": 5_210_447_301,
        "transaction_reference": PAYMENT_REFERENCE,
        "dispute": None,
        "currency": "NGN",
        "amount": 20_000,
        "status": "pending",
        "merchant_note": f"Returned goods [ref {REFUND_REFERENCE}]",
        "fully_deducted": 0,
    } | changes


def listed(*rows: dict[str, Any]) -> Reply:
    return Reply(
        200, {"status": True, "message": "Refunds retrieved", "data": list(rows), "meta": {"total": len(rows)}}
    )


def a_dispute(**changes: Any) -> dict[str, Any]:
    return {
        "id": 2_867,
        "refund_amount": 507_614,
        "currency": "NGN",
        "status": "resolved",
        "resolution": "merchant-accepted",
        "transaction": {"id": 5_210_447_301, "reference": REFERENCE, "amount": 507_614, "currency": "NGN"},
        "transaction_reference": None,
        "category": "chargeback",
    } | changes


def a_transfer(**changes: Any) -> dict[str, Any]:
    return {
        "amount": 100_000,
        "currency": "NGN",
        "domain": "test",
        "failures": None,
        "id": 860_703_114,
        "reference": REFUND_REFERENCE,
        "source": "balance",
        "status": "success",
        "transfer_code": "TRF_v5tip3zx8nna9o78",
        "transferred_at": None,
        "recipient": {"id": 56_824_902, "recipient_code": "RCP_gd9vgag7n5lr5ix"},
        "session": {"provider": None, "id": None},
        "fee_charged": 1_000,
        "gateway_response": None,
    } | changes


TRANSFER_IDS = ("TRF_v5tip3zx8nna9o78", "860703114")
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
    preliminary: ClassVar = {"/refund": listed()}
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
        Case("fees that nobody can read", verified(fees=76.145), Verdict.COMPLETED, expected={"fee": None}),
        Case(
            "fees in hundredths of a franc",
            verified(currency="XOF", amount=260_000, requested_amount=260_000, fees=10_150),
            Verdict.COMPLETED,
            expected={"paid": Money(2_600, "XOF"), "fee": Money(102, "XOF")},
        ),
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
                f"refund.{word}, amount {amount!r}",
                event(f"refund.{word}", {**REFUND_EVENT, "status": word, "amount": amount, "refund_reference": None}),
                {
                    "operation": Operation.REFUND,
                    "dedupe_key": None,
                    "references": (),
                    "provider_references": (),
                    "payment_references": (REFERENCE,),
                },
                {"verdict": verdict, "requested": Money(5_000, "NGN"), "provider_references": ()},
                failure,
            )
            for word, verdict, failure in (
                ("pending", Verdict.PROCESSING, None),
                ("processing", Verdict.PROCESSING, None),
                ("processed", Verdict.COMPLETED, None),
                ("failed", Verdict.DECLINED, "refund_failed"),
                ("needs-attention", Verdict.REQUIRES_ACTION, None),
            )
            for amount in ("5000", 5_000)
        ),
        EventCase(
            "refund.needs-attention with an id and our note",
            event(
                "refund.needs-attention",
                {
                    **REFUND_EVENT,
                    "status": "needs-attention",
                    "amount": 5_306,
                    "id": "123456",
                    "merchant_note": "x [ref att17]",
                },
            ),
            {"references": ("att17",), "provider_references": ("123456",), "payment_references": (REFERENCE,)},
            {"verdict": Verdict.REQUIRES_ACTION, "requested": Money(5_306, "NGN"), "reference": "att17"},
        ),
        EventCase(
            "a refund event of a status nobody knows",
            event("refund.processed", {**REFUND_EVENT, "status": "sleeping"}),
            {"dedupe_key": None},
            {"verdict": Verdict.UNKNOWN},
        ),
        EventCase(
            "charge.dispute.create",
            event(
                "charge.dispute.create",
                a_dispute(status="awaiting-merchant-feedback", resolution=None, refund_amount=None),
            ),
            {
                "operation": Operation.COLLECT,
                "dedupe_key": "charge.dispute.create:2867",
                "references": (REFERENCE,),
                "provider_references": ("5210447301",),
            },
            {"verdict": Verdict.DISPUTED, "paid": None},
        ),
        EventCase(
            "charge.dispute.remind",
            event("charge.dispute.remind", {"id": 2_867, "transaction_reference": REFERENCE}),
            {"dedupe_key": None, "references": (REFERENCE,)},
        ),
        *(
            EventCase(
                f"charge.dispute.resolve, {word}",
                event("charge.dispute.resolve", a_dispute(resolution=word, refund_amount=amount)),
                {"dedupe_key": "charge.dispute.resolve:2867", "references": (REFERENCE,)},
                {"verdict": verdict},
            )
            for word, amount, verdict in (
                ("merchant-accepted", 507_614, Verdict.REVERSED),
                ("auto-accepted", "507614", Verdict.REVERSED),
                ("declined", None, Verdict.DISPUTE_WON),
                ("invented", 507_614, Verdict.UNKNOWN),
            )
        ),
        EventCase(
            "a dispute that takes a part",
            event("charge.dispute.resolve", a_dispute(refund_amount=10_000)),
            {
                "dedupe_key": "charge.dispute.resolve:2867",
                "references": (REFERENCE,),
                "provider_references": ("5210447301",),
            },
            {"verdict": Verdict.REVERSED, "requested": Money(10_000, "NGN"), "paid": Money(507_614, "NGN")},
        ),
        *(
            EventCase(
                f"transfer.{word}",
                event(f"transfer.{word}", a_transfer(status=word)),
                {
                    "operation": Operation.PAYOUT,
                    "references": (REFUND_REFERENCE,),
                    "provider_references": TRANSFER_IDS,
                    "dedupe_key": f"transfer.{word}:860703114",
                },
                {"verdict": verdict, "requested": Money(100_000, "NGN"), "reference": REFUND_REFERENCE, "fee": fee},
                failure,
            )
            for word, verdict, fee, failure in (
                ("success", Verdict.COMPLETED, Money(1_000, "NGN"), None),
                ("failed", Verdict.DECLINED, None, "transfer_failed"),
                ("reversed", Verdict.REVERSED, None, None),
            )
        ),
        EventCase(
            "bank.transfer.rejected",
            event(
                "bank.transfer.rejected",
                {
                    "bank_transfer": {
                        "amount": "30000",
                        "message_type": "INCORRECT_AMOUNT",
                        "transaction_id": "3103959930",
                    }
                },
            ),
            {"references": (), "provider_references": ("3103959930",), "dedupe_key": None},
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

    def test_every_event_is_declared_as_signed(self, event_case: EventCase) -> None:
        """But for those of refunds, which can't be told apart: they are asked about, however genuine."""
        (found,) = Wire().build(self.adapter).translate(a_webhook(event_case.content))
        if found.operation is Operation.REFUND:
            assert (found.trust, found.dedupe_key) == (Trust.CONFIRM, None)
        else:
            assert found.trust is Trust.SIGNED

    def sent_amount(self, wire: Wire) -> int:
        amount: int = wire.json["amount"]
        return amount

    def sign(self, body: bytes, credentials: PaystackCredentials) -> Mapping[str, str]:  # type: ignore[override]
        key = credentials.secret_key.get_secret_value().encode()
        return {"x-paystack-signature": hmac.digest(key, body, "sha512").hex()}


@pytest.mark.parametrize("reply", [refusal(400, "Transaction reference not found"), refusal(404, "Entity not found")])
async def test_not_found_after_an_answer_speaks_of_the_key_and_proves_nothing(reply: Reply) -> None:
    """A key of another account or mode finds nothing of what may have been paid under the one before."""
    query = dataclasses.replace(a_query(NGN), answered=True)
    result = await Wire(reply).build(Paystack).fetch(query, CREDENTIALS)
    assert (result.verdict, result.expirable) == (Verdict.NOT_FOUND, False)


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


# --- Beyond collecting ----------------------------------------------------------------------------------------------

PAYMENT = a_payment(NGN, "5210447301")
PART = Money(20_000, "NGN")
PAYOUT = Money(100_000, "NGN")
ACCOUNT = Destination(DestinationType.BANK_ACCOUNT, "Ada Obi", "057", "0000000000")
PHONE = Destination(DestinationType.MOBILE_MONEY, "Ama Mensah", "MTN", phone="+233551234987")
DIRECT_METADATA = {"transaction_id": "019c0000-0000-7000-8000-000000000001", "charge": "direct"}


def charged(**data: Any) -> Reply:
    return Reply(200, {"status": True, "message": "Charge attempted", "data": {"reference": REFERENCE, **data}})


def refund_answer(**changes: Any) -> Reply:
    row = a_refund_row(**changes) | {"transaction": {"id": 5_210_447_301, "reference": PAYMENT_REFERENCE}}
    return Reply(200, {"status": True, "message": "Refund has been queued for processing", "data": row})


def refund_found(**changes: Any) -> Reply:
    return Reply(200, {"status": True, "message": "Refund retrieved", "data": a_refund_row(**changes)})


def transfer_answer(**changes: Any) -> Reply:
    return Reply(200, {"status": True, "message": "Transfer has been queued", "data": a_transfer(**changes)})


RECIPIENT = Reply(
    201,
    {
        "status": True,
        "message": "Transfer recipient created successfully",
        "data": {"recipient_code": "RCP_gd9vgag7n5lr5ix", "type": "nuban"},
    },
)
REFUND_STATES = (
    ("pending", Verdict.PROCESSING, None),
    ("processing", Verdict.PROCESSING, None),
    ("processed", Verdict.COMPLETED, None),
    ("failed", Verdict.DECLINED, "refund_failed"),
    ("needs-attention", Verdict.REQUIRES_ACTION, None),
    ("sleeping", Verdict.UNKNOWN, None),
)
TRANSFER_STATES = (
    ("pending", Verdict.PROCESSING, None),
    ("received", Verdict.PROCESSING, None),
    ("processing", Verdict.PROCESSING, None),
    ("success", Verdict.COMPLETED, None),
    ("failed", Verdict.DECLINED, "transfer_failed"),
    ("blocked", Verdict.DECLINED, "transfer_failed"),
    ("rejected", Verdict.DECLINED, "transfer_failed"),
    ("abandoned", Verdict.DECLINED, "expired"),
    ("reversed", Verdict.REVERSED, None),
    ("sleeping", Verdict.UNKNOWN, None),
)
REFUND_TOLD = {
    "requested": PART,
    "provider_references": ("3018284",),
    "reference": REFUND_REFERENCE,
    "next_action": None,
}
TRANSFER_TOLD = {"requested": PAYOUT, "provider_references": TRANSFER_IDS, "reference": REFUND_REFERENCE}
OTP_ASKED = NextAction(ActionType.OTP, display_text="Please send OTP")
REFUSED_EVERYWHERE = (
    Case("invalid key", refusal(401, "Invalid key"), Verdict.REFUSED, "authentication_failed"),
    Case("too many", refusal(429, "Too many requests"), Verdict.REFUSED, "rate_limited"),
    Case("too many, as a page", Reply(429, b"<html>slow down</html>"), Verdict.REFUSED, "rate_limited"),
    Case("unlisted code", refusal(400, "Odd", "invented_code"), Verdict.UNKNOWN),
    Case("200 that says no", refusal(200, "Odd", "invalid_params"), Verdict.UNKNOWN),
    Case("server error", refusal(500, "An error occurred", "unknown"), Verdict.UNKNOWN),
)


def a_submission(kind: ActionType, value: str) -> Submission:
    return Submission(kind, SecretStr(value))


def a_payout_otp() -> Query:
    return a_payout_query(PAYOUT, *TRANSFER_IDS)


class TestPaystackVerbs(VerbsContract):
    adapter = Paystack
    credentials = CREDENTIALS
    secrets = ("sk_test_suite_one",)
    preliminary: ClassVar = {"/transferrecipient": RECIPIENT}
    verbs = (
        Verb(
            "refund",
            (a_refund(PART, PAYMENT),),
            accepted=refund_answer(),
            path="/refund",
            money=PART,
            cases=(
                *(
                    Case(word, refund_answer(status=word), verdict, failure, REFUND_TOLD)
                    for word, verdict, failure in REFUND_STATES
                ),
                Case(
                    "fully reversed",
                    refusal(400, "Transaction has been fully reversed", "transaction_reversed"),
                    Verdict.REFUSED,
                    "already_refunded",
                ),
                Case(
                    "too little money",
                    refusal(400, "Low", "insufficient_balance"),
                    Verdict.REFUSED,
                    "insufficient_balance",
                ),
                Case(
                    "more than is left", refusal(400, "Too much", "invalid_params"), Verdict.REFUSED, "invalid_request"
                ),
                Case(
                    "no such payment", refusal(404, "None", "transaction_not_found"), Verdict.REFUSED, "invalid_request"
                ),
                Case("a duplicate", refusal(400, "Duplicate refund", "invalid_params"), Verdict.UNKNOWN),
                Case("no amount", refund_answer(amount=None), Verdict.UNKNOWN),
                *REFUSED_EVERYWHERE,
            ),
        ),
        Verb(
            "fetch_refund",
            (a_refund_query(PART, PAYMENT, "3018284"),),
            accepted=refund_found(status="processed"),
            path="/refund/3018284",
            method="GET",
            asks=True,
            money=PART,
            label="fetch_refund by id",
            cases=(
                *(
                    Case(word, refund_found(status=word), verdict, failure, REFUND_TOLD)
                    for word, verdict, failure in REFUND_STATES
                ),
                Case("amount as text", refund_found(amount="20000"), Verdict.PROCESSING, expected=REFUND_TOLD),
                Case(
                    "a refund of another payment",
                    refund_found(status="processed", transaction=1, transaction_reference="another"),
                    Verdict.UNKNOWN,
                ),
                Case("no such refund", refusal(404, "Refund not found"), Verdict.UNKNOWN),
                Case("too many", refusal(429, "Too many requests"), Verdict.UNKNOWN),
            ),
        ),
        Verb(
            "fetch_refund",
            (a_refund_query(PART, PAYMENT, taken=("77",)),),
            accepted=listed(a_refund_row(status="processed")),
            path="/refund",
            method="GET",
            asks=True,
            money=PART,
            label="fetch_refund by the list",
            cases=(
                Case("by our name", listed(a_refund_row()), Verdict.PROCESSING, expected=REFUND_TOLD),
                Case(
                    "our name before the amount",
                    listed(a_refund_row(), a_refund_row(id=5, merchant_note=None)),
                    Verdict.PROCESSING,
                    expected=REFUND_TOLD,
                ),
                Case(
                    "by the amount where none bears a name",
                    listed(a_refund_row(id=6, amount=1, merchant_note=""), a_refund_row(id=5, merchant_note="by hand")),
                    Verdict.PROCESSING,
                    expected={"provider_references": ("5",), "reference": None},
                ),
                Case(
                    "the oldest of two",
                    listed(a_refund_row(id=6, merchant_note=""), a_refund_row(id=5, merchant_note="")),
                    Verdict.PROCESSING,
                    expected={"provider_references": ("5",)},
                ),
                Case("taken already", listed(a_refund_row(id=77, merchant_note="")), Verdict.UNKNOWN),
                Case("another's name", listed(a_refund_row(merchant_note="x [ref attanother]")), Verdict.UNKNOWN),
                Case("another currency", listed(a_refund_row(merchant_note="", currency="GHS")), Verdict.UNKNOWN),
                Case(
                    "another payment's, as the filter may not be heeded",
                    listed(a_refund_row(transaction=1, transaction_reference="another")),
                    Verdict.UNKNOWN,
                ),
                Case("none", listed(), Verdict.UNKNOWN, expected={"raw_status": "not in the list"}),
                Case("refused", refusal(400, "Odd", "invalid_params"), Verdict.UNKNOWN),
            ),
        ),
        Verb(
            "pay_out",
            (a_payout(PAYOUT, ACCOUNT),),
            accepted=transfer_answer(),
            path="/transfer",
            money=PAYOUT,
            cases=(
                *(
                    Case(word, transfer_answer(status=word), verdict, failure, {**TRANSFER_TOLD, "next_action": None})
                    for word, verdict, failure in TRANSFER_STATES
                ),
                Case("otp", transfer_answer(status="otp"), Verdict.REQUIRES_ACTION, expected=TRANSFER_TOLD),
                Case("another transfer", transfer_answer(status="failed", reference="another"), Verdict.UNKNOWN),
                Case("a reference used twice", refusal(400, "Duplicate Transfer Reference"), Verdict.UNKNOWN),
                Case(
                    "a reference used twice, under a listed code",
                    refusal(400, "Duplicate Transfer Reference", "invalid_params"),
                    Verdict.UNKNOWN,
                ),
                Case(
                    "too little money",
                    refusal(400, "Your balance is not enough to fulfil this request", "insufficient_balance"),
                    Verdict.REFUSED,
                    "insufficient_balance",
                ),
                Case(
                    "a recipient it does not know",
                    refusal(400, "Recipient specified is invalid", "invalid_transfer_recipient"),
                    Verdict.REFUSED,
                    "invalid_recipient",
                ),
                Case(
                    "a business that may not",
                    refusal(400, "You cannot initiate third party payouts as a starter business"),
                    Verdict.REFUSED,
                    "configuration_error",
                ),
                *REFUSED_EVERYWHERE,
            ),
        ),
        Verb(
            "fetch_payout",
            (a_payout_query(PAYOUT),),
            accepted=transfer_answer(),
            path=f"/transfer/verify/{REFUND_REFERENCE}",
            method="GET",
            asks=True,
            money=PAYOUT,
            cases=(
                *(
                    Case(word, transfer_answer(status=word), verdict, failure)
                    for word, verdict, failure in TRANSFER_STATES
                ),
                Case("otp", transfer_answer(status="otp"), Verdict.REQUIRES_ACTION, expected=TRANSFER_TOLD),
                Case("without a fee", transfer_answer(fee_charged=None), Verdict.COMPLETED, expected={"fee": None}),
                Case("not found", refusal(404, "Transfer not found"), Verdict.NOT_FOUND, expected={"expirable": False}),
                *(
                    Case(
                        f"another transfer, {word}", transfer_answer(status=word, reference="another"), Verdict.UNKNOWN
                    )
                    for word in ("success", "failed", "reversed", "otp")
                ),
                Case("a wrong address", refusal(404, "Cannot GET /transfer"), Verdict.UNKNOWN),
                Case("invalid key", refusal(401, "Invalid key"), Verdict.UNKNOWN),
                Case("too many", refusal(429, "Too many requests"), Verdict.UNKNOWN),
            ),
        ),
        Verb(
            "submit",
            (a_payout_otp(), a_submission(ActionType.OTP, "928783")),
            accepted=transfer_answer(),
            path="/transfer/finalize_transfer",
            money=PAYOUT,
            label="submit for a transfer",
            cases=(
                Case("taken", transfer_answer(status="pending"), Verdict.PROCESSING, expected=TRANSFER_TOLD),
                Case("another transfer", transfer_answer(status="failed", reference="another"), Verdict.UNKNOWN),
                Case("refused", refusal(400, "Transfer code is invalid"), Verdict.REFUSED, "invalid_request"),
                Case("a wrong code", refusal(400, "OTP is invalid"), Verdict.UNKNOWN),
            ),
        ),
        *(
            Verb(
                "submit",
                (a_query(NGN), a_submission(kind, value)),
                accepted=charged(status="send_otp", display_text="Please send OTP"),
                path=f"/charge/submit_{word}",
                money=NGN,
                label=f"submit {word}",
                cases=(
                    Case("the next step", charged(status="send_pin"), Verdict.REQUIRES_ACTION),
                    Case("pending", charged(status="pending"), Verdict.PROCESSING),
                    Case("failed", charged(status="failed", message="Declined"), Verdict.DECLINED, "declined"),
                    Case(
                        "failed, as an address does",
                        Reply(200, {"status": False, "message": "Charge attempted", "data": {"status": "failed"}}),
                        Verdict.DECLINED,
                        "declined",
                        {"session_open": False},
                    ),
                    Case("paid", charged(**a_transaction(requested_amount=None, amount=500_000)), Verdict.COMPLETED),
                    Case("paid without an amount", charged(status="success"), Verdict.UNKNOWN),
                    Case(
                        "refused", refusal(400, "Transaction reference is invalid"), Verdict.REFUSED, "invalid_request"
                    ),
                ),
            )
            for kind, word, value in (
                (ActionType.OTP, "otp", "123456"),
                (ActionType.PIN, "pin", "1111"),
                (ActionType.PHONE, "phone", "+2348012345678"),
                (ActionType.BIRTHDAY, "birthday", "1999-10-14"),
                (ActionType.ADDRESS, "address", "1, Main Street, Lekki, Lagos, 101233"),
            )
        ),
        Verb(
            "banks",
            ("NGN",),
            accepted=Reply(200, {"status": True, "data": [{"name": "Zenith", "code": "057", "currency": "NGN"}]}),
            path="/bank",
            method="GET",
            lookup=True,
        ),
        Verb(
            "resolve_account",
            (ACCOUNT,),
            accepted=Reply(200, {"status": True, "data": {"account_number": "0000000000", "account_name": "ADA OBI"}}),
            path="/bank/resolve",
            method="GET",
            lookup=True,
        ),
    )


async def ask(verb: str, *arguments: Any, replies: tuple[Reply, ...], **preliminary: Reply) -> tuple[Any, Wire]:
    wire = Wire(*replies, preliminary={f"/{name}": reply for name, reply in preliminary.items()})
    return await getattr(wire.build(Paystack), verb)(*arguments, CREDENTIALS), wire


async def test_a_refund_names_the_payment_and_carries_our_reference_in_its_note() -> None:
    _, wire = await ask("refund", a_refund(PART, PAYMENT), replies=(refund_answer(),))
    assert wire.json == {
        "transaction": PAYMENT_REFERENCE,
        "amount": 20_000,
        "merchant_note": f"Returned goods [ref {REFUND_REFERENCE}]",
    }


async def test_a_refund_whose_answer_was_lost_is_looked_for_among_the_payments() -> None:
    _, wire = await ask("fetch_refund", a_refund_query(PART, PAYMENT), replies=(listed(),))
    assert dict(wire.requests[0].url.params) == {"transaction": "5210447301", "perPage": "100", "page": "1"}
    _, wire = await ask("fetch_refund", a_refund_query(PART, a_payment(NGN)), replies=(listed(),))
    assert wire.requests[0].url.params["transaction"] == PAYMENT_REFERENCE


def test_a_refund_in_a_currency_it_does_not_know_is_not_acceptable() -> None:
    adapter = Wire().build(Paystack)
    adapter.check_refund(a_refund(PART, PAYMENT))
    with pytest.raises(OrderNotAcceptable):
        adapter.check_refund(a_refund(Money(100, "EUR"), PAYMENT))


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([a_refund_row(amount=507_614, status="processed")], Verdict.COMPLETED),
        ([a_refund_row(id=1, amount=500_000), a_refund_row(id=2, amount=7_614)], Verdict.COMPLETED),
        ([a_refund_row(amount=507_614, status="processed", dispute=2_867)], Verdict.REVERSED),
        ([a_refund_row(amount=507_614, status="failed")], Verdict.REVERSED),
        ([a_refund_row(amount=507_613)], Verdict.REVERSED),
        ([], Verdict.REVERSED),
    ],
)
async def test_a_payment_refunded_in_full_is_not_reversed_but_paid(
    rows: list[dict[str, Any]], verdict: Verdict
) -> None:
    query = dataclasses.replace(a_query(NGN), reference=PAYMENT_REFERENCE)
    result, _ = await ask("fetch", query, replies=(verified(status="reversed"),), refund=listed(*rows))
    assert (result.verdict, result.paid) == (verdict, Money(507_614, "NGN"))


def a_page(*rows: dict[str, Any], pages: int) -> Reply:
    meta = {"total": 250, "skipped": 0, "perPage": 100, "page": 1, "pageCount": pages}
    return Reply(200, {"status": True, "message": "Refunds retrieved", "data": list(rows), "meta": meta})


OTHERS = a_refund_row(id=1, transaction=1, transaction_reference="another", merchant_note="")


async def test_refunds_are_read_page_by_page_should_the_filter_not_be_heeded() -> None:
    ours = a_refund_row(amount=507_614, merchant_note="")
    wire = Wire(verified(status="reversed"), a_page(OTHERS, pages=2), a_page(ours, pages=2))
    query = dataclasses.replace(a_query(NGN), reference=PAYMENT_REFERENCE)
    result = await wire.build(Paystack).fetch(query, CREDENTIALS)
    assert result.verdict is Verdict.COMPLETED
    assert [request.url.params.get("page") for request in wire.requests] == [None, "1", "2"]
    wire = Wire(a_page(OTHERS, pages=2), a_page(a_refund_row(), pages=2))
    result = await wire.build(Paystack).fetch_refund(a_refund_query(PART, PAYMENT), CREDENTIALS)
    assert (result.verdict, result.provider_references) == (Verdict.PROCESSING, ("3018284",))


async def test_a_list_of_refunds_without_end_tells_nothing() -> None:
    wire = Wire(verified(status="reversed"), a_page(OTHERS, pages=10_000))
    result = await wire.build(Paystack).fetch(a_query(NGN), CREDENTIALS)
    assert (result.verdict, len(wire.requests)) == (Verdict.UNKNOWN, 21)


async def test_a_reversed_payment_whose_refunds_cannot_be_read_is_unknown() -> None:
    result, _ = await ask("fetch", a_query(NGN), replies=(verified(status="reversed"),), refund=refusal(500, "Odd"))
    assert result.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("body", [{}, {"transaction_reference": REFERENCE}, {"amount": "5000", "currency": "NGN"}])
def test_a_refund_event_without_payment_or_amount_is_malformed(body: dict[str, Any]) -> None:
    with pytest.raises(WebhookMalformed):
        Wire().build(Paystack).translate(a_webhook(json.dumps(event("refund.processed", body)).encode()))


# Direct charges

BANK = PaymentDetails(bank_code="057", account_number=SecretStr("0000000000"), birthday=SecretStr("1999-10-14"))
DIRECT_ORDERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bank": (
        {"method": "bank", "details": BANK},
        {"bank": {"code": "057", "account_number": "0000000000"}, "birthday": "1999-10-14"},
    ),
    "bank without birthday": (
        {"method": "bank", "details": dataclasses.replace(BANK, birthday=None)},
        {"bank": {"code": "057", "account_number": "0000000000"}},
    ),
    "ghana": (
        {
            "method": "mobile_money",
            "amount": Money(10_000, "GHS"),
            "customer": Customer("ama@customer.example", "+233551234987"),
            "details": PaymentDetails(operator="MTN"),
        },
        {"mobile_money": {"phone": "0551234987", "provider": "mtn"}},
    ),
    "m-pesa": (
        {"method": "mobile_money", "amount": Money(10_000, "KES"), "details": PaymentDetails(operator="mpesa")},
        {"mobile_money": {"phone": "+254712345678", "provider": "mpesa"}},
    ),
    "ussd": ({"method": "ussd", "details": PaymentDetails(ussd_code="737")}, {"ussd": {"type": "737"}}),
    "bank_transfer": (
        {"method": "bank_transfer", "details": PaymentDetails()},
        {"bank_transfer": {"account_expires_at": "2026-03-04T10:30:15Z"}},
    ),
    "eft": (
        {"method": "eft", "amount": Money(10_000, "ZAR"), "details": PaymentDetails()},
        {"eft": {"provider": "ozow"}},
    ),
    "qr": (
        {"method": "qr", "amount": Money(10_000, "ZAR"), "details": PaymentDetails()},
        {"qr": {"provider": "scan-to-pay"}},
    ),
}


def direct_order(name: str, **changes: Any) -> CollectOrder:
    return an_order(**{"amount": NGN, **DIRECT_ORDERS[name][0], **changes})


@pytest.mark.parametrize("name", DIRECT_ORDERS)
async def test_a_direct_charge_as_paystack_receives_it(name: str) -> None:
    order = direct_order(name)
    Wire().build(Paystack).check(order)
    result, wire = await ask("collect", order, replies=(charged(status="pending"),))
    assert result.verdict is Verdict.PROCESSING
    assert wire.requests[0].url.path == "/charge"
    assert wire.json == {
        "reference": REFERENCE,
        "amount": order.amount.minor,
        "currency": order.amount.currency,
        "email": order.customer.email,
        "metadata": DIRECT_METADATA,
        **DIRECT_ORDERS[name][1],
    }
    specs.validate_request(specs.paystack(), "POST", "/charge", "application/json", body=wire.json)


@pytest.mark.parametrize(
    ("name", "changes", "pointer"),
    [
        ("bank", {"method": None}, "/method"),
        ("bank", {"method": "card"}, "/method"),
        ("bank", {"amount": Money(100, "GHS")}, "/currency"),
        ("bank", {"details": dataclasses.replace(BANK, bank_code=None)}, "/payment_details/bank_code"),
        ("bank", {"details": dataclasses.replace(BANK, account_number=None)}, "/payment_details/account_number"),
        ("bank", {"details": dataclasses.replace(BANK, birthday=SecretStr("14.10.1999"))}, "/payment_details/birthday"),
        ("ussd", {"details": PaymentDetails(ussd_code="1")}, "/payment_details/ussd_code"),
        ("ghana", {"details": PaymentDetails(operator="mpesa")}, "/payment_details/operator"),
        ("ghana", {"customer": Customer("a@customer.example", "+254712345678")}, "/customer/phone"),
        ("ghana", {"customer": Customer("a@customer.example")}, "/customer/phone"),
    ],
)
def test_a_direct_charge_that_lacks_something_is_not_acceptable(
    name: str, changes: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(OrderNotAcceptable) as refused:
        Wire().build(Paystack).check(direct_order(name, **changes))
    assert refused.value.pointer == pointer


ENDS_AT = datetime(2025, 4, 24, 16, 40, 57, 954_000, UTC)
STEPS: dict[str, tuple[dict[str, Any], NextAction]] = {
    "send_otp": ({"display_text": "Please send OTP"}, OTP_ASKED),
    "send_pin": ({}, NextAction(ActionType.PIN, display_text="Enter your PIN.")),
    "send_phone": (
        {},
        NextAction(ActionType.PHONE, display_text="Enter the phone number that your bank knows."),
    ),
    "send_birthday": ({"display_text": "Born?"}, NextAction(ActionType.BIRTHDAY, display_text="Born?")),
    "send_address": (
        {"display_text": "Where?", "country_code": "CA"},
        NextAction(ActionType.ADDRESS, display_text="Where?", fields={"country_code": "CA"}),
    ),
    "open_url": (
        {"url": "https://standard.paystack.co/close"},
        NextAction(ActionType.REDIRECT, url="https://standard.paystack.co/close"),
    ),
    "pay_offline": (
        {"display_text": "Please complete authorization process on your mobile phone"},
        NextAction(
            ActionType.HANDSET_PROMPT, display_text="Please complete authorization process on your mobile phone"
        ),
    ),
    "pay_offline by ussd": (
        {"display_text": "Please dial", "ussd_code": "*737*33*4*453441#"},
        NextAction(ActionType.USSD, display_text="Please dial", fields={"ussd_code": "*737*33*4*453441#"}),
    ),
    "pay_offline at a paybill": (
        {"account_number": "4084333", "account_reference": 1_234_567},
        NextAction(ActionType.TRANSFER, fields={"account_number": "4084333", "account_reference": "1234567"}),
    ),
    "pay_offline by a code": (
        {"qr_code": "00020101", "url": "https://standard.paystack.co/qr/1"},
        NextAction(ActionType.REDIRECT, url="https://standard.paystack.co/qr/1", fields={"qr_code": "00020101"}),
    ),
    "pending_bank_transfer": (
        {
            "display_text": "Please make a transfer",
            "account_name": "TEST-MANAGED-ACCOUNT",
            "account_number": "1260257501",
            "bank": {"slug": "test-bank", "name": "Test Bank", "id": 24},
            "account_expires_at": "2025-04-24T16:40:57.954Z",
        },
        NextAction(
            ActionType.TRANSFER,
            display_text="Please make a transfer",
            fields={
                "account_number": "1260257501",
                "account_name": "TEST-MANAGED-ACCOUNT",
                "bank_name": "Test Bank",
            },
            expires_at=ENDS_AT,
        ),
    ),
}


@pytest.mark.parametrize("step", STEPS)
async def test_each_step_of_a_direct_charge_becomes_a_next_action(step: str) -> None:
    told, action = STEPS[step]
    reply = charged(status=step.split(" ")[0], **told)
    result, _ = await ask("collect", direct_order("bank"), replies=(reply,))
    assert (result.verdict, result.next_action, result.reference) == (Verdict.REQUIRES_ACTION, action, REFERENCE)
    assert (result.checkout_url, result.session_ends_at) == (action.url, action.expires_at)


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        ({"status": "open_url"}, Verdict.UNKNOWN),
        ({"status": "open_url", "url": "javascript:alert(1)"}, Verdict.UNKNOWN),
        ({"status": "pending_bank_transfer"}, Verdict.UNKNOWN),
        ({"status": "send_blood"}, Verdict.UNKNOWN),
        ({"status": "timeout"}, Verdict.UNKNOWN),
        ({"status": "success"}, Verdict.UNKNOWN),
        ({"status": "failed"}, Verdict.DECLINED),
        (a_transaction(), Verdict.COMPLETED),
    ],
)
async def test_the_other_answers_to_a_direct_charge(data: dict[str, Any], verdict: Verdict) -> None:
    result, _ = await ask("collect", direct_order("bank"), replies=(charged(**data),))
    assert (result.verdict, result.session_open) == (verdict, False)


async def test_a_refused_direct_charge_is_one_and_a_duplicate_is_unknown() -> None:
    for reply, verdict in (
        (refusal(400, "Email address is required for association with card"), Verdict.REFUSED),
        (refusal(400, "Duplicate Transaction Reference", "duplicate_reference"), Verdict.UNKNOWN),
        (refusal(500, "An error occurred"), Verdict.UNKNOWN),
        (Reply(429, b"<html>"), Verdict.REFUSED),
    ):
        result, _ = await ask("collect", direct_order("bank"), replies=(reply,))
        assert result.verdict is verdict


@pytest.mark.parametrize("metadata", [DIRECT_METADATA, json.dumps(DIRECT_METADATA)])
@pytest.mark.parametrize("status", ["ongoing", "pending", "abandoned"])
async def test_a_direct_charge_under_way_is_asked_for_its_step(metadata: Any, status: str) -> None:
    under_way = verified(status=status, fees=None, metadata=metadata)
    step = charged(status="send_otp", display_text="Please send OTP")
    result, wire = await ask("fetch", a_query(NGN), replies=(under_way, step))
    assert [request.url.path for request in wire.requests] == [
        f"/transaction/verify/{REFERENCE}",
        f"/charge/{REFERENCE}",
    ]
    assert (result.verdict, result.next_action) == (Verdict.REQUIRES_ACTION, OTP_ASKED)
    assert result.provider_references == ("5210447301",)


@pytest.mark.parametrize("status", ["pay_offline", "pending_bank_transfer", "open_url"])
async def test_a_direct_charge_that_is_paid_elsewhere_keeps_its_first_action(status: str) -> None:
    under_way = verified(status="pending", fees=None, metadata=DIRECT_METADATA)
    result, _ = await ask("fetch", a_query(NGN), replies=(under_way, charged(status=status)))
    assert (result.verdict, result.next_action, result.raw_status) == (Verdict.REQUIRES_ACTION, None, status)


async def test_where_the_step_cannot_be_learned_the_first_answer_stands() -> None:
    for reply in (refusal(500, "Odd"), Reply(200, b"<html>"), charged(status="pending"), charged(status="success")):
        under_way = verified(status="ongoing", fees=None, metadata=DIRECT_METADATA)
        result, _ = await ask("fetch", a_query(NGN), replies=(under_way, reply))
        assert (result.verdict, result.raw_status) == (Verdict.PROCESSING, "ongoing")


async def test_a_hosted_page_under_way_is_one_question_and_keeps_its_page() -> None:
    for status in ("ongoing", "abandoned"):
        result, wire = await ask("fetch", a_query(NGN), replies=(verified(status=status, fees=None),))
        assert (len(wire.requests), result.next_action) == (1, None)


async def test_a_direct_charge_that_failed_has_no_page_to_try_again() -> None:
    result, _ = await ask(
        "fetch", a_query(NGN), replies=(verified(status="failed", fees=None, metadata=DIRECT_METADATA),)
    )
    assert (result.verdict, result.session_open, result.expirable) == (Verdict.DECLINED, False, True)


@pytest.mark.parametrize(
    ("kind", "value", "body"),
    [
        (ActionType.OTP, "123456", {"otp": "123456"}),
        (ActionType.PIN, "1111", {"pin": "1111"}),
        (ActionType.PHONE, "08012345678", {"phone": "08012345678"}),
        (ActionType.BIRTHDAY, "1999-10-14", {"birthday": "1999-10-14"}),
        (
            ActionType.ADDRESS,
            "1, Main Street, Lekki, Lagos, 101233",
            {"address": "1, Main Street", "city": "Lekki", "state": "Lagos", "zip_code": "101233"},
        ),
    ],
)
async def test_what_the_customer_gave_is_passed_on_in_the_documents_words(
    kind: ActionType, value: str, body: dict[str, str]
) -> None:
    _, wire = await ask("submit", a_query(NGN), a_submission(kind, value), replies=(charged(status="pending"),))
    assert wire.json == {**body, "reference": REFERENCE}
    path = wire.requests[0].url.path
    specs.validate_request(specs.paystack(), "POST", path, "application/json", body=wire.json)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(ActionType.BIRTHDAY, "14.10.1999"), (ActionType.ADDRESS, "Main Street"), (ActionType.ADDRESS, "a,b,,d")],
)
async def test_what_has_not_the_shape_is_asked_again_and_not_sent(kind: ActionType, value: str) -> None:
    result, wire = await ask("submit", a_query(NGN), a_submission(kind, value), replies=(charged(status="pending"),))
    assert (result.verdict, result.next_action.type, wire.requests) == (Verdict.REQUIRES_ACTION, kind, [])


async def test_what_the_customer_gave_is_not_repeated() -> None:
    given = a_submission(ActionType.OTP, "918273")
    for reply in (
        charged(status="failed", message="The OTP 918273 was wrong"),
        charged(status="send_otp", display_text="918273 was wrong"),
        refusal(400, "918273 was wrong"),
    ):
        result, _ = await ask("submit", a_query(NGN), given, replies=(reply,))
        assert "918273" not in repr(result)
    result, _ = await ask("collect", direct_order("bank"), replies=(charged(status="failed", message="No 0000000000"),))
    assert "0000000000" not in repr(result)


# Transfers

PAYOUTS: dict[str, tuple[Money, Destination, dict[str, str]]] = {
    "nuban": (PAYOUT, ACCOUNT, {"type": "nuban", "account_number": "0000000000", "bank_code": "057"}),
    "ghipss": (
        Money(100_000, "GHS"),
        ACCOUNT,
        {"type": "ghipss", "account_number": "0000000000", "bank_code": "057"},
    ),
    "basa": (Money(100_000, "ZAR"), ACCOUNT, {"type": "basa", "account_number": "0000000000", "bank_code": "057"}),
    "kepss": (Money(100_000, "KES"), ACCOUNT, {"type": "kepss", "account_number": "0000000000", "bank_code": "057"}),
    "mobile_money": (
        Money(100_000, "GHS"),
        PHONE,
        {"type": "mobile_money", "account_number": "0551234987", "bank_code": "MTN"},
    ),
}


@pytest.mark.parametrize("name", PAYOUTS)
async def test_a_transfer_is_a_recipient_and_then_the_order(name: str) -> None:
    amount, destination, expected = PAYOUTS[name]
    order = a_payout(amount, destination)
    Wire().build(Paystack).check_payout(order)
    _, wire = await ask("pay_out", order, replies=(transfer_answer(),), transferrecipient=RECIPIENT)
    recipient = json.loads(wire.early[0].content)
    assert recipient == {"name": destination.account_name, "currency": amount.currency, **expected}
    assert wire.json == {
        "source": "balance",
        "amount": 100_000,
        "currency": amount.currency,
        "recipient": "RCP_gd9vgag7n5lr5ix",
        "reference": REFUND_REFERENCE,
        "reason": "Withdrawal",
    }
    spec = specs.paystack()
    specs.validate_request(spec, "POST", "/transferrecipient", "application/json", body=recipient)
    specs.validate_request(spec, "POST", "/transfer", "application/json", body=wire.json)


async def test_a_transfer_that_waits_for_the_merchants_code_says_so() -> None:
    reply = transfer_answer(status="otp")
    result, _ = await ask("pay_out", a_payout(PAYOUT, ACCOUNT), replies=(reply,), transferrecipient=RECIPIENT)
    assert (result.verdict, result.next_action.type) == (Verdict.REQUIRES_ACTION, ActionType.OTP)
    _, wire = await ask("submit", a_payout_otp(), a_submission(ActionType.OTP, "928783"), replies=(transfer_answer(),))
    assert wire.json == {"transfer_code": TRANSFER_IDS[0], "otp": "928783"}
    specs.validate_request(specs.paystack(), "POST", "/transfer/finalize_transfer", "application/json", body=wire.json)


async def test_a_code_for_a_transfer_whose_name_is_not_known_is_not_sent() -> None:
    result, wire = await ask(
        "submit", a_payout_query(PAYOUT, "860703114"), a_submission(ActionType.OTP, "1"), replies=(transfer_answer(),)
    )
    assert (result.verdict, wire.requests) == (Verdict.UNKNOWN, [])


@pytest.mark.parametrize(
    ("reply", "verdict", "failure"),
    [
        (refusal(400, "Account number is invalid", "invalid_params"), Verdict.REFUSED, "invalid_recipient"),
        (refusal(422, "Odd", "invalid_bank_code"), Verdict.REFUSED, "invalid_recipient"),
        (refusal(401, "Invalid key"), Verdict.REFUSED, "authentication_failed"),
        (refusal(500, "An error occurred"), Verdict.NOT_SENT, "provider_unreachable"),
        (Reply(201, {"status": True, "data": {}}), Verdict.REFUSED, "invalid_recipient"),
        (Reply(200, b"<html>"), Verdict.NOT_SENT, "provider_unreachable"),
    ],
)
async def test_without_a_recipient_no_transfer_is_sent(reply: Reply, verdict: Verdict, failure: str) -> None:
    result, wire = await ask(
        "pay_out", a_payout(PAYOUT, ACCOUNT), replies=(transfer_answer(),), transferrecipient=reply
    )
    assert (result.verdict, result.failure.code, wire.requests) == (verdict, failure, [])


@pytest.mark.parametrize(
    ("amount", "destination", "pointer"),
    [
        (Money(100, "USD"), ACCOUNT, "/currency"),
        (PAYOUT, dataclasses.replace(ACCOUNT, bank_code=None), "/destination/bank_code"),
        (PAYOUT, dataclasses.replace(ACCOUNT, account_name=None), "/destination/account_name"),
        (PAYOUT, dataclasses.replace(ACCOUNT, account_number=None), "/destination/account_number"),
        (PAYOUT, PHONE, "/destination/type"),
        (Money(100, "KES"), PHONE, "/destination/phone"),
    ],
)
def test_a_transfer_that_cannot_be_sent_points_at_the_reason(
    amount: Money, destination: Destination, pointer: str
) -> None:
    with pytest.raises(OrderNotAcceptable) as refused:
        Wire().build(Paystack).check_payout(a_payout(amount, destination))
    assert refused.value.pointer == pointer


# Lookups


async def test_banks_are_read_page_by_page_without_those_that_are_closed() -> None:
    zenith = {"name": "Zenith Bank", "code": "057", "currency": "GHS", "type": "ghipss", "active": True}
    mtn = {"name": "MTN", "code": "MTN", "currency": "GHS", "type": "mobile_money", "is_deleted": None}
    rows = [
        {**zenith, "code": "1", "active": False},
        {**zenith, "code": "2", "is_deleted": True},
        {**zenith, "code": "3", "currency": "NGN"},
        {**zenith, "code": ""},
        "odd",
        mtn,
    ]
    first = Reply(200, {"status": True, "data": [zenith], "meta": {"next": "YmFuazoxNjk=", "perPage": 100}})
    last = Reply(200, {"status": True, "data": rows, "meta": {"next": None}})
    found, wire = await ask("banks", "GHS", replies=(first, last))
    assert found == (
        Bank("057", "Zenith Bank", "GHS"),
        Bank("MTN", "MTN", "GHS", DestinationType.MOBILE_MONEY),
    )
    assert [request.url.params.get("next") for request in wire.requests] == [None, "YmFuazoxNjk="]
    for request in wire.requests:
        specs.validate_request(specs.paystack(), "GET", "/bank", params=dict(request.url.params))


async def test_a_currency_that_cannot_be_sent_has_no_banks_and_asks_nobody() -> None:
    found, wire = await ask("banks", "USD", replies=(Reply(200),))
    assert (found, wire.requests) == ((), [])


async def test_an_accounts_holder_is_told_by_the_bank() -> None:
    reply = Reply(
        200, {"status": True, "data": {"account_number": "0000000000", "account_name": "ADA OBI", "bank_id": 9}}
    )
    found, wire = await ask("resolve_account", ACCOUNT, replies=(reply,))
    assert found == AccountHolder("ADA OBI", "0000000000", "057")
    assert dict(wire.requests[0].url.params) == {"account_number": "0000000000", "bank_code": "057"}
    specs.validate_request(specs.paystack(), "GET", "/bank/resolve", params=dict(wire.requests[0].url.params))
    found, _ = await ask("resolve_account", PHONE, replies=(reply,))
    assert found == AccountHolder("ADA OBI", "0551234987", "MTN")


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (refusal(422, "Could not resolve account name.", "invalid_bank_code"), "account_not_found"),
        (refusal(422, "Unknown bank code: 059", "invalid_params"), "unknown_bank"),
        (refusal(429, "Too many requests"), None),
        (refusal(401, "Invalid key"), None),
        (Reply(200, {"status": True, "data": {}}), None),
    ],
)
async def test_an_account_that_cannot_be_resolved_says_why_where_the_bank_did(
    reply: Reply, failure: str | None
) -> None:
    with pytest.raises(LookupFailed) as failed:
        await ask("resolve_account", ACCOUNT, replies=(reply,))
    assert (failed.value.failure.code if failed.value.failure else None) == failure


# The official document


async def test_the_requests_of_a_refund_fit_the_official_document() -> None:
    spec = specs.paystack()
    _, wire = await ask("refund", a_refund(PART, PAYMENT), replies=(refund_answer(),))
    specs.validate_request(spec, "POST", "/refund", "application/json", body=wire.json)
    _, wire = await ask("fetch_refund", a_refund_query(PART, PAYMENT), replies=(listed(),))
    specs.validate_request(spec, "GET", "/refund", params=dict(wire.requests[0].url.params))
    for path in ("/refund/3018284", f"/transfer/verify/{REFUND_REFERENCE}", f"/charge/{REFERENCE}"):
        specs.validate_request(spec, "GET", path)


async def test_the_same_check_rejects_a_renamed_field_of_each_new_body() -> None:
    spec = specs.paystack()
    _, refund = await ask("refund", a_refund(PART, PAYMENT), replies=(refund_answer(),))
    _, charge = await ask("collect", direct_order("bank"), replies=(charged(status="pending"),))
    _, transfer = await ask(
        "pay_out", a_payout(PAYOUT, ACCOUNT), replies=(transfer_answer(),), transferrecipient=RECIPIENT
    )
    recipient = json.loads(transfer.early[0].content)
    for path, body, name in (
        ("/refund", refund.json, "merchant_note"),
        ("/charge", charge.json, "bank"),
        ("/transfer", transfer.json, "recipient"),
        ("/transferrecipient", recipient, "bank_code"),
    ):
        changed = {f"{key}s" if key == name else key: value for key, value in body.items()}
        with pytest.raises(specs.SpecViolation):
            specs.validate_request(spec, "POST", path, "application/json", body=changed)
