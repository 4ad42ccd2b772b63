"""The event log's table. Append-only by trigger; UNIQUE(transaction_id, sequence) keeps a history without gaps or doubles."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from payflow.infra.database import Base


class EventRow(Base):
    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("transaction_id", "sequence", name="uq_events_transaction_id"),
        CheckConstraint("(transaction_id IS NULL) = (sequence IS NULL) AND sequence > 0", name="sequence"),
        CheckConstraint("actor IN ('user', 'provider', 'system')", name="actor"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    transaction_id: Mapped[UUID | None]
    user_id: Mapped[UUID | None]
    sequence: Mapped[int | None]
    type: Mapped[str]
    status: Mapped[str | None]
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    actor: Mapped[str]
    ip_address: Mapped[str | None]
    user_agent: Mapped[str | None]
    correlation_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
