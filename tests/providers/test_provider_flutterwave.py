"""Flutterwave's adapter against replies in the shapes of developer.flutterwave.com/v3.0/docs (Standard, verification,
webhooks, errors, direct charges, refunds, transfers)."""

import base64
import hmac
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr, ValidationError

from payflow.core.money import Money
from payflow.gateway.contract import (
    AccountHolder,
    ActionType,
    Bank,
    Collects,
    Customer,
    Destination,
    DestinationType,
    ListsBanks,
    LookupFailed,
    NextAction,
    Operation,
    OrderNotAcceptable,
    PaymentDetails,
    PaysOut,
    Refunds,
    Submission,
    TakesOtp,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRefused,
)
from payflow.providers.flutterwave import CHARGES, METHODS, SESSION_LIFE, Flutterwave, FlutterwaveCredentials
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
from tests.providers.verbs_suite import (
    REFUND_REFERENCE,
    Verb,
    VerbsContract,
    a_payment,
    a_payout,
    a_payout_query,
    a_refund,
    a_refund_query,
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
                "provider_references": ("33286",),
                "dedupe_key": None,
            },
            {
                "verdict": Verdict.COMPLETED,
                "requested": Money(3_002_000, "NGN"),
                "fee": Money(2_688, "NGN"),
                "reference": "a0a827b1eca65311_PMCKDU_5",
                "provider_references": ("33286",),
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
            {"verdict": Verdict.DECLINED, "requested": None, "raw_status": "FAILED"},
            "provider_balance",
        ),
        EventCase(
            "a transfer in an invented status",
            {**SAMPLE_TRANSFER, "data": SAMPLE_TRANSFER["data"] | {"status": "Successful"}},
            {"operation": Operation.PAYOUT},
            {"verdict": Verdict.UNKNOWN, "requested": None},
        ),
        EventCase(
            "a transfer without anything",
            {"event": "transfer.completed", "data": None},
            {"operation": Operation.PAYOUT, "references": (), "provider_references": ()},
            {"verdict": Verdict.UNKNOWN},
        ),
        *(
            EventCase(
                f"a refund without envelope, {status}",
                {**REFUND, "status": status},
                {
                    "type": f"refund.{status}",
                    "operation": Operation.REFUND,
                    "references": (),
                    "provider_references": ("8612",),
                    "payment_references": (str(ID),),
                },
                {"verdict": verdict, "requested": None, "raw_status": status, "provider_references": ("8612",)},
                "refund_failed" if verdict is Verdict.DECLINED else None,
            )
            for status, verdict in (
                ("completed", Verdict.PROCESSING),
                ("processing", Verdict.PROCESSING),
                ("pending-momo", Verdict.PROCESSING),
                ("completed-mpgs", Verdict.COMPLETED),
                ("completed-bank-transfer", Verdict.COMPLETED),
                ("failed", Verdict.DECLINED),
                ("completed-somehow", Verdict.UNKNOWN),
            )
        ),
        EventCase(
            "a refund with its numbers in text and no status",
            {"id": "8612", "AmountRefunded": "50.00", "TransactionId": str(ID)},
            {"type": "refund.unknown", "provider_references": ("8612",), "payment_references": (str(ID),)},
            {"verdict": Verdict.UNKNOWN, "raw_status": ""},
        ),
        EventCase(
            "a refund without numbers",
            {"AmountRefunded": None, "status": "completed"},
            {"provider_references": (), "payment_references": ()},
            {"verdict": Verdict.PROCESSING, "provider_references": ()},
        ),
        EventCase(
            "a refund in an envelope",
            {"event": "refund.completed", "data": {"id": 8612, "tx_ref": REFERENCE, "tx_id": ID}},
            {
                "type": "refund.completed",
                "operation": Operation.REFUND,
                "references": (),
                "provider_references": ("8612",),
                "payment_references": (REFERENCE, str(ID)),
            },
            {"verdict": Verdict.UNKNOWN},
        ),
        EventCase(
            "a payment as v4 tells it",
            {
                "webhook_id": "wbk_17",
                "timestamp": 1_772_616_615,
                "type": "charge.completed",
                "data": {"id": "chg_17", "reference": REFERENCE, "status": "succeeded", "amount": 5_000},
            },
            {"type": "charge.completed", "references": (REFERENCE,), "provider_references": ()},
            {"verdict": Verdict.UNKNOWN, "paid": None},
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
PENDING = verified(status="pending")


@pytest.mark.parametrize(
    ("known", "replies", "paths", "verdict"),
    [
        ((), [verified()], [BY_REFERENCE], Verdict.COMPLETED),
        ((LINK,), [verified()], [BY_REFERENCE], Verdict.COMPLETED),
        ((LINK, str(ID)), [verified()], [BY_ID], Verdict.COMPLETED),
        ((LINK, "17", str(ID)), [PENDING, listed()], [BY_ID, SUCCESSFUL], Verdict.PROCESSING),
        ((LINK, str(ID)), [PENDING, listed(a_transaction(id="17"))], [BY_ID, SUCCESSFUL], Verdict.COMPLETED),
        ((LINK,), [PENDING, listed(a_transaction(id="17"))], [BY_REFERENCE, SUCCESSFUL], Verdict.COMPLETED),
        ((LINK, str(ID)), [PENDING, refusal(500, "odd")], [BY_ID, SUCCESSFUL], Verdict.PROCESSING),
        ((str(ID), "awaiting:x"), [PENDING], [BY_ID], Verdict.REQUIRES_ACTION),
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


@pytest.mark.parametrize(
    ("known", "expirable"), [((), True), ((LINK,), True), ((LINK, str(ID)), False), ((str(ID), "awaiting:x"), False)]
)
async def test_not_found_proves_nothing_once_a_transaction_was_told_of(known: tuple[str, ...], expirable: bool) -> None:
    """A key of another account or mode finds nothing of what may have been paid under the one before."""
    result = await Wire(NO_TRANSACTION).build(Flutterwave).fetch(a_query(UGX, *known), PLAIN)
    assert (result.verdict, result.expirable) == (Verdict.NOT_FOUND, expirable)


@pytest.mark.parametrize("rows", [[], [a_transaction(status="pending")], [a_transaction(tx_ref="someone-elses")]])
async def test_a_try_under_way_proves_nothing_even_if_no_other_was_paid(rows: list[Any]) -> None:
    result = await Wire(PENDING, listed(*rows)).build(Flutterwave).fetch(a_query(UGX, LINK), PLAIN)
    assert (result.verdict, result.expirable, result.session_open) == (Verdict.PROCESSING, False, False)


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
        ([PENDING, listed()], Verdict.PROCESSING),
        ([PENDING, listed(a_transaction(id="17"))], Verdict.COMPLETED),
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


# Direct charges

ACCOUNT = PaymentDetails(bank_code="044", account_number=SecretStr("0690000031"))
WALLET = PaymentDetails(operator="mtn")
FLW_REF = "URF_1700000000000_17"


def charged(authorization: Any = None, **changes: Any) -> Reply:
    """Of a charge in naira: with `data` unless it is told to be absent."""
    data = a_transaction(amount=5_000, charged_amount=5_000, currency="NGN", status="pending", flw_ref=FLW_REF)
    body: dict[str, Any] = {"status": "success", "message": "Charge initiated", "data": data | changes}
    if changes == {"data": None}:
        del body["data"]
    return Reply(200, body | ({"meta": {"authorization": authorization}} if authorization else {}))


NO_DATA = {"data": None}
BANK_TRANSFER = {
    "transfer_reference": "MockFLWRef-1689847855598", "transfer_account": "0067100155", "transfer_bank": "Mock Bank",
    "account_expiration": 1689847855598, "transfer_note": "Mock note", "transfer_amount": "5000.00",
    "mode": "banktransfer",
}  # fmt: skip
REDIRECT = {"redirect": "https://flutterwave.example/captcha/verify/97639:6bd0", "mode": "redirect"}


def a_charge(
    method: str, details: PaymentDetails, amount: Money = NGN, phone: str = "+254712345678", **more: Any
) -> Any:
    customer = Customer(email="ada@customer.example", phone=phone, name="Ada")
    return an_order(amount, method=method, details=details, customer=customer, **more)


async def charge(reply: Reply, order: Any) -> tuple[Wire, Any]:
    wire = Wire(reply)
    adapter = wire.build(Flutterwave)
    adapter.check(order)
    return wire, await adapter.collect(order, PLAIN)


COMMON = {
    "tx_ref": REFERENCE,
    "amount": "5000.00",
    "currency": "NGN",
    "email": "ada@customer.example",
    "fullname": "Ada",
    "phone_number": "254712345678",
    "redirect_url": "https://shop.example/thanks",
    "meta": {"transaction_id": "019c0000-0000-7000-8000-000000000001"},
}


@pytest.mark.parametrize(
    ("method", "details", "currency", "phone", "kind", "extra"),
    [
        ("bank", ACCOUNT, "NGN", "254712345678", "debit_ng_account",
         {"account_bank": "044", "account_number": "0690000031"}),
        ("bank_transfer", PaymentDetails(), "NGN", "254712345678", "bank_transfer", {"expires": 3600}),
        ("ussd", PaymentDetails(bank_code="058"), "NGN", "254712345678", "ussd", {"account_bank": "058"}),
        ("mobile_money", PaymentDetails(), "KES", "254712345678", "mpesa", {}),
        ("mobile_money", WALLET, "GHS", "233542773934", "mobile_money_ghana", {"network": "MTN"}),
        ("mobile_money", WALLET, "UGX", "256712345678", "mobile_money_uganda",
         {"network": "MTN", "order_id": REFERENCE}),
        ("mobile_money", WALLET, "RWF", "250712345678", "mobile_money_rwanda",
         {"network": "MTN", "order_id": REFERENCE}),
        ("mobile_money", WALLET, "ZMW", "260712345678", "mobile_money_zambia",
         {"network": "MTN", "order_id": REFERENCE}),
        ("mobile_money", PaymentDetails(operator="halopesa"), "TZS", "255712345678", "mobile_money_tanzania",
         {"network": "Halopesa"}),
        ("mobile_money", PaymentDetails(), "XAF", "237712345678", "mobile_money_franco", {"country": "CM"}),
        ("mobile_money", PaymentDetails(), "XOF", "225712345678", "mobile_money_franco", {"country": "CI"}),
    ],
)  # fmt: skip
async def test_a_direct_charge_as_flutterwave_receives_it(
    method: str, details: PaymentDetails, currency: str, phone: str, kind: str, extra: dict[str, Any]
) -> None:
    amount = Money.parse("5000", currency)
    wire, _ = await charge(charged(), a_charge(method, details, amount, "+" + phone))
    (request,) = wire.requests
    assert (request.url.path, dict(request.url.params)) == ("/charges", {"type": kind})
    expected = COMMON | {"amount": amount.decimal_text(), "currency": currency, "phone_number": phone} | extra
    assert wire.json == expected


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"method": "card", "details": PaymentDetails()}, "/method"),
        ({"method": None, "details": ACCOUNT}, "/method"),
        ({"method": "qr", "details": PaymentDetails()}, "/method"),
        ({"method": "bank", "details": ACCOUNT, "amount": Money(100, "USD")}, "/method"),
        ({"method": "mobile_money", "details": WALLET, "amount": Money(100, "MWK")}, "/method"),
        ({"method": "bank", "details": PaymentDetails(bank_code="044")}, "/payment_details/account_number"),
        ({"method": "bank", "details": PaymentDetails()}, "/payment_details/bank_code"),
        ({"method": "ussd", "details": PaymentDetails(ussd_code="737")}, "/payment_details/bank_code"),
        ({"method": "mobile_money", "details": PaymentDetails(), "amount": UGX}, "/payment_details/operator"),
        (
            {"method": "mobile_money", "details": WALLET, "amount": UGX, "customer": Customer(email="a@b.example")},
            "/customer/phone",
        ),
        ({"method": "mobile_money", "details": PaymentDetails(), "amount": Money(100, "XOF")}, "/customer/phone"),
    ],
)
def test_a_direct_charge_that_cannot_be_made_points_at_the_reason(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(OrderNotAcceptable) as refused:
        Wire().build(Flutterwave).check(an_order(changes.pop("amount", NGN), **changes))
    assert refused.value.pointer == pointer


ENDS_AT = NOW + SESSION_LIFE


@pytest.mark.parametrize(
    ("reply", "method", "verdict", "action", "references"),
    [
        (
            charged({"mode": "otp", "validate_instructions": "Enter the code of your bank"}),
            "bank", Verdict.REQUIRES_ACTION,
            NextAction(ActionType.OTP, display_text="Enter the code of your bank"),
            (str(ID), f"awaiting:{FLW_REF}"),
        ),
        (
            charged(REDIRECT, **NO_DATA),
            "bank", Verdict.REQUIRES_ACTION,
            NextAction(ActionType.REDIRECT, url=REDIRECT["redirect"], expires_at=ENDS_AT),
            (f"awaiting:{REFERENCE}",),
        ),
        (
            charged(meta={"authorization": {"mode": "redirect"}}, auth_url="https://bank.example/login"),
            "bank", Verdict.REQUIRES_ACTION,
            NextAction(ActionType.REDIRECT, url="https://bank.example/login", expires_at=ENDS_AT),
            (str(ID), f"awaiting:{FLW_REF}"),
        ),
        (
            charged({"mode": "ussd", "note": "*566*002*4517159#"}),
            "ussd", Verdict.REQUIRES_ACTION,
            NextAction(
                ActionType.USSD, display_text="Dial *566*002*4517159# to pay.",
                fields={"code": "*566*002*4517159#"}, expires_at=ENDS_AT,
            ),
            (str(ID), f"awaiting:{FLW_REF}"),
        ),
        (
            charged(BANK_TRANSFER, **NO_DATA),
            "bank_transfer", Verdict.REQUIRES_ACTION,
            NextAction(
                ActionType.TRANSFER,
                display_text="Transfer exactly NGN 5000.00 to account 0067100155 at Mock Bank.",
                fields={
                    "account_number": "0067100155", "bank_name": "Mock Bank", "amount": "5000.00", "currency": "NGN"
                },
                expires_at=ENDS_AT,
            ),
            ("awaiting:MockFLWRef-1689847855598",),
        ),
        (charged(), "bank", Verdict.PROCESSING, None, (str(ID), f"submitted:{FLW_REF}")),
        (charged({"mode": "pin", "fields": ["pin"]}, **NO_DATA), "bank", Verdict.UNKNOWN, None, ()),
        (charged({"mode": "avs_noauth"}), "bank", Verdict.UNKNOWN, None, (str(ID),)),
        (charged({"mode": "otp"}, flw_ref=None), "bank", Verdict.UNKNOWN, None, (str(ID),)),
        (charged({"mode": "redirect", "redirect": "javascript:alert(1)"}, **NO_DATA), "bank", Verdict.UNKNOWN, None, ()),
        (charged(BANK_TRANSFER | {"transfer_account": ""}, **NO_DATA), "bank_transfer", Verdict.UNKNOWN, None, ()),
        (charged(BANK_TRANSFER | {"transfer_amount": "odd"}, **NO_DATA), "bank_transfer", Verdict.UNKNOWN, None, ()),
        (charged(None, **NO_DATA), "bank", Verdict.UNKNOWN, None, ()),
        (charged(tx_ref="someone-elses"), "bank", Verdict.UNKNOWN, None, ()),
        (charged(status="sleeping"), "bank", Verdict.UNKNOWN, None, (str(ID),)),
        (charged(status="successful"), "bank", Verdict.COMPLETED, None, (str(ID),)),
        (charged(status="failed"), "bank", Verdict.DECLINED, None, ()),
        (refusal(400, "Duplicate transaction reference"), "bank", Verdict.UNKNOWN, None, ()),
        (refusal(400, "account_bank is required"), "bank", Verdict.REFUSED, None, ()),
        (refusal(401, "Authorization required"), "bank", Verdict.REFUSED, None, ()),
        (refusal(429, "Too many requests"), "bank", Verdict.REFUSED, None, ()),
        (refusal(503, "An error occurred. Please contact support"), "bank", Verdict.UNKNOWN, None, ()),
        (Reply(502, b"<html>"), "bank", Verdict.UNKNOWN, None, ()),
    ],
)  # fmt: skip
async def test_a_direct_charge_says_what_comes_next(
    reply: Reply, method: str, verdict: Verdict, action: NextAction | None, references: tuple[str, ...]
) -> None:
    details = {"bank": ACCOUNT, "ussd": PaymentDetails(bank_code="058"), "bank_transfer": PaymentDetails()}[method]
    _, result = await charge(reply, a_charge(method, details))
    assert (result.verdict, result.next_action, result.provider_references) == (verdict, action, references)
    assert not result.session_open
    assert result.session_ends_at == (ENDS_AT if verdict in (Verdict.REQUIRES_ACTION, Verdict.PROCESSING) else None)


@pytest.mark.parametrize("authorization", [None, {"mode": "callback"}])
async def test_a_wallets_owner_confirms_on_the_phone(authorization: Any) -> None:
    kes = Money(500_000, "KES")
    # Its processor says "Successful" while the charge is pending: as in the documented sample.
    reply = charged(authorization, currency="KES", processor_response="Successful", flw_ref="2993238342")
    _, result = await charge(reply, a_charge("mobile_money", PaymentDetails(), kes))
    assert (result.verdict, result.paid) == (Verdict.REQUIRES_ACTION, None)
    assert result.next_action.type is ActionType.HANDSET_PROMPT
    assert result.provider_references == (str(ID), "awaiting:2993238342")


async def test_an_account_number_in_what_the_customer_reads_is_not_told() -> None:
    words = "Enter the code that was sent to the owner of 0690000031"
    _, result = await charge(charged({"mode": "otp", "validate_instructions": words}), a_charge("bank", ACCOUNT))
    assert result.verdict is Verdict.REQUIRES_ACTION
    assert result.next_action.display_text == "Enter the code that was sent to the owner of ***"


async def test_an_account_number_that_is_repeated_is_not_told() -> None:
    words = "Account 0690000031 is required"
    _, result = await charge(refusal(400, words), a_charge("bank", ACCOUNT))
    assert "0690000031" not in repr(result)


@pytest.mark.parametrize(
    ("reply", "mark", "verdict"),
    [
        (verified(status="pending"), "awaiting:x", Verdict.REQUIRES_ACTION),
        (verified(status="success-pending-validation"), "awaiting:x", Verdict.REQUIRES_ACTION),
        (verified(), "awaiting:x", Verdict.COMPLETED),
    ],
)
async def test_a_direct_charge_that_is_pending_waits_for_the_customer(
    reply: Reply, mark: str, verdict: Verdict
) -> None:
    wire = Wire(reply)
    result = await wire.build(Flutterwave).fetch(a_query(UGX, str(ID), mark), PLAIN)
    assert (result.verdict, asked(wire)) == (verdict, [BY_ID])


async def test_after_the_otp_a_pending_charge_is_processing() -> None:
    query = a_query(UGX, str(ID), "awaiting:x", "submitted:x")
    result = await Wire(verified(status="pending")).build(Flutterwave).fetch(query, PLAIN)
    assert result.verdict is Verdict.PROCESSING


async def test_a_failure_ends_a_direct_charge_which_has_no_page() -> None:
    result = await Wire(FAILED, FAILED, listed()).build(Flutterwave).fetch(a_query(UGX, str(ID), "awaiting:x"), PLAIN)
    assert (result.verdict, result.session_open, result.expirable) == (Verdict.DECLINED, False, True)


# Validating with the bank's code

OTP = Submission(ActionType.OTP, SecretStr("908172"))
OPEN_CHARGE = a_query(NGN, str(ID), f"awaiting:{FLW_REF}")


def validated(**changes: Any) -> Reply:
    data = a_transaction(currency="NGN", flw_ref=FLW_REF) | changes
    return Reply(200, {"status": "success", "message": "Charge validated", "data": data})


async def test_an_otp_is_passed_on_with_the_charges_reference() -> None:
    wire = Wire(validated())
    result = await wire.build(Flutterwave).submit(OPEN_CHARGE, OTP, PLAIN)
    assert wire.json == {"otp": "908172", "flw_ref": FLW_REF, "type": "account"}
    assert (result.verdict, result.requested) == (Verdict.COMPLETED, NGN)
    assert result.provider_references == (str(ID), f"submitted:{FLW_REF}")


@pytest.mark.parametrize(
    ("query", "submission"),
    [
        (a_query(NGN, str(ID)), OTP),
        (a_query(NGN, f"submitted:{FLW_REF}"), OTP),
        (OPEN_CHARGE, Submission(ActionType.PIN, SecretStr("3310"))),
    ],
)
async def test_what_nobody_asked_for_is_not_sent(query: Any, submission: Submission) -> None:
    wire = Wire(validated())
    assert (await wire.build(Flutterwave).submit(query, submission, PLAIN)).verdict is Verdict.UNKNOWN
    assert wire.requests == []


async def test_an_otp_that_is_repeated_is_not_told() -> None:
    for words in ("Invalid OTP 908172", "908172 is required"):
        result = await Wire(refusal(400, words)).build(Flutterwave).submit(OPEN_CHARGE, OTP, PLAIN)
        assert "908172" not in repr(result)
    result = (
        await Wire(validated(status="failed", processor_response="908172?"))
        .build(Flutterwave)
        .submit(OPEN_CHARGE, OTP, PLAIN)
    )
    assert (result.verdict, "908172" in repr(result)) == (Verdict.DECLINED, False)


# Refunds, transfers, lookups: in shillings of Uganda, as above

PAYMENT = a_payment(UGX, LINK, str(ID))
PART = Money(2_000, "UGX")


def a_refund_object(**changes: Any) -> dict[str, Any]:
    return {
        "id": 8612, "account_id": 73362, "tx_id": ID, "flw_ref": "URF_1577867664541_3572735", "wallet_id": 74639,
        "amount_refunded": 2_000, "status": "completed", "destination": "payment_source",
        "meta": {"source": "availablebalance"}, "created_at": "2026-03-04T09:30:37.366Z",
    } | changes  # fmt: skip


def refunded(**changes: Any) -> Reply:
    body = {"status": "success", "message": "Transaction refund initiated", "data": a_refund_object(**changes)}
    return Reply(200, body)


def refunds_listed(*items: Any, **page_info: Any) -> Reply:
    body = {"status": "success", "message": "Refunds fetched", "data": list(items)}
    return Reply(200, body | ({"meta": {"page_info": page_info}} if page_info else {}))


REFUNDED = {"provider_references": ("8612",), "requested": PART}
REFUND_CASES = (
    Case("begun", refunded(), Verdict.PROCESSING, expected=REFUNDED | {"raw_status": "completed"}),
    *(
        Case(status, refunded(status=status), Verdict.PROCESSING, expected=REFUNDED)
        for status in ("processing", "pending-momo")
    ),
    *(
        Case(f"completed-{way}", refunded(status=f"completed-{way}"), Verdict.COMPLETED, expected=REFUNDED)
        for way in ("bank-transfer", "momo", "mpgs", "offline", "preauth")
    ),
    Case(
        "paid out",
        refunded(status="completed-momo", meta={"disburse_status": "successful"}),
        Verdict.COMPLETED,
        expected=REFUNDED,
    ),
    Case(
        "completed and yet not paid out",
        refunded(status="completed-momo", meta={"disburse_status": "failed"}),
        Verdict.UNKNOWN,
    ),
    Case("begun and paid out", refunded(meta={"disburse_status": "successful"}), Verdict.PROCESSING),
    Case("failed", refunded(status="failed"), Verdict.DECLINED, "refund_failed", REFUNDED),
    *(
        Case(f"the status {status!r}", refunded(status=status), Verdict.UNKNOWN, expected=REFUNDED)
        for status in ("completed-somehow", "Failed", "successful", "new", "")
    ),
    Case("of another transaction", refunded(tx_id=17), Verdict.UNKNOWN, expected={"provider_references": ()}),
    Case("a number in text", refunded(id="8612", tx_id=str(ID)), Verdict.PROCESSING, expected=REFUNDED),
    Case("without a number", refunded(id=None), Verdict.UNKNOWN),
    Case("without an amount", refunded(amount_refunded=None), Verdict.UNKNOWN),
    Case("an envelope that says no", Reply(200, {**refunded().body, "status": "error"}), Verdict.UNKNOWN),
    Case("another status", Reply(201, refunded().body), Verdict.UNKNOWN),
)
UNVERIFIED_REFUND_WORDS = (
    "Refund amount is greater than the transaction amount", "Transaction has been refunded", "Insufficient balance",
    "No transaction was found for this id",
)  # fmt: skip


def a_transfer(**changes: Any) -> dict[str, Any]:
    return {
        "id": 396_432, "account_number": "256712345678", "bank_code": "MPS", "full_name": "Alexis Sanchez",
        "created_at": "2026-03-04T09:30:21.000Z", "currency": "UGX", "debit_currency": "UGX", "amount": 5_000, "fee": 500,
        "status": "NEW", "reference": REFUND_REFERENCE, "meta": None, "narration": "Withdrawal", "complete_message": "",
        "requires_approval": 0, "is_approved": 1, "bank_name": "FA-BANK",
    } | changes  # fmt: skip


def transferred(**changes: Any) -> Reply:
    body = {"status": "success", "message": "Transfer Queued Successfully", "data": a_transfer(**changes)}
    return Reply(200, body)


def transfers_listed(*items: Any) -> Reply:
    return Reply(200, {"status": "success", "message": "Transfers fetched", "data": list(items)})


SENT = {"provider_references": ("396432",), "reference": REFUND_REFERENCE}
TRANSFER_CASES = (
    Case("queued", transferred(), Verdict.PROCESSING, expected=SENT | {"raw_status": "NEW", "requested": None}),
    Case("pending", transferred(status="PENDING"), Verdict.PROCESSING, expected=SENT),
    Case(
        "successful",
        transferred(status="SUCCESSFUL", complete_message="Transaction was successful"),
        Verdict.COMPLETED,
        expected=SENT | {"requested": UGX, "fee": Money(500, "UGX"), "paid": None},
    ),
    Case(
        "waiting for somebody's approval",
        transferred(requires_approval=1, is_approved=0),
        Verdict.REQUIRES_ACTION,
        expected=SENT,
    ),
    Case("approved", transferred(requires_approval=1, is_approved=1), Verdict.PROCESSING, expected=SENT),
    Case(
        "no balance",
        transferred(status="FAILED", complete_message="DISBURSE FAILED: Insufficient funds in customer wallet"),
        Verdict.DECLINED,
        "provider_balance",
        SENT,
    ),
    Case(
        "failed",
        transferred(status="FAILED", complete_message="beneficiary_name is required"),
        Verdict.DECLINED,
        "payout_failed",
        SENT,
    ),
    *(
        Case(f"the status {status!r}", transferred(status=status), Verdict.UNKNOWN, expected=SENT | {"requested": None})
        for status in ("successful", "INITIATED", "CANCELLED", "")
    ),
    Case("another's", transferred(reference="someone-elses"), Verdict.UNKNOWN, expected={"provider_references": ()}),
    Case("successful without an amount", transferred(status="SUCCESSFUL", amount=None), Verdict.UNKNOWN),
    Case("an envelope that says no", Reply(200, {**transferred().body, "status": "error"}), Verdict.UNKNOWN),
)
WALLET_IN_UGANDA = Destination(DestinationType.MOBILE_MONEY, account_name="Alexis Sanchez", phone="+256712345678")
ACCOUNT_IN_NIGERIA = Destination(DestinationType.BANK_ACCOUNT, bank_code="044", account_number="0690000040")
ASKED_IN_VAIN = (
    Case("no key", refusal(401, "Authorization required"), Verdict.UNKNOWN),
    Case("too many", refusal(429, "Too many requests"), Verdict.UNKNOWN),
    Case("not found", refusal(404, "Transaction not found"), Verdict.UNKNOWN),
)
NOT_ACCEPTED = (
    Case("no key", refusal(401, "Authorization required"), Verdict.REFUSED, "authentication_failed"),
    Case("too many", refusal(429, "Too many requests"), Verdict.REFUSED, "rate_limited"),
    Case("a field is missing", refusal(400, "amount is required"), Verdict.REFUSED, "invalid_request"),
    Case("the gateway waited", refusal(503, "An error occurred. Please contact support"), Verdict.UNKNOWN),
)
BANKS = Reply(
    200,
    {
        "status": "success",
        "message": "Banks fetched successfully",
        "data": [{"id": 132, "code": "560", "name": "Page MFBank"}, {"id": 1, "code": "044", "name": "Access Bank"}],
    },
)
HOLDER = Reply(
    200,
    {
        "status": "success",
        "message": "Account details fetched",
        "data": {"account_number": "0690000040", "account_name": "Pastor Bright"},
    },
)


class TestFlutterwaveVerbs(VerbsContract):
    adapter = Flutterwave
    credentials = PLAIN
    secrets = ("FLWSECK_TEST-suiteone-X",)
    verbs = (
        Verb(
            "collect",
            (a_charge("mobile_money", WALLET, UGX),),
            charged(REDIRECT, amount=5_000, currency="UGX"),
            "/charges",
            money=UGX,
            label="a direct charge",
        ),
        Verb(
            "submit",
            (a_query(UGX, f"awaiting:{FLW_REF}"), OTP),
            validated(currency="UGX"),
            "/validate-charge",
            money=UGX,
            cases=(
                Case("paid", validated(currency="UGX"), Verdict.COMPLETED, expected={"requested": UGX}),
                Case(
                    "not yet",
                    validated(currency="UGX", status="pending"),
                    Verdict.PROCESSING,
                    expected={"provider_references": (str(ID), f"submitted:{FLW_REF}")},
                ),
                Case(
                    "declined",
                    validated(status="failed", processor_response="Insufficient Funds"),
                    Verdict.DECLINED,
                    "insufficient_funds",
                    {"session_open": False},
                ),
                Case("another's", validated(tx_ref="someone-elses"), Verdict.UNKNOWN),
                Case("in whatever words", refusal(400, "The code was wrong"), Verdict.UNKNOWN),
                *NOT_ACCEPTED,
            ),
        ),
        Verb(
            "refund",
            (a_refund(PART, PAYMENT),),
            refunded(),
            f"/transactions/{ID}/refund",
            cases=(
                *REFUND_CASES,
                *NOT_ACCEPTED,
                *(Case(words, refusal(400, words), Verdict.UNKNOWN) for words in UNVERIFIED_REFUND_WORDS),
            ),
            money=PART,
        ),
        Verb(
            "fetch_refund",
            (a_refund_query(PART, PAYMENT, "8612"),),
            refunded(status="completed-mpgs"),
            "/refunds/8612",
            method="GET",
            cases=(*REFUND_CASES, *ASKED_IN_VAIN),
            asks=True,
            money=PART,
        ),
        Verb(
            "fetch_refund",
            (a_refund_query(PART, PAYMENT),),
            refunds_listed(a_refund_object(status="completed-mpgs"), total_pages=1),
            "/refunds",
            method="GET",
            cases=(*ASKED_IN_VAIN, Case("none", refunds_listed(), Verdict.UNKNOWN)),
            asks=True,
            money=PART,
            label="a refund found in the list",
        ),
        Verb(
            "pay_out",
            (a_payout(UGX, WALLET_IN_UGANDA),),
            transferred(),
            "/transfers",
            cases=(
                *TRANSFER_CASES,
                *NOT_ACCEPTED,
                Case("a duplicate", refusal(400, "Transfer with reference already exists"), Verdict.UNKNOWN),
                Case(
                    "an account that is shunned",
                    refusal(400, "Payout was made to a blacklisted account number"),
                    Verdict.REFUSED,
                    "destination_not_allowed",
                ),
                Case(
                    "an address that is not listed",
                    refusal(400, "Please enable IP Whitelisting to access this service"),
                    Verdict.REFUSED,
                    "configuration_error",
                ),
            ),
            money=UGX,
        ),
        Verb(
            "fetch_payout",
            (a_payout_query(UGX, "396432"),),
            transferred(status="SUCCESSFUL"),
            "/transfers/396432",
            method="GET",
            cases=(*TRANSFER_CASES, *ASKED_IN_VAIN),
            asks=True,
            money=UGX,
        ),
        Verb(
            "fetch_payout",
            (a_payout_query(UGX),),
            transfers_listed(a_transfer(status="SUCCESSFUL")),
            "/transfers",
            method="GET",
            cases=(
                *ASKED_IN_VAIN,
                Case("none", transfers_listed(), Verdict.UNKNOWN),
                Case("another's", transfers_listed(a_transfer(reference="x")), Verdict.UNKNOWN),
                Case("two", transfers_listed(a_transfer(), a_transfer(id=17)), Verdict.UNKNOWN),
                Case(
                    "among others", transfers_listed("odd", a_transfer(reference="x"), a_transfer()), Verdict.PROCESSING
                ),
            ),
            asks=True,
            money=UGX,
            label="a transfer found by our reference",
        ),
        Verb("banks", ("NGN",), BANKS, "/banks/NG", method="GET", lookup=True),
        Verb("resolve_account", (ACCOUNT_IN_NIGERIA,), HOLDER, "/accounts/resolve", lookup=True),
    )


def test_what_it_can_do_follows_from_what_it_has() -> None:
    adapter = Wire().build(Flutterwave)
    for capability in (Collects, TakesOtp, Refunds, PaysOut, ListsBanks):
        assert isinstance(adapter, capability)


async def test_a_refund_as_flutterwave_receives_it() -> None:
    wire = Wire(refunded())
    adapter, order = wire.build(Flutterwave), a_refund(Money(2_050, "NGN"), a_payment(NGN, LINK, "17", str(ID)))
    adapter.check_refund(order)
    await adapter.refund(order, PLAIN)
    assert wire.json == {"amount": 20.5, "comments": f"Returned goods ({REFUND_REFERENCE})"}
    assert wire.requests[0].content.startswith(b'{"amount":20.5,')
    assert wire.requests[0].url.path == f"/transactions/{ID}/refund"


def test_a_refund_of_a_transaction_whose_number_is_unknown_cannot_be_made() -> None:
    with pytest.raises(OrderNotAcceptable) as refused:
        Wire().build(Flutterwave).check_refund(a_refund(PART, a_payment(UGX, LINK, "awaiting:17")))
    assert refused.value.pointer == ""


async def found(*replies: Reply, **changes: Any) -> tuple[Wire, Any]:
    wire = Wire(*replies)
    return wire, await wire.build(Flutterwave).fetch_refund(a_refund_query(PART, PAYMENT, **changes), PLAIN)


@pytest.mark.parametrize(
    ("items", "taken", "identity"),
    [
        ([{}], (), "8612"),
        ([{}], ("8612",), None),
        ([{}, {"id": 8613}], ("8612",), "8613"),
        ([{"id": 8613}, {}], (), "8612"),  # of two alike the oldest
        ([{}, {"id": 8613, "comments": f"Returned ({REFUND_REFERENCE})"}], (), "8613"),
        ([{"tx_id": 17}, {"amount_refunded": 2_001}, {"amount_refunded": "odd"}], (), None),
        ([{"created_at": "2026-03-04T09:19:00.000Z"}], (), None),  # made before ours was ordered
        ([{"created_at": "2026-03-04T09:25:00.000Z"}], (), "8612"),  # their clock may be slow
        ([{"created_at": None}, {"created_at": "2026-03-04"}, {"created_at": "2026-03-04T09:31:00"}], (), None),
    ],
)
async def test_a_refund_whose_answer_was_lost_is_found_by_transaction_and_amount(
    items: list[dict[str, Any]], taken: tuple[str, ...], identity: str | None
) -> None:
    _, result = await found(refunds_listed("odd", *(a_refund_object(**item) for item in items)), taken=taken)
    if identity is None:
        assert (result.verdict, result.raw_status) == (Verdict.UNKNOWN, "not listed")
    else:
        assert (result.verdict, result.provider_references) == (Verdict.PROCESSING, (identity,))


async def test_every_page_of_the_refunds_is_read() -> None:
    other = refunds_listed(a_refund_object(tx_id=17), total_pages=2)
    wire, result = await found(other, refunds_listed(a_refund_object(), total_pages=2))
    assert result.provider_references == ("8612",)
    assert [dict(request.url.params) for request in wire.requests] == [
        {"from": "2026-03-03", "to": "2026-03-05", "page": page} for page in ("1", "2")
    ]
    wire, result = await found(refunds_listed(a_refund_object(), total_pages=21))
    assert (result.verdict, len(wire.requests)) == (Verdict.UNKNOWN, 20)


async def test_a_transfer_as_flutterwave_receives_it() -> None:
    wire = Wire(transferred())
    adapter = wire.build(Flutterwave)
    order = a_payout(Money(550_050, "NGN"), ACCOUNT_IN_NIGERIA, description=None)
    adapter.check_payout(order)
    await adapter.pay_out(order, PLAIN)
    assert wire.json == {
        "account_bank": "044",
        "account_number": "0690000040",
        "amount": 5500.5,
        "currency": "NGN",
        "debit_currency": "NGN",
        "reference": REFUND_REFERENCE,
        "narration": "Payout",
    }
    wire = Wire(transferred())
    await wire.build(Flutterwave).pay_out(a_payout(UGX, WALLET_IN_UGANDA), PLAIN)
    assert (wire.json["account_bank"], wire.json["account_number"]) == ("MPS", "256712345678")
    assert (wire.json["amount"], wire.json["beneficiary_name"]) == (5_000, "Alexis Sanchez")
    assert b'"amount":5000,' in wire.requests[0].content


NAMED = {"account_name": "Alexis Sanchez"}
BANK, MOBILE = DestinationType.BANK_ACCOUNT, DestinationType.MOBILE_MONEY


@pytest.mark.parametrize(
    ("currency", "destination", "pointer"),
    [
        ("JPY", ACCOUNT_IN_NIGERIA, "/currency"),
        ("USD", ACCOUNT_IN_NIGERIA, "/currency"),
        ("NGN", Destination(BANK, account_number="0690000040"), "/destination/bank_code"),
        ("NGN", Destination(BANK, bank_code="044"), "/destination/account_number"),
        ("NGN", Destination(MOBILE, phone="+2348012345678"), "/destination/type"),
        ("GHS", Destination(BANK, bank_code="GH280100", account_number="1", **NAMED), "/destination/type"),
        ("KES", Destination(BANK, bank_code="01", account_number="1"), "/destination/account_name"),
        ("KES", Destination(MOBILE, **NAMED), "/destination/phone"),
        ("KES", Destination(MOBILE, bank_code="MTN", phone="+254712345678", **NAMED), "/destination/bank_code"),
        ("GHS", Destination(MOBILE, phone="+233542773934", **NAMED), "/destination/bank_code"),
        ("UGX", Destination(MOBILE, phone="+256712345678"), "/destination/account_name"),
    ],
)
def test_a_transfer_that_cannot_be_sent_points_at_the_reason(
    currency: str, destination: Destination, pointer: str
) -> None:
    with pytest.raises(OrderNotAcceptable) as refused:
        Wire().build(Flutterwave).check_payout(a_payout(Money(100, currency), destination))
    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    ("currency", "destination"),
    [
        ("NGN", ACCOUNT_IN_NIGERIA),
        ("KES", Destination(MOBILE, phone="+254712345678", **NAMED)),
        ("GHS", Destination(MOBILE, bank_code="MTN", phone="+233542773934", **NAMED)),
        ("ZAR", Destination(BANK, bank_code="FNB", account_number="62000000000", **NAMED)),
    ],
)
def test_a_transfer_that_can_be_sent_is_accepted(currency: str, destination: Destination) -> None:
    Wire().build(Flutterwave).check_payout(a_payout(Money(100, currency), destination))


