"""The SQL of this room. Each function works on the connection it is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from payflow.identity.tokens import NewSecret
from payflow.infra.database import RawConnection


@dataclass(frozen=True, slots=True)
class UserRow:
    id: UUID
    email: str
    name: str
    password_hash: str
    role: str
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


_USER = "id, email, name, password_hash, role, created_at, disabled_at"
_API_KEY = "id, name, prefix, scopes, created_at, expires_at, last_used_at, revoked_at"
# A key as authentication needs it: its own dates and those of its owner.
_KEY_STATE = """
    SELECT k.id, k.user_id, k.secret_digest, k.scopes, k.expires_at, k.last_used_at, k.revoked_at, u.role, u.disabled_at
    FROM api_keys k JOIN users u ON u.id = k.user_id
"""


async def insert_user(connection: RawConnection, user: UserRow) -> bool:
    """False when somebody has the address already."""
    inserted = await connection.fetchval(
        """
        INSERT INTO users (id, email, name, password_hash, role, created_at) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (lower(email)) DO NOTHING RETURNING id
        """,
        user.id,
        user.email,
        user.name,
        user.password_hash,
        user.role,
        user.created_at,
    )
    return inserted is not None


async def find_user(connection: RawConnection, user_id: UUID) -> UserRow | None:
    row = await connection.fetchrow(f"SELECT {_USER} FROM users WHERE id = $1", user_id)
    return UserRow(**row) if row else None


async def find_user_by_email(connection: RawConnection, email: str) -> UserRow | None:
    row = await connection.fetchrow(
        f"SELECT {_USER} FROM users WHERE lower(email) = lower($1)",
        email,
    )
    return UserRow(**row) if row else None


async def find_oldest_admin(connection: RawConnection) -> UUID | None:
    found: UUID | None = await connection.fetchval(
        "SELECT id FROM users WHERE role = 'admin' AND disabled_at IS NULL ORDER BY id LIMIT 1"
    )
    return found


async def replace_password_hash(connection: RawConnection, user_id: UUID, old: str, new: str) -> None:
    await connection.execute(
        "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2", user_id, old, new
    )


async def disable_user(connection: RawConnection, user_id: UUID, now: datetime) -> bool:
    disabled = await connection.fetchval(
        "UPDATE users SET disabled_at = $2 WHERE id = $1 AND disabled_at IS NULL RETURNING id", user_id, now
    )
    return disabled is not None


async def lock_user(connection: RawConnection, user_id: UUID) -> None:
    await connection.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", user_id)


async def insert_family(connection: RawConnection, family_id: UUID, user_id: UUID, now: datetime) -> None:
    await connection.execute(
        "INSERT INTO token_families (id, user_id, created_at) VALUES ($1, $2, $3)", family_id, user_id, now
    )


async def insert_refresh_token(
    connection: RawConnection, token_id: UUID, family_id: UUID, digest: bytes, now: datetime, expires_at: datetime
) -> None:
    await connection.execute(
        "INSERT INTO refresh_tokens (id, family_id, digest, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        token_id,
        family_id,
        digest,
        now,
        expires_at,
    )


async def lock_refresh_token(connection: RawConnection, digest: bytes) -> Any:
    """The token with its family's and user's state. Whoever presents the same token meanwhile waits here."""
    return await connection.fetchrow(
        """
        SELECT t.id, t.family_id, t.expires_at, t.used_at, f.revoked_at, u.id AS user_id, u.role, u.disabled_at
        FROM refresh_tokens t JOIN token_families f ON f.id = t.family_id JOIN users u ON u.id = f.user_id
        WHERE t.digest = $1 FOR UPDATE OF t
        """,
        digest,
    )


async def mark_used(connection: RawConnection, token_id: UUID, now: datetime) -> None:
    await connection.execute("UPDATE refresh_tokens SET used_at = $2 WHERE id = $1", token_id, now)


async def find_family(connection: RawConnection, digest: bytes) -> Any:
    """The family and user of a refresh token."""
    return await connection.fetchrow(
        """
        SELECT f.id, f.user_id FROM refresh_tokens t JOIN token_families f ON f.id = t.family_id WHERE t.digest = $1
        """,
        digest,
    )


async def revoke_family(connection: RawConnection, family_id: UUID, reason: str, now: datetime) -> bool:
    """False when it was revoked before."""
    revoked = await connection.fetchval(
        """
        UPDATE token_families SET revoked_at = $3, revoked_reason = $2 WHERE id = $1 AND revoked_at IS NULL
        RETURNING id
        """,
        family_id,
        reason,
        now,
    )
    return revoked is not None


async def revoke_families_of(connection: RawConnection, user_id: UUID, reason: str, now: datetime) -> None:
    await connection.execute(
        "UPDATE token_families SET revoked_at = $3, revoked_reason = $2 WHERE user_id = $1 AND revoked_at IS NULL",
        user_id,
        reason,
        now,
    )


async def delete_expired_tokens(connection: RawConnection, before: datetime, most: int) -> int:
    """Tokens that ended before then, and the logins that have none left. Used tokens stay until their end, since that is
    how a second use is noticed."""
    count: int = await connection.fetchval(
        """
        WITH gone AS (
            DELETE FROM refresh_tokens WHERE id IN (SELECT id FROM refresh_tokens WHERE expires_at < $1 LIMIT $2)
            RETURNING id
        )
        SELECT count(*) FROM gone
        """,
        before,
        most,
    )
    await connection.execute(
        """
        DELETE FROM token_families WHERE id IN (
            SELECT id FROM token_families f
            WHERE created_at < $1 AND NOT EXISTS (SELECT 1 FROM refresh_tokens t WHERE t.family_id = f.id) LIMIT $2
        )
        """,
        before,
        most,
    )
    return count


async def revoked_since(connection: RawConnection, since: datetime) -> set[UUID]:
    """Families revoked and users disabled since then."""
    rows = await connection.fetch(
        """
        SELECT id FROM token_families WHERE revoked_at >= $1 UNION ALL SELECT id FROM users WHERE disabled_at >= $1
        """,
        since,
    )
    return {row["id"] for row in rows}


async def insert_api_key(
    connection: RawConnection,
    key_id: UUID,
    user_id: UUID,
    name: str,
    secret: NewSecret,
    scopes: Sequence[str],
    now: datetime,
    expires_at: datetime | None,
) -> ApiKeyRow:
    row = await connection.fetchrow(
        f"""
        INSERT INTO api_keys (id, user_id, name, prefix, secret_digest, scopes, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {_API_KEY}
        """,
        key_id,
        user_id,
        name,
        secret.prefix,
        secret.digest,
        list(scopes),
        now,
        expires_at,
    )
    return ApiKeyRow(**row)


async def count_usable_api_keys(connection: RawConnection, user_id: UUID, now: datetime) -> int:
    count: int = await connection.fetchval(
        """
        SELECT count(*) FROM api_keys
        WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
        """,
        user_id,
        now,
    )
    return count


async def list_api_keys(connection: RawConnection, user_id: UUID, limit: int) -> list[ApiKeyRow]:
    """The newest first."""
    rows = await connection.fetch(
        f"SELECT {_API_KEY} FROM api_keys WHERE user_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2",
        user_id,
        limit,
    )
    return [ApiKeyRow(**row) for row in rows]


async def revoke_api_key(connection: RawConnection, user_id: UUID, key_id: UUID, now: datetime) -> str | None:
    """Its prefix; None unless the user has such a key that was not revoked yet."""
    prefix: str | None = await connection.fetchval(
        """
        UPDATE api_keys SET revoked_at = $3 WHERE id = $2 AND user_id = $1 AND revoked_at IS NULL RETURNING prefix
        """,
        user_id,
        key_id,
        now,
    )
    return prefix


async def key_state_by_prefix(connection: RawConnection, prefix: str) -> Any:
    return await connection.fetchrow(_KEY_STATE + "WHERE k.prefix = $1", prefix)


async def key_state(connection: RawConnection, key_id: UUID) -> Any:
    return await connection.fetchrow(_KEY_STATE + "WHERE k.id = $1", key_id)


async def touch_api_key(connection: RawConnection, key_id: UUID, now: datetime, at_most_every: timedelta) -> None:
    """Several processes may try at once; the condition lets one write per interval."""
    await connection.execute(
        "UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $3)",
        key_id,
        now,
        now - at_most_every,
    )
