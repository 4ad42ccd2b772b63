"""Daraja's words and shapes: acknowledgement, callback, result codes, refusals, and the checks of single fields."""

import base64
import binascii
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import orjson
from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator.state import Charge, NotPossible, html_error, reply, token

RECEIPT_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
PHONE = re.compile(r"254[17]\d{8}")
FORBIDDEN_IN_URLS = re.compile(r"mpesa|m-pesa|safaricom|exec?|cmd|sql|query", re.IGNORECASE)
ACCEPTED = "Success. Request accepted for processing"

# Daraja words the same result differently in callback and query.
RESULTS: dict[str, tuple[int, str, str]] = {
    "pay": (0, "The service request is processed successfully.", "The service request is processed successfully."),
    "decline": (2001, "The initiator information is invalid.", "The initiator information is invalid."),
    "insufficient_funds": (1, "The balance is insufficient for the transaction.", "The balance is insufficient."),
    "cancel": (1032, "Request cancelled by user", "Request Cancelled by user."),
    "expire": (1037, "No response from user.", "DS timeout user cannot be reached."),
}
ENDS = {"cancel": "cancelled", "expire": "expired"}


class Refused(Exception):
    def __init__(self, response: Response) -> None:
        self.response = response


@dataclass
class Push:
    charge: Charge
    checkout_id: str
    merchant_id: str
    phone: str
    shillings: int
    callback_url: str
    result: tuple[int, str, str] | None = None
    receipt: str | None = None
    paid_shillings: int = 0


def accepted(push: Push) -> Response:
    return reply(
        {
            "MerchantRequestID": push.merchant_id,
            "CheckoutRequestID": push.checkout_id,
            "ResponseCode": "0",
            "ResponseDescription": ACCEPTED,
            "CustomerMessage": ACCEPTED,
        }
    )


def callback(push: Push, result: tuple[int, str, str], items: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "MerchantRequestID": push.merchant_id,
        "CheckoutRequestID": push.checkout_id,
        "ResultCode": result[0],
        "ResultDesc": result[1],
    }
    if items is not None:
        told["CallbackMetadata"] = {"Item": items}
    return {"Body": {"stkCallback": told}}


def metadata(push: Push, now: datetime) -> list[dict[str, Any]]:
    return [
        {"Name": "Amount", "Value": orjson.Fragment(f"{push.paid_shillings}.00")},  # decimals, though whole shillings
        {"Name": "MpesaReceiptNumber", "Value": push.receipt},
        {"Name": "Balance"},  # comes without a value
        {"Name": "TransactionDate", "Value": int(f"{now:%Y%m%d%H%M%S}")},
        {"Name": "PhoneNumber", "Value": int(push.phone)},
    ]


def result_of(action: str) -> tuple[int, str, str]:
    if action in RESULTS:
        return RESULTS[action]
    if code := re.fullmatch(r"code_(\d{1,9})", action):
        return int(code[1]), f"Result {code[1]}", f"Result {code[1]}"
    raise NotPossible(f"an M-Pesa push knows no {action!r}")


def receipt(now: datetime) -> str:
    """Ten characters; the first three are year (S is 2024), month and day."""
    day = "0123456789ABCDEFGHIJKLMNOPQRSTUV"[now.day]
    return f"{chr(65 + (now.year - 2006) % 26)}{chr(64 + now.month)}{day}{token(7, RECEIPT_ALPHABET)}"


def error(status: int, code: str, message: str) -> Response:
    request_id = f"{secrets.token_hex(2)}-{secrets.token_hex(2)}-{secrets.token_hex(2)}-{secrets.token_hex(10)}"
    return reply({"requestId": request_id, "errorCode": code, "errorMessage": message}, status)


def failure(kind: str) -> Response:
    match kind:
        case "html_error":
            return html_error()
        case "refuse":
            return error(500, "500.001.1001", "Merchant does not exist")
        case "rate_limited":
            rate = "messagesPerPeriod=5, periodInMicroseconds=60000000, maxBurstMessageCount=1.0"
            fault = f"Spike arrest violation. Allowed rate : MessageRate{{{rate}}}"
            detail = {"errorcode": "policies.ratelimit.SpikeArrestViolation"}
            return reply({"fault": {"faultstring": fault, "detail": detail}}, 429)
        case _:
            return error(500, "500.003.1001", "Internal Server Error")


def refuse_first_invalid(checks: dict[str, bool]) -> None:
    for name, valid in checks.items():
        if not valid:
            raise Refused(error(400, "400.002.02", f"Bad Request - Invalid {name}"))


async def read_body(request: Request) -> dict[str, Any]:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Refused(
            error(400, "400.002.02", "Bad Request - Invalid BusinessShortCode")
        )  # misleading, as the real one
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise Refused(error(400, "400.002.05", "Invalid Request Payload"))
    return body


def decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""


def is_phone(value: Any) -> bool:
    return PHONE.fullmatch(str(value)) is not None


def is_timestamp(value: Any) -> bool:
    try:
        datetime.strptime(str(value), "%Y%m%d%H%M%S")
    except ValueError:
        return False
    return len(str(value)) == 14


def is_callback_url(value: Any) -> bool:
    """A host with upper-case letters and any of the forbidden words were seen to be refused."""
    parts = urlsplit(str(value or ""))
    host = parts.netloc.rpartition("@")[2]
    return (
        parts.scheme in ("http", "https")
        and bool(host)
        and host == host.lower()
        and not FORBIDDEN_IN_URLS.search(str(value))
    )
