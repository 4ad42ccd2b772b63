"""Flutterwave's adapter against replies in the shapes of developer.flutterwave.com/v3.0/docs (Standard, verification,
webhooks, errors)."""

import base64
import hmac
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from payflow.core.money import Money
from payflow.gateway.contract import (
    ActionType,
    Customer,
    NextAction,
    Operation,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRefused,
)
from payflow.providers.flutterwave import METHODS, SESSION_LIFE, Flutterwave, FlutterwaveCredentials
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
)


def credentials(name: str, **more: Any) -> FlutterwaveCredentials:
    values = {"secret_key": f"FLWSECK_TEST-suite{name}-X", "secret_hash": f"hash of suite {name}"}
    return FlutterwaveCredentials.model_validate(values | more)


PLAIN, OTHER_PLAIN = credentials("one"), credentials("two")
SIGNING = credentials("one", webhook_header="flutterwave-signature")
OTHER = credentials("two", webhook_header="flutterwave-signature")
EMPTY = OTHER.model_copy(update={"secret_hash": type(OTHER.secret_hash)("")})

UGX = Money(5_000, "UGX")
NGN = Money(500_000, "NGN")
LINK = "https://checkout.flutterwave.com/v3/hosted/pay/flwlnk-01hynrt7cd1fpm6gtef6khn93g"
ACCEPTED = {"status": "success", "message": "Hosted Link", "data": {"link": LINK}}
DISABLED = Reply(200, {"status": "success", "message": "Payment link has been disabled successfully", "data": None})
ID = 288_200_108


def a_transaction(**changes: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "tx_ref": REFERENCE,
        "flw_ref": "AdaObi/FLW275407301",
        "amount": 5_000,
        "currency": "UGX",
        "charged_amount": 5_000,
        "app_fee": 70,
        "merchant_fee": 0,
        "processor_response": "Approved by Financial Institution",
        "status": "successful",
        "payment_type": "card",
        "created_at": "2020-07-15T14:31:16.000Z",
        "meta": None,
        "amount_settled": 4_930,
        "customer": {"id": 216_519_823, "name": "Ada", "phone_number": "N/A", "email": "ada@customer.example"},
    } | changes


def verified(**changes: Any) -> Reply:
    body = {"status": "success", "message": "Transaction fetched successfully", "data": a_transaction(**changes)}
    return Reply(200, body)


def listed(*transactions: Any) -> Reply:
    return Reply(200, {"status": "success", "message": "Transactions fetched", "data": list(transactions)})


def written(amount: str, **changes: str) -> Reply:
    """A naira transaction whose numbers stand in the body exactly so."""
    numbers = {"amount": amount, "charged_amount": amount, "app_fee": "1.4"} | changes
    marked = a_transaction(currency="NGN") | {name: f"<{name}>" for name in numbers}
    body = json.dumps({"status": "success", "message": "Transaction fetched successfully", "data": marked})
    for name, text in numbers.items():
        body = body.replace(f'"<{name}>"', text)
    return Reply(200, body.encode())


def refusal(status: int, message: str) -> Reply:
    return Reply(status, {"status": "error", "message": message, "data": None})


NO_TRANSACTION = refusal(400, "No transaction was found for this id")
PAID = {"verdict": Verdict.COMPLETED, "requested": UGX, "paid": UGX, "fee": Money(70, "UGX")}

