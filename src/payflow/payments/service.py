"""Taking a payment: intent (A), provider, outcome (B).

A is one statement: idempotency key, transaction, attempt, event. Then the provider is called with no database connection
held. B is one statement: the outcome, its events and the answer to keep. A crash between leaves a pending transaction that
the timer asks about; the provider is never called twice for one attempt.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from payflow.core.clock import Clock
from payflow.core.errors import FieldError, Invalid, NotFound, PayFlowError, ProviderUnavailable
from payflow.core.ids import new_reference, uuid7
from payflow.core.logging import get_logger
from payflow.core.money import Money, MoneyError
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.contract import Cancels, CollectOrder, Customer, Operation, Result, Verdict
from payflow.gateway.registry import Candidate, Registry
from payflow.gateway.signing import CallbackTokens
from payflow.idempotency.repository import Finished, KeyScope, finish, reserve
from payflow.idempotency.service import IdempotencyService, Replay
from payflow.infra.database import Database, RawConnection
from payflow.payments.schemas import InitializePayment
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, AttemptStatus, Transaction, Unit
from payflow.transactions.checks import Checks
from payflow.transactions.client_tokens import ClientTokens
from payflow.transactions.lifecycle import Kind, Status
from payflow.transactions.move import summary
from payflow.transactions.service import Answer, Transactions
from payflow.transactions.settle import Source
from payflow.transactions.views import detail_json, transaction_json

log = get_logger(__name__)

COLLECT_MARGIN_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as bytes, and whether it is one that was given before."""

    status_code: int
    body: bytes
    replayed: bool = False
    transaction_id: UUID | None = None


