"""Tells every API node of committed events, through Redis. A lost message loses nothing: nodes catch up from the log."""

import time
from collections.abc import Callable, Sequence
from uuid import UUID

from payflow.core.logging import get_logger
from payflow.events.types import Event, frame
from payflow.infra.redis import AWAY, Redis

log = get_logger(__name__)

REST_SECONDS = 1.0


def transaction_channel(prefix: str, transaction_id: UUID) -> str:
    return f"{prefix}tx:{transaction_id}"


def user_channel(prefix: str, user_id: UUID) -> str:
    return f"{prefix}user:{user_id}"


class EventPublisher:
    """`publish` is called after the commit, never before."""

    def __init__(self, redis: Redis, prefix: str, lost: Callable[[int], None] | None = None) -> None:
        self._redis = redis
        self._prefix = prefix
        self._lost = lost or (lambda count: None)
        self._away_until = float("-inf")

    async def publish(self, events: Sequence[Event], cached: Sequence[tuple[str, bytes, int]] = ()) -> None:
        """Send each event to its transaction's and its user's channel, one round trip for all. Never raises for Redis.

        `cached` rides along: (key, value, seconds to live) to set in the same round trip.
        """
        if not events and not cached:
            return
        if time.monotonic() < self._away_until:
            self._lost(len(events))
            return
        pipeline = self._redis.pipeline(transaction=False)
        for event in events:
            encoded = frame(event)
            if event.transaction_id is not None:
                pipeline.publish(transaction_channel(self._prefix, event.transaction_id), encoded)
            if event.user_id is not None:
                pipeline.publish(user_channel(self._prefix, event.user_id), encoded)
        for key, value, seconds in cached:
            pipeline.set(self._prefix + key, value, ex=seconds)
        try:
            await pipeline.execute()
        except AWAY as error:
            # Nobody waits for a dead Redis more than once a moment; what is not sent meanwhile is caught up from the log.
            self._away_until = time.monotonic() + REST_SECONDS
            self._lost(len(events))
            log.warning("events.publish_lost", count=len(events), error=type(error).__name__)
