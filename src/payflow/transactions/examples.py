"""One payment as the OpenAPI document shows it: how it starts, how it ends, and each event there is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ID = "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50"
_URL = "https://checkout.paystack.com/3ni8kdavz62431k"
_NEXT_ACTION = {"type": "redirect", "url": _URL}

STARTED: dict[str, Any] = {
    "id": _ID,
    "kind": "payment",
    "reference": "pay01m7yqggjzfs1a3vfakgqbn0x5",
    "status": "requires_action",
    "amount": "5000.00",
    "amount_minor": 500000,
    "currency": "NGN",
    "paid_minor": 0,
    "fee_minor": None,
    "refunded_minor": 0,
    "provider": "paystack",
    "method": None,
    "description": "Order 1234",
    "customer": {"email": "ada@example.com", "phone": None, "name": "Ada Obi"},
    "customer_id": "customer-7",
    "metadata": {"order": "1234"},
    "return_url": "https://shop.example/return",
    "next_action": _NEXT_ACTION,
    "checkout_url": _URL,
    "failure": None,
    "version": 2,
    "next_check_at": "2026-11-21T10:00:20.000000Z",
    "expires_at": "2026-11-21T11:05:00.000000Z",
    "created_at": "2026-11-21T10:00:00.000000Z",
    "updated_at": "2026-11-21T10:00:00.400000Z",
    "ended_at": None,
}
COMPLETED: dict[str, Any] = {
    **STARTED,
    "status": "completed",
    "paid_minor": 500000,
    "fee_minor": 17500,
    "next_action": None,
    "version": 3,
    "next_check_at": None,
    "updated_at": "2026-11-21T10:01:07.000000Z",
    "ended_at": "2026-11-21T10:01:07.000000Z",
}
ATTEMPT: dict[str, Any] = {
    "id": "0199b2f4-8c1f-7e21-8a00-2b3c4d5e6f70",
    "number": 1,
    "operation": "collect",
    "provider": "paystack",
    "reference": "att01m7yqggjzf6tryzbw846c28h0",
    "provider_references": ["4099260516"],
    "receipt": None,
    "status": "succeeded",
    "amount_minor": 500000,
    "currency": "NGN",
    "paid_minor": 500000,
    "paid_currency": "NGN",
    "fee_minor": 17500,
    "raw_status": "success",
    "failure": None,
    "routing": {"reason": "named by the caller"},
    "created_at": "2026-11-21T10:00:00.000000Z",
}
_SUMMARY: dict[str, Any] = {
    "reference": STARTED["reference"],
    "amount": "5000.00",
    "amount_minor": 500000,
    "currency": "NGN",
    "provider": "paystack",
}
_RECEIVED: dict[str, Any] = {
    "attempt_reference": ATTEMPT["reference"],
    "received_minor": 500000,
    "received_currency": "NGN",
}
_REFUND: dict[str, Any] = {
    "refund_id": "01a1fdb9-9d11-7c55-8a0e-6f6d1f0f7a21",
    "refund_reference": "ref01m7yvhkewe88vrr94gfj27r8d",
    "refund_amount": "1500.00",
    "refund_amount_minor": 150_000,
}
_DECLINED = {"failure": {"code": "card_declined", "message": "The card was declined."}}


@dataclass(frozen=True)
class ShownEvent:
    """What an event of a payment means, and how it looks."""

    meaning: str
    example: dict[str, Any]


def _event(sequence: int, name: str, status: str, actor: str, **data: Any) -> dict[str, Any]:
    return {
        "id": f"0199b2f4-8c{sequence:02d}-7a4b-8e00-1a2b3c4d5e6f",
        "type": name if "." in name else f"payment.{name}",
        "transaction_id": _ID,
        "sequence": sequence,
        "status": status,
        "data": {**_SUMMARY, **data},
        "actor": actor,
        "created_at": f"2026-11-21T10:0{sequence}:00.000000Z",
    }


PAYMENT_EVENTS: Mapping[str, ShownEvent] = {
    shown.example["type"]: shown
    for shown in (
        ShownEvent("The payment was recorded; no provider knows of it yet.", _event(1, "initiated", "pending", "user")),
        ShownEvent(
            "The customer must act: `data.next_action` says how.",
            _event(2, "requires_action", "requires_action", "provider", next_action=_NEXT_ACTION, checkout_url=_URL),
        ),
        ShownEvent(
            "The provider works on it, or nobody knows yet whether it does. It is asked again.",
            _event(2, "processing", "processing", "provider"),
        ),
        ShownEvent(
            "One attempt was declined; the customer may still try another.",
            _event(
                3, "attempt_failed", "requires_action", "provider", attempt_reference=ATTEMPT["reference"], **_DECLINED
            ),
        ),
        ShownEvent(
            "The money was paid. Deliver.",
            _event(3, "completed", "completed", "provider", paid_minor=500000, fee_minor=17500),
        ),
        ShownEvent("It ended without money.", _event(3, "failed", "failed", "provider", **_DECLINED)),
        ShownEvent("You gave it up, or the customer did.", _event(3, "cancelled", "cancelled", "user")),
        ShownEvent("The customer's time to pay is over.", _event(3, "expired", "expired", "system")),
        ShownEvent(
            "Something differs, such as the amount paid. A person decides; do not deliver yet.",
            _event(
                3,
                "under_review",
                "under_review",
                "provider",
                **{**_RECEIVED, "received_minor": 250000},
                reason="amount_mismatch",
            ),
        ),
        ShownEvent(
            "The customer paid twice. The second payment was set aside.",
            _event(4, "duplicate_detected", "completed", "provider", **_RECEIVED, reason="duplicate_payment"),
        ),
        ShownEvent(
            "The money was taken back, as by a chargeback.",
            _event(4, "reversed", "reversed", "provider", reason="chargeback"),
        ),
        ShownEvent(
            "A refund is on its way to the customer. `data.attention` says if the provider waits for somebody.",
            _event(4, "refund.processing", "completed", "user", **_REFUND, refunded_minor=0),
        ),
        ShownEvent(
            "The customer has the money back; the payment is `partially_refunded` or `refunded`.",
            _event(5, "refund.completed", "partially_refunded", "provider", **_REFUND, refunded_minor=150_000),
        ),
        ShownEvent(
            "The refund did not work, also late (`data.late`): the money is the merchant's again.",
            _event(5, "refund.failed", "completed", "provider", **_REFUND, refunded_minor=0, **_DECLINED),
        ),
        ShownEvent(
            "Nobody can say how the refund ended. A person decides; it still counts as given back.",
            _event(5, "refund.under_review", "completed", "system", **_REFUND, refunded_minor=0, reason="unresolved"),
        ),
    )
}
TIMELINE = [PAYMENT_EVENTS[f"payment.{name}"].example for name in ("initiated", "requires_action", "completed")]
DETAIL: dict[str, Any] = {**COMPLETED, "attempts": [ATTEMPT], "refunds": [], "timeline": TIMELINE}
PAGE: dict[str, Any] = {
    "data": [COMPLETED],
    "page": 1,
    "limit": 1,
    "has_more": True,
    "next_cursor": _ID,
}

REFUND: dict[str, Any] = {
    "id": "01a1fdb9-9d11-7c55-8a0e-6f6d1f0f7a21",
    "payment_id": STARTED["id"],
    "reference": "ref01m7yvhkewe88vrr94gfj27r8d",
    "status": "processing",
    "amount": "1500.00",
    "amount_minor": 150_000,
    "currency": "NGN",
    "reason": "Returned goods",
    "failure": None,
    "next_check_at": "2026-11-21T10:49:29.000000Z",
    "created_at": "2026-11-21T10:49:09.000000Z",
    "updated_at": "2026-11-21T10:49:09.000000Z",
}