class PaymentService:
    def __init__(
        self,
        database: Database,
        transactions: Transactions,
        checks: Checks,
        registry: Registry,
        idempotency: IdempotencyService,
        events: EventRepository,
        callback_tokens: CallbackTokens,
        client_tokens: ClientTokens,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._database = database
        self._transactions = transactions
        self._checks = checks
        self._registry = registry
        self._idempotency = idempotency
        self._events = events
        self._callback_tokens = callback_tokens
        self._client_tokens = client_tokens
        self._clock = clock
        self._public_url = settings.public_url.rstrip("/")
        self._grace = timedelta(seconds=settings.expiry_grace_seconds)
        self._collect_seconds = settings.provider_timeout_seconds + COLLECT_MARGIN_SECONDS

    async def initialize(
        self, user_id: UUID, body: InitializePayment, scope: KeyScope, origin: Origin, *, instance: str
    ) -> Reply:
        """Open a payment and start its collection. Always answers once the intent exists, whatever the provider does."""
        fingerprint = self._idempotency.fingerprint(body.model_dump())
        try:
            amount = self._amount(body)
            reference, attempt_id, transaction_id = new_reference("pay"), uuid7(), uuid7()
            order = self._order(body, amount, transaction_id, new_reference("att"))
            candidates = await self._registry.candidates(order, body.provider)
        except PayFlowError:
            # A key that was used stands for its first answer, even if the same request would be refused today.
            replay = await self._idempotency.replay(scope, fingerprint)
            if replay is None:
                raise
            return await self._replayed(replay)
        now = self._clock()
        unit, attempt = self._intent(
            user_id, body, amount, transaction_id, reference, attempt_id, order.reference, candidates[0], origin, now
        )
        initiated = await self._open(unit, attempt, scope, fingerprint, origin, now)
        if initiated is None:
            replay = await self._idempotency.replay(scope, fingerprint)
            if replay is None:
                return await self.initialize(user_id, body, scope, origin, instance=instance)
            return await self._replayed(replay)
        return await self._collect(unit, attempt, initiated, order, candidates, scope, fingerprint, origin, instance)

    async def get(self, payment_id: UUID, user_id: UUID | None) -> dict[str, Any]:
        """The whole payment with attempts, refunds and history. NotFound."""
        found = await self._transactions.repository.get(payment_id, user_id)
        if found is None or found[0].kind not in (Kind.PAYMENT, Kind.FUNDING):
            raise NotFound("There is no such payment, or it is not yours.")
        transaction, attempts = found
        refunds = await self._transactions.repository.refunds(payment_id)
        timeline = await self._events.of_transaction(payment_id)
        return detail_json(transaction, attempts, refunds, timeline)

    async def verify(self, payment_id: UUID, user_id: UUID | None, origin: Origin) -> dict[str, Any]:
        """Ask the provider now (at most every few seconds) and answer with the payment as it then stands."""
        await self._own(payment_id, user_id)
        await self._checks.check(payment_id, origin=origin)
        return await self.get(payment_id, user_id)

    async def cancel(self, payment_id: UUID, user_id: UUID | None, origin: Origin) -> dict[str, Any]:
        """Give up a payment that the customer has not made. Where the provider allows it, its session is ended first."""
        transaction, attempts = await self._own(payment_id, user_id)
        ended = False
        if transaction.status in (Status.PENDING, Status.REQUIRES_ACTION):
            ended = await self._end_session(attempts[-1], origin)
        await self._transactions.cancel(payment_id, user_id, origin, session_ended=ended)
        return await self.get(payment_id, user_id)

    async def resolve(
        self,
        payment_id: UUID,
        outcome: Status,
        reason: str,
        scope: KeyScope,
        fingerprint_of: dict[str, Any],
        origin: Origin,
    ) -> Reply:
        """An admin's decision about a payment under review, once per Idempotency-Key."""
        fingerprint = self._idempotency.fingerprint(fingerprint_of)
        now = self._clock()
        await self._own(payment_id, None)

        async def work(connection: RawConnection) -> tuple[Unit, Finished] | None:
            if not await reserve(
                connection, scope, fingerprint, payment_id, now + self._idempotency.lease, now + self._idempotency.keep
            ):
                return None
            unit = await self._transactions.resolve(payment_id, outcome, reason, origin, connection)
            finished = Finished(scope, 200, orjson.dumps(transaction_json(unit.transaction)))
            await finish(connection, finished)
            return unit, finished

        done = await self._database.in_transaction(work)
        if done is None:
            replay = await self._idempotency.replay(scope, fingerprint)
            if replay is None or replay.body is None:
                raise NotFound("The Idempotency-Key is no longer known.")
            return Reply(replay.status_code or 200, replay.body, replayed=True, transaction_id=payment_id)
        unit, finished = done
        await self._transactions.publish(
            unit.events, [self._idempotency.cache_entry(finished, fingerprint, payment_id)]
        )
        return Reply(200, finished.body, transaction_id=payment_id)

    # -- the steps of initialize ------------------------------------------------------------------------------------------

    def _amount(self, body: InitializePayment) -> Money:
        try:
            return Money.parse(body.amount, body.currency)
        except MoneyError as error:
            raise Invalid(str(error), errors=[FieldError("/body/amount", str(error))]) from None

    def _order(self, body: InitializePayment, amount: Money, transaction_id: UUID, reference: str) -> CollectOrder:
        customer = Customer(body.customer.email, body.customer.phone, body.customer.name)
        return CollectOrder(
            reference=reference,
            transaction_id=transaction_id,
            amount=amount,
            customer=customer,
            callback_url="",
            method=body.method,
            description=body.description,
            return_url=body.return_url,
        )

    def _intent(
        self,
        user_id: UUID,
        body: InitializePayment,
        amount: Money,
        transaction_id: UUID,
        reference: str,
        attempt_id: UUID,
        attempt_reference: str,
        candidate: Candidate,
        origin: Origin,
        now: datetime,
    ) -> tuple[Unit, Attempt]:
        declaration = candidate.provider.declaration
        transaction = Transaction(
            id=transaction_id,
            user_id=user_id,
            kind=Kind.PAYMENT,
            reference=reference,
            amount=amount,
            created_at=now,
            provider=candidate.name,
            method=body.method,
            description=body.description,
            customer_id=body.customer_id,
            customer=Customer(body.customer.email, body.customer.phone, body.customer.name),
            metadata=body.metadata,
            return_url=body.return_url,
            correlation_id=origin.correlation_id,
            next_check_at=now + self._idempotency.lease,
            expires_at=now + declaration.session_life + self._grace,
            updated_at=now,
        )
        attempt = self._attempt(transaction, 1, attempt_id, attempt_reference, candidate, now)
        return Unit.of(transaction, [attempt]), attempt

    def _attempt(
        self, transaction: Transaction, number: int, identity: UUID, reference: str, candidate: Candidate, now: datetime
    ) -> Attempt:
        return Attempt(
            id=identity,
            transaction_id=transaction.id,
            user_id=transaction.user_id,
            number=number,
            operation=Operation.COLLECT,
            provider=candidate.name,
            reference=reference,
            amount=transaction.amount,
            created_at=now,
            routing={"reason": candidate.reason},
            updated_at=now,
        )

    async def _open(
        self, unit: Unit, attempt: Attempt, scope: KeyScope, fingerprint: bytes, origin: Origin, now: datetime
    ) -> Event | None:
        """A. The first event, or None when the idempotency key is taken and nothing was written."""
        transaction = unit.transaction
        initiated = Event(
            id=uuid7(),
            type="payment.initiated",
            created_at=now,
            user_id=transaction.user_id,
            transaction_id=transaction.id,
            sequence=1,
            status=transaction.status.value,
            data=summary(transaction),
            origin=origin,
        )
        key = sql.Reservation(scope, fingerprint, now + self._idempotency.lease, now + self._idempotency.keep)
        async with self._database.raw() as connection:
            opened = await sql.open_intent(connection, transaction, attempt, initiated, key)
        return initiated if opened else None

    async def _collect(
        self,
        unit: Unit,
        attempt: Attempt,
        initiated: Event,
        order: CollectOrder,
        candidates: Sequence[Candidate],
        scope: KeyScope,
        fingerprint: bytes,
        origin: Origin,
        instance: str,
    ) -> Reply:
        """Each candidate in turn; another one only after "not sent" or a listed refusal."""
        for place, candidate in enumerate(candidates, start=1):
            last = place == len(candidates)
            if place > 1:
                unit, attempt = await self._next_attempt(unit, place, candidate)
            result = await self._call(candidate, self._addressed(order, attempt, candidate))
            over = last or result.verdict not in (Verdict.NOT_SENT, Verdict.REFUSED)
            reply: list[Reply] = []

            def keep(unit: Unit, result: Result = result, reply: list[Reply] = reply, over: bool = over) -> Any:
                if not over and unit.transaction.status is Status.PENDING:
                    return None  # another provider's turn; but not when the owner gave up meanwhile
                reply[:] = [self._reply(unit.transaction, result, origin, instance)]
                finished = Finished(scope, reply[0].status_code, reply[0].body)
                return finished, self._idempotency.cache_entry(finished, fingerprint, unit.transaction.id)

            unit = await self._transactions.record_outcome(
                unit,
                attempt,
                result,
                Origin(Actor.PROVIDER, correlation_id=origin.correlation_id),
                last=over,
                finish_with=keep,
                check_after=candidate.provider.declaration.first_check_after,
                told_before=[initiated] if place == 1 else [],
            )
            if reply:
                return self._with_token(reply[0], unit.transaction.id)
        raise AssertionError("there is always a candidate")

    async def _next_attempt(self, unit: Unit, number: int, candidate: Candidate) -> tuple[Unit, Attempt]:
        now = self._clock()
        attempt = self._attempt(unit.transaction, number, uuid7(), new_reference("att"), candidate, now)
        await self._transactions.add_attempt(attempt)
        unit.transaction.provider = candidate.name
        unit.transaction.expires_at = now + candidate.provider.declaration.session_life + self._grace
        return Unit.of(unit.transaction, [attempt]), attempt

    def _addressed(self, order: CollectOrder, attempt: Attempt, candidate: Candidate) -> CollectOrder:
        declaration = candidate.provider.declaration
        url = f"{self._public_url}/api/v1/webhooks/{declaration.path_name}"
        if declaration.webhook_token:
            url += "/" + self._callback_tokens.issue(attempt.id)
        return CollectOrder(
            reference=attempt.reference,
            transaction_id=order.transaction_id,
            amount=order.amount,
            customer=order.customer,
            callback_url=url,
            method=order.method,
            description=order.description,
            return_url=order.return_url,
            default_return_url=f"{self._public_url}/checkout/return",
        )

    async def _call(self, candidate: Candidate, order: CollectOrder) -> Result:
        """The provider's verdict. Whatever goes wrong in an adapter after it may have sent something is `unknown`."""
        try:
            async with asyncio.timeout(self._collect_seconds):
                return await candidate.collects.collect(order, candidate.credentials.current)
        except TimeoutError:
            return Result(Verdict.UNKNOWN, raw_status="timeout")
        except Exception:
            log.exception("payment.adapter_failed", provider=candidate.name, reference=order.reference)
            return Result(Verdict.UNKNOWN, raw_status="adapter_error")

    def _reply(self, transaction: Transaction, result: Result, origin: Origin, instance: str) -> Reply:
        if result.verdict is Verdict.NOT_SENT and transaction.status is Status.FAILED:
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
                "transaction_id": transaction.id,
            }
            return Reply(int(error.status), orjson.dumps(problem), transaction_id=transaction.id)
        return Reply(201, orjson.dumps(transaction_json(transaction)), transaction_id=transaction.id)

    def _with_token(self, reply: Reply, transaction_id: UUID, *, replayed: bool = False) -> Reply:
        """The client token is minted for each answer and stored nowhere."""
        body = reply.body
        if reply.status_code == 201:
            token = self._client_tokens.mint(transaction_id)
            body = body[:-1] + b',"client_token":"' + token.encode() + b'"}'
        return Reply(reply.status_code, body, replayed, transaction_id)

    async def _replayed(self, replay: Replay) -> Reply:
        if replay.body is not None and replay.status_code is not None:
            stored = Reply(replay.status_code, replay.body)
            return self._with_token(stored, replay.transaction_id, replayed=True)
        # The first request never finished (a crash) and its lease is over: the transaction as it stands, no second call.
        found = await self._transactions.repository.get(replay.transaction_id, None)
        if found is None:
            raise NotFound("There is no such payment, or it is not yours.")
        stands = Reply(201, orjson.dumps(transaction_json(found[0])))
        return self._with_token(stands, replay.transaction_id, replayed=True)

    # -- others -----------------------------------------------------------------------------------------------------------

    async def _own(self, payment_id: UUID, user_id: UUID | None) -> tuple[Transaction, list[Attempt]]:
        found = await self._transactions.repository.get(payment_id, user_id)
        if found is None or found[0].kind not in (Kind.PAYMENT, Kind.FUNDING):
            raise NotFound("There is no such payment, or it is not yours.")
        return found

    async def _end_session(self, attempt: Attempt, origin: Origin) -> bool:
        """Whether the provider ended its session for us. If it says that it was paid after all, that is settled, and the
        cancellation is refused by the new status. A declined attempt may have a session that is still open."""
        provider = self._registry.get(attempt.provider)
        credentials = await self._registry.credentials(attempt.provider)
        open_session = attempt.status in (AttemptStatus.REQUIRES_ACTION, AttemptStatus.DECLINED)
        if not open_session or credentials is None or not isinstance(provider, Cancels):
            return False
        result = await provider.cancel(attempt.query(), credentials.current)
        if result.verdict in (Verdict.COMPLETED, Verdict.PROCESSING):
            await self._transactions.settle(Answer(attempt.id, result, Source.QUERY, origin))
        return result.verdict is Verdict.CANCELLED
