"""What a use case answers to a request with an Idempotency-Key: bytes, so that a repeat gets the very same."""

from dataclasses import dataclass
from uuid import UUID

import orjson

from payflow.core.errors import ProviderUnavailable
from payflow.events.types import Origin

PROVIDER_MARGIN_SECONDS = 15.0
"""What a call of a provider may take beyond the timeout of one request, before its outcome counts as unknown."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as bytes, whether it is one that was given before, and where what was made can be read."""

    status_code: int
    body: bytes
    replayed: bool = False
    transaction_id: UUID | None = None
    refund_id: UUID | None = None
    folder: str = "payments"

    @property
    def location(self) -> str:
        made = f"/api/v1/{self.folder}/{self.transaction_id}"
        return made if self.refund_id is None else f"{made}/refunds/{self.refund_id}"


def not_sent_reply(transaction_id: UUID, origin: Origin, instance: str, **extra: UUID) -> Reply:
    """502: nothing was sent. A problem with what exists of it by now, to be kept for the Idempotency-Key."""
    error = ProviderUnavailable()
    problem = {
        "type": f"urn:payflow:problem:{error.code}",
        "title": "Provider unavailable",
        "status": int(error.status),
        "detail": error.detail,
        "instance": instance,
        "code": error.code,
        "errors": [],
        "request_id": origin.correlation_id or "",
        "transaction_id": transaction_id,
        **extra,
    }
    return Reply(int(error.status), orjson.dumps(problem), transaction_id=transaction_id)
