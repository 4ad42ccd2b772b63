"""A transaction in memory while it is locked: what it is, its attempts in question, and what has been decided so far.

Nothing here writes to the database or talks to a provider. `Unit` collects the changes of one database transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from payflow.core.money import Money
from payflow.events.types import Event, Origin
from payflow.gateway.contract import Customer, Failure, Operation, Query
from payflow.ledger.journals import Hold, Journal, Reversals
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

NOT_ASKED_ABOUT = timedelta(days=10 * 365)
"""Until the next question about what waits for approval. It was never sent: no provider may be asked, and nothing makes it
end. An open transaction always has a time to be asked about, so this one lies beyond any wait; the approval puts the real
one in its place."""


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

    def failed_by(self, *reasons: Failure) -> bool:
        """Whether its failure is one of these: by the code, which alone is stable."""
        return self.failure is not None and self.failure.code in [reason.code for reason in reasons]

    def query(self) -> Query:
        """What an adapter needs to ask about this attempt."""
        return Query(
            self.operation,
            self.reference,
            self.provider_references,
            self.amount,
            self.created_at,
            answered=self.status not in (AttemptStatus.CREATED, AttemptStatus.UNKNOWN),
        )


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

    @property
    def never_sent(self) -> bool:
        """A withdrawal that nobody has approved, whatever became of it: its time to be answered begins with the sending."""
        return self.kind is Kind.WITHDRAWAL and self.expires_at is None


class RefundStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    UNDER_REVIEW = "under_review"


@dataclass(slots=True)
class Refund:
    """Money on its way back. `attempt_id` is its one order to the provider, `payment_attempt_id` what is given back,
    `reference` what the owner knows it as."""

    id: UUID
    transaction_id: UUID
    user_id: UUID
    attempt_id: UUID
    payment_attempt_id: UUID
    reference: str
    amount: Money
    created_at: datetime
    updated_at: datetime
    status: RefundStatus = RefundStatus.PENDING
    reason: str | None = None
    failure: Failure | None = None
    check_count: int = 0
    next_check_at: datetime | None = None


@dataclass(slots=True)
class Unit:
    """The changes to one transaction in one database transaction. `base_version` guards the write.

    `refunds` by the id of their attempts: all of the transaction's, wherever a refund is in question; `holds` by what they
    are for, wherever a wallet is in question, with what it has available and how it stands (`wallet_minor`, `wallet_status`,
    locked), and `beside`, the units of the same wallet in this database transaction. `reversals` by attempt, wherever one may
    be made or undone. `debts` by hold or refund: what the wallet lacked when it went. `freeze` is why the wallet is frozen.
    `told` and `posted` were written before, see `saved`.
    """

    transaction: Transaction
    attempts: dict[UUID, Attempt]
    base_version: int
    events: list[Event] = field(default_factory=list)
    journals: list[Journal] = field(default_factory=list)
    touched: set[UUID] = field(default_factory=set)
    refunds: dict[UUID, Refund] = field(default_factory=dict)
    touched_refunds: set[UUID] = field(default_factory=set)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    new_holds: list[Hold] = field(default_factory=list)
    ended_holds: list[Hold] = field(default_factory=list)
    wallet_minor: int | None = None
    wallet_status: str = "active"
    beside: list["Unit"] = field(default_factory=list)
    reversals: dict[UUID, Reversals] = field(default_factory=dict)
    debts: dict[UUID, int] = field(default_factory=dict)
    freeze: str | None = None
    dirty: bool = False
    told: list[Event] = field(default_factory=list)
    posted: list[Journal] = field(default_factory=list)
    saved_status: Status | None = None

    @classmethod
    def of(cls, transaction: Transaction, attempts: Sequence[Attempt]) -> "Unit":
        by_id = {attempt.id: attempt for attempt in attempts}
        return cls(transaction, by_id, transaction.version, saved_status=transaction.status)

    def saved(self) -> None:
        """All of it was written in this database transaction, and more is to follow: begin anew from here. What is told and
        was posted is kept for who publishes, and for what a wallet has left."""
        self.told += self.events
        self.posted += self.journals
        self.events, self.journals, self.new_holds, self.ended_holds = [], [], [], []
        self.touched, self.touched_refunds = set(), set()
        self.base_version, self.saved_status = self.transaction.version, self.transaction.status
        self.dirty, self.freeze = False, None

    @property
    def available(self) -> int | None:
        """What the wallet has left after all that was decided so far in this database transaction. None without a wallet."""
        if self.wallet_minor is None:
            return None
        of = self.transaction
        return self.wallet_minor - sum(
            line.amount_minor
            for unit in self.beside or [self]
            for journal in (*unit.posted, *unit.journals)
            for line in journal.lines
            if (line.code, line.user_id, line.currency) == ("wallet", of.user_id, of.amount.currency)
        )

    @property
    def changed(self) -> bool:
        return bool(self.dirty or self.events or self.touched or self.touched_refunds)

    def touch(self, attempt: Attempt, now: datetime) -> None:
        attempt.updated_at = now
        self.touched.add(attempt.id)


@dataclass(frozen=True, slots=True)
class Received:
    """What a person says came in all with an attempt, in major units; which attempt, only where there are several."""

    amount: Decimal
    attempt_reference: str | None = None


class Source(StrEnum):
    """Where an answer came from. Only an answer to us, and no webhook, may ask the customer to act again."""

    INITIATION = "initiation"
    SUBMISSION = "submission"
    WEBHOOK = "webhook"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Context:
    """Who, when, and whether another attempt may still follow this one."""

    source: Source
    origin: Origin
    now: datetime
    last_attempt: bool = True


ACCOUNT: Mapping[Kind, str] = {Kind.PAYMENT: "sales", Kind.FUNDING: "wallet"}
"""The owner's account that a collection is posted to."""
