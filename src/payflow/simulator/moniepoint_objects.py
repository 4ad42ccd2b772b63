"""Monnify's shapes: envelopes and refusals, the transaction as a query and as an event tell it, the account to transfer to,
refunds and transfers.

Amounts are naira: numbers with two decimals in one answer, text in the next.
"""

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Protocol

import orjson
from starlette.responses import HTMLResponse, Response

from payflow.simulator.state import Charge, html_error, reply
from payflow.simulator.webhooks import Headers

LAGOS = timezone(timedelta(hours=1))  # no daylight saving
ACCOUNT_SECONDS = 2_400
FEE = 1_000  # ten naira, as in the published examples
MALFORMED = "The request could not be completed due to malformed syntax."
BANK = {"bankCode": "232", "bankName": "Sterling bank"}
PAYER = {"bankCode": "50515", "accountName": "Simulated Customer", "accountNumber": "5141901487"}


class Refused(Exception):
    """Carries the answer of a call that is not accepted."""

    def __init__(self, response: Response) -> None:
        self.response = response


@dataclass
class Transaction:
    charge: Charge
    transaction_reference: str
    email: str
    name: str | None
    description: str
    redirect_url: str | None
    methods: list[str]
    metadata: dict[str, Any]
    status: str = "PENDING"
    account_number: str | None = None
    otp_id: str | None = None
    paid: int = 0
    currency: str = "NGN"
    paid_at: float | None = None

    @property
    def reference(self) -> str:
        return self.charge.reference

    @property
    def settled(self) -> int:
        return self.paid - FEE if self.paid > FEE else self.paid


class Refunding(Protocol):
    """What the shapes of a refund are made of."""

    reference: str
    transaction: Transaction
    amount: int
    reason: str
    note: str
    created_at: float
    status: str
    completed_at: float | None


class Transferring(Protocol):
    """What the shapes of a transfer are made of."""

    charge: Charge
    bank_code: str
    account_number: str
    account_name: str
    narration: str
    source: str
    needs_code: bool
    status: str
    ended_at: float | None

    @property
    def bank_name(self) -> str: ...

    @property
    def text(self) -> str: ...


def success(body: Any) -> Response:
    return reply({"requestSuccessful": True, "responseMessage": "success", "responseCode": "0", "responseBody": body})


def refusal(status: int, message: str, code: str | int = "99") -> Response:
    return reply({"requestSuccessful": False, "responseMessage": message, "responseCode": code}, status)


def failure(kind: str, refused: Response | None = None) -> Response:
    """`refused` is the refusal of this call, where it has one of its own."""
    match kind:
        case "html_error":
            return html_error()
        case "rate_limited":
            return refusal(429, "Too many requests")
        case "refuse":
            return refused or refusal(404, "Could not find specified contract")
        case _:
            return refusal(500, "An error occurred while processing your request")


def raw_pipe() -> Response:
    """What the server in front says to a `|` that is not percent-encoded."""
    return HTMLResponse("<html><body><h1>HTTP Status 400 - Bad Request</h1></body></html>", 400)


def not_found(reference: str) -> Refused:
    message = f"Could not find transaction with payment reference {reference} for merchant"
    return Refused(refusal(404, message))


def read_body(content: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise Refused(refusal(400, MALFORMED)) from None
    if not isinstance(body, dict):
        raise Refused(refusal(400, MALFORMED))
    return body


def read_amount(content: bytes, name: str = "amount") -> int:
    """The kobo of the body's amount, from its own digits: 100, 100.00 and "100.00" are the same."""
    written = str(json.loads(content, parse_float=Decimal).get(name))
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,2})?", written) or not Decimal(written):
        raise Refused(refusal(400, MALFORMED))
    return int(Decimal(written) * 100)


def text(kobo: int) -> str:
    return f"{kobo // 100}.{kobo % 100:02d}"


def figure(kobo: int) -> Any:
    """A JSON number with its two decimals, as Monnify writes it."""
    return orjson.Fragment(text(kobo))


def stamp(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, LAGOS)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"


def reference_of(milliseconds: int) -> str:
    """From a number that never repeats."""
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"MNFY|17|{moment:%Y%m%d%H%M%S}|{milliseconds % 1_000_000:06d}"


