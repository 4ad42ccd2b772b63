"""Flutterwave's shapes: the envelope, refusals, one try of a payment as answers, lists and events show it.

Amounts are written in major units, as JSON numbers; inside they are counted in minor units, so that none is a float.
"""

import json
import zlib
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
from starlette.responses import Response

from payflow.simulator.state import Charge, html_error, iso, reply

# Decimals of each currency that is taken.
CURRENCIES = {
    **dict.fromkeys(("NGN", "GHS", "KES", "TZS", "ZMW", "MWK", "ZAR", "USD", "EUR", "GBP"), 2),
    **dict.fromkeys(("UGX", "RWF", "XAF", "XOF"), 0),
}
PAYMENT_TYPES = {"KES": ("mpesa", "MPESA_TRANSACTION"), "GHS": ("mobilemoneygh", "MOBILEMONEYGH_TRANSACTION")}
FEE_PERMILLE = 14
MOST = 10**13
GATEWAY_TIMEOUT = "An error occurred. Please contact support"


@dataclass
class Try:
    """One transaction: amounts in minor units."""

    id: int
    tx_ref: str
    amount: int
    currency: str
    customer: dict[str, Any]
    created_at: float
    status: str = "pending"  # pending | successful | failed
    processor_response: str = "Pending"
    fee_on_top: bool = False
    meta: Any = None
    payment_type: str | None = None  # of a direct charge
    event_type: str = ""

    @property
    def flw_ref(self) -> str:
        return f"SIM/FLW{self.id}"

    @property
    def ussd(self) -> str:
        return f"*566*002*{self.id}#"

    @property
    def fee(self) -> int:
        return self.amount * FEE_PERMILLE // 1000

    @property
    def charged(self) -> int:
        return self.amount + (self.fee if self.fee_on_top else 0)


@dataclass
class Link:
    """A page and the tries on it; or a direct charge, whose page is only that of its redirect."""

    charge: Charge
    code: str
    redirect_url: str
    customer: dict[str, Any]
    meta: Any
    active: bool = True
    direct: bool = False
    tries: list[Try] = field(default_factory=list)


def parsed(body: bytes) -> Any:
    """ValueError for what is not JSON."""
    return json.loads(body, parse_float=Decimal)


def minor_units(value: Any, currency: str) -> int | None:
    """`7500`, `"7500"` and `"7500.00"` are taken; what is not a positive number of minor units is not."""
    try:
        amount = Decimal(value) if type(value) in (int, str, Decimal) else Decimal(0)
    except InvalidOperation:
        return None
    if not (amount.is_finite() and 0 < amount < MOST):
        return None
    scaled = amount.scaleb(CURRENCIES[currency])
    return int(scaled) if scaled == scaled.to_integral_value() else None


def major(minor: int, currency: str) -> Any:
    """100, 19.9: a JSON number without needless decimals."""
    text = f"{Decimal(minor).scaleb(-CURRENCIES[currency]):f}"
    return orjson.Fragment(text.rstrip("0").rstrip(".") if "." in text else text)


def success(message: str, data: Any, meta: Any = None) -> Response:
    return reply({"status": "success", "message": message, "data": data} | ({"meta": meta} if meta else {}))


def paged(message: str, rows: list[dict[str, Any]], page: str | None, size: int) -> Response:
    number = int(page) if page and page.isascii() and page.isdigit() and int(page) else 1
    page_info = {"total": len(rows), "current_page": number, "total_pages": max(-(-len(rows) // size), 1)}
    return success(message, rows[(number - 1) * size : number * size], {"page_info": page_info})


def initiated(data: Any, authorization: Any) -> Response:
    """Either may be missing, and then its key is."""
    body = {"status": "success", "message": "Charge initiated"} | ({"data": data} if data else {})
    return reply(body | ({"meta": {"authorization": authorization}} if authorization else {}))


def error(status: int, message: str) -> Response:
    return reply({"status": "error", "message": message, "data": None}, status)


def failure(kind: str) -> Response:
    match kind:
        case "html_error":
            return html_error()
        case "rate_limited":
            return error(429, "Too many requests")
        case "refuse":
            return error(400, "Merchant cannot perform transactions without approval.")
        case _:
            return error(503, GATEWAY_TIMEOUT)


def common(tried: Try) -> dict[str, Any]:
    payment_type = tried.payment_type or PAYMENT_TYPES.get(tried.currency, ("card", ""))[0]
    return {
        "id": tried.id,
        "tx_ref": tried.tx_ref,
        "flw_ref": tried.flw_ref,
        "device_fingerprint": "N/A",
        "amount": major(tried.amount, tried.currency),
        "currency": tried.currency,
        "charged_amount": major(tried.charged, tried.currency),
        "app_fee": major(tried.fee, tried.currency),
        "merchant_fee": 0,
        "processor_response": tried.processor_response,
        "auth_model": "PIN",
        "ip": "127.0.0.1",
        "narration": "CARD Transaction ",
        "status": tried.status,
        "payment_type": payment_type,
        "created_at": iso(tried.created_at),
        "account_id": 17321,
    }


def person(tried: Try) -> dict[str, Any]:
    email = str(tried.customer.get("email"))
    return {
        "id": 200_000_000 + zlib.crc32(email.encode()) % 100_000_000,
        "name": tried.customer.get("name") or "Anonymous customer",
        "phone_number": tried.customer.get("phonenumber") or "N/A",
        "email": email,
        "created_at": iso(tried.created_at),
    }


def card(tried: Try, country: str) -> dict[str, Any]:
    if tried.payment_type or tried.currency in PAYMENT_TYPES:
        return {}
    known = {"first_6digits": "553188", "last_4digits": "2950", "issuer": "MASTERCARD  CREDIT", "country": country}
    return {"card": known | {"type": "MASTERCARD", "expiry": "09/32"}}


def verified(tried: Try) -> dict[str, Any]:
    settled = major(tried.charged - tried.fee, tried.currency)
    extra = {"meta": tried.meta, "amount_settled": settled, "customer": person(tried)}
    return common(tried) | card(tried, "NIGERIA NG") | extra


def listed(tried: Try) -> dict[str, Any]:
    """Here the id is text."""
    settled = major(tried.charged - tried.fee, tried.currency)
    extra = {"id": str(tried.id), "amount_settled": settled, "meta": tried.meta, "customer": person(tried)}
    return common(tried) | card(tried, "NG") | extra


def event(tried: Try) -> dict[str, Any]:
    data = common(tried) | {"customer": person(tried) | {"phone_number": tried.customer.get("phonenumber")}}
    kind = tried.event_type or PAYMENT_TYPES.get(tried.currency, ("", "CARD_TRANSACTION"))[1]
    return {"event": "charge.completed", "data": data | card(tried, "NG"), "event.type": kind}


def charged(tried: Try) -> dict[str, Any]:
    """As the answer to a direct charge shows it."""
    return common(tried) | {"fraud_status": "ok", "charge_type": "normal", "customer": person(tried)}


def account_to_pay(tried: Try, expires_at: float) -> dict[str, Any]:
    return {
        "transfer_reference": tried.flw_ref,
        "transfer_account": "0067100155",
        "transfer_bank": "Mock Bank",
        "account_expiration": int(expires_at * 1000),
        "transfer_note": "Mock note",
        "transfer_amount": f"{Decimal(tried.amount).scaleb(-CURRENCIES[tried.currency]):.2f}",
        "mode": "banktransfer",
    }
