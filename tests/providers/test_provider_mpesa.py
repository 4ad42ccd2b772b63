"""M-Pesa's adapter against replies in the shapes of Safaricom's Daraja pages (M-Pesa Express, its query, authorization)."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import httpx
import pytest

from payflow.core.money import Money
from payflow.gateway.contract import (
    ActionType,
    Customer,
    NextAction,
    OrderNotAcceptable,
    Trust,
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
