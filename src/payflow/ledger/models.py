"""The ledger's tables. Entries and journals are append-only, and a journal that does not balance cannot be committed."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CHAR, BigInteger, CheckConstraint, DateTime, ForeignKey, Identity, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB
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
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class WalletRow(Base):
    """A wallet's balances, kept by a trigger over the entries of its accounts. Nobody else writes them."""

    __tablename__ = "wallets"
    __table_args__ = (
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint("available_minor >= 0", name="available"),
        CheckConstraint("held_minor >= 0", name="held"),
        CheckConstraint("status IN ('active', 'inactive', 'frozen')", name="status"),
        UniqueConstraint("user_id", "currency"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    currency: Mapped[str] = mapped_column(CHAR(3))
    available_minor: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    held_minor: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    status: Mapped[str] = mapped_column(Text, server_default=text("'active'"))
    status_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class HoldRow(Base):
    """Money of a wallet on its way out, for a transaction or for a refund."""

    __tablename__ = "holds"
    __table_args__ = (
        CheckConstraint("source_type IN ('transaction', 'refund')", name="source_type"),
        CheckConstraint("amount_minor > 0", name="amount"),
        CheckConstraint("status IN ('held', 'captured', 'released')", name="status"),
        CheckConstraint("(status = 'held') = (ended_at IS NULL)", name="ended"),
        UniqueConstraint("source_type", "source_id", name="uq_holds_source"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    transaction_id: Mapped[UUID] = mapped_column(ForeignKey("transactions.id"))
    source_type: Mapped[str] = mapped_column(Text)
    source_id: Mapped[UUID]
    currency: Mapped[str] = mapped_column(CHAR(3))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text, server_default=text("'held'"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class BooksCheckRow(Base):
    """What a check of the books found. Kept for a time only."""

    __tablename__ = "books_checks"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    checked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
    seconds: Mapped[float] = mapped_column(DOUBLE_PRECISION)
    entries: Mapped[int] = mapped_column(BigInteger)
    breaks_found: Mapped[int] = mapped_column(BigInteger)
    breaks: Mapped[list[Any]] = mapped_column(JSONB)
    warnings_found: Mapped[int] = mapped_column(BigInteger)
    warnings: Mapped[list[Any]] = mapped_column(JSONB)
