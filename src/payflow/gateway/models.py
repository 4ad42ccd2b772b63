"""Sealed provider credentials (the newest row of a provider counts; the one before is accepted for webhooks for a while), and
which providers are drained."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, text
from sqlalchemy.orm import Mapped, mapped_column

from payflow.infra.database import Base


class ProviderConfigRow(Base):
    __tablename__ = "provider_configs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    provider: Mapped[str]
    key_id: Mapped[str]
    sealed: Mapped[bytes]
    created_by: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class ProviderStateRow(Base):
    __tablename__ = "provider_states"

    provider: Mapped[str] = mapped_column(primary_key=True)
    drained: Mapped[bool]
    reason: Mapped[str | None]
    changed_by: Mapped[UUID]
    changed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