# The samples of the webhook page, with its own keys and values.
SAMPLE_CHARGE: dict[str, Any] = {
    "event": "charge.completed",
    "data": {
        "id": 285959875, "tx_ref": "Links-616626414629", "flw_ref": "PeterEkene/FLW270177170",
        "device_fingerprint": "a42937f4a73ce8bb8b8df14e63a2df31", "amount": 100, "currency": "NGN",
        "charged_amount": 100, "app_fee": 1.4, "merchant_fee": 0,
        "processor_response": "Approved by Financial Institution", "auth_model": "PIN", "ip": "197.210.64.96",
        "narration": "CARD Transaction ", "status": "successful", "payment_type": "card",
        "created_at": "2020-07-06T19:17:04.000Z", "account_id": 17321,
        "customer": {"id": 215604089, "name": "Yemi Desola", "phone_number": None, "email": "user@gmail.com",
                     "created_at": "2020-07-06T19:17:04.000Z"},
        "card": {"first_6digits": "123456", "last_4digits": "7889", "issuer": "VERVE FIRST CITY MONUMENT BANK PLC",
                 "country": "NG", "type": "VERVE", "expiry": "02/23"},
    },
}  # fmt: skip
SAMPLE_TRANSFER: dict[str, Any] = {
    "event": "transfer.completed",
    "event.type": "Transfer",
    "data": {
        "id": 33286, "account_number": "0690000033", "bank_name": "ACCESS BANK NIGERIA", "bank_code": "044",
        "fullname": "Bale Gary", "created_at": "2020-04-14T16:39:17.000Z", "currency": "NGN",
        "debit_currency": "NGN", "amount": 30020, "fee": 26.875, "status": "SUCCESSFUL",
        "reference": "a0a827b1eca65311_PMCKDU_5", "meta": None, "narration": "lolololo", "approver": None,
        "complete_message": "Successful", "requires_approval": 0, "is_approved": 1,
    },
}  # fmt: skip
REFUND = {"id": 8612, "AmountRefunded": 5000, "FlwRef": "URF_1577867664541_3572735", "TransactionId": ID}


