"""Moniepoint's adapter against replies in the shapes of developers.monnify.com and of Monnify's own client libraries."""

import asyncio
import dataclasses
import hmac
import json
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from payflow.core.money import Money
from payflow.gateway.contract import (
    AccountHolder,
    ActionType,
    Bank,
    CardDetails,
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
    Query,
    Refunds,
    Result,
    Submission,
    TakesOtp,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRefused,
)
from payflow.providers.moniepoint import Moniepoint, MoniepointCredentials
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
    build,
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

PLAIN: dict[str, Any] = {
    "api_key": "MK_TEST_SUITEONE",
    "secret_key": "suite-monnify-secret-one",
    "contract_code": "7059707855",
    "source_account_number": "9988776655",
}
CREDENTIALS = MoniepointCredentials.model_validate(PLAIN)
OTHER = MoniepointCredentials.model_validate({**PLAIN, "api_key": "MK_TEST_SUITETWO", "secret_key": "suite-secret-two"})
EMPTY = MoniepointCredentials.model_construct(
    api_key=CREDENTIALS.api_key, secret_key=type(CREDENTIALS.secret_key)(""), contract_code="7059707855"
)
LENIENT = MoniepointCredentials.model_validate({**PLAIN, "allow_unsigned_webhooks": True})

NGN = Money(10_000, "NGN")
LOGIN = "/api/v1/auth/login"
INITIATE = "/api/v1/merchant/transactions/init-transaction"
OPEN_ACCOUNT = "/api/v1/merchant/bank-transfer/init-payment"
MNFY = "MNFY|17|20260304093015|000311"
PAGE = "https://sandbox.sdk.monnify.com/checkout/MNFY%7C17%7C20260304093015%7C000311"
ENDS_AT = NOW + timedelta(minutes=40)


def granted(body: Any) -> Reply:
    return Reply(
        200, {"requestSuccessful": True, "responseMessage": "success", "responseCode": "0", "responseBody": body}
    )


def refusal(status: int, message: str, code: Any = "99") -> Reply:
    return Reply(status, {"requestSuccessful": False, "responseMessage": message, "responseCode": code})


def written(reply: Reply, old: str, new: str) -> Reply:
    """The reply with its text changed, so that a number has exactly these digits."""
    assert old.encode() in reply.content
    return Reply(reply.status, reply.content.replace(old.encode(), new.encode()))


TOKEN = granted({"accessToken": "eyJsuite.token.one", "expiresIn": 3600})
ACCEPTED = {
    "transactionReference": MNFY,
    "paymentReference": REFERENCE,
    "merchantName": "Test01",
    "apiKey": "MK_TEST_SUITEONE",
    "redirectUrl": "https://shop.example/thanks",
    "enabledPaymentMethod": ["ACCOUNT_TRANSFER", "CARD"],
    "checkoutUrl": f"https://sandbox.sdk.monnify.com/checkout/{MNFY}",
}
ACCOUNT = {
    "accountNumber": "2209149705",
    "accountName": "Test01-Test payment",
    "bankName": "Sterling bank",
    "bankCode": "232",
    "accountDurationSeconds": 2400,
    "ussdPayment": None,
    "requestTime": "2026-03-04T10:30:15.596774984",
    "expiresOn": "2026-03-04T11:10:15",
    "transactionReference": MNFY,
    "paymentReference": REFERENCE,
    "amount": 100.00,
    "fee": 0.00,
    "totalPayable": 100.00,
    "collectionChannel": "API_NOTIFICATION",
}


def a_transaction(**changes: Any) -> dict[str, Any]:
    return {
        "transactionReference": MNFY,
        "paymentReference": REFERENCE,
        "amountPaid": "100.00",
        "totalPayable": "100.00",
        "settlementAmount": "98.50",
        "paidOn": "2026-03-04T09:32:49.289+00:00",
        "paymentStatus": "PAID",
        "paymentDescription": "Test payment",
        "currency": "NGN",
        "paymentMethod": "ACCOUNT_TRANSFER",
        "product": {"type": "API_NOTIFICATION", "reference": REFERENCE},
        "cardDetails": None,
        "customer": {"email": "ada@example.com", "name": "Ada Lovelace"},
    } | changes


def queried(**changes: Any) -> Reply:
    return granted(a_transaction(**changes))


def unpaid(status: str, **changes: Any) -> Reply:
    nothing = {"amountPaid": "0.00", "totalPayable": "0.00", "settlementAmount": None, "paidOn": None}
    return queried(paymentStatus=status, **{**nothing, **changes})


def event(kind: str, **data: Any) -> dict[str, Any]:
    return {"eventType": kind, "eventData": data}


# The samples that Monnify publishes for its events (developers.monnify.com/docs/webhooks/event-types).
RESERVED = event(
    "SUCCESSFUL_TRANSACTION",
    product={"reference": "1636106097661", "type": "RESERVED_ACCOUNT"},
    transactionReference="MNFY|04|20211117112842|000170",
    paymentReference="MNFY|04|20211117112842|000170",
    paidOn="2021-11-17 11:28:42.615",
    paymentDescription="Adm",
    metaData={},
    paymentSourceInformation=[
        {
            "bankCode": "",
            "amountPaid": 3000,
            "accountName": "Monnify Limited",
            "sessionId": "e6cV1smlpkwG38Cg6d5F9B2PRnIq5FqA",
            "accountNumber": "0065432190",
        }
    ],
    destinationAccountInformation={"bankCode": "232", "bankName": "Sterling bank", "accountNumber": "6000140770"},
    amountPaid=3000,
    totalPayable=3000,
    cardDetails={},
    paymentMethod="ACCOUNT_TRANSFER",
    currency="NGN",
    settlementAmount="2990.00",
    paymentStatus="PAID",
    customer={"name": "John Doe", "email": "test@tester.com"},
)
REJECTED = event(
    "REJECTED_PAYMENT",
    product={"reference": "MNFY|PAYREF|GENERATED|1687798434397393735", "type": "WEB_SDK"},
    amount=100,
    paymentSourceInformation={
        "bankCode": "50515",
        "amountPaid": 40,
        "accountName": "MARVELOUS BENJI",
        "sessionId": "090405230626180003067844645188",
        "accountNumber": "5141901487",
    },
    transactionReference="MNFY|85|20230626175354|041855",
    created_on="2023-06-26 17:53:55.0",
    paymentReference="MNFY|PAYREF|GENERATED|1687798434397393735",
    paymentRejectionInformation={
        "bankCode": "035",
        "destinationAccountNumber": "7023576853",
        "bankName": "Wema bank",
        "rejectionReason": "UNDER_PAYMENT",
        "expectedAmount": 100,
    },
    paymentDescription="lets pay",
    customer={"name": "Marvelous Benji", "email": "benji71@gmail.com"},
)
DISBURSED = event(
    "SUCCESSFUL_DISBURSEMENT",
    amount=10,
    transactionReference="MFDS|20210317032332|002431",
    fee=8,
    transactionDescription="Approved or completed successfully",
    destinationAccountNumber="0068687503",
    sessionId="090405210317032336726272971260",
    createdOn="17/03/2021 3:23:32 AM",
    reference="ref1615947809303",
    destinationBankCode="232",
    currency="NGN",
    status="SUCCESS",
)
REVERSED = event(
    "REVERSED_DISBURSEMENT",
    transactionReference="MFDS33920240513211815009133P47MKU",
    reference="662d2dcf22132ea227db164e-1715631494637",
    narration="Fund Transfer",
    currency="NGN",
    amount=145708,
    status="REVERSED",
    fee=8,
)
REFUNDED = event(
    "SUCCESSFUL_REFUND",
    merchantReason="defective goods",
    transactionReference="MNFY|20190816083102|000021",
    completedOn="14/04/2021 4:24:05 PM",
    refundStatus="COMPLETED",
    customerNote="defects",
    createdOn="14/04/2021 4:23:37 PM",
    refundReference="ref001",
    refundAmount=10.00,
)
SETTLED = event(
    "SETTLEMENT",
    amount="1199.00",
    settlementTime="11/11/2021 02:29:00 PM",
    settlementReference="LB8HG1PNZT4ATJGZXQBY",
    destinationAccountNumber="6000000249",
    transactionsCount=1,
    transactions=[
        {
            "transactionReference": "MNFY|26|20211111142601|000001",
            "paymentReference": "MNFY|26|20211111142601|000001",
            "amountPaid": "1234.00",
            "paymentStatus": "PAID",
        }
    ],
)
LOW_BALANCE = event(
    "LOW_BALANCE_ALERT",
    transactionTime="2025-09-01T23:13:19Z",
    merchantCode="99ZYAFM0F3CY",
    walletAccountNumber="8023759978",
    walletBalance=0,
    lowBalanceThreshold=2000,
    currency="NGN",
)
ACTIVITY = event("ACCOUNT_ACTIVITY", amount=50, currency="566", reference="activity-1") | {
    "metaData": {"senderAccount": "1"}
}


def failed_disbursement(text: str) -> dict[str, Any]:
    return event(
        "FAILED_DISBURSEMENT",
        **{**DISBURSED["eventData"], "status": "FAILED", "transactionDescription": text, "sessionId": ""},
    )


SUBSCRIBED = "Merchant is not permitted to perform this operation"
EXPIRED_TOKEN = Reply(401, {"error": "invalid_token", "error_description": "Access token expired: eyJsuite.token.one"})
MISSING = "There's no transaction matching supplied reference. Please check and try again."
PAID = {
    "verdict": Verdict.COMPLETED,
    "raw_status": "PAID",
    "reference": REFERENCE,
    "provider_references": (MNFY,),
    "requested": None,
    "paid": NGN,
    "fee": Money(150, "NGN"),
    "expirable": False,
}


