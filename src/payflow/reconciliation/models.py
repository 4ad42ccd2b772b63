"""Repairs: journals that a person posted after a settlement file, with their reason. Append-only, as the journals are."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from payflow.infra.database import Base


class LedgerRepairRow(Base):
    __tablename__ = "ledger_repairs"
    __table_args__ = (
        CheckConstraint("kind IN ('fee', 'suspense', 'release')", name="kind"),
        CheckConstraint("length(btrim(reason)) > 0", name="reason"),
        UniqueConstraint("provider", "line_key", "kind", name="uq_ledger_repairs_line"),
    )

    journal_id: Mapped[UUID] = mapped_column(ForeignKey("ledger_journals.id"), primary_key=True)
    provider: Mapped[str] = mapped_column(Text)
    line_key: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    attempt_id: Mapped[UUID | None] = mapped_column(ForeignKey("attempts.id"))
    reason: Mapped[str] = mapped_column(Text)
    repaired_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
