"""Money out of a wallet to a bank account or a phone: held first, then sent, then settled.

A is one database transaction: the idempotency key, the limits and the hold under the wallet's lock, the destination, and the
approval where one is needed. Then the provider is asked with no database connection held. B writes what it said, and with
that the hold's end. A crash between leaves a withdrawal that the timer asks about, its hold kept; nothing is sent twice.

From an amount on somebody else has to approve. Until then nothing is sent, so that the owner may still cancel.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from payflow.core.clock import Clock, rfc3339
from payflow.core.errors import Conflict, FieldError, Forbidden, Invalid, NotFound, PayFlowError
from payflow.core.ids import new_reference, uuid7
from payflow.core.logging import get_logger
from payflow.core.money import Money, MoneyError
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.contract import Destination, Operation, PayoutOrder, PaysOut, Result, Verdict
from payflow.gateway.registry import Payer, Registry
from payflow.gateway.routing import Routing, Turn
from payflow.gateway.signing import CallbackUrls
from payflow.idempotency.repository import Finished, KeyScope, finish, reserve
from payflow.idempotency.service import IdempotencyService
from payflow.infra.database import Database, RawConnection
from payflow.ledger import repository as ledger
from payflow.ledger.repository import Accounts
from payflow.payouts import repository as sql
from payflow.payouts.repository import Approval, PayoutRepository
from payflow.payouts.schemas import ResolveWithdrawal, Withdraw
from payflow.transactions.aggregate import NOT_ASKED_ABOUT, Attempt, Transaction, Unit
from payflow.transactions.holds import approved
from payflow.transactions.lifecycle import Cause, Kind, Status
from payflow.transactions.outgoing import open_outgoing, usable
from payflow.transactions.replies import PROVIDER_MARGIN_SECONDS, Reply, not_sent_reply
from payflow.transactions.resolutions import Resolutions
from payflow.transactions.service import Transactions
from payflow.transactions.settle import cancel
from payflow.transactions.views import detail_json, transaction_json

log = get_logger(__name__)

FOLDER = "wallet/withdrawals"
OWN = "Who asked for a withdrawal does not decide about it."
A_DAY = timedelta(hours=24)

Decision = Callable[[RawConnection], Awaitable[Unit]]


class WithdrawalService:
    def __init__(
        self,
        database: Database,
        transactions: Transactions,
        registry: Registry,
        routing: Routing,
        idempotency: IdempotencyService,
        events: EventRepository,
        callback_urls: CallbackUrls,
        accounts: Accounts,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._database = database
        self._transactions = transactions
        self._registry = registry
        self._routing = routing
        self._idempotency = idempotency
        self._events = events
        self._callback_urls = callback_urls
        self._accounts = accounts
        self._clock = clock
        self._repository = PayoutRepository(database)
        self._resolutions = Resolutions(database, transactions, idempotency, clock, settings)
        self._per_day = settings.withdrawals_per_day
        self._daily_minor = settings.withdrawal_daily_minor
        self._approval_minor = settings.withdrawal_approval_minor
        self._grace = timedelta(seconds=settings.expiry_grace_seconds)
        self._seconds = settings.provider_timeout_seconds + PROVIDER_MARGIN_SECONDS

    async def withdraw(self, user_id: UUID, body: Withdraw, scope: KeyScope, origin: Origin, *, instance: str) -> Reply:
        """The withdrawal after the provider's answer: completed, processing, failed with the reason; or pending, where
        somebody has to approve it.

        Invalid when no provider (or not the named one) can send it; Conflict `insufficient_funds`, `withdrawal_limit`,
        `wallet_frozen`, `wallet_inactive`, `provider_drained`; ProvidersSilent while the breakers of all that can are open.
        """
        fingerprint = self._idempotency.fingerprint(body.model_dump())
        try:
            unit, attempt, order = self._intent(user_id, body, origin)
            payer, turn = await self._turn(order, body.provider)
            attempt.provider = unit.transaction.provider = payer.name
            attempt.routing = turn.explained(payer.reason)
            opened = None
            try:
                opened = await self._open(unit.transaction, attempt, order, payer, scope, fingerprint, origin)
            finally:
                if opened is None:
                    await turn.give_back()
        except PayFlowError:
            # A key that was used stands for its first answer, even if the same request would be refused today.
            replay = await self._replayed(scope, fingerprint, 201)
            if replay is None:
                raise
            return replay
        if opened is None:
            replay = await self._replayed(scope, fingerprint, 201)
            if replay is None:
                return await self.withdraw(user_id, body, scope, origin, instance=instance)
            return replay
        unit, told, finished = opened
        if finished is not None:
            cached = self._idempotency.cache_entry(finished, fingerprint, unit.transaction.id)
            await self._transactions.publish(told, [cached])
            return Reply(201, finished.body, transaction_id=unit.transaction.id, folder=FOLDER)
        await self._transactions.publish(told)
        return await self._send(unit, attempt, payer, turn, order, scope, fingerprint, origin, instance, status=201)

    async def get(self, withdrawal_id: UUID, user_id: UUID | None) -> dict[str, Any]:
        """The whole withdrawal with its masked destination. NotFound."""
        transaction, attempts = await self._own(withdrawal_id, user_id)
        timeline = await self._events.of_transaction(withdrawal_id)
        destination = await self._repository.destination(withdrawal_id)
        approval = await self._repository.approval(withdrawal_id)
        return {
            **detail_json(transaction, attempts, [], timeline),
            "destination": None if destination is None else _masked(destination),
            "approval": None if approval is None else _approval_json(approval),
        }

    async def cancel(self, withdrawal_id: UUID, user_id: UUID, origin: Origin) -> dict[str, Any]:
        """The owner gives up what nobody has approved yet. Conflict `not_cancellable` once it may have been sent."""
        await self._own(withdrawal_id, user_id)
        now = self._clock()

        async def work(connection: RawConnection) -> Unit:
            approval = await sql.lock_approval(connection, withdrawal_id)

            def decide(unit: Unit) -> None:
                status = unit.transaction.status
                if status is Status.CANCELLED:
                    return
                if approval is None or approval.decision is not None or status is not Status.PENDING:
                    raise Conflict(
                        f"A withdrawal that is {status.value} can be cancelled only while it waits for approval.",
                        code="not_cancellable",
                    )
                cancel(unit, list(unit.attempts.values()), origin, now)

            return await self._transactions.change(connection, withdrawal_id, user_id, decide)

        unit = await self._database.in_transaction(work)
        await self._transactions.publish(unit.events)
        return await self.get(withdrawal_id, user_id)

    async def approve(
        self, withdrawal_id: UUID, decider: UUID, reason: str, scope: KeyScope, origin: Origin, *, instance: str
    ) -> Reply:
        """Let it go: the provider is asked now. NotFound; Forbidden for who asked for it; Conflict `not_awaiting_approval`,
        or where the wallet or the provider takes nothing any more; ProvidersSilent while its breaker is open."""
        fingerprint = self._idempotency.fingerprint({"decision": "approved", "reason": reason})
        now = self._clock()
        transaction, attempts = await self._own(withdrawal_id, None)
        attempt = attempts[-1]

        async def decision(connection: RawConnection) -> Unit:
            await self._decide(connection, withdrawal_id, decider, "approved", reason, now)

            def decide(unit: Unit) -> None:
                _awaits(unit.transaction)
                approved(unit, reason, origin, now)
                unit.transaction.next_check_at = now + self._idempotency.lease
                unit.transaction.expires_at = self._end(attempt.provider, now)

            unit = await self._transactions.change(connection, withdrawal_id, None, decide)
            amount = transaction.amount
            usable(await ledger.lock_wallet(connection, transaction.user_id, amount.currency))
            return unit

        try:
            payer = await self._payer_of(attempt)
            order = await self._order_again(transaction, attempt)
            turn = await self._routing.turn([payer.name])
            done = None
            try:
                done = await self._once(withdrawal_id, scope, fingerprint, decision)
            finally:
                if done is None:
                    await turn.give_back()
        except PayFlowError:
            replay = await self._replayed(scope, fingerprint, 200)
            if replay is None:
                raise
            return replay
        if done is None:
            return await self._replay_or_gone(scope, fingerprint)
        unit, _ = done
        await self._transactions.publish(unit.events)
        fresh = replace(Unit.of(unit.transaction, list(unit.attempts.values())), holds=unit.holds)
        return await self._send(
            fresh, fresh.attempts[attempt.id], payer, turn, order, scope, fingerprint, origin, instance, status=200
        )

    async def reject(self, withdrawal_id: UUID, decider: UUID, reason: str, scope: KeyScope, origin: Origin) -> Reply:
        """Not let it go: cancelled, and the owner can spend the money again. Refused as `approve` is."""
        fingerprint = self._idempotency.fingerprint({"decision": "rejected", "reason": reason})
        now = self._clock()
        await self._own(withdrawal_id, None)

        async def decision(connection: RawConnection) -> Unit:
            await self._decide(connection, withdrawal_id, decider, "rejected", reason, now)

            def decide(unit: Unit) -> None:
                _awaits(unit.transaction)
                cancel(unit, list(unit.attempts.values()), origin, now, Cause.OPERATOR, reason)

            return await self._transactions.change(connection, withdrawal_id, None, decide)

        try:
            done = await self._once(withdrawal_id, scope, fingerprint, decision, finished=True)
        except PayFlowError:
            replay = await self._replayed(scope, fingerprint, 200)
            if replay is None:
                raise
            return replay
        if done is None or done[1] is None:
            return await self._replay_or_gone(scope, fingerprint)
        unit, kept = done
        assert kept is not None
        cached = self._idempotency.cache_entry(kept, fingerprint, withdrawal_id)
        await self._transactions.publish(unit.events, [cached])
        return Reply(200, kept.body, transaction_id=withdrawal_id)

    async def resolve(
        self, withdrawal_id: UUID, decider: UUID, body: ResolveWithdrawal, scope: KeyScope, origin: Origin
    ) -> Reply:
        """An operator's decision about a withdrawal under review, which ends its hold. Conflict `not_under_review`;
        Forbidden for who asked for it, where it took a second person to let it go."""
        transaction, _ = await self._own(withdrawal_id, None)
        if transaction.user_id == decider and await self._repository.approval(withdrawal_id) is not None:
            raise Forbidden(OWN, code="own_withdrawal")
        outcome = Status(body.outcome)
        asked = body.model_dump()
        return await self._resolutions.resolve(withdrawal_id, decider, outcome, body.reason, scope, asked, origin)

    # -- A ----------------------------------------------------------------------------------------------------------------

    def _intent(self, user_id: UUID, body: Withdraw, origin: Origin) -> tuple[Unit, Attempt, PayoutOrder]:
        """What is to be written down; the provider's name is not known yet."""
        now = self._clock()
        try:
            amount = Money.parse(body.amount, body.currency)
        except MoneyError as error:
            raise Invalid(str(error), errors=[FieldError("/body/amount", str(error))]) from None
        transaction = Transaction(
            id=uuid7(),
            user_id=user_id,
            kind=Kind.WITHDRAWAL,
            reference=new_reference("wdr"),
            amount=amount,
            created_at=now,
            method=body.destination.type,
            description=body.description,
            metadata=body.metadata,
            correlation_id=origin.correlation_id,
            next_check_at=now + self._idempotency.lease,
            updated_at=now,
        )
        attempt = Attempt(
            id=uuid7(),
            transaction_id=transaction.id,
            user_id=user_id,
            number=1,
            operation=Operation.PAYOUT,
            provider="",
            reference=new_reference("att"),
            amount=amount,
            created_at=now,
            updated_at=now,
        )
        order = PayoutOrder(
            attempt.reference, transaction.id, amount, body.destination.destination(), "", body.description
        )
        return Unit.of(transaction, [attempt]), attempt, order

    async def _turn(self, order: PayoutOrder, named: str | None) -> tuple[Payer, Turn]:
        """Who sends it. What waits for approval asks nobody yet, so no breaker is in its way."""
        payers = await self._registry.payers(order, named)
        if self._waits(order.amount):
            return payers[0], Turn(self._routing.breakers, payers[0].name)
        turn = await self._routing.turn([payer.name for payer in payers])
        return next(payer for payer in payers if payer.name == turn.name), turn

    def _waits(self, amount: Money) -> bool:
        threshold = self._approval_minor.get(amount.currency)
        return threshold is not None and amount.minor >= threshold

    async def _open(
        self,
        transaction: Transaction,
        attempt: Attempt,
        order: PayoutOrder,
        payer: Payer,
        scope: KeyScope,
        fingerprint: bytes,
        origin: Origin,
    ) -> tuple[Unit, Sequence[Event], Finished | None] | None:
        """A. None when the key is taken and nothing was written. With the answer to keep where it has to be approved."""
        now, waits = transaction.created_at, self._waits(transaction.amount)
        transaction.next_check_at = now + (NOT_ASKED_ABOUT if waits else self._idempotency.lease)
        transaction.expires_at = None if waits else self._end(payer.name, now)

        async def work(connection: RawConnection) -> tuple[Unit, Sequence[Event], Finished | None] | None:
            until, keep = now + self._idempotency.lease, now + self._idempotency.keep
            if not await reserve(connection, scope, fingerprint, transaction.id, until, keep):
                return None
            # What is opened moves on in memory, and this may run again after a deadlock.
            fresh, first = replace(transaction), replace(attempt)
            await self._within_limits(connection, fresh, now)
            extra = {"approval": "required"} if waits else None
            unit, told = await open_outgoing(connection, self._accounts, fresh, first, origin, now, extra)
            await sql.add_destination(connection, fresh.id, order.destination)
            if not waits:
                return unit, told, None
            await sql.add_approval(connection, fresh.id, fresh.user_id)
            finished = Finished(scope, 201, orjson.dumps(transaction_json(unit.transaction)))
            await finish(connection, finished)
            return unit, told, finished

        return await self._database.in_transaction(work)

    async def _within_limits(self, connection: RawConnection, transaction: Transaction, now: datetime) -> None:
        """Counted under the wallet's lock, so that many at once count each other. Conflict `withdrawal_limit`."""
        amount = transaction.amount
        usable(await ledger.lock_wallet(connection, transaction.user_id, amount.currency))
        count, minor = await sql.gone_out(connection, transaction.user_id, amount.currency, now - A_DAY)
        if count >= self._per_day:
            raise Conflict(f"At most {self._per_day} withdrawals in 24 hours.", code="withdrawal_limit")
        most = self._daily_minor.get(amount.currency)
        if most is not None and minor + amount.minor > most:
            left = Money(max(0, most - minor), amount.currency)
            raise Conflict(
                f"Only {left.decimal_text()} {left.currency} more can be withdrawn within these 24 hours.",
                code="withdrawal_limit",
                extra={"left_minor": left.minor},
            )

    def _end(self, provider: str, now: datetime) -> datetime:
        """When an answer is overdue. Then a person looks; money out is never taken for not sent by the clock."""
        return now + self._registry.declaration(provider).session_life + self._grace

    # -- the call, and B --------------------------------------------------------------------------------------------------

    async def _send(
        self,
        unit: Unit,
        attempt: Attempt,
        payer: Payer,
        turn: Turn,
        order: PayoutOrder,
        scope: KeyScope,
        fingerprint: bytes,
        origin: Origin,
        instance: str,
        *,
        status: int,
    ) -> Reply:
        declaration = self._registry.declaration(payer.name)
        order = replace(order, callback_url=self._callback_urls.of(declaration, attempt.id))
        started = time.perf_counter()
        result = await self._call(payer, order)
        turn.report(result.verdict, time.perf_counter() - started)
        replies: list[Reply] = []

        def keep(unit: Unit) -> tuple[Finished, tuple[str, bytes, int]]:
            replies[:] = [_reply(unit.transaction, result, origin, instance, status)]
            finished = Finished(scope, replies[0].status_code, replies[0].body)
            return finished, self._idempotency.cache_entry(finished, fingerprint, unit.transaction.id)

        await self._transactions.record_outcome(
            unit,
            unit.attempts[attempt.id],
            result,
            Origin(Actor.PROVIDER, correlation_id=origin.correlation_id),
            last=True,
            finish_with=keep,
            check_after=declaration.first_check_after,
        )
        return replies[0]

    async def _call(self, payer: Payer, order: PayoutOrder) -> Result:
        """The provider's verdict. Whatever goes wrong after something may have been sent is `unknown`."""
        try:
            async with asyncio.timeout(self._seconds):
                return await payer.pays_out.pay_out(order, payer.credentials.current)
        except TimeoutError:
            return Result(Verdict.UNKNOWN, raw_status="timeout")
        except Exception as error:
            # Not the traceback: its locals hold where the money goes.
            log.error(
                "withdrawal.adapter_failed",
                provider=payer.name,
                reference=order.reference,
                error=type(error).__name__,
            )
            return Result(Verdict.UNKNOWN, raw_status="adapter_error")

    # -- decisions --------------------------------------------------------------------------------------------------------

    async def _once(
        self,
        withdrawal_id: UUID,
        scope: KeyScope,
        fingerprint: bytes,
        decision: Decision,
        *,
        finished: bool = False,
    ) -> tuple[Unit, Finished | None] | None:
        """A decision with its idempotency key. None when the key is taken. `finished`: nothing else follows, and the
        answer is kept at once."""
        now = self._clock()

        async def work(connection: RawConnection) -> tuple[Unit, Finished | None] | None:
            until, keep = now + self._idempotency.lease, now + self._idempotency.keep
            if not await reserve(connection, scope, fingerprint, withdrawal_id, until, keep):
                return None
            unit = await decision(connection)
            if not finished:
                return unit, None
            kept = Finished(scope, 200, orjson.dumps(transaction_json(unit.transaction)))
            await finish(connection, kept)
            return unit, kept

        return await self._database.in_transaction(work)

    async def _decide(
        self, connection: RawConnection, withdrawal_id: UUID, decider: UUID, decision: str, reason: str, now: datetime
    ) -> None:
        """Two at once: the second waits for the first one's commit here, and finds it decided."""
        approval = await sql.lock_approval(connection, withdrawal_id)
        if approval is None or approval.decision is not None:
            state = "needs no approval" if approval is None else f"was {approval.decision} already"
            raise Conflict(f"This withdrawal {state}.", code="not_awaiting_approval")
        if approval.requested_by == decider:
            raise Forbidden(OWN, code="own_withdrawal")
        await sql.decide(connection, withdrawal_id, decider, decision, reason, now)

    async def _payer_of(self, attempt: Attempt) -> Payer:
        """The provider chosen when it was asked for, if it can send now. Conflict."""
        provider = self._registry.get(attempt.provider)
        credentials = await self._registry.credentials(attempt.provider)
        if credentials is None or not isinstance(provider, PaysOut):
            raise Conflict(f"{attempt.provider} is not configured any more.", code="provider_not_configured")
        if attempt.provider in await self._registry.drained():
            raise Conflict(f"{attempt.provider} takes nothing new at the moment.", code="provider_drained")
        return Payer(attempt.provider, provider, credentials, "")

    async def _order_again(self, transaction: Transaction, attempt: Attempt) -> PayoutOrder:
        destination = await self._repository.destination(transaction.id)
        if destination is None:
            raise Conflict("Its destination was erased. Reject it.", code="destination_erased")
        return PayoutOrder(
            attempt.reference, transaction.id, transaction.amount, destination, "", transaction.description
        )

    # -- reads ------------------------------------------------------------------------------------------------------------

    async def _own(self, withdrawal_id: UUID, user_id: UUID | None) -> tuple[Transaction, list[Attempt]]:
        found = await self._transactions.repository.get(withdrawal_id, user_id)
        if found is None or found[0].kind is not Kind.WITHDRAWAL:
            raise NotFound("There is no such withdrawal, or it is not yours.")
        return found

    async def _replay_or_gone(self, scope: KeyScope, fingerprint: bytes) -> Reply:
        replay = await self._replayed(scope, fingerprint, 200)
        if replay is None:
            raise NotFound("The Idempotency-Key is no longer known.")
        return replay

    async def _replayed(self, scope: KeyScope, fingerprint: bytes, status: int) -> Reply | None:
        replay = await self._idempotency.replay(scope, fingerprint)
        if replay is None:
            return None
        if replay.body is not None:
            return Reply(replay.status_code or status, replay.body, True, replay.transaction_id, folder=FOLDER)
        # The first request died and its lease is over: the withdrawal as it now stands, and nothing is sent again.
        transaction, _ = await self._own(replay.transaction_id, None)
        return Reply(status, orjson.dumps(transaction_json(transaction)), True, transaction.id, folder=FOLDER)


