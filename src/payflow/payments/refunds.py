"""Giving money back: the whole of a payment or a part, once per Idempotency-Key.

As with a payment: A writes the refund with its attempt down under the payment's lock, where what may still be given back is
counted; then the provider is asked with no database connection held; B writes what it said. A crash between leaves a refund
that the timer asks about, and the order is never sent twice.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from payflow.core.clock import Clock
from payflow.core.errors import Conflict, FieldError, Forbidden, Invalid, NotFound, PayFlowError
from payflow.core.ids import new_reference, uuid7
from payflow.core.logging import get_logger
from payflow.core.money import Money, MoneyError
from payflow.core.settings import Settings
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.contract import Credentials, Operation, OrderNotAcceptable, RefundOrder, Refunds, Result, Verdict
from payflow.gateway.registry import Registry
from payflow.gateway.signing import CallbackUrls
from payflow.idempotency.repository import Finished, KeyScope, finish, reserve
from payflow.idempotency.service import IdempotencyService
from payflow.infra.database import Database, RawConnection
from payflow.payments.schemas import RefundPayment, ResolveRefund
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, AttemptStatus, Refund, RefundStatus, Source, Transaction, Unit
from payflow.transactions.lifecycle import Cause, Kind, Status
from payflow.transactions.refunds import made_elsewhere, refundable, routing_of
from payflow.transactions.replies import PROVIDER_MARGIN_SECONDS, Reply, not_sent_reply
from payflow.transactions.resolutions import not_ones_own
from payflow.transactions.service import Answer, Transactions
from payflow.transactions.views import refund_json

log = get_logger(__name__)

REFUNDABLE = frozenset({Status.COMPLETED, Status.PARTIALLY_REFUNDED})


@dataclass(frozen=True, slots=True)
class _Paid:
    """The paid attempt, and who can give its money back."""

    attempt: Attempt
    provider: Refunds
    credentials: Credentials


class RefundService:
    def __init__(
        self,
        database: Database,
        transactions: Transactions,
        registry: Registry,
        idempotency: IdempotencyService,
        callback_urls: CallbackUrls,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._database = database
        self._transactions = transactions
        self._registry = registry
        self._idempotency = idempotency
        self._callback_urls = callback_urls
        self._clock = clock
        self._approval_minor = settings.withdrawal_approval_minor
        self._seconds = settings.provider_timeout_seconds + PROVIDER_MARGIN_SECONDS
        self._last_duplicate: UUID | None = None

    async def refund(
        self,
        payment_id: UUID,
        user_id: UUID | None,
        body: RefundPayment,
        scope: KeyScope,
        origin: Origin,
        *,
        instance: str,
        from_wallet: bool,
    ) -> Reply:
        """The refund after the provider's answer: completed, processing, or failed with the reason.

        `from_wallet`: whether the caller may take out of a wallet what was paid into it; Forbidden where not. NotFound;
        Conflict `not_refundable`, `already_refunded`, `refund_unsupported` (which names the alternative) or
        `refund_exceeds_remaining`; Invalid where the provider cannot give back this amount.
        """
        fingerprint = self._idempotency.fingerprint(body.model_dump())
        digest = self._idempotency.digest(scope)
        transaction, attempts = await self._own(payment_id, user_id)
        if transaction.kind is Kind.FUNDING and not from_wallet:
            raise Forbidden(
                "This takes money from a wallet, and needs the scope wallet:write.", code="insufficient_scope"
            )
        try:
            paid = await self._paid(transaction, attempts, body.attempt_reference)
            opened = await self._open(transaction, paid, body, scope, fingerprint, digest, origin)
        except PayFlowError:
            # A key that was used stands for its first answer, even if the same request would be refused today.
            replay = await self._replayed(payment_id, scope, fingerprint, digest)
            if replay is None:
                raise
            return replay
        if opened is None:
            replay = await self._replayed(payment_id, scope, fingerprint, digest)
            if replay is None:
                return await self.refund(
                    payment_id, user_id, body, scope, origin, instance=instance, from_wallet=from_wallet
                )
            return replay
        unit, refund = opened
        await self._transactions.publish(unit.events)
        order = self._order(unit, refund, paid.attempt)
        result = await self._call(paid, order)
        return await self._record(refund, result, scope, fingerprint, origin, instance)

    async def list(self, payment_id: UUID, user_id: UUID | None) -> dict[str, Any]:
        transaction, attempts = await self._own(payment_id, user_id)
        refunds = await self._transactions.repository.refunds(payment_id)
        unit = Unit.of(transaction, attempts)
        unit.refunds = {refund.attempt_id: refund for refund in refunds}
        paid = _collected(attempts)
        left = refundable(unit, paid[0]) if paid and transaction.status in REFUNDABLE else 0
        return {"data": [refund_json(refund) for refund in refunds], "refundable_minor": left}

    async def get(self, payment_id: UUID, refund_id: UUID, user_id: UUID | None) -> dict[str, Any]:
        await self._own(payment_id, user_id)
        for refund in await self._transactions.repository.refunds(payment_id):
            if refund.id == refund_id:
                return refund_json(refund)
        raise NotFound("There is no such refund.")

    async def resolve(
        self, payment_id: UUID, refund_id: UUID, decider: UUID, body: ResolveRefund, scope: KeyScope, origin: Origin
    ) -> Reply:
        """An operator's decision about a refund under review, once per Idempotency-Key. Forbidden `own_wallet`."""
        fingerprint = self._idempotency.fingerprint(body.model_dump())
        now = self._clock()
        await self.get(payment_id, refund_id, None)

        async def work(connection: RawConnection) -> tuple[Unit, Finished] | None:
            until, keep = now + self._idempotency.lease, now + self._idempotency.keep
            if not await reserve(connection, scope, fingerprint, payment_id, until, keep):
                return None
            unit, refund = await self._transactions.resolve_refund(
                connection, payment_id, refund_id, RefundStatus(body.outcome), body.reason, origin
            )
            not_ones_own(unit, decider, self._approval_minor)
            finished = Finished(scope, 200, orjson.dumps(refund_json(refund)))
            await finish(connection, finished)
            return unit, finished

        done = await self._database.in_transaction(work)
        if done is None:
            replay = await self._idempotency.replay(scope, fingerprint)
            if replay is None or replay.body is None:
                raise NotFound("The Idempotency-Key is no longer known.")
            return Reply(replay.status_code or 200, replay.body, replayed=True, transaction_id=payment_id)
        unit, finished = done
        cached = self._idempotency.cache_entry(finished, fingerprint, payment_id)
        await self._transactions.publish(unit.events, [cached])
        return Reply(200, finished.body, transaction_id=payment_id)

    async def adopt(self, transaction_id: UUID, payment: Attempt, told: Result, origin: Origin) -> bool | None:
        """Take a refund into the books that was made elsewhere, as the provider tells it. False when it is known already,
        or does not fit what is left of the payment; None while it may be one of ours whose own answer is not written yet."""
        now = self._clock()
        amount = told.requested
        if amount is None or not told.provider_references:
            return False
        ours: list[Attempt] = []

        def build(unit: Unit) -> tuple[Refund, Attempt, None] | None:
            refunds = [attempt for attempt in unit.attempts.values() if attempt.operation is Operation.REFUND]
            if {told_id for attempt in refunds for told_id in attempt.provider_references} & set(
                told.provider_references
            ):
                return None
            ours[:] = [attempt for attempt in refunds if attempt.amount == amount and _answer_missing(attempt)]
            if ours:
                return None
            routing = made_elsewhere(unit, unit.attempts[payment.id], amount)
            if routing is None:
                log.warning("refund.elsewhere_does_not_fit", transaction_id=str(transaction_id), minor=amount.minor)
                return None
            refund, attempt = self._intent(unit, payment, amount, None, now)
            attempt.routing = routing
            return refund, attempt, None

        async def work(connection: RawConnection) -> list[Event] | None:
            unit, refund = await self._transactions.open_refund(
                connection, transaction_id, build, origin, Cause.PROVIDER
            )
            if refund is None:
                return None
            # With its ids in the same transaction: by these, another event about it finds it known.
            answer = Answer(refund.attempt_id, replace(told, reference=None), Source.QUERY, origin)
            (settled,) = await self._transactions.settle_in(connection, [answer])
            return [*unit.events, *settled.events]

        events = await self._database.in_transaction(work)
        if events is None:
            return None if ours else False
        await self._transactions.publish(events)
        return True

    async def refund_duplicates(self, limit: int) -> int:
        """Give back second payments that nobody has given back yet; how many were tried. For the timer, where the setting
        says so. One that cannot go back (no refunds over the provider's API) stays in suspense for a person, and must not
        be in the way of others: the next turn begins after those that were tried in this one."""
        found = await self._transactions.repository.duplicates(limit, self._last_duplicate)
        self._last_duplicate = found[-1][1] if len(found) == limit else None
        for transaction_id, attempt_id in found:
            with contextlib.suppress(PayFlowError):
                await self._refund_duplicate(transaction_id, attempt_id)
        return len(found)

    async def _refund_duplicate(self, transaction_id: UUID, attempt_id: UUID) -> None:
        transaction, attempts = await self._own(transaction_id, None)
        suspended = next(attempt for attempt in attempts if attempt.id == attempt_id)
        body = RefundPayment(attempt_reference=suspended.reference, reason="Paid twice")
        # The key names the attempt, so that two workers at once give it back once.
        scope = KeyScope("duplicates", "POST", f"/payments/{transaction_id}/refund", suspended.reference)
        origin = Origin(Actor.SYSTEM, correlation_id=transaction.correlation_id)
        await self.refund(transaction_id, None, body, scope, origin, instance=scope.path, from_wallet=True)

    # -- the steps of refund ----------------------------------------------------------------------------------------------

    async def _own(self, payment_id: UUID, user_id: UUID | None) -> tuple[Transaction, Sequence[Attempt]]:
        found = await self._transactions.repository.get(payment_id, user_id)
        if found is None or found[0].kind not in (Kind.PAYMENT, Kind.FUNDING):
            raise NotFound("There is no such payment, or it is not yours.")
        return found

    async def _paid(self, transaction: Transaction, attempts: Sequence[Attempt], named: str | None) -> _Paid:
        if named is not None:
            return await self._with_provider(_suspended(transaction, attempts, named))
        if transaction.status is Status.REFUNDED:
            raise Conflict("All of it has been given back already.", code="already_refunded")
        collected = _collected(attempts)
        if transaction.status not in REFUNDABLE or not collected:
            raise Conflict(
                f"A payment that is {transaction.status.value} cannot be refunded: only one that is completed.",
                code="not_refundable",
            )
        return await self._with_provider(collected[0])

    async def _with_provider(self, attempt: Attempt) -> _Paid:
        provider = self._registry.get(attempt.provider)
        credentials = await self._registry.credentials(attempt.provider)
        if provider is None or credentials is None:
            raise Conflict(
                f"{attempt.provider} is not configured any more, so it cannot be asked to give the money back.",
                code="provider_not_configured",
            )
        if not isinstance(provider, Refunds):
            alternative = provider.declaration.refund_alternative or "Send the money back to the customer yourself."
            raise Conflict(
                f"{provider.declaration.title} gives no money back over its API. {alternative}",
                code="refund_unsupported",
            )
        return _Paid(attempt, provider, credentials.current)

    async def _open(
        self,
        transaction: Transaction,
        paid: _Paid,
        body: RefundPayment,
        scope: KeyScope,
        fingerprint: bytes,
        digest: bytes,
        origin: Origin,
    ) -> tuple[Unit, Refund] | None:
        """A. None when the key is taken and nothing was written."""
        now = self._clock()
        wanted = self._amount(body, transaction)

        def build(unit: Unit) -> tuple[Refund, Attempt, bytes]:
            payment = unit.attempts[paid.attempt.id]
            amount = _allowed(unit, payment, wanted)
            refund, attempt = self._intent(unit, payment, amount, body.reason, now)
            self._check(paid, self._order(unit, refund, paid.attempt, attempt.reference))
            return refund, attempt, digest

        async def work(connection: RawConnection) -> tuple[Unit, Refund] | None:
            until, keep = now + self._idempotency.lease, now + self._idempotency.keep
            if not await reserve(connection, scope, fingerprint, transaction.id, until, keep):
                return None
            if await sql.has_refund(connection, transaction.id, digest):
                # The key's own row was forgotten, as all are some day. The refund itself knows its request for good.
                raise Conflict("This request was answered before.", code="already_refunded")
            unit, refund = await self._transactions.open_refund(connection, transaction.id, build, origin, Cause.USER)
            assert refund is not None
            return unit, refund

        return await self._database.in_transaction(work)

    def _amount(self, body: RefundPayment, transaction: Transaction) -> Money | None:
        if body.amount is None:
            return None
        try:
            return Money.parse(body.amount, transaction.amount.currency)
        except MoneyError as error:
            raise Invalid(str(error), errors=[FieldError("/body/amount", str(error))]) from None

    def _intent(
        self, unit: Unit, paid: Attempt, amount: Money, reason: str | None, now: datetime
    ) -> tuple[Refund, Attempt]:
        transaction = unit.transaction
        attempt = Attempt(
            id=uuid7(),
            transaction_id=transaction.id,
            user_id=transaction.user_id,
            number=max(other.number for other in unit.attempts.values()) + 1,
            operation=Operation.REFUND,
            provider=paid.provider,
            reference=new_reference("att"),
            amount=amount,
            created_at=now,
            routing=routing_of(paid),
            updated_at=now,
        )
        refund = Refund(
            id=uuid7(),
            transaction_id=transaction.id,
            user_id=transaction.user_id,
            attempt_id=attempt.id,
            payment_attempt_id=paid.id,
            reference=new_reference("ref"),
            amount=amount,
            created_at=now,
            updated_at=now,
            reason=reason,
            next_check_at=now + self._idempotency.lease,
        )
        return refund, attempt

    def _order(self, unit: Unit, refund: Refund, paid: Attempt, reference: str | None = None) -> RefundOrder:
        return RefundOrder(
            reference=reference or unit.attempts[refund.attempt_id].reference,
            transaction_id=refund.transaction_id,
            payment=paid.query(),
            amount=refund.amount,
            whole=paid.paid is not None and refund.amount.minor == paid.paid.minor,
            callback_url=self._callback_urls.of(self._registry.declaration(paid.provider), refund.attempt_id),
            receipt=paid.receipt,
            reason=refund.reason,
        )

    def _check(self, paid: _Paid, order: RefundOrder) -> None:
        try:
            paid.provider.check_refund(order)
        except OrderNotAcceptable as error:
            pointer = FieldError(f"/body{error.pointer}", error.detail)
            raise Invalid(error.detail, code="order_not_acceptable", errors=[pointer]) from None

    async def _call(self, paid: _Paid, order: RefundOrder) -> Result:
        """The provider's verdict. Whatever goes wrong after something may have been sent is `unknown`."""
        try:
            async with asyncio.timeout(self._seconds):
                return await paid.provider.refund(order, paid.credentials)
        except TimeoutError:
            return Result(Verdict.UNKNOWN, raw_status="timeout")
        except Exception:
            log.exception("refund.adapter_failed", provider=paid.attempt.provider, reference=order.reference)
            return Result(Verdict.UNKNOWN, raw_status="adapter_error")

    async def _record(
        self, refund: Refund, result: Result, scope: KeyScope, fingerprint: bytes, origin: Origin, instance: str
    ) -> Reply:
        replies: list[Reply] = []

        def keep(unit: Unit) -> tuple[Finished, tuple[str, bytes, int]]:
            stands = unit.refunds[refund.attempt_id]
            replies[:] = [_reply(stands, result, origin, instance)]
            finished = Finished(scope, replies[0].status_code, replies[0].body)
            return finished, self._idempotency.cache_entry(finished, fingerprint, refund.transaction_id)

        by_provider = Origin(Actor.PROVIDER, correlation_id=origin.correlation_id)
        await self._transactions.record_refund(refund.attempt_id, result, by_provider, finish_with=keep)
        return replies[0]

    async def _replayed(self, payment_id: UUID, scope: KeyScope, fingerprint: bytes, digest: bytes) -> Reply | None:
        replay = await self._idempotency.replay(scope, fingerprint)
        if replay is not None and replay.body is not None:
            refund_id = UUID(orjson.loads(replay.body).get("id", str(payment_id)))
            return Reply(replay.status_code or 201, replay.body, True, payment_id, refund_id)
        # The first request died and its lease is over, or its answer was forgotten: the refund as it now stands, and nothing
        # is sent again.
        refund = await self._transactions.repository.refund_of_request(payment_id, digest)
        if refund is None:
            return None
        return Reply(201, orjson.dumps(refund_json(refund)), True, payment_id, refund.id)