def initiated(transaction: Transaction, base_url: str, api_key: str) -> dict[str, Any]:
    return {
        "transactionReference": transaction.transaction_reference,
        "paymentReference": transaction.reference,
        "merchantName": "Simulated Merchant",
        "apiKey": api_key,
        "redirectUrl": transaction.redirect_url,
        "enabledPaymentMethod": transaction.methods,
        "checkoutUrl": page_url(transaction, base_url),
    }


def page_url(transaction: Transaction, base_url: str) -> str:
    """With raw `|`, as the real one."""
    return f"{base_url}/checkout/moniepoint/{transaction.transaction_reference}"


def card_charged(transaction: Transaction, status: str) -> dict[str, Any]:
    """Without a currency."""
    return {
        "status": status,
        "message": "Transaction Successful" if status == "SUCCESS" else status.replace("_", " ").capitalize(),
        "transactionReference": transaction.transaction_reference,
        "paymentReference": transaction.reference,
        "authorizedAmount": figure(transaction.charge.amount),
    }


def account(transaction: Transaction, now: float) -> dict[str, Any]:
    opened, ends = (datetime.fromtimestamp(at, LAGOS) for at in (now, now + ACCOUNT_SECONDS))
    return BANK | {
        "accountNumber": transaction.account_number,
        "accountName": f"Simulated Merchant-{transaction.description}",
        "accountDurationSeconds": ACCOUNT_SECONDS,
        "ussdPayment": None,
        "requestTime": f"{opened:%Y-%m-%dT%H:%M:%S.%f}",
        "expiresOn": f"{ends:%Y-%m-%dT%H:%M:%S}",
        "transactionReference": transaction.transaction_reference,
        "paymentReference": transaction.reference,
        "amount": figure(transaction.charge.amount),
        "fee": figure(0),
        "totalPayable": figure(transaction.charge.amount),
        "collectionChannel": "API_NOTIFICATION",
    }


def queried(transaction: Transaction) -> dict[str, Any]:
    """While nothing was paid, both amounts read 0.00."""
    paid = transaction.paid_at is not None
    return common(transaction) | {
        "amountPaid": text(transaction.paid),
        "totalPayable": text(transaction.charge.amount if paid else 0),
        "settlementAmount": text(transaction.settled) if paid else None,
        "paidOn": stamp(transaction.paid_at) if transaction.paid_at is not None else None,
        "cardDetails": None,
        "accountDetails": PAYER | {"amountPaid": text(transaction.paid)} if paid else None,
        "accountPayments": [PAYER | {"amountPaid": text(transaction.paid)}] if paid else [],
    }


def paid_event(transaction: Transaction, now: float) -> dict[str, Any]:
    return common(transaction) | {
        "amountPaid": figure(transaction.paid),
        "totalPayable": figure(transaction.charge.amount),
        "settlementAmount": text(transaction.settled),
        "paidOn": stamp(now),
        "cardDetails": {},
        "paymentSourceInformation": [
            PAYER | {"amountPaid": figure(transaction.paid), "sessionId": transaction.transaction_reference[-6:]}
        ],
        "destinationAccountInformation": BANK | {"accountNumber": transaction.account_number or "6000140770"},
        "metaData": transaction.metadata,
    }


