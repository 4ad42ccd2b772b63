"""What a repeated Idempotency-Key is answered with.

same key, other body            422 idempotency_key_reused
first request still running     409 in_flight, Retry-After
finished                        the same status and body, `Idempotent-Replayed: true`
lease over, never finished      the transaction as it now stands; the provider is never called again
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from pydantic import SecretStr

from payflow.core.clock import Clock
from payflow.core.crypto import derive_key, keyed_digest, same
from payflow.core.errors import InFlight, Invalid, Malformed
from payflow.core.logging import get_logger
from payflow.idempotency.repository import Finished, IdempotencyRepository, KeyRow, KeyScope
from payflow.infra.redis import AWAY, Redis

log = get_logger(__name__)

CACHE_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Replay:
    """A stored answer, or (status_code None) only the transaction that the key once opened."""

    transaction_id: UUID
    status_code: int | None = None
    body: bytes | None = None


def _plain(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _spelled_once(part: str) -> str:
    """An id is the same in capitals or without its hyphens, and a repeat that spells it so is still a repeat."""
    try:
        return str(UUID(part)) if len(part) >= 32 else part
    except ValueError:
        return part


class IdempotencyService:
    def __init__(
        self,
        repository: IdempotencyRepository,
        redis: Redis,
        clock: Clock,
        *,
        secret: str,
        redis_prefix: str,
        lease_seconds: int,
        keep_days: int,
    ) -> None:
        self._repository = repository
        self._redis = redis
        self._clock = clock
        self._key = derive_key(secret, "idempotency-fingerprint")
        self._prefix = redis_prefix
        self.lease = timedelta(seconds=lease_seconds)
        self.keep = timedelta(days=keep_days)

    def scope(self, principal: str, method: str, path: str, key: str | None) -> KeyScope:
        """`path` with its ids in whatever spelling. Malformed when the header is missing or not 1 to 255 visible ASCII
        characters."""
        if not key:
            raise Malformed("The Idempotency-Key header is required.", code="idempotency_key_missing")
        bare = key[1:-1] if len(key) > 2 and key[0] == key[-1] == '"' else key
        if not (0 < len(bare) <= 255 and bare.isascii() and bare.isprintable()):
            raise Malformed(
                "Idempotency-Key must be 1 to 255 visible ASCII characters.", code="idempotency_key_invalid"
            )
        return KeyScope(principal, method, "/".join(map(_spelled_once, path.split("/"))), bare)

    def fingerprint(self, body: Mapping[str, Any]) -> bytes:
        """A keyed digest of the validated body: it tells two bodies apart and tells nobody what was in them."""
        return keyed_digest(self._key, orjson.dumps(body, option=orjson.OPT_SORT_KEYS, default=_plain))

    def cache_entry(self, finished: Finished, fingerprint: bytes, transaction_id: UUID) -> tuple[str, bytes, int]:
        """(key, value, seconds) for Redis: a replay that does not ask PostgreSQL."""
        value = orjson.dumps([fingerprint.hex(), transaction_id, finished.status_code]) + b"\n" + finished.body
        return self._cache_key(finished.scope), value, CACHE_SECONDS

    async def replay(self, scope: KeyScope, fingerprint: bytes) -> Replay | None:
        """What to answer to a key that is taken; None when the row has gone in between. Invalid or InFlight otherwise."""
        cached = await self._cached(scope)
        row = cached or await self._repository.get(scope)
        if row is None:
            return None
        if not same(row.fingerprint, fingerprint):
            raise Invalid(
                "This Idempotency-Key was used with another body. Use a new key for a new request.",
                code="idempotency_key_reused",
            )
        if row.status_code is not None:
            return Replay(row.transaction_id, row.status_code, row.body)
        remaining = (row.lease_until - self._clock()).total_seconds()
        if remaining > 0:
            raise InFlight(retry_after=max(1, min(int(remaining), 5)))
        return Replay(row.transaction_id)

    async def _cached(self, scope: KeyScope) -> KeyRow | None:
        try:
            value: bytes | None = await self._redis.get(self._prefix + self._cache_key(scope))  # type: ignore[assignment]
        except AWAY:
            return None
        if value is None:
            return None
        head, _, body = value.partition(b"\n")
        fingerprint, transaction_id, status_code = orjson.loads(head)
        return KeyRow(bytes.fromhex(fingerprint), UUID(transaction_id), status_code, body, self._clock())

    def digest(self, scope: KeyScope) -> bytes:
        """Names a request by its scope, for rows that must exist once for it."""
        return keyed_digest(self._key, scope.principal, scope.method, scope.path, scope.key)

    def _cache_key(self, scope: KeyScope) -> str:
        return f"idem:{self.digest(scope).hex()}"