def _answer_missing(refund: Attempt) -> bool:
    """Whether the provider may have it under an id that nobody here knows."""
    return refund.status in (AttemptStatus.CREATED, AttemptStatus.UNKNOWN) and not refund.provider_references


def _collected(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts whose money was credited."""
    return [
        attempt
        for attempt in attempts
        if attempt.operation is Operation.COLLECT and attempt.status is AttemptStatus.SUCCEEDED
    ]


def _suspended(transaction: Transaction, attempts: Sequence[Attempt], reference: str) -> Attempt:
    """Money that lies in suspense and that nobody decides about any more: a second payment beside the one that counts, or
    what came to a payment that was rejected in review or taken back. Conflict for any other attempt."""
    waits = transaction.status is Status.UNDER_REVIEW and not _collected(attempts)
    for attempt in attempts:
        if attempt.reference != reference or attempt.operation is not Operation.COLLECT:
            continue
        if attempt.status is AttemptStatus.UNDER_REVIEW and attempt.paid and not waits:
            return attempt
        if attempt.status is AttemptStatus.REVERSED:
            raise Conflict("All of it has been given back already.", code="already_refunded")
        raise Conflict("This attempt is no second payment. Refund the payment itself.", code="not_refundable")
    raise Invalid("The payment has no such attempt.", errors=[FieldError("/body/attempt_reference", "Unknown.")])


def _allowed(unit: Unit, payment: Attempt, wanted: Money | None) -> Money:
    """What is given back: as much as was asked for, or all that is left. Decided under the lock."""
    transaction, left = unit.transaction, refundable(unit, payment)
    second = payment.status is AttemptStatus.UNDER_REVIEW and payment.paid is not None
    if not second and (transaction.status not in REFUNDABLE or payment.status is not AttemptStatus.SUCCEEDED):
        raise Conflict(f"A payment that is {transaction.status.value} cannot be refunded.", code="not_refundable")
    if left <= 0:
        raise Conflict("All of it has been given back, or is on its way.", code="already_refunded")
    currency = payment.paid.currency if payment.paid else transaction.amount.currency
    amount = wanted or Money(left, currency)
    if amount.minor > left or amount.currency != currency:
        raise Conflict(
            f"Only {Money(left, currency).decimal_text()} {currency} of this payment can still be given back.",
            code="refund_exceeds_remaining",
            extra={"refundable_minor": left},
        )
    if second and amount.minor != left:
        raise Conflict("A second payment goes back as a whole.", code="not_refundable")
    return amount


def _reply(refund: Refund, result: Result, origin: Origin, instance: str) -> Reply:
    if result.verdict is Verdict.NOT_SENT and refund.status is RefundStatus.FAILED:
        return not_sent_reply(refund.transaction_id, origin, instance, refund_id=refund.id)
    return Reply(201, orjson.dumps(refund_json(refund)), False, refund.transaction_id, refund.id)
