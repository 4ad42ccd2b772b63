"""What the OpenAPI document shows: one payment, how it starts and how it ends, and each event there is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True)
class _Subject:
    """What events are about: the first word of their types, and what each of them tells."""

    prefix: str
    reference: str
    amount: str
    amount_minor: int
    provider: str = "paystack"

    @property
    def summary(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "amount": self.amount,
            "amount_minor": self.amount_minor,
            "currency": "NGN",
            "provider": self.provider,
        }

    @property
    def wallet_amount(self) -> dict[str, Any]:
        return {"wallet_amount": self.amount, "wallet_amount_minor": self.amount_minor}


_PAYMENT = _Subject("payment", STARTED["reference"], STARTED["amount"], STARTED["amount_minor"])
_WITHDRAWAL = _Subject("withdrawal", "wdr01m7yqggjzfs1a3vfakgqbn0x5", "1500.00", 150_000)
_PURCHASE = _Subject("airtime", "air01m7yqggjzfs1a3vfakgqbn0x5", "500.00", 50_000, "vtpass")
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
_DECIDED: dict[str, Any] = {"reason": "Reported as stolen."}
_ADMINISTRATOR = "0199b2f4-7a00-7c11-9d00-3e4f5a6b7c80"
_NOT_SENT: dict[str, Any] = {"failure": {"code": "transfer_failed", "message": "The transfer failed."}}
_NOT_DELIVERED: dict[str, Any] = {
    "failure": {"code": "declined", "message": "The network did not deliver. Nothing was bought."}
}
_LOOKED_AT: dict[str, Any] = {"reason": "unresolved", "detail": "The provider gave no final answer in time."}
_DECLINED: dict[str, Any] = {"failure": {"code": "card_declined", "message": "The card was declined."}}


@dataclass(frozen=True)
class ShownEvent:
    """What an event means, and how it looks."""

    meaning: str
    example: dict[str, Any]


def _event(
    sequence: int, name: str, status: str, actor: str, subject: _Subject = _PAYMENT, **data: Any
) -> dict[str, Any]:
    return {
        "id": f"0199b2f4-8c{sequence:02d}-7a4b-8e00-1a2b3c4d5e6f",
        "type": name if "." in name else f"{subject.prefix}.{name}",
        "transaction_id": _ID,
        "sequence": sequence,
        "status": status,
        "data": {**subject.summary, **data},
        "actor": actor,
        "created_at": f"2026-11-21T10:0{sequence}:00.000000Z",
    }


def _of_no_transaction(name: str, **data: Any) -> dict[str, Any]:
    none = {"transaction_id": None, "sequence": None, "status": None}
    return {**_event(1, name, "", "user"), **none, "data": {"currency": "NGN", **data}}


def _by_type(*events: ShownEvent) -> Mapping[str, ShownEvent]:
    return {shown.example["type"]: shown for shown in events}


_withdrawal = partial(_event, subject=_WITHDRAWAL)
_purchase = partial(_event, subject=_PURCHASE)

PAYMENT_EVENTS = _by_type(
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
        _event(3, "attempt_failed", "requires_action", "provider", attempt_reference=ATTEMPT["reference"], **_DECLINED),
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
WITHDRAWAL_EVENTS = _by_type(
    ShownEvent(
        "The withdrawal was recorded. `data.approval` says if somebody has to let it go first.",
        _withdrawal(1, "initiated", "pending", "user"),
    ),
    ShownEvent(
        "Somebody who did not ask for it let it go; its provider is asked now.",
        _withdrawal(3, "approved", "pending", "user", reason="Checked against the invoice."),
    ),
    ShownEvent(
        "The provider wants a code before it sends: `data.next_action` says which.",
        _withdrawal(
            3,
            "requires_action",
            "requires_action",
            "provider",
            next_action={"type": "otp", "display_text": "Enter the code that the provider sent you."},
            checkout_url=None,
        ),
    ),
    ShownEvent(
        "The provider works on it, or nobody knows yet whether it does. It is asked again; nothing is sent twice.",
        _withdrawal(3, "processing", "processing", "provider"),
    ),
    ShownEvent(
        "The provider did not take it, or its transfer failed.",
        _withdrawal(4, "attempt_failed", "processing", "provider", attempt_reference=ATTEMPT["reference"], **_NOT_SENT),
    ),
    ShownEvent(
        "The money was sent.",
        _withdrawal(4, "completed", "completed", "provider", paid_minor=150_000, fee_minor=1_000),
    ),
    ShownEvent("It was not sent.", _withdrawal(5, "failed", "failed", "provider", **_NOT_SENT)),
    ShownEvent(
        "Nobody sent it: you gave it up, or it was not approved (`data.reason`).",
        _withdrawal(3, "cancelled", "cancelled", "user"),
    ),
    ShownEvent(
        "Nobody can say whether it was sent, or something differs. A person decides; its money stays held.",
        _withdrawal(4, "under_review", "under_review", "system", **_LOOKED_AT),
    ),
    ShownEvent(
        "The money came back after it had been sent.",
        _withdrawal(6, "reversed", "reversed", "provider"),
    ),
)
AIRTIME_EVENTS = _by_type(
    ShownEvent(
        "The purchase was recorded; the provider does not know of it yet.",
        _purchase(1, "initiated", "pending", "user", service_id="mtn", variation_code=None),
    ),
    ShownEvent(
        "The provider works on it, or nobody knows yet whether it does. It is asked again; nothing is bought twice.",
        _purchase(3, "processing", "processing", "provider"),
    ),
    ShownEvent(
        "The provider did not take it, or could not deliver.",
        _purchase(
            4, "attempt_failed", "processing", "provider", attempt_reference=ATTEMPT["reference"], **_NOT_DELIVERED
        ),
    ),
    ShownEvent(
        "It was delivered.",
        _purchase(4, "completed", "completed", "provider", paid_minor=50_000, fee_minor=None),
    ),
    ShownEvent("It was not delivered.", _purchase(5, "failed", "failed", "provider", **_NOT_DELIVERED)),
    ShownEvent(
        "Nobody can say whether it was delivered, or something differs. A person decides; its money stays held.",
        _purchase(4, "under_review", "under_review", "system", **_LOOKED_AT),
    ),
    ShownEvent(
        "The provider gave the money back after it had delivered.",
        _purchase(6, "reversed", "reversed", "provider"),
    ),
)
WALLET_EVENTS = _by_type(
    ShownEvent(
        "An amount was set aside for a withdrawal, a purchase or the refund of a funding.",
        _withdrawal(2, "wallet.held", "pending", "user", **_WITHDRAWAL.wallet_amount),
    ),
    ShownEvent(
        "What was set aside can be spent again: it certainly was not sent.",
        _withdrawal(6, "wallet.released", "failed", "provider", **_WITHDRAWAL.wallet_amount),
    ),
    ShownEvent(
        "What was set aside has gone.",
        _withdrawal(5, "wallet.debited", "completed", "provider", **_WITHDRAWAL.wallet_amount),
    ),
    ShownEvent(
        "Money came: a funding, or what had gone and came back.",
        _event(4, "wallet.credited", "completed", "provider", **_PAYMENT.wallet_amount),
    ),
    ShownEvent(
        "Nothing leaves the wallet until somebody has looked. By an administrator, with `data.reason` and `data.by`; or, as "
        "an event of its transaction, because more was taken back than the wallet held.",
        _of_no_transaction("wallet.frozen", status="frozen", **_DECIDED, by=_ADMINISTRATOR),
    ),
    ShownEvent(
        "An administrator made it active again.",
        _of_no_transaction("wallet.unfrozen", status="active", **_DECIDED, by=_ADMINISTRATOR),
    ),
    ShownEvent(
        "Its owner switched it off: nothing leaves it, money still comes in.",
        _of_no_transaction("wallet.inactive", status="inactive"),
    ),
    ShownEvent("Its owner switched it on again.", _of_no_transaction("wallet.active", status="active")),
)
EVENTS_BY_TAG: Mapping[str, Mapping[str, ShownEvent]] = {
    "payments": PAYMENT_EVENTS,
    "wallet": {**WITHDRAWAL_EVENTS, **WALLET_EVENTS},
    "airtime": AIRTIME_EVENTS,
}
EVENTS = {name: shown for events in EVENTS_BY_TAG.values() for name, shown in events.items()}
TIMELINE = [EVENTS[f"payment.{name}"].example for name in ("initiated", "requires_action", "completed")]
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
