"""The ledger's tables. Entries and journals are append-only, and a journal that does not balance cannot be committed."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Identity, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from payflow.infra.database import Base


class LedgerAccountRow(Base):
    __tablename__ = "ledger_accounts"
    __table_args__ = (
        UniqueConstraint(
            "code", "user_id", "currency", name="uq_ledger_accounts_code", postgresql_nulls_not_distinct=True
        ),
        UniqueConstraint("id", "currency", name="uq_ledger_accounts_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    code: Mapped[str]
    user_id: Mapped[UUID | None]
    currency: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class LedgerJournalRow(Base):
    __tablename__ = "ledger_journals"
    __table_args__ = (UniqueConstraint("source_type", "source_id", "kind", name="uq_ledger_journals_source"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    source_type: Mapped[str]
    source_id: Mapped[UUID]
    transaction_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class LedgerEntryRow(Base):
    __tablename__ = "ledger_entries"
    __table_args__ = (CheckConstraint("amount_minor <> 0", name="amount"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    journal_id: Mapped[UUID] = mapped_column(ForeignKey("ledger_journals.id"))
    account_id: Mapped[UUID] = mapped_column(ForeignKey("ledger_accounts.id"))
    currency: Mapped[str]
    amount_minor: Mapped[int]