class TestMoniepointContract(SignedWebhooks, ProviderContract):
    adapter = Moniepoint
    credentials = CREDENTIALS
    secrets = ("suite-monnify-secret-one", "MK_TEST_SUITEONE")
    bad_credentials: ClassVar = {"api_key": "looks-wrong"}
    other_credentials = OTHER
    empty_credentials = EMPTY
    signature_header = "monnify-signature"
    amount = NGN
    provider_references = (MNFY,)
    preliminary: ClassVar = {LOGIN: TOKEN}
    collect_path = INITIATE
    accepted = granted(ACCEPTED)
    completed = queried()
    completed_money = (None, NGN)

    collect_cases = (
        Case(
            "accepted",
            accepted,
            Verdict.REQUIRES_ACTION,
            expected={
                "reference": REFERENCE,
                "provider_references": (MNFY,),
                "next_action": NextAction(ActionType.REDIRECT, url=PAGE, expires_at=ENDS_AT),
                "checkout_url": PAGE,
                "session_ends_at": ENDS_AT,
            },
        ),
        Case("accepted, its code a number", Reply(200, {**accepted.body, "responseCode": 0}), Verdict.REQUIRES_ACTION),
        Case(
            "accepted without a page",
            granted({**ACCEPTED, "checkoutUrl": None}),
            Verdict.UNKNOWN,
            expected={"provider_references": (MNFY,)},
        ),
        Case(
            "accepted with a page that is no address",
            granted({**ACCEPTED, "checkoutUrl": "javascript:alert(1)"}),
            Verdict.UNKNOWN,
        ),
        Case(
            "200 that says no beside a page", Reply(200, {**accepted.body, "requestSuccessful": False}), Verdict.UNKNOWN
        ),
        Case(
            "200 with another code beside a page", Reply(200, {**accepted.body, "responseCode": "99"}), Verdict.UNKNOWN
        ),
        *(
            Case(f"duplicate reference {status}", refusal(status, "Duplicate payment reference"), Verdict.UNKNOWN)
            for status in (200, 400, 422)
        ),
        *(
            Case(
                f"another contract {status}",
                refusal(status, "Could not find specified contract"),
                Verdict.REFUSED,
                "configuration_error",
            )
            for status in (200, 400, 404, 422)
        ),
        Case(
            "another currency",
            refusal(400, "Unknown currency code supplied"),
            Verdict.REFUSED,
            "unsupported_currency",
            expected={"raw_status": "400 99 Unknown currency code supplied"},
        ),
        Case(
            "malformed",
            refusal(400, "The request could not be completed due to malformed syntax."),
            Verdict.REFUSED,
            "invalid_request",
        ),
        Case("not enabled 401", refusal(401, SUBSCRIBED), Verdict.REFUSED, "configuration_error"),
        Case("not enabled 403", refusal(403, SUBSCRIBED), Verdict.REFUSED, "configuration_error"),
        Case(
            "no header, its code a number",
            refusal(401, "Unauthorized, supply authorization header", 99),
            Verdict.REFUSED,
            "authentication_failed",
        ),
        Case("bad credentials", refusal(401, "bad credentials"), Verdict.REFUSED, "authentication_failed"),
        Case("invalid key", refusal(401, "invalid key"), Verdict.REFUSED, "authentication_failed"),
        Case("an ended token, twice", EXPIRED_TOKEN, Verdict.REFUSED, "authentication_failed"),
        Case(
            "no token at all, twice",
            refusal(401, "Cannot convert access token to json"),
            Verdict.REFUSED,
            "authentication_failed",
        ),
        Case("too many", refusal(429, "Too many requests"), Verdict.REFUSED, "rate_limited"),
        Case("too many, as a page", Reply(429, b"<html>slow down</html>"), Verdict.REFUSED, "rate_limited"),
        Case(
            "forbidden, as Spring says it",
            Reply(403, {"timestamp": "2026-03-04", "status": 403, "error": "Forbidden", "path": INITIATE}),
            Verdict.UNKNOWN,
        ),
        Case("an unlisted message", refusal(400, "A sentence nobody knows."), Verdict.UNKNOWN),
        Case("a listed message under an unlisted status", refusal(409, SUBSCRIBED), Verdict.UNKNOWN),
        Case("a listed message of a server error", refusal(500, SUBSCRIBED), Verdict.UNKNOWN),
        Case(
            "a listed message that claims success",
            Reply(400, {"requestSuccessful": True, "responseMessage": SUBSCRIBED}),
            Verdict.UNKNOWN,
        ),
        Case("server error", refusal(500, "An error occurred"), Verdict.UNKNOWN),
    )
    fetch_cases = (
        Case("PAID", completed, Verdict.COMPLETED, expected={k: v for k, v in PAID.items() if k != "verdict"}),
        Case(
            "PAID, in numbers",
            written(queried(amountPaid=0, settlementAmount=None), '"amountPaid": 0', '"amountPaid": 100.00'),
            Verdict.COMPLETED,
            expected={"paid": NGN, "fee": None},
        ),
        Case(
            "PAID, with the fee on top",
            queried(amountPaid="101.50", totalPayable="101.50", settlementAmount="100.00"),
            Verdict.COMPLETED,
            expected={"paid": Money(10_150, "NGN"), "fee": Money(150, "NGN")},
        ),
        Case("PAID, nothing kept", queried(settlementAmount="100.00"), Verdict.COMPLETED, expected={"fee": None}),
        Case("PAID, odd settlement", queried(settlementAmount="soon"), Verdict.COMPLETED, expected={"fee": None}),
        Case("PAID, without an amount", queried(amountPaid=None), Verdict.UNKNOWN),
        Case("PAID, nothing", queried(amountPaid="0.00"), Verdict.UNKNOWN),
        Case("PAID, a third decimal", queried(amountPaid="100.001"), Verdict.UNKNOWN),
        Case("PAID, without a currency", queried(currency=None), Verdict.UNKNOWN),
        Case(
            "PAID, another currency",
            queried(currency="USD"),
            Verdict.COMPLETED,
            expected={"paid": Money(10_000, "USD")},
        ),
        Case("PAID, not ours", queried(paymentReference="else"), Verdict.COMPLETED, expected={"reference": "else"}),
        *(
            Case(
                word,
                queried(paymentStatus=word, amountPaid="40.00", settlementAmount="38.50"),
                Verdict.COMPLETED,
                expected={"raw_status": word, "paid": Money(4_000, "NGN"), "fee": None, "requested": None},
            )
            for word in ("PARTIALLY_PAID", "UNDERPAID")
        ),
        Case(
            "OVERPAID, by what would be the fee",
            queried(paymentStatus="OVERPAID", amountPaid=150, settlementAmount="100.00"),
            Verdict.COMPLETED,
            expected={"raw_status": "OVERPAID", "paid": Money(15_000, "NGN"), "fee": None},
        ),
        Case(
            "PENDING",
            unpaid("PENDING"),
            Verdict.REQUIRES_ACTION,
            expected={"expirable": True, "paid": None, "next_action": None},
        ),
        Case(
            "PENDING, in numbers", unpaid("PENDING", amountPaid=0.0), Verdict.REQUIRES_ACTION, None, {"expirable": True}
        ),
        Case(
            "PENDING, with money",
            unpaid("PENDING", amountPaid="1.00"),
            Verdict.REQUIRES_ACTION,
            None,
            {"expirable": False},
        ),
        Case(
            "FAILED",
            unpaid("FAILED"),
            Verdict.DECLINED,
            "declined",
            expected={"expirable": True, "session_open": False, "paid": None},
        ),
        Case("ABANDONED", unpaid("ABANDONED"), Verdict.EXPIRED, "expired", expected={"expirable": True}),
        Case("CANCELLED", unpaid("CANCELLED"), Verdict.CANCELLED, "customer_cancelled", expected={"expirable": True}),
        Case("EXPIRED", unpaid("EXPIRED"), Verdict.EXPIRED, "expired", expected={"expirable": True}),
        *(
            Case(
                f"{word}, with money", unpaid(word, amountPaid="40.00"), Verdict.UNKNOWN, expected={"expirable": False}
            )
            for word in ("FAILED", "ABANDONED", "CANCELLED", "EXPIRED")
        ),
        Case("REVERSED", queried(paymentStatus="REVERSED"), Verdict.REVERSED, expected={"expirable": False}),
        Case(
            "REFUNDED, which refunds tell themselves",
            queried(paymentStatus="REFUNDED"),
            Verdict.UNKNOWN,
            expected={"raw_status": "REFUNDED", "expirable": False, "paid": None},
        ),
        *(
            Case(
                f"a status nobody knows: {word}", queried(paymentStatus=word), Verdict.UNKNOWN, expected={"paid": None}
            )
            for word in ("SLEEPING", "SUCCESSFUL", "SUCCESS", "COMPLETED", "paid", None, True)
        ),
        *(
            Case(f"not found {status}", refusal(status, MISSING), Verdict.NOT_FOUND, expected={"expirable": True})
            for status in (400, 404, 422)
        ),
        Case(
            "not found, in other words",
            refusal(404, f"Could not find transaction with payment reference {REFERENCE} for merchant"),
            Verdict.NOT_FOUND,
            expected={"raw_status": "404 99 Could not find transaction with payment reference *** for merchant"},
        ),
        Case("not found, of a server error", refusal(500, MISSING), Verdict.UNKNOWN),
        Case("not found, as a page", Reply(404, {"status": 404, "error": "Not Found"}), Verdict.UNKNOWN),
        Case("not permitted", refusal(403, SUBSCRIBED), Verdict.UNKNOWN),
        Case("an ended token, twice", EXPIRED_TOKEN, Verdict.UNKNOWN),
        Case("too many", refusal(429, "Too many requests"), Verdict.UNKNOWN),
        Case("server error", refusal(500, "An error occurred"), Verdict.UNKNOWN),
    )
    amount_cases = (
        AmountCase(Money(500_000, "NGN"), 500_000),
        AmountCase(Money(1, "NGN"), 1),
        AmountCase(Money(10, "NGN"), 10),
        AmountCase(Money(123_456_789_012_345, "NGN"), 123_456_789_012_345),
    )
    refused_orders = (
        RefusedOrder("a currency it does not take", {"amount": Money(100, "USD")}, "/currency"),
        RefusedOrder("a method it does not offer", {"method": "cheque"}, "/method"),
        RefusedOrder("no email address", {"customer": Customer(phone="+2348012345678")}, "/customer/email"),
    )
    event_cases = (
        EventCase(
            "a payment of ours",
            event("SUCCESSFUL_TRANSACTION", **a_transaction(amountPaid=100)),
            {
                "type": "SUCCESSFUL_TRANSACTION",
                "operation": Operation.COLLECT,
                "dedupe_key": f"SUCCESSFUL_TRANSACTION:{MNFY}:PAID",
                "references": (REFERENCE,),
                "provider_references": (MNFY,),
            },
            PAID,
        ),
        EventCase(
            "a payment into a reserved account, as published",
            RESERVED,
            {"references": ("MNFY|04|20211117112842|000170",)},
            {"verdict": Verdict.COMPLETED, "paid": Money(300_000, "NGN"), "fee": Money(1_000, "NGN")},
        ),
        EventCase(
            "cash at an agent",
            event(
                "SUCCESSFUL_TRANSACTION",
                **a_transaction(
                    product={"type": "OFFLINE_PAYMENT_AGENT", "reference": "1"},
                    paymentMethod="CASH",
                    paymentSourceInformation={},
                ),
            ),
            {},
            PAID,
        ),
        EventCase(
            "a part of the payment",
            event("SUCCESSFUL_TRANSACTION", **a_transaction(paymentStatus="PARTIALLY_PAID", amountPaid=40)),
            {"dedupe_key": f"SUCCESSFUL_TRANSACTION:{MNFY}:PARTIALLY_PAID"},
            {"verdict": Verdict.COMPLETED, "paid": Money(4_000, "NGN"), "fee": None},
        ),
        EventCase(
            "a success that is none",
            event("SUCCESSFUL_TRANSACTION", **a_transaction(paymentStatus="FAILED", amountPaid=0)),
            {},
            {"verdict": Verdict.DECLINED, "paid": None},
            "declined",
        ),
        EventCase(
            "a transfer that goes back, as published",
            REJECTED,
            {"dedupe_key": "REJECTED_PAYMENT:MNFY|85|20230626175354|041855"},
            {
                "verdict": Verdict.DECLINED,
                "raw_status": "REJECTED_PAYMENT UNDER_PAYMENT",
                "provider_references": ("MNFY|85|20230626175354|041855",),
                "session_open": True,
                "expirable": False,
                "paid": None,
            },
            "wrong_amount",
        ),
        EventCase(
            "a transfer that goes back without a reason",
            event("REJECTED_PAYMENT", paymentReference=REFERENCE, transactionReference=MNFY),
            {"references": (REFERENCE,)},
            {"verdict": Verdict.DECLINED, "session_open": True},
            "declined",
        ),
        EventCase(
            "a disbursement, as published",
            DISBURSED,
            {
                "operation": Operation.PAYOUT,
                "dedupe_key": "SUCCESSFUL_DISBURSEMENT:ref1615947809303:SUCCESS",
                "references": ("ref1615947809303",),
                "provider_references": ("MFDS|20210317032332|002431",),
                "payment_references": (),
            },
            {
                "verdict": Verdict.COMPLETED,
                "reference": "ref1615947809303",
                "provider_references": ("MFDS|20210317032332|002431",),
                "requested": Money(1_000, "NGN"),
                "fee": Money(800, "NGN"),
            },
        ),
        EventCase(
            "a disbursement that failed",
            failed_disbursement("Dormant account"),
            {"operation": Operation.PAYOUT, "dedupe_key": "FAILED_DISBURSEMENT:ref1615947809303:FAILED"},
            {"verdict": Verdict.DECLINED, "raw_status": "FAILED"},
            "transfer_failed",
        ),
        EventCase(
            "a disbursement that failed, but may still arrive",
            failed_disbursement("Timeout waiting for response from destination bank"),
            {"operation": Operation.PAYOUT},
            {"verdict": Verdict.UNKNOWN, "raw_status": "FAILED"},
        ),
        EventCase(
            "a disbursement whose status is not what its event says",
            {**DISBURSED, "eventType": "FAILED_DISBURSEMENT"},
            {"operation": Operation.PAYOUT, "dedupe_key": "FAILED_DISBURSEMENT:ref1615947809303:SUCCESS"},
            {"verdict": Verdict.UNKNOWN},
        ),
        EventCase(
            "a disbursement that came back, as published",
            REVERSED,
            {
                "operation": Operation.PAYOUT,
                "references": ("662d2dcf22132ea227db164e-1715631494637",),
                "dedupe_key": "REVERSED_DISBURSEMENT:662d2dcf22132ea227db164e-1715631494637:REVERSED",
            },
            {"verdict": Verdict.REVERSED, "requested": Money(14_570_800, "NGN"), "fee": Money(800, "NGN")},
        ),
        EventCase(
            "a refund, as published",
            REFUNDED,
            {
                "operation": Operation.REFUND,
                "dedupe_key": "SUCCESSFUL_REFUND:ref001:COMPLETED",
                "references": ("ref001",),
                "provider_references": ("ref001",),
                "payment_references": ("MNFY|20190816083102|000021",),
            },
            {
                "verdict": Verdict.COMPLETED,
                "raw_status": "COMPLETED",
                "reference": None,
                "provider_references": ("ref001",),
                "requested": Money(1_000, "NGN"),
            },
        ),
        EventCase(
            "a refund that failed",
            event("FAILED_REFUND", **{**REFUNDED["eventData"], "refundStatus": "FAILED", "completedOn": None}),
            {"operation": Operation.REFUND, "dedupe_key": "FAILED_REFUND:ref001:FAILED"},
            {"verdict": Verdict.DECLINED, "requested": Money(1_000, "NGN")},
            "refund_failed",
        ),
        EventCase(
            "a refund whose status is not what its event says",
            {**REFUNDED, "eventType": "FAILED_REFUND"},
            {"operation": Operation.REFUND, "dedupe_key": "FAILED_REFUND:ref001:COMPLETED"},
            {"verdict": Verdict.UNKNOWN},
        ),
        EventCase(
            "a refund that has only begun, which no official page knows",
            event("PENDING_REFUND", **{**REFUNDED["eventData"], "refundStatus": "PENDING"}),
            {"operation": Operation.REFUND, "references": ("ref001",), "dedupe_key": None},
        ),
        EventCase(
            "a settlement, as published",
            SETTLED,
            {
                "dedupe_key": "SETTLEMENT:LB8HG1PNZT4ATJGZXQBY",
                "references": (),
                "provider_references": ("LB8HG1PNZT4ATJGZXQBY",),
            },
        ),
        EventCase("a low balance, as published", LOW_BALANCE, {"references": (), "dedupe_key": None}),
        EventCase("a movement on an account", ACTIVITY, {"references": ("activity-1",), "dedupe_key": None}),
        EventCase(
            "a failed payment, which no official page knows",
            event("FAILED_TRANSACTION", **a_transaction(paymentStatus="FAILED")),
            {"type": "FAILED_TRANSACTION", "references": (REFERENCE,), "dedupe_key": None},
        ),
    )

    def sent_amount(self, wire: Wire) -> int:
        amount = json.loads(wire.requests[0].content, parse_float=Decimal)["amount"]
        assert isinstance(amount, Decimal)
        return int(amount * 100)

    def sign(self, body: bytes, credentials: MoniepointCredentials) -> Mapping[str, str]:  # type: ignore[override]
        key = credentials.secret_key.get_secret_value().encode()
        return {"monnify-signature": hmac.digest(key, body, "sha512").hex()}

    async def test_no_odd_value_in_an_answer_raises_or_completes_with_other_money(self) -> None:
        """1.5 is a good amount of naira; what it says is told, and differs from ours."""
        for body in variants(self.completed.body):
            result = await self.wire(Reply(200, body)).build(self.adapter).fetch(self.query(), self.credentials)
            if result.verdict is Verdict.COMPLETED:
                assert result.requested is None
                assert result.paid in (NGN, Money(150, "NGN"))