async def test_banks_and_operators_are_listed_by_currency() -> None:
    adapter = Wire(BANKS).build(Flutterwave)
    assert await adapter.banks("NGN", PLAIN) == [Bank("560", "Page MFBank", "NGN"), Bank("044", "Access Bank", "NGN")]
    assert (await adapter.banks("KES", PLAIN))[-1] == Bank("MPS", "M-PESA", "KES", MOBILE)
    wire = Wire(BANKS)
    operators = await wire.build(Flutterwave).banks("GHS", PLAIN)
    assert ({bank.code for bank in operators}, wire.requests) == ({"MTN", "VODAFONE", "TIGO"}, [])
    with pytest.raises(LookupFailed) as failed:
        await wire.build(Flutterwave).banks("JPY", PLAIN)
    assert failed.value.failure.code == "currency_not_supported"


async def test_an_operator_that_is_among_the_banks_is_listed_once() -> None:
    data = [{"id": 1, "code": "MPS", "name": "M-Pesa"}, {"id": 2, "code": "", "name": "odd"}]
    reply = Reply(200, {"status": "success", "message": "Banks fetched successfully", "data": data})
    assert await Wire(reply).build(Flutterwave).banks("KES", PLAIN) == [Bank("MPS", "M-PESA", "KES", MOBILE)]


