"""How a transaction looks in the API: one builder for every room that answers with one, and its OpenAPI schema."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from payflow.core.clock import rfc3339
from payflow.core.money import format_minor
from payflow.events.types import Event
from payflow.transactions import examples
from payflow.transactions.aggregate import NOT_ASKED_ABOUT, Attempt, Refund, Transaction


def _examples(*values: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(values)})


class CustomerView(BaseModel):
    email: str | None = None
    phone: str | None = None
    name: str | None = None


class FailureView(BaseModel):
    code: str = Field(examples=["card_declined"])
    message: str = Field(examples=["The card was declined."])


class NextActionView(BaseModel):
    """What the customer must do now."""

    type: Literal["redirect", "handset_prompt", "otp", "pin", "phone", "birthday", "address", "ussd", "transfer", "sdk"]
    url: str | None = Field(default=None, description="Send the customer's browser here (redirect).")
    display_text: str | None = Field(default=None, description="Show this to the customer.")
    fields: dict[str, str] | None = None
    expires_at: datetime | None = None


class AttemptView(BaseModel):
    """One call of a provider. It has its own end; a declined attempt does not always end the payment."""

    id: UUID
    number: int
    operation: str
    provider: str
    reference: str = Field(description="What the provider knows this attempt as.")
    provider_references: list[str] = Field(description="The provider's own ids.")
    receipt: str | None
    status: str
    amount_minor: int
    currency: str
    paid_minor: int | None
    paid_currency: str | None
    fee_minor: int | None
    raw_status: str | None = Field(description="The provider's own word.")
    failure: FailureView | None
    routing: dict[str, Any]
    created_at: datetime


class EventView(BaseModel):
    """One entry of the history. `sequence` has no gaps within a transaction."""

    model_config = _examples(examples.TIMELINE[-1])

    id: UUID
    type: str = Field(examples=["payment.completed"])
    transaction_id: UUID | None
    sequence: int | None
    status: str | None
    data: dict[str, Any]
    actor: Literal["user", "provider", "system"]
    created_at: datetime


class TransactionView(BaseModel):
    """A movement of money. Amounts are decimal text in major units, and integers in minor units."""

    model_config = _examples(examples.STARTED)

    id: UUID
    kind: Literal["payment", "funding", "withdrawal", "airtime"]
    reference: str
    status: Literal[
        "pending",
        "requires_action",
        "processing",
        "under_review",
        "completed",
        "failed",
        "cancelled",
        "expired",
        "partially_refunded",
        "refunded",
        "reversed",
    ]
    amount: str
    amount_minor: int
    currency: str
    paid_minor: int
    fee_minor: int | None
    refunded_minor: int
    provider: str | None
    method: str | None
    description: str | None
    customer: CustomerView
    customer_id: str | None
    metadata: dict[str, Any]
    return_url: str | None
    next_action: NextActionView | None
    checkout_url: str | None
    failure: FailureView | None
    version: int = Field(description="The sequence of the last event.")
    next_check_at: datetime | None = Field(
        description="When the provider is asked next, while it is open; null while it waits for approval."
    )
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class RefundView(BaseModel):
    """Money on its way back, or back. Its events are `refund.*` in the payment's history."""

    model_config = _examples(examples.REFUND)

    id: UUID
    payment_id: UUID
    reference: str
    status: Literal["pending", "processing", "completed", "failed", "under_review"] = Field(
        description="`processing` until the provider says how it ended; `completed` may still fail late."
    )
    amount: str
    amount_minor: int
    currency: str
    reason: str | None
    failure: FailureView | None
    next_check_at: datetime | None = Field(description="When the provider is asked next.")
    created_at: datetime
    updated_at: datetime


class RefundList(BaseModel):
    model_config = _examples({"data": [examples.REFUND], "refundable_minor": 350_000})

    data: list[RefundView]
    refundable_minor: int = Field(description="What may still be given back, in minor units.")


class TransactionDetail(TransactionView):
    """The whole transaction: with its attempts, refunds and history."""

    model_config = _examples(examples.DETAIL)

    attempts: list[AttemptView]
    refunds: list[RefundView]
    timeline: list[EventView]