class TestFlutterwaveContract(SignedWebhooks, ProviderContract):
    """In shillings of Uganda, which have no decimals: an odd number in their place is no amount."""

    adapter = Flutterwave
    credentials = SIGNING
    secrets = ("FLWSECK_TEST-suiteone-X",)
    bad_credentials: ClassVar = {"secret_key": "looks-wrong"}
    other_credentials = OTHER
    empty_credentials = EMPTY
    signature_header = "flutterwave-signature"
    amount = UGX
    provider_references = (LINK,)
    collect_path = "/payments"
    accepted = Reply(200, ACCEPTED)
    completed = verified()
    completed_money = (UGX, UGX)

    collect_cases = (
        Case(
            "accepted",
            accepted,
            Verdict.REQUIRES_ACTION,
            expected={
                "reference": None,
                "provider_references": (LINK,),
                "next_action": NextAction(ActionType.REDIRECT, url=LINK, expires_at=NOW + SESSION_LIFE),
                "checkout_url": LINK,
                "session_ends_at": NOW + SESSION_LIFE,
            },
        ),
        Case("accepted without a page", Reply(200, {**ACCEPTED, "data": {}}), Verdict.UNKNOWN),
        Case("accepted without data", Reply(200, {**ACCEPTED, "data": None}), Verdict.UNKNOWN),
        Case(
            "accepted with a page that is no address",
            Reply(200, {**ACCEPTED, "data": {"link": "javascript:alert(1)"}}),
            Verdict.UNKNOWN,
        ),
        Case("200 that says no beside a page", Reply(200, {**ACCEPTED, "status": "error"}), Verdict.UNKNOWN),
        Case("a page under another status", Reply(202, ACCEPTED), Verdict.UNKNOWN),
        Case(
            "no key",
            refusal(401, "Authorization required"),
            Verdict.REFUSED,
            "authentication_failed",
            {"raw_status": "401 Authorization required"},
        ),
        Case("invalid key", refusal(401, "Invalid authorization key"), Verdict.REFUSED, "authentication_failed"),
        Case(
            "a key is missing", refusal(400, "merchant secret key required"), Verdict.REFUSED, "authentication_failed"
        ),
        Case("a field is missing", refusal(400, "tx_ref is required"), Verdict.REFUSED, "invalid_request"),
        Case(
            "an object's field is missing",
            refusal(400, "customer email is required."),
            Verdict.REFUSED,
            "invalid_request",
        ),
        Case(
            "a merchant that may not take this currency",
            refusal(400, "Merchant cannot perform transactions without approval."),
            Verdict.REFUSED,
            "configuration_error",
        ),
        Case("too many", refusal(429, "Too many requests"), Verdict.REFUSED, "rate_limited"),
        Case("too many, as a page", Reply(429, b"<html>slow down</html>"), Verdict.REFUSED, "rate_limited"),
        *(
            Case(words, refusal(400, words), Verdict.UNKNOWN, expected={"expirable": False})
            for words in (
                "Duplicate transaction reference",
                "Transaction with reference already exists",
                "This tx_ref has been used",
                "A sentence nobody knows.",
            )
        ),
        Case("a known message under an unlisted status", refusal(422, "tx_ref is required"), Verdict.UNKNOWN),
        Case("401 of somebody in between", Reply(401, {"error": "unauthorized"}), Verdict.UNKNOWN),
        Case("forbidden", refusal(403, "Forbidden"), Verdict.UNKNOWN),
        Case(
            "the gateway waited long enough",
            refusal(503, "An error occurred. Please contact support"),
            Verdict.UNKNOWN,
            expected={"raw_status": "503 An error occurred. Please contact support"},
        ),
        Case("server error", refusal(500, "tx_ref is required"), Verdict.UNKNOWN),
    )
    fetch_cases = (
        Case(
            "successful",
            completed,
            Verdict.COMPLETED,
            expected={
                "raw_status": "successful",
                "reference": REFERENCE,
                "provider_references": (str(ID),),
                "receipt": "AdaObi/FLW275407301",
                "requested": UGX,
                "paid": UGX,
                "fee": Money(70, "UGX"),
                "expirable": False,
                "amount_bound": False,
            },
        ),
        Case("an id in text", verified(id=str(ID)), Verdict.COMPLETED, expected={"provider_references": (str(ID),)}),
        Case("amounts in text", verified(amount="5000", charged_amount="5000.00"), Verdict.COMPLETED, expected=PAID),
        Case("without a fee", verified(app_fee=None), Verdict.COMPLETED, expected={"fee": None, "paid": UGX}),
        Case("no fee at all", verified(app_fee=0), Verdict.COMPLETED, expected={"fee": None, "paid": UGX}),
        Case("without the amount charged", verified(charged_amount=None), Verdict.COMPLETED, expected={"paid": UGX}),
        Case(
            "the customer bore the fee",
            verified(charged_amount=5_070),
            Verdict.COMPLETED,
            expected={"requested": UGX, "paid": Money(5_070, "UGX"), "fee": Money(70, "UGX")},
        ),
        Case(
            "more than the fee on top",
            verified(charged_amount=5_100),
            Verdict.COMPLETED,
            expected={"paid": Money(5_100, "UGX"), "fee": Money(70, "UGX")},
        ),
        Case("naira with kobo", written("5000.50"), Verdict.COMPLETED, expected={"requested": Money(500_050, "NGN")}),
        Case("naira in text", written('"5000.50"'), Verdict.COMPLETED, expected={"requested": Money(500_050, "NGN")}),
        Case(
            "naira with zeros behind", written("5000.5000"), Verdict.COMPLETED, expected={"paid": Money(500_050, "NGN")}
        ),
        Case("naira in powers of ten", written("5e3"), Verdict.COMPLETED, expected={"paid": NGN}),
        Case(
            "a sum that a float would lose",
            written("9007199254740.93"),
            Verdict.COMPLETED,
            expected={"requested": Money(900_719_925_474_093, "NGN")},
        ),
        Case(
            "a fee with a part of a kobo",
            written("5000", app_fee="26.875"),
            Verdict.COMPLETED,
            expected={"fee": Money(2_688, "NGN"), "paid": NGN},
        ),
        Case(
            "the same fee on top",
            written("5000", charged_amount="5026.87", app_fee="26.875"),
            Verdict.COMPLETED,
            expected={"paid": Money(502_687, "NGN"), "fee": Money(2_687, "NGN")},
        ),
        *(
            Case(f"the amount {text}", written(text, charged_amount="5000"), Verdict.UNKNOWN)
            for text in (
                '"5,000.00"',
                '"N5000"',
                '""',
                "null",
                "true",
                "0",
                "-5000",
                "5000.005",
                "1e30",
                "NaN",
                '"NaN"',
            )
        ),
        Case("an odd amount charged", written("5000", charged_amount='"odd"'), Verdict.UNKNOWN),
        *(
            Case(
                f"the fee {text}", written("5000", app_fee=text), Verdict.COMPLETED, expected={"fee": None, "paid": NGN}
            )
            for text in ('"odd"', "-1", "true", "[]", "1e30", '"NaN"')
        ),
        Case("no currency", verified(currency="???"), Verdict.UNKNOWN),
        Case("another amount", verified(amount=1), Verdict.COMPLETED, expected={"requested": Money(1, "UGX")}),
        Case(
            "another currency",
            verified(currency="USD"),
            Verdict.COMPLETED,
            expected={"requested": Money(500_000, "USD")},
        ),
        Case(
            "another reference",
            verified(tx_ref="someone-elses"),
            Verdict.COMPLETED,
            expected={"reference": "someone-elses"},
        ),
        *(
            Case(
                status,
                verified(status=status, processor_response="Successful"),
                Verdict.PROCESSING,
                expected={"expirable": False, "paid": None, "provider_references": (str(ID),)},
            )
            for status in ("pending", "success-pending-validation")
        ),
        Case(
            "failed",
            verified(status="failed", processor_response="Do Not Honour"),
            Verdict.DECLINED,
            "declined",
            # This reply is no list of successful tries, so nothing is proven yet.
            expected={"session_open": True, "expirable": False, "paid": None, "provider_references": ()},
        ),
        *(
            Case(reason, verified(status="failed", processor_response=reason), Verdict.DECLINED, code)
            for reason, code in (
                ("Insufficient Funds", "insufficient_funds"),
                ("Expired card", "expired_card"),
                ("Incorrect PIN", "wrong_pin"),
            )
        ),
        *(
            Case(
                f"the status {status!r}",
                verified(status=status),
                Verdict.UNKNOWN,
                expected={"raw_status": status, "paid": None, "expirable": False},
            )
            for status in ("sleeping", "cancelled", "completed", "Successful", "SUCCESSFUL", "reversed")
        ),
        Case("the envelope's word is not the payment's", verified(status="success"), Verdict.UNKNOWN),
        Case("an envelope that says no", Reply(200, {**verified().body, "status": "error"}), Verdict.UNKNOWN),
        Case(
            "not found",
            NO_TRANSACTION,
            Verdict.NOT_FOUND,
            expected={"expirable": True, "raw_status": "No transaction was found for this id"},
        ),
        Case(
            "not found, by 404", refusal(404, "Transaction not found"), Verdict.NOT_FOUND, expected={"expirable": True}
        ),
        Case(
            "what cannot be an id",
            refusal(400, "Invalid Transaction ID"),
            Verdict.NOT_FOUND,
            expected={"expirable": False},
        ),
        Case("a wrong address", refusal(404, "Cannot GET /transactions"), Verdict.UNKNOWN),
        Case("no key", refusal(401, "Authorization required"), Verdict.UNKNOWN),
        Case("too many", refusal(429, "Too many requests"), Verdict.UNKNOWN),
        Case(
            "the gateway waited long enough", refusal(503, "An error occurred. Please contact support"), Verdict.UNKNOWN
        ),
    )
    amount_cases = (
        AmountCase(Money(500_050, "NGN"), 500_050),
        AmountCase(Money(1, "GHS"), 1),
        AmountCase(Money(5_000, "UGX"), 500_000),
        AmountCase(Money(10**15, "USD"), 10**15),
    )
    refused_orders = (
        RefusedOrder("a currency it does not take", {"amount": Money(100, "JPY")}, "/currency"),
        RefusedOrder("a method it does not offer", {"method": "cheque"}, "/method"),
        RefusedOrder("a method of another country", {"method": "ussd"}, "/method"),
        RefusedOrder("no email address", {"customer": Customer(phone="+256712345678")}, "/customer/email"),
    )
    event_cases = (
        EventCase(
            "charge.completed",
            {"event": "charge.completed", "data": a_transaction(), "event.type": "CARD_TRANSACTION"},
            {
                "type": "charge.completed",
                "operation": Operation.COLLECT,
                "dedupe_key": None,
                "references": (REFERENCE,),
                "provider_references": (str(ID),),
            },
            PAID | {"provider_references": (str(ID),)},
        ),
        EventCase(
            "the sample of a payment",
            SAMPLE_CHARGE,
            {"references": ("Links-616626414629",), "provider_references": ("285959875",)},
            {
                "verdict": Verdict.COMPLETED,
                "requested": Money(10_000, "NGN"),
                "paid": Money(10_000, "NGN"),
                "fee": Money(140, "NGN"),
                "receipt": "PeterEkene/FLW270177170",
            },
        ),
        EventCase(
            "the sample of a failure",
            {
                **SAMPLE_CHARGE,
                "data": SAMPLE_CHARGE["data"] | {"status": "failed", "processor_response": "Insufficient Funds"},
                "event.type": "CARD_TRANSACTION",
            },
            {"references": ("Links-616626414629",), "provider_references": ("285959875",)},
            {"verdict": Verdict.DECLINED, "session_open": True, "provider_references": ()},
            "insufficient_funds",
        ),
        EventCase(
            "charge.completed that is not",
            {"event": "charge.completed", "data": a_transaction(status="pending")},
            {},
            {"verdict": Verdict.PROCESSING},
        ),
        EventCase(
            "charge.completed in an invented status",
            {"event": "charge.completed", "data": a_transaction(status="sleeping")},
            {},
            {"verdict": Verdict.UNKNOWN, "paid": None},
        ),
        EventCase(
            "the sample of a transfer",
            SAMPLE_TRANSFER,
            {
                "type": "transfer.completed",
                "operation": Operation.PAYOUT,
                "references": ("a0a827b1eca65311_PMCKDU_5",),
                "provider_references": (),
                "dedupe_key": None,
            },
        ),
        EventCase(
            "a transfer that failed",
            {
                **SAMPLE_TRANSFER,
                "data": SAMPLE_TRANSFER["data"]
                | {"status": "FAILED", "complete_message": "DISBURSE FAILED: Insufficient funds in customer wallet"},
            },
            {"operation": Operation.PAYOUT, "references": ("a0a827b1eca65311_PMCKDU_5",)},
        ),
        *(
            EventCase(
                f"a refund without envelope, {status}",
                {**REFUND, "status": status},
                {
                    "type": f"refund.{status}",
                    "operation": Operation.REFUND,
                    "references": (),
                    "provider_references": (str(ID),),
                },
            )
            for status in (
                "completed",
                "processing",
                "pending-momo",
                "completed-mpgs",
                "completed-bank-transfer",
                "failed",
            )
        ),
        EventCase(
            "a refund in an envelope",
            {"event": "refund.completed", "data": {"id": 8612, "tx_ref": REFERENCE}},
            {"operation": Operation.REFUND, "references": (REFERENCE,)},
        ),
        EventCase(
            "the dashboard's test",
            {"event": "test_assess", "data": {}},
            {"type": "test_assess", "references": (), "provider_references": ()},
        ),
        EventCase(
            "an event nobody knows",
            {"event": "singlebillpayment.status", "data": {"tx_ref": "bill-17", "amount": 1.5}},
            {"type": "singlebillpayment.status", "references": ("bill-17",)},
        ),
        EventCase("an event with a list", {"event": "invented.event", "data": [1]}, {"references": ()}),
    )

    def sent_amount(self, wire: Wire) -> int:
        return int(Decimal(wire.json["amount"]).scaleb(2))

    def sign(self, body: bytes, credentials: FlutterwaveCredentials) -> Mapping[str, str]:  # type: ignore[override]
        key = credentials.secret_hash.get_secret_value().encode()
        return {"flutterwave-signature": base64.b64encode(hmac.digest(key, body, "sha256")).decode()}

    def test_every_event_is_declared_as_signed(self, event_case: EventCase) -> None:
        """None is: who translates does not know whether a webhook was signed or only brought the secret."""
        (event,) = Wire().build(Flutterwave).translate(a_webhook(event_case.content))
        assert event.trust is Trust.CONFIRM
        assert event.dedupe_key is None


