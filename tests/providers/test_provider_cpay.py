"""C-Pay's adapter against replies in the shapes of the Chaperone Payments API v1.1 and of its test system."""

import dataclasses
import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr, ValidationError

from payflow.core.money import Money
from payflow.gateway.contract import (
    ActionType,
    CollectOrder,
    Customer,
    Destination,
    DestinationType,
    NextAction,
    OrderNotAcceptable,
    PaysOut,
    Query,
    Refunds,
    Result,
    Submission,
    TakesOtp,
    Trust,
    Verdict,
)
from payflow.providers.cpay import Cpay, CpayCredentials
from tests.providers.contract_suite import (
    CALLBACK_URL,
    MALFORMED,
    NOW,
    REFERENCE,
    AmountCase,
    Case,
    EventCase,
    Provider,
    ProviderContract,
    RefusedOrder,
    Reply,
    Wire,
    a_query,
    a_webhook,
    an_order,
    closed_port,
    listening,
    on_real_sockets,
    variants,
)
from tests.providers.verbs_suite import REFUND_REFERENCE, Verb, VerbsContract, a_payout, a_payout_query

PLAIN = {"api_key": "suite-api-key", "client_code": "10000001", "secret": "suite-hmac-secret"}
CREDENTIALS = CpayCredentials.model_validate(PLAIN)
LSL = Money(15_000, "LSL")
PHONE = "+26657012345"
PUSH_PATH = "/api/cpaypayments/paymentrequest/async/transactions"
PAYMENT_PATH = "/api/cpaypayments/payment"
CONFIRM_PATH = "/api/cpaypayments/confirm"
CPAY_ID = "CP202603040001"
IDS = (REFERENCE, CPAY_ID)
LINK = "https://cards.example/3ds?order=17&step=1"
RIGHT = "482915"


def camel(fields: dict[str, Any]) -> dict[str, Any]:
    return {name[0].lower() + name[1:]: value for name, value in fields.items()}


def envelope(status: Any, reason: Any, code: Any = "200", **changes: Any) -> dict[str, Any]:
    return {
        "StatusCode": code,
        "ReasonCode": reason,
        "Description": "Words.",
        "ExtTransactionId": REFERENCE,
        "CPayTransactionId": CPAY_ID,
        "PaymentRequestStatus": status,
        **changes,
    }


def told(status: Any, reason: Any = None, http: int = 200, **changes: Any) -> Reply:
    return Reply(http, {"return": envelope(status, reason, **changes)})


def refusal(http: int, reason: str = "", description: str = "Words.", **changes: Any) -> Reply:
    return told(None, reason, http, code=str(http), Description=description, **changes)


OPEN = envelope("open", None)
PAID = envelope("processed", "paymentComplete")
# What was seen of a paid one names neither our id nor C-Pay's.
SEEN = {"StatusCode": "200", "PaymentRequestStatus": "processed", "ReasonCode": "paymentComplete", "additionalData": {}}
OTP_SENT = told(None, "otpSent", CPayTransactionId=None)
CARD_QUIRK = Reply(400, {"StatusCode": "202", "Description": "Payment Link Created."}, {"RedirectUrl": LINK})
FRAME = f'<html><iframe height="9" src="{LINK.replace("&", "&amp;")}"></iframe></html>'
CARD_PAGE = Reply(202, FRAME.encode(), {"content-type": "text/html"})

STANDINGS = [
    ("open", None, Verdict.REQUIRES_ACTION, None, False),
    ("otpSent", None, Verdict.REQUIRES_ACTION, None, True),
    ("OTPSEND", "paymentIncomplete", Verdict.REQUIRES_ACTION, None, True),
    (None, "otpSent", Verdict.REQUIRES_ACTION, None, True),
    (None, "paymentIncomplete", Verdict.REQUIRES_ACTION, None, False),
    ("paymentIncomplete", None, Verdict.REQUIRES_ACTION, None, False),
    ("OTPSEND", "invalidPassword", Verdict.REQUIRES_ACTION, None, True),
    ("scheduled", None, Verdict.PROCESSING, None, False),
    ("ACCEPTED", None, Verdict.PROCESSING, None, False),
    (None, None, Verdict.PROCESSING, None, False),
    ("processed", "paymentComplete", Verdict.COMPLETED, None, False),
    ("PROCESSED", "PaymentSuccessful", Verdict.COMPLETED, None, False),
    ("SUCCESS", "paymentComplete", Verdict.COMPLETED, None, False),
    ("denied", None, Verdict.DECLINED, "declined", True),
    ("DENIED", "insufficientFunds", Verdict.DECLINED, "declined", True),
    ("FAILED", None, Verdict.DECLINED, "declined", True),
    ("failed", "invalidPassword", Verdict.DECLINED, "declined", True),
    ("canceled", None, Verdict.CANCELLED, "customer_cancelled", True),
    ("Cancelled", None, Verdict.CANCELLED, "customer_cancelled", True),
    ("expired", None, Verdict.EXPIRED, "expired", True),
    ("REVERSED", None, Verdict.REVERSED, None, False),
    ("processed", None, Verdict.UNKNOWN, None, False),
    ("processed", "paymentIncomplete", Verdict.UNKNOWN, None, False),
    ("success", "invented", Verdict.UNKNOWN, None, False),
    ("open", "paymentComplete", Verdict.UNKNOWN, None, False),
    ("denied", "paymentComplete", Verdict.UNKNOWN, None, False),
    (None, "paymentComplete", Verdict.UNKNOWN, None, False),
    ("invented", None, Verdict.UNKNOWN, None, False),
    ("invented", "otpSent", Verdict.UNKNOWN, None, False),
]
REFUSED = [
    (400, "validation", "The field amount is invalid.", "invalid_request"),
    (400, "checksum", "Transaction Checksum is invalid", "authentication_failed"),
    (400, "wallet", "Wallet account does not exist", "invalid_phone"),
    (404, "wallet", "Wallet account does not exist", "invalid_phone"),
    (401, "key", "Unauthorized", "authentication_failed"),
    (403, "access", "Forbidden", "authentication_failed"),
    (404, "client", "Client code not found", "configuration_error"),
]
NOT_LISTED = [
    ("dependency failed", refusal(424, "dependencyFailed")),
    ("a wallet unknown to a dependency", refusal(424, "", "Wallet account does not exist")),
    ("internal error", refusal(500, "", "Wallet account does not exist")),
    ("unavailable", refusal(503)),
    ("used twice", refusal(400, "", "extTransactionId must be unique per request")),
    ("a duplicate", refusal(400, "duplicate", "Duplicate transaction")),
    ("body and status differ", told(None, None, 400, code="500")),
    ("a code nobody uses", told("open", None, 200, code="299")),
]


