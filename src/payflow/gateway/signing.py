"""Signing schemes that providers share: HMAC of the raw body, Stripe's timestamped list, and our own callback tokens."""

import hmac
import time
from collections.abc import Iterable
from uuid import UUID, uuid5

from payflow.core.crypto import keyed_digest, same
from payflow.gateway.contract import HINT_MARK, Declaration, WebhookRefused

_TOKEN_MAC_BYTES = 16
_OF_NO_ATTEMPT = UUID("5d0f3a0a-7c1c-5f0e-9c40-3b8f2f6f5a27")


def validation_id(provider: str) -> UUID:
    """In place of an attempt's id, in the token of the URL where this provider asks whether it may take a payment."""
    return uuid5(_OF_NO_ATTEMPT, f"{provider}|validation")


def confirmation_id(provider: str) -> UUID:
    """In place of an attempt's id, in the token of the URL where this provider tells of payments nobody ordered."""
    return uuid5(_OF_NO_ATTEMPT, f"{provider}|confirmation")


def verify_hmac_hex(header: str | None, body: bytes, secrets: Iterable[str], digest: str) -> None:
    """A header holding the hex HMAC of the raw body. WebhookRefused unless one of the secrets fits; empty ones never do."""
    if not header:
        raise WebhookRefused("header_missing")
    usable = [secret for secret in secrets if secret]
    if not usable:
        raise WebhookRefused("no_secret")
    if not any(same(hmac.digest(secret.encode(), body, digest).hex(), header.strip().lower()) for secret in usable):
        raise WebhookRefused("signature_mismatch")


def verify_timestamped(
    header: str | None,
    body: bytes,
    secrets: Iterable[str],
    *,
    now: float | None = None,
    tolerance_seconds: int = 300,
) -> None:
    """`t=<unix>,v1=<hex>[,v1=…]` over `<t>.<raw body>` with HMAC-SHA-256 (Stripe). Any v1 may fit; v0 is a test scheme.

    Older or newer than the tolerance is refused, so that a recorded webhook cannot be played again later.
    """
    if not header:
        raise WebhookRefused("header_missing")
    timestamp: int | None = None
    signatures: list[str] = []
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isascii() and value.isdigit() and len(value) <= 12:
            timestamp = int(value)
        elif name == "v1":
            signatures.append(value)
    if timestamp is None or not signatures:
        raise WebhookRefused("wrong_scheme")
    usable = [secret for secret in secrets if secret]
    if not usable:
        raise WebhookRefused("no_secret")
    signed = str(timestamp).encode() + b"." + body
    expected = [hmac.digest(secret.encode(), signed, "sha256").hex() for secret in usable]
    if not any(same(known, given) for known in expected for given in signatures):
        raise WebhookRefused("signature_mismatch")
    if abs((time.time() if now is None else now) - timestamp) > tolerance_seconds:
        raise WebhookRefused("stale")


class CallbackTokens:
    """Unguessable URL parts that name an attempt: its id and a keyed tag, as 64 lower-case hex characters.

    Nothing is stored: the tag proves that we made it. Hex alone, because Daraja refuses URLs that hold words such as `exe`,
    `cmd` or `sql`, and was seen to refuse upper case.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, attempt_id: UUID) -> str:
        return attempt_id.hex + self._tag(attempt_id)

    def read(self, token: str) -> UUID:
        """The attempt's id. WebhookRefused for a token we did not make."""
        try:
            attempt_id = UUID(hex=token[:32]) if len(token) == 64 else None
        except ValueError:
            attempt_id = None
        if attempt_id is None or not same(self._tag(attempt_id), token[32:]):
            raise WebhookRefused("token")
        return attempt_id

    @staticmethod
    def without_mark(token: str) -> tuple[str, bool]:
        """The token, and whether `HINT_MARK` stood behind it."""
        marked = len(token) == 65 and token.endswith(HINT_MARK)
        return (token[:-1], True) if marked else (token, False)

    def _tag(self, attempt_id: UUID) -> str:
        return keyed_digest(self._key, "callback", attempt_id.bytes)[:_TOKEN_MAC_BYTES].hex()


class CallbackUrls:
    """Where a provider reports about an attempt: its webhook address, with the attempt's token where it signs nothing."""

    def __init__(self, tokens: CallbackTokens, public_url: str) -> None:
        self._tokens = tokens
        self._base = f"{public_url.rstrip('/')}/api/v1/webhooks/"

    def of(self, declaration: Declaration, attempt_id: UUID) -> str:
        url = self._base + declaration.path_name
        return f"{url}/{self._tokens.issue(attempt_id)}" if declaration.webhook_token else url

    def validation(self, declaration: Declaration) -> str:
        return self._of_provider(declaration, validation_id(declaration.name))

    def confirmation(self, declaration: Declaration) -> str:
        return self._of_provider(declaration, confirmation_id(declaration.name))

    def _of_provider(self, declaration: Declaration, identity: UUID) -> str:
        return f"{self._base}{declaration.path_name}/{self._tokens.issue(identity)}"
