"""What was seen of webhooks: one row for each thing a trusted one told, and the raw bodies apart, kept for a time."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime
from sqlalchemy.orm import Mapped, mapped_column

from payflow.infra.database import Base


class WebhookEventRow(Base):
    __tablename__ = "webhook_events"
    __table_args__ = (CheckConstraint("outcome IN ('settled', 'ignored')", name="outcome"),)

    provider: Mapped[str] = mapped_column(primary_key=True)
    dedupe_key: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str]
    message_id: Mapped[UUID]
    transaction_id: Mapped[UUID | None]
    outcome: Mapped[str]
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    processed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class WebhookBodyRow(Base):
    __tablename__ = "webhook_bodies"

    message_id: Mapped[UUID] = mapped_column(primary_key=True)
    provider: Mapped[str]
    body: Mapped[bytes]
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
