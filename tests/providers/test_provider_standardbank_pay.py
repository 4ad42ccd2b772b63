"""The adapter of the simulated Standard Bank Pay against the contract in its docstring; no public document exists."""

import hashlib
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import pytest
from pydantic import SecretStr

from payflow.core.money import Money
from payflow.gateway.contract import (
    ActionType,
    Cancels,
    Customer,
    NextAction,
    Operation,
    Refunds,
    Verdict,
    WebhookRefused,
)
from payflow.providers.standardbank_pay import StandardBankPay, StandardBankPayCredentials
from tests.providers.contract_suite import (
    BASE_URL,
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

KEY, SECRET, OTHER_SECRET = "sbp_test_suite_key", "suite_signing_secret_one", "suite_signing_secret_two"
CREDENTIALS = StandardBankPayCredentials(
    api_key=SecretStr(KEY), client_id="suite-client", signing_secret=SecretStr(SECRET)
)
OTHER = CREDENTIALS.model_copy(update={"signing_secret": SecretStr(OTHER_SECRET)})
EMPTY = CREDENTIALS.model_copy(update={"signing_secret": SecretStr("")})

LSL = Money(15_000, "LSL")
IDENTITY = "sbp_4h2k9x"
PAGE = "https://approve.bank.example/sbp_4h2k9x"
ACCEPTED = {
    "sbp_txn_ref": IDENTITY,
    "processing_state": "AWAITING_CUSTOMER",
    "approval_url": PAGE,
    "expires_in_seconds": 240,
    "meta": {"risk_score": "LOW"},
}
ENDS_AT = NOW + timedelta(seconds=240)
STATUS_PATH = f"/api/v1/payments/{IDENTITY}/status"


def hmac_sha256(key: bytes, text: bytes) -> str:
    """RFC 2104 written out, so that nothing is shared with the adapter but SHA-256."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + text).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).hexdigest()


def initiated(**changes: Any) -> Reply:
    return Reply(201, ACCEPTED | changes)


def payment(**changes: Any) -> dict[str, Any]:
    return {"sbp_txn_ref": IDENTITY, "reference": REFERENCE, "amount_cents": 15_000, "currency": "LSL"} | changes


def told(state: str = "SETTLED", **changes: Any) -> Reply:
    entry = "le_77" if state in ("SETTLED", "REVERSED") else None
    return Reply(200, payment(processing_state=state, ledger_entry_id=entry) | changes)


def refusal(status: int, error: str) -> Reply:
    return Reply(status, {"error": error})


def without(reply: Reply, name: str) -> Reply:
    return Reply(reply.status, {key: value for key, value in reply.body.items() if key != name})


def event(kind: str, **changes: Any) -> dict[str, Any]:
    about = {"event_id": "sbpevt_1", "event_type": kind, "details": {"ledger_entry_id": "le_77"}}
    return about | payment() | changes


def webhook_headers(body: bytes, secret: str, seconds: int = 0) -> dict[str, str]:
    timestamp = int(NOW.timestamp()) + seconds
    signature = hmac_sha256(secret.encode(), b"%d.%b" % (timestamp, body))
    return {"x-sbp-timestamp": str(timestamp), "x-sbp-signature": f"v1={signature}"}


UNPAID = {"paid": None, "requested": LSL, "reference": REFERENCE, "provider_references": (IDENTITY,)}
PAID = {"requested": LSL, "paid": LSL, "fee": None, "reference": REFERENCE, "receipt": "le_77", "expirable": False}
FOUND = {
    "operation": Operation.COLLECT,
    "dedupe_key": "sbpevt_1",
    "references": (REFERENCE,),
    "provider_references": (IDENTITY,),
}


class TestStandardBankPayContract(SignedWebhooks, ProviderContract):
    adapter = StandardBankPay
    credentials = CREDENTIALS
    secrets = (KEY, SECRET)
    bad_credentials: ClassVar = {"api_key": "looks-wrong"}
    other_credentials = OTHER
    empty_credentials = EMPTY
    signature_header = "x-sbp-signature"
    amount = LSL
    provider_references = (IDENTITY,)
    collect_path = "/api/v1/payments/initiate"
    accepted = initiated()
    completed = told()
    completed_money = (LSL, LSL)

    collect_cases = (
        Case(
            "accepted",
            accepted,
            Verdict.REQUIRES_ACTION,
            expected={
                "raw_status": "AWAITING_CUSTOMER",
                "provider_references": (IDENTITY,),
                "next_action": NextAction(ActionType.REDIRECT, url=PAGE, expires_at=ENDS_AT),
                "checkout_url": PAGE,
                "session_ends_at": ENDS_AT,
            },
        ),
        Case(
            "accepted without an end",
            without(accepted, "expires_in_seconds"),
            Verdict.REQUIRES_ACTION,
            expected={"session_ends_at": NOW + timedelta(seconds=300)},
        ),
        Case(
            "accepted without a page",
            without(accepted, "approval_url"),
            Verdict.UNKNOWN,
            expected={"provider_references": (IDENTITY,), "next_action": None},
        ),
        Case(
            "accepted with a page that is no address",
            initiated(approval_url="javascript:alert(1)"),
            Verdict.UNKNOWN,
        ),
        Case("accepted without an id", without(accepted, "sbp_txn_ref"), Verdict.UNKNOWN),
        Case(
            "accepted in an invented state",
            initiated(processing_state="SLEEPING"),
            Verdict.UNKNOWN,
            expected={"raw_status": "201 SLEEPING", "provider_references": (IDENTITY,)},
        ),
        Case("settled at once", initiated(processing_state="SETTLED"), Verdict.UNKNOWN),
        Case("accepted under another status", Reply(200, ACCEPTED), Verdict.UNKNOWN),
        Case("invalid request", refusal(400, "Invalid request"), Verdict.REFUSED, "invalid_request"),
        Case("invalid amount", refusal(400, "Invalid amount"), Verdict.REFUSED, "invalid_request"),
        Case("invalid currency", refusal(400, "Invalid currency."), Verdict.REFUSED, "invalid_request"),
        Case("invalid customer", refusal(400, "Invalid customer"), Verdict.REFUSED, "invalid_request"),
        Case("wrong key", refusal(401, "Invalid API key"), Verdict.REFUSED, "authentication_failed"),
        Case("wrong signature", refusal(401, "Invalid signature"), Verdict.REFUSED, "authentication_failed"),
        Case("a clock that is wrong", refusal(401, "Stale timestamp"), Verdict.REFUSED, "configuration_error"),
        Case("over the limit", refusal(422, "Amount exceeds daily limit"), Verdict.REFUSED, "limit_exceeded"),
        Case("too many", refusal(429, "Too many requests"), Verdict.REFUSED, "rate_limited"),
        Case("too many, as a page", Reply(429, b"<html>slow down</html>"), Verdict.REFUSED, "rate_limited"),
        Case("a reference twice", refusal(409, "Duplicate reference"), Verdict.UNKNOWN),
        Case("an unlisted error", refusal(400, "A sentence nobody knows"), Verdict.UNKNOWN),
        Case("a listed error under another status", refusal(409, "Invalid request"), Verdict.UNKNOWN),
        Case("a listed error beside 200", refusal(200, "Invalid request"), Verdict.UNKNOWN),
        Case("server error", refusal(500, "Internal error"), Verdict.UNKNOWN),
    )
    fetch_cases = (
        Case("settled", completed, Verdict.COMPLETED, expected=PAID | {"provider_references": (IDENTITY,)}),
        Case(
            "awaiting the customer",
            told("AWAITING_CUSTOMER"),
            Verdict.REQUIRES_ACTION,
            expected=UNPAID | {"expirable": True, "next_action": None, "receipt": None},
        ),
        Case(
            "declined",
            told("DECLINED"),
            Verdict.DECLINED,
            "declined",
            expected=UNPAID | {"expirable": True, "session_open": False},
        ),
        Case("expired", told("EXPIRED"), Verdict.EXPIRED, "expired", expected=UNPAID | {"expirable": True}),
        Case(
            "cancelled",
            told("CANCELLED"),
            Verdict.CANCELLED,
            "customer_cancelled",
            expected=UNPAID | {"expirable": True},
        ),
        Case("reversed", told("REVERSED"), Verdict.REVERSED, expected=PAID),
        Case(
            "an invented status",
            told("SLEEPING"),
            Verdict.UNKNOWN,
            expected={"raw_status": "SLEEPING", "paid": None, "expirable": False},
        ),
        Case("a status in another case", told("settled"), Verdict.UNKNOWN, expected={"paid": None}),
        Case("no status", without(completed, "processing_state"), Verdict.UNKNOWN, expected={"paid": None}),
        Case(
            "another amount",
            told(amount_cents=1),
            Verdict.COMPLETED,
            expected={"requested": Money(1, "LSL"), "paid": Money(1, "LSL")},
        ),
        Case("another currency", told(currency="ZAR"), Verdict.COMPLETED, expected={"paid": Money(15_000, "ZAR")}),
        Case("another reference", told(reference="other"), Verdict.COMPLETED, expected={"reference": "other"}),
        Case("settled without an amount", without(completed, "amount_cents"), Verdict.UNKNOWN),
        Case("settled without a currency", without(completed, "currency"), Verdict.UNKNOWN),
        Case("settled without a reference", without(completed, "reference"), Verdict.UNKNOWN),
        Case("settled without its id", without(completed, "sbp_txn_ref"), Verdict.UNKNOWN),
        Case("half a cent", told(amount_cents=0.5), Verdict.UNKNOWN),
        Case("an amount as text", told(amount_cents="15000"), Verdict.UNKNOWN),
        Case("not found", refusal(404, "Payment not found"), Verdict.NOT_FOUND, expected={"expirable": False}),
        Case("a wrong address", refusal(404, "Not Found"), Verdict.UNKNOWN),
        Case("wrong key", refusal(401, "Invalid API key"), Verdict.UNKNOWN),
        Case("too many", refusal(429, "Too many requests"), Verdict.UNKNOWN),
        Case("server error", refusal(500, "Internal error"), Verdict.UNKNOWN),
    )
    amount_cases = (
        AmountCase(LSL, 15_000),
        AmountCase(Money(1, "ZAR"), 1),
        AmountCase(Money(1_999, "ZAR"), 1_999),
    )
    refused_orders = (
        RefusedOrder("a currency it does not take", {"amount": Money(100, "USD")}, "/currency"),
        RefusedOrder("a method it does not offer", {"method": "card"}, "/method"),
        RefusedOrder("nobody to ask", {"customer": Customer(name="Palesa")}, "/customer"),
    )
    event_cases = (
        EventCase(
            "settled",
            event("PAYMENT_SETTLED"),
            FOUND | {"type": "PAYMENT_SETTLED"},
            PAID | {"verdict": Verdict.COMPLETED},
        ),
        EventCase("declined", event("PAYMENT_DECLINED"), FOUND, UNPAID | {"verdict": Verdict.DECLINED}, "declined"),
        EventCase("expired", event("PAYMENT_EXPIRED"), FOUND, UNPAID | {"verdict": Verdict.EXPIRED}, "expired"),
        EventCase(
            "cancelled",
            event("PAYMENT_CANCELLED", details=None),
            FOUND,
            UNPAID | {"verdict": Verdict.CANCELLED, "receipt": None},
            "customer_cancelled",
        ),
        EventCase("reversed", event("PAYMENT_REVERSED"), FOUND, PAID | {"verdict": Verdict.REVERSED}),
        EventCase("an event nobody knows", event("PAYMENT_DREAMT"), FOUND | {"type": "PAYMENT_DREAMT"}),
        EventCase("waiting is no event", event("PAYMENT_AWAITING_CUSTOMER"), FOUND),
        EventCase(
            "news about nothing of ours",
            {"event_id": "sbpevt_2", "event_type": "STATEMENT_READY"},
            {"references": (), "provider_references": (), "dedupe_key": "sbpevt_2"},
        ),
    )

    def sent_amount(self, wire: Wire) -> int:
        amount: int = wire.json["amount_cents"]
        return amount

    def sign(self, body: bytes, credentials: StandardBankPayCredentials) -> dict[str, str]:
        return webhook_headers(body, credentials.signing_secret.get_secret_value())

    @pytest.mark.parametrize("name", ["event_id", "event_type", "amount_cents", "currency", "reference", "sbp_txn_ref"])
    def test_a_settled_event_that_does_not_say_all_is_malformed(self, name: str) -> None:
        body = {key: value for key, value in event("PAYMENT_SETTLED").items() if key != name}
        self.test_a_webhook_that_cannot_be_read_is_malformed(EventCase("", body, {}).content)


# -- What is sent ----------------------------------------------------------------------------------------------------


async def test_the_whole_order_as_the_bank_receives_it() -> None:
    wire = Wire(initiated())
    await wire.build(StandardBankPay).collect(an_order(LSL), CREDENTIALS)
    assert wire.json == {
        "reference": REFERENCE,
        "amount_cents": 15_000,
        "currency": "LSL",
        "customer": {"msisdn": "254712345678", "email": "ada@customer.example"},
        "callback_url": CALLBACK_URL,
        "expires_in_seconds": 300,
    }
    headers = wire.requests[0].headers
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["x-sbp-client-id"] == "suite-client"
    assert headers["x-sbp-request-id"] == REFERENCE


@pytest.mark.parametrize(
    ("customer", "sent"),
    [
        (Customer(phone="+26650123456"), {"msisdn": "26650123456"}),
        (Customer(email="palesa@customer.example"), {"email": "palesa@customer.example"}),
    ],
)
async def test_what_we_do_not_know_of_the_customer_is_not_sent(customer: Customer, sent: dict[str, str]) -> None:
    wire = Wire(initiated())
    adapter, order = wire.build(StandardBankPay), an_order(LSL, customer=customer)
    adapter.check(order)
    await adapter.collect(order, CREDENTIALS)
    assert wire.json["customer"] == sent


def signed_text(request: httpx.Request) -> bytes:
    digest = hashlib.sha256(request.content).hexdigest()
    return f"{request.headers['x-sbp-timestamp']}.{request.method}.{request.url.path}.{digest}".encode()


async def test_order_and_query_are_signed_over_time_method_path_and_body() -> None:
    wire = Wire(initiated(), told())
    adapter = wire.build(StandardBankPay)
    await adapter.collect(an_order(LSL), CREDENTIALS)
    await adapter.fetch(a_query(LSL, IDENTITY), CREDENTIALS)
    assert [(request.method, request.url.path) for request in wire.requests] == [
        ("POST", "/api/v1/payments/initiate"),
        ("GET", STATUS_PATH),
    ]
    for request in wire.requests:
        assert request.headers["x-sbp-timestamp"] == "1772616615"
        assert request.headers["x-sbp-signature"] == f"v1={hmac_sha256(SECRET.encode(), signed_text(request))}"


async def test_the_signature_of_a_query_is_the_one_that_openssl_gives() -> None:
    # printf '1772616615.GET.<path>.<sha256 of nothing>' | openssl dgst -sha256 -hmac <secret>
    known = "d9bc25952ca369fdddc415a6eb2179ae370c1b15d430cea23cc987d223193ebb"
    wire = Wire(told())
    await wire.build(StandardBankPay).fetch(a_query(LSL, IDENTITY), CREDENTIALS)
    assert wire.requests[0].headers["x-sbp-signature"] == f"v1={known}"


async def test_the_path_below_the_base_url_is_what_is_signed() -> None:
    wire = Wire(told())
    adapter = wire.build(StandardBankPay)
    adapter._base_url = f"{BASE_URL}/gateway/prefix"
    await adapter.fetch(a_query(LSL, IDENTITY), CREDENTIALS)
    (request,) = wire.requests
    assert request.url.path == f"/gateway/prefix{STATUS_PATH}"
    text = signed_text(request).replace(b"/gateway/prefix", b"")
    assert request.headers["x-sbp-signature"] == f"v1={hmac_sha256(SECRET.encode(), text)}"


async def test_an_id_of_the_bank_cannot_lead_to_another_path() -> None:
    wire = Wire(told())
    await wire.build(StandardBankPay).fetch(a_query(LSL, "../x?y#z"), CREDENTIALS)
    assert wire.requests[0].url.raw_path == b"/api/v1/payments/..%2Fx%3Fy%23z/status"


async def test_without_the_banks_id_nothing_is_asked() -> None:
    wire = Wire(told())
    result = await wire.build(StandardBankPay).fetch(a_query(LSL), CREDENTIALS)
    assert (result.verdict, result.raw_status, wire.requests) == (Verdict.UNKNOWN, "no sbp_txn_ref", [])


async def test_the_clock_of_the_adapter_is_the_one_it_was_given() -> None:
    wire, later = Wire(initiated()), NOW + timedelta(hours=1)
    result = await wire.build(StandardBankPay, lambda: later).collect(an_order(LSL), CREDENTIALS)
    assert result.session_ends_at == later + timedelta(seconds=240)
    assert wire.requests[0].headers["x-sbp-timestamp"] == str(int(later.timestamp()))


# -- Webhooks --------------------------------------------------------------------------------------------------------

BODY = b'{"event_id":"sbpevt_1","event_type":"PAYMENT_SETTLED"}'


def refused(headers: dict[str, str]) -> str:
    with pytest.raises(WebhookRefused) as refusal:
        Wire().build(StandardBankPay).verify_webhook(a_webhook(BODY, headers), [CREDENTIALS])
    return refusal.value.reason


def test_the_signature_of_a_webhook_is_the_one_that_openssl_gives() -> None:
    # printf '%s' '1772616615.<body>' | openssl dgst -sha256 -hmac <secret>
    known = "d9e0e9d6fe22ac9b8c7ff801b0b514b7c7210059cd24f73ae2eb34709823d685"
    headers = {"x-sbp-timestamp": "1772616615", "x-sbp-signature": f"v1={known}"}
    Wire().build(StandardBankPay).verify_webhook(a_webhook(BODY, headers), [CREDENTIALS])
    assert headers == webhook_headers(BODY, SECRET)


def test_the_reference_implementation_is_hmac() -> None:
    # RFC 4231, test case 2.
    known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert hmac_sha256(b"Jefe", b"what do ya want for nothing?") == known


@pytest.mark.parametrize(("seconds", "fresh"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_a_webhook_is_good_for_five_minutes(seconds: int, fresh: bool) -> None:
    headers = webhook_headers(BODY, SECRET, seconds)
    if fresh:
        Wire().build(StandardBankPay).verify_webhook(a_webhook(BODY, headers), [CREDENTIALS])
    else:
        assert refused(headers) == "stale"


@pytest.mark.parametrize("missing", ["x-sbp-timestamp", "x-sbp-signature"])
def test_either_header_missing_is_said(missing: str) -> None:
    headers = webhook_headers(BODY, SECRET)
    del headers[missing]
    assert refused(headers) == "header_missing"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x-sbp-signature": "v0=" + "0" * 64}, "wrong_scheme"),
        ({"x-sbp-signature": "0" * 64}, "wrong_scheme"),
        ({"x-sbp-timestamp": "yesterday"}, "wrong_scheme"),
        ({"x-sbp-timestamp": "-1"}, "wrong_scheme"),
        ({"x-sbp-timestamp": "1772616616"}, "signature_mismatch"),
        ({"x-sbp-signature": "v1=" + "0" * 64}, "signature_mismatch"),
    ],
)
def test_another_scheme_or_another_time_proves_nothing(changes: dict[str, str], reason: str) -> None:
    assert refused(webhook_headers(BODY, SECRET) | changes) == reason


async def test_a_request_of_ours_sent_back_as_a_webhook_is_no_event() -> None:
    """Both directions share the secret: what our signature proves as a webhook must not be readable as one."""
    wire = Wire(told())
    adapter = wire.build(StandardBankPay)
    await adapter.fetch(a_query(LSL, IDENTITY), CREDENTIALS)
    (request,) = wire.requests
    headers = {name: request.headers[name] for name in ("x-sbp-timestamp", "x-sbp-signature")}
    body = signed_text(request).partition(b".")[2]
    adapter.verify_webhook(a_webhook(body, headers), [CREDENTIALS])
    TestStandardBankPayContract().test_a_webhook_that_cannot_be_read_is_malformed(body)


# -- Declaration -----------------------------------------------------------------------------------------------------


def test_it_says_that_it_is_simulated_and_has_no_live_address() -> None:
    declaration = StandardBankPay.declaration
    assert declaration.simulated
    assert declaration.live_base_url.endswith(".invalid")
    assert (declaration.currencies, declaration.countries) == ({"ZAR", "LSL"}, {"ZA", "LS"})
    assert not declaration.webhook_token


def test_it_cannot_cancel() -> None:
    assert not isinstance(Wire().build(StandardBankPay), Cancels)


def test_it_makes_no_refunds_and_says_what_to_do_instead() -> None:
    assert not isinstance(Wire().build(StandardBankPay), Refunds)
    assert "new payment out" in (StandardBankPay.declaration.refund_alternative or "")
