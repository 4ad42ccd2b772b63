"""A transaction in memory while it is locked: what it is, its attempts in question, and what has been decided so far.

Nothing here writes to the database or talks to a provider. `Unit` collects the changes of one database transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from payflow.core.money import Money
from payflow.events.types import Event
from payflow.gateway.contract import Customer, Failure, Operation, Query
from payflow.ledger.journals import Journal
from payflow.transactions.lifecycle import Kind, Status


class AttemptStatus(StrEnum):
    CREATED = "created"
    REQUIRES_ACTION = "requires_action"
    PROCESSING = "processing"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    DECLINED = "declined"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNDER_REVIEW = "under_review"
    REVERSED = "reversed"


MONEY_SEEN = frozenset({AttemptStatus.SUCCEEDED, AttemptStatus.UNDER_REVIEW, AttemptStatus.REVERSED})
"""An attempt whose money has been posted: a further report of the same success changes nothing."""

NEVER_SENT = frozenset({AttemptStatus.REFUSED, AttemptStatus.NOT_SENT})


@dataclass(slots=True)
class Attempt:
    """One provider call and its own end. `provider_references` are the provider's ids, the first the one to ask with."""

    id: UUID
    transaction_id: UUID
    user_id: UUID
    number: int
    operation: Operation
    provider: str
    reference: str
    amount: Money
    created_at: datetime
    status: AttemptStatus = AttemptStatus.CREATED
    provider_references: tuple[str, ...] = ()
    receipt: str | None = None
    paid: Money | None = None
    fee_minor: int | None = None
    raw_status: str | None = None
    failure: Failure | None = None
    routing: Mapping[str, Any] = field(default_factory=dict)
    session_ends_at: datetime | None = None
    last_checked_at: datetime | None = None
    updated_at: datetime | None = None

    def query(self) -> Query:
        """What an adapter needs to ask about this attempt."""
        return Query(self.operation, self.reference, self.provider_references, self.amount, self.created_at)


@dataclass(slots=True)
class Transaction:
    """One movement that a user sees. `version` is the sequence of its last event. Times are UTC."""

    id: UUID
    user_id: UUID
    kind: Kind
    reference: str
    amount: Money
    created_at: datetime
    status: Status = Status.PENDING
    version: int = 1
    last_cause: str | None = None
    paid_minor: int = 0
    fee_minor: int | None = None
    refunded_minor: int = 0
    provider: str | None = None
    method: str | None = None
    description: str | None = None
    customer_id: str | None = None
    customer: Customer = field(default_factory=Customer)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    return_url: str | None = None
    next_action: Mapping[str, Any] | None = None
    checkout_url: str | None = None
    failure_code: str | None = None
    failure_message: str | None = None
    correlation_id: str | None = None
    check_count: int = 0
    next_check_at: datetime | None = None
    expires_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(slots=True)
class Unit:
    """The changes to one transaction in one database transaction. `base_version` guards the write."""

    transaction: Transaction
    attempts: dict[UUID, Attempt]
    base_version: int
    events: list[Event] = field(default_factory=list)
    journals: list[Journal] = field(default_factory=list)
    touched: set[UUID] = field(default_factory=set)
    dirty: bool = False

    @classmethod
    def of(cls, transaction: Transaction, attempts: Sequence[Attempt]) -> "Unit":
        return cls(transaction, {attempt.id: attempt for attempt in attempts}, transaction.version)

    @property
    def changed(self) -> bool:
        return bool(self.dirty or self.events or self.touched)

    def touch(self, attempt: Attempt, now: datetime) -> None:
        attempt.updated_at = now
        self.touched.add(attempt.id)
