"""Users, their logins and their API keys."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from payflow.core.clock import Clock, utc_now
from payflow.core.crypto import same
from payflow.core.errors import Conflict, FieldError, Forbidden, Invalid, NotAuthenticated, NotFound
from payflow.core.ids import uuid7
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.identity import repository
from payflow.identity.passwords import ARGON2_COST, Passwords
from payflow.identity.principals import ADMIN_SCOPES, SCOPES_OF_ROLE, USER_SCOPES, Principal, Role
from payflow.identity.repository import ApiKeyRow, UserRow
from payflow.identity.revocation import FreshCache, Revocations
from payflow.identity.tokens import API_KEY_MARK, AccessTokens, ApiKeys, RefreshTokens
from payflow.infra.database import Database, RawConnection

__all__ = ["ApiKeyRow", "IdentityService", "Origin", "Principal", "RecordEvent", "TokenPair", "UserRow"]

log = get_logger(__name__)

# type, user, data (safe to show), address, user agent
RecordEvent = Callable[[str, UUID | None, dict[str, Any], str | None, str | None], Awaitable[None]]

# Within the database transaction that adds the user: what a new user has from the beginning.
Welcome = Callable[[RawConnection, UUID], Awaitable[None]]

MOST_API_KEYS = 50
_LISTED_API_KEYS = 200
_LAST_USED_EVERY = timedelta(minutes=1)
_LONGEST_API_KEY_LIFE = timedelta(days=3660)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, for the event log."""

    ip_address: str | None = None
    user_agent: str | None = None


NOWHERE = Origin()


@dataclass(frozen=True, slots=True)
class TokenPair:
    access_token: str
    refresh_token: str
    expires_in: int


async def record_nothing(
    event_type: str, user_id: UUID | None, data: dict[str, Any], ip_address: str | None, user_agent: str | None
) -> None:
    """The default of `record_event`."""


async def give_nothing(connection: RawConnection, user_id: UUID) -> None:
    """The default of `welcome`."""


