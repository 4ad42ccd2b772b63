"""Paystack's shapes: envelopes, refusals, the transaction in its five dresses, refunds and the webhook bodies."""

import zlib
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from payflow.simulator.state import Charge, html_error, iso, reply

# Basis points of the amount, flat part, cap; in minor units, as Paystack's price lists have them.
FEES = {"NGN": (150, 10_000, 200_000), "GHS": (195, 0, None), "ZAR": (290, 100, None), "KES": (150, 0, None)}
FEES_ELSEWHERE = (390, 0, None)
NGN_FLAT_FEE_FROM = 250_000

GATEWAY_RESPONSES = {
    "success": "Successful",
    "decline": "Declined",
    "insufficient_funds": "Insufficient Funds",
    "cancel": "The transaction was not completed",
    "expire": "The transaction was not completed",
}
CARD = {
    "bin": "408408",
    "last4": "4081",
    "exp_month": "12",
    "exp_year": "2030",
    "channel": "card",
    "card_type": "visa ",
    "bank": "TEST BANK",
    "country_code": "NG",
    "brand": "visa",
    "reusable": True,
    "account_name": None,
}


@dataclass
class Refund:
    id: int
    transaction: "Transaction"
    amount: int
    created_at: float
    customer_note: str
    merchant_note: str
    silent: bool = False
    status: str = "pending"  # pending | processing | processed | failed | needs-attention
    updated_at: float = 0.0


@dataclass
class Transaction:
    charge: Charge
    id: int
    access_code: str
    email: str
    callback_url: str | None
    metadata: Any
    channel: str
    authorization_code: str
    created_at: float
    status: str = "abandoned"  # an unpaid checkout is "abandoned" from its first second
    amount: int = 0
    currency: str = "NGN"
    gateway_response: str = "The transaction was not completed"
    paid_at: float | None = None
    refunds: list[Refund] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)  # of a direct charge, those that are left
    waiting: str = ""  # what a direct charge waits for, in the words of its answers

    @property
    def reference(self) -> str:
        return self.charge.reference

    @property
    def customer_number(self) -> int:
        return 100_000_000 + zlib.crc32(self.email.encode()) % 100_000_000

    @property
    def remaining(self) -> int:
        return self.charge.money_taken - sum(refund.amount for refund in self.refunds if refund.status != "failed")


def fee(amount: int, currency: str) -> int:
    points, flat, cap = FEES.get(currency, FEES_ELSEWHERE)
    if currency == "NGN" and amount < NGN_FLAT_FEE_FROM:
        flat = 0
    total = amount * points // 10_000 + flat
    return min(total, cap) if cap is not None else total


def success(message: str, data: Any, **more: Any) -> Response:
    return reply({"status": True, "message": message, "data": data, **more})


def refusal(status: int, message: str, code: str, next_step: str, kind: str = "validation_error") -> Response:
    body = {"status": False, "message": message, "meta": {"nextStep": next_step}, "type": kind, "code": code}
    return reply(body, status)


def invalid_key() -> Response:
    return reply({"status": False, "message": "Invalid key"}, 401)


def duplicate_reference() -> Response:
    body = {
        "status": False,
        "message": "Duplicate Transaction Reference",
        "meta": {"nextStep": "Try and create the Transaction or Charge with a new reference"},
        "type": "validation_error",
        "code": "duplicate_reference",
        "errorCodeMappingNotFound": False,
    }
    return reply(body, 400)


def failure(kind: str) -> Response:
    match kind:
        case "html_error":
            return html_error()
        case "rate_limited":
            return reply({"status": False, "message": "Too many requests"}, 429, {"Retry-After": "1"})
        case "refuse":
            return refusal(
                400, "Currency not supported by merchant", "unsupported_currency", "Use a supported currency"
            )
        case _:
            body = {"status": False, "code": "unknown", "type": "api_error", "message": "An error occurred"}
            return reply(body, 500)


def customer(transaction: Transaction) -> dict[str, Any]:
    return {
        "id": transaction.customer_number,
        "first_name": None,
        "last_name": None,
        "email": transaction.email,
        "customer_code": f"CUS_{transaction.customer_number:x}",
        "phone": None,
        "metadata": None,
        "risk_action": "default",
        "international_format_phone": None,
    }


