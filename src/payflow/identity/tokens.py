"""The three kinds of credential: access tokens (JWT), refresh tokens and API keys.

Refresh tokens and API keys are random and stored as HMAC-SHA-256 under keys of their own; whoever reads the database
can use neither. Their shapes (64 hexadecimal characters, `pf_key_…`) are blanked in logs wherever they turn up.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast, get_args
from uuid import UUID

import jwt

from payflow.core.crypto import derive_key, keyed_digest
from payflow.core.errors import NotAuthenticated
from payflow.core.ids import uuid7
from payflow.identity.principals import SCOPES_OF_ROLE, Principal, Role

ISSUER = "payflow"
AUDIENCE = "payflow-api"
API_KEY_MARK = "pf_key_"

_API_KEY = re.compile(r"pf_key_([0-9a-z]{12})_[0-9a-f]{64}")
_REFRESH_TOKEN = re.compile(r"[0-9a-f]{64}")
_MOST_REMEMBERED = 10_000
_PREFIX_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ROLES: tuple[Role, ...] = get_args(Role)
# The clock is the service's, so the time claims are compared here and not in the library.
_DECODE_OPTIONS: jwt.types.Options = {
    "require": ["sub", "sid", "exp", "role"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class AccessTokens:
    """HS256 with a key derived from the service's secret. Verifying takes 40 µs and no database, and the next time 1 µs:
    what was verified is remembered, and only its end is looked at again."""

    def __init__(self, secret: str, seconds: int) -> None:
        self._key = derive_key(secret, "access-token")
        self.seconds = seconds
        self._verified: dict[str, Principal] = {}

    def issue(self, user_id: UUID, role: str, family_id: UUID, now: datetime) -> str:
        issued_at = int(now.timestamp())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "role": role,
            "sid": str(family_id),
            "iat": issued_at,
            "exp": issued_at + self.seconds,
            "jti": str(uuid7()),
        }
        return jwt.encode(claims, self._key, algorithm="HS256")

    def read(self, token: str, now: datetime) -> Principal:
        """NotAuthenticated (`invalid_token` or `token_expired`) unless the token is ours and still runs."""
        principal = self._verified.get(token)
        if principal is None:
            principal = self._verify(token)
            if len(self._verified) >= _MOST_REMEMBERED:
                self._verified.clear()
            self._verified[token] = principal
        assert principal.expires_at is not None
        if now >= principal.expires_at:
            self._verified.pop(token, None)
            raise NotAuthenticated("The access token has expired.", code="token_expired")
        return principal

    def _verify(self, token: str) -> Principal:
        try:
            claims = jwt.decode(
                token, self._key, algorithms=["HS256"], audience=AUDIENCE, issuer=ISSUER, options=_DECODE_OPTIONS
            )
            role = claims["role"]
            if role not in _ROLES:
                raise ValueError
            known_role = cast(Role, role)
            return Principal(
                id=UUID(claims["sub"]),
                kind="user",
                role=known_role,
                scopes=SCOPES_OF_ROLE[known_role],
                credential_id=UUID(claims["sid"]),
                expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            )
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError, OSError):
            # The last two: a time that no calendar holds.
            raise NotAuthenticated("The access token is not valid.", code="invalid_token") from None


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A credential just made: `text` goes to the caller once, `digest` to the database."""

    text: str
    digest: bytes
    prefix: str = ""


class RefreshTokens:
    def __init__(self, secret: str, seconds: int) -> None:
        self._key = derive_key(secret, "refresh-token")
        self.lifetime = timedelta(seconds=seconds)

    def new(self) -> NewSecret:
        text = secrets.token_hex(32)
        return NewSecret(text, keyed_digest(self._key, text))

    def digest(self, text: str) -> bytes | None:
        """None for what can be no refresh token of ours."""
        return keyed_digest(self._key, text) if _REFRESH_TOKEN.fullmatch(text) else None


class ApiKeys:
    def __init__(self, secret: str) -> None:
        self._key = derive_key(secret, "api-key")

    def new(self) -> NewSecret:
        prefix = "".join(secrets.choice(_PREFIX_ALPHABET) for _ in range(12))
        text = f"{API_KEY_MARK}{prefix}_{secrets.token_hex(32)}"
        return NewSecret(text, keyed_digest(self._key, text), prefix)

    def digest(self, text: str) -> tuple[str, bytes] | None:
        """Its prefix and digest; None for what can be no key of ours."""
        match = _API_KEY.fullmatch(text)
        return (match[1], keyed_digest(self._key, text)) if match else None
