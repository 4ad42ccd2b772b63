"""What was bought, for which number."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from payflow.infra.database import Base


class AirtimePurchaseRow(Base):
    __tablename__ = "airtime_purchases"

    transaction_id: Mapped[UUID] = mapped_column(ForeignKey("transactions.id"), primary_key=True)
    service_id: Mapped[str] = mapped_column(Text)
    variation_code: Mapped[str | None] = mapped_column(Text)
    phone: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
