"""Transactions in memory, as the tests need them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from payflow.core.ids import new_reference, uuid7
from payflow.core.money import Money
from payflow.events.types import Actor, Origin
from payflow.gateway.contract import ActionType, Failure, NextAction, Operation, Result, Verdict
from payflow.transactions.aggregate import Attempt, AttemptStatus, Context, Source, Transaction, Unit
from payflow.transactions.lifecycle import OPEN, Kind, Status

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
USER = uuid7()
ORIGIN = Origin(Actor.PROVIDER, correlation_id="req-1")
AMOUNT = Money(500_000, "NGN")
DECLINED = Failure("card_declined", "The card was declined.", "51")
PAGE = NextAction(ActionType.REDIRECT, url="https://pay.example/1")


def transaction(status: Status = Status.PENDING, kind: Kind = Kind.PAYMENT, **changes: Any) -> Transaction:
    values: dict[str, Any] = {
        "id": uuid7(),
        "user_id": USER,
        "kind": kind,
        "reference": new_reference("pay"),
        "amount": AMOUNT,
        "created_at": NOW - timedelta(minutes=5),
        "status": status,
        "version": 1 if status is Status.PENDING else 2,
        "provider": "paystack",
        "next_check_at": NOW + timedelta(seconds=20) if status in OPEN else None,
        "updated_at": NOW,
    }
    return Transaction(**{**values, **changes})


def attempt(of: Transaction, status: AttemptStatus = AttemptStatus.CREATED, **changes: Any) -> Attempt:
    operations = {Kind.WITHDRAWAL: Operation.PAYOUT, Kind.AIRTIME: Operation.PURCHASE}
    values: dict[str, Any] = {
        "id": uuid7(),
        "transaction_id": of.id,
        "user_id": of.user_id,
        "number": 1,
        "operation": operations.get(of.kind, Operation.COLLECT),
        "provider": "paystack",
        "reference": new_reference("att"),
        "amount": of.amount,
        "created_at": of.created_at,
        "status": status,
        "updated_at": NOW,
    }
    return Attempt(**{**values, **changes})


def unit(
    status: Status = Status.PENDING,
    tried: AttemptStatus | Sequence[AttemptStatus] = AttemptStatus.CREATED,
    kind: Kind = Kind.PAYMENT,
    **changes: Any,
) -> Unit:
    of = transaction(status, kind, **changes)
    statuses = [tried] if isinstance(tried, AttemptStatus) else tried
    return Unit.of(of, [attempt(of, each, number=number) for number, each in enumerate(statuses, start=1)])


def first(of: Unit) -> Attempt:
    return next(iter(of.attempts.values()))


def context(source: Source = Source.WEBHOOK, **changes: Any) -> Context:
    return Context(source, ORIGIN, NOW, **changes)


def paid(of: Attempt, **changes: Any) -> Result:
    values: dict[str, Any] = {"reference": of.reference, "requested": of.amount, "paid": of.amount}
    return Result(Verdict.COMPLETED, "success", **{**values, **changes})


def told(of: Unit) -> list[str]:
    return [event.type for event in of.events]


def posted(of: Unit) -> list[tuple[str, dict[str, int]]]:
    """The journals as (kind, amount by account)."""
    return [(journal.kind, {line.code: line.amount_minor for line in journal.lines}) for journal in of.journals]