async def test_whose_account_it_is() -> None:
    wire = Wire(HOLDER)
    holder = await wire.build(Flutterwave).resolve_account(ACCOUNT_IN_NIGERIA, PLAIN)
    assert holder == AccountHolder("Pastor Bright", "0690000040", "044")
    assert wire.json == {"account_number": "0690000040", "account_bank": "044"}


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (refusal(400, "Sorry, recipient account could not be validated. Please try again"), "account_not_found"),
        (refusal(400, "account_bank is required"), "invalid_request"),
        (refusal(401, "Authorization required"), "authentication_failed"),
        (refusal(503, "An error occurred. Please contact support"), None),
        (Reply(400, {"message": "odd"}), None),
    ],
)
async def test_an_account_that_is_not_found_is_told_apart_from_silence(reply: Reply, code: str | None) -> None:
    with pytest.raises(LookupFailed) as failed:
        await Wire(reply).build(Flutterwave).resolve_account(ACCOUNT_IN_NIGERIA, PLAIN)
    assert (failed.value.failure.code if failed.value.failure else None) == code


async def test_a_wallet_has_no_holder_to_be_asked_for() -> None:
    wire = Wire(HOLDER)
    with pytest.raises(LookupFailed) as failed:
        await wire.build(Flutterwave).resolve_account(WALLET_IN_UGANDA, PLAIN)
    assert (failed.value.failure.code, wire.requests) == ("lookup_not_offered", [])


