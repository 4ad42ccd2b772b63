"""Tokens of one transaction for a customer's browser: made anew wherever they are shown, never stored.

A client token lets its holder watch the transaction. A return token stands in the address that a hosted page sends the
customer back to, so the provider reads it too: it opens that page of ours and nothing else.

Each names the transaction and proves that we made it. It holds no time: it is good until an hour after the transaction's end,
which the holder of the row knows (`still_good`).
"""

import base64
import binascii
from datetime import datetime, timedelta
from uuid import UUID

from payflow.core.crypto import keyed_digest, same

PREFIX = "pf_client_"
RETURN_PREFIX = "pf_return_"
_PURPOSES = {PREFIX: "client-token", RETURN_PREFIX: "return-token"}


class ClientTokens:
    def __init__(self, key: bytes, grace_seconds: int = 3_600) -> None:
        self._key = key
        self._grace = timedelta(seconds=grace_seconds)

    def mint(self, transaction_id: UUID) -> str:
        return self._mint(PREFIX, transaction_id)

    def read(self, token: str) -> UUID | None:
        """The transaction that a client token names; None when it is not one of ours."""
        return self._read(PREFIX, token)

    def mint_return(self, transaction_id: UUID) -> str:
        return self._mint(RETURN_PREFIX, transaction_id)

    def read_return(self, token: str) -> UUID | None:
        """The transaction that a return token names; None when it is not one of ours."""
        return self._read(RETURN_PREFIX, token)

    def still_good(self, ended_at: datetime | None, now: datetime) -> bool:
        """Whether a token of a transaction that ended then (None: not yet) may still be used."""
        return ended_at is None or now < ended_at + self._grace

    def _mint(self, prefix: str, transaction_id: UUID) -> str:
        raw = transaction_id.bytes + self._proof(prefix, transaction_id.bytes)
        return prefix + base64.urlsafe_b64encode(raw).decode().rstrip("=")

    def _read(self, prefix: str, token: str) -> UUID | None:
        if not token.startswith(prefix) or not token.isascii():
            return None
        try:
            raw = base64.urlsafe_b64decode(token[len(prefix) :] + "==")
        except (binascii.Error, ValueError):
            return None
        if len(raw) != 32 or not same(raw[16:], self._proof(prefix, raw[:16])):
            return None
        return UUID(bytes=raw[:16])

    def _proof(self, prefix: str, identity: bytes) -> bytes:
        return keyed_digest(self._key, _PURPOSES[prefix], identity)[:16]
