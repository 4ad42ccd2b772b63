"""Money that came without an order of ours: a payment that begins under review, with its money in suspense."""

from datetime import datetime
from uuid import UUID

from payflow.core.ids import new_reference, uuid7
from payflow.events.types import Event, Origin
from payflow.gateway.contract import Operation, Result
from payflow.ledger import journals
from payflow.transactions.aggregate import Attempt, AttemptStatus, Transaction, Unit
from payflow.transactions.lifecycle import Cause, Kind, Status
from payflow.transactions.move import summary


def unordered_payment(
    owner: UUID, provider: str, account: str | None, result: Result, origin: Origin, now: datetime
) -> Unit:
    """`account` is what the payer typed: kept with the payment, where it can be found, and in no event."""
    assert result.paid is not None
    transaction = Transaction(
        id=uuid7(),
        user_id=owner,
        kind=Kind.PAYMENT,
        reference=new_reference("pay"),
        amount=result.paid,
        created_at=now,
        status=Status.UNDER_REVIEW,
        last_cause=Cause.PROVIDER.value,
        provider=provider,
        metadata={"account_reference": account} if account else {},
        correlation_id=origin.correlation_id,
        updated_at=now,
        ended_at=now,
    )
    attempt = Attempt(
        id=uuid7(),
        transaction_id=transaction.id,
        user_id=owner,
        number=1,
        operation=Operation.COLLECT,
        provider=provider,
        reference=new_reference("att"),
        amount=result.paid,
        created_at=now,
        status=AttemptStatus.UNDER_REVIEW,
        provider_references=result.provider_references,
        receipt=result.receipt,
        paid=result.paid,
        raw_status=result.raw_status,
        routing={"reason": "the customer paid without an order"},
    )
    unit = Unit.of(transaction, [attempt])
    unit.dirty = True
    unit.touch(attempt, now)
    unit.journals.append(journals.suspended(attempt.id, transaction.id, owner, provider, result.paid))
    unit.events.append(
        Event(
            id=uuid7(),
            type="payment.under_review",
            created_at=now,
            user_id=owner,
            transaction_id=transaction.id,
            sequence=transaction.version,
            status=transaction.status.value,
            data={
                **summary(transaction),
                "attempt_reference": attempt.reference,
                "received_minor": result.paid.minor,
                "received_currency": result.paid.currency,
                "reason": "unordered_payment",
            },
            origin=origin,
        )
    )
    return unit