# Orders


async def test_the_whole_order_as_monnify_receives_it() -> None:
    wire = Wire(granted(ACCEPTED), preliminary={LOGIN: TOKEN})
    await wire.build(Moniepoint).collect(an_order(NGN, method="card"), CREDENTIALS)
    assert wire.json == {
        "amount": 100.0,
        "currencyCode": "NGN",
        "contractCode": "7059707855",
        "paymentReference": REFERENCE,
        "customerEmail": "ada@customer.example",
        "customerName": "Ada",
        "paymentDescription": "Order 17",
        "metaData": {"transaction_id": "019c0000-0000-7000-8000-000000000001"},
        "paymentMethods": ["CARD"],
        "redirectUrl": "https://shop.example/thanks",
    }
    assert b'"amount":100.00,' in wire.requests[0].content
    assert wire.requests[0].headers["authorization"] == "Bearer eyJsuite.token.one"
    (login,) = wire.early
    assert (login.method, login.content) == ("POST", b"")
    assert login.headers["authorization"] == "Basic TUtfVEVTVF9TVUlURU9ORTpzdWl0ZS1tb25uaWZ5LXNlY3JldC1vbmU="


async def test_what_the_order_leaves_open_is_left_to_monnify() -> None:
    wire = Wire(granted(ACCEPTED), preliminary={LOGIN: TOKEN})
    order = an_order(NGN, return_url=None, description=None, customer=Customer(email="ada@customer.example"))
    await wire.build(Moniepoint).collect(order, CREDENTIALS)
    assert wire.json["paymentDescription"] == "Payment"
    assert not {"redirectUrl", "paymentMethods", "customerName"} & set(wire.json)


async def test_a_query_asks_by_our_reference_whatever_else_is_known() -> None:
    for known in ((), (MNFY,), ("MNFY|99|somebody|else",)):
        wire = Wire(queried(), preliminary={LOGIN: TOKEN})
        await wire.build(Moniepoint).fetch(a_query(NGN, *known), CREDENTIALS)
        (request,) = wire.requests
        assert request.method == "GET"
        assert request.url.raw_path == f"/api/v2/merchant/transactions/query?paymentReference={REFERENCE}".encode()


async def test_not_found_after_an_answer_speaks_of_the_key_and_proves_nothing() -> None:
    query = dataclasses.replace(a_query(NGN, MNFY), answered=True)
    wire = Wire(refusal(404, MISSING), preliminary={LOGIN: TOKEN})
    result = await wire.build(Moniepoint).fetch(query, CREDENTIALS)
    assert (result.verdict, result.expirable) == (Verdict.NOT_FOUND, False)


# Bank transfer


async def test_a_bank_transfer_names_the_account_to_transfer_to() -> None:
    wire = Wire(granted(ACCEPTED), granted(ACCOUNT), preliminary={LOGIN: TOKEN})
    result = await wire.build(Moniepoint).collect(an_order(NGN, method="bank_transfer"), CREDENTIALS)
    opened, account = wire.requests
    assert json.loads(opened.content)["paymentMethods"] == ["ACCOUNT_TRANSFER"]
    assert (account.url.path, json.loads(account.content)) == (OPEN_ACCOUNT, {"transactionReference": MNFY})
    assert (result.verdict, result.checkout_url) == (Verdict.REQUIRES_ACTION, PAGE)
    assert result.next_action == NextAction(
        ActionType.TRANSFER,
        display_text="Transfer NGN 100.00 to 2209149705, Sterling bank.",
        fields={
            "account_number": "2209149705",
            "account_name": "Test01-Test payment",
            "bank_name": "Sterling bank",
            "bank_code": "232",
            "amount": "100.00",
            "currency": "NGN",
        },
        expires_at=ENDS_AT,
    )
    assert result.session_ends_at == ENDS_AT