def authorization(transaction: Transaction) -> dict[str, Any]:
    if transaction.paid_at is None:
        return {}
    code = transaction.authorization_code
    return {"authorization_code": f"AUTH_{code}", **CARD, "signature": f"SIG_{code}", "channel": transaction.channel}


def log(transaction: Transaction) -> dict[str, Any] | None:
    if transaction.paid_at is None:
        return None
    spent = int(transaction.paid_at - transaction.created_at)
    return {
        "start_time": int(transaction.created_at),
        "time_spent": spent,
        "attempts": 1,
        "errors": 0,
        "success": True,
        "mobile": False,
        "input": [],
        "history": [
            {"type": "action", "message": f"Attempted to pay with {transaction.channel}", "time": spent},
            {"type": "success", "message": f"Successfully paid with {transaction.channel}", "time": spent},
        ],
    }


def common(transaction: Transaction) -> dict[str, Any]:
    paid_at = iso(transaction.paid_at) if transaction.paid_at is not None else None
    created_at = iso(transaction.created_at)
    return {
        "id": transaction.id,
        "domain": "test",
        "status": transaction.status,
        "reference": transaction.reference,
        "amount": transaction.amount,
        "message": None,
        "gateway_response": transaction.gateway_response,
        "paid_at": paid_at,
        "created_at": created_at,
        "channel": transaction.channel,
        "currency": transaction.currency,
        "ip_address": "127.0.0.1",
        "metadata": transaction.metadata,
        "log": log(transaction),
        "fees": fee(transaction.charge.amount, transaction.currency) if transaction.paid_at is not None else None,
        "fees_split": None,
        "authorization": authorization(transaction),
        "customer": customer(transaction),
        "split": {},
        "order_id": None,
        "paidAt": paid_at,
        "createdAt": created_at,
        "requested_amount": transaction.charge.amount,
        "pos_transaction_data": None,
        "source": None,
        "connect": None,
    }


def verified(transaction: Transaction) -> dict[str, Any]:
    return common(transaction) | {
        "receipt_number": None,
        "plan": None,
        "fees_breakdown": None,
        "transaction_date": iso(transaction.created_at),
        "plan_object": {},
        "subaccount": {},
    }


def fetched(transaction: Transaction) -> dict[str, Any]:
    return common(transaction) | {
        "receipt_number": None,
        "helpdesk_link": None,
        "plan": {},
        "subaccount": {},
        "fees_breakdown": None,
        "source": {"type": "api", "source": "merchant_api", "identifier": None},
    }


def listed(transaction: Transaction) -> dict[str, Any]:
    unpaid = dict.fromkeys(("authorization_code", *CARD, "signature")) | {"reusable": False}
    row = common(transaction) | {"plan": {}, "subaccount": {}}
    row["authorization"] = row["authorization"] or unpaid
    row["metadata"] = row["metadata"] if isinstance(row["metadata"], dict) else None
    del row["customer"]["international_format_phone"]
    row["source"] = {
        "source": "merchant_api",
        "type": "api",
        "identifier": None,
        "entry_point": "transaction_initialize",
    }
    return row


def checked(transaction: Transaction) -> dict[str, Any]:
    """The answer of `GET /charge/{reference}`. A direct charge under way tells its step, which verify does not."""
    full = common(transaction)
    if transaction.waiting and transaction.status in ("ongoing", "pending"):
        full["status"] = transaction.waiting
    names = ("amount", "currency", "reference", "domain", "gateway_response", "message", "channel", "fees", "status")
    no_card = dict.fromkeys((*CARD, "signature"), "") | {"authorization_code": None, "reusable": False}
    card = {**no_card, **full["authorization"]}
    del card["account_name"]
    person = full["customer"]
    return {name: full[name] for name in names} | {
        "transaction_date": full["created_at"],
        "redirect_url": transaction.callback_url,
        "metadata": full["metadata"] if isinstance(full["metadata"], dict) else {},
        "authorization": card,
        "customer": {
            name: person[name] for name in ("first_name", "last_name", "email", "customer_code", "phone", "risk_action")
        },
    }


def charge_event(transaction: Transaction) -> dict[str, Any]:
    return common(transaction) | {"plan": {}, "subaccount": {}, "fees_breakdown": None}
