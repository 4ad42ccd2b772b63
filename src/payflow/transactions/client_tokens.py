"""The token that lets a customer's browser watch one transaction: minted at each answer, never stored.

It names the transaction and proves that we made it. It holds no time: it is good until an hour after the transaction's end,
which the holder of the row knows (`still_good`).
"""

import base64
import binascii
from datetime import datetime, timedelta
from uuid import UUID

from payflow.core.crypto import keyed_digest, same

PREFIX = "pf_client_"


class ClientTokens:
    def __init__(self, key: bytes, grace_seconds: int = 3_600) -> None:
        self._key = key
        self._grace = timedelta(seconds=grace_seconds)

    def mint(self, transaction_id: UUID) -> str:
        raw = transaction_id.bytes + keyed_digest(self._key, "client-token", transaction_id.bytes)[:16]
        return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")

    def read(self, token: str) -> UUID | None:
        """The transaction that the token names; None when it is not one of ours."""
        if not token.startswith(PREFIX) or not token.isascii():
            return None
        try:
            raw = base64.urlsafe_b64decode(token[len(PREFIX) :] + "==")
        except (binascii.Error, ValueError):
            return None
        if len(raw) != 32 or not same(raw[16:], keyed_digest(self._key, "client-token", raw[:16])[:16]):
            return None
        return UUID(bytes=raw[:16])

    def still_good(self, ended_at: datetime | None, now: datetime) -> bool:
        """Whether a token of a transaction that ended then (None: not yet) may still be used."""
        return ended_at is None or now < ended_at + self._grace