def rejected_event(transaction: Transaction, now: float) -> dict[str, Any]:
    """Less than due was transferred, and goes back. Here the source is an object, in the other event a list."""
    short = max(transaction.charge.amount // 2, 1)
    return {
        "product": product(transaction),
        "amount": figure(transaction.charge.amount),
        "paymentSourceInformation": PAYER
        | {"amountPaid": figure(short), "sessionId": "090405230626180003067844645188"},
        "transactionReference": transaction.transaction_reference,
        "created_on": stamp(now),
        "paymentReference": transaction.reference,
        "paymentRejectionInformation": {
            "bankCode": "035",
            "destinationAccountNumber": transaction.account_number or "7023576853",
            "bankName": "Wema bank",
            "rejectionReason": "UNDER_PAYMENT",
            "expectedAmount": figure(transaction.charge.amount),
        },
        "paymentDescription": transaction.description,
        "customer": customer(transaction),
    }


def common(transaction: Transaction) -> dict[str, Any]:
    return {
        "product": product(transaction),
        "transactionReference": transaction.transaction_reference,
        "paymentReference": transaction.reference,
        "paymentDescription": transaction.description,
        "paymentMethod": "CARD" if transaction.methods == ["CARD"] else "ACCOUNT_TRANSFER",
        "currency": transaction.currency,
        "paymentStatus": transaction.status,
        "customer": customer(transaction),
    }


def product(transaction: Transaction) -> dict[str, Any]:
    return {"type": "API_NOTIFICATION", "reference": transaction.reference}


def customer(transaction: Transaction) -> dict[str, Any]:
    return {"email": transaction.email, "name": transaction.name or transaction.email}


def slashed(seconds: float | None) -> str | None:
    """25/07/2022 11:20:20 AM, as refunds and transfers tell the time."""
    return f"{datetime.fromtimestamp(seconds, LAGOS):%d/%m/%Y %I:%M:%S %p}" if seconds is not None else None


def refunded(refund: Refunding, kind: str) -> dict[str, Any]:
    return {
        "refundReference": refund.reference,
        "transactionReference": refund.transaction.transaction_reference,
        "refundReason": refund.reason,
        "customerNote": refund.note,
        "refundAmount": figure(refund.amount),
        "refundType": kind,
        "refundStatus": refund.status,
        "refundStrategy": "MERCHANT_WALLET",
        "comment": "Transaction refund is in progress."
        if refund.status == "PENDING"
        else "Transaction refund processed.",
        "completedOn": slashed(refund.completed_at),
        "createdOn": slashed(refund.created_at),
    }


def refund_event(refund: Refunding) -> dict[str, Any]:
    """No currency, no id but the merchant's, and `merchantReason` for what is `refundReason` elsewhere."""
    return {
        "merchantReason": refund.reason,
        "transactionReference": refund.transaction.transaction_reference,
        "completedOn": slashed(refund.completed_at),
        "refundStatus": refund.status,
        "customerNote": refund.note,
        "createdOn": slashed(refund.created_at),
        "refundReference": refund.reference,
        "refundAmount": figure(refund.amount),
    }


def destination(transfer: Transferring) -> dict[str, Any]:
    return {
        "destinationAccountName": transfer.account_name,
        "destinationBankName": transfer.bank_name,
        "destinationAccountNumber": transfer.account_number,
        "destinationBankCode": transfer.bank_code,
    }


def disbursed(transfer: Transferring) -> dict[str, Any]:
    """The answer to an order: no currency, no reference of Monnify's, and `totalFee` for what is `fee` elsewhere."""
    created = datetime.fromtimestamp(transfer.charge.created_at, UTC)
    return destination(transfer) | {
        "amount": figure(transfer.charge.amount),
        "reference": transfer.charge.reference,
        "status": transfer.status,
        "dateCreated": f"{created:%Y-%m-%dT%H:%M:%S}.{created.microsecond // 1000:03d}+00:00",
        "totalFee": figure(FEE),
        "comment": transfer.text,
    }


def disbursement(transfer: Transferring) -> dict[str, Any]:
    created = datetime.fromtimestamp(transfer.charge.created_at, UTC)
    return destination(transfer) | {
        "amount": figure(transfer.charge.amount),
        "reference": transfer.charge.reference,
        "narration": transfer.narration,
        "currency": "NGN",
        "fee": figure(FEE),
        "twoFaEnabled": transfer.needs_code,
        "status": transfer.status,
        "transactionDescription": transfer.text,
        "transactionReference": transfer.charge.id,
        "createdOn": f"{created:%Y-%m-%dT%H:%M:%S}.{created.microsecond // 1000:03d}+00:00",
        "sourceAccountNumber": transfer.source,
    }


def disbursement_event(transfer: Transferring) -> dict[str, Any]:
    return destination(transfer) | {
        "transactionReference": transfer.charge.id,
        "reference": transfer.charge.reference,
        "narration": transfer.narration,
        "currency": "NGN",
        "amount": figure(transfer.charge.amount),
        "status": transfer.status,
        "fee": figure(FEE),
        "transactionDescription": transfer.text,
        "sessionId": "" if transfer.status == "FAILED" else "090405240513211816637369129129",
        "createdOn": slashed(transfer.charge.created_at),
        "completedOn": slashed(transfer.ended_at),
    }


def monnify_headers(secret: str | None, body: bytes) -> Headers:
    """Without a secret no signature, as the sandbox was seen to send."""
    headers = {"Content-Type": "application/json"}
    if secret is not None:
        headers["monnify-signature"] = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
    return headers