def _awaits(transaction: Transaction) -> None:
    if transaction.status is not Status.PENDING:
        raise Conflict(
            f"A withdrawal that is {transaction.status.value} waits for nobody.", code="not_awaiting_approval"
        )


def _reply(transaction: Transaction, result: Result, origin: Origin, instance: str, status: int) -> Reply:
    if result.verdict is Verdict.NOT_SENT and transaction.status is Status.FAILED:
        return not_sent_reply(transaction.id, origin, instance)
    body = orjson.dumps(transaction_json(transaction))
    return Reply(status, body, transaction_id=transaction.id, folder=FOLDER)


def _masked(to: Destination) -> dict[str, Any]:
    return {
        "type": to.type.value,
        "account_name": to.account_name,
        "bank_code": to.bank_code,
        "account_number": _last_four(to.account_number),
        "phone": _last_four(to.phone),
    }


def _last_four(number: str | None) -> str | None:
    """Of a number that has no more than four, none are shown."""
    if number is None:
        return None
    shown = number[-4:] if len(number) > 4 else ""
    return "*" * (len(number) - len(shown)) + shown


def _approval_json(approval: Approval) -> dict[str, Any]:
    return {
        "decision": approval.decision,
        "reason": approval.reason,
        "requested_at": rfc3339(approval.created_at),
        "decided_at": None if approval.decided_at is None else rfc3339(approval.decided_at),
    }
