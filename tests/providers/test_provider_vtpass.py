"""VTPass against the answers of its documents: what is bought, what is only accepted, what went back to the wallet."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr, ValidationError

from payflow.core.money import Money
from payflow.gateway.contract import (
    AirtimeService,
    AirtimeVariation,
    LookupFailed,
    Operation,
    OrderNotAcceptable,
    ReceivesWebhooks,
    SellsAirtime,
    ServiceCategory,
    Trust,
    Verdict,
)
from payflow.providers.vtpass import REFUSALS, Vtpass, VtpassCredentials
from tests.providers.contract_suite import Case, EventCase, ProviderFoundation, Reply, Wire, a_webhook
from tests.providers.verbs_suite import REFUND_REFERENCE as REFERENCE
from tests.providers.verbs_suite import Verb, VerbsContract, a_purchase, a_purchase_query

CREDENTIALS = VtpassCredentials(
    api_key=SecretStr("suite_vtpass_api_key"),
    public_key=SecretStr("PK_suite_public"),
    secret_key=SecretStr("SK_suite_secret"),
)
SECRETS = ("suite_vtpass_api_key", "PK_suite_public", "SK_suite_secret")
# NOW of the suite is 09:30 UTC, so 10:30 in Lagos.
REQUEST_ID = f"202603041030{REFERENCE}"
TRANSACTION = "17415980564672211234567890"
PHONE = "+2348011111111"
AIRTIME, DATA = Money(2_000, "NGN"), Money(10_000, "NGN")
ORDER = a_purchase(AIRTIME, "mtn", PHONE)
BUNDLE = a_purchase(DATA, "mtn-data", PHONE, variation_code="mtn-10mb-100")


def bought(code: str = "000", status: Any = "delivered", amount: Any = 20, **changes: Any) -> dict[str, Any]:
    transaction = {
        "status": status,
        "product_name": "MTN Airtime VTU",
        "unique_element": "08011111111",
        "unit_price": amount,
        "quantity": 1,
        "service_verification": None,
        "channel": "api",
        "commission": 1,
        "total_amount": 19.3,
        "discount": None,
        "type": "Airtime Recharge",
        "email": "user@example.com",
        "phone": "08011111111",
        "convinience_fee": 0,
        "amount": amount,
        "platform": "api",
        "method": "wallet",
        "transactionId": TRANSACTION,
    }
    body = {
        "code": code,
        "content": {"transactions": transaction},
        "response_description": "TRANSACTION SUCCESSFUL",
        "requestId": REQUEST_ID,
        "amount": amount,
        "transaction_date": "2026-03-04T09:30:16.000000Z",
        "purchased_code": "",
    }
    return {**body, **changes}


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


def refused(code: str) -> dict[str, Any]:
    return {"code": code, "content": {"errors": "WORDS"}, "response_description": "WORDS"}


# The older answer to an order of airtime, flat and without a status.
FLAT = {
    "code": "000",
    "response_description": "TRANSACTION SUCCESSFUL",
    "requestId": REQUEST_ID,
    "transactionId": TRANSACTION,
    "amount": "20.00",
    "transaction_date": {"date": "2026-03-04 10:30:16.000000", "timezone_type": 3, "timezone": "Africa/Lagos"},
    "purchased_code": "",
}
COMPLETED = {
    "raw_status": "000 delivered",
    "reference": REFERENCE,
    "provider_references": (REQUEST_ID, TRANSACTION),
    "receipt": TRANSACTION,
    "requested": AIRTIME,
    "paid": None,
    "fee": None,
}
KNOWN = {"provider_references": (REQUEST_ID, TRANSACTION), "requested": None, "receipt": None}
REVERSED = {**bought("040", "reversed"), "amount": 19.3}  # the outer amount is net

# What an order and a question have in common.
STANDINGS = (
    Case("delivered", Reply(200, bought()), Verdict.COMPLETED, expected=COMPLETED),
    Case("delivered, amounts as text", Reply(200, bought(amount="20.00")), Verdict.COMPLETED, expected=COMPLETED),
    Case("delivered, capitals", Reply(200, bought(status="Delivered")), Verdict.COMPLETED),
    Case("delivered, amounts of two kinds", Reply(200, {**bought(), "amount": "20.0"}), Verdict.COMPLETED),
    Case("delivered, for another amount", Reply(200, bought(amount=25)), Verdict.COMPLETED,
         expected={"requested": Money(2_500, "NGN")}),
    Case("delivered, for two amounts", Reply(200, {**bought(), "amount": 25}), Verdict.UNKNOWN),
    Case("delivered, without an amount", Reply(200, bought(amount=None)), Verdict.UNKNOWN),
    Case("delivered, for nothing", Reply(200, bought(amount=0)), Verdict.UNKNOWN),
    Case("delivered to another request", Reply(200, bought(requestId="202603041030other")), Verdict.UNKNOWN),
    Case("delivered, but HTTP 500", Reply(500, bought()), Verdict.UNKNOWN, expected={"raw_status": "HTTP 500 000 delivered"}),
    Case("delivered, but HTTP 400", Reply(400, bought()), Verdict.UNKNOWN),
    Case("pending", Reply(200, bought(status="pending")), Verdict.PROCESSING, expected=KNOWN),
    Case("initiated", Reply(200, bought(status="initiated")), Verdict.PROCESSING, expected=KNOWN),
    Case("000 without a status", Reply(200, FLAT), Verdict.PROCESSING, expected=KNOWN),
    Case("000, failed", Reply(200, bought(status="failed")), Verdict.DECLINED, "declined", KNOWN),
    Case("000, reversed", Reply(200, bought(status="reversed")), Verdict.DECLINED, "declined", KNOWN),
    Case("000, resolved by a person", Reply(200, bought(status="resolved")), Verdict.UNKNOWN),
    Case("000, a status nobody lists", Reply(200, bought(status="successful")), Verdict.UNKNOWN),
    Case("000, no readable status", Reply(200, bought(status=1)), Verdict.UNKNOWN),
    Case("zero is not 000", Reply(200, {**bought(), "code": 0}), Verdict.UNKNOWN),
    Case("processing", Reply(200, bought("099", "pending")), Verdict.PROCESSING),
    Case("processing, no more words", Reply(200, refused("099")), Verdict.PROCESSING),
    Case("processing, yet delivered", Reply(200, bought("099")), Verdict.UNKNOWN),
    Case("failed", Reply(200, bought("016", "failed")), Verdict.DECLINED, "declined", {**KNOWN, "raw_status": "016 failed"}),
    Case("failed, no more words", Reply(200, refused("016")), Verdict.DECLINED, "declined"),
    Case("failed, yet delivered", Reply(200, bought("016")), Verdict.UNKNOWN),
    Case("failed, yet pending", Reply(200, bought("016", "pending")), Verdict.UNKNOWN),
    Case("failed, but HTTP 500", Reply(500, bought("016", "failed")), Verdict.UNKNOWN),
    Case("money back in the wallet", Reply(200, REVERSED), Verdict.DECLINED, "declined", {**KNOWN, "raw_status": "040 reversed"}),
    Case("back in the wallet, yet delivered", Reply(200, bought("040")), Verdict.UNKNOWN),
    *(
        Case(f"not listed as an end: {code}", Reply(200, refused(code)), Verdict.UNKNOWN, expected={"raw_status": code})
        for code in ("014", "019", "020", "044", "083", "089", "001", "777")
    ),
    Case("already known, and delivered", Reply(200, bought("014")), Verdict.UNKNOWN),
    Case("no code", Reply(200, without(bought(), "code")), Verdict.UNKNOWN),
    Case("too many requests", Reply(429, refused("011")), Verdict.UNKNOWN),
    Case("forbidden, in HTML", Reply(403, b"<html>Forbidden</html>"), Verdict.UNKNOWN),
)  # fmt: skip

FAILURES = {
    "010": "unknown_variation", "011": "invalid_request", "012": "unknown_service", "013": "amount_too_small",
    "017": "amount_too_large", "018": "provider_unfunded", "021": "configuration_error", "022": "configuration_error",
    "023": "configuration_error", "024": "configuration_error", "025": "invalid_request", "026": "invalid_request",
    "027": "configuration_error", "028": "configuration_error", "030": "service_unavailable",
    "031": "amount_too_small", "032": "amount_too_large", "034": "service_unavailable", "035": "service_unavailable",
    "085": "invalid_request", "087": "authentication_failed", "091": "declined",
}  # fmt: skip

ORDER_CASES = (
    *STANDINGS,
    *(Case(f"refused {code}", Reply(200, refused(code)), Verdict.REFUSED, name) for code, name in FAILURES.items()),
    Case("refused, and HTTP 401", Reply(401, refused("087")), Verdict.REFUSED, "authentication_failed"),
    Case("refused, but HTTP 500", Reply(500, refused("011")), Verdict.UNKNOWN),
    Case("refused, yet there is a purchase", Reply(200, bought("011", "pending")), Verdict.UNKNOWN),
    Case("refused, but another request", Reply(200, {**refused("011"), "requestId": "x"}), Verdict.UNKNOWN),
    Case("not known, right after the order", Reply(200, refused("015")), Verdict.UNKNOWN),
    Case("a wrapped answer", Reply(200, {"code": "001", "content": {"response_code": "016"}}), Verdict.UNKNOWN),
)


def wrapped(code: str, **more: Any) -> dict[str, Any]:
    """As an answer to a question looked in 2019."""
    content = {"requestId": REQUEST_ID, "response_code": code, "response_description": "WORDS", "amount": "20", **more}
    return {"code": "001", "response_code": "000", "response_description": "TRANSACTION QUERY", "content": content}


QUESTION_CASES = (
    *STANDINGS,
    # About the question, not about the purchase.
    *(
        Case(f"the question was refused: {code}", Reply(200, refused(code)), Verdict.UNKNOWN)
        for code in FAILURES
        if code != "091"
    ),
    Case("not charged", Reply(200, refused("091")), Verdict.DECLINED, "declined"),
    Case("not charged, and failed", Reply(200, bought("091", status="failed")), Verdict.DECLINED, "declined"),
    Case("not charged, yet delivered", Reply(200, bought("091")), Verdict.UNKNOWN),
    Case("not known", Reply(200, refused("015")), Verdict.NOT_FOUND, expected={"expirable": False}),
    Case("not known, but HTTP 502", Reply(502, refused("015")), Verdict.UNKNOWN),
    Case("wrapped, failed", Reply(200, wrapped("016")), Verdict.DECLINED, "declined"),
    Case("wrapped, back in the wallet", Reply(200, wrapped("040")), Verdict.DECLINED, "declined"),
    Case("wrapped, under way", Reply(200, wrapped("099")), Verdict.PROCESSING),
    Case("wrapped, 000 alone", Reply(200, wrapped("000")), Verdict.PROCESSING),
    Case("wrapped, delivered", Reply(200, wrapped("000", transactions={"status": "delivered", "amount": "20.00"})),
         Verdict.COMPLETED, expected={"requested": AIRTIME, "provider_references": (REQUEST_ID,)}),
    Case("wrapped, of another request", Reply(200, wrapped("016", requestId="x")), Verdict.UNKNOWN),
    Case("wrapped, nothing listed", Reply(200, wrapped("777")), Verdict.UNKNOWN),
)  # fmt: skip

SERVICES = {
    "response_description": "000",
    "content": [
        {
            "serviceID": "mtn",
            "name": "MTN Airtime VTU",
            "minimium_amount": "5",
            "maximum_amount": 500000,
            "convinience_fee": "0 %",
            "product_type": "flexible",
            "image": "https://pictures.example/mtn.jpg",
        },
        {"serviceID": "etisalat", "name": "9mobile Airtime VTU", "minimium_amount": "", "convinience_fee": "N0"},
        {"serviceID": "foreign-airtime", "name": "International Airtime", "minimium_amount": "0"},
        {"name": "without an id"},
        "no object",
    ],
}
VARIATIONS = {
    "response_description": "000",
    "content": {
        "ServiceName": "MTN Data",
        "serviceID": "mtn-data",
        "convinience_fee": "0 %",
        "variations": [
            {
                "variation_code": "mtn-10mb-100",
                "name": "N100 100MB - 24 hrs",
                "variation_amount": "100.00",
                "fixedPrice": "Yes",
            },
            {"variation_code": "free", "name": "Any amount", "variation_amount": "50.00", "fixedPrice": "No"},
            {"variation_code": "gratis", "name": "Nothing", "variation_amount": "0.00", "fixedPrice": "Yes"},
        ],
    },
}
MTN = AirtimeService(
    "mtn", "MTN Airtime VTU", ServiceCategory.AIRTIME, "NGN", Money(500, "NGN"), Money(50_000_000, "NGN")
)
ETISALAT = AirtimeService("etisalat", "9mobile Airtime VTU", ServiceCategory.AIRTIME, "NGN")
SMALL_BUNDLE = AirtimeVariation("mtn-10mb-100", "N100 100MB - 24 hrs", DATA)


class TestVtpassVerbs(VerbsContract):
    adapter = Vtpass
    credentials = CREDENTIALS
    secrets = SECRETS
    verbs = (
        Verb("purchase", (ORDER,), Reply(200, bought()), "/pay", cases=ORDER_CASES, money=AIRTIME, label="airtime"),
        Verb(
            "purchase",
            (BUNDLE,),
            Reply(200, bought(amount=100)),
            "/pay",
            cases=(Case("delivered", Reply(200, bought(amount=100)), Verdict.COMPLETED, expected={"requested": DATA}),),
            money=DATA,
            label="data",
        ),
        Verb(
            "fetch_purchase",
            (a_purchase_query(AIRTIME, REQUEST_ID),),
            Reply(200, bought()),
            "/requery",
            cases=QUESTION_CASES,
            asks=True,
            money=AIRTIME,
        ),
        Verb("services", (ServiceCategory.AIRTIME,), Reply(200, SERVICES), "/services", "GET", lookup=True),
        Verb("variations", ("mtn-data",), Reply(200, VARIATIONS), "/service-variations", "GET", lookup=True),
    )


NEWS = bought()
UPDATE = {"type": "transaction-update", "data": NEWS}


class TestVtpassFoundation(ProviderFoundation):
    adapter = Vtpass
    capabilities = (SellsAirtime, ReceivesWebhooks)
    credentials = CREDENTIALS
    secrets = SECRETS
    bad_credentials: ClassVar = {"secret_key": "looks-wrong"}
    event_cases = (
        EventCase(
            "delivered",
            UPDATE,
            {
                "type": "transaction-update",
                "trust": Trust.CONFIRM,
                "operation": Operation.PURCHASE,
                "dedupe_key": None,
                "references": (REFERENCE,),
                "provider_references": (REQUEST_ID, TRANSACTION),
            },
            {"verdict": Verdict.COMPLETED, "requested": AIRTIME, "reference": REFERENCE},
        ),
        EventCase(
            "reversed",
            {"type": "transaction-update", "data": REVERSED},
            {"references": (REFERENCE,), "provider_references": (REQUEST_ID, TRANSACTION), "trust": Trust.CONFIRM},
            {"verdict": Verdict.DECLINED, "raw_status": "040 reversed", "requested": None},
            "declined",
        ),
        EventCase(
            "delivered for two amounts",
            {"type": "transaction-update", "data": {**NEWS, "amount": 25}},
            {"references": (REFERENCE,), "provider_references": (REQUEST_ID,)},
            {"verdict": Verdict.UNKNOWN},
        ),
        EventCase(
            "of a purchase that we did not make",
            {"type": "transaction-update", "data": {**NEWS, "requestId": "made-by-hand"}},
            {"references": (), "provider_references": ("made-by-hand", TRANSACTION)},
            {"verdict": Verdict.COMPLETED, "reference": None},
        ),
        EventCase(
            "variations",
            {
                "type": "variations-update",
                "serviceID": "mtn-data",
                "summary": {"added_variation_codes": 1},
                "data": VARIATIONS["content"],
            },
            {"type": "variations-update", "trust": Trust.CONFIRM, "references": (), "provider_references": ()},
        ),
    )


def test_every_refusal_of_the_table_is_tried() -> None:
    assert set(FAILURES) == set(REFUSALS)


# The id of a request


@pytest.mark.parametrize(
    ("created_at", "date"),
    [
        (datetime(2026, 3, 4, 9, 30, 59, 999_999, tzinfo=UTC), "202603041030"),
        (datetime(2026, 12, 31, 22, 59, tzinfo=UTC), "202612312359"),
        # After eleven at night in UTC it is tomorrow in Lagos.
        (datetime(2026, 12, 31, 23, 0, tzinfo=UTC), "202701010000"),
        (datetime(2026, 3, 4, 1, 30, tzinfo=timezone(timedelta(hours=-5))), "202603040730"),
    ],
)
async def test_an_order_and_its_question_use_one_id_made_of_the_time_in_lagos_and_our_reference(
    created_at: datetime, date: str
) -> None:
    paying, asking = Wire(Reply(200, FLAT)), Wire(Reply(200, FLAT))
    await paying.build(Vtpass).purchase(dataclasses.replace(ORDER, created_at=created_at), CREDENTIALS)
    # The order's answer was lost: nothing of the provider's is known.
    query = dataclasses.replace(a_purchase_query(AIRTIME), created_at=created_at)
    await asking.build(Vtpass).fetch_purchase(query, CREDENTIALS)
    assert paying.json["request_id"] == date + REFERENCE
    assert asking.json == {"request_id": date + REFERENCE}


async def test_two_orders_of_one_minute_have_ids_of_their_own() -> None:
    wire = Wire(Reply(200, FLAT))
    for reference in ("att1", "att2"):
        await wire.build(Vtpass).purchase(dataclasses.replace(ORDER, reference=reference), CREDENTIALS)
    sent = [json.loads(request.content)["request_id"] for request in wire.requests]
    assert sent == ["202603041030att1", "202603041030att2"]


# What is sent


async def test_airtime_is_ordered_in_whole_naira_for_a_local_number() -> None:
    wire = Wire(Reply(200, bought()))
    await wire.build(Vtpass).purchase(ORDER, CREDENTIALS)
    assert wire.json == {"request_id": REQUEST_ID, "serviceID": "mtn", "amount": 20, "phone": "08011111111"}


async def test_a_bundle_names_its_variation_and_the_number_to_credit() -> None:
    wire = Wire(Reply(200, bought(amount=100)))
    await wire.build(Vtpass).purchase(BUNDLE, CREDENTIALS)
    assert wire.json == {
        "request_id": REQUEST_ID,
        "serviceID": "mtn-data",
        "amount": 100,
        "phone": "08011111111",
        "billersCode": "08011111111",
        "variation_code": "mtn-10mb-100",
    }


async def test_the_kobo_of_a_bundle_are_sent_exactly() -> None:
    wire = Wire(Reply(200, bought(amount="99.5")))
    order = dataclasses.replace(BUNDLE, amount=Money(9_950, "NGN"))
    result = await wire.build(Vtpass).purchase(order, CREDENTIALS)
    assert (wire.json["amount"], result.requested) == ("99.50", Money(9_950, "NGN"))


async def test_get_carries_the_public_key_and_post_the_secret_one() -> None:
    got, posted = Wire(Reply(200, SERVICES)), Wire(Reply(200, bought()))
    await got.build(Vtpass).services(ServiceCategory.AIRTIME, CREDENTIALS)
    await posted.build(Vtpass).purchase(ORDER, CREDENTIALS)
    await posted.build(Vtpass).fetch_purchase(a_purchase_query(AIRTIME), CREDENTIALS)
    (get,) = got.requests
    assert (get.headers["api-key"], get.headers["public-key"]) == ("suite_vtpass_api_key", "PK_suite_public")
    assert "secret-key" not in get.headers
    for post in posted.requests:
        assert (post.headers["api-key"], post.headers["secret-key"]) == ("suite_vtpass_api_key", "SK_suite_secret")
        assert "public-key" not in post.headers


# Orders that cannot be taken


@pytest.mark.parametrize(
    ("order", "changes", "pointer"),
    [
        (ORDER, {"amount": Money(2_000, "GHS")}, "/currency"),
        (ORDER, {"amount": Money(0, "NGN")}, "/amount"),
        (ORDER, {"amount": Money(2_050, "NGN")}, "/amount"),
        (ORDER, {"phone": "08011111111"}, "/phone"),
        (ORDER, {"phone": "+254712345678"}, "/phone"),
        (ORDER, {"phone": "+23480111111111"}, "/phone"),
        (ORDER, {"phone": "+234801111111"}, "/phone"),
        (ORDER, {"service_id": "foreign-airtime"}, "/service_id"),
        (ORDER, {"service_id": "smile-direct"}, "/service_id"),
        (ORDER, {"service_id": ""}, "/service_id"),
        (ORDER, {"service_id": "mtn&serviceID=x"}, "/service_id"),
        (ORDER, {"service_id": "mtn-data"}, "/variation_code"),
        (BUNDLE, {"variation_code": ""}, "/variation_code"),
        (BUNDLE, {"variation_code": "a b"}, "/variation_code"),
    ],
)
def test_an_order_that_cannot_be_taken_points_at_the_reason(order: Any, changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(OrderNotAcceptable) as refusal:
        Wire(Reply(200)).build(Vtpass).check_purchase(dataclasses.replace(order, **changes))
    assert refusal.value.pointer == pointer


@pytest.mark.parametrize("order", [ORDER, BUNDLE, dataclasses.replace(BUNDLE, amount=Money(9_950, "NGN"))])
def test_the_orders_of_this_suite_are_acceptable(order: Any) -> None:
    Wire(Reply(200)).build(Vtpass).check_purchase(order)


# Lookups


async def test_services_are_read_with_their_limits_and_what_needs_more_than_a_number_is_left_out() -> None:
    wire = Wire(Reply(200, SERVICES))
    assert await wire.build(Vtpass).services(ServiceCategory.AIRTIME, CREDENTIALS) == [MTN, ETISALAT]
    assert str(wire.requests[0].url) == "http://provider.test/services?identifier=airtime"
    data = await Wire(Reply(200, SERVICES)).build(Vtpass).services(ServiceCategory.DATA, CREDENTIALS)
    assert {service.category for service in data} == {ServiceCategory.DATA}


@pytest.mark.parametrize("spelling", [("variations",), ("varations",), ("variations", "varations")])
async def test_variations_are_read_in_both_spellings_and_only_those_of_a_fixed_price(spelling: tuple[str, ...]) -> None:
    content: Any = VARIATIONS["content"]
    body = {**VARIATIONS, "content": {"serviceID": "mtn-data", **dict.fromkeys(spelling, content["variations"])}}
    wire = Wire(Reply(200, body))
    assert await wire.build(Vtpass).variations("mtn-data", CREDENTIALS) == [SMALL_BUNDLE]
    assert str(wire.requests[0].url) == "http://provider.test/service-variations?serviceID=mtn-data"


async def test_a_service_cannot_change_the_question() -> None:
    wire = Wire(Reply(200, VARIATIONS))
    await wire.build(Vtpass).variations("x&a=/..", CREDENTIALS)
    assert str(wire.requests[0].url) == "http://provider.test/service-variations?serviceID=x%26a%3D%2F.."


@pytest.mark.parametrize(
    ("verb", "argument", "reply", "failure"),
    [
        ("variations", "nothing", Reply(200, refused("012")), "unknown_service"),
        ("variations", "nothing", Reply(200, {"response_description": "011", "content": []}), "unknown_service"),
        ("variations", "mtn-data", Reply(200, refused("087")), "authentication_failed"),
        ("services", ServiceCategory.DATA, Reply(401, refused("087")), "authentication_failed"),
        ("services", ServiceCategory.DATA, Reply(200, refused("027")), "configuration_error"),
        ("services", ServiceCategory.DATA, Reply(200, refused("083")), None),
        ("services", ServiceCategory.DATA, Reply(500, refused("011")), None),
        ("services", ServiceCategory.DATA, Reply(500, SERVICES), None),
        ("services", ServiceCategory.DATA, Reply(200, {"response_description": "000", "content": {}}), None),
        ("variations", "mtn-data", Reply(200, {"response_description": "000", "content": []}), None),
        ("variations", "mtn-data", Reply(200, {"response_description": "000", "content": {}}), None),
    ],
)
async def test_a_lookup_that_fails_says_why_where_the_provider_did(
    verb: str, argument: Any, reply: Reply, failure: str | None
) -> None:
    with pytest.raises(LookupFailed) as failed:
        await getattr(Wire(reply).build(Vtpass), verb)(argument, CREDENTIALS)
    assert (failed.value.failure.code if failed.value.failure else None) == failure


# Webhooks


def test_a_webhook_is_let_in_as_a_hint_whoever_sent_it() -> None:
    trust = Wire(Reply(200)).build(Vtpass).verify_webhook(a_webhook(b"{}"), [CREDENTIALS])
    assert trust is Trust.CONFIRM


def test_the_answer_to_a_webhook_is_what_vtpass_wants_to_read() -> None:
    assert Vtpass.declaration.webhook_answer == b'{"response":"success"}'


# Credentials


@pytest.mark.parametrize(
    "changes",
    [
        {"public_key": "SK_suite_secret"},
        {"secret_key": "PK_suite_public"},
        {"api_key": "SK_suite_secret"},
        {"api_key": ""},
        {"secret_key": "SK_"},
        {"public_key": "PK_with a blank"},
    ],
)
def test_keys_in_each_others_place_are_refused(changes: dict[str, str]) -> None:
    good = {"api_key": "suite_vtpass_api_key", "public_key": "PK_suite_public", "secret_key": "SK_suite_secret"}
    with pytest.raises(ValidationError):
        VtpassCredentials.model_validate({**good, **changes})
