"""The tables of transactions, as the migrations made them. The hot paths write them raw (`repository`), and a test writes
the same rows both ways."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import (
    CHAR,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from payflow.infra.database import Base
from payflow.transactions.aggregate import AttemptStatus
from payflow.transactions.lifecycle import OPEN, Kind, Status

Words = Annotated[str, mapped_column(Text)]
Currency = Annotated[str, mapped_column(CHAR(3))]
Minor = Annotated[int, mapped_column(BigInteger)]
Moment = Annotated[datetime, mapped_column(DateTime(timezone=True))]
Written = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=text("now()"))]
Json = Annotated[dict[str, Any], mapped_column(JSONB, server_default=text("'{}'::jsonb"))]
Key = Annotated[UUID, mapped_column(primary_key=True)]


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class TransitionRow(Base):
    """The permitted moves: what the trigger on `transactions` reads."""

    __tablename__ = "transitions"

    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    from_status: Mapped[str] = mapped_column(Text, primary_key=True)
    to_status: Mapped[str] = mapped_column(Text, primary_key=True)
    cause: Mapped[str] = mapped_column(Text, primary_key=True)


class TransactionRow(Base):
    __tablename__ = "transactions"
    __table_args__ = (
        CheckConstraint(_one_of("kind", Kind), name="kind"),
        CheckConstraint("reference ~ '^[a-z0-9]{16,50}$'", name="reference"),
        CheckConstraint(_one_of("status", Status), name="status"),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint("amount_minor > 0", name="amount"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint("paid_minor >= 0", name="paid"),
        CheckConstraint("fee_minor >= 0", name="fee"),
        CheckConstraint("provider ~ '^[a-z][a-z0-9_]{1,40}$'", name="provider"),
        CheckConstraint("refunded_minor BETWEEN 0 AND greatest(amount_minor, paid_minor)", name="refunded"),
        CheckConstraint(f"NOT {_one_of('status', sorted(OPEN))} OR next_check_at IS NOT NULL", name="checked"),
        CheckConstraint("status <> 'completed' OR paid_minor > 0", name="completed_paid"),
    )

    id: Mapped[Key]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    kind: Mapped[Words]
    reference: Mapped[str] = mapped_column(Text, unique=True)
    status: Mapped[Words]
    version: Mapped[int]
    last_cause: Mapped[Words | None]
    amount_minor: Mapped[Minor]
    currency: Mapped[Currency]
    paid_minor: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    fee_minor: Mapped[Minor | None]
    refunded_minor: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    provider: Mapped[Words | None]
    method: Mapped[Words | None]
    description: Mapped[Words | None]
    customer_id: Mapped[Words | None]
    customer_email: Mapped[Words | None]
    customer_phone: Mapped[Words | None]
    customer_name: Mapped[Words | None]
    # `metadata` is taken by SQLAlchemy itself.
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=text("'{}'::jsonb"))
    return_url: Mapped[Words | None]
    next_action: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    checkout_url: Mapped[Words | None]
    failure_code: Mapped[Words | None]
    failure_message: Mapped[Words | None]
    correlation_id: Mapped[Words | None]
    check_count: Mapped[int] = mapped_column(server_default=text("0"))
    next_check_at: Mapped[Moment | None]
    expires_at: Mapped[Moment | None]
    created_at: Mapped[Written]
    updated_at: Mapped[Written]
    ended_at: Mapped[Moment | None]


class AttemptRow(Base):
    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("transaction_id", "number"),
        CheckConstraint("number >= 1", name="number"),
        CheckConstraint("operation IN ('collect', 'refund', 'payout', 'purchase')", name="operation"),
        CheckConstraint("provider ~ '^[a-z][a-z0-9_]{1,40}$'", name="provider"),
        CheckConstraint(_one_of("status", AttemptStatus), name="status"),
        CheckConstraint("amount_minor > 0", name="amount"),
    )

    id: Mapped[Key]
    transaction_id: Mapped[UUID] = mapped_column(ForeignKey("transactions.id"))
    user_id: Mapped[UUID]
    number: Mapped[int] = mapped_column(SmallInteger)
    operation: Mapped[Words]
    provider: Mapped[Words]
    reference: Mapped[str] = mapped_column(Text, unique=True)
    provider_references: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    receipt: Mapped[Words | None]
    status: Mapped[Words]
    amount_minor: Mapped[Minor]
    currency: Mapped[Currency]
    paid_minor: Mapped[Minor | None]
    paid_currency: Mapped[Currency | None]
    fee_minor: Mapped[Minor | None]
    raw_status: Mapped[Words | None]
    failure_code: Mapped[Words | None]
    failure_message: Mapped[Words | None]
    provider_code: Mapped[Words | None]
    routing: Mapped[Json]
    session_ends_at: Mapped[Moment | None]
    last_checked_at: Mapped[Moment | None]
    submitting_until: Mapped[Moment | None]
    created_at: Mapped[Written]
    updated_at: Mapped[Written]


class RefundRow(Base):
    __tablename__ = "refunds"
    __table_args__ = (
        CheckConstraint(
            "status IN ('pending', 'processing', 'completed', 'failed', 'cancelled', 'under_review')", name="status"
        ),
        CheckConstraint("amount_minor > 0", name="amount"),
        CheckConstraint("status NOT IN ('pending', 'processing') OR next_check_at IS NOT NULL", name="checked"),
    )

    id: Mapped[Key]
    transaction_id: Mapped[UUID] = mapped_column(ForeignKey("transactions.id"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    attempt_id: Mapped[UUID] = mapped_column(ForeignKey("attempts.id"), unique=True)
    payment_attempt_id: Mapped[UUID] = mapped_column(ForeignKey("attempts.id"))
    reference: Mapped[str] = mapped_column(Text, unique=True)
    request_digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    status: Mapped[Words]
    amount_minor: Mapped[Minor]
    currency: Mapped[Currency]
    reason: Mapped[Words | None]
    failure_code: Mapped[Words | None]
    failure_message: Mapped[Words | None]
    check_count: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    next_check_at: Mapped[Moment | None]
    created_at: Mapped[Written]
    updated_at: Mapped[Written]