# The description of the API


async def test_every_direct_charge_and_otp_fits_the_description() -> None:
    spec = specs.flutterwave()
    phones = {"XAF": "+237712345678", "XOF": "+221712345678"}
    for (currency, method), kind in CHARGES.items():
        details = PaymentDetails("058", SecretStr("0690000031"), "mtn")
        order = a_charge(str(method), details, Money(500, currency), phones.get(currency, "+254712345678"))
        wire, _ = await charge(charged(), order)
        specs.validate_request(spec, "POST", "/charges", "application/json", params={"type": kind}, body=wire.json)
    wire = Wire(validated())
    await wire.build(Flutterwave).submit(OPEN_CHARGE, OTP, PLAIN)
    specs.validate_request(spec, "POST", "/validate-charge", "application/json", body=wire.json)


async def test_every_transfer_and_lookup_fits_the_description() -> None:
    spec = specs.flutterwave()
    for order in (a_payout(Money(550_050, "NGN"), ACCOUNT_IN_NIGERIA), a_payout(UGX, WALLET_IN_UGANDA)):
        wire = Wire(transferred())
        await wire.build(Flutterwave).pay_out(order, PLAIN)
        specs.validate_request(spec, "POST", "/transfers", "application/json", body=wire.json)
    wire = Wire(HOLDER)
    await wire.build(Flutterwave).resolve_account(ACCOUNT_IN_NIGERIA, PLAIN)
    specs.validate_request(spec, "POST", "/accounts/resolve", "application/json", body=wire.json)


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
