"""The one way for a transaction to move: `move` alone changes a status, a version and the history.

Only `settle` for every provider result, `suspend_unconfirmed`, `cancel`, `expire` and `resolve_review` lead to it, and for
refunds the opening, the end of waiting and an operator's decision (a test counts them). The database refuses any move that
the lifecycle table does not hold.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from payflow.core.errors import Conflict
from payflow.core.ids import uuid7
from payflow.events.types import Event, Origin
from payflow.transactions.aggregate import Transaction, Unit
from payflow.transactions.lifecycle import OPEN, Cause, Kind, Status, allowed

EVENT_PREFIX: Mapping[Kind, str] = {
    Kind.PAYMENT: "payment",
    Kind.FUNDING: "payment",
    Kind.WITHDRAWAL: "withdrawal",
    Kind.AIRTIME: "airtime",
}


class MoveRefused(Conflict):
    """The transaction may not move so from its present status."""

    code = "invalid_transition"


def move(
    unit: Unit,
    to: Status | None,
    *,
    cause: Cause,
    origin: Origin,
    now: datetime,
    event: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Append one event and, when `to` is another status, change it. MoveRefused when the table does not hold the move.

    `event` is the word after the dot, or a whole type (`refund.failed`); without it the new status names the event.
    """
    transaction = unit.transaction
    if to is not None and to is not transaction.status:
        if not allowed(transaction.kind, transaction.status, to, cause):
            raise MoveRefused(f"A {transaction.kind} that is {transaction.status} cannot become {to}.")
        transaction.status = to
        transaction.last_cause = cause.value
        if to not in OPEN:
            transaction.next_check_at = None
            transaction.ended_at = now
            transaction.next_action = None
        else:
            transaction.ended_at = None
    transaction.version += 1
    transaction.updated_at = now
    unit.dirty = True
    last = (unit.events or unit.told)[-1:]
    unit.events.append(
        Event(
            # The log is read in the order of its ids, so one move's second event must not have the smaller one.
            id=uuid7(last[0].id if last else None),
            type=event if event and "." in event else f"{EVENT_PREFIX[transaction.kind]}.{event or transaction.status}",
            created_at=now,
            user_id=transaction.user_id,
            transaction_id=transaction.id,
            sequence=transaction.version,
            status=transaction.status.value,
            data={**summary(transaction), **(data or {})},
            origin=origin,
        )
    )


def summary(transaction: Transaction) -> dict[str, Any]:
    """What every event of a transaction tells: its reference, amount and provider. Nothing about the customer."""
    return {
        "reference": transaction.reference,
        "amount": transaction.amount.decimal_text(),
        "amount_minor": transaction.amount.minor,
        "currency": transaction.amount.currency,
        "provider": transaction.provider,
    }