class TestCpayContract(ProviderContract):
    adapter = Cpay
    credentials = CREDENTIALS
    secrets = ("suite-api-key", "suite-hmac-secret")
    bad_credentials: ClassVar = {"api_key": "Bearer looks-wrong"}
    amount = LSL
    provider_references = IDS
    collect_path = PUSH_PATH
    accepted = Reply(200, {"return": OPEN})
    completed = Reply(200, {"return": PAID})
    completed_money = (None, None)

    collect_cases = (
        Case(
            "accepted",
            accepted,
            Verdict.REQUIRES_ACTION,
            expected={
                "raw_status": "200 open",
                "provider_references": IDS,
                "session_ends_at": NOW + timedelta(minutes=30),
                "checkout_url": None,
                "next_action": NextAction(
                    ActionType.HANDSET_PROMPT,
                    display_text="Confirm the payment of LSL 150.00 on your phone: *220*77#, Pay Merchant.",
                ),
            },
        ),
        Case("accepted, without a wrapper", Reply(200, OPEN), Verdict.REQUIRES_ACTION),
        Case("accepted, camel case", Reply(200, camel(OPEN)), Verdict.REQUIRES_ACTION),
        Case("accepted, camel case and wrapped", Reply(200, {"Return": camel(OPEN)}), Verdict.REQUIRES_ACTION),
        Case("accepted, code as a number", told("open", code=200), Verdict.REQUIRES_ACTION),
        Case("accepted with 201", told("open", http=201), Verdict.REQUIRES_ACTION),
        Case(
            "accepted without an id of C-Pay's",
            told("open", CPayTransactionId=None),
            Verdict.REQUIRES_ACTION,
            expected={"provider_references": (REFERENCE,)},
        ),
        Case("about another order", told("open", ExtTransactionId="another"), Verdict.UNKNOWN),
        Case("paid at once", Reply(200, PAID), Verdict.UNKNOWN),
        Case("an invented status", told("invented"), Verdict.UNKNOWN),
        Case("no status", told(None), Verdict.UNKNOWN),
        Case("a link nobody asked for", CARD_QUIRK, Verdict.UNKNOWN),
        *(
            Case(f"{http} {words}", refusal(http, reason, words), Verdict.REFUSED, failure)
            for http, reason, words, failure in REFUSED
        ),
        Case("a wrong key without a body", Reply(401), Verdict.REFUSED, "authentication_failed"),
        Case("too many", Reply(429, b"<html>slow down</html>"), Verdict.REFUSED, "rate_limited"),
        Case(
            "declined", refusal(422, "limitReached"), Verdict.DECLINED, "declined",
            {"raw_status": "422 422 limitreached", "expirable": True},
        ),
        *(Case(name, reply, Verdict.UNKNOWN, expected={"provider_references": ()}) for name, reply in NOT_LISTED),
    )  # fmt: skip
    fetch_cases = (
        *(
            Case(
                f"{status} {reason}",
                told(status, reason),
                verdict,
                failure,
                {"expirable": expirable, "amount_bound": verdict is Verdict.COMPLETED, "requested": None, "paid": None},
            )
            for status, reason, verdict, failure, expirable in STANDINGS
        ),
        Case(
            "paid",
            completed,
            Verdict.COMPLETED,
            expected={
                "raw_status": "200 processed paymentcomplete",
                "reference": REFERENCE,
                "provider_references": IDS,
                "amount_bound": True,
            },
        ),
        Case(
            "paid, as it was seen",
            Reply(200, SEEN),
            Verdict.COMPLETED,
            expected={"reference": None, "provider_references": (REFERENCE,), "amount_bound": True},
        ),
        Case("paid, camel case", Reply(200, camel(PAID)), Verdict.COMPLETED),
        Case("paid, wrapped camel case", Reply(200, {"return": camel(PAID)}), Verdict.COMPLETED),
        Case("paid, without a wrapper", Reply(200, PAID), Verdict.COMPLETED),
        Case("paid, code as a number", told("processed", "paymentComplete", code=200), Verdict.COMPLETED),
        Case("paid, but another order", told("processed", "paymentComplete", ExtTransactionId="x"), Verdict.UNKNOWN),
        Case("paid, but another code", told("processed", "paymentComplete", code="500"), Verdict.UNKNOWN),
        Case("paid, but no code", told("processed", "paymentComplete", code=None), Verdict.UNKNOWN),
        Case("paid, but an error", told("processed", "paymentComplete", 500), Verdict.UNKNOWN),
        Case("paid, but 422", told("processed", "paymentComplete", 422), Verdict.UNKNOWN),
        Case("denied under 422", told("denied", None, 422, code="422"), Verdict.DECLINED, "declined"),
        Case(
            "waiting for its OTP",
            told("OTPSEND", "paymentIncomplete"),
            Verdict.REQUIRES_ACTION,
            expected={
                "next_action": NextAction(
                    ActionType.OTP, display_text="Enter the code that C-Pay has sent to your phone."
                )
            },
        ),
        Case("not found", refusal(404), Verdict.NOT_FOUND, expected={"expirable": False}),
        Case("a wrong key", Reply(401), Verdict.UNKNOWN),
        Case("too many", Reply(429), Verdict.UNKNOWN),
        Case("a bad question", refusal(400), Verdict.UNKNOWN),
        Case("dependency failed", refusal(424), Verdict.UNKNOWN),
        Case("internal error", refusal(500), Verdict.UNKNOWN),
    )
    amount_cases = (
        AmountCase(Money(10, "LSL"), 10),
        AmountCase(Money(100_000, "LSL"), 100_000),
        AmountCase(Money(100_010, "LSL"), 100_010),
    )
    refused_orders = (
        RefusedOrder("another currency", {"amount": Money(100, "ZAR")}, "/currency"),
        RefusedOrder("another method", {"method": "bank"}, "/method"),
        RefusedOrder("no phone", {"customer": Customer(email="ada@customer.example")}, "/customer/phone"),
        RefusedOrder("no phone for a card", {"customer": Customer(), "method": "card"}, "/customer/phone"),
        RefusedOrder("nothing", {"amount": Money(0, "LSL")}, "/amount"),
    )
    event_cases = (
        EventCase(
            "processed",
            camel(PAID),
            {
                "type": "payment_request",
                "trust": Trust.CONFIRM,
                "dedupe_key": None,
                "references": (REFERENCE,),
                "provider_references": (),
            },
            {"verdict": Verdict.COMPLETED, "paid": None, "amount_bound": False, "provider_references": ()},
        ),
        EventCase("processed, wrapped", {"return": PAID}, {"references": (REFERENCE,)}, {"verdict": Verdict.COMPLETED}),
        EventCase("denied", envelope("denied", None), {}, {"verdict": Verdict.DECLINED, "failure": None}),
        EventCase(
            "a shape nobody documented",
            {"message": "paid"},
            {"trust": Trust.CONFIRM, "references": ()},
            {"verdict": Verdict.UNKNOWN},
        ),
    )

    def order(self, **changes: Any) -> CollectOrder:
        return an_order(changes.pop("amount", self.amount), **{"customer": Customer(phone=PHONE), **changes})

    def sent_amount(self, wire: Wire) -> int:
        whole, point, cents = wire.json["transactionRequest"]["amount"].partition(".")
        assert (point, len(cents)) == (".", 2)
        return int(whole + cents)


