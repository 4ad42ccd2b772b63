"""users, api_keys, token_families and refresh_tokens."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from payflow.identity.principals import ADMIN_SCOPES, USER_SCOPES
from payflow.infra.database import Base

_MOMENT = DateTime(timezone=True)
_SCOPES = ", ".join(f"'{scope}'" for scope in USER_SCOPES + ADMIN_SCOPES)


class User(Base):
    """A merchant or an operator. Addresses are written in lower case; the index refuses another spelling all the same."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("char_length(email) BETWEEN 3 AND 320 AND position('@' IN email) > 1", name="email"),
        CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="name"),
        CheckConstraint("role IN ('user', 'admin')", name="role"),
        Index("uq_users_email", text("lower(email)"), unique=True),
        Index("ix_users_disabled_at", "disabled_at", postgresql_where=text("disabled_at IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    password_hash: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(_MOMENT)
    disabled_at: Mapped[datetime | None] = mapped_column(_MOMENT)


class ApiKey(Base):
    """The key itself is shown once and never stored; `secret_digest` is its HMAC-SHA-256."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="name"),
        CheckConstraint("prefix ~ '^[0-9a-z]{12}$'", name="prefix"),
        CheckConstraint("octet_length(secret_digest) = 32", name="secret_digest"),
        CheckConstraint(f"cardinality(scopes) > 0 AND scopes <@ ARRAY[{_SCOPES}]::text[]", name="scopes"),
        Index("ix_api_keys_user_id", "user_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(Text)
    prefix: Mapped[str] = mapped_column(Text, unique=True)
    secret_digest: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(_MOMENT)
    expires_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    last_used_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    revoked_at: Mapped[datetime | None] = mapped_column(_MOMENT)


class TokenFamily(Base):
    """One login and every token that descends from it. Revoking it ends them all."""

    __tablename__ = "token_families"
    __table_args__ = (
        CheckConstraint("(revoked_at IS NULL) = (revoked_reason IS NULL)", name="revoked"),
        CheckConstraint("revoked_reason IN ('logout', 'reused', 'disabled')", name="revoked_reason"),
        Index("ix_token_families_user_id", "user_id"),
        Index("ix_token_families_revoked_at", "revoked_at", postgresql_where=text("revoked_at IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(_MOMENT)
    revoked_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    revoked_reason: Mapped[str | None] = mapped_column(Text)


class RefreshToken(Base):
    """Good for one use. A used one that comes again was stolen, by this caller or from it."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (
        CheckConstraint("octet_length(digest) = 32", name="digest"),
        Index("ix_refresh_tokens_family_id", "family_id"),
        Index("ix_refresh_tokens_expires_at", "expires_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    family_id: Mapped[UUID] = mapped_column(ForeignKey("token_families.id", ondelete="CASCADE"))
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    created_at: Mapped[datetime] = mapped_column(_MOMENT)
    expires_at: Mapped[datetime] = mapped_column(_MOMENT)
    used_at: Mapped[datetime | None] = mapped_column(_MOMENT)
