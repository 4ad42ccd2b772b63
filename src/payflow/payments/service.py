"""Taking a payment: intent (A), provider, outcome (B).

A is one statement: idempotency key, transaction, attempt, event. Then the provider is called with no database connection
held. B is one statement: the outcome, its events and the answer to keep. A crash between leaves a pending transaction that
the timer asks about; the provider is never called twice for one attempt.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import orjson

from payflow.core.clock import Clock
from payflow.core.errors import FieldError, Invalid, NotFound, PayFlowError
from payflow.core.ids import new_reference, uuid7
from payflow.core.logging import get_logger
from payflow.core.money import Money, MoneyError
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.contract import Cancels, CollectOrder, Customer, Operation, Result, Verdict
from payflow.gateway.registry import Candidate, Registry
from payflow.gateway.routing import Route, Routing
from payflow.gateway.signing import CallbackUrls
from payflow.idempotency.repository import Finished, KeyScope, finish
from payflow.idempotency.service import IdempotencyService, Replay
from payflow.infra.database import Database
from payflow.payments.schemas import InitializePayment, ResolvePayment
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, AttemptStatus, Received, Source, Transaction, Unit
from payflow.transactions.checks import Checks
from payflow.transactions.client_tokens import ClientTokens
from payflow.transactions.lifecycle import Kind, Status
from payflow.transactions.move import summary
from payflow.transactions.replies import PROVIDER_MARGIN_SECONDS, Reply, not_sent_reply
from payflow.transactions.resolutions import Resolutions
from payflow.transactions.service import Answer, Transactions
from payflow.transactions.views import detail_json, transaction_json

log = get_logger(__name__)

# No part of the kept fingerprint: they are few digits, and after the charge must not be kept in any form (PCI DSS 3.3).
UNPRINTED = {"payment_details": {"card": {"cvv", "pin"}}}


class PaymentService:
    def __init__(
        self,
        database: Database,
        transactions: Transactions,
        checks: Checks,
        registry: Registry,
        routing: Routing,
        idempotency: IdempotencyService,
        events: EventRepository,
        callback_urls: CallbackUrls,
        client_tokens: ClientTokens,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._database = database
        self._transactions = transactions
        self._checks = checks
        self._registry = registry
        self._routing = routing
        self._idempotency = idempotency
        self._events = events
        self._callback_urls = callback_urls
        self._client_tokens = client_tokens
        self._resolutions = Resolutions(database, transactions, idempotency, clock, settings)
        self._clock = clock
        self._public_url = settings.public_url.rstrip("/")
        self._grace = timedelta(seconds=settings.expiry_grace_seconds)
        self._card_details_accepted = settings.card_details_accepted
        self._collect_seconds = settings.provider_timeout_seconds + PROVIDER_MARGIN_SECONDS

    async def initialize(
        self,
        user_id: UUID,
        body: InitializePayment,
        scope: KeyScope,
        origin: Origin,
        *,
        instance: str,
        kind: Kind = Kind.PAYMENT,
        admit: Callable[[], Awaitable[None]] | None = None,
    ) -> Reply:
        """Open a payment (or the funding of a wallet) and start its collection. Always answers once the intent exists,
        whatever the provider does. `admit` refuses what is new by a PayFlowError; a repeat is answered all the same."""
        fingerprint = self._idempotency.fingerprint(body.model_dump(exclude=UNPRINTED))
        try:
            self._admit_card(body)
            if admit is not None:
                await admit()
            amount = self._amount(body)
            reference, attempt_id, transaction_id = new_reference("pay"), uuid7(), uuid7()
            order = self._order(body, amount, transaction_id, new_reference("att"))
            route = await self._routing.choose(order, body.provider)
        except PayFlowError:
            # A key that was used stands for its first answer, even if the same request would be refused today.
            replay = await self._idempotency.replay(scope, fingerprint)
            if replay is None:
                raise
            return await self._replayed(replay)
        now = self._clock()
        unit, attempt = self._intent(
            user_id, kind, body, amount, transaction_id, reference, attempt_id, order.reference, route, origin, now
        )
        initiated = None
        try:
            initiated = await self._open(unit, attempt, scope, fingerprint, origin, now)
        finally:
            if initiated is None:
                await route.give_back()
        if initiated is None:
            replay = await self._idempotency.replay(scope, fingerprint)
            if replay is None:
                return await self.initialize(user_id, body, scope, origin, instance=instance, kind=kind, admit=admit)
            return await self._replayed(replay)
        try:
            return await self._collect(unit, attempt, initiated, order, route, scope, fingerprint, origin, instance)
        finally:
            # Where it ended between two providers: the next one's probe was granted, and nobody uses it.
            await route.give_back()

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
        await self._checks.check_refunds(payment_id, origin=origin)
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
        decider: UUID,
        body: ResolvePayment,
        scope: KeyScope,
        origin: Origin,
    ) -> Reply:
        """An admin's decision about a payment or funding under review, once per Idempotency-Key."""
        await self._own(payment_id, None)
        received = None if body.received is None else Received(body.received, body.attempt_reference)
        about = body.model_dump(exclude_defaults=True)  # as it was before `received` could be given
        outcome = Status(body.outcome)
        return await self._resolutions.resolve(
            payment_id, decider, outcome, body.reason, scope, about, origin, received
        )

    # -- the steps of initialize ------------------------------------------------------------------------------------------

    def _amount(self, body: InitializePayment) -> Money:
        try:
            return Money.parse(body.amount, body.currency)
        except MoneyError as error:
            raise Invalid(str(error), errors=[FieldError("/body/amount", str(error))]) from None

    def _admit_card(self, body: InitializePayment) -> None:
        if body.payment_details is None or body.payment_details.card is None or self._card_details_accepted:
            return
        detail = "Leave the card out: the customer then gives it on the provider's hosted page."
        raise Invalid(
            "This installation takes no card details.",
            code="card_details_disabled",
            errors=[FieldError("/body/payment_details/card", detail)],
        )

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
            details=body.payment_details.details() if body.payment_details else None,
        )

    def _intent(
        self,
        user_id: UUID,
        kind: Kind,
        body: InitializePayment,
        amount: Money,
        transaction_id: UUID,
        reference: str,
        attempt_id: UUID,
        attempt_reference: str,
        route: Route,
        origin: Origin,
        now: datetime,
    ) -> tuple[Unit, Attempt]:
        declaration = route.candidate.provider.declaration
        transaction = Transaction(
            id=transaction_id,
            user_id=user_id,
            kind=kind,
            reference=reference,
            amount=amount,
            created_at=now,
            provider=route.candidate.name,
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
        attempt = self._attempt(transaction, 1, attempt_id, attempt_reference, route, now)
        return Unit.of(transaction, [attempt]), attempt

    def _attempt(
        self, transaction: Transaction, number: int, identity: UUID, reference: str, route: Route, now: datetime
    ) -> Attempt:
        return Attempt(
            id=identity,
            transaction_id=transaction.id,
            user_id=transaction.user_id,
            number=number,
            operation=Operation.COLLECT,
            provider=route.candidate.name,
            reference=reference,
            amount=transaction.amount,
            created_at=now,
            routing=route.explained,
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
        route: Route,
        scope: KeyScope,
        fingerprint: bytes,
        origin: Origin,
        instance: str,
    ) -> Reply:
        """Each candidate in turn; another one only after "not sent" or a listed refusal."""
        for place in count(1):
            if place > 1:
                following = await self._next_attempt(unit, place, route)
                if following is None:
                    return await self._given_up(unit, scope, fingerprint)
                unit, attempt = following
            candidate = route.candidate
            result = await self._call(route, self._addressed(order, attempt, candidate))
            over = result.verdict not in (Verdict.NOT_SENT, Verdict.REFUSED) or not await route.advance()
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
        raise AssertionError("a route ends")

    async def _next_attempt(self, unit: Unit, number: int, route: Route) -> tuple[Unit, Attempt] | None:
        """None when the owner gave up meanwhile."""
        now, candidate = self._clock(), route.candidate
        attempt = self._attempt(unit.transaction, number, uuid7(), new_reference("att"), route, now)
        if not await self._transactions.add_next_attempt(attempt):
            return None
        unit.transaction.provider = candidate.name
        unit.transaction.expires_at = now + candidate.provider.declaration.session_life + self._grace
        return Unit.of(unit.transaction, [attempt]), attempt

    async def _given_up(self, unit: Unit, scope: KeyScope, fingerprint: bytes) -> Reply:
        """The payment as it ended before its next provider was asked."""
        found = await self._transactions.repository.get(unit.transaction.id, None)
        assert found is not None
        reply = Reply(201, orjson.dumps(transaction_json(found[0])))
        finished = Finished(scope, reply.status_code, reply.body)
        async with self._database.raw() as connection:
            await finish(connection, finished)
        await self._transactions.publish([], [self._idempotency.cache_entry(finished, fingerprint, found[0].id)])
        return self._with_token(reply, found[0].id)

    def _addressed(self, order: CollectOrder, attempt: Attempt, candidate: Candidate) -> CollectOrder:
        back = self._client_tokens.mint_return(order.transaction_id)
        return CollectOrder(
            reference=attempt.reference,
            transaction_id=order.transaction_id,
            amount=order.amount,
            customer=order.customer,
            callback_url=self._callback_urls.of(candidate.provider.declaration, attempt.id),
            method=order.method,
            description=order.description,
            return_url=order.return_url,
            default_return_url=f"{self._public_url}/checkout/return?payment={back}",
            details=order.details,
        )

    async def _call(self, route: Route, order: CollectOrder) -> Result:
        """The provider's verdict, which its health learns of."""
        started = time.perf_counter()
        result = await self._collected(route.candidate, order)
        route.report(result.verdict, time.perf_counter() - started)
        return result

    async def _collected(self, candidate: Candidate, order: CollectOrder) -> Result:
        """Whatever goes wrong in an adapter after it may have sent something is `unknown`."""
        try:
            async with asyncio.timeout(self._collect_seconds):
                return await candidate.collects.collect(order, candidate.credentials.current)
        except TimeoutError:
            return Result(Verdict.UNKNOWN, raw_status="timeout")
        except Exception as error:
            # With details not the traceback: its messages may hold what the customer gave.
            log.error(
                "payment.adapter_failed",
                provider=candidate.name,
                reference=order.reference,
                error=type(error).__name__,
                exc_info=order.details is None,
            )
            return Result(Verdict.UNKNOWN, raw_status="adapter_error")

    def _reply(self, transaction: Transaction, result: Result, origin: Origin, instance: str) -> Reply:
        if result.verdict is Verdict.NOT_SENT and transaction.status is Status.FAILED:
            return not_sent_reply(transaction.id, origin, instance)
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
