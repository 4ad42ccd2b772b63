"""Where withdrawals go, and who let them go."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from payflow.infra.database import Base


class PayoutDestinationRow(Base):
    """Personal data, apart from the books, so that it can be erased."""

    __tablename__ = "payout_destinations"
    __table_args__ = (CheckConstraint("type IN ('bank_account', 'mobile_money')", name="type"),)

    transaction_id: Mapped[UUID] = mapped_column(ForeignKey("transactions.id"), primary_key=True)
    type: Mapped[str] = mapped_column(Text)
    account_name: Mapped[str | None] = mapped_column(Text)
    bank_code: Mapped[str | None] = mapped_column(Text)
    account_number: Mapped[str | None] = mapped_column(Text)
    phone: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class PayoutApprovalRow(Base):
    """One who did not ask for a withdrawal decides about it."""

    __tablename__ = "payout_approvals"
    __table_args__ = (
        CheckConstraint("decision IN ('approved', 'rejected')", name="decision"),
        CheckConstraint("decided_by IS NULL OR decided_by <> requested_by", name="checker"),
        CheckConstraint("(decision IS NULL) = (decided_by IS NULL)", name="decided"),
    )

    transaction_id: Mapped[UUID] = mapped_column(ForeignKey("transactions.id"), primary_key=True)
    requested_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    decided_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    decision: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
    decided_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
