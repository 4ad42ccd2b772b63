"""The idempotency row: written with the intent it protects, finished with its outcome, each in that statement's transaction."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from payflow.infra.database import Database, RawConnection


@dataclass(frozen=True, slots=True)
class KeyScope:
    """What a key is unique within: who, which method, which concrete path (draft-ietf-httpapi-idempotency-key-header)."""

    principal: str
    method: str
    path: str
    key: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer to keep: `body` without what is minted anew for each answer (the client token)."""

    scope: KeyScope
    status_code: int
    body: bytes

    def parameters(self) -> list[Any]:
        scope = self.scope
        return [scope.principal, scope.method, scope.path, scope.key, self.status_code, self.body]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key that was used before. `status_code` and `body` are None until the first request has finished."""

    fingerprint: bytes
    transaction_id: UUID
    status_code: int | None
    body: bytes | None
    lease_until: datetime


def finish_sql(first: int, condition: str) -> str:
    """The UPDATE that stores an answer, with its six parameters from `$first` on."""
    p = [f"${number}" for number in range(first, first + 6)]
    return f"""
        UPDATE idempotency_keys SET status_code = {p[4]}, body = {p[5]}
        WHERE principal = {p[0]} AND method = {p[1]} AND path = {p[2]} AND key = {p[3]} AND {condition}
    """


FINISH = finish_sql(1, "true")

RESERVE = """
    INSERT INTO idempotency_keys (principal, method, path, key, fingerprint, transaction_id, lease_until, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING transaction_id
"""


async def reserve(
    connection: RawConnection,
    scope: KeyScope,
    fingerprint: bytes,
    transaction_id: UUID,
    lease_until: datetime,
    expires_at: datetime,
) -> bool:
    """Take the key in the caller's transaction; False when it is taken. Waits while another transaction is taking it."""
    taken = await connection.fetchval(
        RESERVE,
        scope.principal,
        scope.method,
        scope.path,
        scope.key,
        fingerprint,
        transaction_id,
        lease_until,
        expires_at,
    )
    return taken is not None


async def finish(connection: RawConnection, finished: Finished) -> None:
    await connection.execute(FINISH, *finished.parameters())


async def forget(connection: RawConnection, scope: KeyScope) -> None:
    """Give the key back: what it was taken for did not happen."""
    await connection.execute(
        "DELETE FROM idempotency_keys WHERE principal = $1 AND method = $2 AND path = $3 AND key = $4",
        scope.principal,
        scope.method,
        scope.path,
        scope.key,
    )


class IdempotencyRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, scope: KeyScope) -> KeyRow | None:
        async with self._database.raw() as connection:
            row = await connection.fetchrow(
                """
                SELECT fingerprint, transaction_id, status_code, body, lease_until FROM idempotency_keys
                WHERE principal = $1 AND method = $2 AND path = $3 AND key = $4
                """,
                scope.principal,
                scope.method,
                scope.path,
                scope.key,
            )
        return None if row is None else KeyRow(*row)

    async def delete_expired(self, now: datetime, limit: int = 5_000) -> int:
        """Forget keys whose time is over; how many went."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                """
                DELETE FROM idempotency_keys WHERE ctid IN (
                    SELECT ctid FROM idempotency_keys WHERE expires_at < $1 LIMIT $2) RETURNING 1
                """,
                now,
                limit,
            )
        return len(rows)