# The plain secret in a header


def prove(headers: Mapping[str, str], *given: FlutterwaveCredentials, body: bytes = b"{}") -> None:
    Wire().build(Flutterwave).verify_webhook(a_webhook(body, headers), given)


def test_the_secret_in_its_header_is_believed_whatever_the_body() -> None:
    for body in (b"{}", b"anything"):
        prove({"verif-hash": "hash of suite one"}, PLAIN, body=body)


@pytest.mark.parametrize(
    "header", ["hash of suite two", "hash of suite on", "hash of suite one2", "Hash of suite one", "h\udcff", "é"]
)
def test_any_other_text_in_that_header_is_refused(header: str) -> None:
    with pytest.raises(WebhookRefused, match="signature_mismatch"):
        prove({"verif-hash": header}, PLAIN)


@pytest.mark.parametrize(
    "headers", [{}, {"verif-hash": ""}, {"verif-hash": "  "}, {"x-verif-hash": "hash of suite one"}]
)
def test_a_webhook_without_the_secret_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(WebhookRefused, match="header_missing"):
        prove(headers, PLAIN)


def test_an_empty_secret_is_no_secret() -> None:
    empty = PLAIN.model_copy(update={"secret_hash": type(PLAIN.secret_hash)("")})
    for headers in ({"verif-hash": ""}, {}, {"verif-hash": "x"}):
        with pytest.raises(WebhookRefused, match="no_secret"):
            prove(headers, empty)