async def test_the_customer_transfers_what_is_payable_until_the_account_ends() -> None:
    account = {**ACCOUNT, "fee": "1.50", "totalPayable": "101.50", "accountDurationSeconds": 600}
    wire = Wire(granted(ACCEPTED), granted(account), preliminary={LOGIN: TOKEN})
    result = await wire.build(Moniepoint).collect(an_order(NGN, method="bank_transfer"), CREDENTIALS)
    assert result.next_action.fields["amount"] == "101.50"
    assert result.next_action.expires_at == result.session_ends_at == NOW + timedelta(minutes=10)


@pytest.mark.parametrize(
    "reply",
    [
        refusal(400, "Could not find specified contract"),
        refusal(500, "An error occurred"),
        EXPIRED_TOKEN,
        granted({**ACCOUNT, "accountNumber": None}),
        granted({**ACCOUNT, "totalPayable": None}),
        Reply(200, b"<html>"),
        OSError("broken pipe"),
        httpx.ConnectError("refused"),
    ],
)
async def test_without_an_account_the_open_page_remains(reply: Reply | Exception) -> None:
    wire = Wire(granted(ACCEPTED), reply, preliminary={LOGIN: TOKEN})
    result = await wire.build(Moniepoint).collect(an_order(NGN, method="bank_transfer"), CREDENTIALS)
    assert (result.verdict, result.provider_references) == (Verdict.REQUIRES_ACTION, (MNFY,))
    assert result.next_action == NextAction(ActionType.REDIRECT, url=PAGE, expires_at=ENDS_AT)


async def test_no_account_is_opened_for_an_order_that_was_not_accepted() -> None:
    for reply in (refusal(400, SUBSCRIBED), refusal(422, "Duplicate payment reference")):
        wire = Wire(reply, preliminary={LOGIN: TOKEN})
        await wire.build(Moniepoint).collect(an_order(NGN, method="bank_transfer"), CREDENTIALS)
        assert len(wire.requests) == 1


# Tokens


class Office:
    """Gives out numbered tokens; only those in `good` are taken."""

    def __init__(self, expires_in: Any = 3600, refusal: Reply = EXPIRED_TOKEN, good: set[str] | None = None) -> None:
        self.expires_in = expires_in
        self.refusal = refusal
        self.good = good
        self.given = 0
        self.orders: list[str] = []
        self.now = NOW

    def build(self) -> Any:
        return build(Moniepoint, self, lambda: self.now)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if request.url.path == LOGIN:
            self.given += 1
            await asyncio.sleep(0.01)
            return granted({"accessToken": f"token{self.given}", "expiresIn": self.expires_in}).response()
        token = request.headers["authorization"].removeprefix("Bearer ")
        self.orders.append(token)
        reply = granted(ACCEPTED) if self.good is None or token in self.good else self.refusal
        return reply.response()


async def test_one_token_serves_many_orders_at_once() -> None:
    office = Office()
    adapter = office.build()
    results = await asyncio.gather(*(adapter.collect(an_order(NGN), CREDENTIALS) for _ in range(20)))
    assert {result.verdict for result in results} == {Verdict.REQUIRES_ACTION}
    assert (office.given, office.orders) == (1, ["token1"] * 20)


async def test_each_set_of_credentials_has_its_own_token() -> None:
    office = Office()
    adapter = office.build()
    for credentials in (CREDENTIALS, OTHER, CREDENTIALS):
        await adapter.collect(an_order(NGN), credentials)
    assert office.orders == ["token1", "token2", "token1"]


@pytest.mark.parametrize("expires_in", [3600, "3600"])
async def test_a_token_is_renewed_a_minute_before_it_ends(expires_in: Any) -> None:
    office = Office(expires_in)
    adapter = office.build()
    for seconds in (0, 3539, 3540, 3541):
        office.now = NOW + timedelta(seconds=seconds)
        await adapter.collect(an_order(NGN), CREDENTIALS)
    assert office.orders == ["token1", "token1", "token2", "token2"]


@pytest.mark.parametrize("expires_in", [None, "soon", -1, 0, 1.5, 30])
async def test_a_token_of_unknown_or_short_life_is_used_once(expires_in: Any) -> None:
    office = Office(expires_in)
    adapter = office.build()
    for _ in range(2):
        assert (await adapter.collect(an_order(NGN), CREDENTIALS)).verdict is Verdict.REQUIRES_ACTION
    assert office.orders == ["token1", "token2"]


@pytest.mark.parametrize(
    "reply",
    [
        EXPIRED_TOKEN,
        refusal(401, "Access token expired: eyJsuite.token.one", 99),
        refusal(401, "Cannot convert access token to json"),
    ],
)
async def test_an_ended_token_is_renewed_once_and_the_order_repeated_once(reply: Reply) -> None:
    office = Office(refusal=reply, good={"token2"})
    result = await office.build().collect(an_order(NGN), CREDENTIALS)
    assert result.verdict is Verdict.REQUIRES_ACTION
    assert office.orders == ["token1", "token2"]
    office = Office(refusal=reply, good=set())
    result = await office.build().collect(an_order(NGN), CREDENTIALS)
    assert (result.verdict, result.failure.code) == (Verdict.REFUSED, "authentication_failed")
    assert office.orders == ["token1", "token2"]
    assert "eyJsuite" not in repr(result)


async def test_orders_refused_together_share_one_renewal() -> None:
    office = Office(good={"token2"})
    adapter = office.build()
    results = await asyncio.gather(*(adapter.collect(an_order(NGN), CREDENTIALS) for _ in range(10)))
    assert {result.verdict for result in results} == {Verdict.REQUIRES_ACTION}
    assert (office.given, office.orders.count("token2")) == (2, 10)


@pytest.mark.parametrize("reply", [refusal(401, SUBSCRIBED), refusal(403, SUBSCRIBED), refusal(401, "invalid key")])
async def test_another_401_renews_no_token(reply: Reply) -> None:
    office = Office(refusal=reply, good=set())
    await office.build().collect(an_order(NGN), CREDENTIALS)
    assert (office.given, office.orders) == (1, ["token1"])


@pytest.mark.parametrize(
    ("reply", "verdict", "failure"),
    [
        (refusal(401, "bad credentials", 99), Verdict.REFUSED, "authentication_failed"),
        (refusal(200, "invalid key"), Verdict.REFUSED, "authentication_failed"),
        (Reply(403, b"<html>Forbidden</html>"), Verdict.REFUSED, "authentication_failed"),
        (Reply(429, b""), Verdict.REFUSED, "rate_limited"),
        (refusal(500, "An error occurred"), Verdict.NOT_SENT, "provider_unreachable"),
        (Reply(503, b"<html>"), Verdict.NOT_SENT, "provider_unreachable"),
        (Reply(200, b"<html>"), Verdict.NOT_SENT, "provider_unreachable"),
        (granted({"expiresIn": 3600}), Verdict.NOT_SENT, "provider_unreachable"),
        (OSError("broken pipe"), Verdict.NOT_SENT, "provider_unreachable"),
    ],
)
async def test_without_a_token_the_order_is_never_sent(
    reply: Reply | Exception, verdict: Verdict, failure: str
) -> None:
    wire = Wire(reply)
    result = await wire.build(Moniepoint).collect(an_order(NGN), CREDENTIALS)
    assert (result.verdict, result.failure.code) == (verdict, failure)
    assert [request.url.path for request in wire.requests] == [LOGIN]
    result = await wire.build(Moniepoint).fetch(a_query(NGN, MNFY), CREDENTIALS)
    assert (result.verdict, result.failure) == (Verdict.UNKNOWN, None)


@pytest.mark.parametrize("secret", ["MK_TEST_SUITEONE", "eyJhbGciOiJSUzI1NiJ9.suite-token.x", "A" * 32])
async def test_no_key_that_a_message_repeats_is_told(secret: str) -> None:
    for reply in (refusal(400, f"odd key {secret}!"), refusal(401, f"invalid key {secret}")):
        wire = Wire(reply, preliminary={LOGIN: TOKEN})
        result = await wire.build(Moniepoint).collect(an_order(NGN), CREDENTIALS)
        assert secret not in repr(result)
        assert "***" in result.raw_status


# Credentials and webhooks


@pytest.mark.parametrize(
    "changes",
    [
        {"api_key": "MK_TEST_"},
        {"api_key": "sk_test_x"},
        {"secret_key": ""},
        {"contract_code": "12 34"},
        {"api_key": "MK_PROD_SUITE", "allow_unsigned_webhooks": True},
    ],
)
def test_credentials_that_cannot_be_right_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MoniepointCredentials.model_validate({**PLAIN, **changes})


def test_the_signature_is_hmac_sha512_of_the_body_under_the_secret_key() -> None:
    # RFC 4231, test case 2: the published answer of HMAC-SHA-512 for this key and text.
    credentials = CREDENTIALS.model_copy(update={"secret_key": type(CREDENTIALS.secret_key)("Jefe")})
    known = (
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    )
    adapter, body = Wire().build(Moniepoint), b"what do ya want for nothing?"
    assert adapter.verify_webhook(a_webhook(body, {"monnify-signature": known}), [credentials]) is None
    with pytest.raises(WebhookRefused):
        adapter.verify_webhook(a_webhook(body, {"monnify-signature": known[:-1] + "6"}), [credentials])


def test_an_unsigned_webhook_is_a_hint_where_the_present_credentials_allow_it() -> None:
    adapter = Wire().build(Moniepoint)
    for headers in ({}, {"monnify-signature": ""}):
        assert adapter.verify_webhook(a_webhook(b"{}", headers), [LENIENT, OTHER]) is Trust.CONFIRM
        with pytest.raises(WebhookRefused, match="header_missing"):
            adapter.verify_webhook(a_webhook(b"{}", headers), [OTHER, LENIENT])


def test_a_wrong_signature_is_refused_also_where_none_is_asked_for() -> None:
    adapter, body = Wire().build(Moniepoint), b'{"eventType":"X"}'
    with pytest.raises(WebhookRefused, match="signature_mismatch"):
        adapter.verify_webhook(a_webhook(body, {"monnify-signature": "0" * 128}), [LENIENT])
    genuine = hmac.digest(LENIENT.secret_key.get_secret_value().encode(), body, "sha512").hex()
    assert adapter.verify_webhook(a_webhook(body, {"monnify-signature": genuine}), [LENIENT]) is None