class IdentityService:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        clock: Clock = utc_now,
        record_event: RecordEvent = record_nothing,
        welcome: Welcome = give_nothing,
        password_cost: tuple[int, int, int] = ARGON2_COST,
    ) -> None:
        secret = settings.secret_key.get_secret_value()
        self._database = database
        self._clock = clock
        self._record_event = record_event
        self._welcome = welcome
        self._registration_open = settings.registration_open
        self._passwords = Passwords(threads=settings.password_hash_threads, cost=password_cost)
        self._access_tokens = AccessTokens(secret, settings.access_token_seconds)
        self._refresh_tokens = RefreshTokens(secret, settings.refresh_token_seconds)
        self._api_keys = ApiKeys(secret)
        self._revocations = Revocations(self._load_revoked, clock, settings.access_token_seconds)
        self._keys_by_digest: FreshCache[bytes, Principal] = FreshCache(clock)
        self._keys_by_id: FreshCache[UUID, bool] = FreshCache(clock)

    def close(self) -> None:
        self._passwords.close()

    # Users and logins

    async def register(self, email: str, password: str, name: str, origin: Origin = NOWHERE) -> UserRow:
        """Forbidden `registration_closed`; Conflict `email_taken`, which takes as long to say as a success."""
        if not self._registration_open:
            raise Forbidden("Registration is closed.", code="registration_closed")
        return await self._create_user(email, password, name, "user", origin)

    async def create_admin(self, email: str, password: str, name: str) -> UserRow:
        """For the command line. Conflict `email_taken`."""
        return await self._create_user(email, password, name, "admin", NOWHERE)

    async def admin(self, email: str) -> UserRow:
        """The administrator in whose name a command works. NotFound."""
        async with self._database.raw() as connection:
            user = await repository.find_user_by_email(connection, _normalised(email))
        if user is None or user.role != "admin" or user.disabled_at is not None:
            raise NotFound("There is no administrator with this email.")
        return user

    async def login(self, email: str, password: str, origin: Origin = NOWHERE) -> TokenPair:
        """NotAuthenticated `invalid_credentials`, alike in words and time for an unknown address; Forbidden
        `user_disabled`, only to who knows the password."""
        async with self._database.raw() as connection:
            user = await repository.find_user_by_email(connection, _normalised(email))
        matches, renewed_hash = await self._passwords.verify(password, user.password_hash if user else None)
        if user is None or not matches:
            reason = "unknown_email" if user is None else "wrong_password"
            await self._record("user.login_refused", user.id if user else None, {"reason": reason}, origin)
            raise NotAuthenticated("The email or the password is wrong.", code="invalid_credentials")
        if user.disabled_at is not None:
            await self._record("user.login_refused", user.id, {"reason": "disabled"}, origin)
            raise Forbidden("This account is disabled.", code="user_disabled")
        now = self._clock()
        family_id = uuid7()
        async with self._database.transaction() as connection:
            if renewed_hash is not None:
                await repository.replace_password_hash(connection, user.id, user.password_hash, renewed_hash)
            await repository.insert_family(connection, family_id, user.id, now)
            tokens = await self._issue(connection, user.id, user.role, family_id, now)
        await self._record("user.logged_in", user.id, {"session_id": str(family_id)}, origin)
        return tokens

    async def refresh(self, refresh_token: str, origin: Origin = NOWHERE) -> TokenPair:
        """A new pair for a refresh token, which is good for one use.

        NotAuthenticated `invalid_token`, `token_expired`, `token_revoked`, or `token_reused`: then somebody else has
        it too, and every token of the same login ends. Of simultaneous uses one wins, and the others count as reuse.
        """
        digest = self._refresh_tokens.digest(refresh_token)
        if digest is None:
            raise _invalid_refresh_token()
        now = self._clock()

        async def rotate(connection: RawConnection) -> tuple[Any, TokenPair | None]:
            row = await repository.lock_refresh_token(connection, digest)
            if row is None or row["revoked_at"] or row["disabled_at"] or (row["expires_at"] <= now):
                return row, None
            if row["used_at"]:
                await repository.revoke_family(connection, row["family_id"], "reused", now)
                return row, None
            await repository.mark_used(connection, row["id"], now)
            return row, await self._issue(connection, row["user_id"], row["role"], row["family_id"], now)

        row, tokens = await self._database.in_transaction(rotate)
        if tokens is not None:
            return tokens
        if row is None:
            raise _invalid_refresh_token()
        if row["revoked_at"] or row["disabled_at"]:
            raise NotAuthenticated("The login was ended; log in again.", code="token_revoked")
        if row["used_at"] and row["expires_at"] > now:
            self._revocations.add(row["family_id"])
            await self._record("user.token_reused", row["user_id"], {"session_id": str(row["family_id"])}, origin)
            raise NotAuthenticated("The refresh token was used before; log in again.", code="token_reused")
        raise NotAuthenticated("The refresh token has expired; log in again.", code="token_expired")

    async def logout(self, *, refresh_token: str | None = None, principal: Principal | None = None) -> None:
        """Ends the login that the refresh token or the principal's access token belongs to. Unknown tokens are no
        error (RFC 7009, section 2.2): they cannot be used either."""
        async with self._database.transaction() as connection:
            if refresh_token is not None:
                digest = self._refresh_tokens.digest(refresh_token)
                family = await repository.find_family(connection, digest) if digest else None
                ended = (family["id"], family["user_id"]) if family else None
            else:
                ended = (principal.credential_id, principal.id) if principal else None
            if ended is None or not await repository.revoke_family(connection, ended[0], "logout", self._clock()):
                return
        family_id, user_id = ended
        self._revocations.add(family_id)
        await self._record("user.logged_out", user_id, {"session_id": str(family_id)}, NOWHERE)

    async def me(self, principal: Principal) -> UserRow:
        async with self._database.raw() as connection:
            user = await repository.find_user(connection, principal.id)
        if user is None or user.disabled_at is not None:
            raise NotAuthenticated("This account is disabled.", code="user_disabled")
        return user

    async def find_owner(self, email: str) -> UUID | None:
        """The user of this address, or without one the oldest administrator; None when there is none who is not disabled."""
        async with self._database.raw() as connection:
            if not email:
                return await repository.find_oldest_admin(connection)
            user = await repository.find_user_by_email(connection, _normalised(email))
        return user.id if user is not None and user.disabled_at is None else None

    async def disable_user(self, user_id: UUID) -> None:
        """Refuses the user's logins, tokens and API keys from now on. NotFound when there is no such active user."""
        now = self._clock()
        async with self._database.transaction() as connection:
            if not await repository.disable_user(connection, user_id, now):
                raise NotFound("There is no such active user.")
            await repository.revoke_families_of(connection, user_id, "disabled", now)
        self._revocations.add(user_id)
        self._keys_by_digest.forget(lambda principal: principal.id == user_id)
        await self._record("user.disabled", user_id, {}, NOWHERE)

    async def forget_expired_tokens(self, most: int = 1_000) -> int:
        """For a timer: how many refresh tokens that ended a day ago or earlier were deleted, `most` at a time."""
        async with self._database.transaction() as connection:
            return await repository.delete_expired_tokens(connection, self._clock() - timedelta(days=1), most)

    # API keys

    async def create_api_key(
        self,
        principal: Principal,
        name: str,
        scopes: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        origin: Origin = NOWHERE,
    ) -> tuple[ApiKeyRow, str]:
        """The key's row and the key itself, which nobody can read again. Without `scopes` it gets every user scope.

        Forbidden for scopes beyond the user's role; Invalid for an end in the past or more than ten years ahead;
        Conflict `too_many_api_keys`.
        """
        wanted = sorted(set(scopes if scopes is not None else USER_SCOPES))
        beyond = sorted(set(wanted) - SCOPES_OF_ROLE[principal.role])
        if beyond:
            raise Forbidden(f"Your role does not include {', '.join(beyond)}.", code="insufficient_scope")
        now = self._clock()
        if expires_at is not None and not now < expires_at <= now + _LONGEST_API_KEY_LIFE:
            detail = "Must lie in the future, and at most ten years ahead."
            raise Invalid(errors=[FieldError("/body/expires_at", detail)])
        secret = self._api_keys.new()
        async with self._database.transaction() as connection:
            await repository.lock_user(connection, principal.id)
            if await repository.count_usable_api_keys(connection, principal.id, now) >= MOST_API_KEYS:
                raise Conflict(f"At most {MOST_API_KEYS} API keys; revoke one first.", code="too_many_api_keys")
            row = await repository.insert_api_key(
                connection, uuid7(), principal.id, name, secret, wanted, now, expires_at
            )
        data = {"api_key_id": str(row.id), "prefix": row.prefix, "scopes": wanted}
        await self._record("api_key.created", principal.id, data, origin)
        return row, secret.text

    async def list_api_keys(self, principal: Principal) -> list[ApiKeyRow]:
        async with self._database.raw() as connection:
            return await repository.list_api_keys(connection, principal.id, _LISTED_API_KEYS)

    async def revoke_api_key(self, principal: Principal, key_id: UUID, origin: Origin = NOWHERE) -> None:
        """At once in this process, within five seconds in every other. NotFound also for another user's key."""
        async with self._database.raw() as connection:
            prefix = await repository.revoke_api_key(connection, principal.id, key_id, self._clock())
        if prefix is None:
            raise NotFound("You have no such API key.")
        self._keys_by_digest.forget(lambda cached: cached.credential_id == key_id)
        self._keys_by_id.discard(key_id)
        data = {"api_key_id": str(key_id), "prefix": prefix}
        await self._record("api_key.revoked", principal.id, data, origin)

    # Authentication

    async def authenticate(self, *, bearer: str | None = None, api_key: str | None = None) -> Principal:
        """Who holds the credential. NotAuthenticated when it is none, no good, expired or revoked.

        An access token costs no query and an API key one every few seconds. So a logout, a disabled user or a revoked
        key takes up to five seconds to reach the other processes (see `revocation`).
        """
        if bearer is not None:
            return await self.authenticate_token(bearer)
        if api_key is not None:
            return await self._authenticate_api_key(api_key)
        raise NotAuthenticated

    async def authenticate_token(self, text: str) -> Principal:
        """The same for a text that may be either an access token or an API key."""
        if text.startswith(API_KEY_MARK):
            return await self._authenticate_api_key(text)
        principal = self._access_tokens.read(text, self._clock())
        if await self._revocations.contain(principal.credential_id, principal.id):
            raise NotAuthenticated("The login was ended; log in again.", code="token_revoked")
        return principal

    async def is_still_valid(self, principal: Principal) -> bool:
        """Whether a principal of earlier would be authenticated now, as told by what this process knows."""
        if principal.expires_at is not None and principal.expires_at <= self._clock():
            return False
        if principal.kind == "user":
            return not await self._revocations.contain(principal.credential_id, principal.id)
        return await self._keys_by_id.get(
            principal.credential_id, lambda: self._api_key_is_usable(principal.credential_id)
        )

    async def _authenticate_api_key(self, text: str) -> Principal:
        parsed = self._api_keys.digest(text)
        if parsed is None:
            raise _invalid_api_key()
        prefix, digest = parsed
        principal = await self._keys_by_digest.get(digest, lambda: self._load_api_key(prefix, digest))
        if principal.expires_at is not None and principal.expires_at <= self._clock():
            raise _invalid_api_key()
        return principal

    async def _load_api_key(self, prefix: str, digest: bytes) -> Principal:
        now = self._clock()
        async with self._database.raw() as connection:
            row = await repository.key_state_by_prefix(connection, prefix)
            if row is None or not same(row["secret_digest"], digest) or not _usable(row, now):
                raise _invalid_api_key()
            if row["last_used_at"] is None or row["last_used_at"] <= now - _LAST_USED_EVERY:
                await repository.touch_api_key(connection, row["id"], now, _LAST_USED_EVERY)
        owner_role = cast(Role, row["role"])
        # A key keeps no scope that its owner's role has lost, and is an admin's only by an admin scope.
        scopes = frozenset(row["scopes"]) & SCOPES_OF_ROLE[owner_role]
        return Principal(
            id=row["user_id"],
            kind="api_key",
            role=owner_role if scopes.intersection(ADMIN_SCOPES) else "user",
            scopes=scopes,
            credential_id=row["id"],
            expires_at=row["expires_at"],
        )

    async def _api_key_is_usable(self, key_id: UUID) -> bool:
        async with self._database.raw() as connection:
            row = await repository.key_state(connection, key_id)
        return row is not None and _usable(row, self._clock())

    async def _load_revoked(self, since: datetime) -> set[UUID]:
        async with self._database.raw() as connection:
            return await repository.revoked_since(connection, since)

    # What the above share

    async def _create_user(self, email: str, password: str, name: str, role: Role, origin: Origin) -> UserRow:
        password_hash = await self._passwords.hash(password)
        user = UserRow(uuid7(), _normalised(email), name, password_hash, role, self._clock(), None)
        async with self._database.transaction() as connection:
            if not await repository.insert_user(connection, user):
                raise Conflict("An account with this address exists.", code="email_taken")
            await self._welcome(connection, user.id)
        await self._record("user.registered", user.id, {"role": role}, origin)
        return user

    async def _issue(
        self, connection: RawConnection, user_id: UUID, role: str, family_id: UUID, now: datetime
    ) -> TokenPair:
        refresh_token = self._refresh_tokens.new()
        expires_at = now + self._refresh_tokens.lifetime
        await repository.insert_refresh_token(connection, uuid7(), family_id, refresh_token.digest, now, expires_at)
        access_token = self._access_tokens.issue(user_id, role, family_id, now)
        return TokenPair(access_token, refresh_token.text, self._access_tokens.seconds)

    async def _record(self, event_type: str, user_id: UUID | None, data: dict[str, Any], origin: Origin) -> None:
        try:
            await self._record_event(event_type, user_id, data, origin.ip_address, origin.user_agent)
        except Exception:
            # What it tells has happened and is committed; to fail now would say that it had not.
            log.exception("identity.event_not_recorded", event_type=event_type)


def _normalised(email: str) -> str:
    return email.strip().lower()


def _usable(row: Any, now: datetime) -> bool:
    return (
        row["revoked_at"] is None
        and row["disabled_at"] is None
        and (row["expires_at"] is None or bool(row["expires_at"] > now))
    )


def _invalid_api_key() -> NotAuthenticated:
    return NotAuthenticated("The API key is not valid.", code="invalid_api_key")


def _invalid_refresh_token() -> NotAuthenticated:
    return NotAuthenticated("The refresh token is not valid.", code="invalid_token")
