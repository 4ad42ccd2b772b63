"""Settling: lock, decide, save, then tell. Every provider result passes through here, wherever it comes from.

No provider is called here and nothing else is awaited while a row is locked.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from payflow.core.clock import Clock
from payflow.core.errors import Conflict, NotFound
from payflow.core.settings import Settings
from payflow.events.publisher import EventPublisher
from payflow.events.types import Event, Origin
from payflow.gateway.contract import Result, Verdict
from payflow.idempotency.repository import Finished, finish
from payflow.infra.database import Database, RawConnection
from payflow.ledger.repository import Accounts
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, Unit
from payflow.transactions.lifecycle import OPEN, Status
from payflow.transactions.settle import Context, Source, cancel, expire, next_check, resolve_review, settle


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer about one attempt, on its way to be settled."""

    attempt_id: UUID
    result: Result
    source: Source
    origin: Origin


FinishWith = Callable[[Unit], tuple[Finished, tuple[str, bytes, int]] | None]
"""Builds the answer to keep for the idempotency key (and its cache entry) from how the transaction ended up; None while
another attempt follows."""


class Transactions:
    def __init__(
        self,
        database: Database,
        publisher: EventPublisher,
        clock: Clock,
        settings: Settings,
        accounts: Accounts | None = None,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._accounts = accounts or Accounts()
        self._schedule = settings.check_schedule_seconds
        self._grace = timedelta(seconds=settings.expiry_grace_seconds)
        self._review_after = timedelta(seconds=settings.unresolved_review_seconds)
        self.repository = sql.TransactionRepository(database)

    async def settle(self, answer: Answer) -> Unit:
        """Settle one answer and tell of it. NotFound when there is no such attempt."""

        async def work(connection: RawConnection) -> Unit:
            units = await self.settle_in(connection, [answer])
            if not units:
                raise NotFound("There is no such attempt.")
            return units[0]

        unit = await self._database.in_transaction(work)
        await self._publisher.publish(unit.events)
        return unit

    async def settle_in(self, connection: RawConnection, answers: Sequence[Answer]) -> list[Unit]:
        """Settle many answers in the caller's transaction, in their order; who calls publishes after the commit."""
        units = await sql.lock(connection, [answer.attempt_id for answer in answers])
        await self.apply(connection, units, answers)
        return list(units.values())

    async def apply(self, connection: RawConnection, units: dict[UUID, Unit], answers: Sequence[Answer]) -> list[bool]:
        """Decide on locked units and save them. For each answer, whether it moved anything."""
        by_attempt = {identity: unit for unit in units.values() for identity in unit.attempts}
        moved = []
        for answer in answers:
            unit = by_attempt.get(answer.attempt_id)
            moved.append(unit is not None and self._decide(unit, answer))
        await sql.save(connection, list(units.values()), self._accounts)
        return moved

    async def record_outcome(
        self,
        unit: Unit,
        attempt: Attempt,
        result: Result,
        origin: Origin,
        *,
        last: bool,
        finish_with: FinishWith,
        check_after: timedelta,
        told_before: Sequence[Event] = (),
    ) -> Unit:
        """B: what the initiation led to. A webhook may have overtaken it; then only ids and the next action are added.

        `finish_with` gives the answer to keep for the idempotency key. `check_after` is when a query first makes sense.
        `told_before` are committed events that were not published yet: they ride along.
        """
        context = Context(Source.INITIATION, origin, self._clock(), last)
        settle(unit, attempt, result, context)
        self._after_initiation(unit, result, context.now + check_after)
        finished = finish_with(unit)
        if not unit.journals:
            try:
                async with self._database.raw() as connection:
                    await sql.save(connection, [unit], self._accounts, finished[0] if finished else None)
            except sql.VersionMoved:
                unit, finished = await self._record_locked(attempt.id, result, context, check_after, finish_with)
        else:
            unit, finished = await self._record_locked(attempt.id, result, context, check_after, finish_with)
        await self._publisher.publish([*told_before, *unit.events], [finished[1]] if finished else [])
        return unit

    async def record_submission(
        self, attempt_id: UUID, result: Result, origin: Origin, *, finish_with: FinishWith, check_after: timedelta
    ) -> Unit:
        """What passing on the customer's OTP led to; the attempt is free for the next submission."""
        context = Context(Source.SUBMISSION, origin, self._clock())
        unit, finished = await self._record_locked(
            attempt_id, result, context, check_after, finish_with, sql.release_submission
        )
        await self._publisher.publish(unit.events, [finished[1]] if finished else [])
        return unit

    async def _record_locked(
        self,
        attempt_id: UUID,
        result: Result,
        context: Context,
        check_after: timedelta,
        finish_with: FinishWith,
        also: Callable[[RawConnection, UUID], Awaitable[None]] | None = None,
    ) -> tuple[Unit, tuple[Finished, tuple[str, bytes, int]] | None]:
        async def work(connection: RawConnection) -> tuple[Unit, tuple[Finished, tuple[str, bytes, int]] | None]:
            unit = next(iter((await sql.lock(connection, [attempt_id])).values()))
            settle(unit, unit.attempts[attempt_id], result, context)
            self._after_initiation(unit, result, context.now + check_after)
            await sql.save(connection, [unit], self._accounts)
            finished = finish_with(unit)
            if finished is not None:
                await finish(connection, finished[0])
            if also is not None:
                await also(connection, attempt_id)
            return unit, finished

        return await self._database.in_transaction(work)

    async def add_attempt(self, attempt: Attempt) -> None:
        async with self._database.raw() as connection:
            await sql.add_attempt(connection, attempt)

    async def cancel(
        self, transaction_id: UUID, user_id: UUID | None, origin: Origin, *, session_ended: bool = False
    ) -> Unit:
        """The owner gives up. Conflict once the provider has it or it has ended; NotFound when it is not the owner's.

        `session_ended`: the provider ended its session for us, and its webhook about that may have come first.
        """

        def decide(unit: Unit) -> None:
            ended = (Status.CANCELLED, Status.EXPIRED, Status.FAILED) if session_ended else (Status.CANCELLED,)
            if unit.transaction.status in ended:
                return
            if unit.transaction.status not in (Status.PENDING, Status.REQUIRES_ACTION):
                raise Conflict(
                    f"A payment that is {unit.transaction.status.value} can no longer be cancelled.",
                    code="not_cancellable",
                )
            cancel(unit, list(unit.attempts.values()), origin, self._clock())

        return await self._by_hand(transaction_id, user_id, decide)

    async def resolve(
        self,
        transaction_id: UUID,
        outcome: Status,
        reason: str,
        origin: Origin,
        connection: RawConnection | None = None,
    ) -> Unit:
        """An admin decides what is under review. Conflict when it is not under review."""

        def decide(unit: Unit) -> None:
            if unit.transaction.status is not Status.UNDER_REVIEW:
                raise Conflict("Only a transaction that is under_review can be resolved.", code="not_under_review")
            resolve_review(unit, list(unit.attempts.values()), outcome, reason, origin, self._clock())

        if connection is None:
            return await self._by_hand(transaction_id, None, decide)
        return await self._decide_whole(connection, transaction_id, None, decide)

    async def publish(self, events: Sequence[Event], cached: Sequence[tuple[str, bytes, int]] = ()) -> None:
        await self._publisher.publish(events, cached)

    async def _by_hand(self, transaction_id: UUID, user_id: UUID | None, decide: Callable[[Unit], None]) -> Unit:
        unit = await self._database.in_transaction(
            lambda connection: self._decide_whole(connection, transaction_id, user_id, decide)
        )
        await self._publisher.publish(unit.events)
        return unit

    async def _decide_whole(
        self, connection: RawConnection, transaction_id: UUID, user_id: UUID | None, decide: Callable[[Unit], None]
    ) -> Unit:
        unit = await sql.lock_whole(connection, transaction_id)
        if unit is None or (user_id is not None and unit.transaction.user_id != user_id):
            raise NotFound("There is no such transaction, or it is not yours.")
        decide(unit)
        await sql.save(connection, [unit], self._accounts)
        return unit

    def _decide(self, unit: Unit, answer: Answer) -> bool:
        now = self._clock()
        attempt = unit.attempts[answer.attempt_id]
        moved = settle(unit, attempt, answer.result, Context(answer.source, answer.origin, now))
        if answer.source is Source.QUERY:
            self._schedule_next(unit, attempt, answer.result, now)
        return moved

    def _after_initiation(self, unit: Unit, result: Result, next_check_at: datetime) -> None:
        """The customer's session has begun: its own end is known now, and when to ask about it."""
        transaction = unit.transaction
        if transaction.status not in OPEN:
            return
        if result.session_ends_at:
            transaction.expires_at = result.session_ends_at + self._grace
        if result.verdict not in (Verdict.NOT_SENT, Verdict.REFUSED):
            transaction.next_check_at = next_check_at
        unit.dirty = True

    def _schedule_next(self, unit: Unit, attempt: Attempt, result: Result, now: datetime) -> None:
        """After a query: when to ask again, or the end when the time is over."""
        transaction = unit.transaction
        if transaction.status not in OPEN:
            return
        transaction.check_count += 1
        transaction.next_check_at = next_check(now, transaction.created_at, transaction.check_count, self._schedule)
        unit.dirty = True
        if transaction.expires_at is None:
            return
        if now < transaction.expires_at:
            transaction.next_check_at = min(transaction.next_check_at, transaction.expires_at)
            return
        if result.expirable:
            expire(unit, attempt, now, proven_unpaid=True)
        elif now >= transaction.expires_at + self._review_after:
            expire(unit, attempt, now, proven_unpaid=False)