def test_both_secrets_prove_the_origin_during_rotation_also_to_the_other_header() -> None:
    for text in ("hash of suite one", "hash of suite two"):
        prove({"verif-hash": text}, PLAIN, OTHER_PLAIN)
    prove({"verif-hash": "hash of suite two"}, SIGNING, OTHER_PLAIN)


def test_who_demands_signatures_is_not_content_with_the_secret() -> None:
    with pytest.raises(WebhookRefused, match="header_missing"):
        prove({"verif-hash": "hash of suite one"}, SIGNING)
    with pytest.raises(WebhookRefused, match="signature_mismatch"):
        prove({"flutterwave-signature": "hash of suite one"}, SIGNING)


def test_the_signature_is_hmac_sha256_of_the_body_in_base64() -> None:
    # RFC 4231, test case 2: the published answer of HMAC-SHA-256 for this key and text.
    jefe = SIGNING.model_copy(update={"secret_hash": type(SIGNING.secret_hash)("Jefe")})
    known = bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    body = b"what do ya want for nothing?"
    prove({"flutterwave-signature": base64.b64encode(known).decode()}, jefe, body=body)
    with pytest.raises(WebhookRefused, match="signature_mismatch"):
        prove({"flutterwave-signature": known.hex()}, jefe, body=body)