class TransactionPage(BaseModel):
    model_config = _examples(examples.PAGE)

    data: list[TransactionView]
    page: int
    limit: int
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; steadier than page numbers.")


def _next_check(transaction: Transaction) -> datetime | None:
    due = transaction.next_check_at
    return None if due is not None and due >= transaction.created_at + NOT_ASKED_ABOUT else due


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def transaction_json(transaction: Transaction) -> dict[str, Any]:
    """The body of `TransactionView`, ready for JSON."""
    customer = transaction.customer
    failure = None
    if transaction.failure_code is not None:
        failure = {"code": transaction.failure_code, "message": transaction.failure_message or ""}
    return {
        "id": transaction.id,
        "kind": transaction.kind.value,
        "reference": transaction.reference,
        "status": transaction.status.value,
        "amount": transaction.amount.decimal_text(),
        "amount_minor": transaction.amount.minor,
        "currency": transaction.amount.currency,
        "paid_minor": transaction.paid_minor,
        "fee_minor": transaction.fee_minor,
        "refunded_minor": transaction.refunded_minor,
        "provider": transaction.provider,
        "method": transaction.method,
        "description": transaction.description,
        "customer": {"email": customer.email, "phone": customer.phone, "name": customer.name},
        "customer_id": transaction.customer_id,
        "metadata": transaction.metadata,
        "return_url": transaction.return_url,
        "next_action": transaction.next_action,
        "checkout_url": transaction.checkout_url,
        "failure": failure,
        "version": transaction.version,
        "next_check_at": _time(_next_check(transaction)),
        "expires_at": _time(transaction.expires_at),
        "created_at": rfc3339(transaction.created_at),
        "updated_at": rfc3339(transaction.updated_at or transaction.created_at),
        "ended_at": _time(transaction.ended_at),
    }


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    failure = attempt.failure
    return {
        "id": attempt.id,
        "number": attempt.number,
        "operation": attempt.operation.value,
        "provider": attempt.provider,
        "reference": attempt.reference,
        "provider_references": attempt.provider_references,
        "receipt": attempt.receipt,
        "status": attempt.status.value,
        "amount_minor": attempt.amount.minor,
        "currency": attempt.amount.currency,
        "paid_minor": attempt.paid.minor if attempt.paid else None,
        "paid_currency": attempt.paid.currency if attempt.paid else None,
        "fee_minor": attempt.fee_minor,
        "raw_status": attempt.raw_status,
        "failure": {"code": failure.code, "message": failure.message} if failure else None,
        "routing": attempt.routing,
        "created_at": rfc3339(attempt.created_at),
    }


def refund_json(refund: Refund) -> dict[str, Any]:
    """The body of `RefundView`."""
    failure = refund.failure
    return {
        "id": refund.id,
        "payment_id": refund.transaction_id,
        "reference": refund.reference,
        "status": refund.status.value,
        "amount": refund.amount.decimal_text(),
        "amount_minor": refund.amount.minor,
        "currency": refund.amount.currency,
        "reason": refund.reason,
        "failure": {"code": failure.code, "message": failure.message} if failure else None,
        "next_check_at": _time(refund.next_check_at),
        "created_at": rfc3339(refund.created_at),
        "updated_at": rfc3339(refund.updated_at),
    }


def event_json(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "transaction_id": event.transaction_id,
        "sequence": event.sequence,
        "status": event.status,
        "data": event.data,
        "actor": event.origin.actor.value,
        "created_at": rfc3339(event.created_at),
    }


def detail_json(
    transaction: Transaction, attempts: Sequence[Attempt], refunds: Sequence[Refund], timeline: Sequence[Event]
) -> dict[str, Any]:
    """The body of `TransactionDetail`."""
    return {
        **transaction_json(transaction),
        "attempts": [attempt_json(attempt) for attempt in attempts],
        "refunds": [refund_json(refund) for refund in refunds],
        # Read after the row, the history may already be ahead of it; what is shown agrees with its version.
        "timeline": [event_json(event) for event in timeline if (event.sequence or 0) <= transaction.version],
    }


__all__ = ["TransactionDetail", "TransactionPage", "TransactionView", "detail_json", "format_minor", "transaction_json"]
