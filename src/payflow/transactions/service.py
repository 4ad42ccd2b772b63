"""Settling: lock, decide, save, then tell. Every provider result passes through here, wherever it comes from.

No provider is called here and nothing else is awaited while a row is locked.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from payflow.core.clock import Clock
from payflow.core.errors import Conflict, NotFound
from payflow.core.settings import Settings
from payflow.events.publisher import EventPublisher
from payflow.events.types import Event, Origin
from payflow.gateway.contract import Operation, Result, Verdict
from payflow.idempotency.repository import Finished, finish
from payflow.infra.database import Database, RawConnection
from payflow.ledger import repository as ledger
from payflow.ledger.repository import Accounts
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, Context, Received, Refund, RefundStatus, Source, Unit
from payflow.transactions.lifecycle import OPEN, Cause, Status
from payflow.transactions.refunds import give_up_refund, open_refund, resolve_refund
from payflow.transactions.settle import (
    cancel,
    expire,
    next_check,
    resolve_review,
    settle,
    suspend_unconfirmed,
    told_otherwise,
)
from payflow.transactions.unordered import unordered_payment


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


BuildRefund = Callable[[Unit], tuple[Refund, Attempt, bytes | None] | None]
"""Decides on the locked payment; the bytes are the digest of the request, for which there is one refund."""

# Verdicts that take money back, or give it again: what was taken before decides how it is posted.
_TAKES_BACK = frozenset({Verdict.REVERSED, Verdict.DISPUTE_WON})

ONCE_A_DAY = timedelta(days=1)


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
        self._refund_review_after = timedelta(seconds=settings.refund_review_seconds)
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
        """Decide on locked units and save them. For each answer, whether it moved anything.

        Each move is written by itself, because the database knows the permitted ones: a payment that was paid and charged
        back within one batch goes from pending to completed, and then to reversed.
        """
        by_attempt = {identity: unit for unit in units.values() for identity in unit.attempts}
        await self._with_refunds(connection, by_attempt, answers)
        moved = []
        for answer in answers:
            unit = by_attempt.get(answer.attempt_id)
            if unit is not None and unit.transaction.status is not unit.saved_status:
                # All of them: what one unit decided may rest on what another put into the same wallet.
                await sql.save(connection, list(units.values()), self._accounts)
                for each in units.values():
                    each.saved()
            moved.append(unit is not None and self._decide(unit, answer))
        await sql.save(connection, list(units.values()), self._accounts)
        for each in units.values():
            each.saved()
            each.events = each.told
        return moved

    async def _with_refunds(
        self, connection: RawConnection, by_attempt: Mapping[UUID, Unit], answers: Sequence[Answer]
    ) -> None:
        """Refunds are read only where they are in question, which is seldom; wallets where there is one."""
        touched = {
            by_attempt[answer.attempt_id].transaction.id: by_attempt[answer.attempt_id]
            for answer in answers
            if answer.attempt_id in by_attempt
        }
        await sql.lock_wallets(connection, list(touched.values()))
        asking = {
            answer.attempt_id
            for answer in answers
            if answer.attempt_id in by_attempt
            and (
                by_attempt[answer.attempt_id].attempts[answer.attempt_id].operation is Operation.REFUND
                or answer.result.verdict is Verdict.REVERSED
                or told_otherwise(by_attempt[answer.attempt_id].attempts[answer.attempt_id], answer.result)
            )
        }
        await self._with_reversals(
            connection,
            by_attempt,
            [
                answer.attempt_id
                for answer in answers
                if answer.result.verdict in _TAKES_BACK or answer.attempt_id in asking
            ],
        )
        if asking:
            units = {by_attempt[attempt_id].transaction.id: by_attempt[attempt_id] for attempt_id in asking}
            await sql.lock_refunds(connection, list(units.values()))

    async def _with_reversals(
        self, connection: RawConnection, by_attempt: Mapping[UUID, Unit], attempt_ids: Sequence[UUID]
    ) -> None:
        if attempt_ids:
            for attempt_id, past in (await ledger.reversals(connection, attempt_ids)).items():
                if attempt_id in by_attempt:
                    by_attempt[attempt_id].reversals[attempt_id] = past

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
        if not unit.journals and not unit.ended_holds:
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
            await sql.lock_wallets(connection, [unit])
            if result.verdict in _TAKES_BACK or told_otherwise(unit.attempts[attempt_id], result):
                await sql.lock_refunds(connection, [unit])
                await self._with_reversals(connection, {attempt_id: unit}, [attempt_id])
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

    async def open_refund(
        self, connection: RawConnection, transaction_id: UUID, build: BuildRefund, origin: Origin, cause: Cause
    ) -> tuple[Unit, Refund | None]:
        """A of a refund, in the caller's transaction: `build` sees the locked payment with all its refunds, and gives the
        refund and its attempt to write down, or None to leave it at that. NotFound."""
        unit = await self._whole(connection, transaction_id, None)
        built = build(unit)
        if built is None:
            return unit, None
        refund, attempt, digest = built
        await sql.add_refund(connection, refund, attempt, digest)
        open_refund(unit, refund, attempt, origin, cause)
        await sql.save(connection, [unit], self._accounts)
        return unit, refund

    async def record_refund(
        self, attempt_id: UUID, result: Result, origin: Origin, *, finish_with: FinishWith
    ) -> tuple[Unit, Refund]:
        """B of a refund: what the order led to."""
        context = Context(Source.INITIATION, origin, self._clock())

        async def work(connection: RawConnection) -> tuple[Unit, tuple[Finished, tuple[str, bytes, int]] | None]:
            unit = next(iter((await sql.lock(connection, [attempt_id])).values()))
            await sql.lock_refunds(connection, [unit])
            await sql.lock_wallets(connection, [unit])
            settle(unit, unit.attempts[attempt_id], result, context)
            await sql.save(connection, [unit], self._accounts)
            finished = finish_with(unit)
            if finished is not None:
                await finish(connection, finished[0])
            return unit, finished

        unit, finished = await self._database.in_transaction(work)
        await self._publisher.publish(unit.events, [finished[1]] if finished else [])
        return unit, unit.refunds[attempt_id]

    async def resolve_refund(
        self,
        connection: RawConnection,
        transaction_id: UUID,
        refund_id: UUID,
        outcome: RefundStatus,
        reason: str,
        origin: Origin,
    ) -> tuple[Unit, Refund]:
        """An operator decides a refund that is under review, in the caller's transaction. NotFound, Conflict."""
        unit = await self._whole(connection, transaction_id, None)
        refund = next((refund for refund in unit.refunds.values() if refund.id == refund_id), None)
        if refund is None:
            raise NotFound("There is no such refund.")
        context = Context(Source.QUERY, origin, self._clock())
        resolve_refund(unit, unit.attempts[refund.attempt_id], outcome, reason, context)
        await sql.save(connection, [unit], self._accounts)
        return unit, refund

    async def record_unordered(
        self, connection: RawConnection, owner: UUID, provider: str, account: str | None, result: Result, origin: Origin
    ) -> Unit:
        """Money that names no order of ours, in the caller's transaction: under review from its first moment."""
        unit = unordered_payment(owner, provider, account, result, origin, self._clock())
        await sql.add_transaction(connection, unit.transaction)
        for attempt in unit.attempts.values():
            await sql.add_attempt(connection, attempt)
        await sql.save(connection, [unit], self._accounts)
        return unit

    async def suspend_unconfirmed(
        self, connection: RawConnection, attempt_id: UUID, result: Result, origin: Origin
    ) -> Unit | None:
        """Money for an order that the provider would not confirm, in the caller's transaction. None when the order's own
        money has been seen."""
        unit = next(iter((await sql.lock(connection, [attempt_id])).values()))
        context = Context(Source.WEBHOOK, origin, self._clock())
        if not suspend_unconfirmed(unit, unit.attempts[attempt_id], result, context):
            return None
        await sql.save(connection, [unit], self._accounts)
        return unit

    async def add_attempt(self, attempt: Attempt) -> None:
        async with self._database.raw() as connection:
            await sql.add_attempt(connection, attempt)

    async def add_next_attempt(self, attempt: Attempt) -> bool:
        """Another provider's turn. False when the transaction is not pending any more: its owner may have given it up since
        the attempt before has ended."""
        async with self._database.transaction() as connection:
            if not await sql.lock_pending(connection, attempt.transaction_id):
                return False
            await sql.add_attempt(connection, attempt)
        return True

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
        received: Received | None = None,
    ) -> Unit:
        """An admin decides what is under review. Conflict when it is not under review."""

        def decide(unit: Unit) -> None:
            if unit.transaction.status is not Status.UNDER_REVIEW:
                raise Conflict("Only a transaction that is under_review can be resolved.", code="not_under_review")
            resolve_review(unit, list(unit.attempts.values()), outcome, reason, origin, self._clock(), received)

        if connection is None:
            return await self._by_hand(transaction_id, None, decide)
        return await self._decide_whole(connection, transaction_id, None, decide)

    async def change(
        self, connection: RawConnection, transaction_id: UUID, user_id: UUID | None, decide: Callable[[Unit], None]
    ) -> Unit:
        """A person's decision about a whole locked transaction, in the caller's database transaction. NotFound."""
        return await self._decide_whole(connection, transaction_id, user_id, decide)

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
        unit = await self._whole(connection, transaction_id, user_id)
        decide(unit)
        await sql.save(connection, [unit], self._accounts)
        return unit

    async def _whole(self, connection: RawConnection, transaction_id: UUID, user_id: UUID | None) -> Unit:
        unit = await sql.lock_whole(connection, transaction_id)
        if unit is None or (user_id is not None and unit.transaction.user_id != user_id):
            raise NotFound("There is no such transaction, or it is not yours.")
        await sql.lock_refunds(connection, [unit])
        await sql.lock_wallets(connection, [unit])
        if unit.transaction.status is Status.UNDER_REVIEW:
            await self._with_reversals(connection, dict.fromkeys(unit.attempts, unit), list(unit.attempts))
        return unit

    def _decide(self, unit: Unit, answer: Answer) -> bool:
        now = self._clock()
        attempt = unit.attempts[answer.attempt_id]
        moved = settle(unit, attempt, answer.result, Context(answer.source, answer.origin, now))
        if answer.source is Source.QUERY and attempt.operation is Operation.REFUND:
            self._schedule_refund(unit, attempt, answer.origin, now)
        elif answer.source is Source.QUERY:
            self._schedule_next(unit, attempt, answer.result, now)
        return moved

    def _schedule_refund(self, unit: Unit, attempt: Attempt, origin: Origin, now: datetime) -> None:
        """After a query: when to ask again, and when a person should look. Asked on even then: refunds take weeks."""
        refund = unit.refunds[attempt.id]
        if refund.next_check_at is None:
            return
        refund.check_count += 1
        refund.next_check_at = next_check(now, refund.created_at, refund.check_count, self._schedule)
        unit.touched_refunds.add(attempt.id)
        if now >= refund.created_at + self._refund_review_after:
            refund.next_check_at = now + ONCE_A_DAY
            give_up_refund(unit, attempt, Context(Source.QUERY, Origin(), now))

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