def cpay_order(amount: Money = LSL, **changes: Any) -> CollectOrder:
    return an_order(amount, **{"customer": Customer(phone=PHONE), **changes})


def cpay_query(amount: Money = LSL) -> Query:
    return dataclasses.replace(a_query(amount, *IDS), customer=Customer(phone=PHONE))


async def collect(wire: Wire, **changes: Any) -> Result:
    result: Result = await wire.build(Cpay).collect(cpay_order(**changes), CREDENTIALS)
    return result


async def submit(wire: Wire, otp: str = RIGHT, query: Query | None = None) -> Result:
    submission = Submission(ActionType.OTP, SecretStr(otp))
    result: Result = await wire.build(Cpay).submit(query or cpay_query(), submission, CREDENTIALS)
    return result


# The whole requests


def reference_checksum(secret: str, *parts: str) -> str:
    """HMAC (RFC 2104) written out: SHA-256 over two padded keys."""
    key = secret.encode().ljust(64, b"\0")
    assert len(key) == 64
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + "".join(parts).encode()).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()


def test_the_reference_itself_gives_a_published_answer() -> None:
    """RFC 4231, test case 2."""
    known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert reference_checksum("Jefe", "what do ya want ", "for nothing?") == known


async def test_the_whole_order_as_cpay_receives_it() -> None:
    wire = Wire(Reply(200, OPEN))
    await collect(wire)
    assert wire.json == {
        "transactionRequest": {
            "extTransactionId": REFERENCE,
            "clientCode": "10000001",
            "msisdn": "57012345",
            "otp": "",
            "amount": "150.00",
            "currency": "LSL",
            "shortDescription": "Order 17",
            "otpMedium": "sms",
            "additionalData": {},
            "redirectUrl": CALLBACK_URL,
            "checksum": reference_checksum("suite-hmac-secret", REFERENCE, "10000001", "150.00", "57012345"),
        }
    }
    (request,) = wire.requests
    assert request.headers["authorization"] == "suite-api-key"
    assert request.headers["accept"] == "text/plain"
    assert request.headers["content-type"] == "application/json"