def test_a_payment_without_our_reference_is_malformed() -> None:
    body = json.dumps({"event": "charge.completed", "data": a_transaction(tx_ref=None)}).encode()
    with pytest.raises(WebhookMalformed):
        Wire().build(Flutterwave).translate(a_webhook(body))


@pytest.mark.parametrize(
    "changes",
    [
        {"secret_key": "FLWPUBK_TEST-looks-wrong-X"},
        {"secret_key": "FLWSECK_TEST-looks-wrong"},
        {"secret_key": "sk_test_looks-wrong"},
        {"secret_hash": ""},
        {"secret_hash": " looks-wrong"},
        {"secret_hash": "looks-wrong\n"},
        {"webhook_header": "looks-wrong"},
    ],
)
def test_credentials_of_another_shape_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as refused:
        credentials("one", **changes)
    assert "looks-wrong" not in str(refused.value)


@pytest.mark.parametrize("key", ["FLWSECK_TEST-a1b2c3-X", "FLWSECK-a1b2c3-X", "FLWSECK-a1b2c3-18a9f-vt-X"])
def test_keys_of_both_modes_are_taken(key: str) -> None:
    assert credentials("one", secret_key=key).secret_key.get_secret_value() == key


# Orders


async def test_the_whole_order_as_flutterwave_receives_it() -> None:
    wire = Wire(Reply(200, ACCEPTED))
    await wire.build(Flutterwave).collect(an_order(Money(500_050, "NGN"), method="bank_transfer"), PLAIN)
    assert wire.json == {
        "tx_ref": REFERENCE,
        "amount": "5000.50",
        "currency": "NGN",
        "redirect_url": "https://shop.example/thanks",
        "customer": {"email": "ada@customer.example", "name": "Ada", "phonenumber": "+254712345678"},
        "customizations": {"title": "Order 17"},
        "meta": {"transaction_id": "019c0000-0000-7000-8000-000000000001"},
        "configurations": {"session_duration": 60},
        "payment_options": "banktransfer",
    }
    assert wire.requests[0].headers["authorization"] == "Bearer FLWSECK_TEST-suiteone-X"


async def test_what_the_order_leaves_open_is_left_to_flutterwave() -> None:
    wire = Wire(Reply(200, ACCEPTED))
    order = an_order(UGX, customer=Customer(email="ada@customer.example"), description=None)
    await wire.build(Flutterwave).collect(order, PLAIN)
    assert (wire.json["amount"], wire.json["customer"]) == ("5000", {"email": "ada@customer.example"})
    assert wire.json["customizations"] == {"title": "Payment"}
    assert "payment_options" not in wire.json


async def test_the_customer_is_sent_back_to_us_where_the_order_names_no_address() -> None:
    wire = Wire(Reply(200, ACCEPTED))
    adapter = wire.build(Flutterwave)
    await adapter.collect(an_order(UGX, return_url=None, default_return_url="https://pay.example/done"), PLAIN)
    assert wire.json["redirect_url"] == "https://pay.example/done"
    result = await adapter.collect(an_order(UGX, return_url=None), PLAIN)
    assert (result.verdict, result.failure.code, len(wire.requests)) == (Verdict.REFUSED, "return_url_required", 1)


