"""Who is asking, and what they may do."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

Role = Literal["user", "admin"]
Scope = Literal[
    "payments:read",
    "payments:write",
    "wallet:read",
    "wallet:write",
    "providers:read",
    "events:read",
    "payments:admin",
    "webhooks:admin",
    "config:admin",
]

USER_SCOPES: tuple[Scope, ...] = (
    "payments:read",
    "payments:write",
    "wallet:read",
    "wallet:write",
    "providers:read",
    "events:read",
)
ADMIN_SCOPES: tuple[Scope, ...] = ("payments:admin", "webhooks:admin", "config:admin")
SCOPES_OF_ROLE: dict[Role, frozenset[str]] = {
    "user": frozenset(USER_SCOPES),
    "admin": frozenset(USER_SCOPES + ADMIN_SCOPES),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. `id` is the user's, whichever credential was used.

    An access token (`kind` user, `credential_id` its token family) carries every scope of the user's role. An API key
    carries its own scopes, and an admin's key is an admin only if it holds an admin scope.
    """

    id: UUID
    kind: Literal["user", "api_key"]
    role: Role
    scopes: frozenset[str]
    credential_id: UUID
    expires_at: datetime | None = None

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    def key(self) -> str:
        """What limits and idempotency keys count by: all sessions and keys of a user together."""
        return str(self.id)

    def may(self, scope: str) -> bool:
        return scope in self.scopes