@pytest.mark.parametrize("amount", ["100.00", "100", '"100.00"', "1e2"])
def test_an_amount_is_read_to_the_kobo_from_its_text(amount: str) -> None:
    body = json.dumps(event("SUCCESSFUL_TRANSACTION", **a_transaction(amountPaid="HERE"))).replace('"HERE"', amount)
    (found,) = Wire().build(Moniepoint).translate(a_webhook(body.encode()))
    assert found.result.paid == NGN


@pytest.mark.parametrize("amount", ["0", "-5", "0.001", "NaN", "1e999", "true", "null", "{}", '"soon"'])
def test_a_success_without_a_readable_amount_is_malformed(amount: str) -> None:
    body = json.dumps(event("SUCCESSFUL_TRANSACTION", **a_transaction(amountPaid="HERE"))).replace('"HERE"', amount)
    with pytest.raises(WebhookMalformed):
        Wire().build(Moniepoint).translate(a_webhook(body.encode()))


@pytest.mark.parametrize("missing", ["paymentReference", "transactionReference"])
@pytest.mark.parametrize("kind", ["SUCCESSFUL_TRANSACTION", "REJECTED_PAYMENT"])
def test_an_event_that_moves_something_names_what(kind: str, missing: str) -> None:
    body = json.dumps(event(kind, **a_transaction(**{missing: None}))).encode()
    with pytest.raises(WebhookMalformed):
        Wire().build(Moniepoint).translate(a_webhook(body))


def test_the_address_that_monnify_publishes_is_declared() -> None:
    assert Moniepoint.declaration.webhook_sources == {"35.242.133.146"}
    assert not Moniepoint.declaration.webhook_token


# Refunds, transfers, banks

PAYMENT = a_payment(Money(50_000, "NGN"), MNFY)
ACCOUNT_HELD = Destination(DestinationType.BANK_ACCOUNT, "Ada Lovelace", "058", "0123456789")
REFUND_PATH = "/api/v1/refunds/initiate-refund"
TRANSFER_PATH = "/api/v2/disbursements/single"
OTP_PATH = "/api/v2/disbursements/single/validate-otp"
SUMMARY_PATH = "/api/v2/disbursements/single/summary"
MFDS = "MFDS87620260627093249000027JDW8UZ"
RIGHT = "40538652"
OTP = Submission(ActionType.OTP, SecretStr(RIGHT))
ASKED_FOR = NextAction(ActionType.OTP, display_text="Enter the code that Monnify has mailed to the merchant.")
# Ours as above, and fifteen minutes before and after the time that the suite's adapters are told.
OLD_REFUND = dataclasses.replace(a_refund_query(NGN, PAYMENT), created_at=NOW - timedelta(minutes=15))
NEW_REFUND = dataclasses.replace(
    a_refund_query(NGN, PAYMENT), created_at=NOW - timedelta(minutes=15) + timedelta(seconds=1)
)


def refunded(**changes: Any) -> Reply:
    """As published, with our reference."""
    return granted(
        {
            "refundReference": REFUND_REFERENCE,
            "transactionReference": MNFY,
            "refundReason": "Returned goods",
            "customerNote": "Refund",
            "refundAmount": 100,
            "refundType": "PARTIAL_REFUND",
            "refundStatus": "PENDING",
            "refundStrategy": "MERCHANT_WALLET",
            "comment": "Transaction refund is in progress.",
            "createdOn": "02/08/2022 03:35:22 AM",
        }
        | changes
    )


def disbursed(**changes: Any) -> Reply:
    """The answer to an order, as seen at the sandbox."""
    return granted(
        {
            "amount": 100,
            "reference": REFUND_REFERENCE,
            "status": "SUCCESS",
            "dateCreated": "2026-06-27T08:32:49.289+00:00",
            "totalFee": 10.00,
            "destinationAccountName": "Ada Lovelace",
            "destinationBankName": "GTBank",
            "destinationAccountNumber": "0123456789",
            "destinationBankCode": "058",
            "comment": "Transaction successful",
        }
        | changes
    )


def summary(**changes: Any) -> Reply:
    """The answer to a question, as seen at the sandbox."""
    return granted(
        {
            "amount": 100.00,
            "reference": REFUND_REFERENCE,
            "narration": "SDK test disbursement",
            "currency": "NGN",
            "fee": 10.00,
            "twoFaEnabled": False,
            "status": "SUCCESS",
            "transactionDescription": "Transaction successful",
            "transactionReference": MFDS,
            "createdOn": "2026-06-27T08:32:49.000+00:00",
            "sourceAccountNumber": "9988776655",
            "destinationAccountNumber": "0123456789",
            "destinationAccountName": "Ada Lovelace",
            "destinationBankCode": "058",
            "destinationBankName": "GTBank",
        }
        | changes
    )


REFUND_WORDS = (
    ("PENDING", Verdict.PROCESSING, None),
    ("IN_PROGRESS", Verdict.PROCESSING, None),
    ("FAILED", Verdict.DECLINED, "refund_failed"),
    *((odd, Verdict.UNKNOWN, None) for odd in ("SUCCESS", "completed", "INVENTED", "", None, 7)),
)
REFUND_CODES = (
    ("R1", "payment_not_found"),
    ("R2", "refund_not_possible"),
    ("R3", "refund_too_large"),
    ("R4", "refund_too_small"),
    ("R5", "insufficient_balance"),
    ("R6", "refund_account_missing"),
    ("R8", "invalid_request"),
    ("R12", "already_refunded"),
)
NO_TELLING = ("R7", "R9", "R10", "R11", "M01", "M02", "99", "R99", "D02", "D05", "")
TRANSFER_WORDS = (
    ("PENDING", Verdict.PROCESSING, None, None),
    ("AWAITING_PROCESSING", Verdict.PROCESSING, None, None),
    ("IN_PROGRESS", Verdict.PROCESSING, None, None),
    ("PENDING_AUTHORIZATION", Verdict.REQUIRES_ACTION, None, ASKED_FOR),
    ("COMPLETED", Verdict.COMPLETED, None, None),
    ("FAILED", Verdict.DECLINED, "transfer_failed", None),
    ("EXPIRED", Verdict.DECLINED, "expired", None),
    ("REVERSED", Verdict.REVERSED, None, None),
    *((odd, Verdict.UNKNOWN, None, None) for odd in ("PAID", "success", "INVENTED", "", None, 7)),
)
MAY_STILL_ARRIVE = (
    "Timeout waiting for response from destination bank",
    "Transaction timed out",
    "NIP response delayed",
    "Destination bank not available",
    "Beneficiary bank is unavailable",
    "Invalid session ID",
    "Invalid response code from beneficiary institution",
    "Destination system malfunction",
    "Unable to complete request at this time",
    "Processing in progress",
    "Processor malfunction",
    # The same reasons as other hands write them.
    "Time out waiting for response from destination bank",
    "TIME-OUT",
    "NIP delay",
    "Destination bank is not currently available",
    "Bank not reachable",
    "We were unable to complete this transaction at this time",
    "Invalid session-id",
    "Transaction is processing",
    "Processing is in-progress",
)


def shared_refusals(path: str) -> tuple[Case, ...]:
    return (
        Case("not enabled", refusal(403, SUBSCRIBED), Verdict.REFUSED, "configuration_error"),
        Case("too many", refusal(429, "Too many requests"), Verdict.REFUSED, "rate_limited"),
        Case("bad credentials", refusal(401, "bad credentials"), Verdict.REFUSED, "authentication_failed"),
        Case("an ended token, twice", EXPIRED_TOKEN, Verdict.REFUSED, "authentication_failed"),
        Case("server error", refusal(500, "An error occurred"), Verdict.UNKNOWN),
        Case("a success that says no", Reply(200, {**refunded().body, "requestSuccessful": False}), Verdict.UNKNOWN),
        Case("forbidden, as Spring says it", Reply(403, {"status": 403, "path": path}), Verdict.UNKNOWN),
    )