async def test_the_whole_confirmation_as_cpay_receives_it() -> None:
    wire = Wire(told(None, "paymentSuccessful"))
    await submit(wire)
    (request,) = wire.requests
    assert (request.method, request.url.path, request.url.query) == ("POST", CONFIRM_PATH, b"")
    parts = (REFERENCE, "10000001", "150.00", "57012345", RIGHT)
    assert wire.json == {
        "transactionRequest": {
            "extTransactionId": REFERENCE,
            "clientCode": "10000001",
            "msisdn": "57012345",
            "otp": RIGHT,
            "amount": "150.00",
            "currency": "LSL",
            "checksum": reference_checksum("suite-hmac-secret", *parts),
        }
    }


# Made with `openssl dgst -sha256 -hmac suite-hmac-secret`.
KNOWN_ANSWERS = [
    (
        100_010,
        "1000.10",
        "99244a6bdf79e923de97591b7d35a71815318773b0d6bbd0119c7fe611df50c0",
        "972449ae7e1ca827a0b4c712d3e4b911f70af83b552c42c68c67ff879faa32d1",
    ),
    (
        10,
        "0.10",
        "5410405ee30b041ae322330ac0aeca6d90c4e907b52658f66046cf884f915454",
        "d2080f8f02231e6afbf51f5e7a1a776ecc702ac0c743d3d156edf4db994fa3b6",
    ),
]


@pytest.mark.parametrize(("minor", "text", "order", "confirmation"), KNOWN_ANSWERS)
async def test_both_checksums_have_known_answers(minor: int, text: str, order: str, confirmation: str) -> None:
    amount = Money(minor, "LSL")
    wire = Wire(Reply(200, OPEN))
    await collect(wire, amount=amount)
    sent = wire.json["transactionRequest"]
    assert (sent["amount"], sent["checksum"]) == (text, order)
    wire = Wire(OTP_SENT)
    await submit(wire, query=cpay_query(amount))
    sent = wire.json["transactionRequest"]
    assert (sent["amount"], sent["checksum"]) == (text, confirmation)


async def test_the_checksum_is_over_the_words_of_the_body() -> None:
    for minor in (1, 99, 100, 12_345_678_901):
        wire = Wire(Reply(200, OPEN))
        await collect(wire, amount=Money(minor, "LSL"))
        sent = wire.json["transactionRequest"]
        salt = sent["extTransactionId"] + sent["clientCode"] + sent["amount"] + sent["msisdn"]
        assert sent["checksum"] == hmac.new(b"suite-hmac-secret", salt.encode(), hashlib.sha256).hexdigest()


async def test_a_query_names_our_reference_and_no_more() -> None:
    wire = Wire(Reply(200, PAID))
    await wire.build(Cpay).fetch(a_query(LSL), CREDENTIALS)
    (request,) = wire.requests
    assert (request.method, request.url.path) == ("GET", "/api/cpaypayments/transaction-status")
    assert request.url.query == f"requestReference={REFERENCE}".encode()
    assert request.headers["authorization"] == "suite-api-key"


async def test_an_order_whose_answer_was_lost_is_bound_by_our_own_reference() -> None:
    result = await Wire(Reply(200, SEEN)).build(Cpay).fetch(a_query(LSL), CREDENTIALS)
    assert (result.verdict, result.amount_bound, result.provider_references) == (Verdict.COMPLETED, True, (REFERENCE,))


@pytest.mark.parametrize(
    ("description", "sent"),
    [
        (None, "Payment"),
        ("Ürün – 5%", "rn  5"),
        ("Much too long a description", "Much too long a desc"),
        ("!", "Payment"),
    ],
)
async def test_a_description_is_cut_to_twenty_characters(description: str | None, sent: str) -> None:
    wire = Wire(Reply(200, OPEN))
    await collect(wire, description=description)
    assert wire.json["transactionRequest"]["shortDescription"] == sent


@pytest.mark.parametrize("phone", ["+26657012345", "26657012345", "57012345", "+266 5701-2345"])
async def test_a_number_of_lesotho_is_sent_as_eight_digits(phone: str) -> None:
    wire = Wire(Reply(200, OPEN))
    order = cpay_order(customer=Customer(phone=phone))
    wire.build(Cpay).check(order)
    await wire.build(Cpay).collect(order, CREDENTIALS)
    assert wire.json["transactionRequest"]["msisdn"] == "57012345"


@pytest.mark.parametrize("phone", ["", "+254712345678", "+26622312345", "+2665701234", "+266570123456", "٥٧٠١٢٣٤٥"])
def test_a_number_that_cannot_pay_points_at_the_phone(phone: str) -> None:
    with pytest.raises(OrderNotAcceptable) as refused:
        Wire().build(Cpay).check(cpay_order(customer=Customer(phone=phone)))
    assert refused.value.pointer == "/customer/phone"


# Card


