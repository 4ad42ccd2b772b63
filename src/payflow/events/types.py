"""What an event is: one row of the append-only log, and the frame that sockets and subscribers receive of it.

The rows are the history that a payment's GET returns, what sockets resume from and what merchant webhooks are made of, so
they cannot disagree. `data` is safe to show: amounts, statuses, failure codes and the next action; no personal data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from payflow.core.clock import rfc3339


class Actor(StrEnum):
    USER = "user"
    PROVIDER = "provider"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who is behind a change, as far as it is known."""

    actor: Actor = Actor.SYSTEM
    ip_address: str | None = None
    user_agent: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `sequence` and `status` (after the event) are None for events without a transaction."""

    id: UUID
    type: str
    created_at: datetime
    user_id: UUID | None = None
    transaction_id: UUID | None = None
    sequence: int | None = None
    status: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)


def frame(event: Event) -> bytes:
    """The JSON text frame of an event: `type, event_id, transaction_id, sequence, status, data, occurred_at`."""
    return orjson.dumps(
        {
            "type": event.type,
            "event_id": event.id,
            "transaction_id": event.transaction_id,
            "sequence": event.sequence,
            "status": event.status,
            "data": event.data,
            "occurred_at": rfc3339(event.created_at),
        }
    )
