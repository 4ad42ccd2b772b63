"""Who is behind a socket and what it may watch: the owner and admins everything, a customer one transaction and less of it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from payflow.core.errors import Forbidden, NotAuthenticated, NotFound
from payflow.identity.principals import Principal
from payflow.realtime.repository import Watched


@dataclass(slots=True)
class Access:
    """What a credential proved: a principal, or (`principal` None) that the holder is `transaction_id`'s customer."""

    principal: Principal | None = None
    transaction_id: UUID | None = None
    ended_at: datetime | None = None

    @property
    def is_customer(self) -> bool:
        return self.principal is None

    @property
    def expires_at(self) -> datetime | None:
        return self.principal.expires_at if self.principal else None

    def key(self) -> str:
        """What sockets are counted by. Customers do not count against the merchant, or they could lock him out."""
        return self.principal.key() if self.principal else f"customer:{self.transaction_id}"


def authorise_transaction(access: Access, transaction_id: UUID, watched: Watched | None) -> Watched:
    """NotFound for what does not exist or is somebody else's, alike; Forbidden for a key without the scope: `payments:read`
    for what comes in, `wallet:read` for what goes into or out of a wallet."""
    if access.principal is None:
        if watched is None or access.transaction_id != transaction_id:
            raise NotFound("There is no such transaction.")
        access.ended_at = watched.ended_at
        return watched
    principal = access.principal
    if not principal.may("wallet:read"):
        _need(principal, "payments:read")
    if watched is None or not (principal.is_admin or watched.user_id == principal.id):
        raise NotFound("There is no such transaction.")
    if watched.kind == "payment":
        _need(principal, "payments:read")
    elif watched.kind != "funding":
        _need(principal, "wallet:read")
    return watched


def authorise_user(access: Access, user_id: UUID, *, exists: bool) -> None:
    """The user's own log, or anybody's for an admin. NotFound; Forbidden."""
    if access.principal is None:
        raise NotFound("There is no such user.")
    _need(access.principal, "events:read")
    if access.principal.id != user_id and not (access.principal.is_admin and exists):
        raise NotFound("There is no such user.")


def _need(principal: Principal, scope: str) -> None:
    if not principal.may(scope):
        raise Forbidden(f"This needs the scope {scope}.", code="insufficient_scope")


def token_expired() -> NotAuthenticated:
    return NotAuthenticated("The credential has expired.", code="token_expired")
