"""The tables behind the spool and the dead letters. The hot statements are raw; these serve migrations and pages."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from payflow.infra.database import Base

Moment = TIMESTAMP(timezone=True)


class QueueMessageRow(Base):
    """A message in the spool. `attempts` counts delays, `deliveries` how often it was handed to a consumer.

    `deliveries` also tells one holder from the next: whoever acknowledges names the count it was given.
    """

    __tablename__ = "queue_messages"
    __table_args__ = (
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("deliveries >= 0", name="deliveries"),
        Index("ix_queue_messages_topic_available_at", "topic", "available_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    topic: Mapped[str] = mapped_column(Text)
    message_id: Mapped[str] = mapped_column(Text)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    headers: Mapped[dict[str, str]] = mapped_column(JSONB)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    deliveries: Mapped[int] = mapped_column(server_default=text("0"))
    reason: Mapped[str] = mapped_column(Text, server_default=text("''"))
    available_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    locked_until: Mapped[datetime | None] = mapped_column(Moment)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class DeadLetterRow(Base):
    """A message nobody could use, kept until a person replays it. One row per message that is not yet replayed."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("(replayed_at IS NULL) = (replayed_by IS NULL)", name="replayed"),
        Index(
            "uq_dead_letters_topic_message_id",
            "topic",
            "message_id",
            unique=True,
            postgresql_where=text("replayed_at IS NULL"),
        ),
        Index("ix_dead_letters_topic_id", "topic", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    topic: Mapped[str] = mapped_column(Text)
    message_id: Mapped[str] = mapped_column(Text)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    headers: Mapped[dict[str, str]] = mapped_column(JSONB)
    attempts: Mapped[int]
    reason: Mapped[str] = mapped_column(Text)
    dead_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    replayed_at: Mapped[datetime | None] = mapped_column(Moment)
    replayed_by: Mapped[str | None] = mapped_column(Text)
