"""M-Pesa's adapter against replies in the shapes of Safaricom's Daraja pages (M-Pesa Express, its query, authorization)."""

import asyncio
import base64
import contextlib
import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, ClassVar

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from payflow.core.money import Money
from payflow.gateway.contract import (
    ActionType,
    AnswersValidation,
    Customer,
    Destination,
    DestinationType,
    NextAction,
    Operation,
    OrderNotAcceptable,
    PaysOut,
    Refunds,
    Trust,
    ValidationRequest,
    Verdict,
    WebhookMalformed,
)
from payflow.providers.mpesa import Mpesa, MpesaCredentials
from tests.providers.contract_suite import (
    CALLBACK_URL,
    NOW,
    AmountCase,
    Case,
    EventCase,
    ProviderContract,
    RefusedOrder,
    Reply,
    Wire,
    a_query,
    a_webhook,
    an_order,
    build,
    check_fields,
    variants,
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

# Shortcode and passkey are those that Safaricom publishes for everybody's sandbox.
PASSKEY = "bfb279f9aa9bdbcf158e97dd71a467cd2e0c893059b10f78e6b72ada1ed2c919"
PLAIN = {
    "consumer_key": "suite-consumer-key",
    "consumer_secret": "suite-consumer-secret",
    "shortcode": "174379",
    "passkey": PASSKEY,
}
CREDENTIALS = MpesaCredentials.model_validate(PLAIN)
OTHER = MpesaCredentials.model_validate({**PLAIN, "consumer_key": "another-consumer-key"})

KES = Money(10_000, "KES")
TOKEN_PATH = "/oauth/v1/generate"
PUSH_PATH = "/mpesa/stkpush/v1/processrequest"
TOKEN = Reply(200, {"access_token": "suiteTokenOfTwentyEightChars", "expires_in": "3599"})
CHECKOUT_ID = "ws_CO_04032026123015001712345678"
MERCHANT_ID = "71ab-4d0c-9e55-0c1f2d3a4b5c0001"
IDS = (CHECKOUT_ID, MERCHANT_ID)
ACCEPTED = {
    "MerchantRequestID": MERCHANT_ID,
    "CheckoutRequestID": CHECKOUT_ID,
    "ResponseCode": "0",
    "ResponseDescription": "Success. Request accepted for processing",
    "CustomerMessage": "Success. Request accepted for processing",
}


def told(code: Any, **changes: Any) -> Reply:
    return Reply(
        200,
        {
            "ResponseCode": "0",
            "ResponseDescription": "The service request has been accepted successfully",
            "MerchantRequestID": MERCHANT_ID,
            "CheckoutRequestID": CHECKOUT_ID,
            "ResultCode": code,
            "ResultDesc": "Words that differ by channel.",
        }
        | changes,
    )


def error(status: int, code: str, message: str) -> Reply:
    return Reply(status, {"requestId": "9c1d-4b7a-aa01", "errorCode": code, "errorMessage": message})


def fault(status: int, code: str, words: str) -> Reply:
    return Reply(status, {"fault": {"faultstring": words, "detail": {"errorcode": code}}})


def callback(code: Any, items: Any = None, **changes: Any) -> dict[str, Any]:
    body = {
        "MerchantRequestID": MERCHANT_ID,
        "CheckoutRequestID": CHECKOUT_ID,
        "ResultCode": code,
        "ResultDesc": "Words.",
    }
    if items is not None:
        body["CallbackMetadata"] = {"Item": items}
    return {"Body": {"stkCallback": body | changes}}


def items(**values: Any) -> list[dict[str, Any]]:
    found = {"Amount": 100.0, "MpesaReceiptNumber": "UC4XX0AB1C", "TransactionDate": 20260304123102} | values
    return [{"Name": "Balance"}, *({"Name": name, "Value": value} for name, value in found.items())]


SPIKE = fault(429, "policies.ratelimit.SpikeArrestViolation", "Spike arrest violation. Allowed rate : 5 per minute")
BUSY_PHONE = "Unable to lock subscriber, a transaction is already in process for the current subscriber"
PAID = {"verdict": Verdict.COMPLETED, "paid": KES, "receipt": "UC4XX0AB1C", "requested": None, "amount_bound": False}

QUERY_RESULTS = [
    ("1", Verdict.DECLINED, "insufficient_funds"),
    ("2", Verdict.DECLINED, "limit_exceeded"),
    ("3", Verdict.DECLINED, "limit_exceeded"),
    ("4", Verdict.DECLINED, "limit_exceeded"),
    ("8", Verdict.DECLINED, "limit_exceeded"),
    ("17", Verdict.DECLINED, "rate_limited"),
    ("26", Verdict.DECLINED, "provider_busy"),
    ("1001", Verdict.DECLINED, "subscriber_busy"),
    ("1019", Verdict.EXPIRED, "expired"),
    ("1025", Verdict.DECLINED, "provider_error"),
    ("1032", Verdict.CANCELLED, "customer_cancelled"),
    ("1036", Verdict.EXPIRED, "expired"),
    ("1037", Verdict.EXPIRED, "expired"),
    ("2001", Verdict.DECLINED, "wrong_pin"),
    ("2028", Verdict.DECLINED, "configuration_error"),
    ("8006", Verdict.DECLINED, "pin_locked"),
    ("9999", Verdict.DECLINED, "provider_error"),
    ("SFC_IC0003", Verdict.DECLINED, "configuration_error"),
]
REFUSED = [
    ("400.002.02", "Bad Request - Invalid PhoneNumber", "invalid_phone"),
    ("400.002.02", "Bad Request - Invalid PartyA", "invalid_phone"),
    ("400.002.02", "Bad Request - Invalid BusinessShortCode", "configuration_error"),
    ("400.002.02", "Bad Request - Invalid CallBackURL", "configuration_error"),
    ("400.002.02", "Bad Request - Invalid Amount", "invalid_request"),
    ("400.002.05", "Invalid Request Payload", "invalid_request"),
    ("404.001.01", "Resource not found", "configuration_error"),
    ("404.001.04", "Invalid Authentication Header", "authentication_failed"),
    ("405.001", "GET Method Not Allowed", "configuration_error"),
    ("500.001.1001", "Merchant does not exist", "configuration_error"),
    ("500.001.1001", "[MerchantValidate] - Wrong credentials", "authentication_failed"),
    ("500.001.1001", BUSY_PHONE, "subscriber_busy"),
    ("500.002.1001", "Service is currently under maintenance. Please try again later", "provider_busy"),
    ("500.003.02", "System is busy. Please try again in few minutes.", "provider_busy"),
    ("500.003.02", "Error Occurred: Spike Arrest Violation", "rate_limited"),
    ("500.003.03", "Quota Violation", "rate_limited"),
]


class TestMpesaContract(ProviderContract):
    adapter = Mpesa
    credentials = CREDENTIALS
    secrets = ("suite-consumer-key", "suite-consumer-secret", PASSKEY, "suiteTokenOfTwentyEightChars")
    bad_credentials: ClassVar = {"shortcode": "looks-wrong"}
    amount = KES
    provider_references = IDS
    preliminary: ClassVar = {TOKEN_PATH: TOKEN}
    collect_path = PUSH_PATH
    accepted = Reply(200, ACCEPTED)
    completed = told("0")
    completed_money = (None, None)

    collect_cases = (
        Case(
            "accepted",
            accepted,
            Verdict.REQUIRES_ACTION,
            expected={
                "provider_references": IDS,
                "session_ends_at": NOW + timedelta(minutes=3),
                "next_action": NextAction(
                    ActionType.HANDSET_PROMPT,
                    display_text="Enter your M-Pesa PIN on your phone to pay KES 100.",
                    expires_at=NOW + timedelta(minutes=3),
                ),
            },
        ),
        Case("accepted with a number", Reply(200, {**ACCEPTED, "ResponseCode": 0}), Verdict.REQUIRES_ACTION),
        Case("accepted without an id", Reply(200, {**ACCEPTED, "CheckoutRequestID": ""}), Verdict.UNKNOWN),
        Case("another response code", Reply(200, {**ACCEPTED, "ResponseCode": "1"}), Verdict.UNKNOWN),
        Case("accepted under a status that is none", Reply(500, ACCEPTED), Verdict.UNKNOWN),
        *(
            Case(message, error(int(code[:3]), code, message), Verdict.REFUSED, failure, {"provider_references": ()})
            for code, message, failure in REFUSED
        ),
        Case("too many, at the gateway", SPIKE, Verdict.REFUSED, "rate_limited"),
        Case("too many, as a page", Reply(429, b"<html>slow down</html>"), Verdict.REFUSED, "rate_limited"),
        Case(
            "product not enabled",
            fault(
                401,
                "keymanagement.service.InvalidAPICallAsNoApiProductMatchFound",
                "Invalid API call as no apiproduct match found",
            ),
            Verdict.REFUSED,
            "configuration_error",
        ),
        Case("a message nobody knows", error(500, "500.001.1001", "Something else"), Verdict.UNKNOWN),
        Case("the same code without words", error(500, "500.001.1001", ""), Verdict.UNKNOWN),
        Case("in process", error(500, "500.001.1001", "The transaction is being processed"), Verdict.UNKNOWN),
        Case("duplicate", error(500, "500.002.1001", "Duplicate OriginatorConversationID."), Verdict.UNKNOWN),
        Case("internal error", error(500, "500.003.1001", "Internal Server Error"), Verdict.UNKNOWN),
        Case("an invented code", error(400, "400.999.99", "Bad Request - Invented"), Verdict.UNKNOWN),
    )
    fetch_cases = (
        Case(
            "paid",
            completed,
            Verdict.COMPLETED,
            expected={
                "raw_status": "0",
                "amount_bound": True,
                "requested": None,
                "paid": None,
                "receipt": None,
                "provider_references": IDS,
            },
        ),
        Case("paid, as a number", told(0), Verdict.COMPLETED, expected={"amount_bound": True}),
        Case("paid, but another prompt", told("0", CheckoutRequestID="ws_CO_other"), Verdict.UNKNOWN),
        Case("paid, but no prompt named", told("0", CheckoutRequestID=None), Verdict.UNKNOWN),
        Case("paid, but another response code", told("0", ResponseCode="1"), Verdict.UNKNOWN),
        *(
            Case(f"result {code}", told(code), verdict, failure, {"expirable": True, "amount_bound": False})
            for code, verdict, failure in QUERY_RESULTS
        ),
        Case("in flight, newer", told("4999"), Verdict.PROCESSING, expected={"expirable": False}),
        Case("in flight", error(500, "500.001.1001", "The transaction is being processed"), Verdict.PROCESSING),
        Case("in flight, without words", error(200, "500.001.1001", ""), Verdict.PROCESSING),
        Case("does not exist", error(500, "500.001.1001", "The transaction does not Exist"), Verdict.UNKNOWN),
        Case("asked too early", error(400, "400.002.02", "Bad Request - Invalid CheckoutRequestID"), Verdict.UNKNOWN),
        Case(
            "wrong credentials", error(500, "500.001.1001", "[MerchantValidate] - Wrong credentials"), Verdict.UNKNOWN
        ),
        Case("too many", SPIKE, Verdict.UNKNOWN),
        Case("no result code", told(None), Verdict.UNKNOWN),
        Case("an invented result code", told("424242"), Verdict.UNKNOWN, expected={"expirable": False}),
        Case("an invented word", told("SFC_XX9999"), Verdict.UNKNOWN),
        Case("result code true", told(True), Verdict.UNKNOWN),
        Case("result code 0.0", told(0.0), Verdict.UNKNOWN),
    )
    amount_cases = (
        AmountCase(Money(100, "KES"), 1),
        AmountCase(Money(10_000, "KES"), 100),
        AmountCase(Money(25_000_000, "KES"), 250_000),
    )
    refused_orders = (
        RefusedOrder("another currency", {"amount": Money(100, "UGX")}, "/currency"),
        RefusedOrder("a card", {"method": "card"}, "/method"),
        RefusedOrder("no phone", {"customer": Customer(email="ada@customer.example")}, "/customer/phone"),
        RefusedOrder("cents", {"amount": Money(10_050, "KES")}, "/amount"),
        RefusedOrder("nothing", {"amount": Money(0, "KES")}, "/amount"),
        RefusedOrder("a shilling too many", {"amount": Money(25_000_100, "KES")}, "/amount"),
    )
    event_cases = (
        EventCase(
            "paid",
            callback(0, items()),
            {
                "type": "stk_callback",
                "trust": Trust.CONFIRM,
                "dedupe_key": None,
                "references": (),
                "provider_references": IDS,
            },
            PAID,
        ),
        EventCase("paid, with text", callback("0", items(Amount="100.00")), {}, PAID),
        EventCase("paid, with a whole number", callback(0, items(Amount=100)), {}, PAID),
        EventCase("no receipt", callback(0, items(MpesaReceiptNumber=None)), {}, {"receipt": None, "paid": KES}),
        EventCase("another amount", callback(0, items(Amount=1.00)), {}, {"paid": Money(100, "KES")}),
        EventCase(
            "cancelled",
            callback(1032),
            {"trust": Trust.CONFIRM, "provider_references": IDS},
            {"verdict": Verdict.CANCELLED, "raw_status": "1032", "paid": None, "expirable": True},
            "customer_cancelled",
        ),
        EventCase("no answer", callback(1037), {}, {"verdict": Verdict.EXPIRED}, "expired"),
        EventCase("a word", callback("SFC_IC0003"), {}, {"verdict": Verdict.DECLINED}, "configuration_error"),
        EventCase(
            "any other code is final in a callback",
            callback(424242),
            {},
            {"verdict": Verdict.DECLINED, "raw_status": "424242", "paid": None},
            "declined",
        ),
        EventCase("still processing", callback(4999), {}, {"verdict": Verdict.PROCESSING, "expirable": False}),
    )

    def sent_amount(self, wire: Wire) -> int:
        amount: int = wire.json["Amount"]
        return amount


async def test_the_whole_order_as_daraja_receives_it() -> None:
    wire = Wire(Reply(200, ACCEPTED), preliminary={TOKEN_PATH: TOKEN})
    # 09:24:08 in Nairobi is 06:24:08 in UTC; password and timestamp are the example of Daraja's M-Pesa Express page.
    adapter = wire.build(Mpesa, lambda: datetime(2021, 6, 28, 6, 24, 8, tzinfo=UTC))
    await adapter.collect(an_order(KES), CREDENTIALS)
    assert wire.json == {
        "BusinessShortCode": "174379",
        "Password": "MTc0Mzc5YmZiMjc5ZjlhYTliZGJjZjE1OGU5N2RkNzFhNDY3Y2QyZTBjODkzMDU5YjEwZjc4"
        "ZTZiNzJhZGExZWQyYzkxOTIwMjEwNjI4MDkyNDA4",
        "Timestamp": "20210628092408",
        "TransactionType": "CustomerPayBillOnline",
        "Amount": 100,
        "PartyA": "254712345678",
        "PartyB": "174379",
        "PhoneNumber": "254712345678",
        "CallBackURL": CALLBACK_URL,
        "AccountReference": "efghjkmnpqrs",
        "TransactionDesc": "Order 17",
    }
    assert wire.requests[0].headers["authorization"] == "Bearer suiteTokenOfTwentyEightChars"
    (token_request,) = wire.early
    assert token_request.method == "GET"
    assert token_request.url.query == b"grant_type=client_credentials"
    assert token_request.headers["authorization"] == "Basic c3VpdGUtY29uc3VtZXIta2V5OnN1aXRlLWNvbnN1bWVyLXNlY3JldA=="


async def test_a_query_names_the_prompt_and_signs_like_the_order() -> None:
    wire = Wire(told("0"), preliminary={TOKEN_PATH: TOKEN})
    await wire.build(Mpesa).fetch(a_query(KES, *IDS), CREDENTIALS)
    assert wire.requests[0].url.path == "/mpesa/stkpushquery/v1/query"
    assert set(wire.json) == {"BusinessShortCode", "Password", "Timestamp", "CheckoutRequestID"}
    assert wire.json["CheckoutRequestID"] == CHECKOUT_ID
    assert wire.json["Timestamp"] == "20260304123015"


async def test_nothing_is_asked_about_a_push_whose_answer_was_lost() -> None:
    wire = Wire(told("0"), preliminary={TOKEN_PATH: TOKEN})
    result = await wire.build(Mpesa).fetch(a_query(KES), CREDENTIALS)
    assert (result.verdict, wire.requests, wire.early) == (Verdict.UNKNOWN, [], [])


async def test_a_till_is_paid_through_its_store_number() -> None:
    wire = Wire(Reply(200, ACCEPTED), preliminary={TOKEN_PATH: TOKEN})
    till = {"transaction_type": "CustomerBuyGoodsOnline", "till_number": "5550001"}
    await wire.build(Mpesa).collect(an_order(KES), MpesaCredentials.model_validate({**PLAIN, **till}))
    assert (wire.json["TransactionType"], wire.json["PartyB"]) == ("CustomerBuyGoodsOnline", "5550001")
    assert wire.json["BusinessShortCode"] == "174379"


@pytest.mark.parametrize(
    ("description", "sent"),
    [(None, "Payment"), ("Ürün – 5%", "rn  5"), ("A much too long description", "A much too lo"), ("!!!", "Payment")],
)
async def test_a_description_is_cut_to_what_the_prompt_holds(description: str | None, sent: str) -> None:
    wire = Wire(Reply(200, ACCEPTED), preliminary={TOKEN_PATH: TOKEN})
    await wire.build(Mpesa).collect(an_order(KES, description=description), CREDENTIALS)
    assert wire.json["TransactionDesc"] == sent


@pytest.mark.parametrize(
    ("phone", "sent"),
    [
        ("+254712345678", "254712345678"),
        ("254112345678", "254112345678"),
        ("0712 345 678", "254712345678"),
        ("0112-345-678", "254112345678"),
        ("712345678", "254712345678"),
    ],
)
async def test_a_kenyan_number_is_sent_as_daraja_writes_it(phone: str, sent: str) -> None:
    wire = Wire(Reply(200, ACCEPTED), preliminary={TOKEN_PATH: TOKEN})
    adapter, order = wire.build(Mpesa), an_order(KES, customer=Customer(phone=phone))
    adapter.check(order)
    await adapter.collect(order, CREDENTIALS)
    assert (wire.json["PartyA"], wire.json["PhoneNumber"]) == (sent, sent)


@pytest.mark.parametrize(
    "phone", ["", "+256712345678", "+712345678", "+254 812 345 678", "07123456789", "+25471234567", "٠٧١٢٣٤٥٦٧٨"]
)
def test_a_number_that_cannot_pay_points_at_the_phone(phone: str) -> None:
    with pytest.raises(OrderNotAcceptable) as refusal:
        Wire().build(Mpesa).check(an_order(KES, customer=Customer(phone=phone)))
    assert refusal.value.pointer == "/customer/phone"


# Tokens


class Office:
    """Gives out numbered tokens; only those in `good` are taken."""

    def __init__(self, expires_in: Any = "3599", refusal: Reply | None = None, good: set[str] | None = None) -> None:
        self.expires_in = expires_in
        self.refusal = refusal or error(404, "404.001.03", "Invalid Access Token")
        self.good = good
        self.given = 0
        self.pushes: list[str] = []
        self.now = NOW

    def build(self) -> Any:
        return build(Mpesa, self, lambda: self.now)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if request.url.path == TOKEN_PATH:
            self.given += 1
            await asyncio.sleep(0.01)
            return Reply(200, {"access_token": f"token{self.given}", "expires_in": self.expires_in}).response()
        token = request.headers["authorization"].removeprefix("Bearer ")
        self.pushes.append(token)
        reply = Reply(200, ACCEPTED) if self.good is None or token in self.good else self.refusal
        return reply.response()


async def test_one_token_serves_many_orders_at_once() -> None:
    office = Office()
    adapter = office.build()
    results = await asyncio.gather(*(adapter.collect(an_order(KES), CREDENTIALS) for _ in range(20)))
    assert {result.verdict for result in results} == {Verdict.REQUIRES_ACTION}
    assert (office.given, office.pushes) == (1, ["token1"] * 20)


async def test_each_set_of_credentials_has_its_own_token() -> None:
    office = Office()
    adapter = office.build()
    for credentials in (CREDENTIALS, OTHER, CREDENTIALS):
        await adapter.collect(an_order(KES), credentials)
    assert office.pushes == ["token1", "token2", "token1"]


@pytest.mark.parametrize("expires_in", [3599, "3599"])
async def test_a_token_is_renewed_a_minute_before_it_ends(expires_in: Any) -> None:
    office = Office(expires_in)
    adapter = office.build()
    for seconds in (0, 3538, 3539, 3540):
        office.now = NOW + timedelta(seconds=seconds)
        await adapter.collect(an_order(KES), CREDENTIALS)
    assert office.pushes == ["token1", "token1", "token2", "token2"]


@pytest.mark.parametrize("expires_in", [None, "soon", -1, 0, "30"])
async def test_a_token_of_unknown_or_short_life_is_used_once(expires_in: Any) -> None:
    office = Office(expires_in)
    adapter = office.build()
    for _ in range(2):
        assert (await adapter.collect(an_order(KES), CREDENTIALS)).verdict is Verdict.REQUIRES_ACTION
    assert office.pushes == ["token1", "token2"]


@pytest.mark.parametrize(
    ("status", "code"), [(404, "404.001.03"), (401, "401.002.01"), (401, "401.003.01"), (400, "400.003.01")]
)
async def test_a_refused_token_is_renewed_once_and_the_order_repeated_once(status: int, code: str) -> None:
    office = Office(refusal=error(status, code, "Invalid Access Token"), good={"token2"})
    result = await office.build().collect(an_order(KES), CREDENTIALS)
    assert result.verdict is Verdict.REQUIRES_ACTION
    assert office.pushes == ["token1", "token2"]


async def test_a_token_refused_twice_is_the_end_of_it() -> None:
    office = Office(good=set())
    result = await office.build().collect(an_order(KES), CREDENTIALS)
    assert (result.verdict, result.failure.code) == (Verdict.REFUSED, "authentication_failed")
    assert office.pushes == ["token1", "token2"]


async def test_orders_refused_together_share_one_renewal() -> None:
    office = Office(good={"token2"})
    adapter = office.build()
    results = await asyncio.gather(*(adapter.collect(an_order(KES), CREDENTIALS) for _ in range(10)))
    assert {result.verdict for result in results} == {Verdict.REQUIRES_ACTION}
    assert (office.given, office.pushes.count("token2")) == (2, 10)


async def test_another_404_is_not_a_token_error() -> None:
    office = Office(refusal=error(404, "404.001.01", "Resource not found"), good=set())
    await office.build().collect(an_order(KES), CREDENTIALS)
    assert office.pushes == ["token1"]


@pytest.mark.parametrize(
    ("reply", "verdict", "failure"),
    [
        (Reply(400), Verdict.REFUSED, "authentication_failed"),
        (Reply(401), Verdict.REFUSED, "authentication_failed"),
        (error(400, "400.008.02", "Invalid grant type passed"), Verdict.REFUSED, "authentication_failed"),
        (SPIKE, Verdict.REFUSED, "rate_limited"),
        (Reply(503, b"<html>"), Verdict.NOT_SENT, "provider_unreachable"),
        (Reply(200, b"<html>"), Verdict.NOT_SENT, "provider_unreachable"),
        (Reply(200, {"expires_in": "3599"}), Verdict.NOT_SENT, "provider_unreachable"),
        (OSError("broken pipe"), Verdict.NOT_SENT, "provider_unreachable"),
    ],
)
async def test_without_a_token_the_order_is_never_sent(
    reply: Reply | Exception, verdict: Verdict, failure: str
) -> None:
    wire = Wire(reply)
    result = await wire.build(Mpesa).collect(an_order(KES), CREDENTIALS)
    assert (result.verdict, result.failure.code) == (verdict, failure)
    assert [request.url.path for request in wire.requests] == [TOKEN_PATH]
    result = await wire.build(Mpesa).fetch(a_query(KES, *IDS), CREDENTIALS)
    assert (result.verdict, result.failure) == (Verdict.UNKNOWN, None)


# Callbacks


def test_a_callback_proves_nothing_by_itself_and_is_declared_so() -> None:
    adapter = Wire().build(Mpesa)
    adapter.verify_webhook(a_webhook(b"anything"), [CREDENTIALS])
    adapter.verify_webhook(a_webhook(b"anything"), [])
    assert Mpesa.declaration.webhook_token
    assert Mpesa.declaration.webhook_answer == b'{"ResultCode":0,"ResultDesc":"Accepted"}'
    assert "mpesa" not in Mpesa.declaration.path_name
    assert len(Mpesa.declaration.webhook_sources) == 14


@pytest.mark.parametrize(
    "amount", ["100.00", "100", '"100.00"', "1e2", "100.000000000000000000000000"], ids=lambda text: text[:12]
)
def test_an_amount_is_read_to_the_cent_from_its_text(amount: str) -> None:
    body = json.dumps(callback(0, items(Amount="HERE"))).replace('"HERE"', amount).encode()
    (event,) = Wire().build(Mpesa).translate(a_webhook(body))
    assert event.result.paid == KES


@pytest.mark.parametrize(
    "amount", ["0", "-5", "0.001", "NaN", "Infinity", "1e999", "1e99999999999999999999", "true", "null", "{}"]
)
def test_a_paid_callback_without_a_readable_amount_is_malformed(amount: str) -> None:
    body = json.dumps(callback(0, items(Amount="HERE"))).replace('"HERE"', amount).encode()
    with pytest.raises(WebhookMalformed):
        Wire().build(Mpesa).translate(a_webhook(body))


@pytest.mark.parametrize(
    "body",
    [
        callback(0),
        callback(None),
        callback(True),
        callback(1032, CheckoutRequestID=None),
        callback(1032, MerchantRequestID=""),
    ],
    ids=["no metadata", "no code", "code true", "no checkout id", "no merchant id"],
)
def test_a_callback_without_its_essentials_is_malformed(body: Any) -> None:
    with pytest.raises(WebhookMalformed):
        Wire().build(Mpesa).translate(a_webhook(json.dumps(body).encode()))


# With an initiator: payouts, reversals, the status of either


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def a_certificate(key: Any) -> str:
    """Long expired, as those that Safaricom gives out."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "suite.invalid")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    dated = builder.not_valid_before(datetime(2014, 1, 1)).not_valid_after(datetime(2016, 11, 11))
    return dated.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


INITIATOR_PASSWORD = "Suite#initiator#pass"
INITIATOR: dict[str, Any] = {"initiator_name": "suiteapi", "initiator_password": INITIATOR_PASSWORD}
PRECOMPUTED = base64.b64encode(b"suite".ljust(256, b"-")).decode()


@cache
def with_initiator() -> MpesaCredentials:
    return MpesaCredentials.model_validate({**PLAIN, **INITIATOR, "certificate": a_certificate(private_key())})


READY = MpesaCredentials.model_validate({**PLAIN, "initiator_name": "suiteapi", "security_credential": PRECOMPUTED})


async def test_a_security_credential_is_the_password_under_pkcs_1_v1_5() -> None:
    wire = Wire(Reply(200, ACKNOWLEDGED), preliminary={TOKEN_PATH: TOKEN})
    await wire.build(Mpesa).pay_out(a_payout(KES, TO_PHONE), with_initiator())
    credential = wire.json["SecurityCredential"]
    assert len(credential) == 344
    numbers = private_key().private_numbers()
    cipher = int.from_bytes(base64.b64decode(credential, validate=True))
    block = pow(cipher, numbers.d, numbers.public_numbers.n).to_bytes(256)
    # RFC 8017, 7.2.1: 00 02, at least eight random bytes that are not zero, 00, the message.
    assert block[:2] == b"\x00\x02"
    padding, _, message = block[2:].partition(b"\x00")
    assert (len(padding) >= 8, message) == (True, INITIATOR_PASSWORD.encode())


@pytest.mark.parametrize("broken", [" ", "\\n", ""], ids=["spaces", "written", "nothing"])
def test_a_certificate_may_have_lost_its_line_breaks(broken: str) -> None:
    certificate = a_certificate(private_key()).replace("\n", broken)
    assert MpesaCredentials.model_validate({**PLAIN, **INITIATOR, "certificate": certificate}).initiator_name


@pytest.mark.parametrize(
    "changes",
    [
        {"initiator_name": "looks-wrong"},
        {"security_credential": PRECOMPUTED},
        {**INITIATOR},
        {**INITIATOR, "security_credential": PRECOMPUTED},
        {**INITIATOR, "certificate": "CERTIFICATE", "security_credential": PRECOMPUTED},
        {"initiator_password": "looks-wrong", "certificate": "CERTIFICATE"},
        {"initiator_name": "suiteapi", "certificate": "CERTIFICATE"},
        {**INITIATOR, "certificate": "looks-wrong"},
        {**INITIATOR, "certificate": base64.b64encode(b"looks-wrong").decode()},
        {**INITIATOR, "certificate": "ELLIPTIC"},
        {**INITIATOR, "initiator_password": "looks-wrong" * 23, "certificate": "CERTIFICATE"},
        {"initiator_name": "suiteapi", "security_credential": "looks-wrong"},
        {"initiator_name": "suiteapi", "security_credential": base64.b64encode(b"looks-wrong").decode()},
    ],
)
def test_half_an_initiator_is_refused_without_being_repeated(changes: Mapping[str, Any]) -> None:
    made = {
        "CERTIFICATE": lambda: a_certificate(private_key()),
        "ELLIPTIC": lambda: a_certificate(ec.generate_private_key(ec.SECP256R1())),
    }
    values = {name: made[value]() if value in made else value for name, value in changes.items()}
    with pytest.raises(ValidationError) as refusal:
        MpesaCredentials.model_validate({**PLAIN, **values})
    assert "looks-wrong" not in str(refusal.value)


CONVERSATION_ID = "AG_20260304_20106e9209f64bebd05b"
ORIGINATOR_ID = "53e3-4aa8-9fe0-8fb5e4092cdd3533373"
ACKNOWLEDGED = {
    "ConversationID": CONVERSATION_ID,
    "OriginatorConversationID": REFUND_REFERENCE,
    "ResponseCode": "0",
    "ResponseDescription": "Accept the service request successfully.",
}
REVERSING = {**ACKNOWLEDGED, "OriginatorConversationID": ORIGINATOR_ID}
PAYOUT_IDS, REFUND_IDS = (REFUND_REFERENCE, CONVERSATION_ID), (ORIGINATOR_ID, CONVERSATION_ID)
TO_PHONE = Destination(DestinationType.MOBILE_MONEY, phone="+254712345678")
TO_BANK = Destination(DestinationType.BANK_ACCOUNT, bank_code="01", account_number="0123456789")
PAYMENT = a_payment(KES, *IDS)
B2C_PATH, REVERSAL_PATH = "/mpesa/b2c/v3/paymentrequest", "/mpesa/reversal/v1/request"
STATUS_PATH = "/mpesa/transactionstatus/v1/query"

REFUSED_INSTRUCTIONS = [
    ("400.002.02", "Bad Request - Invalid PartyB", "invalid_recipient"),
    ("400.002.02", "Bad Request - Invalid PartyA", "configuration_error"),
    ("400.002.02", "Bad Request - Invalid ReceiverParty", "configuration_error"),
    ("400.002.02", "Bad Request - Invalid ResultURL", "configuration_error"),
    ("400.002.02", "Bad Request - Invalid QueueTimeOutURL", "configuration_error"),
    ("400.002.02", "Bad Request - Invalid InitiatorName", "authentication_failed"),
    ("400.002.02", "Bad Request - Invalid Initiator", "authentication_failed"),
    ("400.002.02", "Bad Request - Invalid SecurityCredential", "authentication_failed"),
    ("400.002.02", "Bad Request - Invalid TransactionID", "invalid_request"),
    ("400.002.05", "Invalid Request Payload", "invalid_request"),
    ("401.002.01", "Error Occurred - Invalid Access Token - x", "authentication_failed"),
    ("404.001.01", "Resource not found", "configuration_error"),
    ("500.002.1001", "Service is currently under maintenance. Please try again later", "provider_busy"),
    ("500.003.02", "Error Occurred: Spike Arrest Violation", "rate_limited"),
    ("500.003.03", "Quota Violation", "rate_limited"),
]


def instruction_cases(accepted: dict[str, Any], ids: tuple[str, str]) -> tuple[Case, ...]:
    return (
        Case("acknowledged", Reply(200, accepted), Verdict.PROCESSING, expected={"provider_references": ids}),
        Case("without an id", Reply(200, {**accepted, "ConversationID": ""}), Verdict.UNKNOWN),
        Case("another response code", Reply(200, {**accepted, "ResponseCode": "1"}), Verdict.UNKNOWN),
        Case("a status that is none", Reply(500, accepted), Verdict.UNKNOWN),
        *(
            Case(words, error(int(code[:3]), code, words), Verdict.REFUSED, failure)
            for code, words, failure in REFUSED_INSTRUCTIONS
        ),
        Case("too many, at the gateway", SPIKE, Verdict.REFUSED, "rate_limited"),
        Case("used twice", error(500, "500.002.1001", "Duplicate OriginatorConversationID."), Verdict.UNKNOWN),
        Case("busy", error(500, "500.003.02", "System is busy. Please try again in few minutes."), Verdict.UNKNOWN),
        Case("internal error", error(500, "500.001.1001", "Internal Server Error"), Verdict.UNKNOWN),
        Case("an invented code", error(400, "400.999.99", "Bad Request - Invented"), Verdict.UNKNOWN),
    )


QUESTION_CASES = (
    Case("asked", Reply(200, REVERSING), Verdict.ASKED, expected={"provider_references": ()}),
    Case("another response code", Reply(200, {**REVERSING, "ResponseCode": "1"}), Verdict.UNKNOWN),
    Case("refused", error(400, "400.002.02", "Bad Request - Invalid InitiatorName"), Verdict.UNKNOWN),
    Case("no token", error(400, "400.003.01", "Invalid Access Token"), Verdict.UNKNOWN),
    Case("too many", SPIKE, Verdict.UNKNOWN),
)
PAYOUT_QUERY = dataclasses.replace(a_payout_query(KES, *PAYOUT_IDS), callback_url=CALLBACK_URL)
REFUND_QUERY = a_refund_query(KES, PAYMENT, *REFUND_IDS, callback_url=CALLBACK_URL)


class TestMpesaVerbs(VerbsContract):
    adapter = Mpesa
    credentials = READY
    secrets = ("suite-consumer-key", "suite-consumer-secret", PASSKEY, PRECOMPUTED, "suiteTokenOfTwentyEightChars")
    preliminary: ClassVar = {TOKEN_PATH: TOKEN}
    verbs = (
        Verb(
            "pay_out",
            (a_payout(KES, TO_PHONE),),
            Reply(200, ACKNOWLEDGED),
            B2C_PATH,
            cases=instruction_cases(ACKNOWLEDGED, PAYOUT_IDS),
        ),
        Verb("fetch_payout", (PAYOUT_QUERY,), Reply(200, REVERSING), STATUS_PATH, cases=QUESTION_CASES, asks=True),
        Verb(
            "refund",
            (a_refund(KES, PAYMENT, receipt="NLJ7RT61SV"),),
            Reply(200, REVERSING),
            REVERSAL_PATH,
            cases=instruction_cases(REVERSING, REFUND_IDS),
        ),
        Verb("fetch_refund", (REFUND_QUERY,), Reply(200, REVERSING), STATUS_PATH, cases=QUESTION_CASES, asks=True),
    )


def test_the_capabilities_are_those_of_the_contract() -> None:
    adapter = Wire().build(Mpesa)
    assert isinstance(adapter, PaysOut)
    assert isinstance(adapter, Refunds)
    assert isinstance(adapter, AnswersValidation)


async def test_the_whole_payout_as_daraja_receives_it() -> None:
    wire = Wire(Reply(200, ACKNOWLEDGED), preliminary={TOKEN_PATH: TOKEN})
    other = READY.model_copy(update={"payout_shortcode": "600992"})
    await wire.build(Mpesa).pay_out(a_payout(KES, TO_PHONE, description="Wages – May"), other)
    assert wire.json == {
        "OriginatorConversationID": REFUND_REFERENCE,
        "InitiatorName": "suiteapi",
        "SecurityCredential": PRECOMPUTED,
        "CommandID": "BusinessPayment",
        "Amount": 100,
        "PartyA": "600992",
        "PartyB": "254712345678",
        "Remarks": "Wages  May",
        "QueueTimeOutURL": CALLBACK_URL + "0",
        "ResultURL": CALLBACK_URL,
        "Occassion": "Payout",
    }


async def test_the_whole_reversal_as_daraja_receives_it() -> None:
    wire = Wire(Reply(200, REVERSING), preliminary={TOKEN_PATH: TOKEN})
    await wire.build(Mpesa).refund(a_refund(KES, PAYMENT, receipt="NLJ7RT61SV", reason="x" * 120), READY)
    assert wire.json == {
        "Initiator": "suiteapi",
        "SecurityCredential": PRECOMPUTED,
        "CommandID": "TransactionReversal",
        "TransactionID": "NLJ7RT61SV",
        "Amount": 100,
        "ReceiverParty": "174379",
        "RecieverIdentifierType": "11",
        "ResultURL": CALLBACK_URL,
        "QueueTimeOutURL": CALLBACK_URL + "0",
        "Remarks": "x" * 100,
    }


@pytest.mark.parametrize(
    ("verb", "query", "conversation"),
    [
        ("fetch_payout", PAYOUT_QUERY, REFUND_REFERENCE),
        ("fetch_payout", dataclasses.replace(PAYOUT_QUERY, provider_references=()), REFUND_REFERENCE),
        ("fetch_refund", REFUND_QUERY, ORIGINATOR_ID),
    ],
)
async def test_a_question_names_the_conversation_and_where_to_answer(verb: str, query: Any, conversation: str) -> None:
    wire = Wire(Reply(200, REVERSING), preliminary={TOKEN_PATH: TOKEN})
    await getattr(wire.build(Mpesa), verb)(query, READY)
    assert wire.json == {
        "Initiator": "suiteapi",
        "SecurityCredential": PRECOMPUTED,
        "CommandID": "TransactionStatusQuery",
        "OriginalConversationID": conversation,
        "PartyA": "174379",
        "IdentifierType": "4",
        "ResultURL": CALLBACK_URL,
        "QueueTimeOutURL": CALLBACK_URL,
        "Remarks": "Status",
        "Occasion": "Status",
    }


@pytest.mark.parametrize(
    ("verb", "query"),
    [
        ("fetch_payout", a_payout_query(KES, *PAYOUT_IDS)),
        ("fetch_refund", a_refund_query(KES, PAYMENT, *REFUND_IDS)),
        ("fetch_refund", a_refund_query(KES, PAYMENT, callback_url=CALLBACK_URL)),
    ],
    ids=["payout, no URL", "refund, no URL", "refund, no id"],
)
async def test_what_cannot_be_asked_is_unknown_and_nothing_is_sent(verb: str, query: Any) -> None:
    wire = Wire(Reply(200, REVERSING), preliminary={TOKEN_PATH: TOKEN})
    result = await getattr(wire.build(Mpesa), verb)(query, READY)
    assert (result.verdict, wire.requests, wire.early) == (Verdict.UNKNOWN, [], [])


async def test_without_an_initiator_nothing_is_sent() -> None:
    wire = Wire(Reply(200, REVERSING), preliminary={TOKEN_PATH: TOKEN})
    adapter = wire.build(Mpesa)
    for result in (
        await adapter.pay_out(a_payout(KES, TO_PHONE), CREDENTIALS),
        await adapter.refund(a_refund(KES, PAYMENT), CREDENTIALS),
    ):
        assert (result.verdict, result.failure.code) == (Verdict.REFUSED, "configuration_error")
    for result in (
        await adapter.fetch_payout(PAYOUT_QUERY, CREDENTIALS),
        await adapter.fetch_refund(REFUND_QUERY, CREDENTIALS),
    ):
        assert result.verdict is Verdict.UNKNOWN
    assert wire.requests + wire.early == []


@pytest.mark.parametrize(
    ("payout", "pointer"),
    [
        (a_payout(Money(1_000, "UGX"), TO_PHONE), "/currency"),
        (a_payout(KES, TO_BANK), "/destination/type"),
        (a_payout(KES, Destination(DestinationType.MOBILE_MONEY, phone="+256712345678")), "/destination/phone"),
        (a_payout(Money(10_050, "KES"), TO_PHONE), "/amount"),
        (a_payout(Money(900, "KES"), TO_PHONE), "/amount"),
        (a_payout(Money(25_000_100, "KES"), TO_PHONE), "/amount"),
    ],
)
def test_a_payout_that_cannot_be_made_points_at_the_reason(payout: Any, pointer: str) -> None:
    with pytest.raises(OrderNotAcceptable) as refusal:
        Wire().build(Mpesa).check_payout(payout)
    assert refusal.value.pointer == pointer


@pytest.mark.parametrize(
    ("refund", "pointer"),
    [
        (a_refund(KES, PAYMENT, receipt=None), ""),
        (a_refund(Money(5_000, "KES"), PAYMENT), "/amount"),
        (a_refund(Money(10_050, "KES"), PAYMENT, whole=True), "/amount"),
        (a_refund(Money(10_000, "UGX"), PAYMENT, whole=True), "/currency"),
    ],
)
def test_a_refund_that_cannot_be_made_points_at_the_reason(refund: Any, pointer: str) -> None:
    with pytest.raises(OrderNotAcceptable) as refusal:
        Wire().build(Mpesa).check_refund(refund)
    assert refusal.value.pointer == pointer


@pytest.mark.parametrize("shillings", [10, 250_000])
def test_the_smallest_and_the_largest_payout_and_a_whole_refund_are_taken(shillings: int) -> None:
    adapter, amount = Wire().build(Mpesa), Money(shillings * 100, "KES")
    adapter.check_payout(a_payout(amount, TO_PHONE))
    adapter.check_refund(a_refund(amount, a_payment(amount, *IDS)))


# The examples of Daraja's pages as they are printed there.

STK_PAID = b"""{"Body": {"stkCallback": {"MerchantRequestID": "29115-34620561-1", "CheckoutRequestID": "ws_CO_191220191020363925",
  "ResultCode": 0, "ResultDesc": "The service request is processed successfully.",
  "CallbackMetadata": {"Item": [
    {"Name": "Amount", "Value": 1.00}, {"Name": "MpesaReceiptNumber", "Value": "NLJ7RT61SV"},
    {"Name": "Balance"}, {"Name": "TransactionDate", "Value": 20191219102115},
    {"Name": "PhoneNumber", "Value": 254708374149}]}}}}"""
STK_CANCELLED = (
    b"""{"Body": {"stkCallback": {"MerchantRequestID": "f1e2-4b95-a71d-b30d3cdbb7a7942864", "CheckoutRequestID": """
    b""""ws_CO_21072024125243250722943992", "ResultCode": 1032, "ResultDesc": "Request cancelled by user"}}}"""
)
B2C_DONE = (
    b"""{"Result": {"ResultType": 0, "ResultCode": 0, "ResultDesc": "The service request is processed successfully.",
 "OriginatorConversationID": "53e3-4aa8-9fe0-8fb5e4092cdd3533373", "ConversationID": "AG_20240706_2010364430d9bbdaf872", """
    b""""TransactionID": "SG632NMUAB",
 "ResultParameters": {"ResultParameter": [
  {"Key": "TransactionAmount", "Value": 10}, {"Key": "TransactionReceipt", "Value": "SG632NMUAB"},
  {"Key": "ReceiverPartyPublicName", "Value": "254705912645 - NICHOLAS JOHN SONGOK"},
  {"Key": "TransactionCompletedDateTime", "Value": "06.07.2024 22:48:52"},
  {"Key": "B2CUtilityAccountAvailableFunds", "Value": 8959269.60},
  {"Key": "B2CWorkingAccountAvailableFunds", "Value": 1199371.00},
  {"Key": "B2CRecipientIsRegisteredCustomer", "Value": "Y"}, {"Key": "B2CChargesPaidAccountAvailableFunds", "Value": -1980.00}]},
 "ReferenceData": {"ReferenceItem": {"Key": "QueueTimeoutURL", "Value": """
    b""""https://internalsandbox.safaricom.co.ke/mpesa/b2cresults/v1/submit"}}}}"""
)
C2B_PAID = b"""{"TransactionType": "Pay Bill", "TransID": "RKL51ZDR4F", "TransTime": "20231121121325", "TransAmount": "5.00",
 "BusinessShortCode": "600966", "BillRefNumber": "Sample Transaction", "InvoiceNumber": "", "OrgAccountBalance": "25.00",
 "ThirdPartyTransID": "", "MSISDN": "2547 ***** 126", "FirstName": "NICHOLAS", "MiddleName": "", "LastName": ""}"""
B2C_DONE_IDS = ("53e3-4aa8-9fe0-8fb5e4092cdd3533373", "AG_20240706_2010364430d9bbdaf872")


def a_result(
    code: Any,
    parameters: Mapping[str, Any] | None = None,
    queue: str = "b2cresults",
    originator: str = REFUND_REFERENCE,
    **changes: Any,
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "ResultType": 0,
        "ResultCode": code,
        "ResultDesc": "Words.",
        "OriginatorConversationID": originator,
        "ConversationID": CONVERSATION_ID,
        "TransactionID": "SKE0000000",
    }
    if parameters is not None:
        listed = [{"Key": "DebitAccountBalance"}, *({"Key": key, "Value": value} for key, value in parameters.items())]
        told["ResultParameters"] = {"ResultParameter": listed}
    if queue:
        address = f"https://internalsandbox.safaricom.co.ke/mpesa/{queue}/v1/submit"
        told["ReferenceData"] = {"ReferenceItem": {"Key": "QueueTimeoutURL", "Value": address}}
    return {"Result": told | changes}


def a_reversal(code: Any, parameters: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return a_result(code, parameters, "reversalresults", ORIGINATOR_ID, **changes)


def a_status(word: Any, code: Any = 0, originator: str = REFUND_REFERENCE, **parameters: Any) -> dict[str, Any]:
    known = {
        "OriginatorConversationID": originator,
        "ConversationID": CONVERSATION_ID,
        "TransactionStatus": word,
        "Amount": "300",
        "ReceiptNo": "SG632NMUAB",
        "ReasonType": "Business Payment to Customer via API",
    }
    return a_result(code, known | parameters, "", "7071-4170-a0e5-8345632bad442144258")


REVERSED = {"Amount": "200.00", "OriginalTransactionID": "SKC82PACB8", "Charge": "0.00"}
PAYOUT = {"operation": Operation.PAYOUT, "trust": Trust.CAPABILITY, "dedupe_key": None}
REFUND = {"operation": Operation.REFUND, "trust": Trust.CAPABILITY, "dedupe_key": None}
OURS = {"references": (REFUND_REFERENCE,), "provider_references": PAYOUT_IDS}
NEWS: dict[str, Any] = {"trust": Trust.CAPABILITY, "references": ()}

PAYOUT_CODES = [
    (1, "insufficient_funds"),
    ("1", "insufficient_funds"),
    (2, "limit_exceeded"),
    (3, "limit_exceeded"),
    (4, "limit_exceeded"),
    (8, "limit_exceeded"),
    (11, "account_inactive"),
    (21, "authentication_failed"),
    (2001, "authentication_failed"),
    (2006, "account_inactive"),
    (2028, "configuration_error"),
    (2040, "invalid_recipient"),
    (8006, "authentication_failed"),
    ("SFC_IC0003", "invalid_recipient"),
]
REFUND_CODES = [
    ("R000001", "already_refunded"),
    ("R000002", "payment_not_found"),
    (1, "insufficient_funds"),
    (11, "account_inactive"),
    (21, "authentication_failed"),
    (2001, "authentication_failed"),
    (2006, "account_inactive"),
    (2028, "configuration_error"),
    (8006, "authentication_failed"),
]
NOTHING = {"receipt": None, "requested": None, "paid": None}


class TestMpesaMoneyEvents:
    """The same tests as for prompts, on what else comes to a callback URL."""

    event_cases = (
        EventCase(
            "Daraja's example of a prompt that was paid",
            STK_PAID,
            {"trust": Trust.CONFIRM, "provider_references": ("ws_CO_191220191020363925", "29115-34620561-1")},
            {"verdict": Verdict.COMPLETED, "paid": Money(100, "KES"), "receipt": "NLJ7RT61SV"},
        ),
        EventCase(
            "Daraja's example of a prompt that was cancelled",
            STK_CANCELLED,
            {"trust": Trust.CONFIRM},
            {"verdict": Verdict.CANCELLED, "raw_status": "1032"},
            "customer_cancelled",
        ),
        EventCase(
            "Daraja's example of a payout",
            B2C_DONE,
            {**PAYOUT, "type": "b2c_result", "references": (), "provider_references": B2C_DONE_IDS},
            {
                "verdict": Verdict.COMPLETED,
                "requested": Money(1_000, "KES"),
                "receipt": "SG632NMUAB",
                "reference": None,
                "provider_references": B2C_DONE_IDS,
            },
        ),
        EventCase(
            "a payout named by us",
            a_result("0", {"TransactionAmount": "10.00", "TransactionReceipt": "SG632NMUAB"}, queue=""),
            {**PAYOUT, **OURS},
            {"verdict": Verdict.COMPLETED, "requested": Money(1_000, "KES"), "reference": REFUND_REFERENCE},
        ),
        *(
            EventCase(
                f"payout {code!r}",
                a_result(code),
                {**PAYOUT, **OURS},
                {**NOTHING, "verdict": Verdict.DECLINED, "raw_status": str(code)},
                failure,
            )
            for code, failure in PAYOUT_CODES
        ),
        EventCase("a payout that failed, by its name alone", a_result(2040, queue=""), {**PAYOUT, **OURS},
                  {"verdict": Verdict.DECLINED}, "invalid_recipient"),
        EventCase("a payout that failed, by its queue alone", a_result(2040, originator=ORIGINATOR_ID),
                  {**PAYOUT, "references": ()}, {"verdict": Verdict.DECLINED}, "invalid_recipient"),
        EventCase("a payout used twice", a_result(15), PAYOUT, {**NOTHING, "verdict": Verdict.UNKNOWN}),
        EventCase("a payout's unlisted code", a_result(17), PAYOUT, {**NOTHING, "verdict": Verdict.UNKNOWN}),
        EventCase("a payout kept for later", a_result(100000000), PAYOUT, {"verdict": Verdict.PROCESSING}),
        EventCase("a payout that waits for more", a_result(2001, ResultType=1), NEWS),
        EventCase("a payout without its kind", a_result(2001, ResultType=None), NEWS),
        EventCase(
            "a reversal",
            a_reversal(0, REVERSED, TransactionID="SKE52PAWR9"),
            {
                **REFUND,
                "type": "reversal_result",
                "references": (),
                "provider_references": REFUND_IDS,
                "payment_references": ("SKC82PACB8",),
            },
            {"verdict": Verdict.COMPLETED, "requested": Money(20_000, "KES"), "receipt": "SKE52PAWR9"},
        ),
        EventCase("Daraja's example of a reversal that failed",
                  a_result("R000002", queue="", originator="8521-4298025-1", TransactionID="SKE0000000"), REFUND,
                  {**NOTHING, "verdict": Verdict.DECLINED, "raw_status": "R000002"}, "payment_not_found"),
        *(
            EventCase(f"reversal {code!r}", a_reversal(code), REFUND, {**NOTHING, "verdict": Verdict.DECLINED}, failure)
            for code, failure in REFUND_CODES
        ),
        EventCase("a reversal's unlisted code", a_reversal("R000009"), REFUND, {"verdict": Verdict.UNKNOWN}),
        EventCase(
            "a payout's status",
            a_status("Completed"),
            {**PAYOUT, **OURS, "type": "transaction_status"},
            {"verdict": Verdict.COMPLETED, "requested": Money(30_000, "KES"), "receipt": "SG632NMUAB"},
        ),
        *(
            EventCase(f"status {word}", a_status(word), {**PAYOUT, **OURS}, {**NOTHING, "verdict": verdict}, failure)
            for word, verdict, failure in (
                ("Cancelled", Verdict.DECLINED, "declined"),
                ("Declined", Verdict.DECLINED, "declined"),
                ("Expired", Verdict.DECLINED, "declined"),
                ("Initiated", Verdict.PROCESSING, None),
                ("Authorized", Verdict.PROCESSING, None),
                ("Pending Authorized", Verdict.PROCESSING, None),
                ("Reversed", Verdict.UNKNOWN, None),
                ("completed", Verdict.UNKNOWN, None),
            )
        ),
        EventCase("a status whose question failed", a_status("Completed", code=2001), PAYOUT, {"verdict": Verdict.UNKNOWN}),
        EventCase("a reversal's status", a_status("Completed", originator=ORIGINATOR_ID,
                  ReasonType="Transaction Reversal via API"), {**REFUND, "provider_references": REFUND_IDS},
                  {"verdict": Verdict.COMPLETED, "requested": Money(30_000, "KES")}),
        EventCase("a status of the payment itself, asked about a reversal",
                  a_status("Completed", originator=ORIGINATOR_ID, ReasonType="Pay Bill Online"), NEWS),
        EventCase("a question that failed, which is no payout that failed",
                  a_result(2001, queue="", originator="7071-4170-a0e5-8345632bad442144258"), NEWS),
        EventCase("the queue's timeout of a payout", {"OriginatorConversationID": REFUND_REFERENCE},
                  {**PAYOUT, "type": "queue_timeout", "references": (REFUND_REFERENCE,)}, {"verdict": Verdict.UNKNOWN}),
        EventCase("the queue's timeout of a reversal", {"ConversationID": CONVERSATION_ID, "ResultCode": 1},
                  REFUND, {**NOTHING, "verdict": Verdict.UNKNOWN}),
        EventCase(
            "Daraja's example of a payment without an order",
            C2B_PAID,
            {
                "type": "c2b.confirmation",
                "operation": Operation.COLLECT,
                "trust": Trust.CAPABILITY,
                "dedupe_key": "c2b:RKL51ZDR4F",
                "references": ("Sample Transaction",),
                "provider_references": ("RKL51ZDR4F",),
            },
            {
                "verdict": Verdict.COMPLETED,
                "paid": Money(500, "KES"),
                "requested": None,
                "receipt": "RKL51ZDR4F",
                "provider_references": ("RKL51ZDR4F",),
            },
        ),
        EventCase("the same at a till, without an account",
                  {**json.loads(C2B_PAID), "TransactionType": "Buy Goods", "BillRefNumber": None}, {"references": ()},
                  {"verdict": Verdict.COMPLETED}),
    )  # fmt: skip

    def test_a_webhook_becomes_an_event(self, event_case: EventCase) -> None:
        (event,) = Wire().build(Mpesa).translate(a_webhook(event_case.content))
        check_fields(event, event_case.expected, None)
        if event_case.result is None:
            assert event.result is None
        else:
            check_fields(event.result, event_case.result, event_case.failure)

    def test_no_odd_value_raises_anything_else_than_malformed_or_completes_without_an_amount(
        self, event_case: EventCase
    ) -> None:
        adapter = Wire().build(Mpesa)
        for body in variants(json.loads(event_case.content)):
            with contextlib.suppress(WebhookMalformed):
                for event in adapter.translate(a_webhook(json.dumps(body).encode())):
                    told = event.result
                    if told is not None and told.verdict is Verdict.COMPLETED:
                        assert told.requested or told.paid


@pytest.mark.parametrize(
    "body",
    [
        a_result(None),
        a_result(True),
        a_result(0),
        a_result(0, {"TransactionAmount": None, "TransactionReceipt": "SG632NMUAB"}),
        a_result(1, OriginatorConversationID=None, ConversationID=""),
        a_reversal(0, {"OriginalTransactionID": "SKC82PACB8"}),
        a_status("Completed", Amount="much"),
        a_status("Completed", OriginatorConversationID="", ConversationID=None),
        {"Result": []},
        {**json.loads(C2B_PAID), "TransAmount": "0.00"},
        {**json.loads(C2B_PAID), "TransID": ""},
        {**json.loads(C2B_PAID), "OrgAccountBalance": ""},
    ],
)
def test_a_result_without_its_essentials_is_malformed_and_never_completes(body: Any) -> None:
    with pytest.raises(WebhookMalformed):
        Wire().build(Mpesa).translate(a_webhook(json.dumps(body).encode()))


def test_one_parameter_may_come_without_its_list_and_two_references_in_one() -> None:
    body = a_result(1, originator=ORIGINATOR_ID)
    body["Result"]["ResultParameters"] = {"ResultParameter": {"Key": "BOCompletedTime", "Value": 20240706}}
    item = body["Result"]["ReferenceData"]["ReferenceItem"]
    body["Result"]["ReferenceData"]["ReferenceItem"] = [{"Key": "Occasion"}, item]
    (event,) = Wire().build(Mpesa).translate(a_webhook(json.dumps(body).encode()))
    assert (event.operation, event.result.verdict) == (Operation.PAYOUT, Verdict.DECLINED)


# Payments a customer starts alone

ASKED_ABOUT = {**json.loads(C2B_PAID), "OrgAccountBalance": ""}
CONFIRM_URL, VALIDATE_URL = "https://pay.example/lipa/" + "c3" * 32, "https://pay.example/lipa/" + "d4" * 32


def test_a_validation_is_known_by_its_blank_balance() -> None:
    adapter = Wire().build(Mpesa)
    asked = adapter.read_validation(a_webhook(json.dumps(ASKED_ABOUT).encode()))
    assert asked == ValidationRequest(Money(500, "KES"), "Sample Transaction", "RKL51ZDR4F")
    for body in (C2B_PAID, B2C_DONE, STK_PAID, b"{}"):
        assert adapter.read_validation(a_webhook(body)) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", json.dumps({**ASKED_ABOUT, "TransAmount": "-1"}).encode()])
def test_a_validation_that_cannot_be_read_is_malformed(body: bytes) -> None:
    with pytest.raises(WebhookMalformed):
        Wire().build(Mpesa).read_validation(a_webhook(body))


def test_a_validation_is_answered_in_darajas_words() -> None:
    adapter, request = Wire().build(Mpesa), a_webhook(json.dumps(ASKED_ABOUT).encode())
    assert json.loads(adapter.answer_validation(request, True)) == {"ResultCode": "0", "ResultDesc": "Accepted"}
    assert json.loads(adapter.answer_validation(request, False)) == {"ResultCode": "C2B00016", "ResultDesc": "Rejected"}


C2B_CASES = (
    Case("registered", Reply(200, {"OriginatorCoversationID": "6e86-1", "ResponseCode": "0"}), Verdict.COMPLETED),
    Case("a second time", error(500, "500.003.1001", "Urls are already registered."), Verdict.REFUSED, "already_registered"),
    Case("internal error", error(500, "500.003.1001", "Internal Server Error"), Verdict.UNKNOWN),
    Case("a wrong URL", error(400, "400.002.02", "Bad Request - Invalid ConfirmationURL"), Verdict.REFUSED,
         "configuration_error"),
    Case("no token", error(400, "400.003.01", "Invalid Access Token"), Verdict.REFUSED, "authentication_failed"),
    Case("another code", Reply(200, {"ResponseCode": "1"}), Verdict.UNKNOWN),
    Case("a page", Reply(200, b"<html>"), Verdict.UNKNOWN),
)  # fmt: skip


@pytest.mark.parametrize("case", C2B_CASES, ids=lambda case: case.name)
async def test_a_registration_is_answered_by_the_table(case: Case) -> None:
    wire = Wire(case.reply, preliminary={TOKEN_PATH: TOKEN})
    result = await wire.build(Mpesa).register_c2b_urls(CONFIRM_URL, VALIDATE_URL, CREDENTIALS)
    assert result.verdict is case.verdict
    check_fields(result, {}, case.failure)
    assert wire.requests[0].url.path == "/mpesa/c2b/v2/registerurl"
    assert json.loads(wire.requests[0].content) == {
        "ShortCode": "174379",
        "ResponseType": "Completed",
        "ConfirmationURL": CONFIRM_URL,
        "ValidationURL": VALIDATE_URL,
    }


@pytest.mark.parametrize(
    "url", ["https://pay.example/MPESA/x", "https://m-pesa.example/x", "https://pay.example/query"]
)
async def test_a_url_that_daraja_forbids_is_not_sent(url: str) -> None:
    wire = Wire(Reply(200, {"ResponseCode": "0"}), preliminary={TOKEN_PATH: TOKEN})
    for pair in ((url, VALIDATE_URL), (CONFIRM_URL, url)):
        result = await wire.build(Mpesa).register_c2b_urls(*pair, CREDENTIALS)
        assert (result.verdict, result.failure.code) == (Verdict.REFUSED, "configuration_error")
    assert wire.requests + wire.early == []
