"""What a listener is told when it comes: how things stand, then on request what it missed, then everything new.

The order is what makes it complete: subscribed first, then the snapshot read, then the rest of the log, and only when that
has caught up with the feed (checked and admitted without an await between) do live frames begin.
"""

from datetime import timedelta
from typing import Protocol
from uuid import UUID

from payflow.core.clock import Clock, rfc3339
from payflow.core.errors import Unavailable
from payflow.events.repository import EventRepository, first_id_at
from payflow.realtime.access import Access, authorise_transaction, authorise_user
from payflow.realtime.frames import Frame, transaction_snapshot, user_snapshot
from payflow.realtime.hub import OVERLAP, Hub, Listener, TransactionFeed, UserFeed
from payflow.realtime.repository import RealtimeRepository

_PAGE = 500
_MOST_ROUNDS = 50
_MOST_KNOWN = 50_000


class Receiver(Listener, Protocol):
    access: Access

    async def send(self, frame: Frame) -> None:
        """Send now. Used only until `deliver`ed frames are asked for."""

    def skip_delivered(self, event_ids: set[str]) -> None:
        """Forget those of the frames delivered so far."""


class Stream(Protocol):
    """One listener's watch of one channel. `open` returns when live frames may flow; `close` is always called."""

    kind: str

    async def open(self, receiver: Receiver) -> None:
        """NotFound, Forbidden, DatabaseAway."""

    def close(self, receiver: Receiver) -> None: ...


class TransactionStream:
    kind = "transaction"
    __slots__ = ("_after", "_events", "_feed", "_hub", "_id", "_reads")

    def __init__(
        self, hub: Hub, reads: RealtimeRepository, events: EventRepository, transaction_id: UUID, after: int | None
    ) -> None:
        self._hub = hub
        self._reads = reads
        self._events = events
        self._id = transaction_id
        self._after = after
        self._feed: TransactionFeed | None = None

    async def open(self, receiver: Receiver) -> None:
        feed = self._feed = self._hub.hold_transaction(self._id)
        await self._hub.subscribed(feed)
        watched = authorise_transaction(receiver.access, self._id, await self._reads.transaction(self._id))
        await receiver.send(transaction_snapshot(watched))
        told = watched.sequence
        if self._after is not None and self._after < told:
            told = await self._replay(receiver, self._after)
        feed.start(told)
        for _ in range(_MOST_ROUNDS):
            if feed.sequence == told:
                feed.listeners.add(receiver)
                return
            if feed.sequence is not None and feed.sequence < told:
                # This listener has proved that a message was lost; those who are here already get it too.
                await self._hub.bring_up(feed)
            else:
                told = await self._replay(receiver, told)
        raise Unavailable("The log moves too fast to catch up with.")

    async def _replay(self, receiver: Receiver, after: int) -> int:
        """Everything behind `after`, in order; the last sequence that was sent."""
        while True:
            events = await self._events.of_transaction(self._id, after=after, limit=_PAGE)
            for event in events:
                await receiver.send(Frame.of(event))
                after = event.sequence or after
            if len(events) < _PAGE:
                return after

    def close(self, receiver: Receiver) -> None:
        if self._feed is not None:
            self._hub.let_go(self._feed, receiver)
            self._feed = None


class UserStream:
    """Ids are ordered by when they were made and not by when they were committed; so a replay reaches back by OVERLAP,
    and may bring again, with the same ids, what the client has."""

    kind = "user"
    __slots__ = ("_after", "_clock", "_feed", "_hub", "_id", "_reads")

    def __init__(self, hub: Hub, reads: RealtimeRepository, clock: Clock, user_id: UUID, after: UUID | None) -> None:
        self._hub = hub
        self._reads = reads
        self._clock = clock
        self._id = user_id
        self._after = after
        self._feed: UserFeed | None = None

    async def open(self, receiver: Receiver) -> None:
        own = receiver.access.principal is not None and receiver.access.principal.id == self._id
        authorise_user(receiver.access, self._id, exists=own or await self._reads.user_exists(self._id))
        feed = self._feed = self._hub.hold_user(self._id)
        await self._hub.subscribed(feed)
        if self._after is None:
            # From here on new frames wait in the receiver's queue, behind the snapshot.
            feed.listeners.add(receiver)
        now = self._clock()
        if feed.checked_at is None:
            known = await self._reads.ids_of_users([self._id], after=first_id_at(now - OVERLAP), limit=_MOST_KNOWN)
            feed.start(now, (event_id for _, event_id in known))
        last = await self._reads.last_event_id(self._id)
        await receiver.send(user_snapshot(self._id, last, rfc3339(now)))
        if self._after is None:
            return
        sent: set[str] = set()
        reached = await self._replay(receiver, _before(self._after), sent)
        # Admitted only now, or a long replay would overflow the queue; what came meanwhile is in the log by now.
        feed.listeners.add(receiver)
        await self._replay(receiver, _before(reached), sent)
        receiver.skip_delivered(sent)

    async def _replay(self, receiver: Receiver, after: UUID, sent: set[str]) -> UUID:
        while True:
            events = await self._reads.of_user(self._id, after=after, limit=_PAGE)
            for event in events:
                if str(event.id) not in sent:
                    sent.add(str(event.id))
                    await receiver.send(Frame.of(event))
            if events:
                after = events[-1].id
                bound = str(_before(after))
                sent.difference_update([event_id for event_id in sent if event_id < bound])
            if len(events) < _PAGE:
                return after

    def close(self, receiver: Receiver) -> None:
        if self._feed is not None:
            self._hub.let_go(self._feed, receiver)
            self._feed = None


def _before(event_id: UUID) -> UUID:
    """Where the log is read from, to miss nothing that was committed after the event of this id."""
    overlap_ms = OVERLAP // timedelta(milliseconds=1)
    return UUID(int=max((event_id.int >> 80) - overlap_ms, 0) << 80)