@pytest.mark.parametrize(
    "reply",
    [CARD_QUIRK, CARD_PAGE, Reply(202, {"return": {"statusCode": 202}}, {"redirecturl": LINK})],
    ids=["400 with StatusCode 202", "202 with a frame", "202 with the header"],
)
async def test_a_card_link_is_found_wherever_it_is(reply: Reply) -> None:
    wire = Wire(reply)
    result = await collect(wire, method="card")
    assert (result.verdict, result.checkout_url) == (Verdict.REQUIRES_ACTION, LINK)
    assert result.next_action == NextAction(ActionType.REDIRECT, url=LINK)
    assert result.provider_references == (REFERENCE,)
    (request,) = wire.requests
    assert (request.url.path, request.url.query) == (PAYMENT_PATH, b"cardPayment=true&rememberMe=false")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (Reply(400, CARD_QUIRK.body), Verdict.UNKNOWN),
        (Reply(400, CARD_QUIRK.body, {"RedirectUrl": "javascript:alert(1)"}), Verdict.UNKNOWN),
        (Reply(202, b"<html>no frame</html>"), Verdict.UNKNOWN),
        (Reply(202, b'<iframe src="javascript:alert(1)"></iframe>'), Verdict.UNKNOWN),
        (Reply(200, CARD_PAGE.body), Verdict.UNKNOWN),
        (Reply(400, b"", {"RedirectUrl": LINK}), Verdict.UNKNOWN),
        (Reply(200, OPEN), Verdict.UNKNOWN),
        (refusal(400), Verdict.REFUSED),
        (refusal(422), Verdict.DECLINED),
    ],
)
async def test_a_card_order_without_a_link_is_no_card_order(reply: Reply, verdict: Verdict) -> None:
    result = await collect(Wire(reply), method="card")
    assert (result.verdict, result.next_action, result.checkout_url) == (verdict, None, None)


# OTP


async def test_an_otp_order_asks_for_the_otp() -> None:
    wire = Wire(OTP_SENT)
    result = await collect(wire, method="otp")
    assert (result.verdict, result.raw_status) == (Verdict.REQUIRES_ACTION, "200 otpsent")
    assert result.next_action is not None
    assert (result.next_action.type, result.next_action.url) == (ActionType.OTP, None)
    (request,) = wire.requests
    assert (request.url.path, request.url.query) == (PAYMENT_PATH, b"")
    assert wire.json["transactionRequest"]["otp"] == ""


@pytest.mark.parametrize("reply", [Reply(200, OPEN), told(None, "paymentSuccessful"), told(None, None), CARD_QUIRK])
async def test_an_otp_order_that_sent_no_otp_is_unknown(reply: Reply) -> None:
    assert (await collect(Wire(reply), method="otp")).verdict is Verdict.UNKNOWN


def test_it_takes_otps() -> None:
    assert isinstance(Wire().build(Cpay), TakesOtp)


@pytest.mark.parametrize(
    "reply",
    [
        told(None, "paymentSuccessful"),
        told("", "paymentSuccessful"),
        told("processed", "paymentComplete"),
        Reply(200, camel(envelope(None, "paymentSuccessful"))),
        Reply(200, {"StatusCode": 200, "ReasonCode": "paymentSuccessful"}),
    ],
)
async def test_the_right_otp_completes_at_once(reply: Reply) -> None:
    wire = Wire(reply)
    result = await submit(wire)
    assert (result.verdict, result.amount_bound, result.failure) == (Verdict.COMPLETED, True, None)
    assert result.provider_references[0] == REFERENCE
    assert len(wire.requests) == 1


@pytest.mark.parametrize("status", [None, "", "OTPSEND", "open", "denied", "failed"])
async def test_a_wrong_otp_asks_for_it_again_and_is_no_decline(status: Any) -> None:
    result = await submit(Wire(told(status, "invalidPassword", 422, code="422")), "000000")
    assert (result.verdict, result.failure) == (Verdict.REQUIRES_ACTION, None)
    assert result.next_action is not None
    assert result.next_action.type is ActionType.OTP
    assert "wrong" in (result.next_action.display_text or "")


@pytest.mark.parametrize(
    ("reply", "verdict", "failure"),
    [
        (told("denied", "insufficientFunds", 422, code="422"), Verdict.DECLINED, "declined"),
        (told("expired", "invalidPassword", 422, code="422"), Verdict.EXPIRED, "expired"),
        (told("canceled", None, 422, code="422"), Verdict.CANCELLED, "customer_cancelled"),
        (told("denied", None), Verdict.DECLINED, "declined"),
        (told("OTPSEND", "paymentIncomplete"), Verdict.REQUIRES_ACTION, None),
        (told("accepted", None), Verdict.PROCESSING, None),
        # Perhaps an earlier confirmation, whose answer was lost, went through.
        (told(None, "alreadyConfirmed", 422, code="422"), Verdict.UNKNOWN, None),
        (told("processed", "paymentComplete", 422, code="422"), Verdict.UNKNOWN, None),
        (told("open", "paymentSuccessful"), Verdict.UNKNOWN, None),
        (told("denied", "paymentSuccessful"), Verdict.UNKNOWN, None),
        (told(None, "paymentSuccessful", 500), Verdict.UNKNOWN, None),
        (told(None, "paymentSuccessful", code="500"), Verdict.UNKNOWN, None),
        (told(None, "paymentSuccessful", ExtTransactionId="another"), Verdict.UNKNOWN, None),
        (told(None, "invented"), Verdict.UNKNOWN, None),
        (told("invented", "paymentSuccessful"), Verdict.UNKNOWN, None),
        (refusal(400), Verdict.UNKNOWN, None),
        (refusal(401), Verdict.UNKNOWN, None),
        (refusal(404), Verdict.UNKNOWN, None),
        (refusal(424), Verdict.UNKNOWN, None),
        (Reply(429), Verdict.UNKNOWN, None),
        *((reply, Verdict.UNKNOWN, None) for reply in MALFORMED.values()),
    ],
)
async def test_any_other_answer_to_an_otp_decides_only_what_it_says(
    reply: Reply, verdict: Verdict, failure: str | None
) -> None:
    wire = Wire(reply)
    result = await submit(wire)
    assert (result.verdict, result.failure and result.failure.code) == (verdict, failure)
    assert len(wire.requests) == 1