class TestMoniepointVerbs(VerbsContract):
    adapter = Moniepoint
    credentials = CREDENTIALS
    secrets = ("suite-monnify-secret-one", "MK_TEST_SUITEONE", RIGHT)
    preliminary: ClassVar = {LOGIN: TOKEN}

    verbs = (
        Verb(
            "refund",
            (a_refund(NGN, PAYMENT),),
            accepted=refunded(),
            path=REFUND_PATH,
            money=NGN,
            cases=(
                Case(
                    "accepted",
                    refunded(),
                    Verdict.PROCESSING,
                    expected={
                        "raw_status": "PENDING",
                        "provider_references": (REFUND_REFERENCE,),
                        "requested": NGN,
                        "paid": None,
                        "amount_bound": False,
                    },
                ),
                Case(
                    "completed, beside words that it is in progress, as published",
                    refunded(refundStatus="COMPLETED"),
                    Verdict.PROCESSING,
                    expected={"raw_status": "COMPLETED", "requested": NGN},
                ),
                Case("completed", refunded(refundStatus="COMPLETED", comment="Done"), Verdict.COMPLETED),
                Case("in text", refunded(refundAmount="100.00"), Verdict.PROCESSING, expected={"requested": NGN}),
                Case("completed, no amount", refunded(refundStatus="COMPLETED", refundAmount=None), Verdict.UNKNOWN),
                Case("another refund", refunded(refundReference="else"), Verdict.UNKNOWN),
                *(
                    Case(f"status {status}", refunded(refundStatus=status), verdict, failure)
                    for status, verdict, failure in REFUND_WORDS
                ),
                *(
                    Case(f"{code} {status}", refusal(status, "Words.", code), Verdict.REFUSED, failure)
                    for code, failure in REFUND_CODES
                    for status in (200, 400, 404, 422)
                ),
                *(Case(f"{code} of a server error", refusal(500, "Words.", code), Verdict.UNKNOWN) for code in ("R5",)),
                *(Case(f"{code}, no telling", refusal(400, "Words.", code), Verdict.UNKNOWN) for code in NO_TELLING),
                *shared_refusals(REFUND_PATH),
            ),
        ),
        Verb(
            "fetch_refund",
            (OLD_REFUND,),
            accepted=refunded(refundStatus="COMPLETED"),
            path=f"/api/v1/refunds/{REFUND_REFERENCE}",
            method="GET",
            asks=True,
            money=NGN,
            cases=(
                Case(
                    "completed",
                    refunded(refundStatus="COMPLETED"),
                    Verdict.COMPLETED,
                    expected={"provider_references": (REFUND_REFERENCE,), "requested": NGN, "reference": None},
                ),
                *(
                    Case(f"status {status}", refunded(refundStatus=status), verdict, failure)
                    for status, verdict, failure in REFUND_WORDS
                ),
                Case("another refund", refunded(refundReference="else"), Verdict.UNKNOWN),
                Case(
                    "unknown for long", refusal(404, "Words.", "R7"), Verdict.NOT_FOUND, expected={"expirable": False}
                ),
                Case("unknown of a server error", refusal(500, "Words.", "R7"), Verdict.UNKNOWN),
                *(
                    Case(f"{code}, no telling", refusal(400, "Words.", code), Verdict.UNKNOWN)
                    for code in ("R1", "R5", "R12", "99")
                ),
                Case("server error", refusal(500, "An error occurred"), Verdict.UNKNOWN),
                Case("too many", refusal(429, "Too many requests"), Verdict.UNKNOWN),
            ),
        ),
        Verb(
            "fetch_refund",
            (NEW_REFUND,),
            accepted=refunded(refundStatus="COMPLETED"),
            path=f"/api/v1/refunds/{REFUND_REFERENCE}",
            method="GET",
            asks=True,
            money=NGN,
            label="fetch_refund of one just made",
            cases=(Case("unknown, so far", refusal(404, "Words.", "R7"), Verdict.UNKNOWN),),
        ),
        Verb(
            "fetch_refund",
            (a_refund_query(NGN, PAYMENT, "ref001"),),
            accepted=refunded(refundStatus="COMPLETED", refundReference="ref001"),
            path="/api/v1/refunds/ref001",
            method="GET",
            asks=True,
            money=NGN,
            label="fetch_refund of one made elsewhere",
            cases=(
                Case(
                    "completed",
                    refunded(refundStatus="COMPLETED", refundReference="ref001"),
                    Verdict.COMPLETED,
                    expected={"provider_references": ("ref001",), "requested": NGN},
                ),
                Case("ours instead", refunded(refundStatus="COMPLETED"), Verdict.UNKNOWN),
            ),
        ),
        Verb(
            "pay_out",
            (a_payout(NGN, ACCOUNT_HELD),),
            accepted=disbursed(),
            path=TRANSFER_PATH,
            money=NGN,
            cases=(
                Case(
                    "sent at once",
                    disbursed(),
                    Verdict.COMPLETED,
                    expected={
                        "raw_status": "SUCCESS",
                        "reference": REFUND_REFERENCE,
                        "provider_references": (),
                        "requested": NGN,
                        "paid": None,
                        "fee": Money(1_000, "NGN"),
                    },
                ),
                *(
                    Case(f"status {status}", disbursed(status=status), verdict, failure, {"next_action": action})
                    for status, verdict, failure, action in TRANSFER_WORDS
                ),
                Case(
                    "its code could not be mailed, which ends nothing",
                    disbursed(status="OTP_EMAIL_DISPATCH_FAILED"),
                    Verdict.REQUIRES_ACTION,
                ),
                *(
                    Case(f"failed: {text}", disbursed(status="FAILED", comment=text), Verdict.UNKNOWN)
                    for text in MAY_STILL_ARRIVE
                ),
                *(Case(f"D01: {text}", refusal(400, text, "D01"), Verdict.UNKNOWN) for text in MAY_STILL_ARRIVE),
                Case("D01", refusal(400, "Dormant account", "D01"), Verdict.DECLINED, "transfer_failed"),
                Case("D01 of a server error", refusal(500, "Dormant account", "D01"), Verdict.UNKNOWN),
                Case("another transfer", disbursed(reference="else"), Verdict.UNKNOWN),
                Case("no amount", disbursed(amount=None), Verdict.UNKNOWN),
                *(
                    Case(f"{code} {status}", refusal(status, "Words.", code), Verdict.REFUSED, failure)
                    for code, failure in (
                        ("D03", "invalid_account"),
                        ("D04", "insufficient_balance"),
                        ("D06", "configuration_error"),
                        ("D07", "repeated_transfer"),
                    )
                    for status in (200, 400, 403, 422)
                ),
                Case("D04 of a server error", refusal(500, "Words.", "D04"), Verdict.UNKNOWN),
                *(Case(f"{code}, no telling", refusal(400, "Words.", code), Verdict.UNKNOWN) for code in NO_TELLING),
                Case(
                    "not enabled for transfers",
                    refusal(403, "Disbursement feature not enabled for this merchant"),
                    Verdict.REFUSED,
                    "configuration_error",
                ),
                *shared_refusals(TRANSFER_PATH),
            ),
        ),
        Verb(
            "fetch_payout",
            (a_payout_query(NGN, MFDS),),
            accepted=summary(),
            path=SUMMARY_PATH,
            method="GET",
            asks=True,
            money=NGN,
            cases=(
                Case(
                    "sent",
                    summary(),
                    Verdict.COMPLETED,
                    expected={
                        "reference": REFUND_REFERENCE,
                        "provider_references": (MFDS,),
                        "requested": NGN,
                        "fee": Money(1_000, "NGN"),
                    },
                ),
                Case("in text", summary(amount="100.00", fee="10.00"), Verdict.COMPLETED, expected={"requested": NGN}),
                Case(
                    "another currency",
                    summary(currency="USD"),
                    Verdict.COMPLETED,
                    None,
                    {"requested": Money(10_000, "USD")},
                ),
                Case("no currency", summary(currency=None), Verdict.UNKNOWN),
                *(
                    Case(f"status {status}", summary(status=status), verdict, failure, {"next_action": action})
                    for status, verdict, failure, action in TRANSFER_WORDS
                ),
                *(
                    Case(f"failed: {text}", summary(status="FAILED", transactionDescription=text), Verdict.UNKNOWN)
                    for text in MAY_STILL_ARRIVE
                ),
                Case("another transfer", summary(reference="else"), Verdict.UNKNOWN),
                Case("unknown", refusal(404, "Words.", "D02"), Verdict.NOT_FOUND, expected={"expirable": False}),
                Case("unknown of a server error", refusal(500, "Words.", "D02"), Verdict.UNKNOWN),
                *(
                    Case(f"{code}, no telling", refusal(400, "Words.", code), Verdict.UNKNOWN)
                    for code in ("D01", "D03", "D04", "D05", "99")
                ),
                Case("too many", refusal(429, "Too many requests"), Verdict.UNKNOWN),
                Case("server error", refusal(500, "An error occurred"), Verdict.UNKNOWN),
            ),
        ),
        Verb(
            "submit",
            (a_payout_query(NGN), OTP),
            accepted=disbursed(),
            path=OTP_PATH,
            asks=True,
            money=NGN,
            cases=(
                Case("authorised", disbursed(), Verdict.COMPLETED, expected={"requested": NGN}),
                *(
                    Case(f"status {status}", disbursed(status=status), verdict, failure)
                    for status, verdict, failure, _ in TRANSFER_WORDS
                ),
                Case("refused, and so is the question", refusal(400, "Invalid code"), Verdict.UNKNOWN),
                Case("server error", refusal(500, "An error occurred"), Verdict.UNKNOWN, None, {"raw_status": "500"}),
                Case("the code repeated", disbursed(status=RIGHT), Verdict.UNKNOWN, expected={"raw_status": ""}),
            ),
        ),
        Verb("banks", ("NGN",), granted([{"name": "GTBank", "code": "058"}]), "/api/v1/banks", "GET", lookup=True),
        Verb(
            "resolve_account",
            (ACCOUNT_HELD,),
            granted({"accountNumber": "0123456789", "accountName": "ADA LOVELACE", "bankCode": "058"}),
            "/api/v1/disbursements/account/validate",
            "GET",
            lookup=True,
        ),
    )

    async def test_no_odd_value_raises_or_completes_with_other_money(self, verb: Verb) -> None:
        """1.5 is a good amount of naira; what it says is told, and differs from ours."""
        for body in variants(verb.accepted.body):
            for status in (200,) if verb.asks or verb.lookup else (200, 400, 500):
                result = await self.outcome(verb, Reply(status, body))
                if isinstance(result, Result) and result.verdict is Verdict.COMPLETED:
                    assert result.requested in (NGN, Money(150, "NGN"))
                    assert result.paid is None


def test_moniepoint_can_all_that_it_is_asked_for() -> None:
    adapter = Wire().build(Moniepoint)
    assert all(isinstance(adapter, capability) for capability in (Refunds, PaysOut, TakesOtp, ListsBanks))


async def test_the_whole_refund_as_monnify_receives_it() -> None:
    wire = Wire(refunded(), preliminary={LOGIN: TOKEN})
    await wire.build(Moniepoint).refund(a_refund(NGN, PAYMENT, reason="x" * 80), CREDENTIALS)
    assert wire.json == {
        "transactionReference": MNFY,
        "refundReference": REFUND_REFERENCE,
        "refundAmount": 100.0,
        "refundReason": "x" * 64,
        "customerNote": "Refund",
    }
    assert b'"refundAmount":100.00,' in wire.requests[0].content
    wire = Wire(refunded(), preliminary={LOGIN: TOKEN})
    await wire.build(Moniepoint).refund(a_refund(NGN, PAYMENT, reason=None), CREDENTIALS)
    assert wire.json["refundReason"] == "Refund"


async def test_the_name_of_a_refund_is_encoded_in_its_address() -> None:
    wire = Wire(refunded(), preliminary={LOGIN: TOKEN})
    await wire.build(Moniepoint).fetch_refund(a_refund_query(NGN, PAYMENT, "ref|0/1"), CREDENTIALS)
    assert wire.requests[0].url.raw_path == b"/api/v1/refunds/ref%7C0%2F1"