@pytest.mark.parametrize(("currency", "method"), [(name, way) for name, ways in METHODS.items() for way in ways])
async def test_every_method_has_its_name_at_flutterwave(currency: str, method: str) -> None:
    known = {"card", "account", "banktransfer", "ussd", "nqr", "mpesa", "mobilemoneyghana", "mobilemoneyuganda"}
    known |= {f"mobilemoney{place}" for place in ("rwanda", "tanzania", "zambia", "malawi", "franco")}
    wire = Wire(Reply(200, ACCEPTED))
    adapter, order = wire.build(Flutterwave), an_order(Money(500, currency), method=method)
    adapter.check(order)
    await adapter.collect(order, PLAIN)
    assert wire.json["payment_options"] in known


# Questions


def asked(wire: Wire) -> list[str]:
    return [request.url.raw_path.decode() for request in wire.requests]


BY_REFERENCE = f"/transactions/verify_by_reference?tx_ref={REFERENCE}"
BY_ID = f"/transactions/{ID}/verify"
SUCCESSFUL = f"/transactions?tx_ref={REFERENCE}&status=successful"
FAILED = verified(status="failed", processor_response="Do Not Honour")


@pytest.mark.parametrize(
    ("known", "replies", "paths", "verdict"),
    [
        ((), [verified()], [BY_REFERENCE], Verdict.COMPLETED),
        ((LINK,), [verified()], [BY_REFERENCE], Verdict.COMPLETED),
        ((LINK, str(ID)), [verified()], [BY_ID], Verdict.COMPLETED),
        ((LINK, "17", str(ID)), [verified(status="pending")], [BY_ID], Verdict.PROCESSING),
        ((str(ID),), [refusal(500, "odd")], [BY_ID], Verdict.UNKNOWN),
        ((str(ID),), [NO_TRANSACTION, verified()], [BY_ID, BY_REFERENCE], Verdict.COMPLETED),
        ((str(ID),), [verified(tx_ref="someone-elses"), NO_TRANSACTION], [BY_ID, BY_REFERENCE], Verdict.NOT_FOUND),
        ((str(ID),), [FAILED, verified()], [BY_ID, BY_REFERENCE], Verdict.COMPLETED),
        ((), [FAILED, listed()], [BY_REFERENCE, SUCCESSFUL], Verdict.DECLINED),
        ((str(ID),), [FAILED, FAILED, listed()], [BY_ID, BY_REFERENCE, SUCCESSFUL], Verdict.DECLINED),
    ],
)
async def test_it_asks_by_the_id_while_that_stands_and_else_by_our_reference(
    known: tuple[str, ...], replies: list[Reply], paths: list[str], verdict: Verdict
) -> None:
    wire = Wire(*replies)
    result = await wire.build(Flutterwave).fetch(a_query(UGX, *known), PLAIN)
    assert (result.verdict, asked(wire)) == (verdict, paths)


@pytest.mark.parametrize(
    ("reply", "verdict", "expirable"),
    [
        (listed(), Verdict.DECLINED, True),
        (listed(a_transaction(id="17")), Verdict.COMPLETED, False),
        (listed(a_transaction(status="failed")), Verdict.DECLINED, True),
        (listed(a_transaction(status="failed"), a_transaction(id="17")), Verdict.COMPLETED, False),
        (listed(a_transaction(tx_ref="someone-elses")), Verdict.DECLINED, False),
        (listed("odd"), Verdict.DECLINED, False),
        (listed(a_transaction(amount="odd")), Verdict.UNKNOWN, False),
        (Reply(200, {"status": "error", "message": "odd", "data": []}), Verdict.DECLINED, False),
        (Reply(200, {"status": "success", "message": "odd", "data": {}}), Verdict.DECLINED, False),
        (refusal(500, "odd"), Verdict.DECLINED, False),
        (Reply(200, b"<html>"), Verdict.UNKNOWN, False),
    ],
)
async def test_a_failure_proves_nothing_until_no_other_try_was_paid(
    reply: Reply, verdict: Verdict, expirable: bool
) -> None:
    result = await Wire(FAILED, reply).build(Flutterwave).fetch(a_query(UGX), PLAIN)
    assert (result.verdict, result.expirable, result.session_open) == (
        verdict,
        expirable,
        verdict is Verdict.DECLINED,
    )
    if verdict is Verdict.COMPLETED:
        assert (result.provider_references, result.paid) == (("17",), UGX)