async def test_no_odd_value_in_the_answer_to_an_otp_raises_or_completes_unbound() -> None:
    for body in variants({"return": envelope(None, "paymentSuccessful")}):
        result = await submit(Wire(Reply(200, body)))
        assert result.verdict is not Verdict.COMPLETED or result.amount_bound


async def test_an_otp_without_an_answer_is_unknown_and_never_sent_again() -> None:
    submission = Submission(ActionType.OTP, SecretStr(RIGHT))
    for step in ("silence", "close", "reset"):
        provider = Provider({}, [step])
        async with listening(provider) as url, on_real_sockets(Cpay, url, timeout_seconds=0.1) as adapter:
            result = await adapter.submit(cpay_query(), submission, CREDENTIALS)
        assert (result.verdict, result.failure, provider.paths) == (Verdict.UNKNOWN, None, [CONFIRM_PATH])
    async with on_real_sockets(Cpay, f"http://127.0.0.1:{closed_port()}") as adapter:
        result = await adapter.submit(cpay_query(), submission, CREDENTIALS)
    assert (result.verdict, result.failure) == (Verdict.UNKNOWN, None)


@pytest.mark.parametrize("method", ["ussd", "otp", "card"])
async def test_after_a_timeout_the_status_is_asked_and_nothing_is_posted_again(method: str) -> None:
    provider = Provider({}, ["silence", Reply(200, {"return": PAID})])
    async with listening(provider) as url, on_real_sockets(Cpay, url, timeout_seconds=0.2) as adapter:
        result = await adapter.collect(cpay_order(method=method), CREDENTIALS)
        assert (result.verdict, result.failure) == (Verdict.UNKNOWN, None)
        asked = await adapter.fetch(a_query(LSL), CREDENTIALS)
    assert (asked.verdict, asked.amount_bound) == (Verdict.COMPLETED, True)
    posted = PUSH_PATH if method == "ussd" else PAYMENT_PATH
    assert provider.paths == [posted, "/api/cpaypayments/transaction-status"]


@pytest.mark.parametrize(
    ("query", "type_"),
    [(a_query(LSL), ActionType.OTP), (cpay_query(), ActionType.PIN)],
    ids=["no phone", "no OTP"],
)
async def test_what_cannot_be_confirmed_is_not_sent(query: Query, type_: ActionType) -> None:
    wire = Wire(told(None, "paymentSuccessful"))
    result = await wire.build(Cpay).submit(query, Submission(type_, SecretStr(RIGHT)), CREDENTIALS)
    assert (result.verdict, wire.requests) == (Verdict.UNKNOWN, [])


async def test_an_otp_is_told_to_nobody_even_when_cpay_repeats_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    words = {"ReasonCode": RIGHT, "Description": f"OTP {RIGHT} is wrong", "PaymentRequestStatus": RIGHT, "otp": RIGHT}
    for http in (200, 400, 422, 500):
        for body in ({**words, "StatusCode": str(http)}, {**words, "StatusCode": RIGHT}, RIGHT):
            wire = Wire(Reply(http, body))
            assert RIGHT not in repr(await submit(wire))
            assert RIGHT not in str(wire.requests[0].url)
    assert RIGHT not in repr(await submit(Wire(OSError(f"lost {RIGHT}"))))
    assert RIGHT not in repr(Submission(ActionType.OTP, SecretStr(RIGHT)))
    assert RIGHT not in caplog.text


# Callbacks and declaration


def test_a_callback_proves_nothing_by_itself_and_is_declared_so() -> None:
    adapter = Wire().build(Cpay)
    adapter.verify_webhook(a_webhook(b"anything"), [CREDENTIALS])
    adapter.verify_webhook(a_webhook(b"anything"), [])
    assert Cpay.declaration.webhook_token
    for body in ({"x": 1}, PAID, camel(PAID), {"return": camel(PAID)}):
        (event,) = adapter.translate(a_webhook(json.dumps(body).encode()))
        assert (event.trust, event.dedupe_key) == (Trust.CONFIRM, None)
        assert event.result is not None
        assert not event.result.amount_bound


def test_without_a_setting_there_is_no_address_to_pay_at() -> None:
    """Neither production, which is not published, nor the test system, which moves no money."""
    assert Cpay.declaration.live_base_url.endswith(".invalid")