@pytest.mark.parametrize(
    ("order", "pointer"),
    [
        (a_refund(Money(9_999, "NGN"), PAYMENT), "/amount"),
        (a_refund(Money(10_000, "USD"), PAYMENT), "/currency"),
        (a_refund(NGN, a_payment(Money(50_000, "NGN"))), ""),
    ],
)
def test_a_refund_that_cannot_be_made_points_at_the_reason(order: Any, pointer: str) -> None:
    adapter = Wire().build(Moniepoint)
    adapter.check_refund(a_refund(NGN, PAYMENT))
    with pytest.raises(OrderNotAcceptable) as refused:
        adapter.check_refund(order)
    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    ("order", "pointer"),
    [
        (a_payout(Money(10_000, "USD"), ACCOUNT_HELD), "/currency"),
        (a_payout(Money(0, "NGN"), ACCOUNT_HELD), "/amount"),
        (a_payout(NGN, Destination(DestinationType.MOBILE_MONEY, phone="+2348012345678")), "/destination/type"),
        (a_payout(NGN, dataclasses.replace(ACCOUNT_HELD, bank_code=None)), "/destination/bank_code"),
        (a_payout(NGN, dataclasses.replace(ACCOUNT_HELD, bank_code="0 5")), "/destination/bank_code"),
        (a_payout(NGN, dataclasses.replace(ACCOUNT_HELD, account_number=None)), "/destination/account_number"),
        (a_payout(NGN, dataclasses.replace(ACCOUNT_HELD, account_number="012345678")), "/destination/account_number"),
        (a_payout(NGN, dataclasses.replace(ACCOUNT_HELD, account_name=None)), "/destination/account_name"),
    ],
)
def test_a_transfer_that_cannot_be_sent_points_at_the_reason(order: Any, pointer: str) -> None:
    adapter = Wire().build(Moniepoint)
    adapter.check_payout(a_payout(NGN, ACCOUNT_HELD))
    with pytest.raises(OrderNotAcceptable) as refused:
        adapter.check_payout(order)
    assert refused.value.pointer == pointer


async def test_the_whole_transfer_as_monnify_receives_it() -> None:
    wire = Wire(disbursed(), preliminary={LOGIN: TOKEN})
    await wire.build(Moniepoint).pay_out(a_payout(Money(123_456_789_012_345, "NGN"), ACCOUNT_HELD), CREDENTIALS)
    content = wire.requests[0].content
    assert b'"amount":1234567890123.45,' in content
    assert {**json.loads(content), "amount": None} == {
        "amount": None,
        "reference": REFUND_REFERENCE,
        "narration": "Withdrawal",
        "destinationBankCode": "058",
        "destinationAccountNumber": "0123456789",
        "destinationAccountName": "Ada Lovelace",
        "currency": "NGN",
        "sourceAccountNumber": "9988776655",
    }


async def test_without_a_wallet_to_send_from_nothing_is_sent() -> None:
    wire = Wire(disbursed(), preliminary={LOGIN: TOKEN})
    credentials = MoniepointCredentials.model_validate({**PLAIN, "source_account_number": None})
    result = await wire.build(Moniepoint).pay_out(a_payout(NGN, ACCOUNT_HELD), credentials)
    assert (result.verdict, result.failure.code) == (Verdict.REFUSED, "configuration_error")
    assert wire.requests + wire.early == []


async def test_the_whole_code_as_monnify_receives_it_and_it_is_sent_once() -> None:
    wire = Wire(disbursed(), preliminary={LOGIN: TOKEN})
    await wire.build(Moniepoint).submit(a_payout_query(NGN), OTP, CREDENTIALS)
    assert wire.json == {"reference": REFUND_REFERENCE, "authorizationCode": RIGHT}


@pytest.mark.parametrize(
    ("standing", "verdict", "action"),
    [
        (summary(status="PENDING_AUTHORIZATION"), Verdict.REQUIRES_ACTION, "The code was not taken."),
        (summary(status="SUCCESS"), Verdict.COMPLETED, None),
        (summary(status="EXPIRED"), Verdict.DECLINED, None),
        (refusal(404, "Words.", "D02"), Verdict.NOT_FOUND, None),
        (Reply(502, b"<html>"), Verdict.UNKNOWN, None),
    ],
)
async def test_after_a_refused_code_the_transfer_itself_is_asked_about(
    standing: Reply, verdict: Verdict, action: str | None
) -> None:
    wire = Wire(refusal(400, f"Invalid code {RIGHT}"), standing, preliminary={LOGIN: TOKEN})
    result = await wire.build(Moniepoint).submit(a_payout_query(NGN), OTP, CREDENTIALS)
    assert [request.url.path for request in wire.requests] == [OTP_PATH, SUMMARY_PATH]
    assert result.verdict is verdict
    assert (result.next_action.display_text if result.next_action else "").startswith(action or "")
    assert (result.next_action is None) == (action is None)
    assert RIGHT not in repr(result)


@pytest.mark.parametrize(
    ("query", "submission"),
    [
        (a_payout_query(NGN), Submission(ActionType.PIN, SecretStr("1234"))),
        (Query(Operation.COLLECT, REFERENCE, (), NGN, NOW), OTP),
    ],
    ids=["a PIN", "a payment"],
)
async def test_what_nobody_asked_for_is_not_passed_on(query: Query, submission: Submission) -> None:
    wire = Wire(disbursed(), preliminary={LOGIN: TOKEN})
    result = await wire.build(Moniepoint).submit(query, submission, CREDENTIALS)
    assert (result.verdict, wire.requests) == (Verdict.UNKNOWN, [])


async def test_banks_are_listed_by_their_codes_and_what_is_none_is_left_out() -> None:
    rows = [
        {"name": "GTBank", "code": "058", "ussdTemplate": "*737*", "nipBankCode": "000013"},
        {"name": "Moniepoint MFB", "code": "50515"},
        {"name": None, "code": "1"},
        {"name": "No code"},
        "058",
    ]
    wire = Wire(granted(rows), preliminary={LOGIN: TOKEN})
    adapter = wire.build(Moniepoint)
    assert await adapter.banks("NGN", CREDENTIALS) == [
        Bank("058", "GTBank", "NGN"),
        Bank("50515", "Moniepoint MFB", "NGN"),
    ]
    assert await adapter.banks("GHS", CREDENTIALS) == ()
    assert len(wire.requests) == 1


async def test_the_holder_of_an_account_is_told_by_the_bank() -> None:
    body = {"accountNumber": "0123456789", "accountName": "ADA LOVELACE", "bankCode": "058"}
    wire = Wire(granted(body), preliminary={LOGIN: TOKEN})
    holder = await wire.build(Moniepoint).resolve_account(ACCOUNT_HELD, CREDENTIALS)
    assert holder == AccountHolder("ADA LOVELACE", "0123456789", "058")
    assert wire.requests[0].url.query == b"accountNumber=0123456789&bankCode=058"


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (refusal(404, "Invalid account details"), "invalid_account"),
        (refusal(200, "Invalid account details"), "invalid_account"),
        (refusal(500, "Invalid account details"), None),
        (refusal(403, SUBSCRIBED), None),
        (granted({"accountNumber": "9999999999", "accountName": "SOMEBODY ELSE", "bankCode": "058"}), None),
        (granted({"accountNumber": "0123456789", "accountName": "", "bankCode": "058"}), None),
        (granted([]), None),
    ],
)
async def test_an_account_without_a_holder_says_why_where_monnify_does(reply: Reply, failure: str | None) -> None:
    wire = Wire(reply, preliminary={LOGIN: TOKEN})
    with pytest.raises(LookupFailed) as failed:
        await wire.build(Moniepoint).resolve_account(ACCOUNT_HELD, CREDENTIALS)
    assert (failed.value.failure.code if failed.value.failure else None) == failure


async def test_an_account_without_its_number_is_not_asked_about() -> None:
    wire = Wire(granted({}), preliminary={LOGIN: TOKEN})
    with pytest.raises(LookupFailed) as failed:
        await wire.build(Moniepoint).resolve_account(Destination(DestinationType.BANK_ACCOUNT), CREDENTIALS)
    assert failed.value.failure is not None
    assert wire.requests == []


@pytest.mark.parametrize(
    "kind", ["SUCCESSFUL_REFUND", "FAILED_REFUND", "SUCCESSFUL_DISBURSEMENT", "REVERSED_DISBURSEMENT"]
)
def test_news_of_a_refund_or_transfer_without_its_reference_is_malformed(kind: str) -> None:
    body = json.dumps(event(kind, transactionReference=MNFY, amount=10, refundAmount=10, status="SUCCESS")).encode()
    with pytest.raises(WebhookMalformed):
        Wire().build(Moniepoint).translate(a_webhook(body))


@pytest.mark.parametrize("amount", [None, 0, -1, "soon", 0.001])
def test_money_back_or_sent_without_a_readable_amount_is_malformed(amount: Any) -> None:
    for body in (
        event("SUCCESSFUL_REFUND", **{**REFUNDED["eventData"], "refundAmount": amount}),
        event("SUCCESSFUL_DISBURSEMENT", **{**DISBURSED["eventData"], "amount": amount}),
    ):
        with pytest.raises(WebhookMalformed):
            Wire().build(Moniepoint).translate(a_webhook(json.dumps(body).encode()))


@pytest.mark.parametrize("number", ["", "12345", "12345678901", "99887766AB"])
def test_a_wallet_number_has_ten_digits(number: str) -> None:
    with pytest.raises(ValidationError):
        MoniepointCredentials.model_validate({**PLAIN, "source_account_number": number})


# Cards by their number

CHARGE_PATH = "/api/v1/merchant/cards/charge"
CARD_OTP_PATH = "/api/v1/merchant/cards/otp/authorize"
QUERY_PATH = "/api/v2/merchant/transactions/query"
CARD = CardDetails(
    SecretStr("5060995994247093"), SecretStr("12"), SecretStr("2027"), SecretStr("0417"), SecretStr("904716283559")
)
TOKEN_ID = "100.00-b66bef0aa8e660863c4e1177a08fefba"
AWAITED = Query(Operation.COLLECT, REFERENCE, (MNFY, f"awaiting:{TOKEN_ID}"), NGN, NOW)
UNDER_WAY = f"submitted:{MNFY}"
# As published, where the number stands in the answer, and the OTP in its words.
OTP_DATA = {"id": TOKEN_ID, "message": f"Enter OTP sent to your device. Use {RIGHT}", "authData": "5060995994247093"}


def charged(status: Any, **more: Any) -> Reply:
    told = {"status": status, "message": "Words.", "transactionReference": MNFY, "paymentReference": REFERENCE}
    return granted(told | {"authorizedAmount": 100} | more)


def authorised(**changes: Any) -> Reply:
    told = {"paymentStatus": "SUCCESSFUL", "paymentDescription": "Payment Successful", "transactionReference": MNFY}
    return granted(told | {"paymentReference": REFERENCE, "amountPaid": 100, "currencyPaid": "NGN"} | changes)


async def charge(*replies: Reply | Exception, card: CardDetails = CARD) -> tuple[Result, Wire]:
    """The result of charging a card when the payment was opened, and all that was sent after."""
    wire = Wire(*replies, preliminary={LOGIN: TOKEN, INITIATE: granted(ACCEPTED)})
    order = an_order(NGN, method="card", details=PaymentDetails(card=card))
    return await wire.build(Moniepoint).collect(order, CREDENTIALS), wire


