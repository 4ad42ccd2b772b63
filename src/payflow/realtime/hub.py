"""One per node: what its clients watch, what Redis tells of it, and the log behind that when Redis tells nothing.

A feed is one watched transaction or user, shared by every listener of it on this node.

- A transaction's feed passes events on strictly by `sequence`. What is behind is dropped, what is ahead waits until the log
  has given what lies between.
- A user's events have no common sequence, so its feed remembers which ids it has passed on, for as long as the log is
  looked at again (OVERLAP: between an id being made and its row being visible lies at most one database transaction).

Every few seconds two queries compare all feeds with the log. So Redis decides how soon an event arrives, never whether.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from payflow.core.clock import Clock, utc_now
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.events.publisher import transaction_channel, user_channel
from payflow.events.repository import EventRepository, first_id_at
from payflow.events.types import Event
from payflow.infra.database import DatabaseAway
from payflow.realtime.frames import Frame
from payflow.realtime.metrics import NoMetrics, RealtimeMetrics
from payflow.realtime.repository import RealtimeRepository
from payflow.realtime.subscriptions import Subscriptions

log = get_logger(__name__)

OVERLAP = timedelta(seconds=30)
_MOST_WAITING = 256
_ROWS = 5_000
_IDS_A_QUERY = 500
_REST_AFTER_FAILURE_SECONDS = 0.5
_GAP_PATIENCE_SECONDS = 0.01


class Listener(Protocol):
    def deliver(self, frame: Frame) -> None:
        """Take the frame without waiting and without raising."""


class TransactionFeed:
    """`sequence` is the last one passed on; None until the first listener has read how the transaction stands."""

    __slots__ = ("_waiting", "channel", "holders", "id", "listeners", "sequence")

    def __init__(self, transaction_id: UUID, channel: bytes) -> None:
        self.id = transaction_id
        self.channel = channel
        self.holders = 0
        self.listeners: set[Listener] = set()
        self.sequence: int | None = None
        self._waiting: dict[int, Frame] = {}

    @property
    def has_gap(self) -> bool:
        return bool(self._waiting) and self.sequence is not None

    def start(self, sequence: int) -> None:
        if self.sequence is None:
            self.sequence = sequence
            self._waiting = {number: frame for number, frame in self._waiting.items() if number > sequence}
            self._release()

    def offer(self, frame: Frame) -> int:
        """How many frames were passed on because of this one."""
        number = frame.sequence
        if number is None:
            return 0
        if self.sequence is not None and number <= self.sequence:
            return 0
        # A full store drops what comes: the log has it, and the gap before it must be read anyway.
        if len(self._waiting) < _MOST_WAITING or number == (self.sequence or 0) + 1:
            self._waiting[number] = frame
        return self._release()

    def _release(self) -> int:
        released = 0
        while self.sequence is not None and (frame := self._waiting.pop(self.sequence + 1, None)) is not None:
            self.sequence += 1
            released += 1
            for listener in self.listeners:
                listener.deliver(frame)
        return released


class UserFeed:
    """`checked_at` is when the log was last compared; None until the first listener has read where it stands."""

    __slots__ = ("_passed_on", "channel", "checked_at", "holders", "id", "listeners")

    def __init__(self, user_id: UUID, channel: bytes) -> None:
        self.id = user_id
        self.channel = channel
        self.holders = 0
        self.listeners: set[Listener] = set()
        self.checked_at: datetime | None = None
        self._passed_on: set[str] = set()

    def start(self, checked_at: datetime, known: Iterable[UUID]) -> None:
        """`known` are the events of the last OVERLAP: they are the past, and no news to anybody."""
        if self.checked_at is None:
            self.checked_at = checked_at
            self._passed_on.update(map(str, known))

    def has_passed_on(self, event_id: UUID) -> bool:
        return str(event_id) in self._passed_on

    def offer(self, frame: Frame) -> int:
        if frame.event_id is None or frame.event_id in self._passed_on:
            return 0
        self._passed_on.add(frame.event_id)
        for listener in self.listeners:
            listener.deliver(frame)
        return 1

    def checked(self, at: datetime, forget_before: UUID) -> None:
        self.checked_at = at
        bound = str(forget_before)
        self._passed_on = {event_id for event_id in self._passed_on if event_id >= bound}


class Hub:
    def __init__(
        self,
        redis_url: str,
        prefix: str,
        events: EventRepository,
        reads: RealtimeRepository,
        settings: Settings,
        *,
        clock: Clock = utc_now,
        metrics: RealtimeMetrics | None = None,
        ping_seconds: float = 2.0,
        subscribe_seconds: float = 1.0,
    ) -> None:
        self._prefix = prefix
        self._events = events
        self._reads = reads
        self._clock = clock
        self._metrics = metrics or NoMetrics()
        self._interval_seconds = settings.socket_catch_up_seconds
        self._subscribe_seconds = subscribe_seconds
        self._subscriptions = Subscriptions(
            redis_url,
            self._receive,
            self._look_at_everything,
            ping_seconds=ping_seconds,
            burst=max(1, settings.socket_queue_size // 8),
        )
        self._transactions: dict[bytes, TransactionFeed] = {}
        self._users: dict[bytes, UserFeed] = {}
        self._with_gap: set[TransactionFeed] = set()
        self._everything = False
        self._wake = asyncio.Event()
        self._last: tuple[bytes, Frame] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._subscriptions.start()
        self._task = asyncio.create_task(self._keep_up(), name="realtime-catch-up")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._subscriptions.close()

    @property
    def channels(self) -> int:
        """How many channels are watched at the moment."""
        return len(self._transactions) + len(self._users)

    @property
    def hears_redis(self) -> bool:
        return self._subscriptions.is_ready

    # Watching

    def hold_transaction(self, transaction_id: UUID) -> TransactionFeed:
        """The transaction's feed, kept until `let_go`."""
        channel = transaction_channel(self._prefix, transaction_id).encode()
        feed = self._transactions.get(channel)
        if feed is None:
            feed = self._transactions[channel] = TransactionFeed(transaction_id, channel)
            self._subscriptions.want(channel)
        feed.holders += 1
        return feed

    def hold_user(self, user_id: UUID) -> UserFeed:
        """The user's feed, kept until `let_go`."""
        channel = user_channel(self._prefix, user_id).encode()
        feed = self._users.get(channel)
        if feed is None:
            feed = self._users[channel] = UserFeed(user_id, channel)
            self._subscriptions.want(channel)
        feed.holders += 1
        return feed

    def let_go(self, feed: TransactionFeed | UserFeed, listener: Listener) -> None:
        feed.listeners.discard(listener)
        feed.holders -= 1
        if feed.holders == 0:
            self._transactions.pop(feed.channel, None)
            self._users.pop(feed.channel, None)
            self._subscriptions.unwant(feed.channel)

    async def subscribed(self, feed: TransactionFeed | UserFeed) -> None:
        """Wait until Redis sends what is published from now on, though not for long: without Redis the log has it."""
        await self._subscriptions.subscribed(feed.channel, self._subscribe_seconds)

    async def bring_up(self, feed: TransactionFeed) -> None:
        """Pass on now whatever the log has beyond the feed."""
        await self._catch_up_transactions([feed])

    # What Redis brings

    def _receive(self, channel: bytes, payload: bytes) -> None:
        feed = self._transactions.get(channel) or self._users.get(channel)
        if feed is None:
            return
        try:
            frame = self._parse(payload)
        except ValueError:
            log.warning("realtime.unreadable_message", channel=channel.decode(errors="replace"))
            return
        self._metrics.sent(feed.offer(frame) * len(feed.listeners))
        if isinstance(feed, TransactionFeed) and feed.has_gap:
            self._with_gap.add(feed)
            self._wake.set()

    def _parse(self, payload: bytes) -> Frame:
        # An event comes twice in a row when both its transaction and its user are watched here.
        if self._last is None or self._last[0] != payload:
            self._last = (payload, Frame.parse(payload))
        return self._last[1]

    # What the log has

    def _look_at_everything(self) -> None:
        self._everything = True
        self._wake.set()

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        next_look = loop.time() + self._interval_seconds
        away = False
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_look):
                    await self._wake.wait()
                    # Two nodes publish neighbouring events within moments of each other; a gap often closes by itself.
                    await asyncio.sleep(_GAP_PATIENCE_SECONDS)
            self._wake.clear()
            everything = self._everything or loop.time() >= next_look
            gaps = [feed for feed in self._with_gap if feed.has_gap]
            self._with_gap.clear()
            try:
                if everything:
                    self._everything = False
                    next_look = loop.time() + self._interval_seconds
                    await self._catch_up_transactions(list(self._transactions.values()))
                    await self._catch_up_users(list(self._users.values()))
                elif gaps:
                    await self._catch_up_transactions(gaps)
                away = False
            except (DatabaseAway, OSError, TimeoutError) as error:
                if not away:
                    log.warning("realtime.database_away", error=type(error).__name__)
                away = True
                await asyncio.sleep(_REST_AFTER_FAILURE_SECONDS)
            except Exception:
                log.exception("realtime.catch_up_failed")
                await asyncio.sleep(_REST_AFTER_FAILURE_SECONDS)

    async def _catch_up_transactions(self, feeds: Sequence[TransactionFeed]) -> None:
        behind = {feed.id: feed for feed in feeds if feed.sequence is not None}
        while behind:
            seen = {feed.id: feed.sequence for feed in behind.values() if feed.sequence is not None}
            missing = await self._events.missing(seen, limit=_ROWS)
            for event in missing:
                if event.transaction_id is not None:
                    await self._catch_up(behind[event.transaction_id], event)
            if len(missing) < _ROWS:
                return

    async def _catch_up_users(self, feeds: Sequence[UserFeed]) -> None:
        by_user = {feed.id: feed for feed in feeds if feed.checked_at is not None}
        if not by_user:
            return
        began = self._clock()
        after = first_id_at(min(feed.checked_at for feed in by_user.values() if feed.checked_at) - OVERLAP)
        more = True
        while more:
            rows = await self._reads.ids_of_users(list(by_user), after=after, limit=_ROWS)
            missing = [event_id for user_id, event_id in rows if not by_user[user_id].has_passed_on(event_id)]
            for start in range(0, len(missing), _IDS_A_QUERY):
                for event in await self._reads.events(missing[start : start + _IDS_A_QUERY]):
                    if event.user_id is not None:
                        await self._catch_up(by_user[event.user_id], event)
            more = len(rows) == _ROWS
            after = rows[-1][1] if rows else after
        for feed in by_user.values():
            feed.checked(began, first_id_at(began - OVERLAP))

    async def _catch_up(self, feed: TransactionFeed | UserFeed, event: Event) -> None:
        passed_on = feed.offer(Frame.of(event))
        if passed_on:
            self._metrics.caught_up(passed_on)
            self._metrics.sent(passed_on * len(feed.listeners))
            # The senders' turn, as between two messages of Redis.
            await asyncio.sleep(0)