@pytest.mark.parametrize("change", [{"api_key": ""}, {"api_key": "a b"}, {"client_code": ""}, {"secret": ""}])
def test_credentials_must_be_whole(change: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        CpayCredentials.model_validate({**PLAIN, **change})


# Money sent to wallets

TOP_UP_PATH = "/api/disbursements/wallet-topup-advance"
STATUS_PATH = "/api/cpaypayments/transaction-status"
WALLET = Destination(DestinationType.MOBILE_MONEY, "Thabo Mokoena", "mpesa", phone=PHONE)


def sent(status: Any, reason: Any = None, http: int = 200, **changes: Any) -> Reply:
    return told(status, reason, http, **{"ExtTransactionId": REFUND_REFERENCE, **changes})


def accepted_payout(**changes: Any) -> Reply:
    """As documented: in camel case but for one name, without a wrapper."""
    body = {
        "statusCode": "0000",
        "description": "Success",
        "ExtTransactionId": REFUND_REFERENCE,
        "cPayTransactionId": CPAY_ID,
        "paymentRequestStatus": "ACCEPTED",
        "additionalData": {"voucherCode": None},
    }
    return Reply(200, body | changes)


SENT_STANDINGS = [
    ("open", None, Verdict.PROCESSING, None),
    ("scheduled", None, Verdict.PROCESSING, None),
    ("ACCEPTED", None, Verdict.PROCESSING, None),
    ("processed", "paymentComplete", Verdict.COMPLETED, None),
    ("SUCCESS", "paymentSuccessful", Verdict.COMPLETED, None),
    ("denied", None, Verdict.DECLINED, "transfer_failed"),
    ("FAILED", "insufficientFunds", Verdict.DECLINED, "transfer_failed"),
    ("canceled", None, Verdict.DECLINED, "transfer_failed"),
    ("Cancelled", None, Verdict.DECLINED, "transfer_failed"),
    ("expired", None, Verdict.DECLINED, "transfer_failed"),
    ("REVERSED", None, Verdict.REVERSED, None),
    ("REVERSED", "paymentComplete", Verdict.REVERSED, None),
    ("processed", None, Verdict.UNKNOWN, None),
    ("processed", "paymentIncomplete", Verdict.UNKNOWN, None),
    ("success", "invented", Verdict.UNKNOWN, None),
    ("open", "paymentComplete", Verdict.UNKNOWN, None),
    ("denied", "paymentComplete", Verdict.UNKNOWN, None),
    ("OTPSEND", "paymentIncomplete", Verdict.UNKNOWN, None),
    (None, None, Verdict.UNKNOWN, None),
    (None, "paymentComplete", Verdict.UNKNOWN, None),
    ("invented", None, Verdict.UNKNOWN, None),
]


class TestCpayVerbs(VerbsContract):
    adapter = Cpay
    credentials = CREDENTIALS
    secrets = ("suite-api-key", "suite-hmac-secret", RIGHT)

    verbs = (
        Verb(
            "pay_out",
            (a_payout(LSL, WALLET),),
            accepted=accepted_payout(),
            path=TOP_UP_PATH,
            cases=(
                Case(
                    "accepted",
                    accepted_payout(),
                    Verdict.PROCESSING,
                    expected={
                        "raw_status": "0000 accepted",
                        "provider_references": (REFUND_REFERENCE, CPAY_ID),
                        "amount_bound": False,
                        "expirable": False,
                    },
                ),
                Case("accepted, wrapped", Reply(200, {"return": accepted_payout().body}), Verdict.PROCESSING),
                Case(
                    "accepted, without an id of C-Pay's",
                    accepted_payout(cPayTransactionId=None),
                    Verdict.PROCESSING,
                    expected={"provider_references": (REFUND_REFERENCE,)},
                ),
                Case("another's", accepted_payout(ExtTransactionId="another"), Verdict.UNKNOWN),
                Case("another code", accepted_payout(statusCode="200"), Verdict.UNKNOWN),
                Case("a code too long", accepted_payout(statusCode="00000"), Verdict.UNKNOWN),
                Case("another status", accepted_payout(paymentRequestStatus="PROCESSED"), Verdict.UNKNOWN),
                Case("no status", accepted_payout(paymentRequestStatus=None), Verdict.UNKNOWN),
                Case("accepted, but an error", Reply(500, accepted_payout().body), Verdict.UNKNOWN),
                *(
                    Case(f"{http} {words}", refusal(http, reason, words), Verdict.REFUSED, failure)
                    for http, reason, words, failure in REFUSED
                ),
                Case("a wrong key without a body", Reply(401), Verdict.REFUSED, "authentication_failed"),
                Case("too many", Reply(429, b"<html>slow down</html>"), Verdict.REFUSED, "rate_limited"),
                Case("422, which is not documented here", refusal(422, "limitReached"), Verdict.UNKNOWN),
                *(Case(name, reply, Verdict.UNKNOWN) for name, reply in NOT_LISTED),
            ),
        ),
        Verb(
            "fetch_payout",
            (a_payout_query(LSL),),
            accepted=sent("processed", "paymentComplete"),
            path=STATUS_PATH,
            method="GET",
            asks=True,
            cases=(
                *(
                    Case(
                        f"{status} {reason} {code}",
                        sent(status, reason, code=code),
                        verdict,
                        failure,
                        {"amount_bound": verdict is Verdict.COMPLETED, "next_action": None, "requested": None},
                    )
                    for status, reason, verdict, failure in SENT_STANDINGS
                    for code in ("200", "0000")
                ),
                Case(
                    "paid, as it was seen of a payment",
                    Reply(200, SEEN),
                    Verdict.COMPLETED,
                    expected={"provider_references": (REFUND_REFERENCE,), "amount_bound": True},
                ),
                Case(
                    "paid, but another order",
                    sent("processed", "paymentComplete", ExtTransactionId="x"),
                    Verdict.UNKNOWN,
                ),
                Case("paid, but another code", sent("processed", "paymentComplete", code="500"), Verdict.UNKNOWN),
                Case("paid, but 422", sent("processed", "paymentComplete", 422), Verdict.UNKNOWN),
                Case("denied under 422", sent("denied", None, 422, code="422"), Verdict.UNKNOWN),
                Case("denied, but an error", sent("denied", None, 500), Verdict.UNKNOWN),
                Case("not found", refusal(404), Verdict.NOT_FOUND, expected={"expirable": False}),
                Case("a wrong key", Reply(401), Verdict.UNKNOWN),
                Case("too many", Reply(429), Verdict.UNKNOWN),
                Case("internal error", refusal(500), Verdict.UNKNOWN),
            ),
        ),
        Verb(
            "submit",
            (cpay_query(), Submission(ActionType.OTP, SecretStr(RIGHT))),
            accepted=told(None, "paymentSuccessful"),
            path=CONFIRM_PATH,
            asks=True,
            cases=(Case("paid", told(None, "paymentSuccessful"), Verdict.COMPLETED, None, {"amount_bound": True}),),
        ),
    )


def test_cpay_sends_money_and_says_what_to_do_instead_of_a_refund() -> None:
    adapter = Wire().build(Cpay)
    assert isinstance(adapter, PaysOut)
    assert not isinstance(adapter, Refunds)
    assert "portal" in (Cpay.declaration.refund_alternative or "")


async def test_the_whole_order_to_send_money_as_cpay_receives_it() -> None:
    wire = Wire(accepted_payout())
    await wire.build(Cpay).pay_out(a_payout(LSL, WALLET), CREDENTIALS)
    parts = (REFUND_REFERENCE, "10000001", "150.00", "57012345")
    assert wire.json == {
        "transactionRequest": {
            "transactionRequest": {
                "extTransactionId": REFUND_REFERENCE,
                "clientCode": "10000001",
                "msisdn": "57012345",
                "amount": "150.00",
                "currency": "LSL",
                "shortDescription": "Withdrawal",
                "additionalData": {"recipientKyc": {"fullName": "Thabo Mokoena"}},
                "redirectUrl": CALLBACK_URL,
                "checksum": reference_checksum("suite-hmac-secret", *parts),
            }
        }
    }
    (request,) = wire.requests
    assert request.url.query == b"destinationOperator=mpesa&destinationWalletNumber=57012345"
    assert request.headers["authorization"] == "suite-api-key"


async def test_without_an_operator_money_goes_to_a_wallet_of_cpay() -> None:
    wire = Wire(accepted_payout())
    destination = Destination(DestinationType.MOBILE_MONEY, phone="57012345")
    await wire.build(Cpay).pay_out(a_payout(LSL, destination, description="Überweisung #17, zu lang"), CREDENTIALS)
    (request,) = wire.requests
    assert request.url.query == b"destinationOperator=CPAY&destinationWalletNumber=57012345"
    sent_body = wire.json["transactionRequest"]["transactionRequest"]
    assert (sent_body["shortDescription"], sent_body["additionalData"]) == (
        "berweisung 17 zu lan",
        {"recipientKyc": {}},
    )


# Made with `openssl dgst -sha256 -hmac suite-hmac-secret`.
@pytest.mark.parametrize(
    ("minor", "text", "known"),
    [
        (100_010, "1000.10", "d40c75dc46fa79b3e3a440d79e60b49dbf8d082b1962c9f0fdf59071a9b2e51d"),
        (10, "0.10", "1f139a1f0bd5aa7ac27f1b5330d41579a1029e12196eaee535698676a4b4769a"),
    ],
)
async def test_the_checksum_of_money_sent_has_known_answers(minor: int, text: str, known: str) -> None:
    wire = Wire(accepted_payout())
    await wire.build(Cpay).pay_out(a_payout(Money(minor, "LSL"), WALLET), CREDENTIALS)
    sent_body = wire.json["transactionRequest"]["transactionRequest"]
    assert (sent_body["amount"], sent_body["checksum"]) == (text, known)


@pytest.mark.parametrize(
    ("order", "pointer"),
    [
        (a_payout(Money(100, "ZAR"), WALLET), "/currency"),
        (a_payout(Money(0, "LSL"), WALLET), "/amount"),
        (a_payout(LSL, Destination(DestinationType.BANK_ACCOUNT, "A", "1", "2")), "/destination/type"),
        (a_payout(LSL, dataclasses.replace(WALLET, bank_code="MPESA")), "/destination/bank_code"),
        (a_payout(LSL, dataclasses.replace(WALLET, phone="+27831234567")), "/destination/phone"),
        (a_payout(LSL, dataclasses.replace(WALLET, phone=None)), "/destination/phone"),
    ],
)
def test_money_that_cannot_be_sent_points_at_the_reason(order: Any, pointer: str) -> None:
    adapter = Wire().build(Cpay)
    for operator in (None, "CPAY", "mpesa", "ecocash", "mywallet", "khetsi"):
        adapter.check_payout(a_payout(LSL, dataclasses.replace(WALLET, bank_code=operator)))
    with pytest.raises(OrderNotAcceptable) as refused:
        adapter.check_payout(order)
    assert refused.value.pointer == pointer


async def test_an_order_to_send_money_without_an_answer_is_asked_about_and_never_sent_again() -> None:
    provider = Provider({}, ["silence", sent("processed", "paymentComplete")])
    async with listening(provider) as url, on_real_sockets(Cpay, url, timeout_seconds=0.2) as adapter:
        assert (await adapter.pay_out(a_payout(LSL, WALLET), CREDENTIALS)).verdict is Verdict.UNKNOWN
        assert (await adapter.fetch_payout(a_payout_query(LSL), CREDENTIALS)).verdict is Verdict.COMPLETED
    assert provider.paths == [TOP_UP_PATH, STATUS_PATH]