def nothing_of_the_card_is_in(result: Result) -> None:
    shown = f"{result!r} {result.next_action.fields if result.next_action else ''}"
    for secret in (CARD.number, CARD.cvv, CARD.pin, SecretStr(RIGHT)):
        assert secret is not None
        assert secret.get_secret_value() not in shown


async def test_the_whole_charge_as_monnify_receives_it() -> None:
    _, wire = await charge(charged("OTP_AUTHORIZATION_REQUIRED", otpData=OTP_DATA))
    assert [request.url.path for request in wire.early] == [LOGIN, INITIATE]
    assert json.loads(wire.early[1].content)["paymentMethods"] == ["CARD"]
    assert wire.requests[0].url.path == CHARGE_PATH
    assert {**wire.json, "deviceInformation": None} == {
        "transactionReference": MNFY,
        "collectionChannel": "API_NOTIFICATION",
        "card": {
            "number": "5060995994247093",
            "expiryMonth": "12",
            "expiryYear": "2027",
            "cvv": "0417",
            "pin": "904716283559",
        },
        "deviceInformation": None,
    }
    assert {name: type(value) for name, value in wire.json["deviceInformation"].items()} == {
        "httpBrowserLanguage": str,
        "httpBrowserJavaEnabled": bool,
        "httpBrowserJavaScriptEnabled": bool,
        "httpBrowserColorDepth": int,
        "httpBrowserScreenHeight": int,
        "httpBrowserScreenWidth": int,
        "httpBrowserTimeDifference": str,
        "userAgentBrowserValue": str,
    }
    _, wire = await charge(charged("FAILED"), card=dataclasses.replace(CARD, pin=None))
    assert "pin" not in wire.json["card"]


@pytest.mark.parametrize(
    ("reply", "verdict", "failure", "references"),
    [
        (
            charged("OTP_AUTHORIZATION_REQUIRED", otpData=OTP_DATA),
            Verdict.REQUIRES_ACTION,
            None,
            AWAITED.provider_references,
        ),
        (charged("BANK_AUTHORIZATION_REQUIRED"), Verdict.PROCESSING, None, (MNFY, UNDER_WAY)),
        (charged("FAILED"), Verdict.DECLINED, "declined", (MNFY,)),
        (charged("PIN_REQUIRED"), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (charged("success"), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (charged(["SUCCESS"]), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (charged("OTP_AUTHORIZATION_REQUIRED"), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (
            charged("OTP_AUTHORIZATION_REQUIRED", otpData={"id": "x5060995994247093"}),
            Verdict.UNKNOWN,
            None,
            (MNFY, UNDER_WAY),
        ),
        (charged("MPGS_3DS_AUTHORIZATION_REQUIRED"), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (
            charged("MPGS_3DS_AUTHORIZATION_REQUIRED", secure3dData={"id": "1", "redirectUrl": "localhost:3000"}),
            Verdict.UNKNOWN,
            None,
            (MNFY, UNDER_WAY),
        ),
        (refusal(400, "Invalid card number 5060995994247093"), Verdict.REFUSED, "invalid_card", (MNFY,)),
        (refusal(400, "Merchant has not been configured for bin"), Verdict.REFUSED, "card_not_supported", (MNFY,)),
        (refusal(403, SUBSCRIBED), Verdict.REFUSED, "configuration_error", (MNFY,)),
        (refusal(429, "Too many requests"), Verdict.REFUSED, "rate_limited", (MNFY,)),
        (refusal(400, "Payment already exists", "100"), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (refusal(400, "Auth Data error 0417"), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (refusal(500, "Invalid card number"), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (Reply(502, b"<html>"), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (httpx.ReadTimeout("too slow"), Verdict.UNKNOWN, None, (MNFY, UNDER_WAY)),
        (httpx.ConnectError("refused"), Verdict.NOT_SENT, "provider_unreachable", (MNFY,)),
    ],
)
async def test_each_answer_to_a_charge_is_read_by_the_table(
    reply: Reply | Exception, verdict: Verdict, failure: str | None, references: tuple[str, ...]
) -> None:
    result, wire = await charge(reply)
    assert (result.verdict, result.failure and result.failure.code) == (verdict, failure)
    assert (result.provider_references, result.checkout_url, result.paid) == (references, None, None)
    assert len(wire.requests) == 1
    nothing_of_the_card_is_in(result)


async def test_a_challenge_names_what_the_customer_does_next() -> None:
    otp, _ = await charge(charged("OTP_AUTHORIZATION_REQUIRED", otpData=OTP_DATA))
    words = "Enter the code that your bank has sent to you."
    assert otp.next_action == NextAction(ActionType.OTP, display_text=words)
    for status in ("MPGS_3DS_AUTHORIZATION_REQUIRED", "BANK_AUTHORIZATION_REQUIRED"):
        page = {"id": "1", "redirectUrl": "https://acs.bank.example/3ds|1"}
        there, _ = await charge(charged(status, secure3dData=page))
        url = "https://acs.bank.example/3ds%7C1"
        assert there.next_action == NextAction(ActionType.REDIRECT, url=url, expires_at=ENDS_AT)
        assert (there.verdict, there.provider_references) == (Verdict.REQUIRES_ACTION, (MNFY,))


@pytest.mark.parametrize(
    ("standing", "verdict"),
    [
        (queried(), Verdict.COMPLETED),
        (unpaid("FAILED"), Verdict.DECLINED),
        (unpaid("PENDING"), Verdict.PROCESSING),
        (unpaid("EXPIRED"), Verdict.PROCESSING),
        (refusal(404, MISSING), Verdict.PROCESSING),
        (Reply(502, b"<html>"), Verdict.PROCESSING),
    ],
)
async def test_what_a_taken_card_has_paid_is_told_by_the_query_alone(standing: Reply, verdict: Verdict) -> None:
    result, wire = await charge(charged("SUCCESS", authorizedAmount=7), standing)
    assert [request.url.path for request in wire.requests] == [CHARGE_PATH, QUERY_PATH]
    assert (result.verdict, result.provider_references) == (verdict, (MNFY, UNDER_WAY))
    paid = (NGN, Money(150, "NGN")) if verdict is Verdict.COMPLETED else (None, None)
    assert (result.paid, result.fee) == paid


async def test_pending_is_processing_once_a_charge_is_under_way_and_proves_nothing() -> None:
    for known, verdict, expirable in (
        ((MNFY,), Verdict.REQUIRES_ACTION, True),
        (AWAITED.provider_references, Verdict.REQUIRES_ACTION, True),
        ((MNFY, UNDER_WAY), Verdict.PROCESSING, False),
        ((*AWAITED.provider_references, UNDER_WAY), Verdict.PROCESSING, False),
    ):
        wire = Wire(unpaid("PENDING"), preliminary={LOGIN: TOKEN})
        result = await wire.build(Moniepoint).fetch(a_query(NGN, *known), CREDENTIALS)
        assert (result.verdict, result.expirable) == (verdict, expirable)


async def test_the_whole_otp_as_monnify_receives_it_and_it_is_sent_once() -> None:
    wire = Wire(authorised(), queried(), preliminary={LOGIN: TOKEN})
    result = await wire.build(Moniepoint).submit(AWAITED, OTP, CREDENTIALS)
    given, asked = wire.requests
    assert (given.url.path, asked.url.path) == (CARD_OTP_PATH, QUERY_PATH)
    assert json.loads(given.content) == {
        "transactionReference": MNFY,
        "collectionChannel": "API_NOTIFICATION",
        "tokenId": TOKEN_ID,
        "token": RIGHT,
    }
    assert (result.verdict, result.paid, result.fee) == (Verdict.COMPLETED, NGN, Money(150, "NGN"))


@pytest.mark.parametrize(
    ("answer", "standing", "verdict", "marked"),
    [
        (authorised(), unpaid("FAILED"), Verdict.DECLINED, True),
        (authorised(), unpaid("PENDING"), Verdict.PROCESSING, True),
        (authorised(paymentStatus="PAID"), unpaid("PENDING"), Verdict.UNKNOWN, True),
        (authorised(paymentStatus="FAILED"), unpaid("FAILED"), Verdict.DECLINED, True),
        (authorised(paymentStatus=RIGHT), queried(), Verdict.COMPLETED, True),
        (refusal(400, f"Invalid OTP {RIGHT}"), unpaid("PENDING"), Verdict.REQUIRES_ACTION, False),
        (refusal(400, "No Card Payment found for this transaction."), queried(), Verdict.COMPLETED, False),
        (refusal(400, f"Invalid OTP {RIGHT}"), Reply(502, b"<html>"), Verdict.UNKNOWN, False),
        (refusal(500, "An error occurred"), None, Verdict.UNKNOWN, True),
        (httpx.ReadTimeout("too slow"), None, Verdict.UNKNOWN, True),
        (httpx.ConnectError("refused"), None, Verdict.NOT_SENT, False),
        (refusal(429, "Too many requests"), None, Verdict.REFUSED, False),
    ],
)
async def test_after_an_otp_the_payment_itself_is_asked_about(
    answer: Reply | Exception, standing: Reply | None, verdict: Verdict, marked: bool
) -> None:
    wire = Wire(*filter(None, (answer, standing)), preliminary={LOGIN: TOKEN})
    result = await wire.build(Moniepoint).submit(AWAITED, OTP, CREDENTIALS)
    assert (result.verdict, UNDER_WAY in result.provider_references) == (verdict, marked)
    assert len(wire.requests) == (2 if standing else 1)
    asks = result.next_action.display_text if result.next_action else ""
    assert asks.startswith("The code was not taken." if verdict is Verdict.REQUIRES_ACTION else "")
    nothing_of_the_card_is_in(result)


async def test_no_odd_value_in_a_cards_answers_raises_or_completes() -> None:
    for body in variants(
        charged("OTP_AUTHORIZATION_REQUIRED", otpData=OTP_DATA, secure3dData={"redirectUrl": PAGE}).body
    ):
        for status in (200, 400, 500):
            result, _ = await charge(Reply(status, body))
            assert result.verdict is not Verdict.COMPLETED
            nothing_of_the_card_is_in(result)
    for body in variants(authorised().body):
        wire = Wire(Reply(200, body), unpaid("PENDING"), preliminary={LOGIN: TOKEN})
        assert (await wire.build(Moniepoint).submit(AWAITED, OTP, CREDENTIALS)).verdict is not Verdict.COMPLETED