# Closing the page


async def test_a_page_is_closed_by_its_link_and_then_asked_about() -> None:
    wire = Wire(DISABLED, NO_TRANSACTION)
    result = await wire.build(Flutterwave).cancel(a_query(UGX, LINK), PLAIN)
    assert (result.verdict, result.expirable, result.failure.code) == (Verdict.CANCELLED, True, "customer_cancelled")
    assert asked(wire) == ["/payments/link/disable", BY_REFERENCE]
    assert json.loads(wire.requests[0].content) == {"link": LINK}
    assert wire.requests[0].headers["authorization"] == "Bearer FLWSECK_TEST-suiteone-X"


INACTIVE = refusal(400, "This payment link is currently inactive")


@pytest.mark.parametrize("closed", [DISABLED, INACTIVE])
@pytest.mark.parametrize(
    ("replies", "verdict"),
    [
        ([NO_TRANSACTION], Verdict.CANCELLED),
        ([FAILED, listed()], Verdict.CANCELLED),
        ([FAILED, refusal(500, "odd")], Verdict.DECLINED),
        ([verified()], Verdict.COMPLETED),
        ([verified(status="pending")], Verdict.PROCESSING),
        ([verified(status="sleeping")], Verdict.UNKNOWN),
        ([refusal(500, "odd")], Verdict.UNKNOWN),
        ([refusal(400, "Invalid Transaction ID")], Verdict.NOT_FOUND),
    ],
)
async def test_a_closed_page_is_cancelled_only_if_nothing_was_paid(
    closed: Reply, replies: list[Reply], verdict: Verdict
) -> None:
    result = await Wire(closed, *replies).build(Flutterwave).cancel(a_query(UGX, LINK), PLAIN)
    assert (result.verdict, result.session_open) == (verdict, False)


@pytest.mark.parametrize(
    "reply",
    [
        refusal(401, "Authorization required"),
        refusal(404, "Payment link not found"),
        refusal(503, "An error occurred. Please contact support"),
        Reply(200, {"status": "success", "message": "odd"}),
        Reply(200, b"<html>"),
        Reply(400),
    ],
)
async def test_a_page_that_may_still_be_open_is_unknown(reply: Reply) -> None:
    wire = Wire(reply)
    result = await wire.build(Flutterwave).cancel(a_query(UGX, LINK), PLAIN)
    assert (result.verdict, result.expirable, len(wire.requests)) == (Verdict.UNKNOWN, False, 1)


async def test_a_page_whose_link_was_lost_is_only_asked_about() -> None:
    wire = Wire(verified())
    result = await wire.build(Flutterwave).cancel(a_query(UGX, str(ID)), PLAIN)
    assert (result.verdict, asked(wire)) == (Verdict.COMPLETED, [BY_ID])


# The description of the API


async def test_every_request_fits_the_description() -> None:
    spec = specs.flutterwave()
    for currency, ways in METHODS.items():
        for method in (None, *ways):
            wire = Wire(Reply(200, ACCEPTED))
            await wire.build(Flutterwave).collect(an_order(Money(500, currency), method=method), PLAIN)
            specs.validate_request(spec, "POST", "/payments", "application/json", body=wire.json)
    specs.validate_request(spec, "POST", "/payments/link/disable", "application/json", body={"link": LINK})
    specs.validate_request(spec, "GET", BY_ID)
    specs.validate_request(spec, "GET", BY_REFERENCE.partition("?")[0], params={"tx_ref": REFERENCE})


@pytest.mark.parametrize(
    ("name", "renamed"), [("tx_ref", "txref"), ("redirect_url", "callback_url"), ("amount", "sum")]
)
async def test_the_same_check_rejects_a_renamed_field(name: str, renamed: str) -> None:
    wire = Wire(Reply(200, ACCEPTED))
    await wire.build(Flutterwave).collect(an_order(UGX), PLAIN)
    body = {renamed if key == name else key: value for key, value in wire.json.items()}
    with pytest.raises(specs.SpecViolation):
        specs.validate_request(specs.flutterwave(), "POST", "/payments", "application/json", body=body)
